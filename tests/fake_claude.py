"""A local server that speaks the Messages API to the real SDK, misbehaves when it is told to, and keeps a ledger.

A request whose text holds ``[[faults: 429, drop-after]]`` meets these, one an attempt, before it is answered; in a
batch they are how its result ends (``expired``, ``canceled``, ``errored``, ``invalid``, ``bad-line``, ``no-usage`` …).
"""

import json
import random
import re
import threading
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

KEY = "sk-ant-canary-0123456789"
STATUSES = {
    "400": ("invalid_request_error", {}), "401": ("authentication_error", {}), "402": ("billing_error", {}),
    "403": ("permission_error", {}), "404": ("not_found_error", {}), "429": ("rate_limit_error", {}),
    "429-after": ("rate_limit_error", {"retry-after": "0.05"}),
    "429-long": ("rate_limit_error", {"retry-after": "600"}), "500": ("api_error", {}),
    "502": ("api_error", {}), "529": ("overloaded_error", {}),
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
        self.paths: Counter[str] = Counter()
        self.batches: dict[str, dict[str, Any]] = {}
        """Batches by name, the oldest first: what the API says of each, with its ``requests`` and ``lines``."""
        self.polls = 1
        """Looks at a batch before it has ended."""
        self.create_faults: list[str] = []
        """What the next submissions meet."""
        self.get_faults: list[str] = []
        """What the next looks meet."""
        self.dear = False
        """Whether every answer costs as much as it can."""
        self.bucket: tuple[float, float] | None = None
        """Calls that the limit holds, and how many a second come back; None: no limit."""
        self.limited = 0
        """Calls that met the limit."""
        self._level, self._filled = 0.0, time.monotonic()
        self.chances: dict[str, float] = {}
        """Faults that any call, or submission, may meet, with how often."""
        self._dice = random.Random(0)
        self._attempts: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def __enter__(self) -> "FakeClaude":
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                fake.post(self)

            def do_GET(self) -> None:
                fake.get(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 256

            def handle_error(self, *_: Any) -> None:
                """A client that was killed is none of our concern."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def post(self, h: BaseHTTPRequestHandler) -> None:
        request = json.loads(h.rfile.read(int(h.headers["content-length"])))
        path = h.path.partition("?")[0]
        self.paths[path] += 1
        if path.endswith("/count_tokens"):
            self._send(h, 200, {"input_tokens": tokens_of(request)})
        elif path.endswith("/batches"):
            self._create(h, request["requests"])
        else:
            self._message_to(h, request)

    def _overdrawn(self) -> float:
        """Seconds until the limit lets the next call through; 0: it may pass."""
        if self.bucket is None:
            return 0.0
        size, rate = self.bucket
        with self._lock:
            now = time.monotonic()
            self._level = max(0.0, self._level - rate * (now - self._filled))
            self._filled = now
            if self._level + 1 > size:
                self.limited += 1
                return (self._level + 1 - size) / rate
            self._level += 1
            return 0.0

    def _fault(self, text: str) -> str:
        with self._lock:
            attempt = self._attempts[text]
            self._attempts[text] += 1
            self.seen[text] += 1
        faults = [f.strip() for found in re.findall(r"\[\[faults: (.*?)\]\]", text) for f in found.split(",")]
        return faults[attempt] if attempt < len(faults) else self._chance()

    def _chance(self) -> str:
        left = self._dice.random()
        for fault, chance in self.chances.items():
            if (left := left - chance) < 0:
                return fault
        return ""

    def _message_to(self, h: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        if (wait := self._overdrawn()) > 0:
            error = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
            return self._send(h, 429, error, {"retry-after": f"{wait:.3f}"})
        text = text_of(request)
        fault = self._fault(text)
        time.sleep(self.delay)
        if fault in STATUSES:
            self._error(h, fault)
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
            "usage": {"input_tokens": tokens_of(request), "output_tokens": len(said) // 4},
        }  # fmt: skip
        if self.dear:
            n = len(json.dumps(request, ensure_ascii=False).encode()) + 1000
            written = {"cache_creation_input_tokens": n, "cache_creation": {"ephemeral_1h_input_tokens": n}}
            message["usage"] = {"input_tokens": 0, "output_tokens": request["max_tokens"], **written}
        if fault == "no-usage":
            del message["usage"]
        if fault in ("max_tokens", "refusal", "refusal-text", "odd"):
            message["stop_reason"] = fault.removesuffix("-text")
        if fault.startswith("refusal"):
            message["stop_details"] = {"type": "refusal", "category": "bio", "explanation": None}
            message["content"] = message["content"] if fault.endswith("text") else []
        return message

    def _create(self, h: BaseHTTPRequestHandler, requests: list[dict[str, Any]]) -> None:
        fault = self.create_faults.pop(0) if self.create_faults else ""
        if fault == "drop-before":
            self._drop(h)
        elif fault in STATUSES:
            self._error(h, fault)
        else:
            names = [r["custom_id"] for r in requests]
            assert len(set(names)) == len(names)
            assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", name) for name in names)
            lines = [line for r in requests for line in self._result(r)]
            with self._lock:
                lines.reverse()  # results come in any order
                name = f"msgbatch_{len(self.batches)}"
                self.batches[name] = {"requests": requests, "lines": lines, "left": self.polls, "at": datetime.now(UTC)}
            if fault == "drop-after":
                self._drop(h)
            elif fault == "late-500":
                self._error(h, "500")
            else:
                self._send(h, 200, "<html>" if fault == "html" else self._batch(name))

    def _result(self, asked: dict[str, Any]) -> list[str]:
        request = asked["params"]
        text = text_of(request)
        fault = self._fault(text)
        if fault in ("expired", "canceled"):
            result: dict[str, Any] = {"type": fault}
        elif fault in ("errored", "invalid"):
            kind = "invalid_request_error" if fault == "invalid" else "api_error"
            error = {"type": "error", "request_id": None, "error": {"type": kind, "message": "no"}}
            result = {"type": "errored", "error": error}
        else:
            result = {"type": "succeeded", "message": self._message(request, text, fault)}
        line = json.dumps({"custom_id": asked["custom_id"], "result": result}, ensure_ascii="\ud800" in str(result))
        return ["{not json"] if fault == "bad-line" else [line]

    def _batch(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        ended, n = batch["left"] <= 0, len(batch["requests"])
        counts = {
            "processing": 0 if ended else n,
            "succeeded": n if ended else 0,
            "errored": 0,
            "canceled": 0,
            "expired": 0,
        }
        at = batch["at"].isoformat()
        return {
            "id": name, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts, "created_at": at, "expires_at": at, "ended_at": at if ended else None,
            "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{name}/results" if ended else None,
        }  # fmt: skip

    def get(self, h: BaseHTTPRequestHandler) -> None:
        fault = self.get_faults.pop(0) if self.get_faults else ""
        path = h.path.partition("?")[0]
        self.paths[path] += 1
        if path == "/ledger":
            return self._send(h, 200, {"charged": sum(self.charged.values())})
        name = path.removesuffix("/results").rpartition("/")[2]
        if fault == "drop":
            self._drop(h)
        elif fault in STATUSES:
            self._error(h, fault)
        elif fault in ("html", "malformed"):
            self._send(h, 200, "<html>" if fault == "html" else "{not json")
        elif fault == "cut":
            self._send(h, 200, '{"id": "x"', {"content-length": "1000"})
            self._drop(h)
        elif name == "batches":
            for batch in self.batches.values():
                batch["left"] -= 1
            data = [self._batch(found) for found in reversed(self.batches)]
            self._send(h, 200, {"data": data, "has_more": False, "first_id": None, "last_id": None})
        elif name not in self.batches:
            self._error(h, "404")
        elif path.endswith("/results"):
            self._send(h, 200, "\n".join(self.batches[name]["lines"]) + "\n")
        else:
            self.batches[name]["left"] -= 1
            self._send(h, 200, self._batch(name))

    def _error(self, h: BaseHTTPRequestHandler, fault: str) -> None:
        kind, headers = STATUSES[fault]
        self._send(h, int(fault[:3]), {"type": "error", "error": {"type": kind, "message": "no"}}, headers)

    @staticmethod
    def _send(h: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, str) else json.dumps(body)
        sent = raw.encode(errors="surrogatepass")
        kind = "text/html" if raw.startswith("<") else "application/json"
        h.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(sent)), **(headers or {})}.items():
            h.send_header(name, value)
        h.end_headers()
        h.wfile.write(sent)

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


def tokens_of(request: dict[str, Any]) -> int:
    """Tokens of a prompt, four characters each."""
    return (len(text_of(request)) + sum(len(block["text"]) for block in request.get("system", []))) // 4
