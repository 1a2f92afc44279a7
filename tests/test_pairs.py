"""Pairs of responses in one row: the same numbers as with each sequence in a row of its own."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from tokalign.config.methods import RewardModelOptions
from tokalign.models.batch import Batch
from tokalign.models.heads import model_class
from tokalign.models.pairs import PairBatch, row_lengths, supports_pairs
from tokalign.training import examples
from tokalign.training.losses import PairLoss, TokenLoss

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PAD = 0


def ids(*numbers: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(numbers, dtype=np.int32)


PAIRS = [
    ((ids(5, 6, 7), ids(8, 9, 10, 2)), (ids(5, 6, 7), ids(8, 11, 2))),
    ((ids(5), ids(9, 9, 2)), (ids(5), ids(9, 9, 2))),  # nothing was edited
    ((ids(5, 6), ids(3, 4)), (ids(5, 6), ids(3, 4, 2))),  # one response begins the other
    ((ids(5, 6, 4, 4, 4, 4), ids(2)), (ids(5, 6, 4, 4, 4, 4), ids(7, 8, 9, 2))),  # not even the first word in common
]


def classifier(config: Any, level: str) -> Any:
    torch.manual_seed(0)
    config.num_labels = 3 if level == "token" else 1
    return model_class(config, level).from_config(config).eval()


def llama(level: str) -> Any:
    return classifier(transformers.LlamaConfig(**SIZES), level)


def test_layout_by_hand() -> None:
    batch = PairBatch.of_pairs(PAIRS[:2], PAD, "cpu")
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 10, 2, 11, 2], [5, 9, 9, 2, 0, 0, 0, 0, 0]]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5]
    attended = [row.nonzero().flatten().tolist() for row in batch.attention_mask[0, 0]]
    assert attended[6:] == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 7], [0, 1, 2, 3, 7, 8]]
    assert batch.last.tolist() == [6, 3, 8, 3]
    assert batch.response_ids[:, :3].tolist() == [[8, 9, 10], [9, 9, 2], [8, 11, 2], [9, 9, 2]]
    assert row_lengths(PAIRS) == [9, 4, 5, 11]


few = st.lists(st.integers(3, 5), max_size=6)


@given(st.lists(st.tuples(few, few, few).filter(lambda x: bool(x[0])), min_size=1, max_size=4))
def test_every_token_attends_to_its_own_sequence_only(texts: list[tuple[list[int], list[int], list[int]]]) -> None:
    pairs: Any = [((prompt, [*a, 2]), (prompt, [*b, 2])) for prompt, a, b in texts]
    shared = PairBatch.of_pairs(pairs, PAD, "cpu")
    alone = Batch.of([pair[side] for side in (0, 1) for pair in pairs], PAD)
    mask = alone.response_mask
    assert torch.equal(shared.response_mask, mask)
    assert torch.equal(shared.response_ids[mask], alone.response_ids[mask])
    for row, (prompt, response) in enumerate(pair[side] for side in (0, 1) for pair in pairs):
        sequence = [*prompt, *response]
        for t in range(len(response)):
            column = shared.positions()[row, t]
            attended = shared.attention_mask[row % len(pairs), 0, column]
            at = attended.nonzero().flatten()
            assert shared.input_ids[row % len(pairs), at].tolist() == sequence[: len(prompt) + t + 1]
            assert shared.position_ids[row % len(pairs), at].tolist() == list(range(len(prompt) + t + 1))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_losses_and_gradients_are_those_of_sequences_alone(level: str) -> None:
    draw = np.random.default_rng(0)
    rows = [
        {"id": str(k), "pairs": list(pair), "labels": [draw.integers(-1, 2, len(r)).astype(np.int8) for _, r in pair]}
        for k, pair in enumerate(PAIRS)
    ]
    if level == "sequence":
        rows = [{"id": r["id"], "pairs": r["pairs"]} for r in rows]
    tokenizer: Any = type("Padding", (), {"pad_id": PAD})
    found = []
    for shared in (False, True):
        model = llama(level)
        loss = (
            PairLoss(model)
            if level == "sequence"
            else TokenLoss(model, RewardModelOptions(level="token", weight_bad=3.0))
        )
        collate = partial(examples.collate, tokenizer=tokenizer, device=torch.device("cpu"), shared=shared)
        value = loss(collate(rows), 3.0)
        value.backward()
        found.append((value, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (alone, gradients), (together, shared_gradients) = found
    assert together.item() == pytest.approx(alone.item(), abs=1e-5)
    assert gradients.keys() == shared_gradients.keys() and len(gradients) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_models_that_take_the_mask(level: str) -> None:
    model = llama(level).train()
    assert supports_pairs(model, level, PAIRS, PAD)
    assert model.training
    wide = classifier(transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=64), level)
    assert supports_pairs(wide, level, PAIRS, PAD)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(lambda: transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=3), id="window"),
        pytest.param(lambda: transformers.BertConfig(**SIZES), id="later tokens"),
        pytest.param(
            lambda: transformers.MambaConfig(
                vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0
            ),
            id="state",
        ),
        pytest.param(
            lambda: transformers.FalconConfig(
                vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.3
            ),
            id="positions not passed on",
        ),
        pytest.param(
            lambda: transformers.BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2), id="own mask"
        ),
    ],
)
def test_models_that_need_a_row_for_each_sequence(config: Any) -> None:
    assert not supports_pairs(classifier(config(), "token"), "token", PAIRS, PAD)


def test_pairs_with_nothing_in_common_keep_their_rows() -> None:
    long = np.arange(400, dtype=np.int32) % 30 + 5
    pair = ((ids(3), long), (ids(4), long[::-1]))
    assert not supports_pairs(llama("token"), "token", [pair], PAD)
