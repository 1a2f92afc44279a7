"""Text to ids, the same way in every stage: tokenization is the rollout's.

A prompt is rendered and tokenized alone; a response is tokenized alone and ends with EOS; the ids are
concatenated. That is what a policy emits, so labels, reward models and PPO cannot slip against each other.
"""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokalign.artifacts.manifest import is_artifact
from tokalign.artifacts.schemas import Prompt
from tokalign.config.options import TemplateOptions
from tokalign.data.conversation import as_messages
from tokalign.errors import InputError, UsageError, first_line
from tokalign.models.chat_templates import TINY_TEMPLATE, choose, lost, prepare
from tokalign.models.control_tokens import BYTE, THOUGHT, ControlTokens
from tokalign.models.decoding import Decoder

PLAIN_TEMPLATE = "{role}: {content}\n\n"
"""One turn of a prompt where the tokenizer has no chat template; ``Assistant:\\n`` follows the last."""


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


class Tokenizer:
    """A tokenizer and the one way in which the project uses it.

    Args:
        tokenizer: a fast one of transformers.
        source: where it is from, for messages.
        ends: ids besides EOS that end a response of its model. Where the chat template closes an answer with one
            of them, that one is taken for EOS.
        options: what is asked of its chat template; None: nothing, it is used as it is.
        from_artifact: whether it is of an artifact, for which that was settled.

    Raises:
        InputError: the tokenizer is not a fast one, or has no EOS token; several templates, and none the default.
        UsageError: what is asked of the chat template cannot be, or is not what was asked before.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str = "",
        ends: Sequence[int] = (),
        options: TemplateOptions | None = None,
        from_artifact: bool = False,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"{source or type(tokenizer).__name__} has no fast tokenizer",
                remedy="character offsets need one: pick a model with a tokenizer.json",
            )
        self.hf_tokenizer, self.source = tokenizer, source
        self._backend = tokenizer.backend_tokenizer
        vocabulary = tokenizer.get_vocab()
        self.size = max(vocabulary.values()) + 1
        """Ids that there are, or one more than the highest; a model may have more outputs."""
        self.settings: dict[str, Any] = {}
        """What is written into the chat template besides what it says itself."""
        if template := choose(tokenizer.chat_template, source):
            prepared = prepare(
                template, options or TemplateOptions(), self._render, source, from_artifact=from_artifact
            )
            template, self.settings = prepared.template, prepared.settings
        elif options and options.template_arg:
            raise UsageError(f"--template-arg: {source} has no chat template", remedy="leave it out")
        tokenizer.chat_template = template
        eos = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        ends = [i for i in ends if i < self.size]
        closing = self._closing(ends)
        eos = closing if closing is not None else eos if eos is not None else next(iter(ends), None)
        if eos is None:
            raise InputError(
                f"the tokenizer of {source!r} has no EOS token", remedy="set eos_token in its tokenizer_config.json"
            )
        self.eos_id: int = eos
        """What a response ends with: EOS or, for BERT and its like, SEP."""
        self.ends: list[int] = sorted({eos, *ends})
        """Any of these ends what a policy says."""
        # Padding never counts anywhere: masks come from lengths, so sharing an id with EOS does no harm.
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        flagged = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        special = {i for i, name in flagged.items() if not BYTE.fullmatch(name)}
        marks = self._marks_of_turns()
        control = {i for i in special if not THOUGHT.fullmatch(flagged.get(i, ""))} | {*self.ends} | marks
        self.unread: frozenset[int] = frozenset(special - marks - {*self.ends} - self._written())
        """Ids that neither a text nor the chat template can bring into what a model reads."""
        names = {i: name for name, i in vocabulary.items() if i in control}
        self.controls = ControlTokens(self._backend, {name: i for i, name in names.items()})
        """What a text cannot say: special tokens, ends, and what the chat template writes around turns."""
        self.decoder = Decoder(self._backend, special | {*self.ends}, self.size)

    @classmethod
    def load(cls, source: str | Path, options: TemplateOptions | None = None) -> "Tokenizer":
        """Load from a folder or a hub id; see the class.

        Raises:
            InputError: nothing usable is there.
        """
        # They bring torch, which a process that is sent a tokenizer does without.
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()  # it would print what stands in the folder as it stands there
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        except Exception as e:  # whatever a foreign folder leads a library to
            raise InputError(
                f"no tokenizer at {str(source)!r}: {first_line(e)}",
                remedy="give a model folder, a hub id (needs a connection), or `tiny`",
            ) from e
        from_artifact = is_artifact(Path(source)) or is_artifact(Path(source).parent)
        # A configuration that says nothing has its class's default, which may be any token of the text.
        ends = [i for i in _ends(str(source)) if i in tokenizer.added_tokens_decoder]
        return cls(tokenizer, str(source), ends, options, from_artifact)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, and what ends a response where the tokenizer does not say so."""
        self.hf_tokenizer.save_pretrained(str(folder))
        ends = folder / "generation_config.json"
        if self.ends != [self.hf_tokenizer.eos_token_id] and not ends.exists():
            ends.write_text(json.dumps({"eos_token_id": self.ends, "pad_token_id": self.pad_id}) + "\n")

    def render(self, prompt: Prompt) -> str:
        """The prompt as the model reads it, up to where the response begins.

        Raises:
            InputError: the model's chat template does not allow such turns, or leaves out what one of them says.
        """
        return self._rendered(prompt)[0]

    def rendering(self, prompt: Prompt) -> tuple[str, str]:
        """A prompt as :meth:`render` makes it and "", or "" and why it cannot be rendered."""
        try:
            return self.render(prompt), ""
        except InputError as e:
            return "", e.reason

    @property
    def can_refuse(self) -> bool:
        """Whether there are prompts that cannot be rendered: not with a template of ours."""
        return bool(self.hf_tokenizer.chat_template) and self.hf_tokenizer.chat_template != TINY_TEMPLATE

    def _rendered(self, prompt: Prompt) -> tuple[str, str | None]:
        """A prompt as a model reads it and, where a control token stands in its text, as that is to be encoded."""
        turns = as_messages(prompt)
        if not any(self.controls.within(turn["content"]) for turn in turns):
            return self._made_of(turns), None
        texts, renamed, shown = self.controls.hide([turn["content"] for turn in turns])
        made = self._made_of([{**turn, "content": text} for turn, text in zip(turns, texts, strict=True)])
        return shown(made), renamed(made)

    def _made_of(self, turns: Sequence[dict[str, str]]) -> str:
        template = self.hf_tokenizer.chat_template
        if not template:
            plain = (PLAIN_TEMPLATE.format(role=t["role"].capitalize(), content=t["content"]) for t in turns)
            return "".join(plain) + "Assistant:\n"
        problem = ""
        try:
            text = self._render(template, turns)
            kept = turns[1:] if self.settings.get("system") == "drop" and turns[0]["role"] == "system" else turns
            if role := lost(kept, text):
                problem = f"the model's chat template leaves out what the {role} says"
        except Exception as e:  # a template is a program of somebody else's
            problem = f"the model's chat template refuses it: {first_line(e)}"
        if problem:
            raise InputError(
                problem,
                field="prompt",
                value=json.dumps(turns, ensure_ascii=False)[:200],
                remedy="give turns as the model wants them, or a model without such a rule",
            )
        return text

    def _render(self, template: str, turns: Any, more: bool = True) -> str:
        made = self.hf_tokenizer.apply_chat_template(
            list(turns), chat_template=template, tokenize=False, add_generation_prompt=more
        )
        return str(made)

    def _talk(self, *last: dict[str, str]) -> str:
        """A short talk as the template has it, with a system turn where it wants one; "" if it has none."""
        user, system = {"role": "user", "content": "question"}, {"role": "system", "content": "rule"}
        for turns in ([user, *last], [system, user, *last]):
            try:
                return self._render(self.hf_tokenizer.chat_template, turns, more=False)
            except Exception:  # a template is a program of somebody else's
                continue
        return ""

    def _closing(self, ends: Sequence[int]) -> int | None:
        """Which of the ends the chat template puts behind an answer, if it does."""
        if not (self.hf_tokenizer.chat_template and ends):
            return None
        _, found, tail = self._talk({"role": "assistant", "content": "answer"}).rpartition("answer")
        ids = self.hf_tokenizer(tail, add_special_tokens=False)["input_ids"] if found else []
        return next((i for i in ids if i in ends), None)

    def _written(self) -> set[int]:
        """Special tokens that prompts begin with or hold, whatever their texts are."""
        named = {self.hf_tokenizer.bos_token_id, self.hf_tokenizer.eos_token_id, self.hf_tokenizer.cls_token_id}
        text = self._talk() if self.hf_tokenizer.chat_template else ""
        return {i for i in named if i is not None} | {*self.hf_tokenizer(text, add_special_tokens=False)["input_ids"]}

    def _marks_of_turns(self) -> set[int]:
        """Added tokens that the chat template writes around turns, though they are not flagged as special."""
        if not self.hf_tokenizer.chat_template:
            return set()
        user, said = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
        text = self._talk(said, user) or self._talk()
        added = {i: token.content for i, token in self.hf_tokenizer.added_tokens_decoder.items()}
        ids = {*self.hf_tokenizer(text, add_special_tokens=False)["input_ids"]} & added.keys()
        names = {i: added[i].strip("▁ \t\r\n") for i in ids}
        no_marks = {i for i, name in names.items() if BYTE.fullmatch(name) or THOUGHT.fullmatch(name)}
        return {i for i, name in names.items() if name and not name.isalnum()} - no_marks

    def prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Ids of rendered prompts. A BOS token is added where template and tokenizer ask for one."""
        if not prompts:
            return []
        rendered = [self._rendered(p) for p in prompts]
        # A chat template writes its own BOS; the plain one leaves it to the tokenizer.
        special = not self.hf_tokenizer.chat_template
        ids: list[list[int]] = [e.ids for e in self._batch([shown for shown, _ in rendered], special)]
        hidden = [k for k, (_, renamed) in enumerate(rendered) if renamed is not None]
        if hidden:
            for k, e in zip(hidden, self.controls.encode([rendered[k][1] or "" for k in hidden], special), strict=True):
                ids[k] = e.ids
        if special and ids and ids[0] and ids[0][-1] == self.eos_id:
            ids = [row[:-1] for row in ids]  # BERT-like and some T5-like tokenizers close the text
        return ids

    def responses(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids and offsets of responses. Text that looks like a control token stays text."""
        return [
            Encoded([*e.ids, self.eos_id], [*e.offsets, (len(text), len(text))])
            for text, e in zip(texts, self.encode(texts), strict=True)
        ]

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Encodings of responses, as the tokenizer makes them: without EOS."""
        if not texts:
            return []
        before, self._backend.encode_special_tokens = self._backend.encode_special_tokens, True
        try:
            found = self._batch(texts, add_special_tokens=False)
        finally:
            self._backend.encode_special_tokens = before
        # Those that are flagged as special are text already; what is not known is no sign of one.
        control = self.controls.ids - {self.hf_tokenizer.unk_token_id}
        if hidden := [k for k, e in enumerate(found) if not control.isdisjoint(e.ids)]:
            for k, e in zip(hidden, self.controls.encode([texts[k] for k in hidden]), strict=True):
                found[k] = e
        return found

    def _batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[Any]:
        """The tokenizer itself is asked: no second copy of ids and offsets."""
        self._backend.no_truncation()
        self._backend.no_padding()
        return list(self._backend.encode_batch(list(texts), add_special_tokens=add_special_tokens))

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
        return self.decoder.word_starts(ids, self.located)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of response ids, without special tokens and ends."""
        return self.decoder.decode(ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token by itself, for people to read."""
        return self.decoder.pieces(ids)

    def located(self, rows: Sequence[Sequence[int]]) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """The texts of emitted ids, and where each id stands in its text; EOS and other special tokens at the end.

        A policy may spell a text otherwise than the tokenizer would: then its text is read off token by token.
        """
        texts, places = [self.decode(ids) for ids in rows], []
        for ids, text, usual in zip(rows, texts, self.responses(texts), strict=True):
            said = len(ids)
            while said and ids[said - 1] in self.decoder.hidden:
                said -= 1
            if usual.ids[:said] == list(ids[:said]):
                places.append([*usual.offsets[:said], *[(len(text), len(text))] * (len(ids) - said)])
            else:
                places.append(self.decoder.places(ids, len(text)))
        return texts, places


def _ends(source: str) -> list[int]:
    """Ids that end what a model says, by its generation config, else by its configuration."""
    from transformers import GenerationConfig, PreTrainedConfig

    try:
        ends = GenerationConfig.from_pretrained(source).eos_token_id
    except Exception:  # there is none, or none that can be read
        try:
            found, _ = PreTrainedConfig.get_config_dict(source)
            ends = found.get("eos_token_id")
        except Exception:
            ends = None
    several = ends if isinstance(ends, list) else [ends]
    return [i for i in several if isinstance(i, int) and not isinstance(i, bool) and i >= 0]


def same_reading(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two models read the same prompt and the same response as the same ids."""
    return same_tokenizer(a, b) and a.hf_tokenizer.chat_template == b.hf_tokenizer.chat_template


def same_tokenizer(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids for the same text."""

    def rules(tokenizer: Tokenizer) -> dict[str, Any]:
        whole: dict[str, Any] = json.loads(tokenizer.hf_tokenizer.backend_tokenizer.to_str())
        return {k: v for k, v in whole.items() if k not in ("padding", "truncation")}

    return rules(a) == rules(b) and a.eos_id == b.eos_id
