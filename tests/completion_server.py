"""A server of completions for tests: a real tiny model behind the OpenAI completions interface, with faults on request.

It samples with `LocalBackend`, so its answers are known. vLLM's names and forms are used: token ids in, `token_ids`
out if `return_token_ids` is asked for, `stop_reason`, /v1/models with `max_model_len`, and /tokenize.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from align.generation.backend import Backend

Fault = Callable[["Handler"], bool]
"""What happens to a completion request in place of an answer. False: the answer follows."""


class CompletionServer(ThreadingHTTPServer):
    """A server at 127.0.0.1 that runs in a thread of its own.

    backend: makes a backend for sampling settings of a request: `backend(temperature=..., max_completion_tokens=...)`.
    ids: whether answers have token ids; text alone otherwise.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, backend: Callable[..., Backend], tokenizer: Any, *, name: str = "tiny", ids: bool = True, port: int = 0
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.backend, self.tokenizer, self.ids = backend, tokenizer, ids
        self.models: list[dict[str, Any]] = [{"id": name, "root": "tiny-llama", "max_model_len": 512, "created": 0}]
        self.bodies: list[dict[str, Any]] = []
        """The completion requests, in the order in which they came."""
        self.sent_headers: list[dict[str, str]] = []
        self.faults: deque[Fault] = deque()
        """Each is used for one completion request."""
        self.always: Fault | None = None
        self.most_open = 0
        """The most completion requests that were open at the same time."""
        self._open = 0
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def die(self) -> None:
        """Close the port and every connection, as a process that is killed."""
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            _cut(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut on purpose is no reason to print a traceback."""

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            backend = self.backend(temperature=body["temperature"], max_completion_tokens=body["max_tokens"])
            [[made]] = backend.complete([body["prompt"]], [[body["seed"]]])
        ids = list(made.ids)
        text = self.tokenizer.decode(ids[:-1] if made.finished else ids)
        choice = {"index": 0, "text": text, "finish_reason": "stop" if made.finished else "length"}
        choice["stop_reason"] = ids[-1] if made.finished else None
        if self.ids and body.get("return_token_ids"):
            choice["token_ids"] = ids
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
        return {"object": "text_completion", "model": body["model"], "choices": [choice], "usage": usage}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: CompletionServer

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": self.server.models})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize" and self.server.ids:
            self.answer(200, {"tokens": self.server.tokenizer.encode(body["prompt"], add_special_tokens=False)})
        elif self.path == "/v1/completions":
            with self.server.counted():
                self.server.bodies.append(body)
                self.server.sent_headers.append(dict(self.headers))
                fault = self.server.always or (self.server.faults.popleft() if self.server.faults else None)
                if fault is None or not fault(self):
                    self.answer(200, self.server.completion(body))
        else:
            self.answer(404, {"detail": "Not Found"})

    def answer(self, status: int, body: object, **headers: str) -> bool:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return True

    def log_message(self, *arguments: Any) -> None:
        pass


def overloaded(retry_after: str | None = None, status: int = 503) -> Fault:
    """Answers `status` with an error of vLLM's form."""
    headers = {} if retry_after is None else {"Retry_After": retry_after}
    return lambda handler: handler.answer(status, {"error": {"message": "too many requests"}}, **headers)


def dropped(handler: Handler) -> bool:
    """Cuts the connection without an answer."""
    _cut(handler.connection)
    return True


def slow(seconds: float) -> Fault:
    """Answers later."""
    return lambda handler: bool(time.sleep(seconds))


def answered(body: object) -> Fault:
    """Answers 200 with this body."""
    return lambda handler: handler.answer(200, body)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
