"""``tokalign verify``: checks the content, the inputs and the cost of artifacts."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts.manifest import JOURNAL, Artifact, Manifest, is_artifact, open_artifact
from tokalign.artifacts.result import StageResult
from tokalign.config.stages import VerifyConfig
from tokalign.data.readers import read_file
from tokalign.errors import InputError, TokalignError
from tokalign.report import collect, tables
from tokalign.runtime.disk import is_regular, sha256

_CENT = 1e-4
"""Tolerance in US dollars for the rounded cost in a manifest."""


class Finding(NamedTuple):
    """Result of checking an artifact.

    ``content``, ``inputs`` and ``paid`` are ``ok``, a problem, or "" if there is nothing to check. Missing or changed
    inputs are reported, but are not an error.
    """

    name: str
    kind: str
    content: str
    inputs: str
    paid: str

    @property
    def is_good(self) -> bool:
        """Whether content and cost match the manifest."""
        return self.content == "ok" and self.paid in ("ok", "")


def run(config: VerifyConfig) -> StageResult:
    """Check all artifacts in and below the folders and print a table, or JSON with ``--json``.

    Raises:
        InputError: an artifact does not match its manifest, or there are no artifacts.
    """
    found = [_audit(name, folder) for name, folder in collect.folders_below(config.folders)]
    if config.json:
        print(json.dumps({f.name: f._asdict() for f in found}, ensure_ascii=False))
    else:
        table = tables.table("Artifacts", "folder", "kind", "content", "inputs", "cost")
        for f in found:
            tables.add(table, *f)
        tables.console().print(table)
    if bad := [f for f in found if not f.is_good]:
        where = ", ".join(f.name for f in bad[:5])
        remedy = "create them again; do not edit files of an artifact"
        raise InputError(
            f"{len(bad)} of {len(found)} artifacts do not match their manifest", where=where, remedy=remedy
        )
    return StageResult()


def _audit(name: str, folder: Path) -> Finding:
    try:
        artifact = open_artifact(folder)
    except TokalignError as e:
        return Finding(name, "?", str(e).removeprefix(f"{folder}/"), "", "")
    return Finding(name, artifact.manifest.kind, "ok", _inputs(artifact), _paid(artifact))


def _inputs(artifact: Artifact) -> str:
    states = ((i["name"], _state(artifact.folder, i)) for i in artifact.manifest.inputs)
    problems = [f"{name}: {state}" for name, state in states if state != "ok"]
    return "; ".join(problems) or ("ok" if artifact.manifest.inputs else "")


def _state(folder: Path, entry: dict[str, Any]) -> str:
    """Compare an input with its recorded hash. Inputs that are not local files count as ``ok``."""
    sha, path = entry["sha256"], folder / str(entry.get("path") or "")
    if not sha or ":" in sha or not entry.get("path"):  # a model or dataset on the hub, or a function
        return "ok"
    if is_artifact(path):
        try:
            now = Manifest.read(path).digest
        except TokalignError:
            return "damaged"
    elif is_regular(path):
        now = sha256(path)
    elif path.is_dir():
        return "ok"  # a model folder: its hash covers more than the content of the files
    else:
        return "missing"
    return "ok" if now == sha.partition("@")[0] else "changed"


def _paid(artifact: Artifact) -> str:
    """Compare the cost in the manifest with the journal."""
    recorded, path = artifact.manifest.usage.get("usd"), artifact.folder / JOURNAL
    if recorded is None or not is_regular(path):
        return ""
    try:
        spent = _spent(path)
    except TokalignError as e:
        return str(e)
    same = abs(spent - float(recorded)) < _CENT
    return "ok" if same else f"${recorded:.4f} in the manifest, ${spent:.4f} in the journal"


def _spent(journal: Path) -> float:
    """Return the total cost of the answers in a journal, in US dollars."""
    total = 0.0
    for at, entry in read_file(journal):
        cost = entry.get("cost", 0.0)
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf:
            raise InputError(f"not an amount of money: {cost!r}", where=at, field="cost")
        total += cost if entry.get("event") == "answered" else 0.0
    return total
