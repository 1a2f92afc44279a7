"""Convert the cells of rows in other layouts to text and to conversations."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokalign.runtime.disk import check_nesting

Turn = dict[str, str]


class UnusableError(ValueError):
    """The row cannot be used. There are few different messages, so that skipped rows can be counted by message."""


ENDS = "the conversation ends with a user turn"
NO_ANSWER = "the conversation does not end with an assistant turn"
_ROLES = {
    "human": "user", "prompter": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "tool": "tool", "function": "tool", "observation": "tool", "function_call": "call",
}  # fmt: skip
"""Speaker names in other layouts → role. ``call``: a tool call by the assistant."""
_KNOWN = frozenset(("user", "assistant", "system"))
_TEXT = (None, "text", "input_text", "output_text")
_MEDIA = re.compile(r"image|audio|video|file|sound")
_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_MARKER = re.compile(r"<extra_id_(?:0|1)>(System|User|Assistant)\n")


def as_messages(prompt: str | Sequence[Mapping[str, str]]) -> list[Turn]:
    """Return a prompt as a list of messages; a text becomes one user turn."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]


def contents(prompt: str | Sequence[Mapping[str, str]]) -> list[str]:
    """Return the contents of all turns of a prompt."""
    return [turn["content"] for turn in as_messages(prompt)]


