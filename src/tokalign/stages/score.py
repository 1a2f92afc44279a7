"""``tokalign score``: read responses, write the reward of every token."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tokalign.artifacts.result import StageResult
from tokalign.artifacts.resumable import group
from tokalign.artifacts.schemas import Edit, ResponseRow
from tokalign.artifacts.writer import writing
from tokalign.config.stages import ScoreConfig
from tokalign.core.rewards import project
from tokalign.data import dataset
from tokalign.errors import InputError
from tokalign.models import loading
from tokalign.models.batch import over, room
from tokalign.models.prompts import renderable
from tokalign.models.reward import RewardModel
from tokalign.models.token_rewards import token_rewards_row
from tokalign.models.tokenizer import Encoded, Tokenizer
from tokalign.runtime.progress import Progress

CHUNK = 256
"""Responses per chunk. An interrupted run resumes at the start of a chunk."""


def run(config: ScoreConfig) -> StageResult:
    """Score responses. For edits, score the original response (as sample 0) and the edited one (as sample 1)."""
    # 1. Read the responses.
    data = _read(config)
    inputs = {"responses": data.lineage, "reward_model": dataset.model_lineage(config.reward_model, "reward-model")}
    if config.tokenizer:
        inputs["tokenizer"] = dataset.model_lineage(config.tokenizer)

    with writing("token-rewards", config, inputs) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished)

        # 2. Load the reward model, and skip prompts that it cannot read.
        device = loading.pick_device(config.device)
        model = RewardModel.load(config.reward_model, config.dtype, config.reward, config.normalise, config)
        model.to(device)
        target = Tokenizer.load(config.tokenizer, config) if config.tokenizer else None
        data, notes = renderable(data, [model.tokenizer], config.strict)
        data = data.shard(config.shard, _chunk(data))
        rows, n_rows = _responses(data)
        max_tokens = model.max_row_length(config.max_length)

        # 3. Score and write the responses, chunk by chunk.
        with out.rows() as file, Progress("score", n_rows, config.quiet, file.taken) as bar:
            for part in bar.parts(file.left(rows, CHUNK)):
                skipped: Counter[str] = Counter()
                scored = list(_score(part, model, target, config, max_tokens, skipped))
                file.append_json(scored)
                file.count({f"skipped/{reason}": n for reason, n in skipped.items()})
                file.count({"rows": len(scored), "score": sum(r["score_mean"] for r in scored)})
        skipped = data.reasons + Counter(group(file.tally, "skipped"))
        if not config.shard:
            check(file.tally, config)
        n_skipped = sum(skipped.values())
        account = {"in": file.written + n_skipped, "out": file.written, "skipped": n_skipped, "reasons": dict(skipped)}
        found = {"level": model.level, **stats(file.tally)}
        return StageResult.of(out.folder, out.commit(account, found, notes=notes))


def check(tally: Mapping[str, float], config: ScoreConfig) -> None:
    """Check that some row was scored, given the counters of the run.

    Raises:
        InputError: all rows were skipped.
    """
    if not tally.get("rows"):
        problem = f"no row could be scored: {group(tally, 'skipped')}"
        raise InputError(problem, where=config.responses, remedy="raise --max-length")


def stats(tally: Mapping[str, float]) -> dict[str, Any]:
    """Statistics of the manifest, from the counters of a run."""
    return {"score_mean": tally.get("score", 0.0) / max(1, tally.get("rows", 0))}


def _read(config: ScoreConfig) -> dataset.Rows[Any]:
    if dataset.holds_edits(config.responses, config):
        return dataset.read_edits(config.responses, config, config.limit)
    return dataset.read_rows(config.responses, ResponseRow, "responses", "sft", options=config, limit=config.limit)


def _chunk(data: dataset.Rows[Any]) -> int:
    """Number of input rows in a chunk of responses."""
    return CHUNK // 2 if isinstance(next(iter(data)), Edit) else CHUNK


def _responses(data: dataset.Rows[Any]) -> tuple[Iterable[ResponseRow], int]:
    """Return the rows as responses, two for each edit, and their number."""
    if not isinstance(next(iter(data)), Edit):
        return data, len(data)
    rows = (
        ResponseRow(id=e.id, sample=k, prompt=e.prompt, response=text, generator=name)
        for e in data
        for k, (name, text) in enumerate((("original", e.original), ("edited", e.edited)))
    )
    return rows, 2 * len(data)


def _score(
    rows: list[ResponseRow],
    model: RewardModel,
    target: Tokenizer | None,
    config: ScoreConfig,
    max_tokens: int,
    skipped: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Score the rows of a chunk and yield rows of ``token-rewards/1``.

    Args:
        rows: the responses.
        model: the reward model.
        target: tokenizer onto whose tokens the rewards are projected; None: the reward model's own. The scores are
            those of the reward model's own tokens in both cases.
        config: options of the command.
        max_tokens: maximum length of prompt and response.
        skipped: counter of skipped rows, by reason.
    """
    prompts = model.tokenizer.prompts([r.prompt for r in rows])
    responses = model.tokenizer.responses([r.response for r in rows])
    kept = []
    for row, prompt, response in zip(rows, prompts, responses, strict=True):
        # EOS of a response that was cut off gets no reward.
        n = len(response.ids) if row.finished else len(response.ids) - 1
        if n == 0:
            skipped["empty response"] += 1
        elif (fitting := room(prompt, n, max_tokens, config.cut_prompts)) is None:
            skipped[over(config, max_tokens)] += 1
        else:
            kept.append((row, fitting, Encoded(response.ids[:n], response.offsets[:n])))
    ratings = model.rate([(prompt, own.ids) for _, prompt, own in kept], config.batch_size)
    others = target.responses([row.response for row, *_ in kept]) if target else [own for *_, own in kept]
    means, sums = ratings.means, ratings.sums
    for i, ((row, _, own), other) in enumerate(zip(kept, others, strict=True)):
        rewards, probs, tokens = ratings.rewards[i].double().numpy(), None, own
        if target:
            tokens = other if row.finished else Encoded(other.ids[:-1], other.offsets[:-1])
            rewards = project(rewards, np.array(own.offsets), np.array(tokens.offsets), len(row.response))
        elif ratings.probs is not None:
            probs = ratings.probs[i].T.tolist()
        pieces = (target or model.tokenizer).pieces(tokens.ids)
        key, scores = (row.id, row.sample), (means[i], sums[i])
        yield token_rewards_row(key, row.prompt, row.response, pieces, tokens.offsets, rewards.tolist(), scores, probs)
