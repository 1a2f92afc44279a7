"""Low-rank adapters (Hu et al., 2022) with ``peft``: trained over frozen weights, then merged into them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
"""Adapter names; a number follows REWARD. peft saves the adapter ``default`` at the top level of a folder."""


def _config(model: Any, options: LoraOptions) -> Any:
    from peft import LoraConfig

    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {
        name.split(".")[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name.split(".")[-1] not in _OUTPUTS and module is not output
    }
    heads = [name for name in _HEADS if isinstance(getattr(model, name, None), torch.nn.Module)]
    return LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=sorted(linear), modules_to_save=heads or None
    )


def adapt(model: Any, options: LoraOptions) -> Any:
    """Add float32 adapters to every linear layer of the body. A classification head is trained fully."""
    from peft import get_peft_model

    with warnings.catch_warnings():  # from the import of peft, about transformers
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, _config(model, options))
    _leave_types_to_autocast(adapted)
    return _in_float32(adapted)


def _leave_types_to_autocast(adapted: Any) -> None:
    """Convert no inputs of adapters under autocast, which computes in half precision whatever their type is.

    peft converts them to float32, the type of the adapters, and autocast back again: the same numbers, but two copies
    for each linear layer.
    """
    from peft.tuners.lora import LoraLayer

    def convert(before: Any, x: Any, dtype: torch.dtype) -> Any:
        return x if x is not None and torch.is_autocast_enabled(x.device.type) else before(x, dtype)

    layers: list[Any] = [m for m in adapted.modules() if isinstance(m, LoraLayer)]
    for layer in layers:
        layer._cast_input_dtype = partial(convert, layer._cast_input_dtype)


def _in_float32(adapted: Any) -> Any:
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def merge(adapted: Any, folder: Path) -> Any:
    """Save the adapters in ``folder`` and return the model with the adapters merged, in float32 on the CPU.

    In half precision, rounding would lose most of the update.
    """
    adapted.save_pretrained(str(folder))
    return adapted.to("cpu").float().merge_and_unload()


def take_out(model: Any, folder: Path) -> None:
    """Undo :func:`merge` in a float32 model, in place: the adapters are separate from the weights, as in training.

    ``folder`` is where :func:`merge` saved the adapters.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    config = LoraConfig.from_pretrained(str(folder))
    config.modules_to_save, config.inference_mode = None, True  # the model already has the trained head
    inject_adapter_in_model(config, model)
    weights = {k: w for k, w in load_file(folder / "adapter_model.safetensors").items() if ".lora_" in k}
    set_peft_model_state_dict(model, {k.removeprefix("base_model.model."): w for k, w in weights.items()})
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.merged_adapters = [POLICY]
            layer.unmerge()


