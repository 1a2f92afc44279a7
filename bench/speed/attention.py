"""Attention in bfloat16 on a CPU: plain products against PyTorch's fused kernel. Prints a table of ratios.

python bench/speed/attention.py [--heads 9] [--size 64] [--seconds 0.4]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tokalign.models.attention import attention

ROWS = ((32, 1, 80), (32, 64, 64), (32, 128, 128), (16, 256, 256), (4, 512, 512))
"""Batch size, queries and keys."""


def seconds(run: Callable[[], Any], least: float) -> float:
    """Seconds a call, over at least ``least`` seconds."""
    run()
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        run()
        n += 1
    return (time.perf_counter() - start) / n


def main() -> None:
    """Time both on each of ``ROWS``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "rows  queries  keys | fused, ms: forward, with backward | ratio to ours: forward, with backward | max. error"
    )
    for rows, queries, keys in ROWS:
        shapes = (queries, keys, keys)
        q, k, v = (
            torch.randn(rows, args.heads, n, args.size, dtype=torch.bfloat16, requires_grad=True) for n in shapes
        )
        mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
        found = []
        for compute in (sdpa_attention_forward, attention):
            module = torch.nn.Module()

            def forward(compute: Any = compute, module: Any = module, parts: Any = (q, k, v), mask: Any = mask) -> Any:
                return compute(module, *parts, mask)[0]

            def both(forward: Any = forward, parts: Any = (q, k, v)) -> None:
                forward().sum().backward(inputs=parts)

            with torch.no_grad():
                alone, result = seconds(forward, args.seconds), forward()
            found.append((1e3 * alone, 1e3 * seconds(both, args.seconds), result))
        (a, b, fused), (c, d, ours) = found
        error = float((fused - ours).abs().max())
        print(f"{rows:4} {queries:8} {keys:5} | {a:8.1f} {b:8.1f} | {a / c:8.2f} {b / d:8.2f} | {error:.4f}")


if __name__ == "__main__":
    main()
