"""Cells of foreign rows as text and as turns of a talk; what cannot be read says why, in words that can be counted."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokalign.runtime.disk import check_nesting

Turn = dict[str, str]


class UnusableError(ValueError):
    """A row that cannot be used; the message is one of few, so that rows can be counted by it."""


ENDS = "the talk ends with the user"
_ROLES = {
    "human": "user", "prompter": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "tool": "tool", "function": "tool", "observation": "tool", "function_call": "call",
}  # fmt: skip
"""What speakers are called elsewhere. ``call``: the assistant calls a tool."""
_KNOWN = frozenset(("user", "assistant", "system"))
_TEXT = (None, "text", "input_text", "output_text")
_MEDIA = re.compile(r"image|audio|video|file|sound")
_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_MARKED = re.compile(r"<extra_id_(?:0|1)>(System|User|Assistant)\n")


def as_messages(prompt: str | Sequence[Mapping[str, str]]) -> list[Turn]:
    """A prompt as messages; a text is the user's."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]


def contents(prompt: str | Sequence[Mapping[str, str]]) -> list[str]:
    """All that is said in a prompt, turn by turn."""
    return [turn["content"] for turn in as_messages(prompt)]


def last_turn(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """What is said last in a prompt: what a response answers."""
    return contents(prompt)[-1]


def as_text(prompt: str | Sequence[Mapping[str, str]]) -> str:
    """A prompt for people to read: a single turn is its text, several are led by who speaks."""
    turns = as_messages(prompt)
    return "\n".join(t["content"] if len(turns) == 1 else f"{t['role']}: {t['content']}" for t in turns)


def text_of(cell: Any, what: str) -> str:
    """A cell that holds text: a string, or a list of parts that are all text.

    Args:
        cell: as it came.
        what: its column, for the message.

    Raises:
        UnusableError: it holds something else, or nothing.
    """
    if isinstance(cell, str):
        return cell
    if cell is None:
        raise UnusableError(f"no {what}")
    if isinstance(cell, list | tuple) and cell:
        return "".join(_part(part, what) for part in cell)
    raise UnusableError(f"{what} is not text")


def _part(part: Any, what: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise UnusableError(f"{what} is not text")
    kind = part.get("type")
    if kind in _TEXT and isinstance(part.get("text"), str):
        return str(part["text"])
    named = [str(kind), *(k for k, v in part.items() if v is not None)]
    if any(_MEDIA.search(name) for name in named):
        raise UnusableError(f"{what} holds an image, a sound or a file; only text is read")
    raise UnusableError(f"{what} holds a part that is not text")


def is_turns(cell: Any) -> bool:
    """Whether a cell is a list of turns: objects that have a speaker and something said."""
    return isinstance(cell, list) and bool(cell) and all(_is_turn(turn) for turn in cell)


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and (("role" in turn and "content" in turn) or ("from" in turn and "value" in turn))


def turn_of(cell: Any) -> Turn:
    """One turn as ``{role, content}``; it came so, or as ``{from, value}``. Other keys are left out.

    Raises:
        UnusableError: it says nothing that is text.
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
    """A list of turns, each as ``{role, content}``.

    Raises:
        UnusableError: it is none, or one of them cannot be read.
    """
    if not isinstance(cell, list) or not cell:
        raise UnusableError("no turns" if not cell else "turns are not a list")
    return [turn_of(turn) for turn in cell]


def _are_turns(cell: Any) -> bool:
    """Whether a list is one of turns, good or bad, and not of parts of text."""
    first = cell[0] if isinstance(cell, list) and cell else None
    return isinstance(first, dict) and "type" not in first and "text" not in first


def prompt_of(cell: Any) -> str | list[Turn]:
    """A prompt: text, or turns.

    Raises:
        UnusableError: it is neither, or says nothing.
    """
    if _are_turns(cell):
        return turns_of(cell)
    text = text_of(cell or None, "prompt")
    if not text.strip():
        raise UnusableError("no prompt")
    return text


def reply_of(cell: Any, what: str) -> list[Turn]:
    """A response: the text, the turn, or the talk that ends with it; as turns, the last the assistant's.

    Raises:
        UnusableError: it is none of them, or ends with somebody else.
    """
    if isinstance(cell, dict):
        turns = [turn_of(cell)]
    elif _are_turns(cell):
        turns = turns_of(cell)
    else:
        return [{"role": "assistant", "content": text_of(cell, what)}]
    if turns[-1]["role"] != "assistant":
        raise UnusableError(ENDS if turns[-1]["role"] == "user" else "the talk does not end with the assistant")
    return turns


def with_system(cell: Any, prompt: str | list[Turn]) -> str | list[Turn]:
    """A prompt with what a column of its own says to the model first."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return prompt
    system = text_of(cell, "system")
    turns = as_messages(prompt)
    return turns if turns[0]["role"] == "system" else [{"role": "system", "content": system}, *turns]


def with_history(cell: Any, prompt: str) -> str | list[Turn]:
    """A prompt after earlier rounds of the talk, each a question and its answer.

    Raises:
        UnusableError: a round is something else.
    """
    if not cell:
        return prompt
    turns: list[Turn] = []
    for one in cell if isinstance(cell, list) else [None]:
        if not isinstance(one, list) or [type(text) for text in one] != [str, str]:
            raise UnusableError("history is not a list of questions with their answers")
        turns += ({"role": role, "content": text} for role, text in zip(_SPEAKERS, one, strict=True))
    return [*turns, {"role": "user", "content": prompt}]


def plain(prompt: str | Sequence[Turn]) -> str | list[Turn]:
    """A talk of one user turn is that turn's text."""
    if isinstance(prompt, str):
        return prompt
    single = len(prompt) == 1 and prompt[0]["role"] == "user"
    return prompt[0]["content"] if single else list(prompt)


def transcript(text: str) -> list[Turn]:
    """A transcript as turns (each a blank line, ``Human:`` or ``Assistant:``, text); one speaker's are joined."""
    _, *pieces = _TRANSCRIPT.split(text)
    roles = {speaker: role for role, speaker in _SPEAKERS.items()}
    turns: list[Turn] = []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        role, content = roles[speaker], said.strip()
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
    return turns


def as_transcript(prompt: Any, response: str) -> str:
    """The inverse of :func:`transcript`, with the response as the last Assistant turn."""
    turns = as_messages(prompt)
    said = [f"\n\n{_SPEAKERS.get(t['role'], 'Human')}: {t['content']}" for t in turns]
    return "".join([*said, f"\n\nAssistant: {response}"])


def marked(text: str) -> str | list[Turn]:
    """A prompt in which marks (``<extra_id_1>User``) begin turns; what stands before the first is the user's."""
    first, *pieces = _MARKED.split(text)
    if not pieces:
        return text
    turns = [{"role": "user", "content": first.strip()}] if first.strip() else []
    turns += (
        {"role": speaker.lower(), "content": said.strip()}
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
        if said.strip()
    )
    return turns


def parsed(cell: Any) -> Any:
    """What a cell of text spells out as JSON, if that is a list or an object; else the cell."""
    if not (isinstance(cell, str) and cell[:1] in ("[", "{")):
        return cell
    try:
        found = json.loads(cell)
        check_nesting(found)
    except (ValueError, RecursionError):
        return cell
    return found


def without_nulls(turns: list[Any]) -> list[Any]:
    """Turns without the keys that hold nothing, which tables of structs add; text parts become the text."""
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
