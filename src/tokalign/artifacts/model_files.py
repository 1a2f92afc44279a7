"""The folder of a model, before anything is loaded from it: numbers that fit its weights, and a tokenizer that ends.

What a model library does with a ``config.json`` that somebody else wrote is to build what it says: a thousand million
layers, if it says so.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokalign.errors import InputError
from tokalign.runtime import sandbox
from tokalign.runtime.disk import parse

_HEADER = 100 * 1024 * 1024
"""Bytes of the header of a file of weights."""
_ELEMENTS = 2**48
"""Numbers in one tensor."""
_CONFIG = 8 * 1024 * 1024
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
"""Numbers that cannot be larger than that of the tensors."""
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "n_embd", "n_inner", "n_head", "n_ctx", "n_positions", "d_model", "d_ff", "d_kv", "dim", "ffn_dim", "hidden_dim",
    "embedding_size", "type_vocab_size", "word_embed_proj_dim", "moe_intermediate_size", "num_experts",
    "num_local_experts", "n_routed_experts", "kv_lora_rank", "q_lora_rank", "state_size", "num_labels",
)  # fmt: skip
"""Numbers that cannot be larger than that of all the weights."""
_MANY = 1024
"""Labels that a classifier may have."""


def check_model(folder: Path) -> None:
    """Check what lies in the folder of a model or a tokenizer.

    Raises:
        InputError: a number in its configuration does not fit its weights, a file is damaged, or its tokenizer or
            chat template takes more time or memory than it may.
    """
    config = folder / "config.json"
    weights = list(_weights(folder))
    if config.is_file():
        _check_numbers(_read(config), str(config), len(weights), sum(weights))
    for name in ("generation_config.json", "tokenizer_config.json", "adapter/adapter_config.json"):
        if (folder / name).is_file():
            _read(folder / name)
    sandbox.check_tokenizer(folder)


def _read(path: Path) -> Mapping[str, Any]:
    remedy = "fetch or make the model again"
    try:
        if path.stat().st_size > _CONFIG:
            raise ValueError("too large")
        found = parse(path.read_bytes().replace(b"Infinity", b"0").replace(b"NaN", b"0"))
    except (OSError, ValueError) as e:
        raise InputError(f"not a configuration: {e}", where=str(path), remedy=remedy) from e
    if not isinstance(found, dict):
        raise InputError("not a configuration: not an object", where=str(path), remedy=remedy)
    return found


def _check_numbers(config: Mapping[str, Any], where: str, tensors: int, elements: int) -> None:
    for names, most, of in ((_LAYERS, tensors, "tensors"), (_SIZES, elements, "numbers")):
        for name in names:
            value = config.get(name)
            if value is None or isinstance(value, list | dict | str):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (most and value > most):
                problem = f"{str(value)[:40]}, with weights of {most} {of}" if most else f"{str(value)[:40]}"
                raise InputError(f"{name} is {problem}", where=where, field=name, remedy="fetch the model again")
    labels = config.get("id2label")
    if isinstance(labels, dict) and len(labels) > _MANY:
        raise InputError(f"{len(labels)} labels", where=where, field="id2label", remedy="fetch the model again")
    for inner in config.values():  # of the parts of a model for several kinds of input
        if isinstance(inner, dict) and any(name in inner for name in _LAYERS):
            _check_numbers(inner, where, tensors, elements)


def _weights(folder: Path) -> Iterator[int]:
    """The number of elements of each tensor, by the headers of the files of weights."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > min(_HEADER, os.fstat(file.fileno()).st_size):
                    raise ValueError("its header is longer than the file")
                header = json.loads(file.read(size))
            for name, tensor in header.items():
                if name != "__metadata__":
                    yield _elements(tensor["shape"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise InputError(
                f"not a file of weights: {e}", where=str(path), remedy="fetch or make the model again"
            ) from e


def _elements(shape: Any) -> int:
    elements = 1
    for n in shape:
        elements *= n
        if type(n) is not int or not 0 <= n <= _ELEMENTS or elements > _ELEMENTS:
            raise ValueError(f"a tensor of shape {str(shape)[:80]}")
    return elements
