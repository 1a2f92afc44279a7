"""Time of a PPO step relative to TRL's PPOTrainer, and of the built-in sampler relative to ``generate``.

Both sides use the same policy, reward model (one score per response), prompts, batch size, epochs, minibatches and
maximum response length, and sample at temperature 1. Needs TRL 1.10.0 (PPO was removed in 1.13) on the path, without
its dependencies.

    pip install --no-deps --target trl trl==1.10.0
    PYTHONPATH=trl OMP_NUM_THREADS=2 python bench/speed/ppo_speed.py PROMPTS POLICY REWARD_MODEL [--out FILE]
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tokalign import __version__
from tokalign.artifacts.schemas import PromptRow
from tokalign.config.methods import PpoOptions
from tokalign.config.options import SamplingOptions
from tokalign.data import dataset
from tokalign.models import loading
from tokalign.models.sampler import sample
from tokalign.models.samplers import generate
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo import rewards
from tokalign.ppo.networks import Networks
from tokalign.ppo.rollout import PromptItem
from tokalign.ppo.trainer import Learner

BATCH, EPOCHS, MINIBATCHES, LONGEST = 64, 2, 2, 96
MICRO = (8, 16, 32)
"""Responses per forward pass that are tried for TRL; the fastest is used."""
PARTS = ("rollout", "scoring", "update")
Steps = list[dict[str, float]]


def ours(args: argparse.Namespace, prompts: list[PromptItem], steps: int, value_model: str) -> Steps:
    """Seconds of each step of tokalign, by part."""
    options = PpoOptions(
        granularity="sequence", batch_size=BATCH, epochs=EPOCHS, minibatches=MINIBATCHES, max_new_tokens=LONGEST,
        lr=1e-6, value_lr=1e-6, value_model=value_model,  # type: ignore[arg-type]
    )  # fmt: skip
    tokenizer = Tokenizer.load(args.policy)
    networks = Networks(args.policy, options, torch.device("cpu"), tokenizer)
    learner = Learner(
        networks,
        rewards.load([args.reward_model], tokenizer, networks),
        tokenizer,
        options,
        [1.0],
        torch.Generator().manual_seed(0),
    )
    found = []
    for step in range(steps):
        start = time.perf_counter()
        metrics = learner.step(prompts[step * BATCH : (step + 1) * BATCH])
        parts = {part: metrics[f"seconds_{part}"] for part in PARTS}
        tokens = metrics["length"] * BATCH
        found.append({"whole": time.perf_counter() - start, "tokens": tokens, **parts})
    return found


def theirs(args: argparse.Namespace, prompts: list[PromptItem], steps: int, micro: int) -> Steps:
    """Seconds of each step of TRL, by part, with ``micro`` responses per forward pass."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer  # type: ignore[import-not-found]

    tokenizer = Tokenizer.load(args.policy).hf_tokenizer
    tokenizer.padding_side = "left"
    config = PPOConfig(
        output_dir="/tmp/trl-ppo", per_device_train_batch_size=micro,
        gradient_accumulation_steps=BATCH // micro, num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS,
        total_episodes=steps * BATCH, response_length=LONGEST, stop_token="eos", temperature=1.0, learning_rate=1e-6,
        missing_eos_penalty=1.0, local_rollout_forward_batch_size=BATCH, num_sample_generations=0, report_to=[],
        use_cpu=True, bf16=False, save_strategy="no", eval_strategy="no", logging_steps=10**6, disable_tqdm=True,
    )  # fmt: skip
    causal = AutoModelForCausalLM.from_pretrained
    classifier = AutoModelForSequenceClassification.from_pretrained
    rows = Dataset.from_dict({"input_ids": [a.ids for a in prompts[: steps * BATCH]]})
    marks: list[float] = []
    lengths: list[float] = []

    class Mark(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    reward_model = classifier(args.reward_model, num_labels=1)
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=causal(args.policy), ref_model=causal(args.policy),
        reward_model=reward_model, train_dataset=rows, eval_dataset=rows.select(range(1)),
        value_model=classifier(args.policy, num_labels=1), callbacks=[Mark()],
    )  # fmt: skip
    drawn: list[tuple[float, float]] = []
    updates: list[float] = []
    draw, accumulate = ppo_trainer.batch_generation, trainer.accelerator.accumulate

    def timed(*a: Any, **k: Any) -> Any:
        start = time.perf_counter()
        found = draw(*a, **k)
        drawn.append((start, time.perf_counter()))
        responses = found[0][:, a[1].shape[1] :]
        lengths.append(float((responses != tokenizer.pad_token_id).sum()))
        return found

    def entered(*a: Any, **k: Any) -> Any:
        updates.append(time.perf_counter())
        return accumulate(*a, **k)

    ppo_trainer.batch_generation, trainer.accelerator.accumulate = timed, entered
    try:
        with suppress(ZeroDivisionError):
            trainer.train()
    finally:
        ppo_trainer.batch_generation = draw
    found = []
    for (start, end), mark, tokens in zip(drawn, marks, lengths, strict=True):
        update = min(u for u in updates if u > end)
        parts = {"rollout": end - start, "scoring": update - end, "update": mark - update}
        found.append({"whole": mark - start, "tokens": tokens, **parts})
    return found


