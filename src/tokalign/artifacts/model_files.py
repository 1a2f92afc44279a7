"""Checks of a model folder before anything is loaded from it: sizes that fit the weights, and a safe tokenizer.

Model libraries trust ``config.json``: a damaged or hostile file could make them allocate a billion layers.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokalign.errors import InputError
from tokalign.runtime import sandbox
from tokalign.runtime.disk import parse

_MAX_HEADER = 100 * 1024 * 1024
"""Maximum size of the header of a safetensors file in bytes."""
_MAX_ELEMENTS = 2**48
"""Maximum number of elements of a tensor."""
_MAX_CONFIG = 8 * 1024 * 1024
"""Maximum size of a configuration file in bytes."""
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
"""Settings that cannot exceed the number of tensors."""
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "n_embd", "n_inner", "n_head", "n_ctx", "n_positions", "d_model", "d_ff", "d_kv", "dim", "ffn_dim", "hidden_dim",
    "embedding_size", "type_vocab_size", "word_embed_proj_dim", "moe_intermediate_size", "num_experts",
    "num_local_experts", "n_routed_experts", "kv_lora_rank", "q_lora_rank", "state_size", "num_labels",
)  # fmt: skip
"""Settings that cannot exceed the total number of weights."""
_MAX_LABELS = 1024
"""Maximum number of labels of a classifier."""


ADAPTER = "adapter"
"""Folder of the adapters beside the model that they are merged into."""
ADAPTER_CONFIG = "adapter_config.json"


def adapter_base(folder: Path) -> str | None:
    """Return the base model of a folder that holds only adapters of ``peft``; None for any other path.

    Returns:
        a folder, a GGUF file or a hub id.

    Raises:
        InputError: the configuration is damaged, or names a folder or file that does not exist.
    """
    config = folder / ADAPTER_CONFIG
    if not config.is_file() or (folder / "config.json").exists():
        return None
    field, remedy = "base_model_name_or_path", "write the path or the hub id of the base model there"
    base = _read(config).get(field)
    if not isinstance(base, str) or not base:
        raise InputError("the adapters name no base model", where=str(config), field=field, remedy=remedy)
    if not Path(base).exists() and (base.count("/") != 1 or base.startswith((".", "/", "~"))):
        raise InputError(f"no base model at {base!r}", where=str(config), field=field, remedy=remedy)
    return base


def check_model(folder: Path) -> None:
    """Check the files in the folder of a model or a tokenizer.

    Raises:
        InputError: a size in the configuration does not fit the weights, a file is damaged, or the tokenizer or a chat
            template exceeds the limits of time or memory.
    """
    config = folder / "config.json"
    weights = list(_weights(folder))
    if config.is_file():
        _check_sizes(_read(config), str(config), len(weights), sum(weights))
    for name in ("generation_config.json", "tokenizer_config.json", ADAPTER_CONFIG, f"{ADAPTER}/{ADAPTER_CONFIG}"):
        if (folder / name).is_file():
            _read(folder / name)
    sandbox.check_tokenizer(folder)


def _read(path: Path) -> Mapping[str, Any]:
    remedy = "download or create the model again"
    try:
        if path.stat().st_size > _MAX_CONFIG:
            raise ValueError("too large")
        found = parse(path.read_bytes().replace(b"Infinity", b"0").replace(b"NaN", b"0"))
    except (OSError, ValueError) as e:
        raise InputError(f"not a valid configuration: {e}", where=str(path), remedy=remedy) from e
    if not isinstance(found, dict):
        raise InputError("not a valid configuration: not an object", where=str(path), remedy=remedy)
    return found


def _check_sizes(config: Mapping[str, Any], where: str, tensors: int, elements: int) -> None:
    for names, limit, of in ((_LAYERS, tensors, "tensors"), (_SIZES, elements, "elements")):
        for name in names:
            value = config.get(name)
            if value is None or isinstance(value, list | dict | str):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (limit and value > limit):
                problem = f"{name} is {str(value)[:40]}, " + (
                    f"but the weights have {limit} {of}" if limit else "not a valid size"
                )
                raise InputError(problem, where=where, field=name, remedy="download the model again")
    labels = config.get("id2label")
    if isinstance(labels, dict) and len(labels) > _MAX_LABELS:
        raise InputError(
            f"{len(labels)} labels; at most {_MAX_LABELS} are allowed",
            where=where,
            field="id2label",
            remedy="download the model again",
        )
    for inner in config.values():  # configurations of the parts of a multimodal model
        if isinstance(inner, dict) and any(name in inner for name in _LAYERS):
            _check_sizes(inner, where, tensors, elements)


def _weights(folder: Path) -> Iterator[int]:
    """The number of elements of every tensor, read from the headers of the safetensors files."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > min(_MAX_HEADER, os.fstat(file.fileno()).st_size):
                    raise ValueError("the header is longer than the file")
                header = json.loads(file.read(size))
            for name, tensor in header.items():
                if name != "__metadata__":
                    yield _elements(tensor["shape"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise InputError(
                f"not a valid safetensors file: {e}", where=str(path), remedy="download or create the model again"
            ) from e


def _elements(shape: Any) -> int:
    elements = 1
    for n in shape:
        elements *= n
        if type(n) is not int or not 0 <= n <= _MAX_ELEMENTS or elements > _MAX_ELEMENTS:
            raise ValueError(f"invalid tensor shape {str(shape)[:80]}")
    return elements
