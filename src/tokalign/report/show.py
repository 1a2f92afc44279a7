"""``tokalign show``: rows of an artifact in the terminal, or the tables of a whole folder of artifacts."""

import heapq
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tokalign.artifacts import manifest as artifacts
from tokalign.artifacts.manifest import Artifact
from tokalign.artifacts.result import StageResult
from tokalign.artifacts.schemas import KINDS, TokenRewards
from tokalign.config.stages import ShowConfig
from tokalign.errors import InputError, UsageError
from tokalign.report import collect, tables, winrates
from tokalign.report.rows import show_row
from tokalign.report.summary import headline
from tokalign.report.text import safe

Row = dict[str, Any]
Found = tuple[Row, Callable[[], Row]]
"""A row for selection and sorting, possibly without its large columns, and a function that loads the whole row."""


def run(config: ShowConfig) -> StageResult:
    """Print rows of an artifact, or the overview of a folder."""
    folder = config.artifact
    if artifacts.is_artifact(folder):
        artifact = artifacts.open_artifact(folder)
        if config.json:
            print(json.dumps(asdict(artifact.manifest), ensure_ascii=False))
        else:
            with _paged(config.pager) as console:
                _artifact(console, artifact, config)
    elif folder.is_dir():
        _overview(folder, config)
    else:
        raise InputError("no such artifact", where=str(folder), remedy="give the folder of an artifact")
    return StageResult()


def _artifact(console: Console, artifact: Artifact, config: ShowConfig) -> None:
    folder, manifest = artifact.folder, artifact.manifest
    rows = _selected(_rows(artifact), folder, config)
    shown = list(islice(rows, 1))  # raises errors in the selection before anything is printed
    if not shown and config.id is not None:
        raise InputError(f"no row has the id {config.id!r}", where=str(folder), field="id")
    if not shown and config.grep is not None:
        raise InputError(f"no row matches {config.grep!r}", where=str(folder), field="grep")
    console.print(Text(f"{manifest.kind}/{manifest.version}  {manifest.rows.get('out')} rows  {safe(str(folder))}"))
    for line in headline(manifest):
        console.print(Text(safe(line)))
    if manifest.kind in ("reward-model", "reward-metrics"):
        console.print(tables.reward_models({folder.name: manifest}))
        console.print(*tables.token_models({folder.name: manifest}))
    elif manifest.kind == "winrates":
        console.print(winrates.table(manifest))
        console.print(*tables.flaws(manifest))
    kind = "token-rewards" if manifest.kind == "policy" else manifest.kind  # a policy has samples with rewards
    for load in islice(chain(shown, rows), config.limit):
        console.print()
        show_row(console, kind, load(), None if config.full else config.context)
    if next(rows, None) is not None:
        console.print()
        console.print(Text(f"more rows: --skip {config.skip + config.limit}", "dim"))


def _overview(folder: Path, config: ShowConfig) -> None:
    found = {f.name: f.manifest for f in collect.artifacts_below([folder], [])}
    if config.json:
        print(json.dumps({name: asdict(m) for name, m in found.items()}, ensure_ascii=False))
        return
    console = tables.console()
    console.print(tables.stages(folder, found))
    models = {name: m for name, m in found.items() if m.kind in ("reward-model", "reward-metrics")}
    if models:
        console.print(tables.reward_models(models))
        console.print(*tables.token_models(models))
    judged = {name: m for name, m in found.items() if m.kind == "winrates"}
    for name, manifest in judged.items():
        console.print(winrates.table(manifest, name if len(judged) > 1 else ""))
        console.print(*tables.flaws(manifest))


def _rows(artifact: Artifact) -> Iterator[Found]:
    kind = artifact.manifest.kind
    if kind == "token-labels":
        from tokalign.artifacts.token_labels import look_up_labels

        for row, load in look_up_labels(artifact):
            yield row, lambda load=load: load()._asdict()  # type: ignore[misc]
        return
    if kind == "winrates":
        for row in winrates.disputed(artifact):
            yield row, lambda row=row: row  # type: ignore[misc]
        return
    schema = TokenRewards if kind == "policy" else KINDS[kind].row
    for path in (*artifact.find("data.jsonl"), *reversed(artifact.find("samples/*.jsonl"))):
        for row in collect.checked(path, schema) if schema else ():
            yield row, lambda row=row: row  # type: ignore[misc]


def _selected(rows: Iterable[Found], folder: Path, config: ShowConfig) -> Iterator[Callable[[], Row]]:
    """Filter and sort the rows by the options, and skip the first ones."""
    if config.id is not None:
        rows = (found for found in rows if found[0]["id"] == config.id)
    if config.grep is not None:
        try:
            pattern = re.compile(config.grep)
        except re.error as e:
            remedy = "escape special characters such as ( [ . with a backslash"
            raise UsageError(f"--grep is not a regular expression: {e}", remedy=remedy) from e
        rows = (found for found in rows if any(map(pattern.search, _texts(found[0]))))
    if config.sort is not None:
        rows = _sorted(rows, folder, config.sort, config.skip + config.limit + 1)
    return (load for _, load in islice(rows, config.skip, None))


def _sorted(rows: Iterable[Found], folder: Path, by: str, limit: int) -> Iterator[Found]:
    """Return the first ``limit`` rows in the order of a column (descending with ``-``); only these are in memory."""
    name, sign = by.removeprefix("-"), -1 if by.startswith("-") else 1

    def key(found: Found) -> float:
        value = found[0].get(name)
        if value is None and name in found[0]:
            return math.inf  # rows without a value come last
        if not isinstance(value, int | float):
            numbers = [k for k, v in found[0].items() if isinstance(v, int | float) and not isinstance(v, bool)]
            remedy = f"numeric columns: {', '.join(numbers)}" if numbers else "rows of this kind cannot be sorted"
            raise InputError(f"not a numeric column: {name!r}", where=str(folder), field="sort", remedy=remedy)
        return sign * value

    return iter(heapq.nsmallest(limit, rows, key))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


@contextmanager
def _paged(wanted: bool) -> Iterator[Console]:
    """Console for standard output, through ``$PAGER`` (default: less) on a terminal."""
    console = tables.console()
    command = os.environ.get("PAGER", "less")
    available = bool(command.strip()) and shutil.which(command.split()[0]) is not None
    if not (wanted and available and console.is_terminal and sys.stdin.isatty()):
        yield console
        return
    # Like git: pass colours through, exit if the output fits on one screen, and keep it there.
    env = {"LESS": "FRX", **os.environ}
    with subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=env, encoding="utf-8") as pager:
        to: Any = pager.stdin
        with suppress(BrokenPipeError):  # the user closed the pager
            try:
                yield tables.console(to, console)
            finally:
                to.close()
