"""Finds artifacts below folders and selects the examples that the report shows."""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.artifacts.manifest import MANIFEST, Artifact, Manifest, looks_ours, open_artifact
from tokalign.artifacts.schemas import Row, TokenRewards
from tokalign.data.conversation import as_text
from tokalign.data.dataset import check_row
from tokalign.data.readers import read_file
from tokalign.errors import InputError
from tokalign.report.spans import MAX_CHARACTERS, Span, clipped, is_whole, rewarded
from tokalign.report.text import safe


class Found(NamedTuple):
    """An artifact and its name: its path below the given folder, or the name of that folder itself."""

    name: str
    artifact: Artifact

    @property
    def folder(self) -> Path:
        """Folder of the artifact."""
        return self.artifact.folder

    @property
    def manifest(self) -> Manifest:
        """Manifest of the artifact."""
        return self.artifact.manifest


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
    """Name of the artifact of rewards."""
    whole: bool
    """Whether the response has a single score."""


def artifacts_below(folders: Sequence[Path], only: Sequence[str]) -> list[Found]:
    """Open and check all artifacts in and below the folders, nested ones too, without duplicates and checkpoints.

    Symbolic links are not followed.

    Args:
        folders: folders to search.
        only: globs for names of artifacts; empty: all.

    Raises:
        InputError: there are no such artifacts, or one is damaged.
    """
    below = folders_below(folders)
    matching = [Found(n, open_artifact(p)) for n, p in below if not only or any(fnmatch(n, glob) for glob in only)]
    if not matching:
        raise InputError(
            f"no artifact matches {only}",
            where=", ".join(map(str, folders)),
            field="only",
            remedy="use names as `tokalign show FOLDER` lists them; * matches anything",
        )
    return matching


def folders_below(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return the names and folders for :func:`artifacts_below`, without opening the artifacts.

    Raises:
        InputError: there is no artifact in or below one of the folders.
    """
    names: dict[Path, tuple[str, Path]] = {}
    for folder in folders:
        below = sorted(_folders(folder))
        if not below:
            raise InputError("no artifact in or below this folder", where=str(folder), remedy="give folders of runs")
        for p in below:
            name = p.relative_to(folder).as_posix() if p != folder else folder.resolve().name
            names.setdefault(p.resolve(), (name, p))
    return list(names.values())


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the folders that contain an artifact."""
    for path, below, files in os.walk(folder):
        below[:] = [name for name in below if name != "checkpoints"]
        if MANIFEST in files and looks_ours(Path(path)):
            yield Path(path)


def of_kind(found: Sequence[Found], *kinds: str) -> dict[str, list[Found]]:
    """Group the artifacts of some kinds by name. Runs with several seeds have one artifact per seed in a group."""
    groups: dict[str, list[Found]] = {}
    for f in found:
        if f.manifest.kind in kinds:
            groups.setdefault(f.name, []).append(f)
    return groups


def labelled(found: Sequence[Found], limit: int) -> list[Example]:
    """Return up to ``limit`` examples of edits: first one for each set of flaw categories, then others."""
    from tokalign.artifacts.token_labels import look_up_labels

    for f in found:
        if f.manifest.kind != "token-labels":
            continue
        first: dict[str, Example] = {}
        others: list[Example] = []
        for row, load in islice(look_up_labels(f.artifact), 400):
            flaws = ", ".join(sorted(set(row["categories"])))
            labels = load()._asdict()
            if labels["original"] == labels["edited"]:
                continue
            before, after = (
                clipped(labels[s], labels[f"{s}_offsets"], labels[f"{s}_labels"]) for s in ("original", "edited")
            )
            about = safe(f"{flaws}; keeps {labels['similarity']:.0%} of the words")
            example = Example(safe(labels["id"]), flat(labels["prompt"]), before, after, about)
            if flaws not in first:
                first[flaws] = example
            elif len(others) < limit:
                others.append(example)
            if len(first) >= limit:
                break
        return [*first.values(), *others][:limit]
    return []


def rated(found: Sequence[Found], limit: int) -> list[list[Rated]]:
    """Return up to ``limit`` responses, each with the rewards of several reward models, token-level models last.

    If the reward models scored different responses, the largest group of models with common responses is used. Of an
    edit, only the original is returned.
    """
    scored = [f for f in found if f.manifest.kind == "token-rewards"]
    rows = {
        f.name: {(r["id"], r["response"]): r for r in islice(checked(f.artifact.file("data.jsonl"), TokenRewards), 200)}
        for f in scored
    }
    groups = [[name for name, other in rows.items() if other.keys() & own.keys()] for own in rows.values()]
    names = max(groups, key=len, default=[])
    if not names:
        return []
    by_id: dict[Any, tuple[Any, str]] = {}
    for key in rows[names[0]]:
        if all(key in rows[name] for name in names):
            by_id.setdefault(key[0], key)
    shared = list(by_id.values())
    return [
        sorted((_rated(name, rows[name][key]) for name in names), key=lambda r: not r.whole)
        for key in shared[:: max(1, len(shared) // max(1, limit))][:limit]
    ]


def samples(found: Sequence[Found], names: Sequence[str], limit: int) -> dict[str, list[Rated]]:
    """Return up to ``limit`` responses, with rewards, from the last samples of each policy in ``names``."""
    last = {}
    for f in found:
        files = f.artifact.find("samples/*.jsonl")
        if files and f.name in names and safe(f.name) not in last:
            rows = islice(checked(files[-1], TokenRewards), limit)
            last[safe(f.name)] = [_rated(files[-1].stem, row) for row in rows]
    return last


def _rated(name: str, row: dict[str, Any]) -> Rated:
    whole = is_whole(row)
    score = f"{row['score_sum']:+.2f} per response" if whole else f"{row['score_mean']:+.3f} per token"
    return Rated(safe(row["id"]), flat(row["prompt"]), rewarded(row), score, safe(name), whole)


def flat(prompt: Any) -> str:
    """Return a prompt as one text, with the middle of a long one omitted."""
    text = as_text(prompt)
    half, omitted = MAX_CHARACTERS // 2, len(text) - MAX_CHARACTERS
    return safe(text if omitted <= 0 else f"{text[:half]}\n[… {omitted} characters …]\n{text[-half:]}")


def checked(path: Path, row: type[Row]) -> Iterator[dict[str, Any]]:
    """Read the rows of a file of an artifact and validate them against a row type.

    Raises:
        InputError: a row is not valid.
    """
    for at, raw in read_file(path):
        check_row(at, raw, row)
        yield raw
