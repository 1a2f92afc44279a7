"""Time of a step of tokalign's Muon relative to PyTorch's, for the matrices of the playground's model on a CPU.

The two alternate, and their medians are compared. Writes docs/results/muon_speed.json.

    python bench/speed/muon_speed.py [--steps 20]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from tokalign import __version__
from tokalign.training.optim import Muon

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def main() -> None:
    """Alternate the optimisers, compare the medians, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps of each optimiser")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shapes = [(128, 128)] * 4 + [(384, 128)] * 2 + [(128, 384)]  # a layer of the tiny model
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes * 2]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizers = {"ours": Muon(params), "torch": torch.optim.Muon(params)}
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for step in range(args.steps + 2):
        for name, optimizer in optimizers.items():
            began = time.perf_counter()
            optimizer.step()  # type: ignore[no-untyped-call]
            if step > 1:
                seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    result = {
        "command": "python bench/speed/muon_speed.py",
        "tokalign": __version__,
        "milliseconds": {name: round(1000 * value, 2) for name, value in median.items()},
        "of_torch": round(median["torch"] / median["ours"], 2),
    }
    (RESULTS / "muon_speed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
