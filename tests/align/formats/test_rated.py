"""Responses with scores, ranks or a preference: trainers take the best over the worst, the builder every pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError, UnusableRow
from align.jsonl import row_of
from align.rows import Level, PreferenceRow, PromptRow, SFTRow, ToolQuestionRow, tools_of
from data_builders.preferences.comparisons import Comparison, majority_row, merge_judgements
from data_builders.preferences.importers import ImportConfig, comparisons_in
from data_builders.preferences.ratings import ScoresConfig

HERE = "data/my.jsonl:7"


def read(folder: Path, *records: Any, **config: Any) -> list[list[Comparison] | RowError]:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(comparisons_in(path, ImportConfig(**config)))


def answers(row: PreferenceRow) -> list[str]:
    return [completion[0].content for completion in row.completions]


def row_from(compared: Comparison) -> PreferenceRow:
    row = majority_row(compared, 0.5)
    assert isinstance(row, PreferenceRow), row
    return row


HELPSTEER = [
    ({"prompt": "Hi", "response_1": "A", "response_2": "B"}, "preference_strength"),
    ({"context": [{"role": "user", "content": "Hi"}], "response1": "A", "response2": "B"}, "overall_preference"),
]
STRENGTHS: list[tuple[int, list[str], Level]] = [
    (-3, ["A", "B"], "significantly better"),
    (-2, ["A", "B"], "better"),
    (-1, ["A", "B"], "slightly better"),
    (1, ["B", "A"], "slightly better"),
    (2, ["B", "A"], "better"),
    (3, ["B", "A"], "significantly better"),
]


@pytest.mark.parametrize("record, name", HELPSTEER, ids=["HelpSteer2-Preference", "HelpSteer3"])
def test_helpsteers_strength_names_the_better_response_and_its_level(
    record: dict[str, Any], name: str, tmp_path: Path
) -> None:
    for strength, order, level in STRENGTHS:
        (found,) = read(tmp_path, record | {name: strength})
        assert isinstance(found, list)
        for row in (row_of(record | {name: strength}, PreferenceRow, HERE), row_from(found[0])):
            assert (answers(row), row.level) == (order, level)
    with pytest.raises(UnusableRow) as caught:
        row_of(record | {name: 0}, PreferenceRow, HERE)
    assert caught.value.reason == "tie"
    (tied,) = read(tmp_path, record | {name: 0})
    assert isinstance(tied, list)
    assert majority_row(tied[0], 0.5) == "tie"
    for bad in (4, 1.5, "much", float("nan"), True):
        with pytest.raises(RowError, match=f"{name}: expected"):
            row_of(record | {name: bad}, PreferenceRow, HERE)


def rated(prompt: str, response: str, helpfulness: Any, **more: Any) -> dict[str, Any]:
    others = {"correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 1}
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness} | others | more


def test_helpsteer2s_records_that_share_a_prompt_are_compared_and_counted_one_by_one(tmp_path: Path) -> None:
    records = [
        rated("a", "worse", 1),
        rated("a", "better", 4),
        rated("b", "this", 2),
        rated("b", "that", 2),
        rated("c", "alone", 4),
        rated("d", "one", 1, system="Be brief."),
        rated("d", "two", 2),
    ]
    found = read(tmp_path, *records, scores=ScoresConfig(levels={"better": 3}))
    assert len(found) == len(records), "one for each record, so that counts of records hold"
    first, second, third, fourth, *lonely = found
    assert second == fourth == []
    assert isinstance(first, list)
    row = row_from(first[0])
    assert (answers(row), row.level) == (["better", "worse"], "better")
    assert [place.rpartition(":")[2] for place in first[0].places] == ["1", "2"]
    assert isinstance(third, list)
    assert majority_row(third[0], 0.5) == "tie"
    for error, line in zip(lonely, (5, 6, 7), strict=True):
        assert isinstance(error, RowError)
        assert f"mine.jsonl:{line}: helpfulness: rates a single response" in str(error)


def test_a_rated_response_with_a_bad_rating_or_a_column_that_nothing_reads_is_named(tmp_path: Path) -> None:
    bad, rest = read(tmp_path, rated("a", "x", 1), rated("a", "y", "high"))
    assert isinstance(bad, RowError)
    assert "mine.jsonl:2: helpfulness: expected a number" in str(bad)
    assert rest == []
    unread, _ = read(tmp_path, rated("a", "x", 1, remark="!"), rated("a", "y", 2))
    assert isinstance(unread, RowError)
    assert "mine.jsonl:1: remark: is not a column that is read" in str(unread)


def test_one_rated_response_is_neither_a_pair_nor_a_target(tmp_path: Path) -> None:
    for kind in (PreferenceRow, SFTRow):
        with pytest.raises(RowError, match="helpfulness: rates the one response of this record"):
            row_of(rated("a", "x", 4), kind, HERE)
    assert row_of(rated("a", "x", 4), PromptRow, HERE).prompt[0].content == "a"
    ignored = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    assert row_of(rated("a", "x", 4), SFTRow, HERE, ignored).messages[1].content == "x"


def test_helpsteers_prompts_of_several_turns_are_dialogs() -> None:
    prompt = "Hi\n<extra_id_1>Assistant\nYes?\n<extra_id_1>User\nA river"
    row = row_of(
        {"prompt": prompt, "response_1": "A", "response_2": "B", "preference_strength": 1}, PreferenceRow, HERE
    )
    said = [(message.role, message.content) for message in row.prompt]
    assert said == [("user", "Hi"), ("assistant", "Yes?"), ("user", "A river")]


def nectar(*ranks: float) -> dict[str, Any]:
    given = [{"answer": f"rank {rank}", "model": f"m-{rank}", "rank": rank} for rank in ranks]
    prompt = "\n\nHuman: Hi \n\nAssistant: "
    return {"prompt": prompt, "answers": given, "turns": 1, "num_responses": len(ranks), "source": ["x", "y"]}


def test_nectars_ranks_give_the_first_over_the_last_or_every_pair(tmp_path: Path) -> None:
    record = nectar(3.0, 1.0, 7.0, 2.0, 5.0, 6.0, 4.0)
    row = row_of(record, PreferenceRow, HERE)
    assert (answers(row), row.models, row.source) == (["rank 1.0", "rank 7.0"], ("m-1.0", "m-7.0"), "x+y")
    assert [message.content for message in row.prompt] == ["Hi"]
    (found,) = read(tmp_path, record, scores=ScoresConfig(pairs="all"))
    assert isinstance(found, list)
    assert len(merge_judgements(found)[0]) == 21
    assert all(answers(row_from(one)) == sorted(answers(row_from(one))) for one in found)


def test_pku_saferlhf_is_read_by_the_more_helpful_response() -> None:
    record = {"prompt": "Hi", "response_0": "A", "response_1": "B", "better_response_id": 1, "safer_response_id": 0}
    record |= {"is_response_0_safe": True, "is_response_1_safe": False, "response_0_harm_category": {"Theft": False}}
    assert answers(row_of(record, PreferenceRow, HERE)) == ["B", "A"]
    with pytest.raises(RowError, match="better_response_id: expected 0 or 1, found 2"):
        row_of(record | {"better_response_id": 2}, PreferenceRow, HERE)
    with pytest.raises(RowError, match="no form known here"):
        row_of(record | {"better_response_id": None}, PreferenceRow, HERE)


def ultrafeedback(*scores: Any, **more: Any) -> dict[str, Any]:
    given = [{"response": f"score {score}", "model": f"m{n}", "overall_score": score} for n, score in enumerate(scores)]
    return {"source": "evol", "instruction": "Hi", "completions": given} | more


def test_ultrafeedback_gives_the_best_over_the_worst() -> None:
    row = row_of(ultrafeedback(7, "8.5", 1, 3), PreferenceRow, HERE)
    assert (answers(row), row.models) == (["score 8.5", "score 1"], ("m1", "m2"))


@pytest.mark.parametrize(
    "record, said",
    [
        (ultrafeedback(7, 8, 3, models=list("abcd")), "models: expected 3 names, found"),
        (ultrafeedback(7, 8, models=["m1", "m0"]), r"models\[0\]: names 'm1' for a response whose own model is 'm0'"),
        (ultrafeedback(7, None), r"completions\[1\]\.score: expected a score, found nothing"),
        (ultrafeedback(7, float("nan")), r"completions\[1\]\.overall_score: expected a number, found nan"),
        (ultrafeedback(7), "completions: expected two or more responses"),
        (ultrafeedback(7, 8, scores=[8, 7]), r"scores\[0\]: is 8, and the response's own score is 7"),
        (ultrafeedback(7, 8, remark="!"), "remark: is not a column that is read"),
        (
            ultrafeedback(7, 8) | {"completions": [{"response": "a", "overall_score": 1, "note": "!"}, "b"]},
            r"completions\[0\]\.note: is not a column that is read",
        ),
    ],
)
def test_what_is_wrong_with_rated_responses_is_named_directly_and_by_the_builder(
    record: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RowError, match=f":7: {said}"):
        row_of(record, PreferenceRow, HERE)
    (found,) = read(tmp_path, record)
    assert isinstance(found, RowError)
    assert str(found).startswith(f"{tmp_path}/mine.jsonl:1: ")


def test_equal_scores_are_a_tie_directly_too() -> None:
    with pytest.raises(UnusableRow) as caught:
        row_of(ultrafeedback(5, 5.0, "5"), PreferenceRow, HERE)
    assert caught.value.reason == "tie"


def test_judgements_of_several_raters_are_for_the_builder() -> None:
    record = {"prompt": "Hi", "responses": ["A", "B"], "ratings": [{"rater": "ann", "chosen": 0}]}
    with pytest.raises(RowError, match=r"responses: holds judgements of raters.*recipes/build_data\.py"):
        row_of(record, PreferenceRow, HERE)


def test_raters_entries_are_read_whole(tmp_path: Path) -> None:
    record = {"prompt": "Hi", "responses": ["A", "B"]}
    for entry, said in (
        ({"rater": "ann", "chosen": 0, "remark": "!"}, "ratings[0].remark: is not a column that is read"),
        (
            {"rater": "ann", "chosen": None, "level": "better"},
            "ratings[0].level: is 'better', but chosen is null, which means a tie",
        ),
    ):
        (found,) = read(tmp_path, record | {"ratings": [entry]})
        assert isinstance(found, RowError)
        assert said in str(found)


XLAM = {
    "id": 0,
    "query": "Weather?",
    "answers": '[{"name": "f", "arguments": {"city": "Rome", "days": 2}}]',
    "tools": json.dumps(
        [
            {
                "name": "f",
                "description": "Weather",
                "parameters": {
                    "city": {"type": "str", "description": "Where"},
                    "days": {"type": "int, optional", "description": "How many", "default": 1},
                    "names": {"type": "List[str]", "description": "Which"},
                },
            }
        ]
    ),
}


def test_xlams_calls_and_functions_are_json_in_strings() -> None:
    row = row_of(XLAM, SFTRow, HERE)
    assert [message.role for message in row.messages] == ["user", "assistant"]
    (call,) = row.messages[1].tool_calls
    assert (call.name, call.parsed()) == ("f", {"city": "Rome", "days": 2})
    (spec,) = tools_of(row.tools)
    assert spec.parameters["type"] == "object"
    assert {name: given["type"] for name, given in spec.parameters["properties"].items()} == {
        "city": "string",
        "days": "integer",
        "names": "array",
    }
    assert spec.parameters["required"] == ["city", "names"]
    question = row_of(XLAM, ToolQuestionRow, HERE)
    assert question.calls == row.messages[1].tool_calls
    assert question.tools == row_of(XLAM, PromptRow, HERE).tools == row.tools


@pytest.mark.parametrize(
    "change, said",
    [
        ({"answers": "f()"}, "answers: is not JSON"),
        ({"answers": '[{"arguments": {}}]'}, "answers: expected a call with a function's name"),
        ({"answers": '[{"name": "f", "arguments": {"x": NaN}}]'}, "answers: is not JSON"),
        ({"answers": "[]"}, "answers: holds no call"),
        ({"tools": "{"}, "tools: is not JSON"),
        ({"tools": '{"name": "f"}'}, "tools: expected a JSON list of functions"),
    ],
)
def test_what_is_wrong_with_a_record_of_xlam_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError, match=f":7: {said}"):
        row_of(XLAM | change, SFTRow, HERE)


def test_openais_preferences_bring_their_functions() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    given = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools, "parallel_tool_calls": True}
    answer = {"role": "assistant", "content": "A"}
    record = {"input": given, "preferred_output": [answer], "non_preferred_output": [answer | {"content": "B"}]}
    row = row_of(record, PreferenceRow, HERE)
    assert answers(row) == ["A", "B"]
    assert [spec.name for spec in tools_of(row.tools)] == ["f"]
    assert row_of(record, PromptRow, HERE).tools == row.tools
    with pytest.raises(RowError, match=r"input\.tool_choice: is not a column that is read"):
        row_of(record | {"input": given | {"tool_choice": "auto"}}, PreferenceRow, HERE)


def test_exports_keep_a_system_prompt_and_refuse_a_text_that_nothing_reads(tmp_path: Path) -> None:
    data = {"prompt": "Hi", "answer1": "A", "answer2": "B", "system": "Be brief."}
    result = [{"from_name": "comparison", "value": {"selected": "left"}}]
    task = {"id": 7, "data": data, "annotations": [{"id": 1, "completed_by": 4, "result": result}]}
    (found,) = read(tmp_path, task)
    assert isinstance(found, list)
    assert [(message.role, message.content) for message in found[0].prompt] == [("system", "Be brief."), ("user", "Hi")]
    shown = task | {"data": data | {"background": "What raters saw."}}
    (unread,) = read(tmp_path, shown)
    assert isinstance(unread, RowError)
    assert "mine.jsonl:1: data.background: is a field of the project that would be ignored" in str(unread)
    assert read(tmp_path, shown, ignore_columns=("background",))[0] == found


def test_every_column_of_a_dialog_and_of_its_turns_is_read(tmp_path: Path) -> None:
    turn = {"prompt": "Hi", "chosen": "A", "rejected": "B"}
    for record, said in (
        ({"turns": [turn | {"remark": "!"}]}, "turns[0].remark: is not a column that is read"),
        ({"turns": [turn], "remark": "!"}, "remark: is not a column that is read"),
        ({"turns": [{"prompt": "Hi", "completion": "A", "remark": "!"}, turn]}, "turns[0].remark: is not a column"),
        ({"turns": [turn | {"system": "S"}], "system": "T"}, "turns[0].system: says 'S'"),
        ({"turns": [turn | {"score_chosen": 1, "score_rejected": 2}]}, "turns[0].chosen: was chosen, and its scores"),
    ):
        (found,) = read(tmp_path, record)
        assert isinstance(found, RowError)
        assert said in str(found)


def test_a_level_of_two_responses_is_kept_and_one_of_three_is_refused(tmp_path: Path) -> None:
    record = {"prompt": "Hi", "responses": ["A", "B"], "scores": [1, 2], "level": "better", "raters": ["ann", "bob"]}
    (found,) = read(tmp_path, record)
    assert isinstance(found, list)
    for row in (row_of(record, PreferenceRow, HERE), row_from(found[0])):
        assert (answers(row), row.level, row.raters) == (["B", "A"], "better", ("ann", "bob"))
    three = record | {"responses": ["A", "B", "C"], "scores": [1, 2, 3]}
    with pytest.raises(RowError, match=":7: level: is given for 3 responses, and grades two"):
        row_of(three, PreferenceRow, HERE)
    (refused,) = read(tmp_path, three)
    assert isinstance(refused, RowError)
