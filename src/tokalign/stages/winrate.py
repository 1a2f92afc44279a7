"""``tokalign eval-winrate``: prompts, candidates and a reference in; judgements and win rates out."""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

from tokalign import judges
from tokalign.artifacts import manifest
from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.schemas import Judgement, PromptRow
from tokalign.artifacts.writer import Writer, writing
from tokalign.config.stages import EvalWinrateConfig
from tokalign.core import evaluation, length_control, winrate
from tokalign.core.evaluation import Control, Judged
from tokalign.data import dataset
from tokalign.errors import UsageError
from tokalign.judges import FAILED, ORDERS, Answer, Judge, Pairing
from tokalign.runtime.progress import Progress
from tokalign.stages import candidates
from tokalign.stages.candidates import REFERENCE, Side

NAME = re.compile(r"[^/\\\0\ud800-\udfff]{1,100}")
"""Of a candidate: it names a folder too."""


def run(config: EvalWinrateConfig) -> Manifest | Any:
    """Let every candidate answer every prompt, and the judge compare each answer with the reference's."""
    if config.length_control == "alpaca-eval" and config.difficulty is None:
        raise UsageError("--length-control alpaca-eval needs --difficulty", remedy="give the file of difficulties")
    inputs: dict[str, dict[str, Any]] = {}
    for name in ("rubric", "difficulty", "annotations"):
        if (file := getattr(config, name)) is not None:
            inputs[name] = dataset.file_lineage(file)
    if config.annotations is not None:
        return _annotated(config, config.annotations, inputs)
    data, sides = _read(config)
    inputs["prompts"] = data.lineage
    inputs |= {s.name if s.name == REFERENCE else f"candidate {s.name}": s.lineage() for s in sides}
    for k, model in enumerate(config.reward_model):
        from tokalign.models import reward_functions

        inputs[f"reward_model_{k + 1}" if k else "reward_model"] = reward_functions.lineage(model)
    judge = judges.make(config, config.out)  # what is wrong with it is told before anything is sampled
    inputs |= judge.inputs()
    if config.dry_run:
        if not judge.paid:
            raise UsageError(f"--judge {config.judge} costs nothing", remedy="leave --dry-run out")
        return _estimated(config, judge, data, sides)

    with writing("winrates", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        data, notes = candidates.readable(data, sides, config)
        texts: dict[str, list[Answer]] = {}
        with Progress("eval-winrate", len(sides) * len(data), config.quiet) as bar:
            for n, side in enumerate(sides):
                bar.skip_to(n * len(data))
                texts[side.name] = candidates.responses(side, data, config, out, bar.advance)
        pairs = _pairs(list(data), texts)
        with out.part("judgements", config, inputs, "judgements") as nested:
            if nested.finished is None:
                _judge(judge, pairs, nested)
        told = {name: judge.describe([r.prompt for r in data], given) for name, given in texts.items()}
        judged = _judged(pairs, out.folder / "judgements", texts)
        shown = (
            {"id": r.id, "prompt": r.prompt, **{n: t[k].text for n, t in texts.items()}} for k, r in enumerate(data)
        )
        return _commit(config, judged, told, shown, out, data, notes)


def _read(config: EvalWinrateConfig) -> tuple[dataset.Rows[PromptRow], list[Side]]:
    """The prompts, and who answers them, the reference first."""
    no_prompts = config.prompts is None and not config.prompt
    if no_prompts or config.reference is None or not config.candidate:
        raise UsageError(
            "eval-winrate needs --prompts, --candidate and --reference", remedy="or --annotations alone; see --help"
        )
    sides = [candidates.side(REFERENCE, config.reference)]
    for spec in config.candidate:
        name, sep, path = spec.partition("=")
        if not (sep and path and NAME.fullmatch(name)) or name in (".", "..", *(s.name for s in sides)):
            raise UsageError(
                f"--candidate {spec!r}",
                remedy=f"give NAME=PATH, each name once, none of them {REFERENCE!r} or a path",
            )
        sides.append(candidates.side(name, path))
    if any(s.n > 1 for s in sides) and not config.reward_model:
        raise UsageError("the best of several needs --reward-model", remedy="name the one that picks")
    return dataset.read_prompts(config.prompts, config.prompt, config, config.limit), sides


def _pairs(rows: Sequence[PromptRow], texts: dict[str, list[Answer]]) -> list[Pairing]:
    """In an order that does not change with that of the candidates, so that a run that was cut can go on."""
    return [
        Pairing(row.id, row.prompt, name, reference, response)
        for name, given in sorted(texts.items())
        if name != REFERENCE
        for row, reference, response in zip(rows, texts[REFERENCE], given, strict=True)
    ]


def _judge(judge: Judge, pairs: list[Pairing], nested: Writer) -> None:
    """Write a judgement of every pair, in every order it is shown in."""
    with nested.rows() as file, closing(judge.judgements(pairs, file.taken)) as parts:
        for part in parts:
            file.append_json(j.model_dump() for j in part)
            file.count({"failed": sum(j.preference is None and j.reason.startswith(FAILED) for j in part)})
            file.done(len(part))
    failed = int(file.tally.get("failed", 0))
    nested.commit({"in": file.written, "out": file.written, "failed": failed}, {}, judge.usage)


def _estimated(config: EvalWinrateConfig, judge: Judge, data: dataset.Rows[PromptRow], sides: list[Side]) -> Any:
    if absent := [s.name for s in sides if not s.is_there]:
        raise UsageError(
            f"--dry-run samples nothing, and {absent[0]!r} has no responses yet", remedy="make them: tokalign generate"
        )
    texts = {s.name: candidates.responses(s, data, config, None, lambda _: None) for s in sides}
    return judge.estimate(_pairs(list(data), texts))


def _judged(pairs: list[Pairing], folder: Path, texts: dict[str, list[Answer]]) -> dict[str, Judged]:
    """Judgements by candidate, in the order in which these were named, and prompt."""
    given: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    for j in dataset.read_rows(folder, Judgement, "judgements"):
        given.setdefault((j.candidate, j.id), {}).setdefault(j.order, []).append(j.preference)
    lengths = {name: [len(a.text) for a in said] for name, said in texts.items()}
    found = {}
    for name, group in groupby(pairs, key=lambda p: p.candidate):
        of_one = list(group)
        ways = [{order: _mean(of) for order, of in given[name, p.id].items()} for p in of_one]
        # Equal responses are a tie by themselves: they say nothing of the judge.
        twice = [w for w, p in zip(ways, of_one, strict=True) if len(w) > 1 and p.reference != p.response]
        stats = winrate.of_orders(*([w[order] for w in twice] for order in ORDERS)) if twice else {}
        preferences = [winrate.together(list(w.values())) for w in ways]
        found[name] = Judged([p.id for p in of_one], preferences, lengths[name], lengths[REFERENCE], stats)
    return {name: found[name] for name in texts if name != REFERENCE}


def _mean(given: Sequence[float | None]) -> float | None:
    """Of verdicts on one pair, those that there are."""
    known = [p for p in given if p is not None]
    return sum(known) / len(known) if known else None


def _annotated(config: EvalWinrateConfig, file: Path, inputs: dict[str, dict[str, Any]]) -> Manifest:
    """AlpacaEval's numbers from its own file."""
    from tokalign.judges.recorded import annotations

    judged, shown = annotations(file)
    with writing("winrates", config, inputs) as out:
        return out.finished or _commit(config, judged, {}, shown, out)


def _commit(
    config: EvalWinrateConfig,
    judged: dict[str, Judged],
    told: dict[str, Any],
    shown: Iterable[dict[str, Any]],
    out: Writer,
    data: dataset.Rows[PromptRow] | None = None,
    notes: Sequence[str] = (),
) -> Manifest:
    """The numbers, as ``data.json`` and in the manifest; and what was compared, with the preferences, for the eye."""
    rows = sum(len(j.preferences) for j in judged.values())
    win_rates = evaluation.candidates(judged, config.seed, _control(config, judged))
    given = {name: dict(zip(j.keys, j.preferences, strict=True)) for name, j in judged.items()}
    out.jsonl(
        "compared.jsonl",
        ({**row, "preferences": {n: of[row["id"]] for n, of in given.items() if row["id"] in of}} for row in shown),
    )
    with out.file("data.json") as path:
        path.write_text(json.dumps({"candidates": win_rates}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    said = {name: of for name, of in told.items() if of}
    stats = {"candidates": win_rates, "paired": evaluation.paired(judged, config.seed), "judge": said}
    made = out.folder / "judgements"
    below = Manifest.read(made) if manifest.is_artifact(made) else None
    failed, usage = (below.rows.get("failed", 0), dict(below.usage)) if below else (0, {})
    left_out = {"skipped": data.reasons.total(), "reasons": dict(data.reasons)} if data and data.reasons else {}
    account = {"in": rows + data.reasons.total() if data else rows, "out": rows, "failed": failed, **left_out}
    return out.commit(account, stats | ({"notes": list(notes)} if notes else {}), usage)


def _control(config: EvalWinrateConfig, judged: dict[str, Judged]) -> Control | None:
    if config.length_control == "none":
        return None
    if config.length_control == "minimal":
        return length_control.minimal
    from tokalign.judges.recorded import difficulty

    assert config.difficulty is not None
    hard, gamed = difficulty(config.difficulty, max(len(j.preferences) for j in judged.values()))
    return lambda p, a, b: length_control.alpaca_eval(p, a, b, hard[: len(p)], gamed)
