"""A small tokenizer trained on given texts, for the playground and for tests."""

from collections.abc import Iterable

from tokalign.models.chat_templates import TINY_TEMPLATE
from tokalign.models.tokenizer import Tokenizer

_EOS, _PAD = "<|end|>", "<|pad|>"


def train_tiny(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer with a chat template on ``texts``. The result is deterministic."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Backend(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    special = [_PAD, _EOS, "<|system|>", "<|user|>", "<|assistant|>"]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=_EOS, pad_token=_PAD)
    tokenizer.chat_template = TINY_TEMPLATE
    return Tokenizer(tokenizer, "tiny")
