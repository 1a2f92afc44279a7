"""Load models from Hugging Face folders and hub ids, and create ``tiny``, a small Llama."""

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

from tokalign.artifacts.model_files import ADAPTER
from tokalign.errors import InputError, TokalignError, first_line
from tokalign.models import attention, lora
from tokalign.models.converted import folder_of
from tokalign.models.heads import model_class
from tokalign.models.tokenizer import Tokenizer

# tokalign prints its own messages about loading and saving.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
attention.install()

CLASSES = ("bad", "neutral", "good")
"""Classes of a token-level reward model; class index = label + 1."""
_POSITION_NAMES = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
"""Names of learned position embeddings in various architectures."""


def pick_device(name: str) -> torch.device:
    """Select a device by name. ``auto`` selects CUDA if available, else Apple's MPS, else the CPU.

    Raises:
        InputError: the device is not available.
    """
    if name == "auto":
        cuda = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # one GPU per process
        name = cuda if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as e:
        raise InputError(f"device {name!r} is not available", remedy="use --device auto or cpu") from e
    return torch.device(name)


def new_tiny(tokenizer: Tokenizer, seed: int, max_positions: int = 1024) -> Any:
    """Create a Llama with about half a million weights for the playground: hidden size 128, 2 layers, init std 0.05.

    The rotary base is 10⁶. With 10⁴, only half of a head's 32 dimensions can compare words a hundred tokens apart, and
    reward models learned to check an answer against its prompt only for some seeds.
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
    """Create a tiny Llama with a zero head: three classes per token (``token``) or one score (``sequence``)."""
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
    """Load a model in eval mode, from safetensors only and without remote code.

    Args:
        auto: an ``AutoModel`` class.
        source: a folder, a GGUF file or a hub id.
        dtype: type of the weights, such as ``float32``.
        whole: raise an error if the head's weights are missing.
        to_use: the model is for inference. In half precision its LoRA adapters, if it has any, are then kept
            separate from the weights, because rounding the merged weights would lose the update.
        kwargs: passed to ``from_pretrained``.

    Raises:
        InputError: the model cannot be loaded.
    """
    place = folder_of(source)
    adapter = Path(place) / ADAPTER
    separate = to_use and dtype != "float32" and adapter.is_dir()
    try:
        model, found = auto.from_pretrained(
            place,
            dtype=torch.float32 if separate else getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **kwargs,
        )
    except Exception as e:  # the library can raise anything for a malformed folder
        raise InputError(
            f"cannot load a model from {str(source)!r}: {first_line(e)}",
            remedy="use a folder with config.json and *.safetensors, or a hub id (needs network access)",
        ) from e
    missing = [key for key in found["missing_keys"] if not key.startswith(f"{model.base_model_prefix}.")]
    if whole and missing:
        raise InputError(
            f"the model at {str(source)!r} has no weights {missing[0]!r}: its head is missing or has another name",
            remedy="use a classifier whose head has the name that its architecture expects",
        )
    if separate:
        lora.take_out(model, adapter)
        model.to(getattr(torch, dtype))
    return model.eval()


def load_policy(source: str | Path, dtype: str = "float32", *, to_use: bool = False) -> Any:
    """Load a causal language model in eval mode. ``to_use``: see :func:`load_model`."""
    return load_model(AutoModelForCausalLM, source, dtype, to_use=to_use)


def max_positions(model: Any) -> int | None:
    """Maximum number of tokens a model can read, given by its learned positions; None if it has no such limit."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.split(".")[-1] in _POSITION_NAMES:
            unused = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - unused)
    found += [len(b) for name, b in model.named_buffers() if name.split(".")[-1] in _POSITION_NAMES and b.ndim == 2]
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", "") == "mpt":  # its attention biases cover this many tokens
        found.append(config.max_seq_len)
    if getattr(config, "model_type", "") == "ctrl":  # its positions are not in a module
        found.append(config.n_positions)
    return min(found, default=None)


def max_positions_of(source: str | Path) -> int | None:
    """:func:`max_positions` of a causal language model, without loading weights; None also if it cannot be read."""
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder_of(source), trust_remote_code=False)
            return max_positions(AutoModelForCausalLM.from_config(config))
    except Exception:  # loading the model reports the error
        return None


