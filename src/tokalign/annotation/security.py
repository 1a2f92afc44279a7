"""Who is let through to the page: its own session, and nobody else.

The secret comes in the address that is printed; a browser that we start gets one that lets in a single time, for
others can read its arguments. Either becomes a cookie that scripts cannot read, named by the port, for browsers send
cookies to every port of a host. Every request must name this host, and what changes anything must come from the page
itself.
"""

import secrets

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

BYTES = 2_000_000
"""Of a request at most."""
_POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src data:",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
HEADERS = {
    "content-security-policy": _POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cache-control": "no-store", "cross-origin-opener-policy": "same-origin",
}  # fmt: skip


class Guard:
    """Lets through what comes from this session's page, and nothing else."""

    def __init__(self, app: ASGIApp, secret: str, host: str) -> None:
        self.app, self.secret, self.host = app, secret, host
        self.cookie = cookie_of(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        problem = self._problem(request)
        answer: ASGIApp = Response(problem[1], problem[0], HEADERS) if problem else self.app
        await answer(scope, receive, send)

    def _problem(self, request: Request) -> tuple[int, str] | None:
        if request.headers.get("host") != self.host:
            return 421, "not the host of this page"
        origin = request.headers.get("origin")
        if origin not in (None, f"http://{self.host}") or (request.method == "POST" and origin is None):
            return 403, "not from this page"
        length = request.headers.get("content-length") or "0"
        if not length.isdecimal() or len(length) > 9 or int(length) > BYTES or "transfer-encoding" in request.headers:
            return 413, "too large"
        if request.url.path == "/open":
            return None
        if not equal(request.cookies.get(self.cookie, ""), self.secret):
            return 403, "open the address that the command printed"
        return None


def cookie_of(host: str) -> str:
    """The name of the cookie of a page."""
    return f"tokalign-{host.rpartition(':')[2]}"


def equal(given: str, secret: str) -> bool:
    """Whether a secret was given, in a time that does not tell how much of it."""
    return secrets.compare_digest(given.encode(errors="surrogatepass"), secret.encode())
