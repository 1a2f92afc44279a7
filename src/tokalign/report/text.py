"""Making data from outside safe to print."""

import unicodedata

_KEPT = {"\n", "\t"}


def safe(text: str) -> str:
    r"""``text`` with control, format (bidi and the like) and surrogate characters spelt out, as ``\x1b``.

    Joiners inside emoji and scripts that need them (ZWJ, ZWNJ) are kept. Print the result with markup off.
    """
    return "".join(c if _harmless(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _harmless(c: str) -> bool:
    return c in _KEPT or c in "\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")
