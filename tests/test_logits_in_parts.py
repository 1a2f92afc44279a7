"""The output layer in parts: the same log-probabilities and gradients, with logits that are never whole."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
)

from tokalign.models import policy as policies
from tokalign.models.batch import Batch
from tokalign.models.policy import TokenStats, response_logprobs

SHAPE: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "gemma2, which caps": Gemma2Config(**SHAPE, final_logit_softcapping=3.0),
    "cohere, which scales": CohereConfig(**SHAPE, logit_scale=0.25, pad_token_id=0),
    "granite, which divides": GraniteConfig(**SHAPE, logits_scaling=4.0),
    "gpt2": GPT2Config(vocab_size=90, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "opt, which projects": OPTConfig(
        vocab_size=90, hidden_size=16, word_embed_proj_dim=8, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    ),
    "mamba": MambaConfig(vocab_size=90, hidden_size=16, state_size=4, num_hidden_layers=2),
    "mixtral, with experts": MixtralConfig(**SHAPE, num_local_experts=2),
}  # fmt: skip


def scored(model: Any, head: torch.nn.Module, batch: Batch) -> tuple[TokenStats, list[torch.Tensor]]:
    """Statistics, and the gradients of all weights."""
    model.zero_grad()
    head.zero_grad()
    found = response_logprobs(model, batch, 0.7, entropy=True, value_head=head, size=80, best=True)
    assert found.values is not None
    (found.logprobs.sum() + (found.logprobs * found.values).sum()).backward()
    weights = [*model.parameters(), *head.parameters()]
    return found, [torch.zeros(1) if w.grad is None else w.grad.clone() for w in weights]


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_are_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    exact = name != "mixtral, with experts"  # which computes in float32 at most
    dtype = torch.float64 if exact else torch.float32
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).to(dtype).eval()
    head = torch.nn.Linear(model.get_output_embeddings().in_features, 1).to(dtype)
    rows = [([5, 6, 7], [8, 9, 10, 11, 12]), ([5], [13, 14]), ([5, 9], [3, 4, 5, 6, 7, 8, 9])]
    batch = Batch.of(rows, 0)
    whole, expected = scored(model, head, batch)
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *args: seen.append(args[2].numel()))
    monkeypatch.setattr(policies, "MAX_LOGITS", 4 * 90)
    parts, gradients = scored(model, head, batch)
    assert max(seen) <= 4 * 90, "four positions at a time, in the backward pass too"
    for a, b in zip([*whole, *expected], [*parts, *gradients], strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-9 if exact else 1e-4, atol=1e-6 if exact else 1e-5), name
    assert any(g.abs().max() > 1e-3 for g in expected)
    with torch.no_grad():
        again = response_logprobs(model, batch, 0.7, entropy=True, value_head=head, size=80, best=True)
    assert torch.allclose(again.logprobs, whole.logprobs)
