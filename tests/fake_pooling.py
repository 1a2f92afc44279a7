"""A local server that answers as vLLM's server of a pooling model does, misbehaves when told to, and can restart."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from tokalign.models.reward import RewardModel


class FakePooling:
    """``with FakePooling(folder) as fake: … fake.url``. The answers have the form of vLLM 0.32's."""

    def __init__(self, folder: Path, faults: list[Any] | None = None, models: int = 1) -> None:
        self.folder, self.models = folder, models
        self.model = RewardModel.load(folder)
        self.faults = faults or []
        """What the next requests for outputs meet: a status, ``drop``, or a function of the answer."""
        self.rows = 0
        """Rows that were answered."""
        self.port = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "FakePooling":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; after a stop, at the same port."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                name = str(fake.folder)
                self.answer(200, {"object": "list", "data": [{"id": name, "root": name}] * fake.models})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with fake._lock:
                    fault = fake.faults.pop(0) if fake.faults else None
                if fault == "drop":
                    self.close_connection = True
                    return
                if isinstance(fault, int):
                    return self.answer(fault, {"error": {"message": "a reason", "code": fault}})
                found: Any = fake.pooled(request)
                self.answer(200, fault(found) if fault else found)

            def answer(self, status: int, body: Any) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def pooled(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer of ``POST /pooling``."""
        assert request["use_activation"] is False
        assert request["model"] == str(self.folder)
        data = []
        with self._lock, torch.no_grad():
            for k, row in enumerate(request["input"]):
                logits = self.model.model(input_ids=torch.tensor([row])).logits[0]
                expected = "token_classify" if self.model.level == "token" else "classify"
                assert request["task"] == expected
                data.append({"index": k, "object": "pooling", "data": logits.tolist()})
            self.rows += len(data)
        return {"object": "list", "model": request["model"], "data": data[::-1]}
