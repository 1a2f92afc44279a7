"""GGUF files as models: dequantised once, to a folder that every loader reads.

transformers reads the file (https://huggingface.co/docs/transformers/gguf). What is trained from it is saved as
safetensors; nothing is quantised again.
"""

import os
import shutil
import sys
import tempfile
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
    scratch = Path(tempfile.mkdtemp(prefix=".", dir=root))
    try:
        _convert(file, scratch)
        check_model(scratch)
        try:
            scratch.rename(target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    gigabytes = sum(p.stat().st_size for p in target.iterdir()) / 1e9
    print(f"tokalign: {path}: dequantised to float32 in {target} ({gigabytes:.2f} GB)", file=sys.stderr)
    return target


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "trust_remote_code": False}
    try:
        with redirect_stderr(StringIO()):  # progress bars that cannot be turned off
            AutoTokenizer.from_pretrained(**where).save_pretrained(str(folder))
            model = AutoModelForCausalLM.from_pretrained(**where, dtype="float32")
        # The weights are no longer quantised, and transformers saves no model that says they are.
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
        model.save_pretrained(str(folder))
    except ImportError as e:
        remedy = "install the package gguf: pip install 'tokalign[gguf]'"
        raise InputError("reading GGUF files needs the package gguf", where=str(file), remedy=remedy) from e
    except Exception as e:  # the libraries can raise anything for a malformed file
        raise InputError(
            f"transformers cannot read this GGUF file: {first_line(e)}",
            where=str(file),
            remedy="use an architecture and a quantisation that transformers supports, or the original weights",
        ) from e
