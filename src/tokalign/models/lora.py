"""Low-rank adapters (Hu et al., 2022) by ``peft``: trained in place of the weights, then merged into them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tokalign.config.options import LoraOptions
from tokalign.errors import InputError

_HEADS = ("score", "classifier")
_OUTPUTS = (*_HEADS, "lm_head", "embed_out")
POLICY, VALUE, REWARD = "default", "value", "reward"
"""Names of adapters; peft keeps the first at the top of a folder."""


def _config(model: Any, options: LoraOptions) -> Any:
    from peft import LoraConfig

    linear = {
        name.split(".")[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name.split(".")[-1] not in _OUTPUTS
    }
    heads = [name for name in _HEADS if isinstance(getattr(model, name, None), torch.nn.Module)]
    return LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=sorted(linear), modules_to_save=heads or None
    )


def adapt(model: Any, options: LoraOptions) -> Any:
    """Adapters on every linear layer of the body, in float32; a head of one's own is trained whole."""
    from peft import get_peft_model

    with warnings.catch_warnings():  # of peft's about transformers, on its way in
        warnings.simplefilter("ignore", FutureWarning)
        return _in_float32(get_peft_model(model, _config(model, options)))


def _in_float32(adapted: Any) -> Any:
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def merge(adapted: Any, folder: Path) -> Any:
    """Keep the adapters in ``folder``; the model with their sum in its weights, in float32 in the memory of the host.

    In half precision most of what was learnt would be lost: it is smaller than the steps between such numbers.
    """
    adapted.save_pretrained(str(folder))
    return adapted.to("cpu").float().merge_and_unload()


def take_out(model: Any, folder: Path) -> None:
    """Undo :func:`merge` in a model in float32, and put the adapters beside its weights, as they were in training."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    config = LoraConfig.from_pretrained(str(folder))
    config.modules_to_save, config.inference_mode = None, True  # a head that was trained whole is the model's own now
    inject_adapter_in_model(config, model)
    weights = {k: w for k, w in load_file(folder / "adapter_model.safetensors").items() if ".lora_" in k}
    set_peft_model_state_dict(model, {k.removeprefix("base_model.model."): w for k, w in weights.items()})
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.merged_adapters = [POLICY]
            layer.unmerge()


class Adapters:
    """One set of frozen weights with several adapters, of which one is in use, or none.

    ``model`` is the whole, with the policy's adapter in use; ``trunk`` what gives hidden states.
    """

    def __init__(self, base: Any, options: LoraOptions) -> None:
        self._config = _config(base, options)
        self.model = adapt(base, options)
        self.trunk = getattr(base, base.base_model_prefix)
        self._learning = {POLICY: self._weights(POLICY)}
        self._in_use = POLICY

    def _weights(self, name: str) -> list[Tensor]:
        return [p for key, p in self.model.named_parameters() if f".{name}." in key]

    def add(self, name: str) -> None:
        """One more to train."""
        self.model.add_adapter(name, self._config)
        self._learning[name] = self._weights(name)
        for weight in self._learning[name]:
            weight.data = weight.data.float()
        self._use(POLICY)

    def load(self, name: str, folder: Path) -> dict[str, Tensor]:
        """One more that stays as it is, from a folder that :func:`merge` kept; returns its head's weights."""
        from peft import LoraConfig, set_peft_model_state_dict

        config = LoraConfig.from_pretrained(str(folder))
        config.modules_to_save, config.inference_mode = None, True
        self.model.add_adapter(name, config)
        weights = load_file(folder / "adapter_model.safetensors")
        low_rank = {key: w for key, w in weights.items() if ".lora_" in key}
        found: Any = set_peft_model_state_dict(self.model, low_rank, adapter_name=name)
        self._use(POLICY)
        missing = [key for key in found.missing_keys if f".{name}." in key]
        if missing or found.unexpected_keys:
            raise InputError(
                f"the adapters do not fit the policy's layers: {(missing or found.unexpected_keys)[0]}",
                where=str(folder),
                remedy="use a reward model trained on the policy's own base, or its merged weights",
            )
        return {key.split(".")[-1]: w for key, w in weights.items() if key not in low_rank}

    def parameters(self, name: str) -> list[Tensor]:
        """What the adapter learns with."""
        return self._learning[name]

    def _use(self, name: str) -> None:
        self.model.set_adapter(name)
        self._in_use = name
        self._learn()

    def _learn(self) -> None:
        # Whatever is in use, gradients are kept for all that learn: peft lets only that in use learn.
        for key, parameter in self.model.named_parameters():
            if ".lora_" in key:
                parameter.requires_grad_(any(f".{name}." in key for name in self._learning))

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Within, another adapter is in use; a backward pass has to be made there too."""
        before = self._in_use
        self._use(name)
        try:
            yield
        finally:
            self._use(before)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, the model is what it was without any."""
        with self.model.disable_adapter():
            yield
        self._learn()

    def state_dict(self) -> dict[str, Any]:
        """The weights of all that learn, by name."""
        from peft import get_peft_model_state_dict

        return {name: get_peft_model_state_dict(self.model, adapter_name=name) for name in self._learning}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        from peft import set_peft_model_state_dict

        for name in self._learning:
            set_peft_model_state_dict(self.model, state[name], adapter_name=name)
        self._use(POLICY)

    def save(self, name: str, folder: Path) -> None:
        """Write one adapter's files."""
        with warnings.catch_warnings():  # of peft's about transformers
            warnings.simplefilter("ignore", FutureWarning)
            self.model.save_pretrained(str(folder), selected_adapters=[name])

    def merged(self, kept: Path, folder: Path) -> Any:
        """:func:`merge` of the policy's adapter, as :meth:`save` kept it in ``kept``; the others are gone."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, load_file(kept / "adapter_model.safetensors"), adapter_name=POLICY)
        for name in self.model.peft_config.keys() - {POLICY}:
            self.model.delete_adapter(name)
        self.model.set_adapter(POLICY)
        return merge(self.model, folder)