def samplers(args: argparse.Namespace, prompts: list[PromptItem]) -> dict[str, float]:
    """Seconds to sample one batch with the built-in sampler and with ``generate``."""
    tokenizer, policy = Tokenizer.load(args.policy), loading.load_policy(args.policy)
    ids = [a.ids for a in prompts[:BATCH]]
    found = {}
    for name, sampler in (("builtin", sample), ("generate", generate)):
        start = time.perf_counter()
        sampler(policy, ids, range(BATCH), tokenizer, SamplingOptions(max_new_tokens=LONGEST))
        found[name] = time.perf_counter() - start
    return found


def main() -> None:
    """Alternate the sides, print the medians and the ratios, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts")
    parser.add_argument("policy")
    parser.add_argument("reward_model", help="a sequence-level reward model")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, default=4, help="steps per run; the first is not counted")
    parser.add_argument("--out", type=Path, help="result file")
    args = parser.parse_args()
    tokenizer = Tokenizer.load(args.policy)
    rows = [r.prompt for r in dataset.read_rows(args.prompts, PromptRow, "prompts")][: args.steps * BATCH]
    prompts = [PromptItem(p, ids) for p, ids in zip(rows, tokenizer.prompts(rows), strict=True)]
    tried = {micro: statistics.median(s["whole"] for s in theirs(args, prompts, 3, micro)[1:]) for micro in MICRO}
    micro = min(tried, key=lambda m: tried[m])
    print(f"TRL is fastest with {micro} responses per forward pass: {tried}")
    sides: dict[str, Callable[[], Steps]] = {
        "trl": lambda: theirs(args, prompts, args.steps, micro),
        "separate": lambda: ours(args, prompts, args.steps, "separate"),
        "shared": lambda: ours(args, prompts, args.steps, "shared"),
    }
    steps: dict[str, Steps] = {name: [] for name in sides}
    draws: list[dict[str, float]] = []
    for _ in range(args.rounds):
        for name, side in sides.items():
            steps[name] += side()[1:]  # the first step is a warm-up
            gc.collect()
        draws.append(samplers(args, prompts))
    median = {
        name: {key: statistics.median(s[key] for s in found) for key in (*PARTS, "whole", "tokens")}
        for name, found in steps.items()
    }
    for name, m in median.items():
        parts = "  ".join(f"{part} {m[part]:.2f}" for part in PARTS)
        print(f"{name:<9} {m['whole']:.2f} s per step  {parts}  ({m['tokens'] / BATCH:.0f} tokens per response)")
    ratios = {
        name: round(
            statistics.median(t["whole"] / o["whole"] for t, o in zip(steps["trl"], steps[name], strict=True)), 2
        )
        for name in ("separate", "shared")
    }
    ratios["sampler"] = round(statistics.median(d["generate"] / d["builtin"] for d in draws[1:]), 2)
    print(f"TRL 1.10.0 takes {ratios['separate']} times as long as --value-model separate,")
    print(f"{ratios['shared']} times as long as --value-model shared;")
    print(f"generate of transformers takes {ratios['sampler']} times as long as the built-in sampler")
    if args.out:
        result = {"command": "python bench/speed/ppo_speed.py PROMPTS POLICY REWARD_MODEL", "tokalign": __version__}
        threads = {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "batch": BATCH, "trl_microbatch": micro}
        rounded = {n: {k: round(v, 3) for k, v in m.items()} for n, m in median.items()}
        args.out.write_text(json.dumps({**result, **threads, "seconds": rounded, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
