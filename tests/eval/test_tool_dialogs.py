"""Tool dialogs as an evaluation: scripted dialogs over functions from a file, judged row by row and in shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from align.chat import load_protocol
from align.errors import AlignError
from align.jsonl import read_rows, write_rows
from align.rows import Message, ToolCall, ToolQuestionRow, tools_text
from align.settings import ModelConfig, SamplingConfig
from align.tools.catalog import ToolsConfig, make_registry
from eval import tool_dialogs
from eval.catalog import run_evaluations
from eval.intervals import share
from eval.runner import Generator
from eval.tool_dialogs import ToolDialogsEvalConfig, made_in_order
from tests.fakes import ScriptedDialogs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FUNCTIONS = '''
"""Functions of a shop."""

def stock(item: str, warehouse: str = "north") -> int:
    """How many of an item are there.

    Args:
        item: Its name.
        warehouse: Which warehouse.
    """
    if item == "unicorns":
        raise ValueError("no shop stocks unicorns")
    return 1200 + len(item)

def total(price: float, count: int) -> float:
    """What some cost together.

    Args:
        price: Of one.
        count: How many.
    """
    return price * count
'''


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=json.dumps(arguments))


def hermes(*calls: ToolCall) -> str:
    return "\n".join(
        f"<tool_call>\n{json.dumps({'name': each.name, 'arguments': each.parsed()})}\n</tool_call>" for each in calls
    )


STOCK = call("stock", item="chairs")
TOTAL = call("total", price=2.5, count=1206)

SCRIPTS: dict[str, tuple[tuple[ToolCall, ...] | None, tuple[str, ...], list[str]]] = {
    # question -> expected calls, answers, what the model says
    "right": ((STOCK, TOTAL), ("3015",), [hermes(STOCK), hermes(TOTAL), "Together 3,015.00 euros."]),
    "default": ((STOCK,), ("1206",), [hermes(call("stock", item="chairs", warehouse="north")), "1206 of them."]),
    "corrected": ((STOCK,), ("1206",), [hermes(call("stock", item=7)), hermes(STOCK), "We have 1206."]),
    "order": ((STOCK, TOTAL), ("3015",), [hermes(TOTAL), hermes(STOCK), "It is 3015."]),
    "lies": ((STOCK,), ("1206",), [hermes(STOCK), "We have 12067."]),
    "foreign": ((STOCK,), ("1206",), [hermes(call("total", price=1, count=2)), "We have 1206."]),
    "broken": ((STOCK,), ("1206",), ['<tool_call>\n{"name": "stock", 1206}\n</tool_call>']),
    "endless": ((STOCK,), ("1206",), [hermes(STOCK)] * 9),
    "silent": ((), ("Bonjour",), ["bonjour!"]),
    "unsaid": (None, ("1206",), [hermes(STOCK), "1206"]),
    "needless": ((), (), [hermes(STOCK), "Well."]),
}


@pytest.fixture
def config(tmp_path: Path) -> ToolDialogsEvalConfig:
    (tmp_path / "shop.py").write_text(FUNCTIONS)
    tools = ToolsConfig(functions=(tmp_path / "shop.py",))
    specs = make_registry(tools).specs
    rows = []
    for name, (calls, answers, _) in SCRIPTS.items():
        offered = tools_text([spec for spec in specs if name != "foreign" or spec.name == "stock"])
        prompt = (Message(role="user", content=f"Ask {name}"),)
        rows.append(ToolQuestionRow(id=name, source="t", prompt=prompt, tools=offered, calls=calls, answers=answers))
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl", ToolQuestionRow) == rows
    return ToolDialogsEvalConfig(rows=tmp_path / "rows.jsonl", tools=tools, max_calls=4)


@pytest.fixture
def generator(chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Generator:
    protocol = load_protocol(chatml_tokenizer)
    backend = ScriptedDialogs(protocol, {f"Ask {name}": [lines] for name, (_, _, lines) in SCRIPTS.items()})
    return Generator(ModelConfig(path=tmp_path), SamplingConfig(), _engine=backend.engine)


def test_each_dialog_is_run_and_judged(config: ToolDialogsEvalConfig, generator: Generator, tmp_path: Path) -> None:
    found = tool_dialogs.evaluate(config, generator, tmp_path / "units", None)
    judged = {
        row["id"]: tuple(row[name] for name in ("right_calls", "executed", "right_answer", "finished", "verdict"))
        for row in found.rows
    }
    assert judged == {
        "right": (True, True, True, True, "right"),
        "default": (True, True, True, True, "right"),
        "corrected": (True, False, True, True, "right"),
        "order": (False, True, True, True, "wrong calls"),
        "lies": (True, True, False, True, "wrong answer"),
        "foreign": (False, False, True, True, "wrong calls"),
        "broken": (False, False, False, False, "malformed call"),
        "endless": (True, True, False, False, "too many calls"),
        "silent": (True, None, True, True, "right"),
        "unsaid": (None, True, True, True, "right"),
        "needless": (False, True, None, True, "wrong calls"),
    }
    expected = {"right_calls": (6, 10), "executed": (7, 10), "right_answer": (7, 10), "finished": (9, 11)}
    assert found.scores.keys() == expected.keys()
    for name, (hits, rows) in expected.items():
        score, plain = found.scores[name], share(hits, rows)
        assert score is not None
        assert plain is not None
        assert (score.value, score.n) == (plain.value, plain.n)
        assert score.low <= plain.low <= plain.high <= score.high, "intervals are over two sets of functions"
    assert found.counts["clusters"] == {"by": "function set", "count": 2}
    assert found.counts["rows"] == 11
    assert found.counts["errors"] == {"arguments": 1, "unknown-tool": 1}
    assert found.counts["by_source"]["t"]["finished"].endswith(" of 11")
    before = [{**row, "right_calls": row["right_calls"] and row["id"] != "right"} for row in found.rows]
    baseline = tmp_path / "before.json"
    baseline.write_text(json.dumps({"rows": before}))
    again = tool_dialogs.evaluate(config.model_copy(update={"baseline": baseline}), generator, tmp_path / "again", None)
    values = {name: difference.value for name, difference in again.differences.items() if difference is not None}
    assert values == {"right_calls": pytest.approx(0.1), "right_answer": 0, "finished": 0}
    assert not found.differences


def test_a_row_shows_its_whole_dialog(config: ToolDialogsEvalConfig, generator: Generator, tmp_path: Path) -> None:
    rows = {row["id"]: row for row in tool_dialogs.evaluate(config, generator, tmp_path, None).rows}
    assert rows["lies"]["dialog"] == (
        'user: Ask lies\n\nassistant: stock({"item": "chairs"})\n\ntool: 1206\n\nassistant: We have 12067.'
    )
    assert "holds no call" in rows["broken"]["reason"]


def test_a_row_may_call_only_what_it_offers(
    config: ToolDialogsEvalConfig, generator: Generator, tmp_path: Path
) -> None:
    rows = {row["id"]: row for row in tool_dialogs.evaluate(config, generator, tmp_path, None).rows}
    assert "tool: Error: there is no function 'total'. Functions: stock." in rows["foreign"]["dialog"]


def test_a_row_that_offers_what_no_tool_is_is_refused(config: ToolDialogsEvalConfig, tmp_path: Path) -> None:
    bare = config.model_copy(update={"tools": ToolsConfig(built_in=("wolfram_alpha",))})
    with pytest.raises(AlignError, match=r"stock: a row offers .*tools are wolfram_alpha\. Add its file to tools\."):
        tool_dialogs.evaluate(bare, None, tmp_path, None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_tiny_checkpoint_runs_from_the_catalog(
    config: ToolDialogsEvalConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    sampling = SamplingConfig(temperature=0, max_completion_tokens=8, dtype="float32", threads=1)

    def run() -> list[dict[str, Any]]:
        return run_evaluations(
            {"tool_dialogs": config}, model=ModelConfig(path=tiny_checkpoint), reward_model=None,
            sampling=sampling, token_budget=99, limit=3, output_dir=tmp_path / "out",
        )  # fmt: skip

    first = run()
    assert len(first[0]["rows"]) == 3
    assert run() == first
    shop = tmp_path / "shop.py"
    shop.write_text(shop.read_text() + "\n# another content\n")
    assert run()[0]["key"] != first[0]["key"], "the functions are part of what a result was made from"


@pytest.mark.parametrize(
    "expected, made, right",
    [
        ([STOCK, TOTAL], [STOCK, STOCK, TOTAL], True),
        ([STOCK, TOTAL], [TOTAL, STOCK], False),
        ([STOCK, STOCK], [STOCK], False),
        ([STOCK], [call("stock", item="Chairs")], False),
        ([STOCK], [call("stock", item="chairs", warehouse="south")], False),
        ([call("stock", item="chairs", warehouse="north")], [STOCK], True),
        ([TOTAL], [call("total", price=2.5, count=1206.0)], True),
        ([], [], True),
        ([], [STOCK], False),
    ],
)
def test_expected_calls_are_found_in_order(
    config: ToolDialogsEvalConfig, expected: list[ToolCall], made: list[ToolCall], right: bool
) -> None:
    assert made_in_order(expected, made, make_registry(config.tools)) == right
