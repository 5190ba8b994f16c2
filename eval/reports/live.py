"""The report of a run as a local page that is made again while the run goes on.

The server is of the standard library and listens on this machine only. It reads the ledger and the files of the stages.
The page asks for `/state` every few seconds, which costs a short query and a look at the times of some files, and loads
itself again if something has changed.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from align.errors import AlignError, ConfigError
from align.files import fingerprint_of
from align.rounds.results import METRICS
from align.rounds.status import is_running
from eval.reports.page import Live, page
from eval.reports.rounds import LEDGER, read_report

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""The names by which the server answers. Another one in the header `Host` is a web page elsewhere that has its own name
point to this machine, to read what the server shows."""
_TIMEOUT_SECONDS = 10
_METRICS = (f"*/{METRICS}", f"*/*/{METRICS}")
"""Where stages write metrics, below the folder of the run: `round-1/sft/metrics.jsonl`."""


class LiveReport:
    """The page of a run, made once for each state.

    samples: as for `read_report`. seconds: how often an open page asks for the state.
    """

    def __init__(self, run_dir: Path, samples: int, seconds: float) -> None:
        self.run_dir, self.samples, self.seconds = run_dir, samples, seconds
        self._lock = threading.Lock()
        self._made = ("", "")

    @property
    def state(self) -> str:
        """A fingerprint of what the page is made from: it changes when a stage begins, ends or writes metrics."""
        return fingerprint_of(str(is_running(self.run_dir)), *self._stages(), *self._metrics())[:16]

    def page(self) -> str:
        """The page of the current state. Raises StageError if the run has not started."""
        with self._lock:
            state = self.state
            if self._made[0] != state:
                self._made = (state, page(read_report(self.run_dir, self.samples), Live(state, self.seconds)))
            return self._made[1]

    def _stages(self) -> list[str]:
        """Every start of a stage and how it ended; empty if there is no ledger yet."""
        path = (self.run_dir / LEDGER).absolute()
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as ledger:
                return [str(row) for row in ledger.execute("SELECT id, status, ended FROM stages ORDER BY id")]
        except sqlite3.Error:
            return []

    def _metrics(self) -> Iterator[str]:
        """Name, size and time of each file of metrics."""
        for path in sorted(path for pattern in _METRICS for path in self.run_dir.glob(pattern)):
            try:
                status = path.stat()
            except FileNotFoundError:  # its stage starts over
                continue
            yield f"{path} {status.st_size} {status.st_mtime_ns}"


class LiveServer(ThreadingHTTPServer):
    """Serves one live report. port: 0 takes any free one; `address` has the one that was taken."""

    daemon_threads = True

    def __init__(self, report: LiveReport, port: int) -> None:
        self.report = report
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            how = "Choose another port, or 0 for a free one"
            raise ConfigError("port", f"{port} cannot be used ({error.strerror})", how) from None

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that leaves before the answer is no error of the server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    timeout: ClassVar[int] = _TIMEOUT_SECONDS
    server: LiveServer

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rpartition(":")[0] not in NAMES:
            self._answer(HTTPStatus.FORBIDDEN, f"Open this page as {self.server.address}")
        elif self.path == "/state":
            self._answer(HTTPStatus.OK, self.server.report.state)
        elif self.path == "/":
            self._page()
        else:
            self._answer(HTTPStatus.NOT_FOUND, "There is only one page, at /")

    def _page(self) -> None:
        try:
            self._answer(HTTPStatus.OK, self.server.report.page(), "text/html")
        except AlignError as error:  # such as a run that has not started: the browser asks again
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error), refresh=True)

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain", *, refresh: bool = False) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if refresh:
            self.send_header("Refresh", str(self.server.report.seconds))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are not logged: an open page asks every few seconds."""
