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
_DEEP = 100
"""Characters of a name that are told apart one by one."""
_HOLDERS = tuple(map(chr, (0x10FFFD, 0xF8FF, 0xE000)))
"""Characters without a meaning, between which the number of a token stands for its name."""


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
        holder = next(c for c in _HOLDERS if not any(c in text for text in texts) or c == _HOLDERS[-1])
        hidden = [self._pattern.sub(lambda m: f"{holder}{self.tokens[m[0]]}{holder}", text) for text in texts]
        held = re.compile(f"{holder}(\\d+){holder}")

        def shown(text: str) -> str:
            return held.sub(lambda m: self._names[int(m[1])], text)

        def renamed(text: str) -> str:
            return shown(self._pattern.sub(lambda m: self._secret(self.tokens[m[0]]), text))

        return hidden, renamed, shown

    def encode(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[Any]:
        """Encodings of texts in which no control token is one, unless it was renamed."""
        return list(self._copy.encode_batch(list(texts), add_special_tokens=add_special_tokens))

    @cached_property
    def _nonce(self) -> str:
        return secrets.token_hex(8)

    def _secret(self, token: int) -> str:
        return f"{_HOLDERS[0]}{self._nonce}x{token}{_HOLDERS[0]}"

    @cached_property
    def _copy(self) -> Tokenizer:
        whole: dict[str, Any] = json.loads(self._backend.to_str())
        model = whole["model"]
        keep = {model.get("unk_token")}  # what is not known is called so by the model itself
        secret = {name: self._secret(i) for name, i in self.tokens.items() if name not in keep}
        for token in whole["added_tokens"]:
            token["content"] = secret.get(token["content"], token["content"])
        vocab = model.get("vocab")
        if isinstance(vocab, dict):
            model["vocab"] = {secret.get(name, name): i for name, i in vocab.items()}
        elif isinstance(vocab, list):  # Unigram, where the unknown is named by its place
            unknown = model.get("unk_id")
            model["vocab"] = [[n if k == unknown else secret.get(n, n), s] for k, (n, s) in enumerate(vocab)]
        copy = Tokenizer.from_str(json.dumps(whole))
        copy.no_truncation()
        copy.no_padding()
        return copy
