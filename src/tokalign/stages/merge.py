"""``tokalign merge``: join the parts of a run that was divided with ``--shard`` into the artifact of the whole run."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from tokalign.artifacts import token_labels
from tokalign.artifacts.manifest import ANNOTATIONS, JOURNAL, LOGS, PLAN, Artifact, is_artifact, open_artifact
from tokalign.artifacts.result import StageResult
from tokalign.artifacts.resumable import RowFile, group, with_largest
from tokalign.artifacts.schemas import KINDS
from tokalign.artifacts.workspace import PROGRESS
from tokalign.artifacts.writer import Writer, writing
from tokalign.config import stages as options
from tokalign.config.sharding import ShardOptions
from tokalign.config.stages import MergeConfig
from tokalign.errors import InputError, KindError
from tokalign.stages import diff, edit, generate, score

LINES = 1024
"""Rows that are copied at a time."""


class Kind(NamedTuple):
    """How the parts of one kind of artifact are joined."""

    options: type[ShardOptions]
    stage: Any
    """Module of the command, whose ``stats`` makes the statistics of the whole from the sums of all counters."""


MERGED = {
    "edits": Kind(options.EditConfig, edit),
    "token-labels": Kind(options.DiffConfig, diff),
    "responses": Kind(options.GenerateConfig, generate),
    "token-rewards": Kind(options.ScoreConfig, score),
}


def run(config: MergeConfig) -> StageResult:
    """Write the artifact that the same command without ``--shard`` would have written.

    Raises:
        InputError, KindError: the parts are not all parts of one run, each given once.
    """
    # 1. Open the parts, check that they belong together, and put them in order.
    parts = _in_order([_open(folder) for folder in config.shards])
    first, kind = parts[0].manifest, MERGED[parts[0].manifest.kind]
    whole = _whole(first.config, kind.options, config)
    inputs = {i["name"]: {**i, "path": _path(parts[0], i)} for i in first.inputs}
    tally = _sum([part.manifest.stats["shard"]["tally"] for part in parts])
    if hasattr(kind.stage, "check"):
        kind.stage.check(tally, whole)

    with writing(first.kind, whole, inputs) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished)

        # 2. Copy the rows, part by part, and the other files, which are the same in all parts.
        out.space.remove(PROGRESS)
        with _rows(out, first.kind) as file:
            for data, n in _chunks(parts):
                file.append(data, n)
                file.done(n)
        _copy_others(parts, out)

        # 3. Write the statistics of the whole.
        of_parts = [part.manifest.rows for part in parts]
        reasons = sum((Counter(rows["reasons"]) for rows in of_parts), Counter[str]())
        counts = {key: sum(rows.get(key, 0) for rows in of_parts) for key in ("in", "out", "skipped", "failed")}
        notes = list(dict.fromkeys(note for part in parts for note in part.manifest.stats.get("notes", [])))
        known = {key: value for key, value in first.stats.items() if key not in ("shard", "notes")}
        stats = {**known, **kind.stage.stats(tally)}
        return StageResult.of(out.folder, out.commit({**counts, "reasons": dict(reasons)}, stats, notes=notes))


def _open(folder: Path) -> Artifact:
    if not is_artifact(folder):
        unfinished = (folder / PLAN).is_file()
        problem = "an unfinished run" if unfinished else "not an artifact"
        remedy = "run its command again to finish it" if unfinished else "give folders made with --shard"
        raise InputError(problem, where=str(folder), remedy=remedy)
    artifact = open_artifact(folder)
    if artifact.manifest.kind not in MERGED:
        raise KindError(f"{artifact.manifest.kind} are not made in parts", where=str(folder), remedy="see --shard")
    if "shard" not in artifact.manifest.stats:
        remedy = f"make the parts with {KINDS[artifact.manifest.kind].made_by} --shard K/N"
        raise InputError("not a part of a run: it was made without --shard", where=str(folder), remedy=remedy)
    return artifact


def _in_order(parts: Sequence[Artifact]) -> list[Artifact]:
    """Check that the parts are all parts of one run, and sort them.

    Raises:
        InputError: they are of different runs, or a part is missing or given twice.
    """
    first = parts[0]
    compared = [f.name for f in fields(MERGED[first.manifest.kind].options) if f.metadata["role"] in _COMPARED]
    for other in parts[1:]:
        a, b = (
            {**p.manifest.fingerprint(compared), "parts": p.manifest.stats["shard"]["of"], "shard": None}
            for p in (first, other)
        )
        if changed := [key for key in {**a, **b} if a.get(key) != b.get(key)]:
            shown = "; ".join(f"{key}: {str(a.get(key))[:40]} and {str(b.get(key))[:40]}" for key in changed)
            where = f"{first.folder} and {other.folder}"
            raise InputError(f"parts of different runs: {shown}", where=where, remedy="give the parts of one run")
    of = first.manifest.stats["shard"]["of"]
    by_index: dict[int, Artifact] = {}
    for part in parts:
        index = part.manifest.stats["shard"]["number"]
        if index in by_index:
            both = f"{by_index[index].folder} and {part.folder}"
            raise InputError(f"both are part {index}/{of}", where=both, remedy="give every part once")
        by_index[index] = part
    if missing := [f"{k}/{of}" for k in range(of) if k not in by_index]:
        raise InputError(
            f"missing parts: {', '.join(missing[:20])}", where=str(first.folder), remedy="make them with --shard K/N"
        )
    return [by_index[k] for k in range(of)]


_COMPARED = ("rows", "more", "limit")
"""Roles of the options that are the same in all parts of a run."""


def _whole(recorded: Mapping[str, Any], kind: type[ShardOptions], config: MergeConfig) -> ShardOptions:
    """Return the options of the run without ``--shard``, from those recorded in the manifest of a part."""
    hints = get_type_hints(kind)
    names = {f.name for f in fields(kind)}
    values: dict[str, Any] = {
        key: Path(value) if value is not None and hints[key] in (Path, Path | None) else value
        for key, value in recorded.items()
        if key in names
    }
    return kind(**{**values, "shard": None, "out": config.out, "fresh": config.fresh, "quiet": config.quiet})


def _path(part: Artifact, entry: Mapping[str, Any]) -> str:
    """Path of an input: as recorded, or from here if it is relative to the part and exists."""
    path = str(entry.get("path", ""))
    here = part.folder / path
    return str(here) if path and here.exists() else path


def _sum(tallies: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add the counters of the parts; of the longest edits, keep the longest as one run does."""
    total: dict[str, float] = {}
    for tally in tallies:
        for key, n in tally.items():
            if not key.startswith("longest/"):
                total[key] = total.get(key, 0) + n
        total = with_largest(total, "longest", group(tally, "longest"), diff.LONGEST)
    return total


