"""``tokalign score``: responses in, the reward of every token out."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokalign import artifacts, sources
from tokalign.artifacts import Manifest
from tokalign.config import ScoreConfig
from tokalign.errors import InputError
from tokalign.models import loading
from tokalign.models.reward import RewardModel
from tokalign.progress import Progress
from tokalign.schemas import ResponseRow


def run(config: ScoreConfig) -> Manifest:
    """Rate responses. Of an edits artifact both sides are rated: sample 0 the original, 1 the edited."""
    data, rows = _read(config)
    inputs = {"responses": data.lineage, "reward_model": sources.model_lineage(config.reward_model, "reward-model")}

    with artifacts.writing("token-rewards", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        device = loading.pick_device(config.device)
        model = RewardModel.load(config.reward_model, config.dtype, config.reward)
        model.model.to(device)
        skipped: Counter[str] = Counter()
        totals: list[float] = []
        with Progress("score", len(rows), config.quiet) as bar:
            rated = (row for part in bar.over(rows, 512) for row in _rate(list(part), model, config, skipped, totals))
            n = out.jsonl("data.jsonl", rated)
        if not n:
            raise InputError(
                f"no row could be scored: {dict(skipped)}", where=config.responses, remedy="raise --max-length"
            )
        account = {"in": len(rows), "out": n, "skipped": sum(skipped.values()), "reasons": dict(skipped)}
        return out.commit(account, {"level": model.level, "score_mean": sum(totals) / n})


def _read(config: ScoreConfig) -> tuple[sources.Rows[Any], list[ResponseRow]]:
    path = Path(config.responses)
    if not (artifacts.is_artifact(path) and Manifest.read(path).kind == "edits"):
        data = sources.read_rows(config.responses, ResponseRow, "responses", "sft", limit=config.limit)
        return data, data.rows
    edits = sources.read_edits(config.responses, config.limit)
    rows = [
        ResponseRow(id=e.id, sample=k, prompt=e.prompt, response=text, generator=name)
        for e in edits.rows
        for k, (name, text) in enumerate((("original", e.original), ("edited", e.edited)))
    ]
    return edits, rows


def _rate(
    rows: list[ResponseRow], model: RewardModel, config: ScoreConfig, skipped: Counter[str], totals: list[float]
) -> Iterator[dict[str, Any]]:
    prompts = model.codec.prompts([r.prompt for r in rows])
    responses = model.codec.responses([r.response for r in rows])
    kept = []
    for row, prompt, response in zip(rows, prompts, responses, strict=True):
        # A response that never ended has no EOS to be rewarded.
        n = len(response.ids) if row.finished else len(response.ids) - 1
        if n == 0:
            skipped["empty response"] += 1
        elif len(prompt) + n > config.max_length:
            skipped["over --max-length"] += 1
        else:
            kept.append((row, prompt, response.ids[:n], response.offsets[:n]))
    ratings = model.rate([(prompt, ids) for _, prompt, ids, _ in kept], config.batch_size)
    means, sums = ratings.means, ratings.sums
    for i, (row, _, ids, offsets) in enumerate(kept):
        probs = None if ratings.probs is None else [[round(p, 6) for p in c] for c in ratings.probs[i].T.tolist()]
        totals.append(means[i])
        yield {
            "id": row.id,
            "sample": row.sample,
            "prompt": row.prompt,
            "response": row.response,
            "tokens": model.codec.pieces(ids),
            "offsets": offsets,
            "p_bad": probs and probs[0],
            "p_neutral": probs and probs[1],
            "p_good": probs and probs[2],
            "reward": [round(r, 6) for r in ratings.rewards[i].tolist()],
            "score_mean": means[i],
            "score_sum": sums[i],
        }
