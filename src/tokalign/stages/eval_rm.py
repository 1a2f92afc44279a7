"""``tokalign eval-rm``: read token labels, measure a reward model on them."""

from collections import Counter
from functools import partial
from itertools import islice

from tokalign.artifacts import token_labels
from tokalign.artifacts.result import StageResult
from tokalign.artifacts.schemas import TokenLabels
from tokalign.artifacts.writer import writing
from tokalign.config.stages import EvalRmConfig
from tokalign.data import dataset
from tokalign.errors import InputError
from tokalign.models import loading, reward_metrics
from tokalign.models.batch import over, room
from tokalign.models.labelling import alignment
from tokalign.models.reward import RewardModel
from tokalign.models.tokenizer import Tokenizer, same_tokenizer


def run(config: EvalRmConfig) -> StageResult:
    """Compute the metrics of ``train-rm`` on any labels, and write the scores of each row."""
    # 1. Open the labels and the model.
    labels = token_labels.open_labels(config.labels)
    inputs = {
        "labels": {**labels.manifest.lineage(), "path": config.labels},
        "reward_model": dataset.model_lineage(config.reward_model, "reward-model"),
    }
    with writing("reward-metrics", config, inputs) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished)
        model = RewardModel.load(config.reward_model, config.dtype, config.reward, config.normalise)
        if not same_tokenizer(model.tokenizer, Tokenizer.load(labels.folder / "tokenizer")):
            raise InputError(
                f"the labels were made with another tokenizer than that of {config.reward_model}",
                where=config.labels,
                remedy=f"label again with tokalign diff … --tokenizer {config.reward_model}",
            )
        model.to(loading.pick_device(config.device))

        # 2. Read the rows, and skip those that are too long.
        max_tokens = model.max_row_length(config.max_length)
        fit = partial(room, most=max_tokens, cut=config.cut_prompts)
        rows: list[TokenLabels] = []
        skipped: Counter[str] = Counter()
        for row in islice(token_labels.iter_labels(labels), config.limit):
            prompt = fit(row.prompt_ids, max(len(row.original_ids), len(row.edited_ids)))
            if prompt is None:
                skipped[over(config, max_tokens)] += 1
            else:
                rows.append(row._replace(prompt_ids=prompt))
        if not rows:
            reason = f"skipped {dict(skipped)}" if skipped else "there are none"
            raise InputError(f"no rows to measure on: {reason}", where=config.labels, remedy="raise --max-length")

        # 3. Rate the rows, write their scores, and compute the metrics.
        rated = reward_metrics.rate(model, rows)
        originals, editeds = (side.means for side in rated)
        out.jsonl(
            "data.jsonl",
            (
                {
                    "id": row.id, "prompt": row.prompt, "original": row.original, "edited": row.edited,
                    "original_score": before, "edited_score": after,
                }
                for row, before, after in zip(rows, originals, editeds, strict=True)
            ),
        )  # fmt: skip
        metrics = reward_metrics.evaluate(model, rows, alignment(labels.manifest.config), fit, rated)
        n_skipped = sum(skipped.values())
        account = {"in": len(rows) + n_skipped, "out": len(rows), "skipped": n_skipped, "reasons": dict(skipped)}
        return StageResult.of(out.folder, out.commit(account, {"level": model.level, **metrics}))
