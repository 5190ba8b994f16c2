"""A Hugging Face Hub on this machine that takes uploads and has faults: the real `huggingface_hub` talks to it.

It has what a push uses: repositories with commits, branches and tags, LFS storage, and the refusals of huggingface.co
(an unknown parent of a commit, an object that is not in storage, a ref that exists, a card whose YAML does not parse).
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import HfApi

from tests.fake_hub import Refused, serving

HANG_SECONDS = 1.0
"""How long a fault of the kind `timeout` is silent."""


class Blob(NamedTuple):
    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """Git's hash, of the content or of the pointer to LFS storage."""
        content = b"pointer to " + self.sha256.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def listed(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": self.oid, "size": len(self.content), "path": path}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


Tree = Mapping[str, Blob]


@dataclass
class Repo:
    """A repository with its first commit, which has `.gitattributes` alone."""

    private: bool = True
    commits: dict[str, Tree] = field(default_factory=lambda: {"0" * 40: {".gitattributes": Blob(b"*.bin lfs", False)}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    tags: dict[str, str] = field(default_factory=dict)
    seen: dict[str, list[Tree]] = field(default_factory=dict)
    """Every tree that a branch or tag has ever shown."""

    def commit(self, revision: str) -> str:
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        if found not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def show(self, ref: str, commit: str, refs: dict[str, str]) -> None:
        refs[ref] = commit
        self.seen.setdefault(ref, []).append(self.commits[commit])

    def files(self, revision: str) -> dict[str, bytes]:
        tree = self.commits[self.commit(revision)]
        return {path: blob.content for path, blob in tree.items() if path != ".gitattributes"}


@dataclass
class Fault:
    """What goes wrong with the next requests of one route.

    route: create, refs, branch, tree, preupload, batch, put, commit, tag, paths, file or any.
    kind: a status; `reset` and `timeout` before the request has an effect, `lost` after it; `garbage`, an answer that
        is no JSON; `stale`, the state of the repository before anything was pushed; `wrong commit`, a made-up hash in
        the answer to a commit; `changed`, a commit that stores other content than what was sent.
    """

    route: str
    kind: str
    times: int = 1
    skip: int = 0
    """How many requests of the route go well before."""


@dataclass
class WritableHub:
    """What the Hub has, what it was asked, and what goes wrong next."""

    token: str
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """Routes, in their order."""
    endpoint: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def model(self, name: str = "me/model") -> Repo:
        return self.repos["models", name]


class Client(HfApi):
    """The real client, which knows the Hub that it talks to."""

    hub: WritableHub

    @property
    def sent(self) -> dict[str, bytes]:
        """The files of the one tag that was made."""
        (repo,) = self.hub.repos.values()
        (tag,) = repo.tags
        return repo.files(tag)


@contextmanager
def served(token: str) -> Iterator[WritableHub]:
    with serving(WritableHub(token), _Handler) as hub:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: a second one would wait 40 ms for the first one's acknowledgement

    def __init__(self, hub: WritableHub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *arguments: object) -> None:
        """Nothing is written to standard error."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self._body()
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        route = self._route(words)
        with self.hub.lock:
            self.hub.requests.append(route)
            fault = self._fault(route)
        if fault in ("reset", "timeout"):
            self._break(silent=fault == "timeout")
            return
        try:
            if fault.partition(" ")[0].isdecimal():
                raise Refused(int(fault.partition(" ")[0]), "", "Something went wrong")
            with self.hub.lock:
                answer = self._done(route, words, body, fault)
        except Refused as refused:
            content = json.dumps({"error": refused.message, "url": self.hub.endpoint + "/me/model"}).encode()
            headers = {"X-Error-Message": refused.message, "X-Error-Code": refused.code}
            if fault == "429 after":
                headers["Retry-After"] = "7"
            self._send(refused.status, content, headers)
            return
        if fault == "lost":
            self._break(silent=False)
            return
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self._send(200, content[:3] if fault == "garbage" else content, {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _break(self, *, silent: bool) -> None:
        """End the connection without an answer: at once with a reset, or after a silence that is too long."""
        if silent:
            threading.Event().wait(HANG_SECONDS)
        else:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _fault(self, route: str) -> str:
        for fault in self.hub.faults:
            if fault.route in (route, "any") and fault.times > 0:
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault.kind
        return ""

    @staticmethod
    def _route(words: list[str]) -> str:
        if words[:3] == ["api", "repos", "create"]:
            return "create"
        if words[:2] == ["api", "validate-yaml"]:
            return "yaml"
        if words[0] == "lfs":
            return "put"
        if words[-1] == "batch":
            return "batch"
        if "resolve" in words:
            return "file"
        return {"paths-info": "paths"}.get(words[4], words[4]) if len(words) > 4 else "info"

    def _done(self, route: str, words: list[str], body: bytes, fault: str) -> Any:
        """The effect of a request, and its answer."""
        if route == "put":
            if hashlib.sha256(body).hexdigest() != words[1]:
                raise Refused(400, "", "the content does not have this hash")
            self.hub.objects[words[1]] = body
            return b""
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            raise Refused(401, "", "Invalid credentials in Authorization header")
        if route == "yaml":
            return {"errors": [], "warnings": []}
        if route == "create":
            return self._create(json.loads(body))
        if route == "batch":
            return self._batch(json.loads(body))
        if route == "file":
            kind = "datasets" if words[0] == "datasets" else "models"
            name, rest = "/".join(words[-5:-3]), words[-2:]
            return self._repo(kind, name).files(rest[0])[rest[1]]
        repo = self._repo(words[1], "/".join(words[2:4]))
        shown = Repo() if fault == "stale" else repo
        revision = words[5] if len(words) > 5 else "main"
        if route == "refs":
            return {
                "branches": _refs(shown.branches, "refs/heads/"),
                "tags": _refs(shown.tags, "refs/tags/"),
                "converts": [],
            }
        if route == "tree":
            tree = shown.commits["0" * 40] if fault == "stale" else repo.commits[repo.commit(revision)]
            return [blob.listed(path) for path, blob in tree.items()]
        if route == "paths":
            asked = parse_qs(body.decode())["paths"]  # a form, not JSON
            tree = repo.commits[repo.commit(revision)]
            return [blob.listed(path) for path, blob in tree.items() if path in asked]
        if route == "preupload":
            tree = repo.commits[repo.commit(revision)]
            return {"files": [_upload_mode(each["path"], tree) for each in json.loads(body)["files"]]}
        if route == "branch":
            if revision in repo.branches:
                raise Refused(409, "", "Reference already exists")
            repo.show(revision, repo.branches["main"], repo.branches)
            return {}
        if route == "tag":
            tag = json.loads(body)["tag"]
            if tag in repo.tags:
                raise Refused(409, "", "Tag reference exists already")
            repo.show(tag, repo.commit(revision), repo.tags)
            return {}
        if route == "commit":
            return self._commit(repo, revision, [json.loads(line) for line in body.splitlines()], fault)
        if route in ("info", "revision"):
            return {"id": "/".join(words[2:4]), "sha": repo.commit(revision), "siblings": [], "tags": []}
        raise AssertionError(f"no such route: {self.command} {self.path}")

    def _repo(self, kind: str, name: str) -> Repo:
        found = self.hub.repos.get((kind, name))
        if found is None:
            raise Refused(404, "RepoNotFound", "Repository not found")
        return found

    def _create(self, asked: dict[str, Any]) -> dict[str, str]:
        key = (f"{asked.get('type') or 'model'}s", f"{asked['organization']}/{asked['name']}")
        if key in self.hub.repos:
            raise Refused(409, "", "You already created this repo")
        self.hub.repos[key] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        prefix = "datasets/" if key[0] == "datasets" else ""
        return {"url": f"{self.hub.endpoint}/{prefix}{key[1]}"}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = []
        for each in asked["objects"]:
            upload = {"upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}"}}
            answer.append(each | ({} if each["oid"] in self.hub.objects else {"actions": upload}))
        return {"transfer": "basic", "objects": answer}

    def _commit(self, repo: Repo, branch: str, lines: list[dict[str, Any]], fault: str) -> dict[str, str]:
        head = repo.branches.get(branch)
        if head is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        tree = dict(repo.commits[head])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                if value.get("parentCommit", head) != head:
                    raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
            elif line["key"] == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refused(400, "", f"the object {value['oid']} is not in storage")
                tree[value["path"]] = Blob(self.hub.objects[value["oid"]], lfs=True)
            else:
                tree[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
        if "README.md" in tree:
            yaml.safe_load(tree["README.md"].content.decode().split("---\n")[1])
        if fault == "changed":
            name = max(tree)
            tree[name] = Blob(b"?" + tree[name].content[1:], tree[name].lfs)
        oid = hashlib.sha1(f"{len(repo.commits)} {sorted(tree.items())}".encode()).hexdigest()
        repo.commits[oid] = tree
        repo.show(branch, oid, repo.branches)
        said = "f" * 40 if fault == "wrong commit" else oid
        return {"commitUrl": f"https://huggingface.co/x/y/commit/{said}", "commitOid": said}


def _refs(refs: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
    return [{"name": name, "ref": prefix + name, "targetCommit": commit} for name, commit in refs.items()]


def _upload_mode(path: str, tree: Tree) -> dict[str, Any]:
    lfs = path.endswith(".safetensors")
    answer: dict[str, Any] = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
    if path in tree:
        answer["oid"] = tree[path].sha256 if lfs else tree[path].oid
    return answer
