"""``--shard``: the rows of a command divided among machines."""

import re
from dataclasses import Field, dataclass
from typing import Any, NamedTuple

from tokalign.config.options import Role, StageOptions, option
from tokalign.errors import UsageError


class Shard(NamedTuple):
    """Shard ``number`` (from 0) of ``of`` shards of the rows of an input."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse ``K/N``.

        Raises:
            UsageError: ``text`` is not two numbers with K below N.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        found = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if found.number >= found.of:
            raise UsageError(f"--shard is {text!r}", remedy="give K/N, from 0/N to (N-1)/N")
        return found


@dataclass(frozen=True, kw_only=True)
class ShardOptions(StageOptions):
    """Options of a command whose rows can be divided among machines."""

    shard: str | None = option(
        None, "K/N: use only part K, from 0, of N parts of the rows; tokalign merge joins the parts", env=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard is not None:
            Shard.parse(self.shard)

    def role(self, field: Field[Any]) -> Role:
        """See :class:`Options`. Another ``--limit`` changes the bounds of the parts, so a part cannot grow."""
        return "rows" if field.name == "limit" and self.shard else super().role(field)
