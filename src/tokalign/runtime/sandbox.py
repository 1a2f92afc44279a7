"""Files that others made are first opened in a process that may die: a damaged one ends that, and nothing else.

Tables in Arrow and Parquet, tokenizers and chat templates can bring down, fill or hang whoever opens them. What opens
them first is :mod:`tokalign.runtime.probe`, within limits of time and memory.
"""

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from tokalign.errors import InputError
from tokalign.runtime import probe
from tokalign.runtime.disk import hash_json, sha256

Kind = Literal["arrow", "parquet", "tokenizer"]
_PORTION = 8 * 1024 * 1024
"""Bytes for which a process has the seconds that are its limit; for a larger file it has so many times as many."""
_MEMORY = 16
"""Bytes of memory a byte of a tokenizer, on top of the limit."""
_PATIENCE = 20.0
"""Times as long as its limit of computing that a process may take by the clock: machines are shared."""
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class Limits(NamedTuple):
    """What opening a file may take."""

    seconds: float = 4.0
    """Of computing, for each 8 MB."""
    megabytes: int = 1024


class _Now:
    limits = Limits()


def set_limits(limits: Limits) -> None:
    """Limits from here on, in this process."""
    _Now.limits = limits


def check_table(path: Path, kind: Kind) -> None:
    """Open a table of somebody else's.

    Raises:
        InputError: it is damaged, takes too much, or is of a type that is not read.
    """
    _check(kind, str(path), path.stat().st_size, _Now.limits)


def check_tokenizer(folder: Path) -> None:
    """Open the tokenizer and render the chat templates in a folder; what was opened once is not opened again.

    Raises:
        InputError: one of them is damaged, or takes too much.
    """
    more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    files = [p for p in (*(folder / name for name in _TOKENIZER), *more) if p.is_file()]
    if files:
        size = sum(p.stat().st_size for p in files)
        _check_once(hash_json([(p.name, sha256(p)) for p in files]), str(folder), size, _Now.limits)


@cache
def _check_once(content: str, folder: str, size: int, limits: Limits) -> None:
    _check("tokenizer", folder, size, limits._replace(megabytes=limits.megabytes + (_MEMORY * size >> 20)))


def _check(kind: Kind, path: str, size: int, limits: Limits) -> None:
    seconds = limits.seconds * (1 + size // _PORTION)
    command = [sys.executable, "-I", probe.__file__, kind, path, f"{seconds:g}", str(limits.megabytes)]
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")}
    env |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    remedy = "fetch or make it again; if you trust it, raise --probe-seconds or --probe-memory"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=_PATIENCE * seconds, check=False
        )
        problem = _problem(done.returncode, done.stdout, seconds)
    except subprocess.TimeoutExpired:
        problem = f"opening it takes more than {_PATIENCE * seconds:g} s"
    if problem:
        raise InputError(problem, where=path, remedy=remedy)


def _problem(code: int, said: bytes, seconds: float) -> str:
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return f"opening it takes more than {seconds:g} s of computing"
    if code < 0:
        return f"it is damaged: the process that opened it was ended by {signal.Signals(-code).name}"
    try:
        return str(json.loads(said)["problem"])
    except (ValueError, KeyError):
        return "it is damaged: the process that opened it came to no end"
