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
from dataclasses import dataclass
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

EPOCHS, MINIBATCHES = 2, 2
MICRO = (8, 16, 32)
"""Responses per forward pass that are tried for TRL; the fastest is used."""
PARTS = ("rollout", "scoring", "update")
Steps = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """What both sides train: models in folders, prompts, and sizes."""

    policy: str
    reward_model: str
    prompts: list[PromptItem]
    batch: int = 64
    longest: int = 96
    dtype: str = "float32"
    lora: bool = False


def ours(case: Case, steps: int, value_model: str) -> Steps:
    """Seconds of each step of tokalign, by part; ``rows`` are the tokens of each prompt and response."""
    options = PpoOptions(
        granularity="sequence", batch_size=case.batch, epochs=EPOCHS, minibatches=MINIBATCHES, lora=case.lora,
        max_new_tokens=case.longest, lr=1e-6, value_lr=1e-6, microbatch=min(16, case.batch),
        value_model=value_model, dtype=case.dtype,  # type: ignore[arg-type]
    )  # fmt: skip
    tokenizer = Tokenizer.load(case.policy)
    networks = Networks(case.policy, options, torch.device("cpu"), tokenizer)
    learner = Learner(
        networks,
        rewards.load([case.reward_model], tokenizer, networks),
        tokenizer,
        options,
        [1.0],
        torch.Generator().manual_seed(0),
    )
    collected: list[list[tuple[int, int]]] = []
    evaluate = learner.collector.evaluate

    def recorded(*a: Any) -> Any:
        rollout = evaluate(*a)
        collected.append([(len(p), len(r)) for p, r in rollout.pairs])
        return rollout

    learner.collector.evaluate = recorded  # type: ignore[method-assign, assignment]
    found = []
    for step in range(steps):
        start = time.perf_counter()
        metrics = learner.step(case.prompts[step * case.batch : (step + 1) * case.batch])
        parts = {part: metrics[f"seconds_{part}"] for part in PARTS}
        tokens = metrics["length"] * case.batch
        whole = time.perf_counter() - start
        found.append({"whole": whole, "tokens": tokens, "rows": collected[-1], **parts})
    return found


def theirs(case: Case, steps: int, micro: int) -> Steps:
    """Seconds of each step of TRL, by part, with ``micro`` responses per forward pass."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer  # type: ignore[import-not-found]

    tokenizer = Tokenizer.load(case.policy).hf_tokenizer
    tokenizer.padding_side = "left"
    adapter = None
    if case.lora:
        from peft import LoraConfig

        adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    config = PPOConfig(
        output_dir="/tmp/trl-ppo", per_device_train_batch_size=micro,
        gradient_accumulation_steps=case.batch // micro, num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS,
        total_episodes=steps * case.batch, response_length=case.longest, stop_token="eos", temperature=1.0,
        learning_rate=1e-6, missing_eos_penalty=1.0, local_rollout_forward_batch_size=case.batch,
        num_sample_generations=0, report_to=[], use_cpu=True, bf16=case.dtype == "bfloat16", save_strategy="no",
        eval_strategy="no", logging_steps=10**6, disable_tqdm=True,
    )  # fmt: skip
    causal = AutoModelForCausalLM.from_pretrained
    classifier = AutoModelForSequenceClassification.from_pretrained
    rows = Dataset.from_dict({"input_ids": [a.ids for a in case.prompts[: steps * case.batch]]})
    marks: list[float] = []
    lengths: list[float] = []

    class Mark(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    reward_model, value_model = classifier(case.reward_model, num_labels=1), classifier(case.policy, num_labels=1)
    if adapter:  # TRL would train the whole value model
        value_model.add_adapter(adapter)
        value_model.score.requires_grad_(True)
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=causal(case.policy),
        ref_model=None if case.lora else causal(case.policy), reward_model=reward_model, train_dataset=rows,
        eval_dataset=rows.select(range(1)), value_model=value_model, callbacks=[Mark()],
        peft_config=adapter,
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


def samplers(case: Case) -> dict[str, float]:
    """Seconds to sample one batch with the built-in sampler and with ``generate``."""
    tokenizer, policy = Tokenizer.load(case.policy), loading.load_policy(case.policy)
    ids = [a.ids for a in case.prompts[: case.batch]]
    found = {}
    for name, sampler in (("builtin", sample), ("generate", generate)):
        start = time.perf_counter()
        sampler(policy, ids, range(case.batch), tokenizer, SamplingOptions(max_new_tokens=case.longest))
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
    rows = [r.prompt for r in dataset.read_rows(args.prompts, PromptRow, "prompts")][: args.steps * Case.batch]
    prompts = [PromptItem(p, ids) for p, ids in zip(rows, tokenizer.prompts(rows), strict=True)]
    case = Case(args.policy, args.reward_model, prompts)
    tried = {micro: statistics.median(s["whole"] for s in theirs(case, 3, micro)[1:]) for micro in MICRO}
    micro = min(tried, key=lambda m: tried[m])
    print(f"TRL is fastest with {micro} responses per forward pass: {tried}")
    sides: dict[str, Callable[[], Steps]] = {
        "trl": lambda: theirs(case, args.steps, micro),
        "separate": lambda: ours(case, args.steps, "separate"),
        "shared": lambda: ours(case, args.steps, "shared"),
    }
    steps: dict[str, Steps] = {name: [] for name in sides}
    draws: list[dict[str, float]] = []
    for _ in range(args.rounds):
        for name, side in sides.items():
            steps[name] += side()[1:]  # the first step is a warm-up
            gc.collect()
        draws.append(samplers(case))
    median = {
        name: {key: statistics.median(s[key] for s in found) for key in (*PARTS, "whole", "tokens")}
        for name, found in steps.items()
    }
    for name, m in median.items():
        parts = "  ".join(f"{part} {m[part]:.2f}" for part in PARTS)
        print(f"{name:<9} {m['whole']:.2f} s per step  {parts}  ({m['tokens'] / case.batch:.0f} tokens per response)")
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
        threads = {
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "batch": case.batch,
            "trl_microbatch": micro,
        }
        rounded = {n: {k: round(v, 3) for k, v in m.items()} for n, m in median.items()}
        args.out.write_text(json.dumps({**result, **threads, "seconds": rounded, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
