"""Dialogs sampled from tasks: rows that play back, pairs whose chosen side is what took place, and a suite held out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from align.assets import path_of
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rows import Message, PreferenceRow, SFTRow, ToolQuestionRow, tools_of, tools_text
from align.source_code import code_of
from align.text import exact_key
from align.tools.catalog import ToolsConfig, make_registry
from align.tools.registry import Registry, load_functions
from align.tools.replay import CallRecord, Recorder, Replay, ReplayError, differences
from data_builders.row_contents import prompt_keys
from data_builders.tool_use import template_rows
from data_builders.tool_use.dialogs.catalog import domain_files, load_domains
from data_builders.tool_use.dialogs.dialog import DialogSource, ExecutedDialog
from data_builders.tool_use.dialogs.dialog_kinds import KINDS, make_dialog
from data_builders.tool_use.dialogs.renaming import name_key
from data_builders.tool_use.dialogs.task import Chain, Domain, Task
from data_builders.tool_use.template_rows import without_similar_tasks
from data_builders.tool_use.templates import ToolTemplatesConfig, build

ROOT = Path(__file__).parents[3]
HELD = tuple(ROOT / "data_builders" / "tool_use" / "domains" / f"{name}.py" for name in ("household", "school"))
ROWS = {kind: 8 for kind in KINDS if kind not in ("file", "code")} | {"mended": 12}  # those two have tests of their own
SMALL: dict[str, Any] = {
    "rows": ROWS,
    "heldout_rows": {"single": 12, "multi-step": 10, "none-right": 8},
    "pairs": {"single": 80, "multi-step": 20, "parallel": 20, "none-right": 40},
    "seed": 5,
}
SPOILED = {"other value", "argument left out", "argument made up", "argument misnamed", "number as text"}
FILES = ("tools", "tools.records", "tools.preferences", "tools.heldout", "tools.dialogs")


@dataclass
class Built:
    """A build, and the dialogs that took place for it, with the functions that were really offered."""

    folder: Path
    executed: list[ExecutedDialog] = field(default_factory=list)

    @property
    def train(self) -> list[SFTRow]:
        return read_rows(self.folder / "tools.jsonl", SFTRow)

    @property
    def pairs(self) -> list[PreferenceRow]:
        return read_rows(self.folder / "tools.preferences.jsonl", PreferenceRow)

    @property
    def heldout(self) -> list[SFTRow]:
        return read_rows(self.folder / "tools.heldout.jsonl", SFTRow)

    @property
    def dialogs(self) -> list[ToolQuestionRow]:
        return read_rows(self.folder / "tools.dialogs.jsonl", ToolQuestionRow)

    @property
    def records(self) -> dict[str, list[CallRecord]]:
        lines = (self.folder / "tools.records.jsonl").read_text(encoding="utf-8").splitlines()
        found = map(json.loads, lines)
        return {line["id"]: [CallRecord.model_validate(record) for record in line["records"]] for line in found}

    def of_kind(self, kind: str) -> list[SFTRow]:
        return [row for row in self.train if row.source == f"tasks/{kind}"]

    def dialog_of(self, row: SFTRow | PreferenceRow) -> ExecutedDialog:
        """The dialog that a row was made of: the same functions offered, and the row's messages are its first ones."""
        messages = row.messages if isinstance(row, SFTRow) else (*row.prompt, *row.completions[0])
        (found, *_) = [
            dialog
            for dialog in self.executed
            if tools_text(list(dialog.tools)) == row.tools and dialog.messages[: len(messages)] == messages
        ]
        return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    found = Built(tmp_path_factory.mktemp("built"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_rows, "make_dialog", lambda *given: _kept(make_dialog(*given), found.executed))
        build(ToolTemplatesConfig(**SMALL), found.folder)
    return found


def _kept(dialog: ExecutedDialog | None, into: list[ExecutedDialog]) -> ExecutedDialog | None:
    if dialog is not None:
        into.append(dialog)
    return dialog


def held_out_tools() -> Registry:
    return make_registry(ToolsConfig(functions=HELD))


def calls_of(row: SFTRow) -> list[tuple[int, int]]:
    """(place of a message, how many calls it makes), for messages that make some."""
    return [(place, len(message.tool_calls)) for place, message in enumerate(row.messages) if message.tool_calls]


# Rows to train on


@pytest.mark.slow
def test_every_kind_is_there_as_often_as_asked_and_what_is_missing_is_counted(built: Built) -> None:
    counts = read_data_manifest(built.folder / "tools.jsonl")["counts"]
    found = Counter(row.source.removeprefix("tasks/") for row in built.train)
    assert set(found) == set(ROWS)
    assert sum(ROWS.values()) == len(built.train) + counts["dropped"].get("duplicate", 0) == counts["read"]
    assert set(counts["dropped"]) <= {"duplicate"}, "a call failed that should have gone well"
    assert all(found[kind] == ROWS[kind] for kind in ROWS if kind not in ("restraint", "tools-off"))


@pytest.mark.slow
def test_two_builds_of_a_seed_are_the_same_bytes_in_another_process_and_with_other_hashes(
    built: Built, tmp_path: Path
) -> None:
    code = (
        "import json, sys; from pathlib import Path; "
        "from data_builders.tool_use.templates import ToolTemplatesConfig, build; "
        "build(ToolTemplatesConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    again = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code, json.dumps(SMALL), str(tmp_path)], env=again, check=True, timeout=120)
    for name in FILES:
        first, second = (folder / f"{name}.jsonl" for folder in (built.folder, tmp_path))
        assert first.stat().st_size > 1000
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.slow
def test_another_seed_gives_other_dialogs(built: Built, tmp_path: Path) -> None:
    small = SMALL | {"rows": {"single": 10}, "heldout_rows": {"single": 4}, "pairs": {}}
    first, second = (
        read_rows(build(ToolTemplatesConfig(**small | {"seed": seed}), tmp_path / str(seed)) / "tools.jsonl", SFTRow)
        for seed in (1, 2)
    )
    assert {row.id for row in first}.isdisjoint(row.id for row in second)


@pytest.mark.slow
def test_the_calls_of_a_row_are_its_records_and_play_back(built: Built) -> None:
    records = built.records
    assert list(records) == [row.id for row in built.train]
    called = 0
    for row in built.train:
        replay = Replay(records[row.id], row.id)
        messages = iter(row.messages)
        for message in messages:
            for call in message.tool_calls:
                answered = next(messages)
                assert (answered.role, answered.name) == ("tool", call.name)
                assert replay.call(call).text == answered.content
                called += 1
        replay.end()
    assert called > 60
    with pytest.raises(ReplayError, match="expected"):
        Replay(next(iter(filter(None, records.values()))), "other").call(built.pairs[0].completions[1][0].tool_calls[0])


@pytest.mark.slow
def test_the_records_come_out_again_when_the_functions_run_again(built: Built) -> None:
    for row in built.train:
        tools = Registry(each.tool for each in built.dialog_of(row).offered)
        assert differences(built.records[row.id], tools) == []


def test_functions_are_offered_as_asked_and_every_call_is_of_one_of_them(built: Built) -> None:
    for row in built.train:
        offered = [tool.name for tool in tools_of(row.tools)] if row.tools else []
        assert len(offered) == len(set(offered)) <= 3
        assert {call.name for message in row.messages for call in message.tool_calls} <= set(offered)
        assert row.messages[-1].role == "assistant"
        assert row.messages[-1].content
        assert not row.messages[-1].tool_calls


def test_single_rows_hold_one_call_and_parallel_rows_several_in_one_message(built: Built) -> None:
    assert all([count for _, count in calls_of(row)] == [1] for row in built.of_kind("single"))
    for row in built.of_kind("parallel"):
        ((place, count),) = calls_of(row)
        assert count >= 2
        assert [message.role for message in row.messages[place + 1 :]] == ["tool"] * count + ["assistant"]
        assert len({(call.name, call.arguments) for call in row.messages[place].tool_calls}) == count


def test_the_second_call_of_a_multi_step_row_takes_what_the_first_gave(built: Built) -> None:
    for row in built.of_kind("multi-step"):
        (first, _), (second, _) = calls_of(row)
        given = _value(row.messages[first + 1].content)
        options = list(given.values()) if isinstance(given, dict) else [given]
        taken = row.messages[second].tool_calls[0].parsed().values()
        assert any(value == option for value in taken for option in options), row.id


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_a_mended_row_is_a_refused_call_of_the_users_word_and_then_a_right_one(built: Built) -> None:
    for row in built.of_kind("mended"):
        assert [record.ok for record in built.records[row.id]] == [False, True]
        (first, _), (second, _) = calls_of(row)
        wrong, right = (row.messages[place].tool_calls[0] for place in (first, second))
        assert row.messages[first + 1].content.startswith("Error: ")
        changed = {key for key in wrong.parsed() if wrong.parsed()[key] != right.parsed()[key]}
        assert wrong.name == right.name
        assert wrong.parsed().keys() == right.parsed().keys()
        assert len(changed) == 1
        (user,) = (message.content for message in row.messages if message.role == "user")
        assert str(wrong.parsed()[changed.pop()]) in user, "the call says what the user said"
        assert all(message.trained for message in row.messages), "what the user said is the right first try"


def test_dialog_rows_have_several_turns(built: Built) -> None:
    for row in built.of_kind("dialog"):
        assert sum(message.role == "user" for message in row.messages) >= 2
        assert calls_of(row)


def test_no_call_is_made_where_none_is_due(built: Built) -> None:
    for kind in ("none-right", "restraint", "tools-off"):
        rows = built.of_kind(kind)
        assert rows
        for row in rows:
            assert calls_of(row) == []
            assert built.records[row.id] == []
            assert bool(row.tools) == (kind != "tools-off")


@pytest.mark.slow
def test_long_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    small = {"rows": {"single": 20}, "heldout_rows": {"single": 4}, "max_characters": 1200}
    rows = read_rows(build(ToolTemplatesConfig(**small), tmp_path) / "tools.jsonl", SFTRow)
    counts = read_data_manifest(tmp_path / "tools.jsonl")["counts"]
    assert 0 < len(rows) == 20 - counts["dropped"]["over max_characters"]
    assert all(len(row.tools) + sum(len(message.content) for message in row.messages) <= 1200 for row in rows)


@pytest.mark.slow
def test_rows_that_match_an_evaluation_are_dropped_and_counted(built: Built, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    asked = [row.messages[:-1] for row in built.of_kind("single")[:3]]
    lines = [json.dumps({"prompt": [message.model_dump() for message in prompt]}) for prompt in asked]
    evaluation.write_text("\n".join(lines), encoding="utf-8")
    config = ToolTemplatesConfig(**SMALL | {"pairs": {}, "evaluation": (evaluation,)})
    rows = read_rows(build(config, tmp_path / "out") / "tools.jsonl", SFTRow)
    gone = {row.id for row in built.train} - {row.id for row in rows}
    assert {row.id for row in built.of_kind("single")[:3]} <= gone
    assert (
        read_data_manifest(tmp_path / "out" / "tools.jsonl")["counts"]["dropped"]["matches an evaluation prompt"] == 3
    )


# What must not be trained on


@pytest.mark.slow
def test_no_function_of_a_held_out_domain_is_offered_or_called_in_training(built: Built) -> None:
    held = [tool for path in HELD for tool in load_functions(path)]
    identities = {tool.identity for tool in held}
    rows = [*built.train, *built.pairs]
    offered = {each.tool.identity for row in rows for each in built.dialog_of(row).offered}
    assert len(offered) > 60
    assert identities.isdisjoint(offered)
    assert identities.isdisjoint(record.tool for found in built.records.values() for record in found)
    described = {tool.spec.description for tool in held}  # renaming leaves the first line as it is
    assert described.isdisjoint(tool.description for row in rows if row.tools for tool in tools_of(row.tools))


def test_the_suite_offers_functions_of_the_held_out_domain_alone_and_as_they_are(built: Built) -> None:
    real = {tool.spec.name: tool.spec for path in HELD for tool in load_functions(path)}
    rows = [*built.heldout, *built.dialogs]
    assert {row.source.split("/")[1] for row in rows} == {"single", "multi-step", "none-right"}
    assert {row.source.split("/")[2] for row in built.dialogs} == {"household", "school"}
    for row in rows:
        assert all(tool == real[tool.name] for tool in tools_of(row.tools))


def test_no_prompt_of_the_suite_is_trained_on(built: Built) -> None:
    asked = set().union(*(prompt_keys(row) for row in [*built.heldout, *built.dialogs]))
    assert all(asked.isdisjoint(prompt_keys(row)) for row in [*built.train, *built.pairs])


@pytest.mark.slow
@pytest.mark.asset("bfcl-eval")
def test_without_bfcl_no_function_of_its_raw_files_is_offered_and_no_question_of_it_is_asked(tmp_path: Path) -> None:
    data = path_of("bfcl-eval") / "bfcl_eval" / "data"
    texts = [path.read_text(encoding="utf-8") for path in (*data.glob("*.json"), *data.glob("multi_turn_func_doc/*"))]
    names = {name for text in texts for name in re.findall(r'"name"\s*:\s*"([^"]+)"', text)}
    said = [found for text in texts for found in re.findall(r'"content"\s*:\s*"((?:[^"\\]|\\.)+)"', text)]
    asked = {json.loads(f'"{text}"') for text in said}
    assert len(names) > 1000
    assert len(asked) > 1000
    keys, questions = {name_key(name) for name in names}, {exact_key(said) for said in asked}
    config = ToolTemplatesConfig(**SMALL | {"rows": {"single": 120, "none-right": 40}, "without_bfcl": True})
    folder = build(config, tmp_path)
    rows: list[SFTRow | PreferenceRow] = [
        *read_rows(folder / "tools.jsonl", SFTRow),
        *read_rows(folder / "tools.preferences.jsonl", PreferenceRow),
    ]
    assert len(rows) > 250
    for row in rows:
        assert keys.isdisjoint(name_key(tool.name) for tool in tools_of(row.tools)), row.tools
        messages = row.messages if isinstance(row, SFTRow) else row.prompt
        assert questions.isdisjoint(exact_key(message.content) for message in messages if message.role == "user")
    counts = read_data_manifest(folder / "tools.jsonl")["counts"]
    assert counts["dropped"]["offers a function of an evaluation"] > 0, "the check met nothing to drop"


@pytest.mark.parametrize(
    "held, words",
    [
        (("household", "gardens"), r"heldout_domains: expected some of algebra, .*, found gardens"),
        (tuple(domain_files()), "heldout_domains names every domain, so none is left to train on"),
    ],
)
def test_held_out_domains_that_are_not_there_or_all_there_are_refused(held: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ToolTemplatesConfig(heldout_domains=held)


# Pairs


def test_a_pair_is_two_different_messages_after_the_same_words_and_no_tool_output_is_in_them(built: Built) -> None:
    assert len(built.pairs) == sum(SMALL["pairs"].values())
    assert sum(row.source == "tasks/needless call" for row in built.pairs) == SMALL["pairs"]["none-right"]
    for row in built.pairs:
        chosen, rejected = row.completions
        assert [message.role for message in (*chosen, *rejected)] == ["assistant", "assistant"]
        assert _said(chosen[0]) != _said(rejected[0])
        assert row.prompt[-1].role in ("user", "tool")


def _said(message: Message) -> tuple[str, list[tuple[str, str]]]:
    calls = [(call.name, json.dumps(call.parsed(), sort_keys=True)) for call in message.tool_calls]
    return message.content, calls


@pytest.mark.slow
def test_the_chosen_message_is_what_the_dialog_did_and_its_calls_run(built: Built) -> None:
    ran = 0
    for row in built.pairs:
        dialog = built.dialog_of(row)  # found by the prompt with the chosen message after it
        (chosen,) = row.completions[0]
        recorder = Recorder(Registry(each.tool for each in dialog.offered))
        outputs = dialog.messages[len(row.prompt) + 1 :]
        for call, output in zip(chosen.tool_calls, outputs, strict=False):
            result = recorder.call(call)
            assert result.ok, result.text
            assert result.text == output.content
            ran += 1
    assert ran > 80


def test_every_kind_of_spoiling_occurs_and_spoils_what_it_says(built: Built) -> None:
    kinds = Counter(row.source.removeprefix("tasks/") for row in built.pairs)
    assert set(kinds) == SPOILED | {"no call", "wrong function", "needless call"}
    for row in built.pairs:
        kind = row.source.removeprefix("tasks/")
        ((chosen,), (rejected,)) = row.completions
        if kind == "needless call":
            assert not chosen.tool_calls
            assert rejected.tool_calls
            continue
        if kind == "no call":
            assert chosen.tool_calls
            assert not rejected.tool_calls
            continue
        ((right, wrong),) = [
            (right, wrong)
            for right, wrong in zip(chosen.tool_calls, rejected.tool_calls, strict=True)
            if (right.name, right.parsed()) != (wrong.name, wrong.parsed())
        ]
        before, after = right.parsed(), wrong.parsed()
        assert (right.name != wrong.name) == (kind == "wrong function")
        if kind == "wrong function":
            assert before == after
        elif kind == "argument left out":
            assert after.items() <= before.items()
            assert len(after) == len(before) - 1
        elif kind == "argument made up":
            assert before.items() <= after.items()
            assert len(after) == len(before) + 1
        elif kind == "argument misnamed":
            assert list(map(repr, before.values())) == list(map(repr, after.values()))
            assert len(before.keys() ^ after.keys()) == 2
        else:
            (changed,) = (key for key in before if repr(before[key]) != repr(after[key]))
            assert before.keys() == after.keys()
            assert (kind == "number as text") == (after[changed] == str(before[changed]))


@pytest.mark.slow
def test_a_misnamed_argument_and_a_number_as_text_are_refused_when_they_run(built: Built) -> None:
    for row in built.pairs:
        if row.source.removeprefix("tasks/") in ("argument misnamed", "number as text"):
            tools = Registry(each.tool for each in built.dialog_of(row).offered)
            errors = [tools.call(call).error for call in row.completions[1][0].tool_calls]
            assert "arguments" in errors, row.completions[1]


@pytest.mark.slow
def test_a_rejected_call_never_gives_what_the_chosen_one_gives(built: Built) -> None:
    compared = 0
    for row in built.pairs:
        dialog = built.dialog_of(row)
        (chosen,), (rejected,) = row.completions
        if row.source == "tasks/wrong function" or not (chosen.tool_calls and rejected.tool_calls):
            continue
        tools = Registry(each.tool for each in dialog.offered)
        results = [tuple(tools.call(call).text for call in said.tool_calls) for said in (chosen, rejected)]
        assert results[0] != results[1], row
        compared += 1
    assert compared > 50


# The suite


def test_the_calls_of_the_suites_dialogs_give_their_answers_over_the_functions_of_the_file(built: Built) -> None:
    tools = held_out_tools()
    answered = 0
    for row in built.dialogs:
        results = [tools.call(call) for call in row.calls or ()]
        assert all(result.ok for result in results)
        assert [message.role for message in row.prompt if message.role != "system"] == ["user"]
        kind = row.source.split("/")[1]
        if kind == "none-right":
            assert row.calls == ()
            assert row.answers == ()
        else:
            assert len(results) == (2 if kind == "multi-step" else 1)
            shown_as_object = results[-1].text.startswith(("{", "["))
            assert row.answers == (() if shown_as_object else (results[-1].text,))
            answered += not shown_as_object
    assert answered > 10


def test_single_messages_of_the_suite_end_with_the_first_reply(built: Built) -> None:
    for row in built.heldout:
        assert [message.role for message in row.messages if message.role != "system"] == ["user", "assistant"]
        assert bool(row.messages[-1].tool_calls) == (row.source == "tasks/single")


def test_a_held_out_task_that_a_trained_domain_comes_near_is_left_out_with_its_chains() -> None:
    def by_name(price: float) -> float:
        """A price."""
        return price

    def by_parameters(room_length: float, room_width: float, ceiling_height: float, paint: str) -> float:
        """A room."""
        return room_length

    def other(amount: float, town: str) -> float:
        """Another thing."""
        return amount

    def trained(room_length: float, room_width: float, ceiling_height: float) -> float:
        """A room too."""
        return room_length

    def task(function: Callable[..., float], *names: str) -> Task:
        return Task(function, arguments={}, queries=(), answers=(), other_names=names)

    chains = tuple(Chain(first, other, "amount", (), (), ()) for first in (by_name, by_parameters, other))
    held = Domain("held", (task(by_name, "get_shop_price"), task(by_parameters), task(other)), chains)
    left = without_similar_tasks(held, [Domain("trained", (task(trained, "shops.shop_price"),), ())])
    assert [each.function for each in left.tasks] == [other]
    assert [chain.first for chain in left.chains] == [other]
    assert without_similar_tasks(held, []) == held


@pytest.mark.slow
def test_a_text_of_digits_is_passed_on_as_a_text() -> None:
    (texts,) = load_domains(["text_tools"])
    padding = tuple(chain for chain in texts.chains if chain.result_to == "code")
    source = DialogSource([Domain("text_tools", texts.tasks, padding)], most_offered=3, renamed_ratio=0.0)
    dialog = [make_dialog("multi-step", source, random.Random(seed)) for seed in range(40)]  # a number would be refused
    fed = [found.records[-1].call.parsed()["code"] for found in dialog if found is not None]
    assert all(isinstance(code, str) for code in fed)
    assert any(code.isdigit() for code in fed)


# Bytes


SAMPLED_KINDS = ("single", "parallel", "multi-step", "mended", "dialog", "none-right", "restraint", "tools-off")


@pytest.mark.slow
def test_seeded_dialogs_of_every_domain_keep_their_bytes() -> None:
    """The order of entries in a YAML file is the order of the draws. Editing a domain changes this hash on purpose."""
    source = DialogSource(load_domains(), most_offered=3, renamed_ratio=0.8, alone_ratio=0.3)
    digest = hashlib.sha256()
    for kind in SAMPLED_KINDS:
        for number in range(15):
            dialog = make_dialog(kind, source, random.Random(f"{kind} {number}"))
            if dialog is not None:
                said = [[message.role, message.content] for message in dialog.messages]
                calls = [[call.name, call.arguments] for message in dialog.messages for call in message.tool_calls]
                digest.update(json.dumps([said, calls, tools_text(list(dialog.tools))]).encode())
    for domain in load_domains():
        alone = DialogSource([domain], most_offered=2, renamed_ratio=0.0)
        for number in range(3):
            dialog = make_dialog("single", alone, random.Random(f"{domain.name} {number}"))
            assert dialog is not None
            digest.update(json.dumps([message.content for message in dialog.messages]).encode())
    assert digest.hexdigest() == "5871d056843150779ab4d363d353b5e3a13516a4a6b7a5653470be254e9525d1"


@pytest.mark.slow
def test_the_files_of_every_domain_count_in_the_key_of_the_builder() -> None:
    names = code_of("data_builders.tool_use.templates").keys()
    folder = "data_builders/tool_use/domains"
    for name in domain_files():
        assert {f"{folder}/{name}.py", f"{folder}/{name}.yaml"} <= names
    dialogs = "data_builders/tool_use/dialogs"
    assert {f"{dialogs}/code.yaml", f"{dialogs}/file_kinds.yaml"} <= names


# Domains of a user's own


@pytest.mark.slow
def test_domains_of_an_own_folder_replace_the_packaged_ones(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "shop.py").write_text(SHOP, encoding="utf-8")
    (folder / "shop.yaml").write_text(SHOP_YAML, encoding="utf-8")
    config = ToolTemplatesConfig(
        domain_folders=(folder,), heldout_domains=(), heldout_rows={}, rows={"single": 12}, pairs={"single": 5}
    )
    out = build(config, tmp_path / "out")
    rows = read_rows(out / "tools.jsonl", SFTRow)
    assert rows
    assert all("pieces cost" in row.messages[-1].content for row in rows)
    inputs = read_data_manifest(out / "tools.jsonl")["inputs"]
    assert {Path(name).name for name in inputs} == {"shop.py", "shop.yaml"}


SHOP = '''def price(item: str, pieces: int) -> float:
    """Price of some pieces.

    Args:
        item: What is bought.
        pieces: How many of it.
    """
    return 2.5 * pieces
'''
SHOP_YAML = """\
tasks:
  price:
    arguments:
      item: {one_of: [pens, cups, maps, rulers, clips]}
      pieces: {whole: [2, 90]}
    queries: ["What do {pieces} {item} cost?"]
    answers: ["{pieces} pieces cost {result}."]
"""


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "heldout_domains: expected some of shop, found household, school"),
        ({"heldout_domains": ()}, "heldout_rows requires heldout_domains"),
        ({"heldout_domains": ("shop",)}, "heldout_domains names every domain"),
    ],
)
def test_an_own_folder_requires_held_out_domains_of_its_own(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    (tmp_path / "shop.yaml").write_text(SHOP_YAML, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ToolTemplatesConfig(domain_folders=(tmp_path,), **settings)


def test_a_file_without_its_partner_is_named_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    with pytest.raises(ValueError, match=r"shop.py: a domain is a pair of files, and shop.yaml is missing"):
        ToolTemplatesConfig(domain_folders=(tmp_path,))
