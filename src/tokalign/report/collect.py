"""Finding artifacts below folders, and what of them a page shows."""

import json
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts import MANIFEST, Manifest
from tokalign.errors import InputError
from tokalign.report.spans import MOST, Span, clipped, is_whole, rewarded
from tokalign.report.text import safe
from tokalign.schemas import KINDS


class Found(NamedTuple):
    """An artifact: its path below the folder that was named, or that folder's own name, and where it lies."""

    name: str
    folder: Path
    manifest: Manifest


class Example(NamedTuple):
    """A response before and after its edit, with the labels of its tokens."""

    id: str
    prompt: str
    original: list[Span]
    edited: list[Span]
    about: str


class Rated(NamedTuple):
    """A response with the rewards of its tokens, or with one score."""

    id: str
    prompt: str
    spans: list[Span]
    score: str
    by: str
    """Name of the artifact."""
    whole: bool
    """Whether it has one score."""


def artifacts_below(folders: Sequence[Path], only: Sequence[str]) -> list[Found]:
    """All artifacts, each once, nested ones too, but for checkpoints. Links are followed.

    Raises:
        InputError: there are none.
    """
    found: dict[Path, Found] = {}
    for folder in folders:
        below = sorted(_folders(folder))
        if not below:
            raise InputError("no artifact here or below", where=str(folder), remedy="name folders of runs")
        for p in below:
            name = p.relative_to(folder).as_posix() if p != folder else folder.resolve().name
            found.setdefault(p.resolve(), Found(name, p, Manifest.read(p)))
    kept = [f for f in found.values() if not only or any(fnmatch(f.name, glob) for glob in only)]
    if not kept:
        raise InputError(
            f"no artifact matches {only}",
            where=", ".join(map(str, folders)),
            field="only",
            remedy="name artifacts as `tokalign show FOLDER` does, * for anything",
        )
    return kept


def _folders(folder: Path) -> Iterator[Path]:
    """Folders that hold an artifact."""
    seen = set()
    for here, below, files in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if name != "checkpoints"]
        if (place := os.path.realpath(here)) in seen:
            below.clear()
            continue
        seen.add(place)
        if MANIFEST in files and _ours(Path(here, MANIFEST)):
            yield Path(here)


def _ours(path: Path) -> bool:
    """Whether a manifest is one of ours; other tools have files of this name."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(raw, dict) and raw.get("kind") in KINDS


def of_kind(found: Sequence[Found], *kinds: str) -> dict[str, list[Found]]:
    """Artifacts of some kinds by name: the same one of other seeds side by side."""
    groups: dict[str, list[Found]] = {}
    for f in found:
        if f.manifest.kind in kinds:
            groups.setdefault(f.name, []).append(f)
    return groups


def labelled(found: Sequence[Found], most: int) -> list[Example]:
    """Examples of edits: one with each set of flaws, while there are any, then others."""
    from tokalign.tables import look_up_labels

    for f in found:
        if f.manifest.kind != "token-labels":
            continue
        first: dict[str, Example] = {}
        others: list[Example] = []
        for row, load in islice(look_up_labels(f.folder), 400):
            flaws = ", ".join(sorted(set(row["categories"])))
            whole = load()._asdict()
            if whole["original"] == whole["edited"]:
                continue
            before, after = (
                clipped(whole[s], whole[f"{s}_offsets"], whole[f"{s}_labels"]) for s in ("original", "edited")
            )
            about = safe(f"{flaws}; keeps {whole['similarity']:.0%} of the words")
            example = Example(safe(whole["id"]), flat(whole["prompt"]), before, after, about)
            if flaws not in first:
                first[flaws] = example
            elif len(others) < most:
                others.append(example)
            if len(first) >= most:
                break
        return [*first.values(), *others][:most]
    return []


def rated(found: Sequence[Found], most: int) -> list[list[Rated]]:
    """The same responses as different reward models see them, token-level ones last.

    Where reward models scored different responses, those that most of them scored; of an edit, the original.
    """
    scored = [f for f in found if f.manifest.kind == "token-rewards"]
    rows = {f.name: {(r["id"], r["response"]): r for r in islice(_rows(f.folder), 200)} for f in scored}
    alike = [[name for name, of in rows.items() if of.keys() & one.keys()] for one in rows.values()]
    names = max(alike, key=len, default=[])
    if not names:
        return []
    by_id: dict[Any, tuple[Any, str]] = {}
    for key in rows[names[0]]:
        if all(key in rows[name] for name in names):
            by_id.setdefault(key[0], key)
    shared = list(by_id.values())
    return [
        sorted((_rated(name, rows[name][key]) for name in names), key=lambda r: not r.whole)
        for key in shared[:: max(1, len(shared) // max(1, most))][:most]
    ]


def samples(found: Sequence[Found], names: Sequence[str], most: int) -> dict[str, list[Rated]]:
    """What the policies of these names wrote at the end of their training, with the rewards that they were paid."""
    shown = {}
    for f in found:
        files = sorted((f.folder / "samples").glob("*.jsonl"))
        if files and f.name in names and safe(f.name) not in shown:
            shown[safe(f.name)] = [_rated(files[-1].stem, row) for row in islice(_lines(files[-1]), most)]
    return shown


def _rated(name: str, row: dict[str, Any]) -> Rated:
    whole = is_whole(row)
    score = f"{row['score_sum']:+.2f} for the whole" if whole else f"{row['score_mean']:+.3f} a token"
    return Rated(safe(row["id"]), flat(row["prompt"]), rewarded(row), score, safe(name), whole)


def flat(prompt: Any) -> str:
    """A prompt as text, its middle left out if it is long."""
    if not isinstance(prompt, str):
        prompt = "\n".join(t["content"] if len(prompt) == 1 else f"{t['role']}: {t['content']}" for t in prompt)
    half, left = MOST // 2, len(prompt) - MOST
    return safe(prompt if left <= 0 else f"{prompt[:half]}\n[… {left} characters …]\n{prompt[-half:]}")


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    return _lines(folder / "data.jsonl")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
