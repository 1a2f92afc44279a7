"""Checks of untrusted files in a separate process, so that a damaged file cannot crash the command.

Arrow and Parquet tables, tokenizers and chat templates can crash or hang a process or use up its memory. They are first
opened by :mod:`tokalign.runtime.probe`, with limits of time and memory.
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
_BYTES_PER_LIMIT = 8 * 1024 * 1024
"""File size in bytes that the limit of CPU seconds applies to. Larger files get proportionally more."""
_MEMORY_PER_BYTE = 16
"""Additional bytes of memory per byte of a tokenizer file."""
_WALL_CLOCK_FACTOR = 20.0
"""Wall-clock limit, as a multiple of the limit of CPU seconds; large, because machines are shared."""
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class Limits(NamedTuple):
    """Limits for opening a file."""

    seconds: float = 4.0
    """CPU seconds for every 8 MB of the file."""
    megabytes: int = 1024
    """Memory in MB."""


class _Current:
    limits = Limits()


def set_limits(limits: Limits) -> None:
    """Set the limits for the rest of this process."""
    _Current.limits = limits


def check_table(path: Path, kind: Kind) -> None:
    """Check an untrusted Arrow or Parquet table.

    Raises:
        InputError: the table is damaged, exceeds the limits or has an unsupported column type.
    """
    _check(kind, str(path), path.stat().st_size, _Current.limits)


def check_tokenizer(folder: Path) -> None:
    """Check the tokenizer and the chat templates in a folder. The result is cached by the content of the files.

    Raises:
        InputError: a file is damaged or exceeds the limits.
    """
    more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    files = [p for p in (*(folder / name for name in _TOKENIZER), *more) if p.is_file()]
    if files:
        size = sum(p.stat().st_size for p in files)
        _check_once(hash_json([(p.name, sha256(p)) for p in files]), str(folder), size, _Current.limits)


@cache
def _check_once(content: str, folder: str, size: int, limits: Limits) -> None:
    _check("tokenizer", folder, size, limits._replace(megabytes=limits.megabytes + (_MEMORY_PER_BYTE * size >> 20)))


def _check(kind: Kind, path: str, size: int, limits: Limits) -> None:
    seconds = limits.seconds * (1 + size // _BYTES_PER_LIMIT)
    command = [sys.executable, "-I", probe.__file__, kind, path, f"{seconds:g}", str(limits.megabytes)]
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")}
    env |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    remedy = "download or create it again; if you trust it, increase --probe-seconds or --probe-memory"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=env,
            timeout=_WALL_CLOCK_FACTOR * seconds,
            check=False,
        )
        problem = _problem(done.returncode, done.stdout, seconds)
    except subprocess.TimeoutExpired:
        problem = f"opening it takes more than {_WALL_CLOCK_FACTOR * seconds:g} s"
    if problem:
        raise InputError(problem, where=path, remedy=remedy)


def _problem(code: int, output: bytes, seconds: float) -> str:
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return f"opening it takes more than {seconds:g} s of CPU time"
    if code < 0:
        return f"damaged: the process that opened it was killed by {signal.Signals(-code).name}"
    try:
        return str(json.loads(output)["problem"])
    except (ValueError, KeyError):
        return "damaged: the process that opened it exited without a result"
