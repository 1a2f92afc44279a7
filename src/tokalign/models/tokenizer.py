"""Tokenize prompts and responses the same way in every stage.

The prompt is rendered and tokenized. The response is tokenized separately and ends with EOS. The two lists of ids are
concatenated, as in a rollout, so the tokens of labels, reward models and PPO are aligned.
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
from tokalign.core.words import bounds
from tokalign.data.conversation import as_messages
from tokalign.errors import InputError, UsageError, first_line
from tokalign.models.chat_templates import TINY_TEMPLATE, missing_role, prepare, select_template
from tokalign.models.control_tokens import BYTE, THOUGHT, ControlTokens
from tokalign.models.converted import folder_of
from tokalign.models.decoding import Decoder

PLAIN_TEMPLATE = "{role}: {content}\n\n"
"""Format of a turn if the tokenizer has no chat template. ``Assistant:\\n`` follows the last turn."""


class Encoded(NamedTuple):
    """A response: token ids with EOS last, and ``[start, end)`` of each in code points ([len, len) for EOS)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokens(NamedTuple):
    """Concatenated tokens of N responses, each ending with EOS; T tokens in total.

    ``ids`` (T,) int32. ``offsets`` (T, 2) int32: ``[start, end)`` in the response in code points, [len, len) for EOS.
    ``rows`` (N + 1,) int64: the tokens of response ``k`` are ``rows[k]:rows[k + 1]``.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    rows: NDArray[np.int64]


class Tokenizer:
    """A tokenizer of transformers with its chat template, as all stages use it.

    Args:
        tokenizer: a fast tokenizer of transformers.
        source: folder or hub id of the tokenizer, for messages.
        ends: other ids that end a response of the model. If the chat template closes a response with one of them,
            it is used as EOS.
        options: chat template options; None: the defaults.
        from_artifact: whether the tokenizer belongs to an artifact; its template settings are then fixed.

    Raises:
        InputError: the tokenizer is not fast, has no EOS token, or has several chat templates without a default.
        UsageError: the chat template does not support the options, or has other fixed settings.
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
                f"{source or type(tokenizer).__name__} has no fast tokenizer, which character offsets need",
                remedy="use a model with a tokenizer.json",
            )
        self.hf_tokenizer, self.source = tokenizer, source
        self._backend = tokenizer.backend_tokenizer
        vocabulary = tokenizer.get_vocab()
        self.size = max(vocabulary.values()) + 1
        """Number of token ids: the highest id plus 1. A model may have more outputs."""
        self.settings: dict[str, Any] = {}
        """Settings that are written into the chat template; see :mod:`tokalign.models.chat_templates`."""
        if template := select_template(tokenizer.chat_template, source):
            prepared = prepare(
                template, options or TemplateOptions(), self._render, source, from_artifact=from_artifact
            )
            template, self.settings = prepared.template, prepared.settings
        elif options and options.template_arg:
            raise UsageError(f"--template-arg: {source} has no chat template", remedy="remove the option")
        tokenizer.chat_template = template
        eos = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        ends = [i for i in ends if i < self.size]
        closing = self._closing_end(ends)
        eos = closing if closing is not None else eos if eos is not None else next(iter(ends), None)
        if eos is None:
            raise InputError(
                f"the tokenizer of {source!r} has no EOS token", remedy="set eos_token in its tokenizer_config.json"
            )
        self.eos_id: int = eos
        """Last id of a response: EOS, or SEP for tokenizers without EOS, such as BERT's."""
        self.ends: list[int] = sorted({eos, *ends})
        """Sampling stops at any of these ids; ``eos_id`` is one of them."""
        # Masks are computed from lengths, so padding can have the id of EOS.
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        flagged = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        special = {i for i, name in flagged.items() if not BYTE.fullmatch(name)}
        markers = self._turn_markers()
        control = {i for i in special if not THOUGHT.fullmatch(flagged.get(i, ""))} | {*self.ends} | markers
        self.unread: frozenset[int] = frozenset(special - markers - {*self.ends} - self._template_ids())
        """Ids that cannot occur in prompts or responses."""
        names = {i: name for name, i in vocabulary.items() if i in control}
        self.controls = ControlTokens(self._backend, {name: i for i, name in names.items()})
        """Tokens that text is never encoded as: special tokens, ends, and the chat template's markers around turns."""
        self.decoder = Decoder(self._backend, special | {*self.ends}, self.size)

    @classmethod
    def load(cls, source: str | Path, options: TemplateOptions | None = None) -> "Tokenizer":
        """Load a tokenizer from a folder, a GGUF file or a hub id. ``options`` and errors: see the class.

        Raises:
            InputError: there is no usable tokenizer.
        """
        # These import torch, which a worker process that receives a tokenizer does not need.
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()  # warnings would print unescaped text from the folder
        place = folder_of(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        except Exception as e:  # the library can raise anything for a malformed folder
            raise InputError(
                f"no tokenizer at {str(source)!r}: {first_line(e)}",
                remedy="use a model folder, a GGUF file, a hub id (needs network access), or `tiny`",
            ) from e
        from_artifact = is_artifact(Path(source)) or is_artifact(Path(source).parent)
        # A configuration without EOS has its class's default, which may be an ordinary token.
        ends = [i for i in _ends(place) if i in tokenizer.added_tokens_decoder]
        return cls(tokenizer, str(source), ends, options, from_artifact)

    def save(self, folder: Path) -> None:
        """Save the tokenizer, with a ``generation_config.json`` if its EOS token is not the only end of a response."""
        self.hf_tokenizer.save_pretrained(str(folder))
        ends = folder / "generation_config.json"
        if self.ends != [self.hf_tokenizer.eos_token_id] and not ends.exists():
            ends.write_text(json.dumps({"eos_token_id": self.ends, "pad_token_id": self.pad_id}) + "\n")

    def render(self, prompt: Prompt) -> str:
        """Render a prompt as text, up to where the response begins.

        Raises:
            InputError: the chat template refuses the turns or leaves out the content of one.
        """
        return self._rendered(prompt)[0]

    def rendering(self, prompt: Prompt) -> tuple[str, str]:
        """Render a prompt without raising: return its text and "", or "" and the reason why it cannot be rendered."""
        try:
            return self.render(prompt), ""
        except InputError as e:
            return "", e.reason

    @property
    def can_refuse(self) -> bool:
        """Whether the chat template may refuse a prompt. tokalign's own templates never do."""
        return bool(self.hf_tokenizer.chat_template) and self.hf_tokenizer.chat_template != TINY_TEMPLATE

    def _rendered(self, prompt: Prompt) -> tuple[str, str | None]:
        """Render a prompt; if it contains control tokens, also return the input of ``controls.encode``, else None."""
        turns = as_messages(prompt)
        if not any(self.controls.within(turn["content"]) for turn in turns):
            return self._apply_template(turns), None
        texts, renamed, shown = self.controls.hide([turn["content"] for turn in turns])
        rendered = self._apply_template([{**turn, "content": text} for turn, text in zip(turns, texts, strict=True)])
        return shown(rendered), renamed(rendered)

    def _apply_template(self, turns: Sequence[dict[str, str]]) -> str:
        template = self.hf_tokenizer.chat_template
        if not template:
            plain = (PLAIN_TEMPLATE.format(role=t["role"].capitalize(), content=t["content"]) for t in turns)
            return "".join(plain) + "Assistant:\n"
        problem = ""
        try:
            text = self._render(template, turns)
            kept = turns[1:] if self.settings.get("system") == "drop" and turns[0]["role"] == "system" else turns
            if role := missing_role(kept, text):
                problem = f"the model's chat template leaves out what the {role} says"
        except Exception as e:  # templates are third-party code and may raise anything
            problem = f"the model's chat template refuses it: {first_line(e)}"
        if problem:
            raise InputError(
                problem,
                field="prompt",
                value=json.dumps(turns, ensure_ascii=False)[:200],
                remedy="change the turns to what the model supports, or use another model",
            )
        return text

    def _render(self, template: str, turns: Any, add_generation_prompt: bool = True) -> str:
        text = self.hf_tokenizer.apply_chat_template(
            list(turns), chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(text)

    def _sample_conversation(self, *last: dict[str, str]) -> str:
        """Render a short conversation, with a system turn if the template requires one; "" if neither works."""
        user, system = {"role": "user", "content": "question"}, {"role": "system", "content": "rule"}
        for turns in ([user, *last], [system, user, *last]):
            try:
                return self._render(self.hf_tokenizer.chat_template, turns, add_generation_prompt=False)
            except Exception:  # templates are third-party code and may raise anything
                continue
        return ""

    def _closing_end(self, ends: Sequence[int]) -> int | None:
        """The first of ``ends`` that the chat template writes after a response, or None."""
        if not (self.hf_tokenizer.chat_template and ends):
            return None
        _, found, tail = self._sample_conversation({"role": "assistant", "content": "answer"}).rpartition("answer")
        ids = self.hf_tokenizer(tail, add_special_tokens=False)["input_ids"] if found else []
        return next((i for i in ids if i in ends), None)

    def _template_ids(self) -> set[int]:
        """Ids that occur in prompts whatever their text, such as BOS."""
        named = {self.hf_tokenizer.bos_token_id, self.hf_tokenizer.eos_token_id, self.hf_tokenizer.cls_token_id}
        text = self._sample_conversation() if self.hf_tokenizer.chat_template else ""
        return {i for i in named if i is not None} | {*self.hf_tokenizer(text, add_special_tokens=False)["input_ids"]}

    def _turn_markers(self) -> set[int]:
        """Added tokens that the chat template writes around turns, special or not."""
        if not self.hf_tokenizer.chat_template:
            return set()
        user, response = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
        text = self._sample_conversation(response, user) or self._sample_conversation()
        added = {i: token.content for i, token in self.hf_tokenizer.added_tokens_decoder.items()}
        ids = {*self.hf_tokenizer(text, add_special_tokens=False)["input_ids"]} & added.keys()
        names = {i: added[i].strip("▁ \t\r\n") for i in ids}
        ordinary = {i for i, name in names.items() if BYTE.fullmatch(name) or THOUGHT.fullmatch(name)}
        return {i for i, name in names.items() if name and not name.isalnum()} - ordinary

    def prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Render and tokenize prompts, with BOS if the chat template or the tokenizer adds one."""
        if not prompts:
            return []
        rendered = [self._rendered(p) for p in prompts]
        # A chat template writes BOS itself; the plain format leaves it to the tokenizer.
        special = not self.hf_tokenizer.chat_template
        ids: list[list[int]] = [e.ids for e in self._batch([shown for shown, _ in rendered], special)]
        hidden = [k for k, (_, renamed) in enumerate(rendered) if renamed is not None]
        if hidden:
            for k, e in zip(hidden, self.controls.encode([rendered[k][1] or "" for k in hidden], special), strict=True):
                ids[k] = e.ids
        if special and ids and ids[0] and ids[0][-1] == self.eos_id:
            ids = [row[:-1] for row in ids]  # BERT-like and some T5-like tokenizers append SEP or EOS
        return ids

    def responses(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize responses, with EOS. Text that looks like a control token stays text."""
        return [
            Encoded([*e.ids, self.eos_id], [*e.offsets, (len(text), len(text))])
            for text, e in zip(texts, self.encode(texts), strict=True)
        ]

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Tokenize responses without EOS, as ``Encoding`` objects of ``tokenizers``."""
        if not texts:
            return []
        before, self._backend.encode_special_tokens = self._backend.encode_special_tokens, True
        try:
            found = self._batch(texts, add_special_tokens=False)
        finally:
            self._backend.encode_special_tokens = before
        # Special tokens are already encoded as text. The unknown token does not indicate a control token.
        control = self.controls.ids - {self.hf_tokenizer.unk_token_id}
        if hidden := [k for k, e in enumerate(found) if not control.isdisjoint(e.ids)]:
            for k, e in zip(hidden, self.controls.encode([texts[k] for k in hidden]), strict=True):
                found[k] = e
        return found

    def _batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[Any]:
        """Call the backend directly, which avoids a second copy of ids and offsets."""
        self._backend.no_truncation()
        self._backend.no_padding()
        return list(self._backend.encode_batch(list(texts), add_special_tokens=add_special_tokens))

    def tokens(self, texts: Sequence[str], encodings: Sequence[Any]) -> Tokens:
        """Convert the results of :meth:`encode` for ``texts`` to arrays, with EOS added."""
        rows = bounds([len(e) + 1 for e in encodings])
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
        """(B, T) bool: True where a token begins a word, as defined by :mod:`tokalign.core.words`; ids are (B, T)."""
        return self.decoder.word_starts(ids, self.located)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode response ids, without special tokens and ends."""
        return self.decoder.decode(ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Text of each token decoded alone, for display."""
        return self.decoder.pieces(ids)

    def located(self, rows: Sequence[Sequence[int]]) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Decode rows of emitted ids and locate each id in its text.

        If the ids differ from those that the tokenizer gives for the text, they are located by decoding prefixes.

        Returns:
            The texts, and ``[start, end)`` of each id in code points. EOS and other special tokens at the end of a row
            have [len, len).
        """
        texts, places = [self.decode(ids) for ids in rows], []
        for ids, text, usual in zip(rows, texts, self.responses(texts), strict=True):
            size = len(ids)  # without special tokens at the end
            while size and ids[size - 1] in self.decoder.hidden:
                size -= 1
            if usual.ids[:size] == list(ids[:size]):
                places.append([*usual.offsets[:size], *[(len(text), len(text))] * (len(ids) - size)])
            else:
                places.append(self.decoder.places(ids, len(text)))
        return texts, places


def _ends(source: str) -> list[int]:
    """EOS ids of a model, from its generation config or, without one, its configuration."""
    from transformers import GenerationConfig, PreTrainedConfig

    try:
        ends = GenerationConfig.from_pretrained(source).eos_token_id
    except Exception:  # missing or unreadable
        try:
            found, _ = PreTrainedConfig.get_config_dict(source)
            ends = found.get("eos_token_id")
        except Exception:
            ends = None
    several = ends if isinstance(ends, list) else [ends]
    return [i for i in several if isinstance(i, int) and not isinstance(i, bool) and i >= 0]


def same_tokenization(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids for the same prompts and responses."""
    return same_tokenizer(a, b) and a.hf_tokenizer.chat_template == b.hf_tokenizer.chat_template


def same_tokenizer(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers give the same ids for the same text."""

    def rules(tokenizer: Tokenizer) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(tokenizer.hf_tokenizer.backend_tokenizer.to_str())
        return {k: v for k, v in config.items() if k not in ("padding", "truncation")}

    return rules(a) == rules(b) and a.eos_id == b.eos_id
