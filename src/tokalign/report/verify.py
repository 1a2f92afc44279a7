"""``tokalign verify``: whether artifacts are what they say, and what they were made from is still there."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts.manifest import JOURNAL, Artifact, Manifest, is_artifact, open_artifact
from tokalign.config.stages import VerifyConfig
from tokalign.data.readers import read_file
from tokalign.errors import InputError, TokalignError
from tokalign.report import collect, tables
from tokalign.runtime.disk import is_regular, sha256

_CENT = 1e-4
"""US dollars by which the sum in a manifest, which is rounded, may differ."""


class Finding(NamedTuple):
    """What was found of an artifact; each of the three is ``ok``, what is wrong, or "" where there is nothing to check.

    What an artifact was made from may be gone or made anew: that is told, and is no fault of it.
    """

    name: str
    kind: str
    content: str
    inputs: str
    paid: str

    @property
    def is_good(self) -> bool:
        """Whether it is what it says."""
        return self.content == "ok" and self.paid in ("ok", "")


def run(config: VerifyConfig) -> None:
    """Print one table.

    Raises:
        InputError: an artifact is not what it says, or there are none.
    """
    found = [_audit(name, folder) for name, folder in collect.folders_below(config.folders)]
    if config.json:
        print(json.dumps({f.name: f._asdict() for f in found}, ensure_ascii=False))
    else:
        table = tables.table("Artifacts", "folder", "kind", "content", "made from", "paid")
        for f in found:
            tables.add(table, *f)
        tables.console().print(table)
    if bad := [f for f in found if not f.is_good]:
        where = ", ".join(f.name for f in bad[:5])
        remedy = "make them again; artifacts are never edited in place"
        raise InputError(f"{len(bad)} of {len(found)} artifacts are not what they say", where=where, remedy=remedy)


def _audit(name: str, folder: Path) -> Finding:
    try:
        artifact = open_artifact(folder)
    except TokalignError as e:
        return Finding(name, "?", str(e).removeprefix(f"{folder}/"), "", "")
    return Finding(name, artifact.manifest.kind, "ok", _inputs(artifact), _paid(artifact))


def _inputs(artifact: Artifact) -> str:
    told = [f"{i['name']}: {state}" for i in artifact.manifest.inputs if (state := _state(artifact.folder, i)) != "ok"]
    return "; ".join(told) or ("ok" if artifact.manifest.inputs else "")


def _state(folder: Path, entry: dict[str, Any]) -> str:
    """Whether an input is still what it was; what is not on this machine is not looked at."""
    sha, path = entry["sha256"], folder / str(entry.get("path") or "")
    if not sha or ":" in sha or not entry.get("path"):  # a name on the hub, a function
        return "ok"
    if is_artifact(path):
        try:
            now = Manifest.read(path).digest
        except TokalignError:
            return "damaged"
    elif is_regular(path):
        now = sha256(path)
    elif path.is_dir():
        return "ok"  # a folder of a model: known by more than its files' content
    else:
        return "gone"
    return "ok" if now == sha.partition("@")[0] else "made anew"


def _paid(artifact: Artifact) -> str:
    """Whether the journal says the same of money as the manifest."""
    told, path = artifact.manifest.usage.get("usd"), artifact.folder / JOURNAL
    if told is None or not is_regular(path):
        return ""
    try:
        spent = _spent(path)
    except TokalignError as e:
        return str(e)
    same = abs(spent - float(told)) < _CENT
    return "ok" if same else f"${told:.4f} by the manifest, ${spent:.4f} by the journal"


def _spent(journal: Path) -> float:
    """US dollars that answers cost, by a journal."""
    total = 0.0
    for at, entry in read_file(journal):
        cost = entry.get("cost", 0.0)
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf:
            raise InputError(f"no sum of money: {cost!r}", where=at, field="cost")
        total += cost if entry.get("event") == "answered" else 0.0
    return total
