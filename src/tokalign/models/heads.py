"""A linear classification head for architectures without a classification class in transformers.

Gemma 3, OLMo, OPT, Granite, Cohere 2 and others have no class for token classification, and some have none for
sequence classification. :class:`Headed` saves an ordinary model folder: ``AutoModel.from_pretrained`` loads the base
model from it, and the head is ``score.weight`` (labels, hidden) in the same safetensors file.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import TokenClassifierOutput


class Headed(PreTrainedModel):  # type: ignore[misc]
    """A base model with ``score``, a linear layer from hidden states to labels at every position."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True

    def __init__(self, config: Any) -> None:
        for name in _ATTENTION:  # same attention implementations as the base model
            object.__setattr__(self, name, getattr(_base_class(config), name, False))
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = AutoModel.from_config(config)
        self._no_split_modules = self.model._no_split_modules
        self.score = torch.nn.Linear(hidden_size(config), config.num_labels, bias=False)
        self.post_init()

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        """``logits`` (B, L, labels)."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))

    def get_input_embeddings(self) -> Any:
        """Input embeddings of the base model."""
        return self.model.get_input_embeddings()


_ATTENTION = ("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "_supports_attention_backend")
"""Class attributes that declare the supported attention implementations."""


def _base_class(config: Any) -> Any:
    found = AutoModel._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple | list) else found


def hidden_size(config: Any) -> int:
    """Size of the last hidden states of a base model."""
    text = config.get_text_config()
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def model_class(config: Any, level: str) -> Any:
    """Class that loads a token classifier (``token``) or sequence classifier (``sequence``) with this configuration."""
    auto = AutoModelForTokenClassification if level == "token" else AutoModelForSequenceClassification
    return auto if type(config) in auto._model_mapping else _AutoHeaded


class _AutoHeaded:
    """:class:`Headed` with the interface of the ``AutoModel`` classes."""

    @staticmethod
    def from_pretrained(source: str | Path, **kwargs: Any) -> Any:
        kwargs.pop("trust_remote_code", None)
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
        for name in ("num_labels", "id2label", "label2id"):
            if name in kwargs:
                setattr(config, name, kwargs.pop(name))
        return Headed.from_pretrained(str(source), config=config, **kwargs)

    from_config = Headed
