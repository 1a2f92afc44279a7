"""A local server that speaks the Messages API to the real SDK, misbehaves when it is told to, and keeps a ledger.

A request whose text holds ``[[faults: 429, drop-after]]`` meets these, one an attempt, before it is answered.
"""

import json
import re
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

KEY = "sk-ant-canary-0123456789"
STATUSES = {
    "400": ("invalid_request_error", {}), "401": ("authentication_error", {}), "402": ("billing_error", {}),
    "403": ("permission_error", {}), "404": ("not_found_error", {}), "429": ("rate_limit_error", {}),
    "429-after": ("rate_limit_error", {"retry-after": "0.05"}), "500": ("api_error", {}),
    "529": ("overloaded_error", {}),
}  # fmt: skip


class FakeClaude:
    """``with FakeClaude() as fake: …`` with ``ANTHROPIC_BASE_URL`` set to ``fake.url``."""

    def __init__(self, answer: Any = None, delay: float = 0.0) -> None:
        self.answer = answer or (lambda request: f"echo: {text_of(request)}")
        self.delay = delay
        self.charged: Counter[str] = Counter()
        """Text of a request → how often its answer was made, and so is paid."""
        self.seen: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        """Sent with every answer."""
        self._attempts: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def __enter__(self) -> "FakeClaude":
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                fake.handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, h: BaseHTTPRequestHandler) -> None:
        request = json.loads(h.rfile.read(int(h.headers["content-length"])))
        text = text_of(request)
        with self._lock:
            attempt = self._attempts[text]
            self._attempts[text] += 1
            self.seen[text] += 1
        faults = [f.strip() for found in re.findall(r"\[\[faults: (.*?)\]\]", text) for f in found.split(",")]
        fault = faults[attempt] if attempt < len(faults) else ""
        time.sleep(self.delay)
        if fault in STATUSES:
            kind, headers = STATUSES[fault]
            self._send(h, int(fault[:3]), {"type": "error", "error": {"type": kind, "message": "no"}}, headers)
        elif fault == "spent-out":
            details = {"error_code": "enforced_spend_limit_reached"}
            error = {"type": "rate_limit_error", "message": "no", "details": details}
            self._send(h, 429, {"type": "error", "error": error})
        elif fault == "limit":
            said = "You have reached your specified API usage limits."
            self._send(h, 400, {"type": "error", "error": {"type": "invalid_request_error", "message": said}})
        elif fault == "html":
            self._send(h, 200, "<html>a proxy's page</html>")
        elif fault == "drop-before":
            self._drop(h)
        else:
            message = self._message(request, text, fault)
            if fault == "drop-after":
                self._drop(h)
            elif fault == "slow":
                time.sleep(1.5)
                self._drop(h)
            else:
                self._send(h, 200, "{not json" if fault == "malformed" else message, self.headers)

    def _message(self, request: dict[str, Any], text: str, fault: str) -> dict[str, Any]:
        with self._lock:
            self.charged[text] += 1
        said = self.answer(request)
        message = {
            "id": f"msg_{sum(self.charged.values())}", "type": "message", "role": "assistant",
            "model": request["model"], "content": [{"type": "text", "text": said}],
            "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": len(text) // 4, "output_tokens": len(said) // 4},
        }  # fmt: skip
        if fault == "no-usage":
            del message["usage"]
        if fault in ("max_tokens", "refusal", "odd"):
            message["stop_reason"] = fault
        return message

    @staticmethod
    def _send(h: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, str) else json.dumps(body)
        h.send_response(status)
        h.send_header("content-type", "text/html" if raw.startswith("<") else "application/json")
        h.send_header("content-length", str(len(raw.encode())))
        for name, value in (headers or {}).items():
            h.send_header(name, value)
        h.end_headers()
        h.wfile.write(raw.encode())

    @staticmethod
    def _drop(h: BaseHTTPRequestHandler) -> None:
        h.close_connection = True
        h.connection.close()


def text_of(request: dict[str, Any]) -> str:
    """All that the user says in a request."""
    parts = []
    for turn in request["messages"]:
        content = turn["content"]
        parts += [content] if isinstance(content, str) else [block.get("text", "") for block in content]
    return "\n".join(parts)
