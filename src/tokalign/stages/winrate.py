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
from tokalign.artifacts.result import StageResult
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
"""Valid names of candidates. A name is also the name of a folder."""


def run(config: EvalWinrateConfig) -> StageResult:
    """Compare the responses of every candidate with those of the reference, and compute win rates.

    Returns:
        The manifest, or with ``--dry-run`` an estimate of the judge's cost.
    """
    # 1. Read the prompts and candidates, or AlpacaEval's annotations, and collect the inputs.
    if config.length_control == "alpaca-eval" and config.difficulty is None:
        raise UsageError(
            "--length-control alpaca-eval needs --difficulty", remedy="give a CSV file with the difficulties"
        )
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
    judge = judges.make(config, config.out)  # before sampling, so that its errors appear first
    inputs |= judge.inputs()

    # 2. With --dry-run, estimate the cost and stop.
    if config.dry_run:
        if not judge.paid:
            raise UsageError(f"--judge {config.judge} costs nothing", remedy="remove --dry-run")
        return StageResult(estimate=_estimate(config, judge, data, sides))

    with writing("winrates", config, inputs) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished)

        # 3. Read or sample the responses of every side.
        data, notes = candidates.readable(data, sides, config)
        responses: dict[str, list[Answer]] = {}
        with Progress("eval-winrate", len(sides) * len(data), config.quiet) as bar:
            for n, side in enumerate(sides):
                bar.skip_to(n * len(data))
                responses[side.name] = candidates.responses(side, data, config, out, bar.advance)

        # 4. Judge every pair.
        pairs = _pairs(list(data), responses)
        with out.part("judgements", config, inputs, "judgements") as nested:
            if nested.finished is None:
                _judge(judge, pairs, nested)

        # 5. Compute the win rates.
        described = {name: judge.describe([r.prompt for r in data], answers) for name, answers in responses.items()}
        judged = _judged(pairs, out.folder / "judgements", responses)
        compared = (
            {"id": r.id, "prompt": r.prompt, **{name: answers[k].text for name, answers in responses.items()}}
            for k, r in enumerate(data)
        )
        return StageResult.of(out.folder, _commit(config, judged, described, compared, out, data, notes))


def _read(config: EvalWinrateConfig) -> tuple[dataset.Rows[PromptRow], list[Side]]:
    """Read the prompts and parse the sides, the reference first."""
    no_prompts = config.prompts is None and not config.prompt
    if no_prompts or config.reference is None or not config.candidate:
        raise UsageError(
            "eval-winrate needs --prompts, --candidate and --reference, or only --annotations",
            remedy="see tokalign eval-winrate --help",
        )
    sides = [candidates.parse_side(REFERENCE, config.reference)]
    for spec in config.candidate:
        name, sep, path = spec.partition("=")
        if not (sep and path and NAME.fullmatch(name)) or name in (".", "..", *(s.name for s in sides)):
            raise UsageError(
                f"--candidate {spec!r}",
                remedy=f"give NAME=PATH; a name is used once, is not {REFERENCE!r} and has no slash",
            )
        sides.append(candidates.parse_side(name, path))
    if any(s.n > 1 for s in sides) and not config.reward_model:
        raise UsageError("PATH@N needs --reward-model", remedy="give the reward model that selects the best of N")
    return dataset.read_prompts(config.prompts, config.prompt, config, config.limit), sides


def _pairs(rows: Sequence[PromptRow], responses: dict[str, list[Answer]]) -> list[Pairing]:
    """Pair every candidate with the reference. Sorted by name, so that a run resumes if candidates are reordered."""
    return [
        Pairing(row.id, row.prompt, name, reference, response)
        for name, answers in sorted(responses.items())
        if name != REFERENCE
        for row, reference, response in zip(rows, responses[REFERENCE], answers, strict=True)
    ]


def _judge(judge: Judge, pairs: list[Pairing], nested: Writer) -> None:
    """Judge every pair, in each order, and write the judgements."""
    with nested.rows() as file, closing(judge.judgements(pairs, file.taken)) as parts:
        for part in parts:
            file.append_json(j.model_dump() for j in part)
            file.count({"failed": sum(j.preference is None and j.reason.startswith(FAILED) for j in part)})
            file.done(len(part))
    failed = int(file.tally.get("failed", 0))
    nested.commit({"in": file.written, "out": file.written, "failed": failed}, {}, judge.usage)


def _estimate(config: EvalWinrateConfig, judge: Judge, data: dataset.Rows[PromptRow], sides: list[Side]) -> Any:
    if policies := [s for s in sides if not s.has_responses]:
        raise UsageError(
            f"--dry-run does not sample, and {policies[0].name!r} is a policy without responses: {policies[0].path}",
            remedy="sample responses with tokalign generate and pass their folder",
        )
    responses = {s.name: candidates.responses(s, data, config, None, lambda _: None) for s in sides}
    return judge.estimate(_pairs(list(data), responses))


