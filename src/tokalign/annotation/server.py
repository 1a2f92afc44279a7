"""The page's server: loopback only; who is let through is for :mod:`tokalign.annotation.security` to say."""

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
_COMPARED = 100_000
"""Characters of two texts, together, that are compared while someone writes."""
_WORDS = 20_000
"""Their words."""


class Pages:
    """The routes.

    Args:
        store: the rows and what was decided.
        secret: what lets in, in the address that is printed.
        min_similarity: what keeps less of the words is warned of.
        saved: called after each decision.
        finish: called when the person says that all is done.
        once: what lets in a single time, in the address that a browser is started with: others can read that.
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
        """Where each is."""
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
        """Turn the secret of the address, or what stands for it a single time, into a cookie."""
        said = request.query_params
        if not equal(said.get("key", ""), self.secret) and not self._first(said.get("once", "")):
            return Response("open the address that the command printed", 403, HEADERS)
        answer = RedirectResponse("/", 303, HEADERS)
        # Lax, not strict: a click on the address in a page of another site (a terminal in a browser) is a way in too.
        answer.set_cookie(cookie_of(request.headers["host"]), self.secret, httponly=True, samesite="lax", path="/")
        return answer

    def _first(self, once: str) -> bool:
        """Whether this lets in, for the first and last time."""
        if not self._once or not equal(once, self._once):
            return False
        self._once = ""
        return True

    async def page(self, request: Request) -> Response:
        """The page."""
        return Response(_read("page.html"), 200, HEADERS, "text/html")

    async def asset(self, request: Request) -> Response:
        """What the page is made of."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            return Response("not here", 404, HEADERS)
        return Response(_read(name), 200, HEADERS, _ASSETS[name])

    async def row(self, request: Request) -> Response:
        """A row: the next open one, or the one at ``at``; and how far the work is."""
        client, at = request.query_params.get("client", ""), request.query_params.get("at")
        if at is None:
            number = self.store.next(client)
        elif at.isdecimal() and len(at) < 10 and int(at) < len(self.store.tasks):
            number = int(at)
            if not self.store.claim(number, client):
                return _say({"busy": True, **self._progress()}, 409)
        else:
            return _say({"error": "no such row"}, 404)
        if number is None:
            return _say({"row": None, **self._progress()})
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
        return _say({"row": shown, **self._progress()})

    def _progress(self) -> dict[str, Any]:
        return {
            "done": self.store.done,
            "total": len(self.store.tasks),
            "rate": round(self.store.rate),
            "annotator": self.store.annotator,
            "categories": CATEGORIES[:-1],
        }

    async def diff(self, request: Request) -> Response:
        """The words that an edit removes and puts in, as ``diff`` will label them; and how much it keeps."""
        said, number = await self._said(request)
        text = said.get("text")
        if number is None or not isinstance(text, str):
            return _say({"error": "a row and a text"}, 400)
        original = self.store.tasks[number].original
        return _say(await run_in_threadpool(_compared, original, text, self.min_similarity))

    async def draft(self, request: Request) -> Response:
        """Keep what is being written."""
        said, number = await self._said(request)
        work, version = self._work(said, number), said.get("version")
        if number is None or work is None or not isinstance(version, int):
            return _say({"error": "a row, a version and a text"}, 400)
        client, leaving = str(said.get("client", "")), said.get("leaving") is True
        kept = self.store.keep(number, client, version, work, leaving)
        return _say({}) if kept else _say({"conflict": True}, 409)

    async def save(self, request: Request) -> Response:
        """Hand work in. The answer comes when it is on disk."""
        said, number = await self._said(request)
        work, verdict, version = self._work(said, number), said.get("verdict"), said.get("version")
        if number is None or work is None or verdict not in VERDICTS or not isinstance(version, int):
            return _say({"error": "a row, a verdict, a version and a text"}, 400)
        task = self.store.tasks[number]
        if verdict == "edited" and (not work.text.strip() or work.text == task.original):
            return _say({"error": "the text is empty, or as it was"}, 422)
        try:
            decision = self.store.save(number, version, verdict, work)
        except ConflictError:
            return _say({"conflict": True, **self._progress()}, 409)
        self._saved()
        return _say({"version": decision.version, **self._progress()})

    async def skip(self, request: Request) -> Response:
        """Leave a row for later."""
        said, number = await self._said(request)
        if number is None:
            return _say({"error": "a row"}, 400)
        self.store.skip(number, str(said.get("client", "")))
        return _say({})

    async def finish(self, _: Request) -> Response:
        """All is done: the artifact can be written."""
        left = len(self.store.tasks) - self.store.done
        if left:
            return _say({"error": f"{left} rows are not decided"}, 409)
        self._finish()
        return _say({})

    async def _said(self, request: Request) -> tuple[dict[str, Any], int | None]:
        """What the page sent, and the row it is about."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > BYTES:
                return {}, None
        try:
            said = json.loads(body)
            number = said["at"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}, None
        there = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(self.store.tasks)
        return (said, number) if there else ({}, None)

    def _work(self, said: dict[str, Any], number: int | None) -> Work | None:
        """The work that the page sent; None where it is none."""
        text, categories, rationale = said.get("text"), said.get("categories", []), said.get("rationale", "")
        if number is None or not isinstance(text, str) or not isinstance(rationale, str):
            return None
        task = self.store.tasks[number]
        known = list(dict.fromkeys([*CATEGORIES[:-1], *task.categories]))
        if not isinstance(categories, list) or any(c not in known for c in categories):
            return None
        try:
            (text + rationale).encode()
        except UnicodeEncodeError:  # half a character
            return None
        return Work(as_in(task.original, text), [c for c in known if c in categories], rationale)


def _compared(original: str, text: str, min_similarity: float) -> dict[str, Any]:
    """What an edit removes and puts in; nothing of texts that are too long for someone to wait."""
    long: dict[str, Any] = {"parts": [], "similarity": None, "large": False, "long": True}
    if len(original) + len(text) > _COMPARED:
        return long
    text = as_in(original, text)
    a, b = split([original]), split([text])
    if len(a.ids) + len(b.ids) > _WORDS:
        return long
    kept = diff.compare_words(a, b, diff.AlignOptions())
    parts = [[op.tag, original[op.i1 : op.i2], text[op.j1 : op.j2]] for op in diff.opcodes(kept)]
    (similarity,) = diff.similarities(a, b)
    return {"parts": parts, "similarity": similarity, "large": similarity < min_similarity}


def _say(what: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(what, status, HEADERS)


def _read(name: str) -> bytes:
    return resources.files(__package__).joinpath("page", name).read_bytes()


class _Server(uvicorn.Server):
    """Leaves signals to us, and ends when one came or the work is done."""

    finished = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.finished or signals.asked()


def serve(
    store: AnnotationStore,
    port: int,
    min_similarity: float,
    say: Callable[[str], None],
    saved: Callable[[], None],
    show: bool,
) -> None:
    """Serve the page until the person says that all is done.

    Args:
        store: the rows and what was decided.
        port: 0 takes any that is free.
        min_similarity: what keeps less of the words is warned of.
        say: tells the user where the page is.
        saved: called after each decision.
        show: whether to open it in a browser.

    Raises:
        UsageError: the port is taken.
        StoppedError: the end was asked for; what was handed in is kept.
    """
    # Named as TCP, so that small answers leave at once: asyncio looks at this before it turns Nagle's algorithm off.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError as e:
        listener.close()
        raise UsageError(f"port {port} cannot be had: {e}", remedy="choose another --port, or none") from e
    with listener:
        host, secret = f"127.0.0.1:{listener.getsockname()[1]}", secrets.token_urlsafe(32)

        def finish() -> None:
            server.finished = True

        once = secrets.token_urlsafe(32) if show else ""
        pages = Pages(store, secret, min_similarity, saved, finish, once)
        app = Starlette(routes=pages.routes(), middleware=[Middleware(Guard, secret=secret, host=host)])
        server = _Server(uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off"))
        say(f"the page is at http://{host}/open?key={secret}  (Ctrl-C ends; everything handed in is kept)")
        if show:
            threading.Thread(target=_open, args=(f"http://{host}/open?once={once}",), daemon=True).start()
        server.run(sockets=[listener])
    signals.check()


def _open(address: str) -> None:
    """Show the page, unless the only browser is one of the terminal, which is in use."""
    with suppress(webbrowser.Error):
        found = webbrowser.get()
        if type(found) is not webbrowser.GenericBrowser:
            found.open(address)
