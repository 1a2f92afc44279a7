"""What a supervised stage keeps of a model that it has trained."""

from typing import Any

import torch

from tokalign.artifacts.workspace import Workspace
from tokalign.config.options import SupervisedOptions
from tokalign.models import loading, lora
from tokalign.models.tokenizer import Tokenizer


def save_trained(model: Any, tokenizer: Tokenizer, space: Workspace, config: SupervisedOptions) -> Any:
    """Write the model and its tokenizer; returns the model as it was written.

    Adapters are kept apart and merged in float32; weights trained whole are rounded to ``--dtype``.
    """
    with space.saving() as scratch:
        if config.lora:
            model = lora.merge(model, scratch / loading.ADAPTER)
        else:
            model.to(getattr(torch, config.dtype))
        model.save_pretrained(str(scratch))
        tokenizer.save(scratch)
    return model