def _rows(out: Writer, kind: str) -> RowFile:
    if kind == "token-labels":
        return out.rows("data.arrow", token_labels.HEAD, token_labels.TAIL, diff.SHARD)
    return out.rows()


def _chunks(parts: Sequence[Artifact]) -> Iterator[tuple[bytes, int]]:
    """Yield the serialised rows of all parts, with their number."""
    for part in parts:
        if part.manifest.kind == "token-labels":
            for path in part.find("data*.arrow"):
                for batch in token_labels.batches(path):
                    yield batch.serialize().to_pybytes(), batch.num_rows
            continue
        with part.file("data.jsonl").open("rb") as lines:
            while chunk := list(islice(lines, LINES)):
                yield b"".join(chunk), len(chunk)


def _copy_others(parts: Sequence[Artifact], out: Writer) -> None:
    """Copy the files besides the data, such as the tokenizer of labels.

    Raises:
        InputError: a file is not the same in all parts.
    """
    hashes = [{f["name"]: f["sha256"] for f in part.manifest.files if _is_other(f["name"])} for part in parts]
    for part, found in zip(parts, hashes, strict=True):
        if found != hashes[0]:
            name = next(name for name in {**hashes[0], **found} if found.get(name) != hashes[0].get(name))
            problem = f"{name} differs from that of {parts[0].folder}"
            raise InputError(problem, where=str(part.folder), remedy="make the parts with the same tokalign and models")
    with out.space.saving() as scratch:
        for name in hashes[0]:
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parts[0].folder / name, scratch / name)


def _is_other(name: str) -> bool:
    top = name.split("/", maxsplit=1)[0]
    return top not in (*LOGS, JOURNAL, ANNOTATIONS) and not (top.startswith("data") and "/" not in name)
