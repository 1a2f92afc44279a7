"""Control tokens that stand in a text stay text: what a user says can neither end a turn nor begin one.

A tokenizer takes ``<|im_end|>`` for the end of a turn wherever it reads it. Texts that hold such a string are read by
a copy of the tokenizer in which every control token has a name that nobody can know; where a chat template wrote one,
it is renamed before that copy reads it.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""A token that stands for one byte of text, however it is flagged."""
THOUGHT = re.compile(r"<\|?/?\|?think(?:ing)?\|?>")
"""Tokens around thoughts, which a policy emits as a part of what it says."""
_DEEP = 100
"""Characters of a name that are told apart one by one."""
_SECRET = chr(0x10FFFD)
"""A character without a meaning, which stands around secret names."""
_HOLDERS = range(0xF0000, 0xFFFFE)
"""Characters without a meaning, of which one that is in no text stands around the number of a hidden token."""


def _pattern(names: Iterable[str]) -> str:
    """A regular expression for the longest of these names, by common beginnings: some tokenizers have thousands."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for character in name[:_DEEP]:
            node = node.setdefault(character, {})
        node.setdefault("", []).append(name[_DEEP:])

    def of(node: dict[str, Any]) -> str:
        ends = sorted(map(re.escape, filter(None, node.get("", []))), key=len, reverse=True)
        ways = [re.escape(character) + of(node[character]) for character in sorted(node) if character]
        ways += ends
        if not ways:
            return ""
        return f"(?:{'|'.join(ways)})" + "?" * ("" in node.get("", []))

    return of(tree) or r"(?!)"


class ControlTokens:
    """The control tokens of a tokenizer.

    Args:
        backend: the tokenizer.
        tokens: their names, with their ids.
    """

    def __init__(self, backend: Tokenizer, tokens: dict[str, int]) -> None:
        self._backend, self.tokens = backend, tokens
        self._pattern = re.compile(_pattern(tokens))
        self._names = {i: name for name, i in tokens.items()}
        self.ids = frozenset(self._names)

    def within(self, text: str) -> bool:
        """Whether one stands in a text."""
        return self._pattern.search(text) is not None

    def hide(self, texts: Sequence[str]) -> tuple[list[str], Callable[[str], str], Callable[[str], str]]:
        """Texts in which the tokens are not to be seen, to be put into a chat template.

        Returns:
            The texts; what makes of a rendered template what :meth:`encode` reads, and what makes of it the plain text.
        """
        used = set().union(*texts)
        holder = next(c for c in map(chr, _HOLDERS) if c not in used)
        hidden = [self._pattern.sub(lambda m: f"{holder}{self.tokens[m[0]]}{holder}", text) for text in texts]
        held = re.compile(f"{holder}([0-9]+){holder}")
        both = re.compile(f"{held.pattern}|{self._pattern.pattern}")  # in one pass: what was put in is not read again

        def shown(text: str) -> str:
            return held.sub(lambda m: self._names[int(m[1])], text)

        def renamed(text: str) -> str:
            return both.sub(lambda m: self._names[int(m[1])] if m[1] else self._secret(self.tokens[m[0]]), text)

        return hidden, renamed, shown

    def encode(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[Any]:
        """Encodings of texts in which no control token is one, unless it was renamed."""
        return list(self._copy.encode_batch(list(texts), add_special_tokens=add_special_tokens))

    @cached_property
    def _nonce(self) -> str:
        return secrets.token_hex(8)

    def _secret(self, token: int) -> str:
        return f"{_SECRET}{self._nonce}x{token}{_SECRET}"

    @cached_property
    def _copy(self) -> Tokenizer:
        whole: dict[str, Any] = json.loads(self._backend.to_str())
        model = whole["model"]
        vocab = model.get("vocab")
        keep = {model.get("unk_token")}  # what is not known is called so by the model itself
        if isinstance(vocab, list) and model.get("unk_id") is not None:  # Unigram, where it is named by its place
            keep.add(vocab[model["unk_id"]][0])
        secret = {name: self._secret(i) for name, i in self.tokens.items() if name not in keep}
        for token in whole["added_tokens"]:
            token["content"] = secret.get(token["content"], token["content"])
        if isinstance(vocab, dict):
            model["vocab"] = {secret.get(name, name): i for name, i in vocab.items()}
        elif isinstance(vocab, list):
            model["vocab"] = [[secret.get(name, name), score] for name, score in vocab]
        if merges := model.get("merges"):  # those that would make a control token of pieces have nothing to make
            pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in merges]
            model["merges"] = [list(p) for p in pairs if secret.keys().isdisjoint((*p, "".join(p)))]
        copy = Tokenizer.from_str(json.dumps(whole))
        copy.no_truncation()
        copy.no_padding()
        return copy
