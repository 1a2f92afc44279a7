"""Peak memory of the streaming stages on few rows and on ten times as many. Prints the ratios.

python bench/speed/memory.py [--rows 3000]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = str(Path(sys.executable).parent / "tokalign")


def peak(folder: Path, command: str) -> int:
    """Run a command. Returns its peak resident memory in MB."""
    process = subprocess.Popen([PROGRAM, *command.split(), "--quiet"], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return usage.ru_maxrss // 1024


def main() -> None:
    """Measure every stage at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3000, help="number of rows of the smaller run")
    args = parser.parse_args()
    few, many = args.rows, 10 * args.rows
    world = "playground --out world --sft 200 --prompts 1 --heldout 1 --test 1"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        peak(folder, f"{world} --preferences {many}")
        peak(folder, "train-sft world/sft --model tiny --vocab 600 --steps 1 --out policy")
        peak(folder, "edit world/preferences --out edits")
        peak(folder, "diff edits --limit 200 --tokenizer policy --out labels")
        peak(folder, "train-rm labels --model policy --level token --steps 1 --out rm")
        stages = {
            "edit": "edit world/preferences",
            "diff": "diff edits --tokenizer policy",
            "score": "score edits --reward-model rm",
        }
        print(f"{'stage':>6} {few:>9} rows {many:>9} rows   ratio")
        for stage, command in stages.items():
            small, large = (peak(folder, f"{command} --limit {n} --out {stage}-{n}") for n in (few, many))
            print(f"{stage:>6} {small:>11} MB {large:>11} MB   {large / small:.2f}")


if __name__ == "__main__":
    main()
