"""``tokalign eval-winrate``: prompts, candidates and a reference in; judgements and win rates out."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from tokalign import artifacts, sources
from tokalign.artifacts import Manifest
from tokalign.config import EvalWinrateConfig
from tokalign.core import winrate
from tokalign.errors import InputError, UsageError
from tokalign.judges.playground import PlaygroundJudge
from tokalign.models import loading
from tokalign.models.sampler import CHUNK, respond_to
from tokalign.models.tokenization import Codec
from tokalign.progress import Progress
from tokalign.schemas import PromptRow, ResponseRow
from tokalign.writer import Writer, writing

REFERENCE = "reference"
JUDGES = {"playground": PlaygroundJudge}


def run(config: EvalWinrateConfig) -> Manifest:
    """Let every candidate answer every prompt, and the judge compare each answer with the reference's."""
    data = sources.read_rows(config.prompts, PromptRow, "prompts", how=config, limit=config.limit)
    paths = {REFERENCE: config.reference, **_named(config.candidate)}
    inputs = {"prompts": data.lineage}
    inputs |= {name: sources.model_lineage(path, "policy", "responses") for name, path in paths.items()}

    with writing("winrates", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        texts: dict[str, list[str]] = {}
        with Progress("eval-winrate", len(paths) * len(data), config.quiet) as bar:
            for n, (name, path) in enumerate(paths.items()):
                bar.skip_to(n * len(data))
                texts[name] = _respond(name, path, data, config, out, bar)
        return _judge(config, list(data), texts, out)


def _named(candidates: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for spec in candidates:
        name, sep, path = spec.partition("=")
        if not (sep and name and path) or name in named or name == REFERENCE or Path(name).name != name:
            raise UsageError(
                f"--candidate {spec!r}",
                remedy=f"give NAME=PATH, each name once, none of them {REFERENCE!r} or a path",
            )
        named[name] = path
    return named


def _respond(
    name: str, path: str, data: sources.Rows[PromptRow], config: EvalWinrateConfig, out: Writer, bar: Progress
) -> list[str]:
    """Responses in the order of the prompts: read from an artifact, or sampled here and kept below ``responses/``."""
    folder = Path(path)
    if not (artifacts.is_artifact(folder) and Manifest.read(folder).kind == "responses"):
        folder = out.folder / "responses" / name
        inputs = {"prompts": data.lineage, "policy": sources.model_lineage(path)}
        with writing("responses", replace(config, fresh=False), inputs, folder) as nested:
            if nested.finished is None:
                _sample(name, path, data, config, nested, bar)
    found = {r.id: r.response for r in sources.read_rows(folder, ResponseRow, "responses") if r.sample == 0}
    missing = [r.id for r in data if r.id not in found]
    if missing:
        raise InputError(
            f"no response to {len(missing)} of {len(data)} prompts, the first is {missing[0]!r}",
            where=path,
            field="id",
            remedy="generate responses to the same prompts",
        )
    return [found[r.id] for r in data]


def _sample(
    name: str, path: str, data: sources.Rows[PromptRow], config: EvalWinrateConfig, nested: Writer, bar: Progress
) -> None:
    codec = Codec.load(path)
    policy = loading.load_policy(path, config.dtype).to(loading.pick_device(config.device))
    with nested.rows() as file:
        for part in bar.parts(file.left(data, CHUNK)):
            seed = config.seed + file.taken
            file.append_json(respond_to(part, policy, codec, config, seed, config.batch_size, name))
    nested.commit({"in": len(data), "out": file.written})


def _judge(config: EvalWinrateConfig, rows: list[PromptRow], texts: dict[str, list[str]], out: Writer) -> Manifest:
    judge = JUDGES[config.judge]()
    prompts = [r.prompt for r in rows]
    preferences: dict[str, list[float]] = {}
    judgements: list[dict[str, Any]] = []
    results: dict[str, dict[str, Any]] = {}
    for name, candidate in texts.items():
        if name == REFERENCE:
            continue
        compared = judge.compare(prompts, texts[REFERENCE], candidate)
        preferences[name] = [c.preference for c in compared]
        judgements += [
            {
                "id": row.id,
                "candidate": name,
                "reference": config.reference,
                "judge": judge.name,
                # The judge scores each text alone: one order says all.
                "order": "reference_first",
                "preference": c.preference,
                "reason": c.reason,
                "usage": None,
            }
            for row, c in zip(rows, compared, strict=True)
        ]
        rate = winrate.win_rate(preferences[name])
        half = 1.96 * rate["standard_error"]
        results[name] = {
            **rate,
            "ci95": [rate["win_rate"] - half, rate["win_rate"] + half],
            "avg_length": sum(map(len, candidate)) / len(candidate),
        }
    with writing("judgements", replace(config, fresh=True), {}, out.folder / "judgements") as nested:
        nested.jsonl("data.jsonl", judgements)
        nested.commit({"in": len(judgements), "out": len(judgements)})
    with out.file("data.json") as path:
        path.write_text(json.dumps({"candidates": results}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    stats = {
        "candidates": results,
        "paired": [
            {"a": b, "b": a, **winrate.paired_difference(preferences[b], preferences[a])}
            for a, b in combinations(preferences, 2)
            if len(rows) > 1
        ],
        "judge": {name: judge.describe(prompts, t) for name, t in texts.items()},
    }
    return out.commit({"in": len(rows), "out": len(judgements)}, stats)
