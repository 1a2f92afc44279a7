"""The scripts of docs/several-machines.md, run as two machines that only share a file system."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.forked import run

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "several-machines.md").read_text(encoding="utf-8")
OPTIONS = "--steps 3 --batch-size 8 --limit 40 --lr 1e-3 --device cpu"


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def machines(folder: Path, *commands: str) -> str:
    """Run a command on each of two machines; what they said."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("TOKALIGN_")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "GLOO_SOCKET_IFNAME": "lo"}
    env |= {"NODES": "2", "GPUS": "1", "FIRST": "127.0.0.1", "PORT": free_port(), "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(["bash", "-c", c], cwd=folder, env=env, stderr=subprocess.PIPE, text=True) for c in commands
    ]
    said = [p.communicate(timeout=300)[1] for p in started]
    assert [p.returncode for p in started] == [0, 0], said
    return "".join(said)


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_machines_train_what_one_does(launcher: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data" / "labels", tmp_path / "labels")
    script = re.search(r"<<'END'\n(torchrun .*?)END", PAGE, re.DOTALL)
    assert script is not None
    body = script[1].replace("--model sft", f"--model tiny {OPTIONS}")
    if launcher == "accelerate":
        assert "accelerate launch --multi_gpu --num_machines 2 --machine_rank 0 --num_processes 16" in " ".join(
            PAGE.split()
        )
        ours = "accelerate launch --multi_gpu --num_machines 2 --machine_rank $1 --num_processes 2"
        ours += " --main_process_ip $FIRST --main_process_port $PORT"
        body = re.sub(r"torchrun .*?\\\n", lambda _: f"{ours} \\\n", body)
    (tmp_path / "node.sh").write_text(body)
    assert machines(tmp_path, "bash node.sh 0", "bash node.sh 1").count("reward-model/1 →") == 1
    alone = run(
        tmp_path, "train-rm", "labels", "--model", "tiny", "--level", "token", *OPTIONS.split(), "--out", "alone"
    )
    assert alone.returncode == 0, alone.stderr
    both, one = (load_file(tmp_path / name / "model.safetensors") for name in ("rm", "alone"))
    assert max((both[k] - one[k]).abs().max().item() for k in one) < 1e-4
    assert json.loads((tmp_path / "rm" / "manifest.json").read_text())["stats"]["steps"] == 3
