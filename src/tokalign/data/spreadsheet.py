"""Cells of CSV files, which spreadsheets open: text in them is not to be run. What is written here is read back."""

from typing import Any


def quoted(cell: Any) -> Any:
    """A cell as it is, but text that a spreadsheet takes for a formula gets an apostrophe before it.

    Numbers stay numbers, also as text, and so does an item of a list (a minus and white space).
    """
    return f"'{cell}" if isinstance(cell, str) and _is_formula(cell.lstrip("'")) else cell


def unquoted(text: str) -> str:
    """The text that :func:`quoted` made a cell of."""
    return text[1:] if text.startswith("'") and _is_formula(text.lstrip("'")) else text


def _is_formula(text: str) -> bool:
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")) or (text[0] == "-" and text[1:2].isspace()):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
