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

from tokalign.errors import InputError, first_line
from tokalign.models import lora
from tokalign.models.heads import model_class
from tokalign.models.tokenizer import Tokenizer

# Loading and saving are told in our own words.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

ADAPTER = "adapter"
"""Where a model that was trained with ``--lora`` keeps its adapters."""
CLASSES = ("bad", "neutral", "good")
"""Classes of a token-level reward model; class index = label + 1."""
_PLACES = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
"""What architectures call the vectors that they learn for the places of tokens."""


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


def new_tiny(tokenizer: Tokenizer, seed: int, max_positions: int = 1024) -> Any:
    """A Llama of about half a million weights, for the playground. Hidden 128, 2 layers, std .05.

    Heads turn slowly (rotary base 10⁶): with 10⁴ only half of their 32 dimensions can compare a word with one a
    hundred tokens back, and whether a reward model learnt to check an answer against its prompt was a matter of luck.
    """
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.size,
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
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
        )
    )


def new_tiny_classifier(tokenizer: Tokenizer, seed: int, max_positions: int, level: str) -> Any:
    """A tiny Llama with a zero head: three classes a token (``token``) or one score (``sequence``)."""
    config = new_tiny(tokenizer, seed, max_positions).config
    if level == "token":
        config.id2label = dict(enumerate(CLASSES))
        config.label2id = {name: i for i, name in enumerate(CLASSES)}
        return _zero_head(AutoModelForTokenClassification.from_config(config)).eval()
    config.num_labels = 1
    return _zero_head(AutoModelForSequenceClassification.from_config(config)).eval()


def load_model(
    auto: Any, source: str | Path, dtype: str, *, whole: bool = False, to_use: bool = False, **kwargs: Any
) -> Any:
    """A model by one of the ``AutoModel`` classes, in eval mode; safetensors only, no code from elsewhere.

    Args:
        auto: the class.
        source: a folder or a hub id.
        dtype: of its weights.
        whole: whether a head that is not there is an error.
        to_use: whether it will be used as it is: in half precision, adapters of ours are then not rounded away.
        kwargs: for ``from_pretrained``.

    Raises:
        InputError: it cannot be loaded.
    """
    adapter = Path(source) / ADAPTER
    apart = to_use and dtype != "float32" and adapter.is_dir()
    try:
        model, found = auto.from_pretrained(
            str(source),
            dtype=torch.float32 if apart else getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **kwargs,
        )
    except Exception as e:  # whatever a foreign folder leads a library to
        raise InputError(
            f"cannot load a model from {str(source)!r}: {first_line(e)}",
            remedy="give a folder with config.json and *.safetensors, or a hub id (needs a connection)",
        ) from e
    missing = [key for key in found["missing_keys"] if not key.startswith(f"{model.base_model_prefix}.")]
    if whole and missing:
        raise InputError(
            f"the model at {str(source)!r} has no {missing[0]}: its head has another name or is not there",
            remedy="use a classifier whose head has the name that its architecture wants",
        )
    if apart:
        lora.take_out(model, adapter)
        model.to(getattr(torch, dtype))
    return model.eval()


def load_policy(source: str | Path, dtype: str = "float32", *, to_use: bool = False) -> Any:
    """A causal language model, in eval mode; ``to_use``: see :func:`load_model`."""
    return load_model(AutoModelForCausalLM, source, dtype, to_use=to_use)


def positions(model: Any) -> int | None:
    """How many tokens a model can read, if it has a vector or a bias for each of their places; None: no such bound."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.split(".")[-1] in _PLACES:
            unused = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - unused)
    found += [len(b) for name, b in model.named_buffers() if name.split(".")[-1] in _PLACES and b.ndim == 2]
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", "") == "mpt":  # its biases are made for so many tokens
        found.append(config.max_seq_len)
    if getattr(config, "model_type", "") == "ctrl":  # its places are no module's
        found.append(config.n_positions)
    return min(found, default=None)


def places_of(source: str | Path) -> int | None:
    """:func:`positions` of a causal language model, without its weights; None also where that cannot be told."""
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
            return positions(AutoModelForCausalLM.from_config(config))
    except Exception:  # what is wrong is told when it is loaded
        return None


def longest(model: Any, most: int) -> int:
    """How many tokens of a row a model takes: ``most``, or fewer if it has fewer places."""
    places = positions(model)
    return most if places is None else min(most, places)


def check_vocabulary(model: Any, tokenizer: Tokenizer) -> None:
    """See that a model has an embedding for every token; one that no text can hold, such as padding, may go without.

    Raises:
        InputError: it has not.
    """
    rows = len(model.get_input_embeddings().weight)
    if tokenizer.size <= rows:
        return
    beyond = {name for name, i in tokenizer.hf_tokenizer.get_vocab().items() if i >= rows and i not in tokenizer.unread}
    if tokenizer.pad_id >= rows:
        tokenizer.pad_id = tokenizer.eos_id
    if beyond:
        raise InputError(
            f"the tokenizer has {len(beyond)} tokens for which the model, with {rows} embeddings, has none, "
            f"{min(beyond)!r} among them",
            where=tokenizer.source,
            remedy="resize the model's embeddings to the tokenizer and save it (transformers: resize_token_embeddings)",
        )
    tokenizer.size = rows


def load_classifier(source: str | Path, level: str, dtype: str = "float32", **kwargs: Any) -> Any:
    """A classifier of tokens (``token``) or of the whole (``sequence``), over any architecture that has a base model.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        auto = model_class(AutoConfig.from_pretrained(str(source), trust_remote_code=False), level)
    except Exception as e:  # whatever a foreign configuration leads a library to
        raise InputError(
            f"no model at {str(source)!r}: {first_line(e)}", remedy="give a model folder or a hub id"
        ) from e
    model = load_model(auto, source, dtype, **kwargs)
    model.config.use_cache = False  # nothing is generated: keys and values need not be kept
    return model


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
    return disable_dropout(model)


def disable_dropout(model: Any) -> Any:
    """The model with every dropout at 0: rewards and probability ratios must compare like with like."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or "layerdrop" in name):
                setattr(module, name, 0.0)
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
