"""Encode control tokens in user text as text, so that a text can neither end a turn nor begin one.

A tokenizer encodes ``<|im_end|>`` as the end of a turn wherever it occurs. A text that contains such a string is
encoded by a copy of the tokenizer in which every control token has a random secret name. The control tokens that the
chat template wrote are changed to their secret names before the copy encodes the text.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""Name of a byte token, which is text even if it is flagged as special."""
THOUGHT = re.compile(r"<\|?/?\|?think(?:ing)?\|?>")
"""Name of a thinking tag, which a policy generates as part of its response."""
_DEPTH = 100
"""Depth of the prefix tree in characters; the rest of a longer name is one leaf."""
_SECRET_MARK = chr(0x10FFFD)
"""Private-use character that surrounds secret names."""
_PLACEHOLDER_MARKS = range(0xF0000, 0xFFFFE)
"""Private-use characters; one that occurs in no text surrounds the id of a hidden token."""


def _pattern(names: Iterable[str]) -> str:
    """Regular expression for the longest matching name; names share prefixes, as some tokenizers have thousands."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for character in name[:_DEPTH]:
            node = node.setdefault(character, {})
        node.setdefault("", []).append(name[_DEPTH:])

    def branch(node: dict[str, Any]) -> str:
        ends = sorted(map(re.escape, filter(None, node.get("", []))), key=len, reverse=True)
        alternatives = [re.escape(character) + branch(node[character]) for character in sorted(node) if character]
        alternatives += ends
        if not alternatives:
            return ""
        return f"(?:{'|'.join(alternatives)})" + "?" * ("" in node.get("", []))

    return branch(tree) or r"(?!)"


class ControlTokens:
    """Finds control tokens in texts and encodes such texts.

    Args:
        backend: the tokenizer.
        tokens: ids of the control tokens by name.
    """

    def __init__(self, backend: Tokenizer, tokens: dict[str, int]) -> None:
        self._backend, self.tokens = backend, tokens
        self._pattern = re.compile(_pattern(tokens))
        self._names = {i: name for name, i in tokens.items()}
        self.ids = frozenset(self._names)

    def within(self, text: str) -> bool:
        """Whether ``text`` contains the name of a control token."""
        return self._pattern.search(text) is not None

    def hide(self, texts: Sequence[str]) -> tuple[list[str], Callable[[str], str], Callable[[str], str]]:
        """Replace control tokens in texts by placeholders before a chat template renders the texts.

        Returns:
            The texts with placeholders, and two functions of the rendered template. The first prepares it for
            :meth:`encode`: it restores the texts and gives the template's own control tokens their secret names. The
            second only restores the texts.
        """
        used = set().union(*texts)
        mark = next(c for c in map(chr, _PLACEHOLDER_MARKS) if c not in used)
        hidden = [self._pattern.sub(lambda m: f"{mark}{self.tokens[m[0]]}{mark}", text) for text in texts]
        placeholder = re.compile(f"{mark}([0-9]+){mark}")
        # One pass for both, so that restored text is not renamed.
        either = re.compile(f"{placeholder.pattern}|{self._pattern.pattern}")

        def shown(text: str) -> str:
            return placeholder.sub(lambda m: self._names[int(m[1])], text)

        def renamed(text: str) -> str:
            return either.sub(lambda m: self._names[int(m[1])] if m[1] else self._secret(self.tokens[m[0]]), text)

        return hidden, renamed, shown

    def encode(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[Any]:
        """Encode texts in which only secret names are control tokens."""
        return list(self._copy.encode_batch(list(texts), add_special_tokens=add_special_tokens))

    @cached_property
    def _nonce(self) -> str:
        return secrets.token_hex(8)

    def _secret(self, token: int) -> str:
        return f"{_SECRET_MARK}{self._nonce}x{token}{_SECRET_MARK}"

    @cached_property
    def _copy(self) -> Tokenizer:
        config: dict[str, Any] = json.loads(self._backend.to_str())
        model = config["model"]
        vocab = model.get("vocab")
        keep = {model.get("unk_token")}  # the model refers to the unknown token by name
        if isinstance(vocab, list) and model.get("unk_id") is not None:  # Unigram refers to it by index
            keep.add(vocab[model["unk_id"]][0])
        secret = {name: self._secret(i) for name, i in self.tokens.items() if name not in keep}
        for token in config["added_tokens"]:
            token["content"] = secret.get(token["content"], token["content"])
        if isinstance(vocab, dict):
            model["vocab"] = {secret.get(name, name): i for name, i in vocab.items()}
        elif isinstance(vocab, list):
            model["vocab"] = [[secret.get(name, name), score] for name, score in vocab]
        if merges := model.get("merges"):  # drop merges of renamed tokens
            pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in merges]
            model["merges"] = [list(p) for p in pairs if secret.keys().isdisjoint((*p, "".join(p)))]
        copy = Tokenizer.from_str(json.dumps(config))
        copy.no_truncation()
        copy.no_padding()
        return copy
