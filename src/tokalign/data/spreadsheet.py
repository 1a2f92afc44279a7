"""Escape text in CSV cells that a spreadsheet would run as a formula, and undo this on reading."""

from typing import Any


def quoted(cell: Any) -> Any:
    """Prefix text that a spreadsheet would treat as a formula with an apostrophe; return other cells unchanged.

    Numbers, also as text, and list items (a minus followed by white space) are not changed.
    """
    return f"'{cell}" if isinstance(cell, str) and _is_formula(cell.lstrip("'")) else cell


def unquoted(text: str) -> str:
    """Undo :func:`quoted`."""
    return text[1:] if text.startswith("'") and _is_formula(text.lstrip("'")) else text


def _is_formula(text: str) -> bool:
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")) or (text[0] == "-" and text[1:2].isspace()):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
