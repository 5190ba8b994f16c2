"""BFCL: its own right answers pass through our pipeline, wrong ones fail for the right reason, silence is earned."""

from __future__ import annotations

import json
import random
import re
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from align.assets import path_of
from align.chat.calls import CallSyntax, parse_calls, render_calls
from align.errors import AssetError, RowError
from align.formats.bfcl import (
    DATA,
    JSON_TYPES,
    first_answer,
    function_names,
    prompt_fields,
    question_texts,
    read_records,
)
from align.rows import Candidate, Message, PromptRow, ToolCall, tools_of
from align.settings import ModelConfig, SamplingConfig
from eval import bfcl
from eval.bfcl import BFCLConfig, BFCLSection, Case, Checker, judge, load_checker, read_cases
from eval.catalog import run_evaluations
from eval.intervals import share

ANSWERED: dict[BFCLSection, int] = {"simple_python": 400, "multiple": 200, "parallel": 200}
SCHEMA_TYPES = {"string", "integer", "number", "boolean", "array", "object"}

BOOK = {
    "name": "table.book",
    "description": "Book a table.",
    "parameters": {
        "type": "dict",
        "properties": {
            "guest": {"type": "string", "description": "Who comes."},
            "seats": {"type": "integer", "description": "How many."},
            "deposit": {"type": "float", "description": "In euros."},
            "outdoors": {"type": "boolean", "description": "Under the sky."},
            "dishes": {"type": "array", "items": {"type": "string"}},
            "address": {"type": "dict", "properties": {"type": {"type": "string"}, "floor": {"type": "integer"}}},
            "hosts": {"type": "array", "items": {"type": "dict", "properties": {"age": {"type": "any"}}}},
            "corner": {"type": "tuple", "items": {"type": "float"}},
        },
        "required": ["guest", "seats"],
    },
}
RIGHT = {"guest": "Ada", "seats": 4, "deposit": 5, "dishes": ["soup"], "address": {"type": "home"}}
POSSIBLE = {
    "guest": ["Ada", "Ada L."],
    "seats": [4],
    "deposit": [5.0],
    "outdoors": ["", False],
    "dishes": [["soup"], ["Soup", "bread"]],
    "address": [{"type": ["home", "flat"], "floor": ["", 2]}],
    "hosts": ["", [{"age": [3]}]],
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return path_of("bfcl-eval")


@pytest.fixture(scope="module")
def check(folder: Path) -> Checker:
    return load_checker(folder)


def case_of(section: BFCLSection, *possible: dict[str, Any], functions: Sequence[dict[str, Any]] = (BOOK,)) -> Case:
    fields = prompt_fields({"question": [[{"role": "user", "content": "?"}]], "function": list(functions)}, "here")
    return Case(section, PromptRow(id=f"{section}_0", source="test", **fields), list(functions), list(possible))


def calling(*calls: tuple[str, dict[str, Any]]) -> Message:
    made = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in calls)  # type: ignore[arg-type]
    return Message(role="assistant", tool_calls=made)


def fullest(case: Case) -> list[dict[str, Any]]:
    """The calls with every argument given, also those that may be left out; another road than `first_answer`."""

    def value(option: Any) -> Any:
        if isinstance(option, dict):
            chosen = {key: next((each for each in options if each != ""), None) for key, options in option.items()}
            return {key: value(each) for key, each in chosen.items() if each is not None}
        return [value(each) for each in option] if isinstance(option, list) else option

    made = []
    for call in case.possible_answers:
        ((name, arguments),) = call.items()
        given = {key: [option for option in options if option != ""] for key, options in arguments.items()}
        made.append({"name": name, "arguments": {key: value(options[0]) for key, options in given.items() if options}})
    return made


def written_and_read(calls: Sequence[dict[str, Any]], syntax: CallSyntax) -> Message:
    """The calls as a model writes them in `syntax`, and as they are read from its text."""
    made = [ToolCall(**call) for call in calls]
    found = parse_calls(render_calls(made, syntax), syntax)
    assert len(found.calls) == len(made)
    return Message(role="assistant", content=found.text, tool_calls=found.calls)


class Answering:
    """A generator that answers from a function."""

    def __init__(self, answer: Callable[[str], Message]) -> None:
        self.answer = answer

    def answers(self, prompts: Sequence[PromptRow], units: Path, label: str) -> list[Candidate]:
        shared: dict[str, Any] = {"source": "test", "index": 0, "seed": 0, "finished": True}
        return [
            Candidate(id=row.id, prompt_id=row.id, prompt=row.prompt, completion=(self.answer(row.id),), **shared)
            for row in prompts
        ]


