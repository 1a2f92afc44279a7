"""GGUF files as models: dequantised once, to a folder that every loader reads.

transformers reads the file (https://huggingface.co/docs/transformers/gguf). What is trained from it is saved as
safetensors; nothing is quantised again.
"""

import fcntl
import os
import shutil
import sys
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path

from tokalign.artifacts.model_files import check_model
from tokalign.errors import InputError, first_line
from tokalign.runtime.disk import sha256

MAGIC = b"GGUF"
SUFFIX = ".gguf"


def folder_of(source: str | Path) -> str:
    """Return the place to load a model from: ``source`` itself, or for a GGUF file the folder with its weights.

    The folder is in the user's cache (``$XDG_CACHE_HOME`` or ``~/.cache``), named by the hash of the file. It holds
    float32 weights as safetensors, the configuration and the tokenizer.

    Raises:
        InputError: ``source`` ends with ``.gguf`` or is a GGUF file, but transformers cannot read it.
    """
    file = Path(source)
    if not is_gguf(file):
        return str(source)
    if not file.is_file():
        raise InputError("no such file", where=str(source), remedy="give a model folder, a GGUF file or a hub id")
    status = file.stat()
    return str(_converted(str(source), status.st_size, status.st_mtime_ns))


def is_gguf(file: Path) -> bool:
    """Whether a path ends with ``.gguf``, or is a file that starts as GGUF files do."""
    if file.suffix.lower() == SUFFIX:
        return True
    if not file.is_file():
        return False
    with file.open("rb") as f:
        return f.read(len(MAGIC)) == MAGIC


@cache
def _converted(path: str, size: int, mtime: int) -> Path:
    """Convert a file unless the cache has it. ``size`` and ``mtime`` tell a changed file from the one before."""
    file = Path(path)
    with file.open("rb") as f:
        if f.read(len(MAGIC)) != MAGIC:
            raise InputError("not a GGUF file", where=path, remedy="give a model folder, a GGUF file or a hub id")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokalign" / "gguf"
    target = root / sha256(file)[:32]
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
            _check_header(file)
            _convert(file, scratch)
            check_model(scratch / "model")
            (scratch / "model").rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    gigabytes = sum(p.stat().st_size for p in target.iterdir()) / 1e9
    print(f"tokalign: {path}: dequantised to float32 in {target} ({gigabytes:.2f} GB)", file=sys.stderr)
    return target


def _check_header(file: Path) -> None:
    """Check that a file is whole and as large as its header says, before a model of that size is made."""
    try:
        from gguf import GGUFReader
    except ImportError as e:
        remedy = "install the package gguf: pip install 'tokalign[gguf]'"
        raise InputError("reading GGUF files needs the package gguf", where=str(file), remedy=remedy) from e
    try:
        reader = GGUFReader(str(file))  # maps the file
        numbers = {name: field.contents() for name, field in reader.fields.items() if len(field.types) == 1}
    except Exception as e:  # the library can raise anything for a malformed file
        raise _unreadable(file, first_line(e)) from e
    if int(numbers.get("split.count", 1)) > 1:
        raise InputError(
            "one part of a split model", where=str(file), remedy="merge the parts with llama-gguf-split --merge"
        )
    for name, value in numbers.items():
        if name.endswith(".block_count") and not 0 < int(value) <= len(reader.tensors):
            raise _unreadable(file, f"{name} is {value}, but there are {len(reader.tensors)} tensors")


def _convert(file: Path, scratch: Path) -> None:
    """Write the model and its tokenizer to ``scratch/model``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    alone = scratch / "file"  # transformers would follow what lies beside the file, such as an adapter
    alone.mkdir(parents=True)
    (alone / "model.gguf").symlink_to(file.resolve())
    where = {"pretrained_model_name_or_path": str(alone), "gguf_file": "model.gguf", "trust_remote_code": False}
    try:
        with redirect_stderr(StringIO()):  # progress bars that cannot be turned off
            tokenizer = AutoTokenizer.from_pretrained(**where)
            model, found = AutoModelForCausalLM.from_pretrained(**where, dtype="float32", output_loading_info=True)
    except Exception as e:  # the libraries can raise anything for a malformed file
        raise _unreadable(file, first_line(e)) from e
    if absent := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise _unreadable(file, f"no weights {absent[0]!r}")
    # The weights are no longer quantised, and transformers saves no model that says they are.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer.save_pretrained(str(scratch / "model"))
    model.save_pretrained(str(scratch / "model"))


def _unreadable(file: Path, problem: str) -> InputError:
    remedy = "use an architecture and a quantisation that transformers supports, or the original weights"
    return InputError(f"transformers cannot read this GGUF file: {problem}", where=str(file), remedy=remedy)
