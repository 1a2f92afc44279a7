"""What is handed in from Python, checked as rows of files are."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tokalign.artifacts.schemas import Prompt, PromptField, Text
from tokalign.errors import InputError

_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_PROMPT: TypeAdapter[Prompt] = TypeAdapter(PromptField)


def checked_text(value: Any, name: str) -> str:
    """A text.

    Raises:
        InputError: it is none, or holds half a character.
    """
    return str(_checked(_TEXT, value, name))


def checked_prompts(values: Sequence[Any]) -> list[Prompt]:
    """Prompts: texts, or conversations.

    Raises:
        InputError: one is neither.
    """
    return [_checked(_PROMPT, value, f"prompts[{k}]") for k, value in enumerate(values)]


def _checked(kind: TypeAdapter[Any], value: Any, name: str) -> Any:
    try:
        return kind.validate_python(value, strict=True)
    except ValidationError as e:
        problem = e.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{problem}; got {str(value)[:80]!r}", field=name, remedy="give a text, or turns with role and content"
        ) from e
