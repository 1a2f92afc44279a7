"""The program without the wait: each command runs in a fork of one process that has already imported everything.

:func:`run` gives what :func:`subprocess.run` of the program would. Whether imports are right and quick, and what a
signal does, is for tests that start the program itself (test_cli.py). For scripts, a file that stands in for it:

    exec python -S tests/forked.py SOCKET "$@"
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

PROGRAM = str(Path(sys.executable).parent / "tokalign")
LIMIT = 600.0
"""Seconds that a command may take."""
ALSO = ("anthropic", "sklearn.metrics", "scipy.stats", "transformers.models.llama.modeling_llama")
"""What is loaded by functions, when it comes to that."""


def load_everything() -> None:
    """Import what any command may: all our modules, and what they load late."""
    import tokalign

    for module in pkgutil.walk_packages(tokalign.__path__, "tokalign."):
        importlib.import_module(module.name)
    for name in ALSO:
        importlib.import_module(name)


def run(cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``tokalign args`` in a folder, without the caller's ``TOKALIGN_…`` variables."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TOKALIGN_")}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, Path(os.devnull).open() as nothing:
        code = ask(server(), list(args), str(cwd), {**clean, **env}, [nothing.fileno(), out.fileno(), err.fileno()])
        for said in (out, err):
            said.seek(0)
        return subprocess.CompletedProcess([PROGRAM, *args], code, out.read().decode(), err.read().decode())


def together(cwd: Path, n: int, *args: str, **env: str) -> list[subprocess.CompletedProcess[str]]:
    """Run ``n`` copies of a command that find each other as those of ``torchrun`` do."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1])}
    env |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda k: run(cwd, *args, **env, RANK=str(k), LOCAL_RANK=str(k)), range(n)))


def stand_in(folder: Path) -> Path:
    """A program of the same name in ``folder``, for scripts; returns the folder."""
    program = folder / "tokalign"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" "{server()}" "$@"\n')
    program.chmod(0o755)
    return folder


def start() -> str:
    """Start a server that ends with this process, and do not wait for it; returns its socket."""
    path = tempfile.mkdtemp(prefix="tokalign-") + "/socket"
    _STARTED.append(subprocess.Popen([sys.executable, __file__, "--serve", path], stdin=subprocess.PIPE))
    return path


@cache
def server() -> str:
    """The socket of the server that the test run shares, or of one of this process alone; ready to be asked."""
    path = os.environ.get(SHARED) or start()
    until = time.monotonic() + LIMIT
    while not Path(path).exists():
        assert time.monotonic() < until, "the server of forked commands did not start"
        time.sleep(0.02)
    return path


SHARED = "FORKED_SERVER"
"""Environment variable: the socket of a server that several processes share."""
_STARTED: list["subprocess.Popen[bytes]"] = []
"""Kept, for their standard input to stay open as long as this process lives."""


def ask(path: str, args: list[str], cwd: str, env: Mapping[str, str], streams: list[int]) -> int:
    """Have a command run with these standard streams; its exit code."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(LIMIT)
        s.connect(path)
        socket.send_fds(s, [b"!"], streams)
        s.sendall(json.dumps({"args": args, "cwd": cwd, "env": dict(env)}).encode() + b"\n")
        return int(s.makefile().readline())


def serve(path: str) -> None:
    """Answer until standard input ends."""
    from tokalign.cli import main

    sys.path.pop(0)  # this folder
    gc.disable()
    load_everything()
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)  # from here on it answers
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork():
                connection.close()
                continue
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if attend(connection):
                end(main)
            os._exit(0)
    shutil.rmtree(Path(path).parent)


def end(main: Callable[[], None]) -> None:
    """Run a program and end as Python would, but for taking down all that was imported."""
    code: object = 1
    try:
        main()
        code = 0
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        traceback.print_exc()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 1)


def attend(connection: socket.socket) -> bool:
    """Become the command that is asked for (True), or wait for it and tell its exit code."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(connection.makefile().readline())
    if pid := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(b"%d\n" % code)
        return False
    connection.close()
    for k, stream in enumerate(streams):
        os.dup2(stream, k)
        os.close(stream)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = [PROGRAM, *asked["args"]]
    return True


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:], str(Path.cwd()), os.environ, [0, 1, 2]))
