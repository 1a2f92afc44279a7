"""Saving the trained model of a supervised stage."""

from typing import Any

import torch

from tokalign.artifacts.model_files import ADAPTER
from tokalign.artifacts.workspace import Workspace
from tokalign.config.options import SupervisedOptions
from tokalign.models import lora
from tokalign.models.tokenizer import Tokenizer


def save_trained(model: Any, tokenizer: Tokenizer, space: Workspace, config: SupervisedOptions) -> Any:
    """Save a trained model with its tokenizer. Returns the model as saved.

    With ``--lora``, saves the adapters separately and merges them into the model in float32. Otherwise the weights
    are converted to ``--dtype``.
    """
    with space.saving() as scratch:
        if config.lora:
            model = lora.merge(model, scratch / ADAPTER)
        else:
            model.to(getattr(torch, config.dtype))
        model.save_pretrained(str(scratch))
        tokenizer.save(scratch)
    return model
