"""The README shows what was measured, and its commands are commands."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "docs" / "results"


def test_the_tables_are_those_of_the_result_files() -> None:
    code = (
        "import sys; sys.path.insert(0, 'bench'); import readme; "
        "sys.exit(readme.render(t := readme.README.read_text(encoding='utf-8')) != t)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0, "python bench/readme.py writes it anew"


def test_the_mean_difference_is_the_mean_of_the_rows() -> None:
    rows = re.findall(r"^\| \d+ \| ([\d.]+) ± [\d.]+ \| ([\d.]+) ± [\d.]+ \| ([+-][\d.]+) \|", README, re.MULTILINE)
    shown = [float(difference) for *_, difference in rows]
    assert len(rows) == len(json.loads((RESULTS / "headline.json").read_text())["seeds"]) >= 3
    assert [float(t) - float(s) for s, t, _ in rows] == pytest.approx(shown, abs=0.11)
    mean = re.search(r"^\| mean \|.*?\*\*([+-][\d.]+)\*\*", README, re.MULTILINE)
    assert mean is not None
    assert float(mean[1]) == pytest.approx(sum(shown) / len(shown), abs=0.1)
