"""Two processes train what one does with accumulation, and only the first of them writes and tells."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.test_cli import PROGRAM

BIN = Path(sys.executable).parent


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [str(BIN / "torchrun"), "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    return subprocess.run([*line, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def logged(folder: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_two_processes_follow_the_loss_of_one_that_accumulates(tmp_path: Path, level: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    work = ["train-rm", "data/labels", "--model", "tiny", "--level", level, "--limit", "80", "--steps", "6"]
    work += ["--batch-size", "8", "--lr", "1e-3", "--device", "cpu", "--patience", "9", "--eval-every", "3"]
    subprocess.run([PROGRAM, *work, "--microbatch", "4", "--out", str(one), "--quiet"], cwd=ROOT, check=True)
    done = torchrun(PROGRAM, *work, "--out", str(two))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("reward-model/1 →") == 1, "one tells"
    assert len(logged(two)) == 6
    for ours, theirs in zip(logged(two), logged(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (two, one))
    assert max((weights[k] - expected[k]).abs().max().item() for k in expected) < 1e-4
    again = torchrun(PROGRAM, *work, "--out", str(two))
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_them_all(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("not yours")
    work = ["train-rm", "data/labels", "--model", "tiny", "--level", "token", "--steps", "1", "--device", "cpu"]
    done = torchrun(PROGRAM, *work, "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    assert "is not empty and not an artifact" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
