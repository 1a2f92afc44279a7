"""Peak memory of an update by the size of the vocabulary: the output layer in parts, and whole.

A small Llama with random weights, the forward and backward pass of PPO's actor on the same rows, each case in a process
of its own. Reported is how much the update adds to the memory at its start, without the two gradients of the output
layer that exist at a time (of one part, and of all parts so far): they have the size of the embeddings. Writes
docs/results/logits_memory.json.

    python bench/speed/logits_memory.py
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
VOCABULARIES = (8_192, 151_936)
ROWS, LENGTH = 8, 192


def measure(vocabulary: int, whole: bool) -> float:
    """Megabytes that an update adds at its peak."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tokalign.models import policy
    from tokalign.models.batch import Batch

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if whole:
        policy.MAX_LOGITS = 2**62
    batch = Batch.of([([1] * 8, [2 + k for k in range(LENGTH)]) for _ in range(ROWS)], 0)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    start, peak, done = resident(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    stats = policy.response_logprobs(model, batch, entropy=True)
    stats.logprobs.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    done.set()
    thread.join()
    gradient = vocabulary * 256 * 4 / 2**20
    return peak - start - 2 * gradient


def resident() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(measure(args.measure, args.whole))
        return
    found: dict[str, dict[str, float]] = {}
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # freed tensors go back to the system
    for name, flags in (("in parts", []), ("whole", ["--whole"])):
        found[name] = {}
        for vocabulary in VOCABULARIES:
            command = [sys.executable, __file__, "--measure", str(vocabulary), *flags]
            runs = [
                float(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
                for _ in range(3)
            ]
            found[name][str(vocabulary)] = round(sorted(runs)[1], 1)
            print(f"{name}, vocabulary {vocabulary}: {found[name][str(vocabulary)]} MB (median of {runs})", flush=True)
    ratios = {
        name: round(sizes[str(VOCABULARIES[1])] / sizes[str(VOCABULARIES[0])], 2) for name, sizes in found.items()
    }
    line = "python bench/speed/logits_memory.py"
    result = {"command": line, "rows": ROWS, "tokens": LENGTH, "peak_mb": found, "ratios": ratios}
    (RESULTS / "logits_memory.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(ratios)


if __name__ == "__main__":
    main()
