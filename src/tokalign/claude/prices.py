"""Token prices: five rates per model, from ``prices.toml`` or a user's file."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from tokalign.errors import InputError, UsageError

BATCH = 0.5
"""Price factor of Message Batches."""
MILLION = 1_000_000
_LIMIT = 1e12
"""Upper bound for valid token counts and rates."""


@dataclass(frozen=True)
class Rates:
    """Prices in US dollars per million tokens."""

    input: float
    output: float
    cache_write_5m: float
    cache_write_1h: float
    cache_read: float
    longest_prompt: int | None = None
    """Longest prompt in tokens to which these rates apply; None: no limit."""

    def cost(self, usage: Mapping[str, Any], batch: bool = False) -> float:
        """Return the cost of a call in US dollars by the ``usage`` field of the API's answer.

        Raises:
            ValueError: a token count is not valid.
        """
        written = {} if usage.get("cache_creation") is None else usage["cache_creation"]
        if not isinstance(written, Mapping):
            raise ValueError(f"cache_creation is not an object: {written!r}")
        written_1h = tokens(written.get("ephemeral_1h_input_tokens"))
        itemised = tokens(written.get("ephemeral_5m_input_tokens")) + written_1h
        all_written = max(tokens(usage.get("cache_creation_input_tokens")), itemised)
        dollars = (
            self.input * tokens(usage.get("input_tokens"))
            + self.output * tokens(usage.get("output_tokens"))
            + self.cache_read * tokens(usage.get("cache_read_input_tokens"))
            + self.cache_write_1h * written_1h
            + self.cache_write_5m * (all_written - written_1h)
        )
        return dollars / MILLION * (BATCH if batch else 1)

    def max_cost(self, prompt_tokens: int, answer_tokens: int, batch: bool = False) -> float:
        """Return the maximum cost of a call in US dollars: all prompt tokens at the highest rate, full answer."""
        highest = max(self.input, self.cache_write_5m, self.cache_write_1h, self.cache_read)
        return (highest * prompt_tokens + self.output * answer_tokens) / MILLION * (BATCH if batch else 1)


def tokens(number: Any) -> int:
    """Check and return a token count of the API; None counts as 0.

    Raises:
        ValueError: it is not a whole number from 0 to 1e12.
    """
    if number is None:
        return 0
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < _LIMIT:
        raise ValueError(f"not a number of tokens: {number!r}")
    if number != int(number):
        raise ValueError(f"not a whole number of tokens: {number!r}")
    return int(number)


FREE = Rates(0.0, 0.0, 0.0, 0.0, 0.0)
"""Rates of a model without a known price, with ``--allow-unpriced``."""


def load(model: str, file: Path | None = None, allow_unpriced: bool = False) -> Rates:
    """Return the rates of a model. A model ID with a date has the rates of the ID without it.

    Args:
        model: model ID.
        file: TOML file of prices; None: the built-in prices.
        allow_unpriced: return zero rates for an unknown model.

    Raises:
        UsageError: no price is known for the model.
        InputError: the file is not a valid price list.
    """
    table = _read(file)
    found = table.get(model) or table.get(re.sub(r"-\d{8}$", "", model))
    if found is not None:
        return found
    if allow_unpriced:
        return FREE
    raise UsageError(
        f"no price is known for {model!r}",
        remedy=f"give one with --prices FILE.toml, or pass --allow-unpriced; known: {', '.join(sorted(table))}",
    )


def _read(file: Path | None) -> dict[str, Rates]:
    where = str(file) if file else "prices.toml"
    try:
        text = file.read_text(encoding="utf-8") if file else resources.files(__package__).joinpath(where).read_text()
        raw = tomllib.loads(text)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"not a price list: {e}", where=where, remedy="write one TOML table per model") from e
    return {model: _rates(model, row, where) for model, row in raw.items()}


def _rates(model: str, row: Any, where: str) -> Rates:
    names = [f.name for f in fields(Rates)]
    needed = names[:5]
    if not isinstance(row, dict) or set(row) - set(names) or set(needed) - set(row):
        raise InputError(f"[{model}] needs {', '.join(needed)}", where=where, field=model)
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LIMIT:
            remedy = "give US dollars per million tokens, 0 or more"
            raise InputError(f"not a price: {value!r}", where=where, field=f"{model}.{name}", remedy=remedy)
    return Rates(**row)
