"""The raters' page over real HTTP: who may talk to it, what it tells, and what it makes of what raters send."""

from __future__ import annotations

import http.client
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from align.errors import ConfigError
from align.rows import Message, ToolCall
from data_builders.annotation.settings import RatingConfig, ServerConfig
from data_builders.annotation.store import Store
from data_builders.annotation.tasks import Task

pytest.importorskip("fastapi", reason="the annotation page requires pip install -e '.[annotate]'")

from data_builders.annotation.connections import LimitedConnection
from data_builders.annotation.guard import Guard
from data_builders.annotation.server import Server

MODELS = ("secret-model-a", "secret-model-b")


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.text)


class Page:
    """A server of the page in a thread, and requests to it."""

    def __init__(self, folder: Path, tasks: list[Task], host: str = "127.0.0.1", **rating: object) -> None:
        self.database = folder / "r.sqlite"
        self.server = Server(ServerConfig(host=host, port=0))
        store = Store(self.database, RatingConfig.model_validate(rating))
        store.add(tasks)
        self.thread = threading.Thread(target=self.server.run, args=(store,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.ask("GET", "/")  # it serves by now, so that it can be stopped
        self.server.stop()
        self.thread.join(20)
        assert not self.thread.is_alive(), "the server did not end"

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        """Headers by name, `_` for `-`; an empty one is not sent."""
        found = {"Host": f"127.0.0.1:{self.server.port}", "Content-Type": "application/json"}
        found |= {key.replace("_", "-"): value for key, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        if body is not None:
            found.setdefault("Content-Length", str(len(body.encode())))
        for key, value in found.items():
            if value:
                connection.putheader(key, value)
        connection.endheaders(body.encode() if body else None)
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read().decode())
        connection.close()
        return answer

    def post(self, path: str, **body: object) -> Answer:
        return self.ask("POST", path, json.dumps(body))

    def rows(self, query: str) -> list[tuple]:
        with sqlite3.connect(self.database) as db:
            return db.execute(query).fetchall()


def pairs(count: int) -> list[Task]:
    return [
        Task(
            name=f"{MODELS[0]}-against-{MODELS[1]}-{number}",
            source=f"{MODELS[0]}.jsonl",
            prompt=(Message(role="system", content="Be kind."), Message(role="user", content=f"Question {number}?")),
            responses=(
                (Message(role="assistant", content=f"first {number}"),),
                (
                    Message(role="assistant", content="Let me see.", tool_calls=(ToolCall(name="look"),)),
                    Message(role="tool", content="42", name="look"),
                    Message(role="assistant", content=f"second {number}"),
                ),
            ),
            models=MODELS,
        )
        for number in range(count)
    ]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    found = Page(tmp_path, pairs(4))
    yield found
    found.close()


@pytest.fixture
def open_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Page]]:
    monkeypatch.delenv("ANNOTATE_TOKEN", raising=False)
    pages: list[Page] = []

    def make(**config: object) -> Page:
        pages.append(Page(tmp_path, pairs(1), **config))  # type: ignore[arg-type]
        return pages[-1]

    yield make
    for page in pages:
        page.close()


@pytest.mark.slow
@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "localhost", "LOCALHOST:1"])
def test_this_machine_may_name_itself_in_any_way(page: Page, host: str) -> None:
    assert page.ask("GET", "/", Host=host.format(port=page.server.port)).status == 200