def rounded(x: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Convert float32 ``x`` to ``dtype``; in bfloat16 rounded up or down at random, so that the mean is ``x``.

    Rounding to the nearest would lose an update that is smaller than half the distance between two numbers, in all
    weights alike.
    """
    if dtype != torch.bfloat16:
        return x.to(dtype)
    # bfloat16 is the upper half of float32: adding random lower bits carries into it as often as it should.
    noise = torch.randint(1 << 16, x.shape, generator=generator, dtype=torch.int32, device=x.device)
    return ((x.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32).to(dtype)


class Adapters:
    """One frozen base model with several adapters, of which at most one is active.

    ``model`` is the base model with its adapters; the policy's adapter is active by default. ``trunk`` is the part
    that returns hidden states.
    """

    def __init__(self, base: Any, options: LoraOptions) -> None:
        self._config = _config(base, options)
        self.model = adapt(base, options)
        self.trunk = getattr(base, base.base_model_prefix)
        self._trainable = {POLICY: self._weights(POLICY)}
        self._active = POLICY

    def _weights(self, name: str) -> list[Tensor]:
        return [p for key, p in self.model.named_parameters() if f".{name}." in key]

    def add(self, name: str) -> None:
        """Add a trainable adapter."""
        self.model.add_adapter(name, self._config)
        self._trainable[name] = self._weights(name)
        for weight in self._trainable[name]:
            weight.data = weight.data.float()
        self._activate(POLICY)

    def load(self, name: str, folder: Path) -> dict[str, Tensor]:
        """Add a frozen adapter from a folder saved by :func:`merge`.

        Returns:
            The weights of its classification head, such as ``weight`` and ``bias``.

        Raises:
            InputError: the adapter does not match the layers of the base model.
        """
        from peft import LoraConfig, set_peft_model_state_dict

        config = LoraConfig.from_pretrained(str(folder))
        config.modules_to_save, config.inference_mode = None, True
        self.model.add_adapter(name, config)
        weights = load_file(folder / "adapter_model.safetensors")
        low_rank = {key: w for key, w in weights.items() if ".lora_" in key}
        result: Any = set_peft_model_state_dict(self.model, low_rank, adapter_name=name)
        self._activate(POLICY)
        missing = [key for key in result.missing_keys if f".{name}." in key]
        if missing or result.unexpected_keys:
            raise InputError(
                f"the adapters do not fit the policy's layers: {(missing or result.unexpected_keys)[0]}",
                where=str(folder),
                remedy="use a reward model trained on the policy's base model, or its merged weights",
            )
        return {key.split(".")[-1]: w for key, w in weights.items() if key not in low_rank}

    def parameters(self, name: str) -> list[Tensor]:
        """Trainable weights of an adapter."""
        return self._trainable[name]

    def _activate(self, name: str) -> None:
        self.model.set_adapter(name)
        self._active = name
        self._enable_gradients()

    def _enable_gradients(self) -> None:
        # peft enables gradients for the active adapter only; enable them for all trainable adapters.
        for key, parameter in self.model.named_parameters():
            if ".lora_" in key:
                parameter.requires_grad_(any(f".{name}." in key for name in self._trainable))

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Activate another adapter within the context. Its backward pass must also run in the context."""
        before = self._active
        self._activate(name)
        try:
            yield
        finally:
            self._activate(before)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Deactivate all adapters within the context: the model is the base model."""
        with self.model.disable_adapter():
            yield
        self._enable_gradients()

    def state_dict(self) -> dict[str, Any]:
        """Weights of all trainable adapters by adapter name."""
        from peft import get_peft_model_state_dict

        return {name: get_peft_model_state_dict(self.model, adapter_name=name) for name in self._trainable}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load weights from :meth:`state_dict`."""
        from peft import set_peft_model_state_dict

        for name in self._trainable:
            set_peft_model_state_dict(self.model, state[name], adapter_name=name)
        self._activate(POLICY)

    def save(self, name: str, folder: Path) -> None:
        """Save one adapter in ``folder``."""
        with warnings.catch_warnings():  # from peft, about transformers
            warnings.simplefilter("ignore", FutureWarning)
            self.model.save_pretrained(str(folder), selected_adapters=[name])

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Make the policy's adapter part of the weights within the context, for sampling; no adapter is active.

        Host memory holds the original weights of the adapted layers meanwhile.
        """
        from peft.tuners.lora import LoraLayer

        layers: list[Any] = [m for m in self.model.modules() if isinstance(m, LoraLayer)]
        weights: list[Tensor] = [layer.get_base_layer().weight for layer in layers]
        before: list[Tensor] = []
        device = weights[0].device
        generator = torch.Generator(device).manual_seed(0)
        try:
            with torch.no_grad():
                for layer, weight in zip(layers, weights, strict=True):
                    before.append(weight.data.cpu())
                    changed = weight.float() + layer.get_delta_weight(POLICY)
                    weight.data = rounded(changed, weight.dtype, generator)
            with self.off():
                yield
        finally:
            for weight, original in reversed(list(zip(weights, before, strict=False))):  # two layers can share one
                weight.data = original.to(device)

    def export(self, saved: Path, folder: Path) -> Any:
        """Load the policy's adapter from ``saved`` and :func:`merge` it; the other adapters are deleted.

        Args:
            saved: folder written by :meth:`save`.
            folder: where :func:`merge` saves the adapter.
        """
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, load_file(saved / "adapter_model.safetensors"), adapter_name=POLICY)
        for name in self.model.peft_config.keys() - {POLICY}:
            self.model.delete_adapter(name)
        self.model.set_adapter(POLICY)
        return merge(self.model, folder)