def _judged(pairs: list[Pairing], folder: Path, responses: dict[str, list[Answer]]) -> dict[str, Judged]:
    """Read the judgements of each candidate, in the order of ``responses``, and combine those of each pair."""
    verdicts: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    for j in dataset.read_rows(folder, Judgement, "judgements"):
        verdicts.setdefault((j.candidate, j.id), {}).setdefault(j.order, []).append(j.preference)
    lengths = {name: [len(answer.text) for answer in answers] for name, answers in responses.items()}
    judged = {}
    for name, group in groupby(pairs, key=lambda p: p.candidate):
        own = list(group)
        by_order = [{order: _mean(values) for order, values in verdicts[name, p.id].items()} for p in own]
        # Equal responses are always a tie, so they do not count in the statistics of the judge.
        both = [o for o, p in zip(by_order, own, strict=True) if len(o) > 1 and p.reference != p.response]
        stats = winrate.of_orders(*([o[order] for o in both] for order in ORDERS)) if both else {}
        preferences = [winrate.together(list(o.values())) for o in by_order]
        judged[name] = Judged([p.id for p in own], preferences, lengths[name], lengths[REFERENCE], stats)
    return {name: judged[name] for name in responses if name != REFERENCE}


def _mean(verdicts: Sequence[float | None]) -> float | None:
    """Mean of the verdicts that are not None; None if there are none."""
    known = [p for p in verdicts if p is not None]
    return sum(known) / len(known) if known else None


def _annotated(config: EvalWinrateConfig, file: Path, inputs: dict[str, dict[str, Any]]) -> StageResult:
    """Recompute AlpacaEval's win rates from its annotations."""
    from tokalign.judges.recorded import annotations

    judged, compared = annotations(file)
    with writing("winrates", config, inputs) as out:
        return StageResult.of(out.folder, out.finished or _commit(config, judged, {}, compared, out))


def _commit(
    config: EvalWinrateConfig,
    judged: dict[str, Judged],
    described: dict[str, Any],
    compared: Iterable[dict[str, Any]],
    out: Writer,
    data: dataset.Rows[PromptRow] | None = None,
    notes: Sequence[str] = (),
) -> Manifest:
    """Write the win rates to ``data.json`` and the manifest, and the responses with preferences to ``compared.jsonl``.

    Args:
        config: options of the command.
        judged: judgements by candidate.
        described: the judge's statistics by side.
        compared: one row per prompt with all responses.
        out: the artifact.
        data: the prompts, for the counts of skipped rows; None for AlpacaEval's annotations.
        notes: notes on how prompts are rendered.
    """
    rows = sum(len(j.preferences) for j in judged.values())
    win_rates = evaluation.candidates(judged, config.seed, _control(config, judged))
    preferences = {name: dict(zip(j.keys, j.preferences, strict=True)) for name, j in judged.items()}
    out.jsonl(
        "compared.jsonl",
        (
            {**row, "preferences": {n: by_id[row["id"]] for n, by_id in preferences.items() if row["id"] in by_id}}
            for row in compared
        ),
    )
    with out.file("data.json") as path:
        path.write_text(json.dumps({"candidates": win_rates}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    of_judge = {name: statistics for name, statistics in described.items() if statistics}
    stats = {"candidates": win_rates, "paired": evaluation.paired(judged, config.seed), "judge": of_judge}
    folder = out.folder / "judgements"
    judgements = Manifest.read(folder) if manifest.is_artifact(folder) else None
    failed, usage = (judgements.rows.get("failed", 0), dict(judgements.usage)) if judgements else (0, {})
    skipped = {"skipped": data.reasons.total(), "reasons": dict(data.reasons)} if data and data.reasons else {}
    account = {"in": rows + data.reasons.total() if data else rows, "out": rows, "failed": failed, **skipped}
    return out.commit(account, stats, usage, notes)


def _control(config: EvalWinrateConfig, judged: dict[str, Judged]) -> Control | None:
    """Return the length control of ``--length-control``; None if it is disabled."""
    if config.length_control == "none":
        return None
    if config.length_control == "minimal":
        return length_control.minimal
    from tokalign.judges.recorded import difficulty

    assert config.difficulty is not None
    difficulties, gamed = difficulty(config.difficulty, max(len(j.preferences) for j in judged.values()))
    return lambda p, a, b: length_control.alpaca_eval(p, a, b, difficulties[: len(p)], gamed)
