"""Time of ``tokalign --help`` relative to an empty Typer app with the same number of commands. Prints the ratio.

python bench/speed/startup.py [--runs 20]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokalign.config.commands import COMMANDS

HEADER = """
import typer
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
"""
COMMAND = """
@app.command("c{0}")
def c{0}() -> None:
    pass
"""


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Alternate the two, so that other load affects both, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs of each")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(HEADER + "".join(COMMAND.format(i) for i in range(len(COMMANDS))) + "\napp()\n")
        commands = {
            "tokalign": [sys.executable, str(Path(sys.executable).parent / "tokalign"), "--help"],
            "empty": [sys.executable, str(empty), "--help"],
        }
        times = {name: [seconds(command)] for name, command in commands.items()}  # the first run warms the disk cache
        for _ in range(runs):
            for name, command in commands.items():
                times[name].append(seconds(command))
    best = {name: min(t[1:]) for name, t in times.items()}
    middle = {name: statistics.median(t[1:]) for name, t in times.items()}
    for name in commands:
        print(f"{name:9} fastest {best[name]:.3f} s, median {middle[name]:.3f} s")
    ratio = middle["tokalign"] / middle["empty"]
    print(f"ratio     fastest {best['tokalign'] / best['empty']:.2f}, median {ratio:.2f}  (target: at most 1.3)")


if __name__ == "__main__":
    main()
