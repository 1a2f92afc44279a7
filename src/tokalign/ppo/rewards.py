"""Loading the reward functions of a PPO run: models beside the policy or as adapters on it, and user functions."""

from pathlib import Path

import torch

from tokalign.artifacts.manifest import Manifest, is_artifact
from tokalign.config.stages import TrainPpoConfig
from tokalign.data import dataset
from tokalign.errors import UsageError
from tokalign.models import distributed, loading, lora
from tokalign.models.function_names import is_function
from tokalign.models.reward import RewardModel
from tokalign.models.reward_functions import ModelReward, RewardFunction, UserReward, function
from tokalign.models.tokenizer import Codec, same_reading
from tokalign.ppo.networks import Networks, OnAdapter


def load(config: TrainPpoConfig, codec: Codec, networks: Networks) -> list[RewardFunction]:
    """All reward functions, in the order of ``--reward-model``.

    Raises:
        InputError: one cannot be loaded.
        UsageError: rewards at every token are wanted but none tells tokens apart.
    """
    reward_functions = [_load(source, k, config, codec, networks) for k, source in enumerate(config.reward_model)]
    if config.granularity != "sequence" and all(p.dense is False for p in reward_functions):
        raise UsageError(
            f"--granularity {config.granularity}, but {config.reward_model[0]} gives one score a response",
            remedy="use --granularity sequence, or a token-level reward model (train-rm --level token)",
        )
    return reward_functions


def _load(source: str, k: int, config: TrainPpoConfig, codec: Codec, networks: Networks) -> RewardFunction:
    if is_function(source):
        return UserReward(function(source), source)
    model = _on_the_policy(source, k, config, networks) or RewardModel.load(source, config.dtype)
    model.reading, model.normalise = config.reward, config.normalise
    model.model.to(networks.device).requires_grad_(False)
    if distributed.sharded():
        distributed.shard(model.model, getattr(torch, config.dtype))
    names = [Path(other).name for other in config.reward_model]
    name = names[k] if names.count(names[k]) == 1 else f"{names[k]}-{k + 1}"
    return ModelReward(model, name, not same_reading(codec, model.codec))


def _on_the_policy(source: str, k: int, config: TrainPpoConfig, networks: Networks) -> RewardModel | None:
    """The reward model as one more adapter on the policy's weights, if it was trained as one on the same weights."""
    folder = Path(source)
    if networks.adapters is None or not (is_artifact(folder) and (folder / loading.ADAPTER).is_dir()):
        return None
    base = next((i for i in Manifest.read(folder).inputs if i["name"] == "model"), None)
    policy = dataset.model_lineage(config.policy, "policy")
    if base is None or not base["sha256"] or base["sha256"] != policy["sha256"]:
        return None
    level = str(Manifest.read(folder).config["level"])
    name = f"{lora.REWARD}{k}"
    head = networks.adapters.load(name, folder / loading.ADAPTER)
    model = OnAdapter(networks.adapters, name, len(head["weight"]), bias="bias" in head)
    model.score.load_state_dict(head)
    return RewardModel(model, Codec.load(source), level, most=loading.positions(networks.policy))
