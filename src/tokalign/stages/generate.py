"""``tokalign generate``: prompts in, responses out; with a reward model, the best of n."""

from typing import Any

import torch

from tokalign import artifacts, sources
from tokalign.artifacts import Manifest
from tokalign.config import GenerateConfig
from tokalign.models import loading
from tokalign.models.reward import RewardModel
from tokalign.models.sampler import respond
from tokalign.models.tokenization import Codec
from tokalign.progress import Progress
from tokalign.schemas import PromptRow


def run(config: GenerateConfig) -> Manifest:
    """Sample ``n`` responses a prompt; keep them all, or the one that the reward model likes best."""
    data = sources.read_rows(config.prompts, PromptRow, "prompts", limit=config.limit)
    inputs = {"prompts": data.lineage, "policy": sources.model_lineage(config.policy, "policy")}
    if config.reward_model:
        inputs["reward_model"] = sources.model_lineage(config.reward_model, "reward-model")

    with artifacts.writing("responses", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        device = loading.pick_device(config.device)
        torch.manual_seed(config.seed)
        codec = Codec.load(config.policy)
        policy = loading.load_policy(config.policy, config.dtype).to(device)
        prompts = codec.prompts([r.prompt for r in data.rows])
        repeated = [p for p in prompts for _ in range(config.n)]
        with Progress("generate", len(repeated), config.quiet) as bar:
            texts = respond(policy, codec, repeated, config, config.seed, config.batch_size, bar)
        rows: list[dict[str, Any]] = [
            {
                "id": row.id,
                "sample": k,
                "prompt": row.prompt,
                "response": texts[i * config.n + k][0],
                "finished": texts[i * config.n + k][1],
                "generator": config.policy,
            }
            for i, row in enumerate(data.rows)
            for k in range(config.n)
        ]
        if config.reward_model:
            rows = _best(rows, RewardModel.load(config.reward_model, config.dtype), config.n, device)
        out.jsonl("data.jsonl", rows)
        stats = {
            "finished": sum(r["finished"] for r in rows) / len(rows),
            "avg_length": sum(len(r["response"]) for r in rows) / len(rows),
        }
        return out.commit({"in": len(data.rows), "out": len(rows)}, stats)


def _best(rows: list[dict[str, Any]], model: RewardModel, n: int, device: torch.device) -> list[dict[str, Any]]:
    model.model.to(device)
    prompts = model.codec.prompts([r["prompt"] for r in rows])
    responses = model.codec.responses([r["response"] for r in rows])
    scores = model.rate(
        [
            (p, r.ids if row["finished"] else r.ids[:-1] or r.ids)
            for p, r, row in zip(prompts, responses, rows, strict=True)
        ]
    ).means
    groups = (range(i, i + n) for i in range(0, len(rows), n))
    return [rows[max(group, key=lambda i: scores[i])] for group in groups]