@pytest.mark.parametrize("host", ["evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "[::", ""])
def test_a_name_that_was_rebound_to_this_machine_is_refused(page: Page, host: str) -> None:
    found = page.ask("GET", "/page.js", Host=host.format(port=page.server.port))
    # Without any Host the HTTP library answers by itself.
    assert (found.status, "localhost" in found.text) == ((421, True) if host else (400, False))


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost.evil.example", "http://localhost:1"]
)
def test_another_sites_page_can_send_nothing(page: Page, origin: str) -> None:
    host = f"localhost:{page.server.port}"
    body = json.dumps({"rater": "ann"})
    assert page.ask("POST", "/api/state", body, Host=host, Origin=origin).status == 403
    assert page.rows("SELECT count(*) FROM assignment") == [(0,)]
    assert page.ask("POST", "/api/state", body, Host=host, Origin=f"http://{host}").status == 200


def test_a_form_of_another_site_is_no_request_of_ours(page: Page) -> None:
    """Forms send without asking first, as text/plain at best; only JSON that says so is read."""
    assert page.ask("POST", "/api/state", '{"rater": "ann"}', Content_Type="text/plain").status == 422
    assert page.rows("SELECT count(*) FROM assignment") == [(0,)]


def test_large_and_unmeasured_bodies_are_refused(page: Page) -> None:
    assert page.ask("POST", "/api/state", None, Content_Length=str(2**20 + 1)).status == 413
    assert page.ask("POST", "/api/state", None, Transfer_Encoding="chunked").status == 413


def test_every_answer_forbids_foreign_scripts_frames_and_caches(page: Page) -> None:
    for found in (page.ask("GET", "/"), page.post("/api/state", rater="ann"), page.ask("GET", "/", Host="evil")):
        assert found.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert found.headers["Cache-Control"] == "no-store"
        assert found.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    for path in ("/", "/page.css", "/page.js"):
        found = page.ask("GET", path)
        assert found.status == 200
        assert "http" not in found.text.replace("plain http", "")
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert page.ask("GET", path).status == 404


def test_beyond_loopback_a_token_opens_the_page_and_then_a_cookie(open_page: Callable[..., Page]) -> None:
    page = open_page(host="0.0.0.0")
    token = page.server.token
    assert token is not None
    assert len(token) >= 32
    assert page.server.address.endswith(f":{page.server.port}/?token={token}")
    for path in ("/", "/page.js", "/?token=", "/?token=wrong", f"/?token={token[:-1]}", "/?token=%ff%fe"):
        assert page.ask("GET", path).status == 401, path
    assert page.post("/api/state", rater="ann").status == 401
    assert page.ask("POST", f"/api/state?token={token}", '{"rater": "ann"}').status == 401, "in a visit's address alone"
    entered = page.ask("GET", f"/?rater=ann&token={token}")
    assert (entered.status, entered.headers["Location"]) == (303, "/?rater=ann")
    name, *attributes = entered.headers["Set-Cookie"].split("; ")
    assert name == f"annotate-{page.server.port}={token}"
    assert {"HttpOnly", "SameSite=lax"} <= set(attributes)
    assert page.ask("GET", "/", Cookie=name).status == 200
    assert page.ask("POST", "/api/state", '{"rater": "ann"}', Cookie=f"other=1; {name}").status == 200
    assert page.ask("GET", "/", Cookie=f"annotate-{page.server.port}=wrong").status == 401
    assert page.ask("GET", "/", Cookie=name, Host="raters.example").status == 200, "it may have any name there"


def test_a_loopback_page_asks_for_no_token(open_page: Callable[..., Page]) -> None:
    page = open_page()
    assert page.server.token is None
    assert page.server.address == f"http://127.0.0.1:{page.server.port}/"


@pytest.mark.slow
def test_without_the_extra_the_recipe_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "x", "responses": ["a", "b"]}')
    config = {"tasks": {"pairs": [str(tmp_path / "pairs.jsonl")]}, "database": str(tmp_path / "r.sqlite")}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    code = (
        "import runpy, sys; sys.modules['fastapi'] = None; sys.argv = ['annotate.py', sys.argv[1]]; "
        "runpy.run_path('recipes/annotate.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "c.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 2
    result = 'fastapi: is not installed, but the annotation page requires it. pip install -e ".[annotate]".'
    assert done.stderr.splitlines()[-1] == result
    assert "Traceback" not in done.stderr


def test_a_host_that_is_empty_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"server\.host is empty\. Set it to 127\.0\.0\.1, or to 0\.0\.0\.0 for all addresses"
    ):
        ServerConfig(host=" ")


def test_what_counts_as_loopback() -> None:
    inside = ("127.0.0.1", "127.9.9.9", "::1", "localhost")
    outside = ("0.0.0.0", "::", "10.0.0.7", "localhost.example", "box")
    assert [host for host in (*inside, *outside) if ServerConfig(host=host).is_loopback] == list(inside)


def test_a_token_of_the_environment_is_taken_where_it_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNOTATE_TOKEN", "a-token-that-stays-the-same")
    assert Server(ServerConfig(host="0.0.0.0", port=0)).token == "a-token-that-stays-the-same"
    for wrong in ("short", "with spaces in the middle of it", ""):
        monkeypatch.setenv("ANNOTATE_TOKEN", wrong)
        with pytest.raises(
            ConfigError, match=r"ANNOTATE_TOKEN: must have 16 or more characters: letters, digits, - and _\. Or remove"
        ):
            Server(ServerConfig(host="0.0.0.0", port=0))


def test_a_port_that_is_taken_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"127\.0\.0\.1:{port}: cannot listen on this address \(.*in use.*\)\. Use another"
        ):
            Server(ServerConfig(port=port))


