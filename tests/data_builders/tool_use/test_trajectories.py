"""Executed trajectories, end to end over a scripted backend and real tools: what is kept, paired, dropped, replayed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from align.chat import load_protocol
from align.errors import ConfigError, RowError, SandboxError
from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest
from align.rows import Message, PreferenceRow, SFTRow, ToolCall, ToolQuestionRow, tools_of
from align.sampling.work_units import read_unit
from align.settings import EnvironmentConfig, SamplingConfig, TreeDataConfig
from align.tools.catalog import ToolsConfig
from align.tools.replay import ReplayError
from align.tools.sandbox.session import Sandbox, SandboxLimits
from align.tree.encode import encode_sft
from data_builders.tool_use.trajectories import TrajectoriesConfig, TrajectoryRecords, build, verify
from data_builders.tool_use.trajectory_rows import SampledTrajectory
from tests.fakes import ScriptedDialogs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FUNCTIONS = '''
"""A lender's functions."""

def members(town: str) -> int:
    """How many members a town has.

    Args:
        town: Its name.
    """
    if town != town.title():
        raise ValueError(f"no town {town!r}; write it as {town.title()!r}")
    return 100 * len(town)

def fee(count: int) -> float:
    """The fee of a number of members.

    Args:
        count: How many.
    """
    return 2.5 * count
