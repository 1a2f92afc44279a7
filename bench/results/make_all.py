"""Win rates and time of ``make all``: its pipeline, on several seeds. Writes docs/results/make_all.json.

python bench/results/make_all.py [--seeds 3] [--runs runs/make-all]
"""

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from lab import RESULTS, ROOT, stats
from tokalign import __version__


def pipeline(run: Path, seed: int) -> dict[str, Any]:
    """Run the pipeline of one seed; return its win rates, the length of PPO and the seconds."""
    if run.exists():
        raise SystemExit(f"{run} exists: its time would be that of a part; remove it or pass another --runs")
    start = time.perf_counter()
    subprocess.run(
        ["make", "--no-print-directory", "-j2", "pipeline", f"RUN={run}", f"SEED={seed}"], cwd=ROOT, check=True
    )
    seconds = time.perf_counter() - start
    found = stats(run / "winrates")
    rates = {name: found["candidates"][name] for name in ("ppo-sequence", "ppo-token")}
    return {"seed": seed, "seconds": round(seconds), "rates": rates, "difference": found["paired"][0]}


def main() -> None:
    """Run all seeds, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "make-all")
    args = parser.parse_args()
    found = [pipeline(args.runs / str(seed), seed) for seed in range(args.seeds)]
    result = {"command": "python bench/results/make_all.py", "tokalign": __version__, "seeds": found}
    (RESULTS / "make_all.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
