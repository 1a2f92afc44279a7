"""HTTP server of the annotation page, on the loopback interface. Access: :mod:`tokalign.annotation.security`."""

import json
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tokalign.annotation.newlines import as_in
from tokalign.annotation.security import BYTES, HEADERS, Guard, cookie_of, equal
from tokalign.annotation.store import VERDICTS, AnnotationStore, ConflictError, Work
from tokalign.artifacts.schemas import CATEGORIES
from tokalign.core import diff
from tokalign.core.words import split
from tokalign.data.conversation import as_messages
from tokalign.errors import UsageError
from tokalign.runtime import signals

_ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}
_MAX_CHARACTERS = 100_000
"""Total length of two texts up to which the live diff compares them."""
_MAX_WORDS = 20_000
"""Total number of words of two texts up to which the live diff compares them."""


class Pages:
    """Routes of the annotation page.

    Args:
        store: rows and decisions.
        secret: secret of the session, in the printed address.
        min_similarity: share of kept words below which an edit gets a warning.
        saved: called after each decision.
        finish: called when the annotator finishes.
        once: one-time token, in the address that the command opens in a browser; "": none.
    """

    def __init__(
        self,
        store: AnnotationStore,
        secret: str,
        min_similarity: float,
        saved: Callable[[], None],
        finish: Callable[[], None],
        once: str = "",
    ) -> None:
        self.store, self.secret, self.min_similarity = store, secret, min_similarity
        self._saved, self._finish, self._once = saved, finish, once

    def routes(self) -> list[Route]:
        """Return all routes."""
        return [
            Route("/open", self.open),
            Route("/", self.page),
            Route("/{name}", self.asset),
            Route("/api/row", self.row),
            Route("/api/diff", self.diff, methods=["POST"]),
            Route("/api/draft", self.draft, methods=["POST"]),
            Route("/api/save", self.save, methods=["POST"]),
            Route("/api/skip", self.skip, methods=["POST"]),
            Route("/api/finish", self.finish, methods=["POST"]),
        ]

    async def open(self, request: Request) -> Response:
        """Exchange the secret, or the one-time token, for the cookie."""
        query = request.query_params
        if not equal(query.get("key", ""), self.secret) and not self._use_token(query.get("once", "")):
            return Response("open the address that the command printed", 403, HEADERS)
        response = RedirectResponse("/", 303, HEADERS)
        # Lax, not strict: the address may be opened from another site, such as a terminal in a browser.
        response.set_cookie(cookie_of(request.headers["host"]), self.secret, httponly=True, samesite="lax", path="/")
        return response

    def _use_token(self, once: str) -> bool:
        """Check the one-time token; it is valid once."""
        if not self._once or not equal(once, self._once):
            return False
        self._once = ""
        return True

    async def page(self, request: Request) -> Response:
        """Serve the page."""
        return Response(_read("page.html"), 200, HEADERS, "text/html")

    async def asset(self, request: Request) -> Response:
        """Serve the style sheet or the script."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            return Response("not found", 404, HEADERS)
        return Response(_read(name), 200, HEADERS, _ASSETS[name])

    async def row(self, request: Request) -> Response:
        """Return the next undecided row, or the row with the number ``at``, and the progress."""
        client, at = request.query_params.get("client", ""), request.query_params.get("at")
        if at is None:
            number = self.store.next(client)
        elif at.isdecimal() and len(at) < 10 and int(at) < len(self.store.tasks):
            number = int(at)
            if not self.store.claim(number, client):
                return _json({"busy": True, **self._progress()}, 409)
        else:
            return _json({"error": "no such row"}, 404)
        if number is None:
            return _json({"row": None, **self._progress()})
        task, draft, decision = self.store.tasks[number], self.store.draft(number), self.store.decision(number)
        work = draft or (decision.work if decision else task.start)
        shown = {
            "at": number,
            "id": task.id,
            "prompt": as_messages(task.prompt),
            "original": task.original,
            "chosen": task.chosen,
            "note": task.note,
            "start": asdict(task.start),
            "work": asdict(work),
            "verdict": decision.verdict if decision else None,
            "version": self.store.version(number),
        }
        return _json({"row": shown, **self._progress()})

    def _progress(self) -> dict[str, Any]:
        return {
            "done": self.store.done,
            "total": len(self.store.tasks),
            "rate": round(self.store.rate),
            "annotator": self.store.annotator,
            "categories": CATEGORIES[:-1],
        }

    async def diff(self, request: Request) -> Response:
        """Return the words that an edit removes and inserts, as ``diff`` labels them, and the share of kept words."""
        body, number = await self._body(request)
        text = body.get("text")
        if number is None or not isinstance(text, str):
            return _json({"error": "needs a row and a text"}, 400)
        original = self.store.tasks[number].original
        return _json(await run_in_threadpool(_compare, original, text, self.min_similarity))

    async def draft(self, request: Request) -> Response:
        """Save a draft."""
        body, number = await self._body(request)
        work, version = self._work(body, number), body.get("version")
        if number is None or work is None or not isinstance(version, int):
            return _json({"error": "needs a row, a version and a text"}, 400)
        client, leaving = str(body.get("client", "")), body.get("leaving") is True
        kept = self.store.keep(number, client, version, work, leaving)
        return _json({}) if kept else _json({"conflict": True}, 409)

    async def save(self, request: Request) -> Response:
        """Save a decision. The response is sent when it is on disk."""
        body, number = await self._body(request)
        work, verdict, version = self._work(body, number), body.get("verdict"), body.get("version")
        if number is None or work is None or verdict not in VERDICTS or not isinstance(version, int):
            return _json({"error": "needs a row, a verdict, a version and a text"}, 400)
        task = self.store.tasks[number]
        if verdict == "edited" and (not work.text.strip() or work.text == task.original):
            return _json({"error": "the text is empty or unchanged"}, 422)
        try:
            decision = self.store.save(number, version, verdict, work)
        except ConflictError:
            return _json({"conflict": True, **self._progress()}, 409)
        self._saved()
        return _json({"version": decision.version, **self._progress()})

    async def skip(self, request: Request) -> Response:
        """Skip a row; it comes back at the end."""
        body, number = await self._body(request)
        if number is None:
            return _json({"error": "needs a row"}, 400)
        self.store.skip(number, str(body.get("client", "")))
        return _json({})

    async def finish(self, _: Request) -> Response:
        """End the session if all rows are decided."""
        left = len(self.store.tasks) - self.store.done
        if left:
            return _json({"error": f"{left} rows are not decided yet"}, 409)
        self._finish()
        return _json({})

    async def _body(self, request: Request) -> tuple[dict[str, Any], int | None]:
        """Parse the body of a request and return it with the row number; ({}, None) if it is not valid."""
        raw = b""
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > BYTES:
                return {}, None
        try:
            body = json.loads(raw)
            number = body["at"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}, None
        valid = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(self.store.tasks)
        return (body, number) if valid else ({}, None)

    def _work(self, body: dict[str, Any], number: int | None) -> Work | None:
        """Parse the work in the body of a request; None if it is not valid."""
        text, categories, rationale = body.get("text"), body.get("categories", []), body.get("rationale", "")
        if number is None or not isinstance(text, str) or not isinstance(rationale, str):
            return None
        task = self.store.tasks[number]
        known = list(dict.fromkeys([*CATEGORIES[:-1], *task.categories]))
        if not isinstance(categories, list) or any(c not in known for c in categories):
            return None
        try:
            (text + rationale).encode()
        except UnicodeEncodeError:  # lone surrogate
            return None
        return Work(as_in(task.original, text), [c for c in known if c in categories], rationale)


def _compare(original: str, text: str, min_similarity: float) -> dict[str, Any]:
    """Compare two texts for the live diff; texts that are too long for it get ``long`` instead."""
    too_long: dict[str, Any] = {"parts": [], "similarity": None, "large": False, "long": True}
    if len(original) + len(text) > _MAX_CHARACTERS:
        return too_long
    text = as_in(original, text)
    a, b = split([original]), split([text])
    if len(a.ids) + len(b.ids) > _MAX_WORDS:
        return too_long
    kept = diff.compare_words(a, b, diff.AlignOptions())
    parts = [[op.tag, original[op.i1 : op.i2], text[op.j1 : op.j2]] for op in diff.opcodes(kept)]
    (similarity,) = diff.similarities(a, b)
    return {"parts": parts, "similarity": similarity, "large": similarity < min_similarity}


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(content, status, HEADERS)


def _read(name: str) -> bytes:
    return resources.files(__package__).joinpath("page", name).read_bytes()


class _Server(uvicorn.Server):
    """Server without signal handlers of its own; it stops after a signal to the process or when ``finished`` is set."""

    finished = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.finished or bool(signals.received())


def serve(
    store: AnnotationStore,
    port: int,
    min_similarity: float,
    say: Callable[[str], None],
    saved: Callable[[], None],
    show: bool,
) -> None:
    """Serve the annotation page until the annotator finishes.

    Args:
        store: rows and decisions.
        port: TCP port; 0: any free port.
        min_similarity: share of kept words below which an edit gets a warning.
        say: prints the line with the address of the page.
        saved: called after each decision.
        show: whether to open the page in a browser.

    Raises:
        UsageError: the port is not available.
        StoppedError: the run was interrupted; saved decisions are kept.
    """
    # IPPROTO_TCP is explicit because asyncio disables Nagle's algorithm only for such sockets.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError as e:
        listener.close()
        raise UsageError(f"port {port} is not available: {e}", remedy="choose another --port, or leave it out") from e
    with listener:
        host, secret = f"127.0.0.1:{listener.getsockname()[1]}", secrets.token_urlsafe(32)

        def finish() -> None:
            server.finished = True

        once = secrets.token_urlsafe(32) if show else ""
        pages = Pages(store, secret, min_similarity, saved, finish, once)
        app = Starlette(routes=pages.routes(), middleware=[Middleware(Guard, secret=secret, host=host)])
        server = _Server(uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off"))
        say(f"open http://{host}/open?key={secret}  (Ctrl-C stops the command; saved rows are kept)")
        if show:
            threading.Thread(target=_open, args=(f"http://{host}/open?once={once}",), daemon=True).start()
        server.run(sockets=[listener])
    signals.check()


def _open(address: str) -> None:
    """Open the page in a browser, unless the only one is a text browser in this terminal."""
    with suppress(webbrowser.Error):
        found = webbrowser.get()
        if type(found) is not webbrowser.GenericBrowser:
            found.open(address)