# The official data


@pytest.mark.slow
@pytest.mark.asset("bfcl-eval")
@pytest.mark.parametrize("syntax", ["hermes", "python_list"])
@pytest.mark.parametrize("section, rows", ANSWERED.items())
def test_every_official_answer_is_right(
    folder: Path, check: Checker, section: BFCLSection, rows: int, syntax: CallSyntax
) -> None:
    """Both with the arguments that may be left out, and without them. None of upstream's 800 answers fails."""
    cases = read_cases(folder, section)
    assert len(cases) == rows
    for case in cases:
        shortest = first_answer(case.possible_answers, case.functions, case.prompt.id)
        for calls in (shortest, fullest(case)):
            judged = judge(case, written_and_read(calls, syntax), check)
            assert judged.verdict == "right", (case.prompt.id, judged)


@pytest.mark.asset("bfcl-eval")
def test_a_wrong_value_or_name_in_an_official_answer_is_never_right(folder: Path, check: Checker) -> None:
    """And whatever a model writes for a value, the checker's verdict comes back."""
    rng = random.Random(0)
    strange = ["no such value", -987654, None, [], {}, [[1]], [{"a": 1}], {"a": {"b": [None]}}, [1, "a"], 1e300, True]
    verdicts: Counter[str] = Counter()
    for section in ANSWERED:
        for case in read_cases(folder, section):
            calls = [
                (call["name"], json.loads(call["arguments"]))
                for call in first_answer(case.possible_answers, case.functions, "")
            ]
            name, arguments = calls[0]
            judged = judge(case, calling((name + "_", arguments), *calls[1:]), check)
            assert judged.verdict == "wrong function", (case.prompt.id, judged)
            for key, options in case.possible_answers[0][name].items():
                given = rng.choice([each for each in strange if each not in options])
                judged = judge(case, calling((name, arguments | {key: given}), *calls[1:]), check)
                verdicts[judged.verdict] += 1
                # An empty list passes for one that may be left out.
                empty = given == [] and "" in options
                assert judged.verdict == "wrong arguments" or empty, (case.prompt.id, key, given, judged)
                assert judged.verdict == "right" or (judged.error_type and judged.error)
    assert verdicts["wrong arguments"] > 1500


@pytest.mark.asset("bfcl-eval")
def test_the_prompt_offers_each_function_with_a_json_schema(folder: Path) -> None:
    def types(schema: dict[str, Any]) -> list[str]:
        inside = [schema["items"]] if isinstance(schema.get("items"), dict) else []
        inside += schema.get("properties", {}).values()
        return [schema["type"], *(found for each in inside for found in types(each))]

    rows = 0
    for section in (*ANSWERED, "irrelevance"):
        for case in read_cases(folder, section):  # type: ignore[arg-type]
            rows += 1
            tools = tools_of(case.prompt.tools)
            assert [tool.name for tool in tools] == [function["name"] for function in case.functions]
            assert [message.role for message in case.prompt.prompt] == ["user"]
            for tool, function in zip(tools, case.functions, strict=True):
                assert set(types(tool.parameters)) <= SCHEMA_TYPES
                assert tool.parameters["properties"].keys() == function["parameters"]["properties"].keys()
                assert tool.parameters["required"] == function["parameters"]["required"]
    assert rows == 1040


@pytest.mark.asset("bfcl-eval")
def test_types_are_translated_as_bfcl_does(folder: Path) -> None:
    assert runpy.run_path(str(folder / "bfcl_eval/constants/type_mappings.py"))["GORILLA_TO_OPENAPI"] == JSON_TYPES


