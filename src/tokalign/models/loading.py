"""Loading and making models: Hugging Face folders and hub ids, or ``tiny``, a small Llama from scratch."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from tokalign.errors import InputError
from tokalign.models.heads import model_class
from tokalign.models.tokenization import Codec

# Loading and saving are told in our own words.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CLASSES = ("bad", "neutral", "good")
"""Classes of a token-level reward model; class index = label + 1."""


def pick_device(name: str) -> torch.device:
    """``auto``: CUDA, else Apple's MPS, else CPU.

    Raises:
        InputError: the device is not there.
    """
    if name == "auto":
        cuda = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # of several processes on a machine, each has its own
        name = cuda if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as e:
        raise InputError(f"no device {name!r} here", remedy="use --device auto or cpu") from e
    return torch.device(name)


def new_tiny(codec: Codec, seed: int, max_positions: int = 1024) -> Any:
    """A Llama of about half a million weights, for the playground. Hidden 128, 2 layers, std .05.

    Heads turn slowly (rotary base 10⁶): with 10⁴ only half of their 32 dimensions can compare a word with one a
    hundred tokens back, and whether a reward model learnt to check an answer against its prompt was a matter of luck.
    """
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(codec.tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            initializer_range=0.05,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=codec.eos_id,
            pad_token_id=codec.pad_id,
        )
    )


def new_tiny_classifier(codec: Codec, seed: int, max_positions: int, level: str) -> Any:
    """A tiny Llama with a zero head: three classes a token (``token``) or one score (``sequence``)."""
    config = new_tiny(codec, seed, max_positions).config
    if level == "token":
        config.id2label = dict(enumerate(CLASSES))
        config.label2id = {name: i for i, name in enumerate(CLASSES)}
        return _zero_head(AutoModelForTokenClassification.from_config(config)).eval()
    config.num_labels = 1
    return _zero_head(AutoModelForSequenceClassification.from_config(config)).eval()


def load_model(auto: Any, source: str | Path, dtype: str, **kwargs: Any) -> Any:
    """A model by one of the ``AutoModel`` classes, in eval mode; safetensors only, no code from elsewhere.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        model = auto.from_pretrained(
            str(source),
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            **kwargs,
        )
    except (OSError, ValueError, KeyError) as e:
        raise InputError(
            f"cannot load a model from {str(source)!r}: {str(e).splitlines()[0]}",
            remedy="give a folder with config.json and *.safetensors, or a hub id (needs a connection)",
        ) from e
    return model.eval()


def load_policy(source: str | Path, dtype: str = "float32") -> Any:
    """A causal language model, in eval mode."""
    return load_model(AutoModelForCausalLM, source, dtype)


def load_classifier(source: str | Path, level: str, dtype: str = "float32", **kwargs: Any) -> Any:
    """A classifier of tokens (``token``) or of the whole (``sequence``), over any architecture that has a base model.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        auto = model_class(AutoConfig.from_pretrained(str(source), trust_remote_code=False), level)
    except (OSError, ValueError) as e:
        raise InputError(
            f"no model at {str(source)!r}: {str(e).splitlines()[0]}", remedy="give a model folder or a hub id"
        ) from e
    return load_model(auto, source, dtype, **kwargs)


def recompute_activations(model: Any, on: bool = True) -> None:
    """Whether a model in training mode keeps activations for the backward pass, or computes them again."""
    with warnings.catch_warnings():  # of a name that newer releases prefer
        warnings.simplefilter("ignore", FutureWarning)
        if on:
            model.gradient_checkpointing_enable()
        else:
            model.gradient_checkpointing_disable()


def _zero_head(model: Any) -> Any:
    """A fresh head of zeros: it starts neutral, whatever the seed."""
    head = getattr(model, "score", None)
    head = getattr(model, "classifier", None) if head is None else head
    if isinstance(head, torch.nn.Linear):
        torch.nn.init.zeros_(head.weight)
        if head.bias is not None:
            torch.nn.init.zeros_(head.bias)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def new_token_model(source: str | Path, dtype: str = "float32") -> Any:
    """A token classifier (bad / neutral / good) with a zero head over the weights at ``source``."""
    labels = dict(enumerate(CLASSES))
    names = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    return _zero_head(
        load_classifier(source, "token", dtype, num_labels=len(CLASSES), ignore_mismatched_sizes=True, **names)
    )


def new_sequence_model(source: str | Path, dtype: str = "float32") -> Any:
    """A sequence classifier with one output and a zero head over the weights at ``source``."""
    return _zero_head(load_classifier(source, "sequence", dtype, num_labels=1, ignore_mismatched_sizes=True))


def new_value_model(source: str | Path, dtype: str = "float32") -> Any:
    """A value at every position: a token classifier with one output and a zero head."""
    return _zero_head(load_classifier(source, "token", dtype, num_labels=1, ignore_mismatched_sizes=True))