def test_the_page_never_receives_the_name_of_a_model_or_a_file(page: Page) -> None:
    result = [page.ask("GET", path).text for path in ("/", "/page.js", "/page.css")]
    state = page.post("/api/state", rater="ann")
    for number in range(4):
        result.append(state.text)
        body = {"rater": "ann", "turn": state.json()["turn"], "judgement": f"judgement-{number}", "grade": 2}
        state = page.post("/api/judge", **body)
    result += [state.text, page.post("/api/undo", rater="ann", judgement="judgement-3").text]
    assert state.json()["kind"] == "done"
    assert page.rows("SELECT DISTINCT models FROM turn") == [(json.dumps(MODELS),)], "what the claim is about"
    assert not any("secret" in text or ".jsonl" in text for text in result)


def test_left_is_better_is_written_down_for_the_response_that_was_shown_left(page: Page) -> None:
    for number in range(4):
        state = page.post("/api/state", rater="ann").json()
        first_is_left = state["left"][0]["text"].startswith("first")
        page.post("/api/judge", rater="ann", turn=state["turn"], judgement=f"judgement-{number}", grade=3)
        [(grade, kept)] = page.rows(
            "SELECT grade, first_is_left FROM judgement JOIN turn ON turn.id = judgement.turn "
            f"WHERE judgement.id = 'judgement-{number}'"
        )
        assert (grade, bool(kept)) == ((3, True) if first_is_left else (-3, False))
    assert {sided for (sided,) in page.rows("SELECT first_is_left FROM turn")} == {0, 1}, "the draw gave both"


def test_an_edit_changes_the_last_message_of_the_better_answer_and_keeps_its_calls(page: Page) -> None:
    state = page.post("/api/state", rater="ann").json()
    side, grade = ("left", 2) if len(state["left"]) == 3 else ("right", -2)
    assert state["last_text"][side] == "second 0"
    assert [part["text"] for part in state[side]] == ["Let me see.\nlook({})", "42", "second 0"]
    page.post("/api/judge", rater="ann", turn=state["turn"], judgement="judgement-0", grade=grade, edited="forty-two")
    [(edited,)] = page.rows("SELECT edited FROM judgement")
    assert [message["content"] for message in json.loads(edited)] == ["Let me see.", "42", "forty-two"]
    assert json.loads(edited)[0]["tool_calls"] == [{"name": "look"}]
    back = page.post("/api/undo", rater="ann", judgement="judgement-0").json()
    assert back["before"] == {"grade": grade, "edited": "forty-two", "edited_calls": ""}


@pytest.mark.parametrize("grade, edited", [(4, "as it is"), (-4, "as it is"), (0, "of a tie")])
def test_an_edit_that_changes_nothing_or_is_of_a_tie_is_none(page: Page, grade: int, edited: str) -> None:
    state = page.post("/api/state", rater="ann").json()
    text = state["last_text"]["left" if grade > 0 else "right"] if grade else edited
    said = {"turn": state["turn"], "judgement": "judgement-0", "grade": grade, "edited": text}
    assert page.post("/api/judge", rater="ann", **said).status == 200
    assert page.rows("SELECT edited FROM judgement") == [(None,)]


