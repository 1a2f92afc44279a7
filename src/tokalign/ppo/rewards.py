"""Loading the reward functions of a PPO run: reward models, adapters on the policy's base model, user functions."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tokalign.artifacts.manifest import Manifest, is_artifact
from tokalign.artifacts.model_files import ADAPTER
from tokalign.data import dataset
from tokalign.errors import UsageError
from tokalign.models import distributed, loading, lora
from tokalign.models.function_names import is_function
from tokalign.models.reward import RewardModel, ServedRewardModel
from tokalign.models.reward_functions import ModelReward, RewardFunction, UserReward, function
from tokalign.models.tokenizer import Tokenizer, same_tokenization
from tokalign.ppo.networks import Networks, OnAdapter


def load(sources: Sequence[str], tokenizer: Tokenizer, networks: Networks) -> list[RewardFunction]:
    """Load reward functions.

    Args:
        sources: folders or hub ids of reward models, and Python functions as ``MODULE:NAME``.
        tokenizer: the policy's tokenizer.
        networks: the networks of the run.

    Returns:
        The reward functions, in the order of ``sources``.

    Raises:
        InputError: a reward model or function cannot be loaded.
        UsageError: the granularity is ``token`` or ``segment``, but every source gives one score per response.
    """
    names = [Path(source).name for source in sources]
    names = [name if names.count(name) == 1 else f"{name}-{k}" for k, name in enumerate(names, 1)]
    reward_functions: list[RewardFunction] = [
        UserReward(function(source), source)
        if is_function(source)
        else _model(source, name, f"{lora.REWARD}{k}", tokenizer, networks)
        for k, (source, name) in enumerate(zip(sources, names, strict=True))
    ]
    granularity = networks.options.granularity
    if granularity != "sequence" and all(f.dense is False for f in reward_functions):
        raise UsageError(
            f"--granularity {granularity} needs token-level rewards, but {sources[0]} gives one score per response",
            remedy="use --granularity sequence, or a token-level reward model (train-rm --level token)",
        )
    return reward_functions


def _model(source: str, name: str, adapter: str, tokenizer: Tokenizer, networks: Networks) -> ModelReward:
    options = networks.options
    model = _on_the_policy(source, adapter, networks) or RewardModel.load(source, options.dtype)
    model.reading, model.normalise = options.reward, options.normalise
    model.to(networks.device)
    if distributed.sharded() and not isinstance(model, ServedRewardModel):
        distributed.shard(model.model, getattr(torch, options.dtype))
    return ModelReward(model, name, not same_tokenization(tokenizer, model.tokenizer))


def _on_the_policy(source: str, adapter: str, networks: Networks) -> RewardModel | None:
    """Load a reward model as one more adapter on the policy's base model.

    None if the policy is trained without ``--lora``, or if the reward model was not trained with ``--lora`` on the
    same base model.
    """
    folder = Path(source)
    if networks.adapters is None or not (is_artifact(folder) and (folder / ADAPTER).is_dir()):
        return None
    manifest = Manifest.read(folder)
    base = next((i for i in manifest.inputs if i["name"] == "model"), None)
    policy = dataset.model_lineage(networks.source, "policy")
    if base is None or not base["sha256"] or base["sha256"] != policy["sha256"]:
        return None
    level = str(manifest.config["level"])
    head = networks.adapters.load(adapter, folder / ADAPTER)
    model = OnAdapter(networks.adapters, adapter, len(head["weight"]), bias="bias" in head)
    model.score.load_state_dict(head)
    return RewardModel(model, Tokenizer.load(source), level, most=loading.max_positions(networks.policy))
