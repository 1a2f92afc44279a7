"""Training speed of reward models relative to TRL's RewardTrainer, with the same model, pairs, batch size and steps.

Uses pairs of QA-Feedback (correction over answer, with the question as the prompt). Measures tokens per second,
without padding. Only this benchmark needs TRL: ``pip install trl==1.16.0``.

    python bench/speed/reward_speed.py qa_feedback.json MODEL [--epochs 2] [--batch 16] [--out FILE.json]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokalign import __version__
from tokalign.artifacts import token_labels
from tokalign.artifacts.manifest import open_artifact
from tokalign.artifacts.workspace import Workspace
from tokalign.config.methods import RewardModelOptions
from tokalign.config.options import SupervisedOptions
from tokalign.config.stages import DiffConfig, EditConfig
from tokalign.models import loading
from tokalign.models.pairs import supports_pairs
from tokalign.models.tokenizer import Tokenizer
from tokalign.stages import diff, edit
from tokalign.training import examples as training_examples
from tokalign.training.losses import PairLoss, TokenLoss
from tokalign.training.supervised import fit


def examples_of(data: str, model: str, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Tokenizer]:
    """Token-level and sequence-level training examples, made with the stages ``edit`` and ``diff``; the tokenizer."""
    edits, labels = folder / "edits", folder / "labels"
    edit.run(EditConfig(source=data, format="qa-feedback", editor="recorded", passages=False, out=edits, quiet=True))
    diff.run(DiffConfig(edits=str(edits), tokenizer=model, out=labels, quiet=True))
    tokenizer = Tokenizer.load(model)
    rows = [
        r
        for r in token_labels.read_labels(open_artifact(labels))
        if len(r.prompt_ids) + max(len(r.original_ids), len(r.edited_ids)) <= 512
    ]
    none = [np.empty(0, dtype=np.int32)] * len(rows)  # pairs="edited" does not use the chosen response
    levels = [
        training_examples.examples_of(rows, none, RewardModelOptions(level=level, pairs="edited"))
        for level in ("token", "sequence")
    ]
    return levels[0], levels[1], tokenizer


def ours(
    model: str, level: Any, examples: list[dict[str, Any]], tokenizer: Tokenizer, epochs: int, batch: int
) -> float:
    """Seconds of training with tokalign."""
    new = loading.new_token_model if level == "token" else loading.new_sequence_model
    loaded, device = new(model), torch.device("cpu")
    shared = supports_pairs(loaded, level, [e["pairs"] for e in examples], tokenizer.pad_id)
    lengths = training_examples.lengths(examples, shared=shared)
    with tempfile.TemporaryDirectory() as folder:
        learning = RewardModelOptions(level=level, pairs="edited")
        options = SupervisedOptions(
            batch_size=batch, epochs=epochs, lr=2e-5, save_every=10**9, quiet=True, device="cpu"
        )
        loss = TokenLoss(loaded, learning) if level == "token" else PairLoss(loaded)
        collate = partial(training_examples.collate, tokenizer=tokenizer, device=device, shared=shared)
        began = time.perf_counter()
        counts = training_examples.counts(examples, learning)
        fit("bench", loss, examples, lengths, counts, collate, options, Workspace.at(Path(folder)))
        return time.perf_counter() - began


def theirs(model: str, examples: list[dict[str, Any]], tokenizer: Tokenizer, epochs: int, batch: int) -> float:
    """Seconds of training with TRL."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer  # type: ignore[import-not-found, unused-ignore]

    rows = [
        {"chosen_ids": [*e["pairs"][0][0], *e["pairs"][0][1]], "rejected_ids": [*e["pairs"][1][0], *e["pairs"][1][1]]}
        for e in examples
    ]
    steps = epochs * -(-len(rows) // batch)
    with tempfile.TemporaryDirectory() as folder:
        args = RewardConfig(
            output_dir=folder, per_device_train_batch_size=batch, max_steps=steps, learning_rate=2e-5, report_to=[],
            save_strategy="no", logging_steps=10**9, bf16=False, use_cpu=True, gradient_checkpointing=False,
            max_length=512, disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = RewardTrainer(
            model=loading.new_sequence_model(model), args=args, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer.hf_tokenizer,
        )  # fmt: skip
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began


def main() -> None:
    """Measure all sides twice, alternating; print and write the best speed of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="development file of QA-Feedback")
    parser.add_argument("model")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="batch size")
    parser.add_argument("--out", type=Path, help="result file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        token, sequence, tokenizer = examples_of(args.data, args.model, Path(folder))

    def tokens(examples: list[dict[str, Any]]) -> int:
        return int(args.epochs) * sum(len(p) + len(r) for e in examples for p, r in e["pairs"])

    runs: dict[str, tuple[int, Callable[[], float]]] = {
        "ours, sequence": (
            tokens(sequence),
            lambda: ours(args.model, "sequence", sequence, tokenizer, args.epochs, args.batch),
        ),
        "TRL, sequence": (tokens(sequence), lambda: theirs(args.model, sequence, tokenizer, args.epochs, args.batch)),
        "ours, token": (tokens(token), lambda: ours(args.model, "token", token, tokenizer, args.epochs, args.batch)),
    }
    speed = dict.fromkeys(runs, 0.0)
    for _ in range(2):
        for name, (n, run) in runs.items():
            speed[name] = max(speed[name], n / run())
    ratios = {
        "sequence_over_trl": speed["ours, sequence"] / speed["TRL, sequence"],
        "token_over_sequence": speed["ours, token"] / speed["ours, sequence"],
    }
    print(f"{len(sequence)} pairs, batch size {args.batch}")
    for name, value in speed.items():
        print(f"{name:<16} {value:8.0f} tokens/s")
    print(
        f"sequence level relative to TRL {ratios['sequence_over_trl']:.2f}×; "
        f"token level relative to sequence level {ratios['token_over_sequence']:.2f}×"
    )
    if args.out:
        found = {name: round(value, 2) for name, value in ratios.items()}
        whole = {"command": "python bench/speed/reward_speed.py qa_feedback.json MODEL", "tokalign": __version__}
        args.out.write_text(
            json.dumps({**whole, "pairs": len(sequence), "batch": args.batch, **found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
