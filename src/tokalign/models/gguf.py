"""GGUF files as models: dequantised to a folder that every loader reads.

transformers reads the file (https://huggingface.co/docs/transformers/gguf). What is trained from it is saved as
safetensors; nothing is quantised again.
"""

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from tokalign.errors import InputError, first_line

MAGIC = b"GGUF"
SUFFIX = ".gguf"


def is_gguf(file: Path) -> bool:
    """Whether a path ends with ``.gguf``, or is a file that starts as GGUF files do."""
    if file.suffix.lower() == SUFFIX:
        return True
    if not file.is_file():
        return False
    with file.open("rb") as f:
        return f.read(len(MAGIC)) == MAGIC


def convert(file: Path, scratch: Path) -> None:
    """Write the model and its tokenizer to ``scratch/model``, with float32 weights.

    Raises:
        InputError: transformers cannot read the file.
    """
    with file.open("rb") as f:
        if f.read(len(MAGIC)) != MAGIC:
            raise InputError("not a GGUF file", where=str(file), remedy="give a model folder, a GGUF file or a hub id")
    _check_header(file)
    _convert(file, scratch)


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
