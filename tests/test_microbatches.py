"""How a batch is cut, into microbatches and over processes, does not change what is learnt."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.test_distributed import logged, one_process, two_processes
from tokalign.training.steps import TOTAL, Batches, microbatches

ROWS = 25
"""With batches of 9, the last of an epoch has 7."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Edits of one to four answers end to end, some with nothing to edit; and their labels."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = [json.loads(line) for line in (ROOT / "data" / "edits" / "data.jsonl").read_text().splitlines()]
    draw = random.Random(0)
    made = []
    for k in range(ROWS):
        some = draw.sample(rows, draw.choice([1, 1, 2, 4]))
        texts = {side: " ".join(row[side] for row in some) for side in ("original", "edited", "chosen")}
        made.append({"id": f"m{k}", "prompt": some[0]["prompt"], **texts})
    (folder / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    sft = [{"id": row["id"], "prompt": row["prompt"], "response": row["edited"]} for row in made]
    (folder / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sft))
    one_process(
        "diff", str(folder / "edits.jsonl"), "--tokenizer", "tiny", "--vocab", "500", "--out", str(folder / "labels")
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train-sft", "token", "sequence"])
def test_a_run_learns_the_same_however_its_batches_are_cut(mixed: Path, tmp_path: Path, stage: str) -> None:
    """An epoch, whose last batch is smaller, and a step of the next; by 4 and by 2, neither of which divides 9 or 7."""
    work = ["train-sft", str(mixed / "sft.jsonl"), "--vocab", "500"]
    if stage != "train-sft":
        work = ["train-rm", str(mixed / "labels"), "--level", stage, "--pairs", "both", "--heldout", "0"]
        work += ["--batch-size", "9"]
    work += ["--model", "tiny", "--batch-size", "9", "--steps", "4", "--lr", "1e-3", "--device", "cpu"]
    cuts: dict[str, tuple[Callable[..., Any], str]] = {
        "whole": (one_process, "0"),
        "four": (one_process, "4"),
        "two of two": (two_processes, "2"),
    }
    found = {}
    for name, (run, size) in cuts.items():
        run(*work, "--microbatch", size, "--out", str(tmp_path / name))
        found[name] = logged(tmp_path / name), load_file(tmp_path / name / "model.safetensors")
    steps, expected = found.pop("whole")
    assert len(steps) == 4
    for other, weights in found.values():
        for ours, theirs in zip(other, steps, strict=True):
            assert ours == pytest.approx(theirs, rel=2e-4)
        assert max((weights[k] - expected[k]).abs().max().item() for k in expected) < 1e-4


Cut = tuple[list[list[int]], list[float]]
"""Row numbers of a process's microbatches, and their divisors."""


def cut(rows: list[int], counts: list[float], size: int, world: int) -> list[Cut]:
    """What each process makes of a batch."""
    made = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WORLD_SIZE", str(world))
        for rank in range(world):
            patched.setenv("RANK", str(rank))
            examples = [{"id": i} for i in range(len(counts))]
            parts = microbatches(rows, examples, counts, lambda some: {"id": [e["id"] for e in some]}, size)
            made.append(([part["id"] for part in parts], [part[TOTAL] for part in parts]))
    return made


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    size=st.integers(0, 6),
    world=st.integers(1, 4),
    data=st.data(),
)
def test_every_row_counts_once_in_a_mean_over_the_whole_batch(
    counts: list[float], size: int, world: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(counts))), unique=True, min_size=1))
    made = cut(rows, counts, size, world)
    assert len({len(groups) for groups, _ in made}) == 1, "as many passes in every process"
    assert all(1 <= len(group) <= (size or len(rows)) for groups, _ in made for group in groups)
    counted = Counter(
        i for groups, totals in made for group, total in zip(groups, totals, strict=True) if total < 1e9 for i in group
    )
    assert counted == Counter(rows)
    # A loss of 7 a unit of count, summed and divided; averaged over processes as gradients are.
    of_each = [
        sum(sum(7.0 * counts[i] for i in group) / total for group, total in zip(*one, strict=True)) for one in made
    ]
    expected = 7.0 if sum(counts[i] for i in rows) else 0.0
    assert sum(of_each) / world == pytest.approx(expected)


@given(n=st.integers(1, 60), size=st.integers(1, 20), seed=st.integers(0, 9))
def test_an_epoch_is_each_row_once_in_full_batches_and_goes_on_where_it_was_cut(n: int, size: int, seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(1, 99) for _ in range(n)]
    batches = Batches(lengths, size, seed)
    first, second = list(batches), list(batches)
    assert sorted(i for rows in first for i in rows) == list(range(n))
    assert {len(rows) for rows in first[:-1]} <= {size}
    assert len(first) == len(batches) == -(-n // size)
    again = Batches(lengths, size, seed)
    again.skip(1)
    assert list(again) == second
