"""Makes untrusted text safe to print."""

import unicodedata

_KEPT = {"\n", "\t"}


def safe(text: str) -> str:
    r"""Replace control, format (such as bidi) and surrogate characters by escape sequences such as ``\x1b``.

    Line feeds and tabs are kept, and so are ZWJ and ZWNJ, which emoji and some scripts need. Disable markup when you
    print the result.
    """
    return "".join(c if _harmless(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _harmless(c: str) -> bool:
    return c in _KEPT or c in "\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")
