"""Validation of arguments passed from Python, by the same rules as rows of files."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tokalign.artifacts.schemas import Prompt, PromptField, Text
from tokalign.errors import InputError

_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_PROMPT: TypeAdapter[Prompt] = TypeAdapter(PromptField)


def checked_text(value: Any, name: str) -> str:
    """Check that ``value`` is a valid text and return it.

    Args:
        value: the argument.
        name: its name, for the error message.

    Raises:
        InputError: it is not a string, or contains a lone surrogate.
    """
    return str(_checked(_TEXT, value, name))


def checked_prompts(values: Sequence[Any]) -> list[Prompt]:
    """Check that every value is a prompt, a text or a conversation, and return them.

    Raises:
        InputError: a value is neither.
    """
    return [_checked(_PROMPT, value, f"prompts[{k}]") for k, value in enumerate(values)]


def _checked(kind: TypeAdapter[Any], value: Any, name: str) -> Any:
    try:
        return kind.validate_python(value, strict=True)
    except ValidationError as e:
        problem = e.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{problem}; got {str(value)[:80]!r}",
            field=name,
            remedy="give a string, or a list of turns with role and content",
        ) from e
