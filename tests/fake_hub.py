"""A Hugging Face Hub on this machine, over HTTP: the real `huggingface_hub` and `datasets` talk to it.

Status codes and the headers X-Error-Code and X-Error-Message are those of huggingface.co (read from its answers and
from `huggingface_hub.utils.hf_raise_for_status`). The metadata of a gated repository is public, as there: only its
files are refused.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "c" * 40
TOKEN = "hf_" + "t0k3n" * 7
"""The one token that is valid."""
GRANTED = "hf_" + "gr4nt" * 7
"""A token of an account that has accepted every licence."""


@dataclass
class Repository:
    """A model or a dataset."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    state: str = "public"
    """public, gated, private, disabled, busy (429), down (503)."""
    revisions: tuple[str, ...] = ("main", COMMIT)


@dataclass
class FakeHub:
    """What the Hub has, and what it was asked."""

    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)
    """Method and path of every request."""

    def add_model(self, name: str, folder: Path | None = None, state: str = "public") -> None:
        files = {} if folder is None else {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        self.models[name] = Repository(files or {"config.json": b"{}"}, state)


class Refused(Exception):
    """An answer that is no content: status, X-Error-Code, X-Error-Message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: a second one would wait 40 ms for the first one's acknowledgement

    def __init__(self, hub: FakeHub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *arguments: object) -> None:
        """Nothing is written to standard error."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} {path}")
        try:
            content, headers = self._found(path)
            self._send(200, content, headers)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._send(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _found(self, path: str) -> tuple[bytes, Mapping[str, str]]:
        words = path.split("/")
        as_json = {"Content-Type": "application/json"}
        if words[0] == "api" and words[1:2] in (["models"], ["datasets"]):
            kind, rest = words[1], words[2:]
            if not rest:
                return json.dumps(self._listed(kind)).encode(), as_json
            name, what, more = "/".join(rest[:2]), "".join(rest[2:3]), rest[3:]
            repository = self._repository(kind, name, files=what == "auth-check")
            revision = more[0] if more else "main"
            if revision not in repository.revisions:
                raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            if what == "tree":
                if more[1:]:
                    raise Refused(404, "EntryNotFound", f"{'/'.join(more[1:])} does not exist on {revision}")
                return json.dumps(self._tree(repository)).encode(), as_json
            if what == "paths-info":
                asked = json.loads(self.body)["paths"]
                return json.dumps([one for one in self._tree(repository) if one["path"] in asked]).encode(), as_json
            if what == "auth-check":
                return b"{}", as_json
            return json.dumps(self._info(name, repository)).encode(), as_json
        kind = "models"
        if words[0] == "datasets":
            kind, words = "datasets", words[1:]
        if words[2:3] == ["resolve"]:
            repository = self._repository(kind, "/".join(words[:2]), files=True)
            if words[3] not in repository.revisions:
                raise Refused(404, "RevisionNotFound", f"Invalid rev id: {words[3]}")
            content = repository.files.get("/".join(words[4:]))
            if content is None:
                raise Refused(404, "EntryNotFound", "Entry not found")
            return content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        raise Refused(404, "", "Not found")

    def _repository(self, kind: str, name: str, *, files: bool) -> Repository:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN, GRANTED):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        repository = getattr(self.hub, kind).get(name)
        if repository is None or (repository.state == "private" and token != GRANTED):
            if token:
                raise Refused(404, "RepoNotFound", "Repository not found")
            raise Refused(401, "", "Invalid username or password.")
        state = repository.state
        if state == "gated" and files and token != GRANTED:
            if token:
                message = f"Access to model {name} is restricted and you are not in the authorized list."
                raise Refused(403, "GatedRepo", message)
            message = f"Access to model {name} is restricted. You must have access to it and be authenticated."
            raise Refused(401, "GatedRepo", message)
        if state == "disabled":
            raise Refused(403, "", "Access to this resource is disabled.")
        if state == "busy":
            raise Refused(429, "", "We had to rate limit your IP. Please retry, or log in to have higher limits.")
        if state == "down":
            raise Refused(503, "", "Service Unavailable")
        return repository

    def _listed(self, kind: str) -> list[dict[str, object]]:
        query = dict(pair.partition("=")[::2] for pair in urlsplit(self.path).query.split("&"))
        found = getattr(self.hub, kind)
        author, search = query.get("author"), unquote(query.get("search", "")).lower()
        names = [n for n in found if found[n].state != "private" and search in n.lower()]
        return [self._info(n, found[n]) for n in names if author is None or n.startswith(f"{author}/")]

    @staticmethod
    def _info(name: str, repository: Repository) -> dict[str, object]:
        files = [{"rfilename": file} for file in repository.files]
        about = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "siblings": files}
        return about | {"gated": "manual" if repository.state == "gated" else False, "downloads": 1, "likes": 0}

    @staticmethod
    def _tree(repository: Repository) -> list[dict[str, object]]:
        return [
            {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name}
            for name, content in repository.files.items()
        ]


class Served(Protocol):
    """A hub that has an address while it is served."""

    endpoint: str


H = TypeVar("H", bound=Served)


@contextmanager
def serving(hub: H, handler: type[BaseHTTPRequestHandler] = _Handler) -> Iterator[H]:
    """Serve `hub` in the block, at `hub.endpoint`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, hub))  # type: ignore[arg-type]
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def pointed_at(endpoint: str, cache: Path, patch: pytest.MonkeyPatch, *, offline: bool = False) -> None:
    """Let `huggingface_hub` and `datasets` use this endpoint and an empty cache, as HF_ENDPOINT and HF_HOME would.

    The libraries read these variables when they are imported, so their constants are set as well.
    """
    import datasets.config
    from huggingface_hub import constants

    patch.setenv("HF_ENDPOINT", endpoint)
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.setenv("no_proxy", "127.0.0.1")
    patch.delenv("HF_TOKEN", raising=False)
    patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(cache / "stored_tokens"))
    patch.setattr(constants, "HF_HUB_OFFLINE", offline)
    patch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache / "datasets"))
    patch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
