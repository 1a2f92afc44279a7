"""``tokalign eval-winrate``: prompts, candidates and a reference in; judgements and win rates out."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from tokalign import artifacts, sources
from tokalign.artifacts import Manifest, Writer
from tokalign.config import EvalWinrateConfig
from tokalign.core import winrate
from tokalign.errors import InputError, UsageError
from tokalign.judges.playground import PlaygroundJudge
from tokalign.models import loading
from tokalign.models.sampler import respond
from tokalign.models.tokenization import Codec
from tokalign.progress import Progress
from tokalign.schemas import PromptRow, ResponseRow

REFERENCE = "reference"
JUDGES = {"playground": PlaygroundJudge}


def run(config: EvalWinrateConfig) -> Manifest:
    """Let every candidate answer every prompt, and the judge compare each answer with the reference's."""
    data = sources.read_rows(config.prompts, PromptRow, "prompts", limit=config.limit)
    paths = {REFERENCE: config.reference, **_named(config.candidate)}
    inputs = {"prompts": data.lineage}
    inputs |= {name: sources.model_lineage(path, "policy", "responses") for name, path in paths.items()}

    with artifacts.writing("winrates", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        texts: dict[str, list[str]] = {}
        with Progress("eval-winrate", len(paths) * len(data.rows), config.quiet) as bar:
            for name, path in paths.items():
                texts[name] = _respond(name, path, data.rows, config, out, bar)
        return _judge(config, data.rows, texts, out)


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
    name: str, path: str, rows: list[PromptRow], config: EvalWinrateConfig, out: Writer, bar: Progress
) -> list[str]:
    """Responses in the order of ``rows``: read from an artifact, or sampled here and kept below ``responses/``."""
    folder = Path(path)
    if artifacts.is_artifact(folder) and Manifest.read(folder).kind == "responses":
        found = {r.id: r.response for r in sources.read_rows(path, ResponseRow, "responses").rows if r.sample == 0}
        missing = [r.id for r in rows if r.id not in found]
        if missing:
            raise InputError(
                f"no response to {len(missing)} of {len(rows)} prompts, the first is {missing[0]!r}",
                where=path,
                field="id",
                remedy="generate responses to the same prompts",
            )
        bar.advance(len(rows))
        return [found[r.id] for r in rows]
    torch.manual_seed(config.seed)
    codec = Codec.load(path)
    policy = loading.load_policy(path, config.dtype).to(loading.pick_device(config.device))
    drawn = respond(policy, codec, codec.prompts([r.prompt for r in rows]), config, config.seed, config.batch_size, bar)
    lines = (
        {"id": r.id, "sample": 0, "prompt": r.prompt, "response": text, "finished": ended, "generator": name}
        for r, (text, ended) in zip(rows, drawn, strict=True)
    )
    with artifacts.writing("responses", config, {}, out.folder / "responses" / name) as nested:
        n = nested.jsonl("data.jsonl", lines)
        nested.commit({"in": len(rows), "out": n})
    return [text for text, _ in drawn]


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
    with artifacts.writing("judgements", config, {}, out.folder / "judgements") as nested:
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
