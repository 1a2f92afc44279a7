"""Folders written by ``peft``: adapters without the base model, merged with it."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tokalign.artifacts.model_files import ADAPTER, ADAPTER_CONFIG, check_model
from tokalign.errors import InputError, first_line

WEIGHTS = "adapter_model.safetensors"


def merge(folder: Path, base: str, scratch: Path) -> None:
    """Merge adapters with their base model in float32, and write it with its tokenizer to ``scratch/model``.

    LoRA adapters are kept beside it, as ``--lora`` does, so that half precision can take them out again.

    Args:
        folder: folder with the adapters, and a tokenizer if it differs from the base model's.
        base: folder or hub id of the base model.
        scratch: an absent folder.

    Raises:
        InputError: the base model, the adapters or the tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"no {WEIGHTS}", where=str(folder), remedy="save the adapters as safetensors")
    check_model(folder)
    if Path(base).is_dir():
        check_model(Path(base))
    config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder) if has_tokenizer else base, trust_remote_code=False)
        model = _load(folder, base, config)
    except Exception as e:  # the libraries can raise anything for a malformed folder
        raise InputError(
            f"cannot merge the adapters with {base!r}: {first_line(e)}",
            where=str(folder),
            remedy="merge them with peft, and give the merged model",
        ) from e
    tokenizer.save_pretrained(str(scratch / "model"))
    model.save_pretrained(str(scratch / "model"))
    if config.get("peft_type") == "LORA" and not config.get("use_dora"):
        kept = scratch / "model" / ADAPTER
        kept.mkdir()
        for name in (ADAPTER_CONFIG, WEIGHTS):
            shutil.copyfile(folder / name, kept / name)


def _load(folder: Path, base: str, config: dict[str, Any]) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

    where: dict[str, Any] = {"dtype": "float32", "trust_remote_code": False, "use_safetensors": True}
    auto: Any = AutoModelForCausalLM
    outputs, task = _outputs(folder), config.get("task_type")
    if outputs is not None:
        if task not in ("SEQ_CLS", "TOKEN_CLS"):
            raise ValueError("they are of a classifier, but task_type is not SEQ_CLS or TOKEN_CLS")
        auto = AutoModelForSequenceClassification if task == "SEQ_CLS" else AutoModelForTokenClassification
        where["num_labels"] = outputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = auto.from_pretrained(base, **where)
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)


def _outputs(folder: Path) -> int | None:
    """Number of outputs of the trained head of a classifier; None if there is none."""
    with safe_open(folder / WEIGHTS, "pt") as weights:
        heads = [k for k in weights.keys() if k.endswith(("score.weight", "classifier.weight"))]  # noqa: SIM118
        return int(weights.get_slice(heads[0]).get_shape()[0]) if heads else None
