"""Judgements made elsewhere (by people, another tool or an earlier run), and AlpacaEval's annotations."""

import csv
import json
from collections import Counter
from collections.abc import Generator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tokalign.artifacts.schemas import Judgement
from tokalign.config.methods import JudgeOptions
from tokalign.core.evaluation import Judged
from tokalign.core.length_control import Gamed
from tokalign.data import dataset
from tokalign.errors import InputError, UsageError
from tokalign.judges import CHUNK, Pairing, Unpaid
from tokalign.runtime.disk import hash_json

_NEEDED = ("generator_1", "generator_2", "preference")


class RecordedJudge(Unpaid):
    """Returns the judgements of ``--judgements``.

    Raises:
        UsageError: ``--judgements`` is not given.
        InputError: the judgements are not valid.
    """

    def __init__(self, options: JudgeOptions, _: Path) -> None:
        super().__init__(options)
        if options.judgements is None:
            raise UsageError("--judge recorded needs --judgements", remedy="name a file or artifact of judgements")
        self._where = options.judgements
        self._rows = dataset.read_rows(options.judgements, Judgement, "judgements")

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return the file or artifact of judgements."""
        return {"judgements": self._rows.lineage}

    def judgements(self, pairs: Sequence[Pairing], start: int) -> Generator[list[Judgement]]:
        """See :class:`tokalign.judges.Judge`. Each pair has all orders in which it was judged.

        Raises:
            InputError: a pair has no judgement.
        """
        found: dict[tuple[str, str], list[Judgement]] = {}
        for row in self._rows:
            found.setdefault((row.id, row.candidate), []).append(row)
        missing = [p for p in pairs if (p.id, p.candidate) not in found]
        if missing:
            raise InputError(
                f"no judgement of {len(missing)} of {len(pairs)} pairs, the first is of {missing[0].candidate!r}",
                where=self._where,
                field=f"id {missing[0].id!r}",
                remedy="use the candidate names and prompt ids of the judgements",
            )
        ordered = (j for p in pairs for j in sorted(found[p.id, p.candidate], key=lambda j: j.order, reverse=True))
        remaining = islice(ordered, start, None)
        while chunk := list(islice(remaining, CHUNK)):
            yield chunk


def annotations(path: Path) -> tuple[dict[str, Judged], list[dict[str, Any]]]:
    """Read AlpacaEval's ``annotations.json``.

    ``preference`` is 1 if ``output_1``, of the reference, is better and 2 if ``output_2`` is better. Values between are
    the judge's confidence; 1.5 (0 in older files) is a tie and null is no verdict.

    Returns:
        The judgements by candidate, and one row per instruction with its prompt and all responses.

    Raises:
        InputError: the file is not a valid list of annotations.
    """
    remedy = f"give AlpacaEval's annotations.json: a list of objects with {', '.join(_NEEDED)}, output_1 and output_2"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"not JSON: {e}", where=str(path), remedy=remedy) from e
    if not isinstance(raw, list) or not raw:
        raise InputError("not a list of annotations", where=str(path), remedy=remedy)
    by_candidate: dict[str, list[dict[str, Any]]] = {}
    for k, row in enumerate(raw):
        at = f"{path}: annotation {k}"
        if not isinstance(row, dict) or any(name not in row for name in _NEEDED):
            raise InputError("not an annotation", where=at, remedy=remedy)
        row["preference"] = _preference(row["preference"], at)
        by_candidate.setdefault(str(row["generator_2"]), []).append(row)
    references = {str(row["generator_1"]) for row in raw}
    if len(references) > 1:
        raise InputError(f"several references: {sorted(references)[:3]}", where=str(path), remedy="give one file each")
    for name, rows in by_candidate.items():
        if all(row["preference"] is None for row in rows):
            raise InputError(f"candidate {name!r} has no judgement", where=str(path), field="preference")
    shown: dict[str, dict[str, Any]] = {}
    for name, rows in by_candidate.items():
        for key, row in zip(_keys(rows), rows, strict=True):
            texts = {"reference": row.get("output_1"), name: row.get("output_2")}
            known = {side: text for side, text in texts.items() if isinstance(text, str)}
            shown.setdefault(key, {"id": key, "prompt": str(row.get("instruction", ""))}).update(known)
    return {name: _judged(rows) for name, rows in by_candidate.items()}, list(shown.values())


def _keys(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a unique key per row: a hash of its instruction (or index) and the number of earlier occurrences."""
    seen: Counter[str] = Counter()
    keys = []
    for k, row in enumerate(rows):
        instruction = str(row.get("instruction", k))
        keys.append(f"{hash_json(instruction)[:12]}-{seen[instruction]}")
        seen[instruction] += 1
    return keys


def _preference(value: Any, at: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 <= value <= 2):
        remedy = "give a number from 1 (output_1 is better) to 2 (output_2 is better), 0 for a tie or null"
        raise InputError(f"got {value!r}", where=at, field="preference", remedy=remedy)
    return float(value) or 1.5


def _judged(rows: Sequence[dict[str, Any]]) -> Judged:
    texts = [(row.get("output_2"), row.get("output_1")) for row in rows]
    known = all(isinstance(a, str) and isinstance(b, str) for a, b in texts)
    lengths = [(len(a or ""), len(b or "")) for a, b in texts] if known else []
    return Judged(_keys(rows), [row["preference"] for row in rows], [a for a, _ in lengths], [b for _, b in lengths])


def difficulty(file: Path, rows: int) -> tuple[list[float], Gamed | None]:
    """Read the difficulties of instructions from a CSV file, for length control.

    Args:
        file: CSV with the columns ``index`` and ``instruction_difficulty``.
        rows: number of instructions.

    Returns:
        The difficulty of each of the first ``rows`` instructions and, if the file has the columns of AlpacaEval's
        ``df_gamed.csv``, the gamed responses.

    Raises:
        InputError: the file is not valid, or an instruction is missing.
    """
    where = str(file)
    try:
        with file.open(encoding="utf-8", newline="") as f:
            lines = list(csv.DictReader(f))
        difficulties: dict[int, float] = {}
        for line in lines:
            difficulties.setdefault(int(float(line["index"])), float(line["instruction_difficulty"]))
        gamed = None
        if lines and {"preference", "std_delta_len"} <= lines[0].keys():
            columns = [
                [float(line[name]) for line in lines]
                for name in ("preference", "std_delta_len", "instruction_difficulty")
            ]
            gamed = Gamed(*(np.array(column) for column in columns))
    except (OSError, KeyError, TypeError, ValueError) as e:
        remedy = "give a CSV file with the columns index and instruction_difficulty"
        raise InputError(f"not a file of difficulties: {type(e).__name__} {e}", where=where, remedy=remedy) from e
    missing = [k for k in range(rows) if k not in difficulties]
    if missing:
        raise InputError(f"no difficulty for instruction {missing[0]}", where=where, field="index")
    return [difficulties[k] for k in range(rows)], gamed
