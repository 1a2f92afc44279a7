"""``tokalign generate``: prompts in, responses out; with a reward model, the best of n."""

import torch

from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.writer import writing
from tokalign.config.stages import GenerateConfig
from tokalign.data import dataset
from tokalign.models import loading
from tokalign.models.prompts import renderable
from tokalign.models.reward import RewardModel, best_of
from tokalign.models.sampler import CHUNK, answerable, respond_to
from tokalign.models.samplers import choose
from tokalign.models.tokenizer import Tokenizer
from tokalign.runtime.progress import Progress


def run(config: GenerateConfig) -> Manifest:
    """Sample ``n`` responses a prompt; keep them all, or the one that the reward model likes best."""
    data = dataset.read_prompts(config.prompts, config.prompt, config, config.limit)
    inputs = {"prompts": data.lineage, "policy": dataset.model_lineage(config.policy, "policy")}
    if config.reward_model:
        inputs["reward_model"] = dataset.model_lineage(config.reward_model, "reward-model")

    with writing("responses", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        device = loading.pick_device(config.device)
        torch.manual_seed(config.seed)
        tokenizer = Tokenizer.load(config.policy, config)
        policy = loading.load_policy(config.policy, config.dtype, to_use=True).to(device)
        loading.check_vocabulary(policy, tokenizer)
        judge = RewardModel.load(config.reward_model, config.dtype) if config.reward_model else None
        if judge is not None:
            judge.model.to(device)
        data, notes = renderable(data, [tokenizer, *([judge.tokenizer] if judge else [])], config.strict)
        data = answerable(data, loading.positions(policy), tokenizer, config, config.strict)
        sampler = choose(policy, tokenizer, config, config.dtype)
        with out.rows() as file, Progress("generate", len(data), config.quiet, file.taken) as bar:
            for part in bar.parts(file.left(data, CHUNK)):
                seed = config.seed + file.taken  # each part has draws of its own, wherever a run was cut
                drawn = respond_to(
                    part, policy, tokenizer, config, seed, config.batch_size, config.policy, config.n, sampler
                )
                kept = drawn if judge is None else best_of(drawn, judge, config.n)
                file.append_json(kept)
                file.count({"finished": sum(r["finished"] for r in kept)})
                file.count({"length": sum(len(r["response"]) for r in kept)})
        stats = {"finished": file.mean("finished"), "avg_length": file.mean("length")}
        account = {**data.account(), "out": file.written}
        return out.commit(account, stats | ({"notes": notes} if notes else {}))
