"""Attention in half precision on CPUs, against attention written out in float64."""

import math

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokalign.models import attention, loading


def _module(groups: int) -> torch.nn.Module:
    module = torch.nn.Module()
    module.num_key_value_groups = groups  # type: ignore[assignment]
    return module


def _states(queries: int, keys: int, groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shapes = (2, 2 * groups, queries, 8), (2, 2, keys, 8), (2, 2, keys, 8)
    q, k, v = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    return q, k, v


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """(B, queries, heads, d) in float64; ``mask`` is true where a query attends to a key."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, 1) for x in (k, v))
    scores = (q.double() @ k.transpose(2, 3)) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    return (weights @ v).transpose(1, 2)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(20, 20), (3, 20)])
def test_output_and_gradients_are_those_of_attention_written_out(
    groups: int, padded: bool, queries: int, keys: int
) -> None:
    states = _states(queries, keys, groups, torch.bfloat16)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None].repeat(2, 1, 1, 1)
    if padded:
        mask[0, :, :, :5] = False
        mask[0, :, torch.arange(queries), keys - queries + torch.arange(queries)] = True  # padding sees itself
    given = None if queries == keys and not padded else mask  # None: causal
    module = _module(groups)
    module.is_causal = True  # type: ignore[assignment]
    found, _ = attention.attention(module, *states, given)
    expected = _written_out(*states, mask)
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.02)
    weights = torch.randn_like(found)
    grads = torch.autograd.grad((found * weights).sum(), states)
    for got, wanted in zip(grads, torch.autograd.grad((expected * weights).sum(), states), strict=True):
        torch.testing.assert_close(got.double(), wanted.double(), atol=0.05, rtol=0.05)


def test_rows_without_any_key_are_finite() -> None:
    states = _states(6, 6, 1, torch.bfloat16)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    mask[0, :, :3] = False
    found, _ = attention.attention(_module(1), *states, mask)
    found.sum().backward()
    assert found.isfinite().all()
    assert all(state.grad is not None and state.grad.isfinite().all() for state in states)


@pytest.mark.parametrize(
    ("queries", "keys", "dtype"),
    [
        (9, 9, torch.float32),
        (9, 9, torch.float64),
        (1, 9, torch.bfloat16),
        (3, attention.LONGEST + 1, torch.bfloat16),
    ],
    ids=["float32", "float64", "one query", "long"],
)
def test_other_attention_is_left_to_the_library(queries: int, keys: int, dtype: torch.dtype) -> None:
    states = _states(queries, keys, 1, dtype)
    mask = torch.ones(queries, keys, dtype=torch.bool)[None, None]
    assert not attention._faster(*states[:2])
    found, _ = attention.attention(_module(1), *states, mask)
    expected, _ = sdpa_attention_forward(_module(1), *states, mask)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("allowed", [False, True])
def test_settings_of_pytorch_are_as_before(allowed: bool) -> None:
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)
    try:
        attention.attention(_module(1), *_states(4, 4, 1, torch.bfloat16), None)
        with pytest.raises(RuntimeError):
            attention.attention(_module(1), *_states(4, 4, 1, torch.bfloat16), torch.ones(3, 3, dtype=torch.bool))
        assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() is allowed
        assert torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def test_models_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    real = attention._faster

    def faster(query: Tensor, key: Tensor) -> bool:
        calls.append(real(query, key))
        return calls[-1]

    monkeypatch.setattr(attention, "_faster", faster)
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))
    loading.disable_dropout(model).eval()
    ids = torch.arange(1, 9)[None]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention.attention
    plain = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        half = model(ids).logits
    assert calls == [False, True]
    torch.testing.assert_close(half.float(), plain, atol=0.02, rtol=0.02)
