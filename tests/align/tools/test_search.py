"""Search against BM25 worked by hand; Brave's and Wolfram Alpha's clients against a server of this process."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from align.errors import ConfigError
from align.rows import ToolCall
from align.tools.calculator import WOLFRAM, WolframAlpha, calculator_tool
from align.tools.registry import Registry
from align.tools.replay import Recorder
from align.tools.results import ToolError
from align.tools.search import BRAVE, BraveSearch, FolderSearch, passages_of, search_tool
from align.tools.web import Service

DOCUMENTS = {
    "cats.txt": "The cat sat on the mat. A cat is a small animal.",
    "dogs.txt": "The dog barked at the cat",
    "sub/birds.md": "Birds sing in 1999",
    "sub/empty.txt": "",
    "broken.json": "{",
}
KEY = "very-secret-key"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in DOCUMENTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def bm25_by_hand(query: str, texts: list[str]) -> list[float]:
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    mean = sum(map(len, words)) / len(words)
    scores = []
    for document in words:
        score = 0.0
        for word in re.findall(r"\w+", query.lower()):
            holding = sum(word in other for other in words)
            idf = math.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
            count = document.count(word)
            score += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["cat", "the cat mat", "sing 1999", "small small dog", "nothing cat"])
def test_scores_are_those_of_the_formula(folder: Path, query: str) -> None:
    engine = FolderSearch(folder)
    texts = [hit.description for hit in engine.passages]
    expected = {place: score for place, score in enumerate(bm25_by_hand(query, texts)) if score > 0}
    found = engine.scores(query)
    assert dict(found) == pytest.approx(expected, rel=1e-5)
    assert [score for _, score in found] == pytest.approx(sorted(expected.values(), reverse=True), rel=1e-5)


def test_hits_name_their_document_and_what_could_not_be_read_is_kept(folder: Path) -> None:
    engine = FolderSearch(folder)
    assert [hit.url for hit in engine.search("cat", 5)] == ["cats.txt", "dogs.txt"]
    assert [hit.url for hit in engine.search("cat", 1)] == ["cats.txt"]
    assert engine.search("zebra", 5) == []
    assert engine.search("?!", 5) == []
    assert list(engine.unread) == ["broken.json"]
    tools = Registry([search_tool(engine)])
    result = tools.call(ToolCall(name="brave_search", arguments={"query": "birds"}))
    assert json.loads(result.text) == {
        "query": "birds",
        "top_k": [{"title": "birds", "url": "sub/birds.md", "description": "Birds sing in 1999"}],
    }
    identity = engine.identity
    assert FolderSearch(folder).identity == identity
    (folder / "cats.txt").write_text("Another text")
    assert FolderSearch(folder).identity != identity
    with pytest.raises(ToolError, match="expected documents to search, found 0"):
        FolderSearch(folder / "nowhere")


def test_passages_hold_every_word_in_order_and_stay_short() -> None:
    text = "\n\n".join(f"Paragraph {n} " + "word " * (n * 13) for n in range(30)) + "x" * 2000
    passages = passages_of(text, 300)
    assert max(map(len, passages)) <= 300
    assert "".join("".join(passages).split()) == "".join(text.split())


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's list of (status, headers, body, seconds to wait), and keeps what it was asked."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        status, headers, body, seconds = self.server.answers.pop(0)  # type: ignore[attr-defined]
        time.sleep(seconds)
        if seconds:  # the client has left
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("BRAVE_API_KEY", KEY)
    monkeypatch.setenv("WOLFRAM_APP_ID", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked, found.answers = [], []  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def local(service: Service, server: ThreadingHTTPServer) -> Service:
    address = f"http://127.0.0.1:{server.server_port}/api"
    return replace(service, address=address, timeout_seconds=0.3, first_pause_seconds=0.01)


def ask(server: ThreadingHTTPServer, *answers: tuple[int, dict[str, str], str, float]) -> Recorder:
    server.answers[:] = answers  # type: ignore[attr-defined]
    tools = Recorder(Registry([search_tool(BraveSearch(local(BRAVE, server)))]))
    tools.call(ToolCall(name="brave_search", arguments={"query": "a b&c"}))
    return tools


FOUND = json.dumps({"web": {"results": [{"title": "T", "url": "https://x.example", "description": "D", "age": "1"}]}})


def test_brave_is_asked_as_documented_and_its_results_are_ours(server: ThreadingHTTPServer) -> None:
    record = ask(server, (200, {}, FOUND, 0)).records[0]
    assert json.loads(record.text)["top_k"] == [{"title": "T", "url": "https://x.example", "description": "D"}]
    path, headers = server.asked[0]  # type: ignore[attr-defined]
    assert parse_qs(urlsplit(path).query) == {"q": ["a b&c"], "count": ["3"], "text_decorations": ["false"]}
    assert headers["X-Subscription-Token"] == KEY
    assert KEY not in record.model_dump_json()


def test_a_busy_or_slow_service_is_asked_again(server: ThreadingHTTPServer) -> None:
    assert ask(server, (429, {"Retry-After": "0"}, "", 0), (503, {}, "", 0), (200, {}, FOUND, 0)).records[0].ok
    assert len(server.asked) == 3  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    "answers, kind",
    [
        ([(429, {}, "", 0)] * 3, "rate-limit"),
        ([(429, {"Retry-After": "3600"}, "", 0)], "rate-limit"),
        ([(500, {}, "", 0)] * 3, "network"),
        ([(422, {}, "", 0)], "network"),
        ([(302, {"Location": "http://127.0.0.1:9/"}, "", 0)], "network"),
        ([(200, {}, "<html>", 0)], "network"),
        ([(200, {}, FOUND, 0.5)] * 3, "time-out"),
    ],
)
def test_what_stays_wrong_is_an_error_without_the_key(
    server: ThreadingHTTPServer, answers: list, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    record = ask(server, *answers).records[0]
    assert (record.ok, record.error) == (False, kind)
    assert len(server.asked) == len(answers)  # type: ignore[attr-defined]
    assert KEY not in record.model_dump_json() + caplog.text


def test_a_refused_key_ends_the_run_and_is_not_shown(server: ThreadingHTTPServer) -> None:
    with pytest.raises(ConfigError, match=r"BRAVE_API_KEY: Brave Search refused the key \(HTTP 401\)") as raised:
        ask(server, (401, {}, KEY, 0))
    assert KEY not in str(raised.value)


def test_wolfram_is_asked_as_documented_and_says_what_it_does_not_understand(server: ThreadingHTTPServer) -> None:
    tools = Registry([calculator_tool(WolframAlpha(local(WOLFRAM, server)))])
    server.answers[:] = [(200, {}, "Result:\n4", 0), (501, {}, "Did you mean 2+2?", 0)]  # type: ignore[attr-defined]
    assert tools.call(ToolCall(name="wolfram_alpha", arguments={"query": "2 + 2"})).text == "Result:\n4"
    path, headers = server.asked[0]  # type: ignore[attr-defined]
    assert parse_qs(urlsplit(path).query) == {"input": ["2 + 2"]}
    assert headers["Authorization"] == f"Bearer {KEY}"
    lost = tools.call(ToolCall(name="wolfram_alpha", arguments={"query": "qwertz"}))
    assert (lost.error, lost.text) == ("refused", "Error: Did you mean 2+2?")
