"""Text to ids, the same way in every stage: tokenization is the rollout's.

A prompt is rendered and tokenized alone; a response is tokenized alone and ends with EOS; the ids are
concatenated. That is what a policy emits, so labels, reward models and PPO cannot slip against each other.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokalign.core.words import joins
from tokalign.errors import InputError, first_line
from tokalign.schemas import Prompt

_EOS, _PAD = "<|end|>", "<|pad|>"
_TINY_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PLAIN_TEMPLATE = "{role}: {content}\n\n"
"""One turn of a prompt where the tokenizer has no chat template; ``Assistant:\\n`` follows the last."""
SEEN = 16
"""Tokens before one that are read to see how it goes on from them."""


class Encoded(NamedTuple):
    """A response: its ids, EOS last, and where each stands in the text (code points; EOS: [len, len))."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokens(NamedTuple):
    """Responses, each ending with EOS, one after the other.

    ``ids`` (T,) int32. ``offsets`` (T, 2) int32: code points of the response, [len, len) for EOS. ``rows`` (N + 1,):
    response ``k`` is ``rows[k]:rows[k + 1]``.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    rows: NDArray[np.int64]


class Codec:
    """A tokenizer and the one way in which the project uses it.

    Args:
        tokenizer: a fast one of transformers.
        source: where it is from, for messages.
        ends: ids besides EOS that end a response of its model. Where the chat template closes an answer with one
            of them, that one is taken for EOS.

    Raises:
        InputError: the tokenizer is not a fast one, or has no EOS token.
    """

    def __init__(self, tokenizer: Any, source: str = "", ends: Sequence[int] = ()) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"{source or type(tokenizer).__name__} has no fast tokenizer",
                remedy="character offsets need one: pick a model with a tokenizer.json",
            )
        eos = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        if eos is None:
            raise InputError(
                f"the tokenizer of {source!r} has no EOS token", remedy="set eos_token in its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        if ends and (closing := self._closing()) in ends:
            tokenizer.eos_token, eos = tokenizer.convert_ids_to_tokens(closing), closing
        self.size = len(tokenizer)
        """Ids that there are; a model may have more outputs."""
        self._pieces: dict[int, str] = {}
        self._edges: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]] | None = None
        self.eos_id: int = eos
        """What a response ends with: EOS or, for BERT and its like, SEP."""
        self.ends: list[int] = sorted({eos, *ends})
        """Any of these ends what a policy says."""
        # Padding never counts anywhere: masks come from lengths, so sharing an id with EOS does no harm.
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @classmethod
    def load(cls, source: str | Path) -> "Codec":
        """Load from a folder or a hub id.

        Raises:
            InputError: nothing usable is there.
        """
        # They bring torch, which a process that is sent a tokenizer does without.
        from transformers import AutoTokenizer, GenerationConfig
        from transformers.utils import logging

        logging.set_verbosity_error()  # it would print what stands in the folder as it stands there
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        except Exception as e:  # whatever a foreign folder leads a library to
            raise InputError(
                f"no tokenizer at {str(source)!r}: {first_line(e)}",
                remedy="give a model folder, a hub id (needs a connection), or `tiny`",
            ) from e
        try:
            ends = GenerationConfig.from_pretrained(str(source)).eos_token_id
        except Exception:  # there is none, or none that can be read
            ends = None
        several = ends if isinstance(ends, list) else [ends]
        return cls(tokenizer, str(source), [i for i in several if isinstance(i, int) and not isinstance(i, bool)])

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(str(folder))

    def render(self, prompt: Prompt) -> str:
        """The prompt as the model reads it, up to where the response begins.

        Raises:
            InputError: the model's chat template does not allow such turns.
        """
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if self.tokenizer.chat_template:
            try:
                return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
            except Exception as e:  # a template is a program of somebody else's
                raise InputError(
                    f"the model's chat template refuses it: {first_line(e)}: "
                    f"{json.dumps(turns, ensure_ascii=False)[:200]}",
                    field="prompt",
                    remedy="give turns as the model wants them, or a model without such a rule",
                ) from e
        plain = (PLAIN_TEMPLATE.format(role=t["role"].capitalize(), content=t["content"]) for t in turns)
        return "".join(plain) + "Assistant:\n"

    def _closing(self) -> int | None:
        """The special token that the chat template puts behind an answer, if it does."""
        if not self.tokenizer.chat_template:
            return None
        mark = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
        try:
            _, _, tail = str(self.tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(mark)
        except Exception:  # a template is a program of somebody else's
            return None
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        return next((i for i in ids if i in self.tokenizer.all_special_ids), None)

    def prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Ids of rendered prompts. A BOS token is added where template and tokenizer ask for one."""
        if not prompts:
            return []
        rendered = [self.render(p) for p in prompts]
        # A chat template writes its own BOS; the plain one leaves it to the tokenizer.
        special = not self.tokenizer.chat_template
        ids: list[list[int]] = [e.ids for e in self._batch(rendered, add_special_tokens=special)]
        if special and ids and ids[0] and ids[0][-1] == self.eos_id:
            ids = [row[:-1] for row in ids]  # BERT-like and some T5-like tokenizers close the text
        return ids

    def responses(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids and offsets of responses. Text that looks like a special token stays text."""
        return [
            Encoded([*e.ids, self.eos_id], [*e.offsets, (len(text), len(text))])
            for text, e in zip(texts, self.encode(texts), strict=True)
        ]

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Encodings of responses, as the tokenizer makes them: without EOS."""
        if not texts:
            return []
        backend = self.tokenizer.backend_tokenizer
        before, backend.encode_special_tokens = backend.encode_special_tokens, True
        try:
            return self._batch(texts, add_special_tokens=False)
        finally:
            backend.encode_special_tokens = before

    def _batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[Any]:
        """The tokenizer itself is asked: no second copy of ids and offsets."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return list(backend.encode_batch(list(texts), add_special_tokens=add_special_tokens))

    def tokens(self, texts: Sequence[str], encodings: Sequence[Any]) -> Tokens:
        """What :meth:`encode` made of responses, with EOS, as arrays."""
        rows = np.concatenate([[0], np.cumsum([len(e) + 1 for e in encodings], dtype=np.int64)])
        total = int(rows[-1])
        last = [self.eos_id]
        ids = chain.from_iterable(chain(e.ids, last) for e in encodings)
        pairs = chain.from_iterable(chain(e.offsets, [(len(t), len(t))]) for e, t in zip(encodings, texts, strict=True))
        return Tokens(
            np.fromiter(ids, np.int32, total),
            np.fromiter(chain.from_iterable(pairs), np.int32, 2 * total).reshape(-1, 2),
            rows,
        )

    def word_starts(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(B, T): which tokens begin a word (as :mod:`tokalign.core.words` cuts them), from ids (B, T) alone."""
        if self._edges is None:
            self._edges = self._find_edges()
        last, first, mark = self._edges
        before, now = last[ids[:, :-1]], first[ids[:, 1:]]
        goes_on = ((before == now) & (now > 0)) | mark[ids[:, 1:]]
        return np.concatenate([np.ones((len(ids), 1), dtype=bool), ~goes_on], axis=1)

    def _find_edges(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        """(V,) each: class of a token's last character, of its first, and whether the first joins what it follows."""
        backend = self.tokenizer.backend_tokenizer
        anchor = backend.encode("a", add_special_tokens=False).ids[-1:]
        # Alone a token may lose its white space; after another it shows it.
        lead = len(backend.decode(anchor, skip_special_tokens=False))
        ids = [[*anchor, i] for i in range(len(self.tokenizer))]
        pieces = [text[lead:] or " " for text in backend.decode_batch(ids, skip_special_tokens=False)]
        last, _ = joins([piece[-1] for piece in pieces])
        first, mark = joins([piece[0] for piece in pieces])
        partial = np.array([piece[0] == "\ufffd" for piece in pieces])  # bytes of a character that began before
        return last, first, mark | partial

    def decode(self, ids: Sequence[int]) -> str:
        """The text of response ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def located(self, rows: Sequence[Sequence[int]]) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """The texts of emitted ids, and where each id stands in its text; EOS and other special tokens at the end.

        A policy may spell a text otherwise than the tokenizer would: then its text is read off token by token.
        """
        texts = [self.decode(ids) for ids in rows]
        places = []
        for ids, text, usual in zip(rows, texts, self.responses(texts), strict=True):
            if usual.ids[: len(ids)] == list(ids):
                places.append(usual.offsets[: len(ids)])
            else:
                places.append(self._spelt(ids, len(text)))
        return texts, places

    def _spelt(self, ids: Sequence[int], size: int) -> list[tuple[int, int]]:
        """Offsets of ids by the length of the text up to each of them."""
        ends = self._grown(ids, SEEN)
        if ends[-1] != self._lengths([ids])[0]:  # bytes that are no text, more than are seen at once
            ends = self._grown(ids, len(ids))
        places = np.maximum.accumulate(np.minimum(ends, size)).tolist()
        return list(zip([0, *places[:-1]], places, strict=True))

    def _grown(self, ids: Sequence[int], seen: int) -> NDArray[np.int64]:
        """(T,): length of the text up to each id: by how much it grows when ``seen`` ids before it are read."""
        starts = [max(n - seen, 0) for n in range(len(ids))]
        with_it = self._lengths([ids[s : n + 1] for n, s in enumerate(starts)])
        without = self._lengths([ids[s:n] for n, s in enumerate(starts)])
        return np.cumsum(with_it - without)

    def _lengths(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Lengths of texts, without characters at the end that are not whole yet."""
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return np.array([len(text.rstrip("\ufffd")) for text in texts])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token by itself, for people to read."""
        for i in {*ids} - self._pieces.keys():
            self._pieces[i] = str(self.tokenizer.decode([i], clean_up_tokenization_spaces=False))
        return [self._pieces[i] for i in ids]


def same_reading(a: Codec, b: Codec) -> bool:
    """Whether two models read the same prompt and the same response as the same ids."""
    return same_tokenizer(a, b) and a.tokenizer.chat_template == b.tokenizer.chat_template


def same_tokenizer(a: Codec, b: Codec) -> bool:
    """Whether two tokenizers give the same ids for the same text."""

    def rules(codec: Codec) -> dict[str, Any]:
        whole: dict[str, Any] = json.loads(codec.tokenizer.backend_tokenizer.to_str())
        return {k: v for k, v in whole.items() if k not in ("padding", "truncation")}

    return rules(a) == rules(b) and a.eos_id == b.eos_id


def train_tiny(texts: Iterable[str], vocab_size: int) -> Codec:
    """A byte-level BPE with a chat template, learnt on ``texts``; deterministic."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
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
    tokenizer.chat_template = _TINY_TEMPLATE
    return Codec(tokenizer, "tiny")
