"""What sampling engines share: the weights that they take over, and the check that they follow the policy."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from tokalign.config.options import SamplingOptions
from tokalign.errors import TokalignError
from tokalign.models.batch import Batch, Pair
from tokalign.models.policy import response_logprobs
from tokalign.models.sampler import Engine
from tokalign.models.tokenizer import Tokenizer


def plain_weights(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a causal language model by their names in a saved model.

    The model may have LoRA adapters; they must be merged, or inactive. Weights that are tied appear once for each name.
    """
    owner = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    weights = {
        name.replace(".base_layer.", "."): weight for name, weight in owner.state_dict().items() if ".lora_" not in name
    }
    yield from revert_weight_conversion(owner, weights).items()


_PROBES = (
    "A",
    "Name a bird that cannot fly, and say why.",
    "The quick brown fox jumps over the lazy dog. " * 2,
    "1 2 3 4 5 6 7 8",
)
_TOKENS = 24


def limit(dtype: str) -> tuple[str, float]:
    """The statistic of the difference in log-probabilities that tells whether an engine follows, and its limit in nats.

    In float32 the largest difference over tokens: engines compute what the model computes up to about 1e-5. In half
    precision the mean, because single tokens differ by tenths of a nat through rounding alone.
    """
    return ("largest", 1e-3) if dtype == "float32" else ("mean", 0.1)


@torch.no_grad()
def check_follows(engine: Engine, policy: Any, tokenizer: Tokenizer, options: SamplingOptions, dtype: str) -> float:
    """Compare some sampled tokens of an engine with the forward pass of the policy.

    Returns:
        The difference in nats, as :func:`limit` says.

    Raises:
        TokalignError: it is beyond the limit.
    """
    prompts = [r.ids[:-1] or r.ids for r in tokenizer.responses(list(_PROBES))]
    trial = replace(options, temperature=options.temperature or 1.0, top_p=1.0, max_new_tokens=_TOKENS)
    drawn = engine(policy, prompts, list(range(len(prompts))), tokenizer, trial)
    pairs: list[Pair] = [(p, s.ids) for p, s in zip(prompts, drawn, strict=True)]
    batch = Batch.of(pairs, tokenizer.pad_id, next(policy.parameters()).device)
    found = response_logprobs(policy, batch, trial.temperature, size=tokenizer.size).logprobs.float().cpu()
    own = [s.logprobs for s in drawn if s.logprobs is not None]
    gaps = torch.cat([(logprobs - found[k, : len(logprobs)]).abs() for k, logprobs in enumerate(own)])
    name, most = limit(dtype)
    gap = float(gaps.max() if name == "largest" else gaps.mean())
    if not gap <= most:
        raise TokalignError(
            f"{engine.name} does not follow the policy: after it has taken over the weights, the {name} difference in "
            f"log-probabilities is {gap:.2g} nats, and rounding explains at most {most:g}",
            remedy="use --sampler auto, and report the model and the version of the engine",
        )
    return gap


def take_weights(sampler: Any, policy: Any) -> None:
    """Let a sampler that has its own weights take over those of the policy."""
    if isinstance(sampler, Engine):
        sampler.sync(policy)
