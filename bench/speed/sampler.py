"""The built-in sampler on a real model: against ``generate``, and with prompts that occur several times.

SmolLM2-135M-Instruct, dequantised from Q4_1 (see smollm2.py), one thread. Times are CPU seconds; medians of three runs
in turn. Use ``--dtype bfloat16`` only on CPUs that have it: others emulate it, many times slower than float32.

    python bench/speed/sampler.py [--prompts 64] [--tokens 64] [--dtype float32] [--out docs/results/sampler.json]
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from smollm2 import fetch

from tokalign.config.options import SamplingOptions
from tokalign.models import loading
from tokalign.models.sampler import sample
from tokalign.models.samplers import generate
from tokalign.models.tokenizer import Tokenizer

RUNS, COPIES, LONG = 3, 8, 400


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def speeds(policy: Any, tokenizer: Tokenizer, prompts: Sequence[list[int]], tokens: int) -> dict[str, list[float]]:
    """Tokens per CPU second of both samplers, in turn."""
    options, seeds = SamplingOptions(max_new_tokens=tokens), list(range(len(prompts)))
    found: dict[str, list[float]] = {"built-in": [], "generate": []}
    for _ in range(RUNS):
        for name, sampler in (("built-in", sample), ("generate", generate)):
            took, drawn = seconds(lambda s=sampler: s(policy, prompts, seeds, tokenizer, options))  # type: ignore[misc]
            found[name].append(round(sum(len(s.ids) for s in drawn) / took, 1))
    return found


def shared(policy: Any, tokenizer: Tokenizer) -> dict[str, list[float]]:
    """CPU seconds to read prompts of :data:`LONG` tokens: two of them eight times each, and sixteen different ones."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(100, 40_000, (2 * COPIES, LONG), generator=generator).tolist()
    options, seeds = SamplingOptions(max_new_tokens=1), list(range(2 * COPIES))
    cases = {"different": prompts, "shared": [p for p in prompts[:2] for _ in range(COPIES)]}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(RUNS):
        for name, rows in cases.items():
            took, _ = seconds(lambda r=rows: sample(policy, r, seeds, tokenizer, options))  # type: ignore[misc]
            found[name].append(round(took, 2))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = fetch()
    tokenizer, policy = Tokenizer.load(source), loading.load_policy(source, args.dtype)
    asked = [f"Tell me a long story about the number {k} and its friends." for k in range(args.prompts)]
    speed = speeds(policy, tokenizer, tokenizer.prompts(asked), args.tokens)
    read = shared(policy, tokenizer)
    result = {
        "command": f"python bench/speed/sampler.py --dtype {args.dtype}",
        "model": f"SmolLM2-135M-Instruct, dequantised from Q4_1, {args.dtype}, one thread",
        "machine": platform.machine(),
        "prompts": args.prompts,
        "tokens": args.tokens,
        "prompt_tokens": LONG,
        "copies": COPIES,
        "tokens_per_cpu_second": speed,
        "seconds_to_read": read,
        "over_generate": round(median(speed["built-in"]) / median(speed["generate"]), 2),
        "shared_over_different": round(median(read["shared"]) / median(read["different"]), 2),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