'''


def hermes(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def called(name: str, **arguments: Any) -> tuple[ToolCall, ...]:
    return (ToolCall(name=name, arguments=json.dumps(arguments)),)


OSLO, LOWER, FEE = hermes("members", town="Oslo"), hermes("members", town="oslo"), hermes("fee", count=400)
BROKEN = '<tool_call>\n{"name": "members", "town"}\n</tool_call>'
EXPECTED: dict[str, Any] = {"calls": called("members", town="Oslo"), "answers": ("400",)}
SILENT: dict[str, Any] = {"calls": (), "answers": ()}

SCRIPTS: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
    # question -> what is known of it, and what each of its samples says
    "members of Oslo": (EXPECTED, [[OSLO, "It has 400."], [LOWER, OSLO, "400 members."], [BROKEN], ["About 400."]]),
    "fee of Oslo": (
        {"answers": ("1000",)},
        [
            [OSLO, FEE, "It is 1,000.00."],
            [OSLO, hermes("fee", count="400"), "I can not say."],
            [OSLO, hermes("fees", count=400), "I can not say."],
            [OSLO, FEE, "It is 100."],
        ],
    ),
    "how it goes": (SILENT, [["Well, thanks."], [OSLO, "Well."], ["Well, thanks."], [""]]),
    "what anyone needs": ({}, [[OSLO] * 4, ["It is ..."], [LOWER, "No."], ["So be it."]]),
}
QUESTIONS = [f"Tell me please: {name}?" for name in SCRIPTS]


@pytest.fixture
def protocol(chatml_tokenizer: PreTrainedTokenizerFast) -> Any:
    return load_protocol(chatml_tokenizer)


@pytest.fixture
def config(tmp_path: Path) -> TrajectoriesConfig:
    (tmp_path / "lender.py").write_text(FUNCTIONS)
    (tmp_path / "model").mkdir()
    rows = [
        ToolQuestionRow(id=name, source="t", prompt=(Message(role="user", content=text),), **SCRIPTS[name][0])
        for name, text in zip(SCRIPTS, QUESTIONS, strict=True)
    ]
    write_rows(tmp_path / "prompts.jsonl", rows)
    return TrajectoriesConfig(
        prompts=tmp_path / "prompts.jsonl",
        tools=ToolsConfig(functions=(tmp_path / "lender.py",)),
        model=tmp_path / "model",
        label="r1",
        max_calls=3,
        unit_size=2,
    )


@pytest.fixture
def backend(protocol: Any) -> ScriptedDialogs:
    return ScriptedDialogs(protocol, {name: samples for name, (_, samples) in SCRIPTS.items()})


@pytest.mark.slow
def test_what_ended_well_is_kept_by_kind_and_all_else_counted(
    config: TrajectoriesConfig, backend: ScriptedDialogs, protocol: Any, tmp_path: Path
) -> None:
    folder = build(config, tmp_path / "out", backend.engine)
    rows = read_rows(folder / "trajectories.jsonl", SFTRow)
    assert sorted((row.source, row.messages[-1].content) for row in rows) == [
        ("r1/mended/t", "400 members."),
        ("r1/multi-step/t", "It is 1,000.00."),
        ("r1/no-call/t", "So be it."),
        ("r1/no-call/t", "Well, thanks."),
        ("r1/single-step/t", "It has 400."),
    ]
    manifest = read_data_manifest(folder / "trajectories.jsonl")
    assert manifest["counts"]["dropped"] == {
        "a call, though none is expected": 1,
        "arguments do not match the schema": 1,
        "duplicate": 1,
        "empty answer": 1,
        "every call failed": 1,
        "malformed call": 1,
        "no call, though one is expected": 1,
        "not finished": 1,
        "too many calls": 1,
        "unknown function": 1,
        "wrong answer": 1,
    }
    assert manifest["counts"]["read"] == 16
    assert manifest["endings"] == {"answered": 13, "malformed call": 1, "too many calls": 1, "not finished": 1}
    assert manifest["errors"] == {"exception": 2, "arguments": 1, "unknown-tool": 1}
    assert {tool.name for tool in tools_of(rows[0].tools)} == {"members", "fee"}


@pytest.mark.slow
def test_a_failed_call_stays_in_its_dialog_and_is_not_trained_on(
    config: TrajectoriesConfig, backend: ScriptedDialogs, protocol: Any, tmp_path: Path
) -> None:
    folder = build(config, tmp_path / "out", backend.engine)
    (corrected,) = [row for row in read_rows(folder / "trajectories.jsonl", SFTRow) if row.source == "r1/mended/t"]
    assert [(message.role, message.trained) for message in corrected.messages] == [
        ("user", True), ("assistant", False), ("tool", True), ("assistant", True), ("tool", True), ("assistant", True),
    ]  # fmt: skip
    data = TreeDataConfig(path=folder)
    (tree,) = encode_sft([corrected], protocol, data, "final", Counter())
    branch = tree.branches[0]
    trained = protocol.text([int(token) for token, kept in zip(branch.ids, branch.loss_mask, strict=True) if kept])
    assert trained == OSLO + "400 members."


@pytest.mark.slow
def test_pairs_stand_where_a_good_sample_and_a_failing_call_part(
    config: TrajectoriesConfig, backend: ScriptedDialogs, protocol: Any, tmp_path: Path
) -> None:
    folder = build(config, tmp_path / "out", backend.engine)
    pairs = read_rows(folder / "preferences.jsonl", PreferenceRow)
    by_prompt: dict[str, list[PreferenceRow]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt[0].content, []).append(pair)
        assert all(len(completion) == 1 for completion in pair.completions), "one message against another"
        assert pair.prompt[-1].role != "assistant"
    members = by_prompt[QUESTIONS[0]]
    right = Message(role="assistant", tool_calls=called("members", town="Oslo"))
    assert {pair.chosen[0] for pair in members} == {right}
    assert {pair.rejected[0] for pair in members} == {
        Message(role="assistant", tool_calls=called("members", town="oslo")),
        Message(role="assistant", content=BROKEN),
    }
    fees = by_prompt[QUESTIONS[1]]
    assert {pair.rejected[0].tool_calls for pair in fees} == {called("fee", count="400"), called("fees", count=400)}
    for pair in fees:
        assert [message.role for message in pair.prompt] == ["user", "assistant", "tool"]
        assert pair.chosen[0].tool_calls == called("fee", count=400)
    (other,) = by_prompt[QUESTIONS[3]]
    assert other.chosen[0].content == "So be it."
    counts = read_data_manifest(folder / "preferences.jsonl")["counts"]
    assert (counts["read"], counts["rows"]) == (5, 5)


@pytest.mark.slow
def test_a_call_that_failed_too_is_no_better_message(config: TrajectoriesConfig, protocol: Any, tmp_path: Path) -> None:
    scripts = {name: [[BROKEN], [BROKEN]] for name in SCRIPTS}
    scripts["members of Oslo"] = [[LOWER, OSLO, "400 members."], [BROKEN]]
    two = config.model_copy(update={"samples": 2})
    folder = build(two, tmp_path / "out", ScriptedDialogs(protocol, scripts).engine)
    assert (folder / "preferences.jsonl").read_bytes() == b""
    # The corrected one counts as well: it failed, and no good sample of its prompt did better where it did.
    assert read_data_manifest(folder / "preferences.jsonl")["counts"]["dropped"] == {
        "no good sample": 6,
        "no good sample does better there": 2,
    }


@pytest.mark.slow
def test_every_trajectory_plays_back_without_a_tool(
    config: TrajectoriesConfig, backend: ScriptedDialogs, protocol: Any, tmp_path: Path
) -> None:
    folder = build(config, tmp_path / "out", backend.engine)
    (tmp_path / "lender.py").unlink()
    assert verify(folder) == 5
    records = {row.id: row for row in read_rows(folder / "records.jsonl", TrajectoryRecords)}
    rows = {row.id: row for row in read_rows(folder / "trajectories.jsonl", SFTRow)}
    assert records.keys() == rows.keys()
    one = next(row for row in rows.values() if row.source == "r1/multi-step/t")
    assert [record.text for record in records[one.id].records] == ["400", "1000.0"]

    def changed(**fields: Any) -> None:
        write_rows(
            folder / "trajectories.jsonl",
            [row.model_copy(update=fields) if row == one else row for row in rows.values()],
        )

    false = Message(role="tool", name="fee", content="999.0")
    changed(messages=(*one.messages[:4], false, *one.messages[5:]))
    with pytest.raises(ReplayError, match=rf"row {one.id}: the result of fee was '1000.0', is '999.0'"):
        verify(folder)
    changed(messages=(*one.messages[:3], one.messages[-1]))
    with pytest.raises(ReplayError, match=rf"row {one.id}, call 2: expected 2 calls, found 1; the next was fee"):
        verify(folder)
    other = Message(role="assistant", tool_calls=called("fee", count=401))
    changed(messages=(*one.messages[:3], other, *one.messages[4:]))
    with pytest.raises(ReplayError, match=rf"row {one.id}, call 2: fee: argument 'count': expected 400, found 401"):
        verify(folder)
    changed(id="another")
    with pytest.raises(ReplayError, match="row another: has no records of its calls"):
        verify(folder)


@pytest.mark.slow
def test_a_crash_loses_one_unit_and_the_rows_come_out_the_same(
    config: TrajectoriesConfig, protocol: Any, tmp_path: Path
) -> None:
    scripts = {name: samples for name, (_, samples) in SCRIPTS.items()}
    whole = build(config, tmp_path / "whole", ScriptedDialogs(protocol, scripts).engine)
    with pytest.raises(KeyboardInterrupt):
        build(config, tmp_path / "parts", ScriptedDialogs(protocol, scripts, stop_after=4).engine)
    assert [path.name for path in sorted((tmp_path / "parts" / "units").glob("unit*.jsonl"))] == ["unit-00000.jsonl"]
    resumed = ScriptedDialogs(protocol, scripts)
    parts = build(config, tmp_path / "parts", resumed.engine)
    assert resumed.started == list(SCRIPTS)[2:]
    for name in ("trajectories.jsonl", "records.jsonl", "preferences.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(ValueError, match="max_calls was 3 there, is 4 now"):
        build(config.model_copy(update={"max_calls": 4}), tmp_path / "parts", resumed.engine)


@pytest.mark.slow
def test_prompts_of_an_evaluation_are_not_asked(
    config: TrajectoriesConfig, backend: ScriptedDialogs, protocol: Any, tmp_path: Path
) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": QUESTIONS[0].upper()}) + "\n")
    held = config.model_copy(update={"evaluation": (tmp_path / "eval.jsonl",)})
    folder = build(held, tmp_path / "out", backend.engine)
    assert backend.started == list(SCRIPTS)[1:]
    prompts = read_data_manifest(folder / "trajectories.jsonl")["prompts"]
    assert prompts["dropped"] == {"matches an evaluation prompt": 1}


def test_a_run_in_which_nothing_ends_well_says_why(config: TrajectoriesConfig, protocol: Any, tmp_path: Path) -> None:
    hopeless = ScriptedDialogs(protocol, {name: [["It is ..."]] * 4 for name in SCRIPTS})
    with pytest.raises(RowError, match=r"no trajectory is left to train on: 0 rows \(16 dropped: 16 not finished\)"):
        build(config, tmp_path / "out", hopeless.engine)


@pytest.mark.slow
def test_the_model_of_the_config_is_loaded_and_sampled(
    config: TrajectoriesConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    sampling = SamplingConfig(max_completion_tokens=4, dtype="float32", threads=1)
    real = config.model_copy(update={"model": tiny_checkpoint, "sampling": sampling})
    with pytest.raises(RowError, match=r"no trajectory is left to train on: 0 rows \(16 dropped: .*not finished"):
        build(real, tmp_path / "out")
    units = sorted((tmp_path / "out" / "units").glob("unit-*.jsonl"))
    said = [row for path in units for row in read_unit(path, SampledTrajectory)]
    assert len({each.messages[0].content for each in said}) > 8, "samples of a prompt have seeds of their own"
    assert len({each.seed for each in said}) == 16


def test_a_prompt_is_offered_its_own_functions_alone_under_the_system_message(
    config: TrajectoriesConfig, protocol: Any, tmp_path: Path
) -> None:
    spec = json.dumps([{"name": "fee", "description": "The fee.", "parameters": {"type": "object", "properties": {}}}])
    asked = Message(role="user", content="A fee?")
    own = Message(role="system", content="Be brief.")
    rows = [
        ToolQuestionRow(id="a", source="t", tools=spec, prompt=(asked,)),
        ToolQuestionRow(id="b", source="t", prompt=(own, asked)),
    ]
    write_rows(tmp_path / "prompts.jsonl", rows)
    environment = EnvironmentConfig(ipython=False, today="1 May 2024", instructions="Be kind.")
    changed = config.model_copy(update={"environment": environment, "samples": 1})
    script = ScriptedDialogs(protocol, {"A fee?": [[OSLO, FEE, "Done."]]})
    folder = build(changed, tmp_path / "out", script.engine)
    found = {row.messages[0].content: row for row in read_rows(folder / "trajectories.jsonl", SFTRow)}
    corrected, plain = found["Today Date: 1 May 2024\n\nBe kind."], found["Today Date: 1 May 2024\n\nBe brief."]
    assert corrected.tools == spec
    assert "there is no function 'members'. Functions: fee." in corrected.messages[3].content
    assert [tool.name for tool in tools_of(plain.tools)] == ["members", "fee"]


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"tools": {}}, "expected tools.built_in, tools.functions or interpreter, found no tool"),
        ({"environment": {"built_in": ["brave_search"]}}, "turns on brave_search, which tools.built_in does not name"),
    ],
)
def test_a_config_that_offers_nothing_or_what_is_not_there_is_refused(
    config: TrajectoriesConfig, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        TrajectoriesConfig.model_validate(config.model_dump() | changed)


def test_the_environment_of_llama_is_refused_under_another_protocol(
    config: TrajectoriesConfig, backend: ScriptedDialogs, protocol: Any, tmp_path: Path
) -> None:
    changed = config.model_copy(update={"environment": EnvironmentConfig()})
    with pytest.raises(ConfigError, match="ipython: is for Llama 3's system message, and the chat protocol is chatml"):
        build(changed, tmp_path / "out", backend.engine)


@pytest.mark.slow
def test_code_runs_in_a_sandbox_that_each_dialog_has_to_itself(
    config: TrajectoriesConfig, llama3_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    try:
        Sandbox.probe()
    except SandboxError as error:
        pytest.skip(str(error))
    protocol = load_protocol(llama3_tokenizer)
    rows = [ToolQuestionRow(id="a", source="t", prompt=(Message(role="user", content="Ask it"),), answers=("49",))]
    write_rows(tmp_path / "prompts.jsonl", rows)
    environment = EnvironmentConfig()
    changed = config.model_copy(
        update={
            "interpreter": True,
            "environment": environment,
            "samples": 3,
            "sandbox": SandboxLimits(seconds=1),
            "max_calls": 4,
        }
    )
    scripts = {
        "Ask it": [
            ["<|python_tag|>x = 7<|eom_id|>", "<|python_tag|>x * x<|eom_id|>", "It is 49."],
            ["<|python_tag|>x + 0<|eom_id|>", "<|python_tag|>7 ** 2<|eom_id|>", "So 49."],
            ["<|python_tag|>while True: pass<|eom_id|>", "<|python_tag|>7 * 7<|eom_id|>", "Then 49."],
        ]
    }
    folder = build(changed, tmp_path / "out", ScriptedDialogs(protocol, scripts).engine)
    rows_by_end = {row.messages[-1].content: row for row in read_rows(folder / "trajectories.jsonl", SFTRow)}
    assert {end: row.source for end, row in rows_by_end.items()} == {
        "It is 49.": "r1/multi-step/t",
        "So 49.": "r1/mended/t",
        "Then 49.": "r1/mended/t",
    }
    plain = rows_by_end["It is 49."]
    assert plain.messages[0].content == "Environment: ipython"
    assert [tool.name for tool in tools_of(plain.tools)] == ["members", "fee"], "the line offers the interpreter"
    assert plain.messages[5].content == "completed\n[value]49[/value]"
    assert "NameError: name 'x' is not defined" in rows_by_end["So 49."].messages[3].content, "x is another dialog's"
    assert verify(folder) == 3
