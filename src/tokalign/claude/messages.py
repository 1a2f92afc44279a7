"""Messages to Claude and from it, as every use of it here needs them: one question, a structured answer."""

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
    """The model to ask.

    Raises:
        UsageError: none is named.
    """
    if not options.model:
        raise UsageError("Claude needs a model", remedy="name one with --model, e.g. claude-sonnet-5-5")
    return options.model


def request(options: ClaudeOptions, system: str, content: str, schema: dict[str, Any]) -> Request:
    """A question: what never changes first, so that it can be cached, and an answer by a schema."""
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
    """Whether an answer was cut off."""
    return message.get("stop_reason") in _TRUNCATED


def unusable(message: dict[str, Any]) -> str:
    """Why an answer holds nothing, whatever stands in it; "" if it may."""
    if message.get("stop_reason") == "refusal":
        details = message.get("stop_details")
        category = details.get("category") if isinstance(details, dict) else None
        return f"refusal ({one_line(category)})" if isinstance(category, str) else "refusal"
    return "truncated" if is_truncated(message) else ""


def text_of(message: dict[str, Any]) -> str:
    """All that a message says; thoughts are left out."""
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [b.get("text") for b in blocks if isinstance(b, dict) and b.get("type") == "text"]
    return "".join(t for t in texts if isinstance(t, str))


def fields(message: dict[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """The object that a message consists of, if it has these fields and no others. Trusts nothing in it."""
    try:
        found = json.loads(text_of(message))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and set(found) == set(names) else None


def one_line(text: str) -> str:
    """A remark on one line, of a length that fits."""
    return " ".join(text.encode(errors="replace").decode().split())[:1000]


def answered_by(answers: Sequence[Answer]) -> str | None:
    """The model that the service names in the last answer."""
    names = [m for a in answers if isinstance(m := a.message.get("model"), str)]
    return one_line(names[-1]) if names else None


def usage_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens by kind and US dollars of some answers; what is no number of tokens is left out."""
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
    """A user's part of a prompt.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"not a readable text: {e}", where=str(file), remedy="a text file in UTF-8") from e
    if not text.strip():
        raise InputError("the file is empty", where=str(file), remedy=remedy)
    return text
