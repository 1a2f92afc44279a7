"""Signs of reward hacking, by hand and by brute force."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tokalign.core.reward_hacking import repetition, signs

CALM = {"length": 40.0, "repetition": 0.02, "kl": 3.0}


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(1, 4))
def test_repetition_counts_stretches_that_stand_there_already(rows: list[list[int]], n: int) -> None:
    width = max(map(len, rows))
    ids = torch.tensor([row + [9] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    twice = whole = 0
    for row in rows:
        seen = set()
        for start in range(len(row) - n + 1):
            stretch = tuple(row[start : start + n])
            twice += stretch in seen
            seen.add(stretch)
            whole += 1
    assert abs(repetition(ids, mask, n) - twice / max(whole, 1)) < 1e-6


def test_a_calm_run_shows_no_signs() -> None:
    assert signs(CALM, {**CALM, "win_rate": 60.0, "win_rate_error": 2.0}, 64.0) == {}
    assert signs(CALM, {**CALM, "length": 59.0}, None) == {}
    assert signs(CALM, {**CALM, "length": 27.0}, None) == {}


def test_signs_name_what_they_have_seen() -> None:
    assert signs(CALM, {**CALM, "length": 26.0}, None) == {"length": "responses have shrunk from 40 to 26 tokens"}
    found = signs(CALM, {"length": 61.0, "repetition": 0.2, "kl": 31.0, "win_rate": 50.0, "win_rate_error": 2.0}, 64.0)
    assert found["length"] == "responses have grown from 40 to 61 tokens"
    assert found["repetition"].startswith("20% of the text repeats itself")
    assert found["kl"] == "the policy has drifted 31 nats a response from where it started"
    assert found["win_rate"] == "the win rate has fallen from 64.0 to 50.0 %"