@pytest.mark.parametrize("change, error", [
    ({"grade": 5}, "grade: Input should be less than or equal to 4"),
    ({"grade": "4"}, None),
    ({"edited": " \n"}, "edited: is empty"),
    ({"judgement": "x"}, "judgement: String should match pattern"),
    ({"rater": "a" * 61}, "rater: String should have at most 60 characters"),
    ({"rater": "an\u0000n"}, "rater: a name is 1 to 60 printable characters"),
    ({"edited": "\ud800"}, "edited: "),
    ({"more": 1}, "more: Extra inputs are not permitted"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused_with_its_reason(page: Page, change: dict, error: str | None) -> None:
    state = page.post("/api/state", rater="ann").json()
    said = {"rater": "ann", "turn": state["turn"], "judgement": "judgement-0", "grade": 1} | change
    found = page.post("/api/judge", **said)
    if error is None:
        assert found.status == 200
    else:
        assert found.status == 422
        assert found.json()["error"].startswith(error)
        assert page.rows("SELECT count(*) FROM judgement") == [(0,)]


def test_names_are_written_one_way_and_may_be_limited(open_page: Callable[..., Page]) -> None:
    page = open_page(raters=["Ann Lee", "Ren\u00e9"])
    assert page.post("/api/state", rater="  Ann \t Lee ").json()["rater"] == "Ann Lee"
    assert page.post("/api/state", rater="Rene\u0301").json()["rater"] == "Ren\u00e9", "however it was typed"
    found = page.post("/api/state", rater="eve")
    assert found.status == 409
    assert found.json()["error"] == "name: eve is not one of the raters. Write it exactly as the operator did."


def connected(page: Page, sent: bytes, receive_bytes: int | None = None) -> socket.socket:
    """A connection over which something was sent."""
    client = socket.socket()
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(20)
    client.connect(("127.0.0.1", page.server.port))
    client.sendall(sent)
    return client


def rest_of(client: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    found = b""
    try:
        while received := client.recv(65536):
            found += received
    except ConnectionResetError:
        pass
    client.close()
    return found


def is_open(client: socket.socket) -> bool:
    """Whether the server has not closed the connection. Reads what it has sent."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return True
    except ConnectionResetError:
        pass
    return False


def post_head(page: Page, length: int) -> bytes:
    host = f"Host: 127.0.0.1:{page.server.port}\r\n"
    return f"POST /api/state HTTP/1.1\r\n{host}Content-Length: {length}\r\n\r\n".encode()


@pytest.mark.slow
def test_headers_that_do_not_end_close_their_connection_however_steadily_they_come(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.ask("GET", "/")
    monkeypatch.setattr(LimitedConnection, "header_seconds", 0.3)
    for before in (b"", b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n"):  # first request, and a later one
        client = connected(page, before + b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        while time.monotonic() - began < 10 and is_open(client):
            with suppress(OSError):  # closed since `is_open`
                client.sendall(b"X-More: yes\r\n")
            time.sleep(0.02)
        assert 0.2 < time.monotonic() - began < 5
        client.close()
    assert page.post("/api/state", rater="ann").status == 200


@pytest.mark.slow
def test_connections_that_ask_nothing_give_way_and_those_that_are_answered_stay(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.ask("GET", "/")
    monkeypatch.setattr(LimitedConnection, "most_connections", 4)
    monkeypatch.setattr(LimitedConnection, "header_seconds", 60)
    answered = connected(page, post_head(page, 16))  # its body is still to come
    page.ask("GET", "/")  # by now the server has read the headers of the one before
    held = [connected(page, b"GET / HTTP/1.1\r\n") for _ in range(12)]
    began = time.monotonic()
    assert page.post("/api/state", rater="ann").status == 200
    assert time.monotonic() - began < 5
    assert rest_of(held[0]) == b""
    answered.sendall(b'{"rater": "bob"}')
    assert answered.recv(100).startswith(b"HTTP/1.1 422"), "it has no Content-Type, and is answered all the same"
    for client in (answered, *held[1:]):
        client.close()


def test_a_body_that_does_not_come_is_given_up(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.ask("GET", "/")
    monkeypatch.setattr(Guard, "body_seconds", 0.1)
    found = rest_of(connected(page, post_head(page, 16) + b'{"rater"'))
    assert found.startswith(b"HTTP/1.1 408")
    assert found.endswith(b"The request was not complete after 0.1 s.")


@pytest.mark.slow
def test_a_client_that_does_not_read_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = Task(
        name="long",
        source="test",
        prompt=(Message(role="user", content="long " * 2_000_000),),
        responses=((Message(role="assistant", content="a"),), (Message(role="assistant", content="b"),)),
    )
    monkeypatch.setattr(LimitedConnection, "write_seconds", 0.3)
    page = Page(tmp_path, [long])
    body = b'{"rater": "ann"}'
    head = post_head(page, len(body)).replace(b"\r\n\r\n", b"\r\nContent-Type: application/json\r\n\r\n")
    client = connected(page, head + body, receive_bytes=4096)
    until_closed = time.monotonic() + 30
    for is_open in (True, False):  # accepted, then closed by the server
        while bool(page.server.connections) != is_open and time.monotonic() < until_closed:
            time.sleep(0.01)
    assert len(rest_of(client)) < 10_000_000, "the rest was never sent"
    page.close()
