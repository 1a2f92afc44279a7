"""GGUF files and folders of adapters as models: converted once, to a folder that every loader reads."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokalign.artifacts.model_files import adapter_base, check_model
from tokalign.errors import InputError
from tokalign.models import adapter_folders, gguf
from tokalign.runtime import endpoint
from tokalign.runtime.disk import hash_json, sha256


def folder_of(source: str | Path) -> str:
    """Return the place to load a model from: ``source`` itself, or a folder converted from it.

    A GGUF file is dequantised; a folder written by ``peft`` is merged with its base model. The converted model is in
    the user's cache (``$XDG_CACHE_HOME`` or ``~/.cache``), in a folder named by the hash of what it was made from. It
    has float32 weights as safetensors, the configuration and the tokenizer. The address of a server stands for the
    folder of the model that it serves.

    Raises:
        InputError: ``source`` cannot be read, or the base model of an adapter cannot be found.
    """
    if endpoint.is_url(source):
        return folder_of(endpoint.served(str(source)).folder)
    path = Path(source)
    if gguf.is_gguf(path):
        if not path.is_file():
            raise InputError("no such file", where=str(source), remedy="give a model folder, a GGUF file or a hub id")
        return str(_of_gguf(path, _state(path)))
    if (base := adapter_base(path)) is not None:
        files = tuple(sorted((p.name, *_state(p)) for p in path.iterdir() if p.is_file()))
        return str(_of_adapter(path, folder_of(base), files))
    return str(source)


def _state(file: Path) -> tuple[int, int]:
    """Tells a changed file from the one before."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@cache
def _of_gguf(file: Path, state: tuple[int, int]) -> Path:
    return _cached("gguf", sha256(file), lambda scratch: gguf.convert(file, scratch), f"{file}: dequantised to float32")


@cache
def _of_adapter(folder: Path, base: str, files: tuple[tuple[str, int, int], ...]) -> Path:
    hashes = {name: sha256(folder / name) for name, *_ in files if not name.endswith(".md")}
    place = Path(base)
    weights = {p.name: sha256(p) for p in sorted(place.iterdir()) if p.is_file()} if place.is_dir() else base
    return _cached(
        "merged", hash_json([hashes, weights]), lambda scratch: adapter_folders.merge(folder, base, scratch),
        f"{folder}: merged with its base model",
    )  # fmt: skip


def _cached(kind: str, key: str, convert: Callable[[Path], None], done: str) -> Path:
    """Return the converted model from the cache; convert it if it is not there.

    Args:
        kind: folder in the cache.
        key: hash of what is converted.
        convert: writes the model to the folder ``model`` in a given one.
        done: message on stderr after a conversion.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokalign" / kind
    target = root / key[:32]
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    lock, scratch = root / f".{target.name}.lock", root / f".{target.name}"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # one process converts, the others wait for it
        if target.is_dir():
            return target
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        try:
            convert(scratch)
            check_model(scratch / "model")
            (scratch / "model").rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    gigabytes = sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) / 1e9
    print(f"tokalign: {done} in {target} ({gigabytes:.2f} GB)", file=sys.stderr)
    return target
