"""Finding artifacts below folders, and what of them a page shows."""

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
from tokalign.report.spans import MOST, Span, clipped, is_whole, rewarded
from tokalign.report.text import safe


class Found(NamedTuple):
    """An artifact: its path below the folder that was named, or that folder's own name, and what was opened there."""

    name: str
    artifact: Artifact

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.artifact.folder

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""
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
    """Name of the artifact."""
    whole: bool
    """Whether it has one score."""


def artifacts_below(folders: Sequence[Path], only: Sequence[str]) -> list[Found]:
    """All artifacts, each once and checked, nested ones too, but for checkpoints. Links are not followed.

    Raises:
        InputError: there are none, or one is damaged.
    """
    below = folders_below(folders)
    kept = [Found(n, open_artifact(p)) for n, p in below if not only or any(fnmatch(n, glob) for glob in only)]
    if not kept:
        raise InputError(
            f"no artifact matches {only}",
            where=", ".join(map(str, folders)),
            field="only",
            remedy="name artifacts as `tokalign show FOLDER` does, * for anything",
        )
    return kept


def folders_below(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """The names and folders of :func:`artifacts_below`, unchecked.

    Raises:
        InputError: there are none below one of the folders.
    """
    names: dict[Path, tuple[str, Path]] = {}
    for folder in folders:
        below = sorted(_folders(folder))
        if not below:
            raise InputError("no artifact here or below", where=str(folder), remedy="name folders of runs")
        for p in below:
            name = p.relative_to(folder).as_posix() if p != folder else folder.resolve().name
            names.setdefault(p.resolve(), (name, p))
    return list(names.values())


def _folders(folder: Path) -> Iterator[Path]:
    """Folders that hold an artifact."""
    for here, below, files in os.walk(folder):
        below[:] = [name for name in below if name != "checkpoints"]
        if MANIFEST in files and looks_ours(Path(here)):
            yield Path(here)


def of_kind(found: Sequence[Found], *kinds: str) -> dict[str, list[Found]]:
    """Artifacts of some kinds by name: the same one of other seeds side by side."""
    groups: dict[str, list[Found]] = {}
    for f in found:
        if f.manifest.kind in kinds:
            groups.setdefault(f.name, []).append(f)
    return groups


def labelled(found: Sequence[Found], most: int) -> list[Example]:
    """Examples of edits: one with each set of flaws, while there are any, then others."""
    from tokalign.artifacts.token_labels import look_up_labels

    for f in found:
        if f.manifest.kind != "token-labels":
            continue
        first: dict[str, Example] = {}
        others: list[Example] = []
        for row, load in islice(look_up_labels(f.artifact), 400):
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
    rows = {
        f.name: {(r["id"], r["response"]): r for r in islice(checked(f.artifact.file("data.jsonl"), TokenRewards), 200)}
        for f in scored
    }
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
        files = f.artifact.find("samples/*.jsonl")
        if files and f.name in names and safe(f.name) not in shown:
            rows = islice(checked(files[-1], TokenRewards), most)
            shown[safe(f.name)] = [_rated(files[-1].stem, row) for row in rows]
    return shown


def _rated(name: str, row: dict[str, Any]) -> Rated:
    whole = is_whole(row)
    score = f"{row['score_sum']:+.2f} for the whole" if whole else f"{row['score_mean']:+.3f} a token"
    return Rated(safe(row["id"]), flat(row["prompt"]), rewarded(row), score, safe(name), whole)


def flat(prompt: Any) -> str:
    """A prompt as text, its middle left out if it is long."""
    text = as_text(prompt)
    half, left = MOST // 2, len(text) - MOST
    return safe(text if left <= 0 else f"{text[:half]}\n[… {left} characters …]\n{text[-half:]}")


def checked(path: Path, row: type[Row]) -> Iterator[dict[str, Any]]:
    """The rows of a file of an artifact, each as its type says.

    Raises:
        InputError: one is not.
    """
    for at, raw in read_file(path):
        check_row(at, raw, row)
        yield raw
