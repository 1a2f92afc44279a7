"""Low-rank adapters (Hu et al., 2022) by ``peft``: trained in place of the weights, then merged into them."""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from tokalign.config import SupervisedStage

_HEADS = ("score", "classifier")
_OUTPUTS = (*_HEADS, "lm_head", "embed_out")


def adapt(model: Any, knobs: SupervisedStage) -> Any:
    """Adapters on every linear layer of the body, in float32; a head of one's own is trained whole."""
    from peft import LoraConfig, get_peft_model

    linear = {
        name.split(".")[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name.split(".")[-1] not in _OUTPUTS
    }
    heads = [name for name in _HEADS if isinstance(getattr(model, name, None), torch.nn.Module)]
    config = LoraConfig(
        r=knobs.lora_rank, lora_alpha=knobs.lora_alpha, target_modules=sorted(linear), modules_to_save=heads or None
    )
    with warnings.catch_warnings():  # of peft's about transformers, on its way in
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def merge(adapted: Any, folder: Path) -> Any:
    """Keep the adapters in ``folder``; the model with their sum in its weights."""
    adapted.save_pretrained(str(folder))
    return adapted.merge_and_unload()
