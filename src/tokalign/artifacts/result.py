"""The result of a command: artifacts, a file, or an estimated cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts.manifest import Manifest


class WrittenFile(NamedTuple):
    """A file that is not part of an artifact."""

    file: str
    rows: int
    """Number of rows, or of artifacts on a page."""
    skipped: dict[str, int]
    """Number of skipped rows, by reason."""
    left_out: dict[str, int] | None = None
    """What the layout of the file cannot hold, with the number of rows that have it."""
    read_as: dict[str, Any] | None = None
    """Lineage of the source."""


class Estimate(NamedTuple):
    """Estimated cost of a run in US dollars, from a sample of its rows."""

    model: str
    rows: int
    answered: int
    """Rows that have an answer in the journal and cost nothing."""
    input_tokens: int
    """Mean per row."""
    output_tokens: int
    """Mean per row, without thinking."""
    low: float
    """Instructions read from the cache, no thinking, no second request."""
    high: float
    """No caching, answers three times as long, every fifth row asked twice."""
    most: float
    """Maximum cost: every row asked twice with full answers, plus what earlier runs paid or may have paid."""
    paid: float = 0.0
    """Paid by earlier runs with this folder."""


@dataclass(frozen=True)
class StageResult:
    """What a command returns. Empty if the command writes nothing, and in all processes but the main one."""

    folder: Path | None = None
    """Folder of the artifact; of several artifacts, the folder that contains them."""
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    """Manifests by the name of the artifact below ``folder``; "" for a single artifact in ``folder`` itself."""
    file: WrittenFile | None = None
    estimate: Estimate | None = None
    """With ``dry_run``: the expected cost."""

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> "StageResult":
        """Make the result of a command that writes one artifact."""
        return cls(folder, {"": manifest})

    @property
    def manifest(self) -> Manifest:
        """Manifest of the only artifact. Raises ValueError if there is none, or more than one."""
        (manifest,) = self.manifests.values()
        return manifest

    @property
    def rows(self) -> Mapping[str, Any]:
        """Row counts of the only artifact: ``in``, ``out``, ``skipped``, ``failed`` and ``reasons``."""
        return self.manifest.rows

    @property
    def stats(self) -> Mapping[str, Any]:
        """Statistics of the only artifact; their fields depend on its kind."""
        return self.manifest.stats

    @property
    def unresolved(self) -> bool:
        """Whether rows of an artifact failed or need attention; the command then exits with 3."""
        return any(m.unresolved for m in self.manifests.values())
