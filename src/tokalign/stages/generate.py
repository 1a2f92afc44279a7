"""``tokalign generate``: read prompts, write sampled responses, or the best of n with a reward model."""

from collections.abc import Mapping
from typing import Any

import torch

from tokalign.artifacts.result import StageResult
from tokalign.artifacts.writer import writing
from tokalign.config.stages import GenerateConfig
from tokalign.data import dataset
from tokalign.models import loading
from tokalign.models.prompts import renderable
from tokalign.models.reward import RewardModel, best_of
from tokalign.models.sampler import CHUNK, answerable, respond_to
from tokalign.models.samplers import sampling_with
from tokalign.models.tokenizer import Tokenizer
from tokalign.runtime.progress import Progress


def run(config: GenerateConfig) -> StageResult:
    """Sample ``n`` responses to each prompt. Keep all, or with ``--reward-model`` the one with the highest score."""
    # 1. Read the prompts.
    data = dataset.read_prompts(config.prompts, config.prompt, config, config.limit)
    inputs = {"prompts": data.lineage, "policy": dataset.model_lineage(config.policy, "policy")}
    if config.reward_model:
        inputs["reward_model"] = dataset.model_lineage(config.reward_model, "reward-model")

    with writing("responses", config, inputs) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished)

        # 2. Load the policy and the reward model, and skip prompts that they cannot read.
        device = loading.pick_device(config.device)
        torch.manual_seed(config.seed)
        tokenizer = Tokenizer.load(config.policy, config)
        policy = loading.load_policy(config.policy, config.dtype, to_use=True).to(device)
        loading.check_vocabulary(policy, tokenizer)
        reward_model = RewardModel.load(config.reward_model, config.dtype) if config.reward_model else None
        if reward_model is not None:
            reward_model.to(device)
        tokenizers = [tokenizer, *([reward_model.tokenizer] if reward_model else [])]
        data, notes = renderable(data, tokenizers, config.strict)
        data = answerable(data, loading.max_positions(policy), tokenizer, config, config.strict)
        data = data.shard(config.shard, CHUNK)

        # 3. Sample and write the responses, chunk by chunk.
        with (
            sampling_with(policy, tokenizer, config, config.dtype) as sampler,
            out.rows() as file,
            Progress("generate", len(data), config.quiet, file.taken) as bar,
        ):
            for part in bar.parts(file.left(data, CHUNK)):
                # The seed depends on the chunk, so that a resumed run and a part of a run give the same responses.
                seed = config.seed + data.start + file.taken
                sampled = respond_to(
                    part, policy, tokenizer, config, seed, config.batch_size, config.policy, config.n, sampler
                )
                kept = sampled if reward_model is None else best_of(sampled, reward_model, config.n)
                file.append_json(kept)
                file.count({"rows": len(kept), "finished": sum(r["finished"] for r in kept)})
                file.count({"length": sum(len(r["response"]) for r in kept)})
        account = {**data.account(), "out": file.written}
        return StageResult.of(out.folder, out.commit(account, stats(file.tally), notes=notes))


def stats(tally: Mapping[str, float]) -> dict[str, Any]:
    """Statistics of the manifest, from the counters of a run."""
    return {"finished": tally["finished"] / tally["rows"], "avg_length": tally["length"] / tally["rows"]}
