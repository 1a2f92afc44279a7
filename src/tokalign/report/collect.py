"""Finding artifacts below folders, and what of them a page shows."""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts import MANIFEST, Manifest
from tokalign.errors import InputError
from tokalign.report.spans import Span, marked
from tokalign.report.text import safe
from tokalign.schemas import KINDS


class Found(NamedTuple):
    """An artifact: its path below the folder that was named, and where it lies."""

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


def artifacts_below(folders: Sequence[Path], only: Sequence[str]) -> list[Found]:
    """All artifacts, nested ones too, but for checkpoints.

    Raises:
        InputError: there are none.
    """
    found: list[Found] = []
    for folder in folders:
        below = [
            path for path in sorted(folder.glob(f"**/{MANIFEST}")) if "checkpoints" not in path.parts and _ours(path)
        ]
        if not below:
            raise InputError("no artifact here or below", where=str(folder), remedy="name folders of runs")
        found += [Found(p.parent.relative_to(folder).as_posix(), p.parent, Manifest.read(p.parent)) for p in below]
    kept = [f for f in found if not only or any(fnmatch(f.name, glob) for glob in only)]
    if not kept:
        raise InputError(f"no artifact matches {only}", where=", ".join(map(str, folders)), field="only")
    return kept


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
                marked(whole[s], whole[f"{s}_offsets"], whole[f"{s}_labels"]) for s in ("original", "edited")
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
    """The same responses as different reward models see them, token-level ones last."""
    scored = [f for f in found if f.manifest.kind == "token-rewards"]
    rows = {f.name: {(r["id"], r["sample"]): r for r in islice(_rows(f.folder), 200)} for f in scored}
    first = next(iter(rows.values()), {})
    shared = [
        key
        for key, row in first.items()
        if all(key in of and of[key]["response"] == row["response"] for of in rows.values())
    ]
    groups = []
    for key in shared[: 2 * most : 2] if len(shared) > most else shared:
        group = [_rated(name, of[key]) for name, of in rows.items()]
        groups.append(sorted(group, key=lambda r: bool(r.spans and any(s.mark for s in r.spans))))
    return groups[:most]


def samples(found: Sequence[Found], most: int) -> dict[str, list[Rated]]:
    """What policies wrote at the end of their training, with the rewards that they were paid."""
    shown = {}
    for f in found:
        files = sorted((f.folder / "samples").glob("*.jsonl"))
        if files and f.name not in shown:
            shown[f.name] = [_rated(files[-1].stem, row) for row in islice(_lines(files[-1]), most)]
    return shown


def _rated(name: str, row: dict[str, Any]) -> Rated:
    whole = row["p_bad"] is None if "p_bad" in row else False
    spans = [Span(safe(row["response"]), "")] if whole else marked(row["response"], row["offsets"], row["reward"])
    score = f"{row['score_sum']:+.2f} for the whole" if whole else f"{row['score_mean']:+.3f} a token"
    return Rated(safe(row["id"]), flat(row["prompt"]), spans, score, safe(name))


def flat(prompt: Any) -> str:
    """A prompt as text."""
    if isinstance(prompt, str):
        return safe(prompt)
    return safe("\n".join(t["content"] if len(prompt) == 1 else f"{t['role']}: {t['content']}" for t in prompt))


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    return _lines(folder / "data.jsonl")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
