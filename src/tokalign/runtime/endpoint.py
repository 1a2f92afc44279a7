"""A model that a vLLM server serves for pooling (``vllm serve FOLDER --runner pooling``), over HTTP.

Found by running vLLM 0.32: ``POST /pooling`` with ids returns the outputs of a token classifier for every token.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tokalign.errors import InputError, TokalignError, UsageError
from tokalign.runtime import signals

ROWS = 16
"""Rows per request."""
AT_ONCE = 8
"""Requests at the same time; the server forms its own batches."""
TIMEOUT = 300.0
"""Seconds that a request may take."""
PATIENCE = 300.0
"""Seconds for which a server that has answered before is tried again, such as while it restarts."""
FIRST = 20.0
"""Seconds for which a server is tried that has not answered yet."""
_LATER = (408, 409, 425, 429)
"""Statuses after which a request is repeated, beside those of the server's own faults (500 and above)."""


def is_url(source: object) -> bool:
    """Whether a model is named by the address of its server."""
    return str(source).startswith(("http://", "https://"))


class Served(NamedTuple):
    """The model that a server serves."""

    name: str
    """Its name in requests."""
    folder: str
    """Folder or hub id that it was loaded from, where its tokenizer and configuration are."""


@cache
def served(address: str) -> Served:
    """Ask a server for its model.

    Args:
        address: ``http://HOST:PORT`` or, if the model's folder has another path here, ``http://HOST:PORT#FOLDER``.

    Raises:
        InputError: the server serves no model, or several, or its folder is not known here.
        TokalignError: the server does not answer.
    """
    base, _, folder = address.partition("#")
    answer = _asked("GET", f"{base.rstrip('/')}/v1/models", None, FIRST)
    models = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(models, list) or len(models) != 1 or not isinstance(models[0], dict):
        raise InputError(
            "not a server of one model", where=base, remedy="start one: vllm serve FOLDER --runner pooling"
        )
    found = Served(str(models[0].get("id")), folder or str(models[0].get("root")))
    if not folder and not Path(found.folder).is_dir():
        raise InputError(
            f"the server loaded its model from {found.folder!r}, which is not here",
            where=base,
            remedy=f"name the folder or hub id of the same model: {base}#FOLDER",
        )
    return found


def pooled(address: str, rows: Sequence[Sequence[int]], task: str) -> list[Any]:
    """Return the raw outputs of the served model for each row of ids: logits, without activation.

    Args:
        address: see :func:`served`.
        rows: token ids.
        task: ``token_classify``, or ``classify`` for one output per row.

    Raises:
        InputError: the server refuses the request, or answers something else.
        TokalignError: the server does not answer for ``PATIENCE`` seconds.
        StoppedError: a signal was received while waiting for the server.
    """
    url, name = f"{address.partition('#')[0].rstrip('/')}/pooling", served(address).name

    def ask(part: Sequence[Sequence[int]]) -> list[Any]:
        request = {"model": name, "input": [list(row) for row in part], "task": task, "use_activation": False}
        answer = _asked("POST", url, request, PATIENCE)
        try:
            by_index = {item["index"]: item["data"] for item in answer["data"]}
            return [by_index[k] for k in range(len(part))]
        except (KeyError, TypeError) as e:
            found = len(answer.get("data") or ()) if isinstance(answer, dict) else 0
            raise InputError(
                f"{found} outputs for {len(part)} rows, or in another form than vLLM's", where=url, remedy=_REMEDY
            ) from e

    parts = [rows[k : k + ROWS] for k in range(0, len(rows), ROWS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [output for outputs in pool.map(ask, parts) for output in outputs]


_REMEDY = "serve a reward model of tokalign with vLLM; see docs/engines.md"


def _asked(method: str, url: str, body: Any, patience: float) -> Any:
    """Send a request and return the answer as JSON; repeat it for ``patience`` seconds while the server is away."""
    import requests  # takes a while

    start, attempt = time.monotonic(), 0
    while True:
        try:
            response = requests.request(method, url, json=body, timeout=TIMEOUT)
            problem = f"status {response.status_code}"
            if response.ok:
                return response.json()
            if response.status_code < 500 and response.status_code not in _LATER:
                said = " ".join(response.text.split())[:300]
                raise InputError(f"the server refuses the request ({problem}): {said}", where=url, remedy=_REMEDY)
        except requests.exceptions.JSONDecodeError as e:
            raise InputError("the answer is not JSON", where=url, remedy=_REMEDY) from e
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as e:
            raise UsageError(f"{url} is not an address", remedy="give http://HOST:PORT") from e
        except requests.RequestException as e:
            problem = type(e).__name__
        left = start + patience - time.monotonic()
        if left <= 0:
            raise TokalignError(
                f"{url}: no answer for {patience:.0f} seconds ({problem})",
                remedy="start the server, then run the same command again; it resumes",
            )
        attempt += 1
        if attempt == 1:
            print(f"tokalign: {url} does not answer ({problem}); trying for {patience:.0f} seconds", file=sys.stderr)
        _sleep(min(30.0, 0.5 * 2**attempt, left))


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        signals.check()
        time.sleep(min(left, 0.2))
