"""Dialogs with tools, compared message by message over the page's own requests: real calls, a real sandbox."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the annotation page requires pip install -e '.[annotate]'")

from align.chat import load_protocol
from align.jsonl import read_rows
from align.rows import Message, PreferenceRow, PromptRow, ToolCall, ToolSpec, tools_text
from align.tools.registry import load_functions
from align.tools.results import ToolError
from data_builders.annotation.answers import Answers
from data_builders.annotation.collection import BatchRules, write_batch
from data_builders.annotation.server import Server
from data_builders.annotation.settings import RatingConfig, ServerConfig, ToolTurnsConfig
from data_builders.annotation.store import Store
from data_builders.annotation.tasks import Task
from data_builders.annotation.tool_turns import ToolTurns
from tests.fakes import FakeBackend

FUNCTIONS = '''
def price(item: str) -> float:
    """Return the price of an item in euros.

    Args:
        item: Its name.
    """
    return {"tea": 2.5}[item]
'''
QUESTION = "What do four teas and one euro cost?"


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


STEPS = [
    call("price", item="tea"),
    call("code_interpreter", code="x = 2.5 * 3"),
    call("code_interpreter", code="x + 1"),
]


def helpful(text: str, place: int) -> str:
    """The next step of the dialog, which follows from the number of results so far."""
    done = text.count("\ntool\n")
    return STEPS[done] if done < len(STEPS) else "It is 11 euros."


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return path


class Dialogs:
    """The page with two models and tools, and one rater's requests to it."""

    def __init__(self, folder: Path, functions: Path, tokenizer: Any, **rating: object) -> None:
        self.folder, self.functions, self.tokenizer = folder, functions, tokenizer
        self.rating = RatingConfig.model_validate(rating)
        self.offered = tools_text([tool.spec for tool in load_functions(functions)])
        self.judgements = 0
        self.start()

    def start(self, *, runs_tools: bool = True) -> None:
        """Start the page; without its tools, calls stay open as in a process that was killed before it made them."""
        config = ToolTurnsConfig(functions=(self.functions,), interpreter=True)
        store = Store(self.folder / "r.sqlite", self.rating, multi_turn=True, runs_tools=True)
        prompt = (Message(role="user", content=QUESTION),)
        store.add([Task(name="tea", source="here", prompt=prompt, tools=self.offered, round=2, batch="week-1")])
        protocol = load_protocol(self.tokenizer)
        models = {"helpful": FakeBackend(protocol, helpful), "idle": FakeBackend(protocol, lambda *_: "I do not know.")}
        self.tools = ToolTurns(config, store)
        self.server = Server(ServerConfig(port=0))
        answers = Answers({name: backend.engine for name, backend in models.items()}, store, self.rating)
        running = self.tools if runs_tools else None
        self.thread = threading.Thread(target=self.server.run, args=(store, answers, running, False), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.stop()
        self.thread.join(20)
        self.tools.close()
        assert not self.thread.is_alive()

    def post(self, path: str, **body: object) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        connection.request("POST", path, json.dumps({"rater": "ann"} | body), {"Content-Type": "application/json"})
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def state(self, kind: str) -> dict[str, Any]:
        """The state of this kind, which the page reaches by itself."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = self.post("/api/state")
            if found["kind"] not in ("waiting", "running"):
                assert found["kind"] == kind, found
                return found
            time.sleep(0.02)
        raise AssertionError(f"never {kind}")

    def prefer(self, state: dict[str, Any], text: str, **edit: str) -> dict[str, Any]:
        """Judge the answer with this text to be better."""
        side = "left" if text in state["left"][0]["text"] else "right"
        assert text in state[side][0]["text"]
        self.judgements += 1
        body = {
            "turn": state["turn"],
            "judgement": f"judgement-{self.judgements}",
            "grade": 4 if side == "left" else -4,
        }
        return self.post("/api/judge", **body, **edit)


@pytest.fixture
def dialogs(tmp_path: Path, functions: Path, chatml_tokenizer: Any) -> Iterator[Callable[..., Dialogs]]:
    made: list[Dialogs] = []

    def make(**rating: object) -> Dialogs:
        made.append(Dialogs(tmp_path, functions, chatml_tokenizer, **rating))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.slow
def test_a_dialog_goes_on_with_real_results_until_an_answer_and_each_message_is_a_row(
    dialogs: Callable[..., Dialogs], tmp_path: Path
) -> None:
    page = dialogs()
    state = page.state("rate")
    assert json.loads(state["last_calls"]["left"] or state["last_calls"]["right"])[0]["name"] == "price"
    assert page.prefer(state, "price")["kind"] == "running"

    state = page.state("rate")
    assert [(message["role"], message["text"]) for message in state["dialog"]] == [
        ("user", QUESTION), ("assistant", 'price({"item": "tea"})'), ("tool", "2.5"),
    ]  # fmt: skip
    better = [{"name": "code_interpreter", "arguments": {"code": "x = 2.5 * 4"}}]
    page.prefer(state, "x = 2.5 * 3", edited="Four of them:", edited_calls=json.dumps(better))

    state = page.state("rate")
    assert state["dialog"][-1]["text"] == "completed"
    page.prefer(state, "I do not know.")  # a mistake of the rater, after which the dialog is at its end
    page.post("/api/undo", judgement=f"judgement-{page.judgements}")
    page.prefer(page.state("rate"), "x + 1")

    state = page.state("rate")
    assert state["dialog"][-1]["text"] == "completed\n[value]11.0[/value]", "by the edited code, in a new interpreter"
    assert page.prefer(state, "It is 11 euros.")["kind"] == "go_on"
    assert page.post("/api/leave", turn=state["turn"])["kind"] == "done"
    page.close()

    folder = write_batch(tmp_path / "r.sqlite", tmp_path / "out", RatingConfig(), BatchRules(0.5, 0.0, 0), {}, {})
    rows = sorted(read_rows(folder / "preferences.jsonl", PreferenceRow), key=lambda row: len(row.prompt))
    assert [[message.role for message in row.prompt] for row in rows] == [
        ["user", *["assistant", "tool"] * step] for step in range(4)
    ]
    assert all(len(completion) == 1 for row in rows for completion in row.completions), "single messages"
    assert [row.rejected[0].content for row in rows] == ["I do not know."] * 4
    assert [row.chosen[0].tool_calls for row in rows] == [
        (ToolCall(name="price", arguments={"item": "tea"}),),
        (ToolCall(name="code_interpreter", arguments={"code": "x = 2.5 * 4"}),),
        (ToolCall(name="code_interpreter", arguments={"code": "x + 1"}),),
        (),
    ]
    assert [len(row.completions) for row in rows] == [2, 3, 2, 2], "edited > chosen > rejected"
    assert rows[1].chosen[0].content == "Four of them:"
    assert [row.models for row in rows if len(row.completions) == 2] == [("helpful", "idle")] * 3
    assert all(len(row.seeds) == 2 for row in rows if len(row.completions) == 2)
    assert {(row.round, row.batch, row.raters, row.tools) for row in rows} == {(2, "week-1", ("ann",), page.offered)}


@pytest.mark.slow
def test_calls_that_were_not_made_before_a_kill_are_made_by_the_next_start(dialogs: Callable[..., Dialogs]) -> None:
    page = dialogs()
    page.close()
    page.start(runs_tools=False)
    assert page.prefer(page.state("rate"), "price")["kind"] == "running"
    assert page.post("/api/state")["kind"] == "running", "and stays so"
    page.close()
    page.start()
    assert page.state("rate")["dialog"][-1]["text"] == "2.5"


@pytest.mark.slow
def test_what_a_rater_edits_wrongly_is_refused_and_a_call_that_fails_is_a_result(
    dialogs: Callable[..., Dialogs],
) -> None:
    page = dialogs(max_turns=2)
    state = page.state("rate")
    for calls, error in (
        ("[{", "calls: cannot be read"),
        ('{"name": "price"}', "calls: cannot be read"),
        ('[{"name": "price", "arguments": [1]}]', "calls: cannot be read"),
        ('[{"name": "prices"}]', "calls: name prices, which is not offered. Offered are: price."),
        (" ", "edited: has neither text nor calls"),
    ):
        assert page.prefer(state, "price", edited_calls=calls)["error"].startswith(error), calls
    page.prefer(state, "price", edited_calls='[{"name": "price", "arguments": {"item": "gold"}}]')
    state = page.state("rate")
    assert state["dialog"][-1]["text"] == "Error: KeyError: 'gold'"
    assert page.prefer(state, "x = 2.5")["kind"] == "done", "the last turn that max_turns permits, though it calls"


def test_a_prompt_that_offers_what_no_tool_makes_is_refused(tmp_path: Path, functions: Path) -> None:
    store = Store(tmp_path / "r.sqlite", RatingConfig())
    tools = ToolTurns(ToolTurnsConfig(functions=(functions,)), store)

    def row(*names: str) -> PromptRow:
        specs = [ToolSpec(name=name) for name in names]
        return PromptRow(id="a", source="b", prompt=(Message(role="user", content="c"),), tools=tools_text(specs))

    tools.check([row(), row("price")])
    with pytest.raises(ToolError, match="weather: a row offers this function, and the tools are price"):
        tools.check([row("price"), row("price", "weather")])
    tools.close()
    store.close()