def last_turn(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """Return the content of the last turn of a prompt."""
    return contents(prompt)[-1]


def as_text(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """Format a prompt for display: the text of a single turn, or one ``role: content`` line per turn."""
    turns = as_messages(prompt)
    return "\n".join(t["content"] if len(turns) == 1 else f"{t['role']}: {t['content']}" for t in turns)


def text_of(cell: Any, column: str) -> str:
    """Return the text of a cell: a string, or a list of text parts, which are joined.

    Args:
        cell: raw value.
        column: name of the cell in the error message.

    Raises:
        UnusableError: the cell is empty or not text.
    """
    if isinstance(cell, str):
        return cell
    if cell is None:
        raise UnusableError(f"no {column}")
    if isinstance(cell, list | tuple) and cell:
        return "".join(_part(part, column) for part in cell)
    raise UnusableError(f"{column} is not text")


def _part(part: Any, column: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise UnusableError(f"{column} is not text")
    kind = part.get("type")
    if kind in _TEXT and isinstance(part.get("text"), str):
        return str(part["text"])
    named = [str(kind), *(k for k, v in part.items() if v is not None)]
    if any(_MEDIA.search(name) for name in named):
        raise UnusableError(f"{column} holds an image, a sound or a file; only text is read")
    raise UnusableError(f"{column} holds a part that is not text")


def is_turns(cell: Any) -> bool:
    """Whether a cell is a non-empty list of turns: objects with ``role, content`` or ``from, value``."""
    return isinstance(cell, list) and bool(cell) and all(_is_turn(turn) for turn in cell)


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and (("role" in turn and "content" in turn) or ("from" in turn and "value" in turn))


def turn_of(cell: Any) -> Turn:
    """Convert a turn, with keys ``role, content`` or ``from, value``, to ``{role, content}``. Other keys are dropped.

    Raises:
        UnusableError: the turn has no role or no text.
    """
    if not isinstance(cell, dict):
        raise UnusableError("a turn is not an object")
    role, content = cell.get("role"), cell.get("content")
    if len(cell) == 2 and type(content) is str and type(role) is str and role in _KNOWN:
        return cell
    if role is None and content is None:
        role, content = cell.get("from"), cell.get("value")
    if not isinstance(role, str):
        raise UnusableError("a turn without a role")
    role = _ROLES.get(role.lower(), role)
    calls = role == "call" or cell.get("tool_calls") or cell.get("function_call")
    if role == "call" or (calls and not content):
        raise UnusableError("a tool call without text")
    if content is None:
        raise UnusableError("a turn without text")
    return {"role": role, "content": text_of(content, "a turn")}


def turns_of(cell: Any) -> list[Turn]:
    """Convert a list of turns to ``{role, content}``.

    Raises:
        UnusableError: the cell is not a list of turns, or a turn cannot be used.
    """
    if not isinstance(cell, list) or not cell:
        raise UnusableError("no turns" if not cell else "turns are not a list")
    return [turn_of(turn) for turn in cell]


def _are_turns(cell: Any) -> bool:
    """Whether a list holds turns (valid or not) rather than parts of a text."""
    first = cell[0] if isinstance(cell, list) and cell else None
    return isinstance(first, dict) and "type" not in first and "text" not in first


def prompt_of(cell: Any) -> str | list[Turn]:
    """Return a prompt as text or as a list of turns.

    Raises:
        UnusableError: the cell is empty or neither text nor turns.
    """
    if _are_turns(cell):
        return turns_of(cell)
    text = text_of(cell or None, "prompt")
    if not text.strip():
        raise UnusableError("no prompt")
    return text


def reply_of(cell: Any, column: str) -> list[Turn]:
    """Return a response as turns, of which the last is the assistant's.

    Args:
        cell: the text, the turn, or the conversation that ends with the response.
        column: name of the cell in the error message.

    Raises:
        UnusableError: the cell is none of these, or its last turn is not the assistant's.
    """
    if isinstance(cell, dict):
        turns = [turn_of(cell)]
    elif _are_turns(cell):
        turns = turns_of(cell)
    else:
        return [{"role": "assistant", "content": text_of(cell, column)}]
    if turns[-1]["role"] != "assistant":
        raise UnusableError(ENDS if turns[-1]["role"] == "user" else NO_ANSWER)
    return turns


def with_system(cell: Any, prompt: str | list[Turn]) -> str | list[Turn]:
    """Put the system message in ``cell`` before a prompt, unless ``cell`` is empty or the prompt already has one."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return prompt
    system = text_of(cell, "system")
    turns = as_messages(prompt)
    return turns if turns[0]["role"] == "system" else [{"role": "system", "content": system}, *turns]


def with_history(cell: Any, prompt: str) -> str | list[Turn]:
    """Put the earlier rounds of a conversation, a list of [question, answer], before a prompt.

    Raises:
        UnusableError: a round is not a question with an answer.
    """
    if not cell:
        return prompt
    turns: list[Turn] = []
    for pair in cell if isinstance(cell, list) else [None]:
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise UnusableError("history is not a list of questions with their answers")
        turns += ({"role": role, "content": text} for role, text in zip(_SPEAKERS, pair, strict=True))
    return [*turns, {"role": "user", "content": prompt}]


def plain(prompt: str | Sequence[Turn]) -> str | list[Turn]:
    """Replace a conversation of one user turn by its text."""
    if isinstance(prompt, str):
        return prompt
    single = len(prompt) == 1 and prompt[0]["role"] == "user"
    return prompt[0]["content"] if single else list(prompt)


def transcript(text: str) -> list[Turn]:
    """Split a transcript at ``Human:`` and ``Assistant:`` into turns. Successive turns of one speaker are joined."""
    _, *pieces = _TRANSCRIPT.split(text)
    roles = {speaker: role for role, speaker in _SPEAKERS.items()}
    turns: list[Turn] = []
    for speaker, raw in zip(pieces[::2], pieces[1::2], strict=True):
        role, content = roles[speaker], raw.strip()
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
    return turns


def as_transcript(prompt: Any, response: str) -> str:
    """Write a prompt and a response as a transcript: the inverse of :func:`transcript`."""
    turns = as_messages(prompt)
    parts = [f"\n\n{_SPEAKERS.get(t['role'], 'Human')}: {t['content']}" for t in turns]
    return "".join([*parts, f"\n\nAssistant: {response}"])


def marked(text: str) -> str | list[Turn]:
    """Split a prompt at markers (``<extra_id_1>User``) into turns. Text before the first marker is a user turn."""
    first, *pieces = _MARKER.split(text)
    if not pieces:
        return text
    turns = [{"role": "user", "content": first.strip()}] if first.strip() else []
    turns += (
        {"role": speaker.lower(), "content": content.strip()}
        for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
        if content.strip()
    )
    return turns


def parsed(cell: Any) -> Any:
    """Parse a text cell that contains a JSON list or object; return any other cell unchanged."""
    if not (isinstance(cell, str) and cell[:1] in ("[", "{")):
        return cell
    try:
        found = json.loads(cell)
        check_nesting(found)
    except (ValueError, RecursionError):
        return cell
    return found


def without_nulls(turns: list[Any]) -> list[Any]:
    """Drop the null keys that struct columns add to turns, and join the parts of a text."""
    return [
        {k: _joined(v) if k == "content" else v for k, v in turn.items() if v is not None or k in ("role", "content")}
        if isinstance(turn, Mapping)
        else turn
        for turn in turns
    ]


def _joined(content: Any) -> Any:
    try:
        return text_of(content, "a turn") if isinstance(content, list) else content
    except UnusableError:
        return content
