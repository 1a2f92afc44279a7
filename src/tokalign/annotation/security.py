"""Access control of the annotation page.

The printed address contains the session's secret. A browser that the command starts gets a one-time token instead,
because other users can read its command line. Both are exchanged for an HttpOnly cookie. Its name contains the port,
because browsers send cookies to all ports of a host. Every request must have this host, and POST requests must also
have the page's origin.
"""

import secrets

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

BYTES = 2_000_000
"""Maximum size of a request body."""
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
    """ASGI middleware that only passes on requests of this session's page.

    Args:
        app: application.
        secret: value of the session's cookie.
        host: required ``Host`` header, with the port.
    """

    def __init__(self, app: ASGIApp, secret: str, host: str) -> None:
        self.app, self.secret, self.host = app, secret, host
        self.cookie = cookie_of(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        problem = self._problem(request)
        app: ASGIApp = Response(problem[1], problem[0], HEADERS) if problem else self.app
        await app(scope, receive, send)

    def _problem(self, request: Request) -> tuple[int, str] | None:
        if request.headers.get("host") != self.host:
            return 421, "wrong host"
        origin = request.headers.get("origin")
        if origin not in (None, f"http://{self.host}") or (request.method == "POST" and origin is None):
            return 403, "wrong origin"
        length = request.headers.get("content-length") or "0"
        if not length.isdecimal() or len(length) > 9 or int(length) > BYTES or "transfer-encoding" in request.headers:
            return 413, "request too large"
        if request.url.path == "/open":
            return None
        if not equal(request.cookies.get(self.cookie, ""), self.secret):
            return 403, "open the address that the command printed"
        return None


def cookie_of(host: str) -> str:
    """Return the name of the session's cookie for a host with a port."""
    return f"tokalign-{host.rpartition(':')[2]}"


def equal(value: str, secret: str) -> bool:
    """Compare a value with a secret in constant time."""
    return secrets.compare_digest(value.encode(errors="surrogatepass"), secret.encode())
