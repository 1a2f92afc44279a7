"""Requests with one user message and a JSON schema for the answer, and the parsing of answers."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokalign.claude.client import Request
from tokalign.claude.journal import Answer
from tokalign.claude.prices import tokens
from tokalign.config.options import ClaudeOptions
from tokalign.errors import InputError, UsageError

_TRUNCATED = ("max_tokens", "model_context_window_exceeded")


def model_of(options: ClaudeOptions) -> str:
    """Return the Claude model ID.

    Raises:
        UsageError: no model is given.
    """
    if not options.model:
        raise UsageError("Claude needs a model", remedy="pass one with --model, e.g. claude-sonnet-5-5")
    return options.model


def request(options: ClaudeOptions, system: str, content: str, schema: dict[str, Any]) -> Request:
    """Build a request. The system prompt, which is the same for all rows, is marked for the prompt cache.

    Args:
        options: model, effort and ``max_tokens``.
        system: system prompt.
        content: user message.
        schema: JSON schema of the answer.
    """
    output: dict[str, Any] = {"format": {"type": "json_schema", "schema": schema}}
    if options.effort is not None:
        output["effort"] = options.effort
    return {
        "model": model_of(options),
        "max_tokens": options.max_tokens,
        "system": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": content}],
        "output_config": output,
    }


def is_truncated(message: dict[str, Any]) -> bool:
    """Whether the answer reached the token limit."""
    return message.get("stop_reason") in _TRUNCATED


def unusable(message: dict[str, Any]) -> str:
    """Return the reason if the answer is a refusal or truncated, otherwise ""."""
    if message.get("stop_reason") == "refusal":
        details = message.get("stop_details")
        category = details.get("category") if isinstance(details, dict) else None
        return f"refusal ({one_line(category)})" if isinstance(category, str) else "refusal"
    return "truncated" if is_truncated(message) else ""


def text_of(message: dict[str, Any]) -> str:
    """Return the concatenated text blocks of a message, without thinking blocks."""
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [b.get("text") for b in blocks if isinstance(b, dict) and b.get("type") == "text"]
    return "".join(t for t in texts if isinstance(t, str))


def fields(message: dict[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """Parse the text of an untrusted message as a JSON object. None unless it has exactly the fields ``names``."""
    try:
        found = json.loads(text_of(message))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and set(found) == set(names) else None


def one_line(text: str) -> str:
    """Join the words of a text with single spaces and cut it to 1000 characters."""
    return " ".join(text.encode(errors="replace").decode().split())[:1000]


def answered_by(answers: Sequence[Answer]) -> str | None:
    """Return the model named in the last answer that names one, or None."""
    names = [m for a in answers if isinstance(m := a.message.get("model"), str)]
    return one_line(names[-1]) if names else None


def usage_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the total tokens by kind and the cost in US dollars of some answers. Invalid token counts are ignored."""
    total: Counter[str] = Counter()
    for answer in answers:
        usage = answer.message.get("usage")
        counts = usage.items() if isinstance(usage, dict) else ()
        for kind, count in counts:
            if kind.endswith("_tokens") and count is not None:
                with suppress(ValueError):
                    total[kind] += tokens(count)
    return {**total, "usd": round(sum(a.cost for a in answers), 8)}


def read_text(file: Path, remedy: str) -> str:
    """Read a user's text file for a prompt.

    Args:
        file: text file in UTF-8.
        remedy: what the file should contain, for the error message.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"cannot read the file: {e}", where=str(file), remedy="give a text file in UTF-8") from e
    if not text.strip():
        raise InputError("the file is empty", where=str(file), remedy=remedy)
    return text
