"""What tokens cost: five rates a model, from a file that users can replace."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.errors import InputError, UsageError

BATCH = 0.5
"""Message Batches cost half."""
MILLION = 1_000_000
_TOO_MANY = 1e12
"""Tokens that no call has, and dollars that no rate is."""


@dataclass(frozen=True)
class Rates:
    """US dollars for a million tokens."""

    input: float
    output: float
    cache_write_5m: float
    cache_write_1h: float
    cache_read: float
    longest_prompt: int | None = None
    """Tokens of a prompt up to which these rates hold; None: any."""

    def cost(self, usage: Mapping[str, Any], batch: bool = False) -> float:
        """US dollars for what the API says a call used; tokens written to the cache count by how long they are kept.

        Raises:
            ValueError: a number of tokens is none.
        """
        written = {} if usage.get("cache_creation") is None else usage["cache_creation"]
        if not isinstance(written, Mapping):
            raise ValueError("cache_creation is no object")
        for_an_hour = tokens(written.get("ephemeral_1h_input_tokens"))
        told = tokens(written.get("ephemeral_5m_input_tokens")) + for_an_hour
        all_written = max(tokens(usage.get("cache_creation_input_tokens")), told)
        dollars = (
            self.input * tokens(usage.get("input_tokens"))
            + self.output * tokens(usage.get("output_tokens"))
            + self.cache_read * tokens(usage.get("cache_read_input_tokens"))
            + self.cache_write_1h * for_an_hour
            + self.cache_write_5m * (all_written - for_an_hour)
        )
        return dollars / MILLION * (BATCH if batch else 1)

    def most(self, prompt_tokens: int, answer_tokens: int, batch: bool = False) -> float:
        """The most that a call of so many tokens can cost: all of its prompt written to the cache, the answer full."""
        dearest = max(self.input, self.cache_write_5m, self.cache_write_1h, self.cache_read)
        return (dearest * prompt_tokens + self.output * answer_tokens) / MILLION * (BATCH if batch else 1)


def tokens(number: Any) -> int:
    """A number of tokens, as the API tells it; null is none.

    Raises:
        ValueError: it is negative, not finite, not whole, or no number.
    """
    if number is None:
        return 0
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < _TOO_MANY:
        raise ValueError(f"not a number of tokens: {number!r}")
    if number != int(number):
        raise ValueError(f"not a whole number of tokens: {number!r}")
    return int(number)


class Estimate(NamedTuple):
    """What work may cost, from a sample of it; money in US dollars."""

    model: str
    rows: int
    answered: int
    """Of them, those that are answered already and cost nothing."""
    input_tokens: int
    output_tokens: int
    """A row, on average; of the answer without thoughts."""
    low: float
    """The instructions read from the cache, no thoughts, no second try."""
    high: float
    """Nothing cached, answers three times as long, every fifth row asked twice."""
    most: float
    """Everything asked twice, and answered at full length, and what is paid already: what a cap would have to be."""
    paid: float = 0.0
    """By earlier runs with this folder."""


FREE = Rates(0.0, 0.0, 0.0, 0.0, 0.0)
"""Of a model whose price is not known and need not be."""


def load(model: str, file: Path | None = None, allow_unpriced: bool = False) -> Rates:
    """The rates of a model. A dated name has those of the name without the date.

    Raises:
        UsageError: no rates are known.
        InputError: the file is no price list.
    """
    table = _read(file)
    found = table.get(model) or table.get(re.sub(r"-\d{8}$", "", model))
    if found is not None:
        return found
    if allow_unpriced:
        return FREE
    raise UsageError(
        f"no price is known of {model!r}",
        remedy=f"give one with --prices FILE.toml, or pass --allow-unpriced; known: {', '.join(sorted(table))}",
    )


def _read(file: Path | None) -> dict[str, Rates]:
    where = str(file) if file else "prices.toml"
    try:
        text = file.read_text(encoding="utf-8") if file else resources.files(__package__).joinpath(where).read_text()
        raw = tomllib.loads(text)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"not a price list: {e}", where=where, remedy="a TOML table for each model") from e
    return {model: _rates(model, row, where) for model, row in raw.items()}


def _rates(model: str, row: Any, where: str) -> Rates:
    names = [f.name for f in fields(Rates)]
    needed = names[:5]
    if not isinstance(row, dict) or set(row) - set(names) or set(needed) - set(row):
        raise InputError(f"[{model}] needs {', '.join(needed)}", where=where, field=model)
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _TOO_MANY:
            raise InputError(f"no price: {value!r}", where=where, field=f"{model}.{name}", remedy="dollars, 0 or more")
    return Rates(**row)