@pytest.mark.slow
@pytest.mark.asset("bfcl-eval")
def test_names_and_questions_of_all_sections_are_found(folder: Path) -> None:
    """Against the files as text: functions begin with a name and a description; a message is a role and a content."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((folder / DATA).rglob("*.json")))
    written = {json.loads(found) for found in re.findall(r'\{"name": ("(?:[^"\\]|\\.)*"), "description"', text)}
    names = function_names(folder)
    assert written == names
    assert len(names) > 1900
    answers = (read_records(folder / DATA / "possible_answer" / f"BFCL_v4_{name}.json") for name in ANSWERED)
    assert {name for rows in answers for row in rows for call in row["ground_truth"] for name in call} <= names
    said = {json.loads(found) for found in re.findall(r'"role": "user", "content": ("(?:[^"\\]|\\.)*")', text)}
    said |= {json.loads(found) for found in re.findall(r'"content": ("(?:[^"\\]|\\.)*"), "role": "user"', text)}
    assert question_texts(folder) == said
    assert len(said) > 4500


# The checker


@pytest.mark.asset("bfcl-eval")
def test_the_checker_is_upstreams_and_leaves_no_trace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {name: ModuleType(name) for name in ("bfcl_eval", "bfcl_eval.constants")}
    for name, module in installed.items():
        monkeypatch.setitem(sys.modules, name, module)
    before, path, writes = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    found = load_checker(folder)
    assert {name: sys.modules[name] for name in sys.modules if name.startswith("bfcl_eval")} == installed
    assert {name for name in set(sys.modules) - before if name.startswith(("torch", "openai", "bfcl"))} == set()
    assert (sys.path, sys.dont_write_bytecode) == (path, writes)
    assert not list(folder.rglob("__pycache__"))
    used = found.__closure__[0].cell_contents  # type: ignore[attr-defined]
    assert Path(used.__file__) == folder / "bfcl_eval/eval_checker/ast_eval/ast_checker.py"


@pytest.mark.asset("bfcl-eval")
@pytest.mark.parametrize(
    "changed, error_type",
    [
        ({}, ""),
        (
            {"guest": "ada l", "dishes": ["SOUP", "bread"], "outdoors": False, "address": {"type": "flat", "floor": 2}},
            "",
        ),
        ({"guest": "Eve"}, "value_error:string"),
        ({"guest": 7}, "type_error:simple"),
        ({"seats": 5}, "value_error:others"),
        ({"seats": 4.0}, "type_error:simple"),
        ({"seats": "4"}, "type_error:simple"),
        ({"deposit": 5.5}, "value_error:others"),
        ({"outdoors": True}, "value_error:others"),
        ({"dishes": ["bread"]}, "value_error:list/tuple"),
        ({"dishes": [1]}, "type_error:nested"),
        ({"address": {"type": "boat"}}, "value_error:dict_value"),
        ({"address": {"street": "home"}}, "value_error:dict_key"),
        ({"hosts": [{"age": 4}]}, "value_error:dict_value"),
        ({"hosts": [3]}, "checker_failed"),
        ({"view": "sea"}, "simple_function_checker:unexpected_param"),
        ({"seats": None}, "type_error:simple"),
    ],
)
def test_arguments_that_are_wrong_are_named_by_the_checker(
    check: Checker, changed: dict[str, Any], error_type: str
) -> None:
    judged = judge(case_of("simple_python", {"table.book": POSSIBLE}), calling(("table.book", RIGHT | changed)), check)
    assert (judged.verdict, judged.error_type) == ("wrong arguments" if error_type else "right", error_type)
    assert bool(judged.error) == bool(error_type)


@pytest.mark.asset("bfcl-eval")
def test_an_argument_that_is_missing_is_named_by_the_checker(check: Checker) -> None:
    case = case_of("simple_python", {"table.book": POSSIBLE})
    for missing, kind in (("seats", "missing_required"), ("deposit", "missing_optional")):
        given = {key: value for key, value in RIGHT.items() if key != missing}
        judged = judge(case, calling(("table.book", given)), check)
        assert (judged.verdict, judged.error_type) == ("wrong arguments", f"simple_function_checker:{kind}")
        assert missing in judged.error[0]


@pytest.mark.asset("bfcl-eval")
def test_names_and_numbers_of_calls(check: Checker) -> None:
    other = BOOK | {"name": "table_book"}
    right, seven = ("table.book", RIGHT), {"table.book": POSSIBLE | {"seats": [7]}}
    simple = case_of("simple_python", {"table.book": POSSIBLE})
    multiple = case_of("multiple", {"table.book": POSSIBLE}, functions=[other, BOOK])
    parallel = case_of("parallel", {"table.book": POSSIBLE}, seven)
    second = ("table.book", RIGHT | {"seats": 7})
    for case, answer, verdict, kind in [
        (simple, calling(right, right), "wrong function", "simple_function_checker:wrong_count"),
        (simple, calling(("table_book", RIGHT)), "wrong function", "simple_function_checker:wrong_func_name"),
        (multiple, calling(right), "right", ""),
        (multiple, calling(("table_book", RIGHT)), "wrong function", "simple_function_checker:wrong_func_name"),
        (parallel, calling(right, second), "right", ""),
        (parallel, calling(second, right), "right", ""),
        (parallel, calling(right), "wrong function", "parallel_function_checker_no_order:wrong_count"),
        (parallel, calling(right, right), "wrong arguments", "parallel_function_checker_no_order:cannot_find_match"),
    ]:
        judged = judge(case, answer, check)
        assert (judged.verdict, judged.error_type) == (verdict, kind)


# Silence, and calls that are none

BROKEN = [
    '<tool_call>\n{"name": "table.book", "arguments": {"guest": "A',
    '<tool_call>\n{"name": "table.book"}\n',
    '{"name": "table.book", "arguments": {"guest": }}',
    '<function=table.book>{"guest": "Ada"',
    '[table.book(guest="Ada"',
    '[table.book("Ada")]',
]


def unasked(case: Case, calls: Sequence[ToolCall]) -> None:
    raise AssertionError("the checker is asked about well-formed calls only")


@pytest.mark.parametrize("text", BROKEN)
def test_broken_calls_are_no_silence_and_no_answer(text: str) -> None:
    answer = Message(role="assistant", content=text)
    silent = judge(case_of("irrelevance"), answer, unasked)
    assert silent.verdict == "malformed call"
    assert silent.error
    judged = judge(case_of("simple_python", {"table.book": POSSIBLE}), answer, unasked)
    assert (judged.verdict, judged.error_type) == ("malformed call", "ast_decoder:decoder_failed")
    assert judged.error


@pytest.mark.parametrize(
    "text", ["None of these functions fits.", "", 'A table {"seats": 4} is a JSON object.', "f(x)"]
)
def test_words_are_silence_and_no_call(text: str) -> None:
    answer = Message(role="assistant", content=text)
    assert judge(case_of("irrelevance"), answer, unasked).verdict == "right silence"
    judged = judge(case_of("simple_python", {"table.book": POSSIBLE}), answer, unasked)
    assert (judged.verdict, judged.error_type) == ("no call", "ast_decoder:decoder_wrong_output_format")


def test_any_call_breaks_the_silence_even_of_a_function_that_is_not_offered() -> None:
    for name in ("table.book", "no_such_function"):
        judged = judge(case_of("irrelevance"), calling((name, {})), unasked)
        assert (judged.verdict, judged.error) == ("needless call", f"{name}({{}})")


# Scores


@pytest.fixture
def small(folder: Path, tmp_path: Path) -> Path:
    """A folder as the package has it: its checker, and a few questions of ours."""
    (tmp_path / "bfcl_eval").mkdir()
    for name in ("constants", "eval_checker"):
        (tmp_path / "bfcl_eval" / name).symlink_to(folder / "bfcl_eval" / name)
    (tmp_path / DATA / "possible_answer").mkdir(parents=True)
    for section, count in (("simple_python", 6), ("irrelevance", 4)):
        rows = [
            {"id": f"{section}_{n}", "question": [[{"role": "user", "content": f"Question {n}"}]], "function": [BOOK]}
            for n in range(count)
        ]
        answers = [{"id": row["id"], "ground_truth": [{"table.book": POSSIBLE}]} for row in reversed(rows)]
        name = f"BFCL_v4_{section}.json"
        (tmp_path / DATA / name).write_text("\n".join(map(json.dumps, rows)))
        if section != "irrelevance":
            (tmp_path / DATA / "possible_answer" / name).write_text("\n".join(map(json.dumps, answers)))
    return tmp_path


@pytest.mark.asset("bfcl-eval")
def test_each_score_includes_the_one_before_and_silence_is_not_won_by_broken_calls(small: Path, tmp_path: Path) -> None:
    said = {
        "simple_python_0": calling(("table.book", RIGHT)),
        "simple_python_1": calling(("table.book", RIGHT)),
        "simple_python_2": calling(("table.book", {"guest": "Ada"})),
        "simple_python_3": calling(("table.find", RIGHT)),
        "simple_python_4": Message(role="assistant", content=BROKEN[0]),
        "simple_python_5": Message(role="assistant", content="I book it."),
        "irrelevance_0": Message(role="assistant", content="I cannot do that."),
        "irrelevance_1": Message(role="assistant", content=BROKEN[0]),
        "irrelevance_2": calling(("table.book", RIGHT)),
        "irrelevance_3": Message(role="assistant", content=""),
    }
    config = BFCLConfig(sections=("simple_python", "irrelevance"), path=small)
    found = bfcl.evaluate(config, Answering(said.__getitem__), tmp_path, None)  # type: ignore[arg-type]
    assert found.scores == {
        "simple_python_parses": share(4, 6),
        "simple_python_right_function": share(3, 6),
        "simple_python_right": share(2, 6),
        "irrelevance_right_silence": share(2, 4),
        "irrelevance_official": share(3, 4),
    }
    assert found.counts["rows"] == 10
    assert found.counts["irrelevance"] == {"right silence": 2, "malformed call": 1, "needless call": 1}
    rows = {row["id"]: row for row in found.rows}
    assert rows["simple_python_0"]["prompt"] == "Question 0"
    assert rows["simple_python_0"]["expected"].startswith('table.book({"guest": "Ada", "seats": 4')
    assert rows["simple_python_2"]["error_type"] == "simple_function_checker:missing_required"
    assert rows["simple_python_2"]["error"] == ["Missing required parameter: 'seats'."]
    assert rows["irrelevance_0"]["expected"] == "no call"
    json.dumps(found.rows)


@pytest.mark.slow
@pytest.mark.asset("bfcl-eval")
def test_a_model_that_knows_all_answers_gets_every_score_whole(folder: Path, tmp_path: Path) -> None:
    cases = {case.prompt.id: case for section in ANSWERED for case in read_cases(folder, section)}

    def answer(row: str) -> Message:
        if row not in cases:
            return Message(role="assistant", content="No function fits.")
        return written_and_read(fullest(cases[row]), "hermes")

    found = bfcl.evaluate(BFCLConfig(), Answering(answer), tmp_path, None)  # type: ignore[arg-type]
    sizes = {**ANSWERED, "irrelevance": 240}
    assert len(found.scores) == 3 * 3 + 2
    assert all(score == share(sizes[metric.rsplit("_", 1)[0]], score.n) for metric, score in found.scores.items()
               if score and metric.rsplit("_", 1)[0] in sizes)  # fmt: skip
    assert [score.value for score in found.scores.values() if score] == [1.0] * 11
    few = bfcl.evaluate(BFCLConfig(), Answering(answer), tmp_path, 16)  # type: ignore[arg-type]
    assert few.counts["rows"] == len(few.rows) == 16


@pytest.mark.slow
@pytest.mark.asset("bfcl-eval")
def test_a_tiny_checkpoint_is_asked_through_the_catalog_and_the_result_is_kept(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.models import loading

    def run(**settings: Any) -> dict[str, Any]:
        (result,) = run_evaluations(
            {"bfcl": BFCLConfig(**settings)},
            model=ModelConfig(path=tiny_checkpoint),
            reward_model=None,
            sampling=SamplingConfig(temperature=0, max_completion_tokens=4, dtype="float32"),
            token_budget=512,
            limit=3,
            output_dir=tmp_path,
        )
        return result

    result = run(sections=("irrelevance",))
    assert result["scores"]["irrelevance_right_silence"]["n"] == len(result["rows"]) == 3
    monkeypatch.setattr(loading, "load_generator", None)
    assert run(sections=("irrelevance",)) == result
    with pytest.raises(TypeError):  # another section is another evaluation
        run(sections=("multiple",))


# What is not there


def test_a_package_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALIGN_ASSETS", str(tmp_path))
    monkeypatch.setenv("ALIGN_OFFLINE", "1")
    with pytest.raises(
        AssetError, match=r"^bfcl-eval-2026\.3\.23: is not in .* ALIGN_OFFLINE is set\. Unset it, or run"
    ):
        bfcl.evaluate(BFCLConfig(), Answering(calling), tmp_path, None)  # type: ignore[arg-type]


def test_a_folder_without_the_package_is_named(tmp_path: Path) -> None:
    config = BFCLConfig(sections=("multiple",), path=tmp_path)
    with pytest.raises(RowError, match=r"BFCL_v4_multiple\.json: cannot be read .*Name a folder that holds bfcl_eval/"):
        bfcl.evaluate(config, Answering(calling), tmp_path, None)  # type: ignore[arg-type]
    with pytest.raises(RowError, match=r"has no checker that can be imported \(No module named 'bfcl_eval"):
        load_checker(tmp_path)
    with pytest.raises(RowError, match=r"bfcl_eval/data: holds no BFCL_v4_\*\.json"):
        function_names(tmp_path)


@pytest.mark.asset("bfcl-eval")
def test_a_question_without_its_answer_and_a_broken_line_are_named(small: Path) -> None:
    answers = small / DATA / "possible_answer/BFCL_v4_simple_python.json"
    lines = answers.read_text().splitlines()
    answers.write_text("\n".join(lines[1:]))
    with pytest.raises(
        RowError, match=r"possible_answer/BFCL_v4_simple_python\.json: has no answer to simple_python_5"
    ):
        read_cases(small, "simple_python")
    answers.write_text("\n".join([lines[0], lines[1][:40]]))
    with pytest.raises(RowError, match=r"BFCL_v4_simple_python\.json:2: is not JSON"):
        read_cases(small, "simple_python")
