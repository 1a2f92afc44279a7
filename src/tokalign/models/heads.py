"""A linear head on any base model, for the architectures that have no class of their own for it.

Gemma 3, OLMo, OPT, Granite, Cohere 2 and others have none for token classification, some none for a single score.
The folder that :class:`Headed` writes is a plain one: ``AutoModel.from_pretrained`` reads the base out of it, and the
head is ``score.weight`` (labels, hidden) in the same safetensors.
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
        for name in _ATTENTION:  # what the base can do this can
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
        """Those of the base."""
        return self.model.get_input_embeddings()


_ATTENTION = ("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "_supports_attention_backend")
"""What a model says of the ways in which its attention can be computed."""


def _base_class(config: Any) -> Any:
    found = AutoModel._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple | list) else found


def hidden_size(config: Any) -> int:
    """Width of the hidden states that a base model ends with."""
    text = config.get_text_config()
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def model_class(config: Any, level: str) -> Any:
    """What loads a classifier of tokens (``token``) or of the whole (``sequence``) with this configuration."""
    auto = AutoModelForTokenClassification if level == "token" else AutoModelForSequenceClassification
    return auto if type(config) in auto._model_mapping else _OurOwn


class _OurOwn:
    """:class:`Headed`, in the manner of the ``AutoModel`` classes."""

    @staticmethod
    def from_pretrained(source: str | Path, **kwargs: Any) -> Any:
        kwargs.pop("trust_remote_code", None)
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
        for name in ("num_labels", "id2label", "label2id"):
            if name in kwargs:
                setattr(config, name, kwargs.pop(name))
        return Headed.from_pretrained(str(source), config=config, **kwargs)

    from_config = Headed