def max_row_length(model: Any, limit: int) -> int:
    """Maximum length of a row in tokens: ``limit``, or the model's maximum if that is lower."""
    available = max_positions(model)
    return limit if available is None else min(limit, available)


def check_vocabulary(model: Any, tokenizer: Tokenizer) -> None:
    """Check that a model has an embedding for every token of its tokenizer.

    Tokens that cannot occur in a prompt or a response, such as padding, need no embedding. If there are such tokens,
    ``tokenizer`` is changed in place not to use them.

    Raises:
        InputError: a token has no embedding.
    """
    rows = len(model.get_input_embeddings().weight)
    if tokenizer.size <= rows:
        return
    missing_tokens = {
        name for name, i in tokenizer.hf_tokenizer.get_vocab().items() if i >= rows and i not in tokenizer.unread
    }
    if tokenizer.pad_id >= rows:
        tokenizer.pad_id = tokenizer.eos_id
    if missing_tokens:
        raise InputError(
            f"the model has {rows} embeddings, but none for {len(missing_tokens)} tokens of the tokenizer, "
            f"such as {min(missing_tokens)!r}",
            where=tokenizer.source,
            remedy="resize the model's embeddings with resize_token_embeddings of transformers and save the model",
        )
    tokenizer.size = rows


def load_classifier(source: str | Path, level: str, dtype: str = "float32", **kwargs: Any) -> Any:
    """Load a token classifier (``token``) or sequence classifier (``sequence``) of any architecture with a base model.

    ``kwargs`` are passed to :func:`load_model`.

    Raises:
        InputError: the model cannot be loaded.
    """
    try:
        auto = model_class(AutoConfig.from_pretrained(folder_of(source), trust_remote_code=False), level)
    except TokalignError:
        raise
    except Exception as e:  # the library can raise anything for a malformed configuration
        raise InputError(
            f"cannot read the configuration of model {str(source)!r}: {first_line(e)}",
            remedy="use a model folder or a hub id",
        ) from e
    model = load_model(auto, source, dtype, **kwargs)
    model.config.use_cache = False  # a classifier does not generate
    return model


def recompute_activations(model: Any, on: bool = True) -> None:
    """Turn gradient checkpointing on or off: activations are recomputed in the backward pass instead of kept."""
    with warnings.catch_warnings():  # about a name that newer releases deprecate
        warnings.simplefilter("ignore", FutureWarning)
        if on:
            model.gradient_checkpointing_enable()
        else:
            model.gradient_checkpointing_disable()


def _zero_head(model: Any) -> Any:
    """Set the head to zero, so that all outputs start neutral for any seed, and disable dropout."""
    head = getattr(model, "score", None)
    head = getattr(model, "classifier", None) if head is None else head
    if isinstance(head, torch.nn.Linear):
        torch.nn.init.zeros_(head.weight)
        if head.bias is not None:
            torch.nn.init.zeros_(head.bias)
    return disable_dropout(model)


def disable_dropout(model: Any) -> Any:
    """Set every dropout to 0 in place and return the model.

    Rewards and probability ratios compare forward passes, so these must not be random.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or "layerdrop" in name):
                setattr(module, name, 0.0)
    return model


def new_token_model(source: str | Path, dtype: str = "float32") -> Any:
    """Load the weights at ``source`` as a token classifier (bad, neutral, good) with a zero head."""
    labels = dict(enumerate(CLASSES))
    names = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    return _zero_head(
        load_classifier(source, "token", dtype, num_labels=len(CLASSES), ignore_mismatched_sizes=True, **names)
    )


def new_sequence_model(source: str | Path, dtype: str = "float32") -> Any:
    """Load the weights at ``source`` as a sequence classifier with one output and a zero head."""
    return _zero_head(load_classifier(source, "sequence", dtype, num_labels=1, ignore_mismatched_sizes=True))


def new_value_model(source: str | Path, dtype: str = "float32") -> Any:
    """Load the weights at ``source`` as a value model: one output per position and a zero head."""
    return _zero_head(load_classifier(source, "token", dtype, num_labels=1, ignore_mismatched_sizes=True))
