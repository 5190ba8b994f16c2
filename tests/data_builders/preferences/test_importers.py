"""Every form of preference records becomes the comparisons that it holds, and what cannot be read names its place."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError
from align.rows import Messages, PreferenceRow
from data_builders.preferences.comparisons import Comparison, majority_row, merge_judgements
from data_builders.preferences.exports import ExportFields
from data_builders.preferences.importers import ImportConfig, comparisons_in
from data_builders.preferences.ratings import ScoresConfig


def read(tmp_path: Path, records: Any, name: str = "mine.jsonl", **config: Any) -> list[Comparison]:
    """The comparisons of a JSONL file, or of one array where the name ends with .json; a bad record is raised."""
    text = json.dumps(records, indent=1) if name.endswith(".json") else "\n".join(map(json.dumps, records))
    (tmp_path / name).write_text(text, encoding="utf-8")
    found: list[Comparison] = []
    for one in comparisons_in(tmp_path / name, ImportConfig(**config)):
        if isinstance(one, RowError):
            raise one
        found += one
    return found


def row_of(compared: Comparison) -> PreferenceRow:
    row = majority_row(compared, 0.5)
    assert isinstance(row, PreferenceRow), row
    return row


def texts(messages: Messages) -> list[str]:
    return [message.content for message in messages]


def said(row: PreferenceRow) -> list[str]:
    return [completion[0].content for completion in row.completions]


def grades(compared: Comparison) -> dict[str, int | None]:
    return {judgement.rater: judgement.grade for judgement in compared.judgements}


# What each of these records says: Paris was chosen over Lyon, in the form of the toolkit that is named.
PAIRS: dict[str, dict[str, Any]] = {
    "TRL": {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon."},
    "TRL, messages": {
        "prompt": [{"role": "user", "content": "Capital of France?"}],
        "chosen": [{"role": "assistant", "content": "Paris."}],
        "rejected": [{"role": "assistant", "content": "Lyon."}],
    },
    "TRL, implicit prompt": {
        "chosen": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Paris."}],
        "rejected": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Lyon."}],
    },
    "HH-RLHF": {
        "chosen": "\n\nHuman: Capital of France?\n\nAssistant: Paris.",
        "rejected": "\n\nHuman: Capital of France?\n\nAssistant: Lyon.",
    },
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": "Capital of France?"}],
        "chosen": {"from": "gpt", "value": "Paris."},
        "rejected": {"from": "gpt", "value": "Lyon."},
    },
    "ours": {
        "id": "a",
        "source": "mine",
        "prompt": [{"role": "user", "content": "Capital of France?"}],
        "completions": [[{"role": "assistant", "content": "Paris."}], [{"role": "assistant", "content": "Lyon."}]],
    },
}


@pytest.mark.parametrize("form", PAIRS)
def test_pairs_of_every_toolkit_say_the_same(tmp_path: Path, form: str) -> None:
    (compared,) = read(tmp_path, [PAIRS[form]])
    row = row_of(compared)
    assert texts(row.prompt) == ["Capital of France?"]
    assert said(row) == ["Paris.", "Lyon."]
    assert row.source == ("mine")
    assert (row.level, row.models, row.raters, row.round, row.batch) == (None, (), (), None, "")


@pytest.mark.parametrize("form", [form for form in PAIRS if form != "ours"])
def test_further_columns_of_a_pair_are_in_its_row(tmp_path: Path, form: str) -> None:
    known = {"level": "better", "edited": "Paris, on the Seine.", "rater": "ann", "round": 2, "batch": "week-7"}
    (compared,) = read(tmp_path, [PAIRS[form] | known | {"chosen_model": "m-1", "rejected_model": "m-2"}])
    row = row_of(compared)
    assert said(row) == ["Paris, on the Seine.", "Paris.", "Lyon."]
    assert row.level == "better"
    assert row.models == ("", "m-1", "m-2")
    assert row.raters == ("ann",)
    assert (row.round, row.batch) == (2, "week-7")


def test_a_settled_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = PAIRS["TRL"] | {"level": "better", "edited": "Paris!", "models": ["m-1", "m-2"], "round": 0, "batch": "b"}
    ratings = [{"rater": name, "chosen": 0, "level": "better", "edited": "Paris!"} for name in ("ann", "bob")]
    rated = {"prompt": "Capital of France?", "responses": ["Paris.", "Lyon."], "ratings": ratings, "round": 0}
    for given in (record, rated):
        (compared,) = read(tmp_path, [given])
        row = row_of(compared)
        (again,) = read(tmp_path, [row.model_dump(mode="json", exclude_defaults=True)], "again.jsonl")
        assert row_of(again).model_copy(update={"made_from": row.made_from}) == row
        assert row.made_from[0].endswith("/mine.jsonl:1"), "the record that it was made from"
        assert row_of(again).made_from[0].endswith("/again.jsonl:1")


def test_score_gaps_grade_a_pair_where_the_config_says_how(tmp_path: Path) -> None:
    record = PAIRS["TRL"] | {"score_chosen": 8.5, "score_rejected": 6.0}
    levels = {"better": 2.0, "significantly better": 3.0}
    assert row_of(read(tmp_path, [record])[0]).level is None
    assert row_of(read(tmp_path, [record], scores=ScoresConfig(levels=levels))[0]).level == "better"
    close = record | {"score_rejected": 8.0}
    assert row_of(read(tmp_path, [close], scores=ScoresConfig(levels=levels))[0]).level is None


def test_ratings_by_several_raters_are_judgements_of_one_comparison(tmp_path: Path) -> None:
    record = {
        "id": "q1",
        "prompt": "Capital of France?",
        "responses": [{"text": "Lyon.", "model": "m-1"}, {"text": "Paris.", "model": "m-2"}],
        "batch": "week-7",
        "ratings": [
            {"rater": "ann", "chosen": 1, "level": "significantly better", "edited": "Paris, on the Seine."},
            {"rater": "bob", "grade": -2},
            {"rater": "cem", "scores": [2, 5]},
            {"rater": "dora", "ranks": [2, 1]},
            {"rater": "eve", "chosen": None},
        ],
    }
    (compared,) = merge_judgements(read(tmp_path, [record], scores=ScoresConfig(levels={"better": 3})))[0]
    turned = 1 if compared.responses[0][0].content == "Paris." else -1
    expected = {"ann": 4, "bob": 2, "cem": 3, "dora": None, "eve": 0}
    assert grades(compared) == {rater: grade and turned * grade for rater, grade in expected.items()}
    row = row_of(compared)
    assert row.id == "q1"
    assert said(row) == ["Paris, on the Seine.", "Paris.", "Lyon."]
    assert row.models == ("", "m-2", "m-1")
    assert row.level == "better"
    assert row.raters == ("ann", "bob", "cem", "dora", "eve")


ULTRAFEEDBACK = {
    "source": "evol",
    "instruction": "Name a river.",
    "models": ["m-1", "m-2", "m-3"],
    "completions": [
        {"model": "m-1", "response": "The Nile.", "overall_score": "7"},
        {"model": "m-2", "response": "Everest.", "overall_score": 1},
        {"model": "m-3", "response": "The Nile, in Africa.", "overall_score": 8.5},
    ],
}
DISTILABEL = {
    "instruction": "Name a river.",
    "generations": ["The Nile.", "Everest.", "The Nile, in Africa."],
    "model_names": ["m-1", "m-2", "m-3"],
    "ratings": [7, 1, 8.5],
}


@pytest.mark.parametrize("record", [ULTRAFEEDBACK, DISTILABEL], ids=["UltraFeedback", "distilabel"])
def test_scored_responses_give_best_over_worst_or_every_pair(tmp_path: Path, record: dict[str, Any]) -> None:
    config = ScoresConfig(levels={"significantly better": 5, "slightly better": 1})
    (compared,) = read(tmp_path, [record], scores=config)
    row = row_of(compared)
    assert said(row) == ["The Nile, in Africa.", "Everest."]
    assert row.level == "significantly better"
    assert row.models == ("m-3", "m-2")
    every = read(tmp_path, [record], scores=config.model_copy(update={"pairs": "all"}))
    assert {tuple(said(row_of(one))): row_of(one).level for one in every} == {
        ("The Nile.", "Everest."): "significantly better",
        ("The Nile, in Africa.", "The Nile."): "slightly better",
        ("The Nile, in Africa.", "Everest."): "significantly better",
    }
    assert len({row_of(one).id for one in merge_judgements(every)[0]}) == 3


def test_equal_scores_are_a_tie(tmp_path: Path) -> None:
    (compared,) = read(tmp_path, [{"prompt": "Hi", "responses": ["Hello.", "Hey."], "scores": [3, 3.0]}])
    assert majority_row(compared, 0.5) == "tie"


DIALOG = {
    "id": "d",
    "system": "Be brief.",
    "batch": "week-1",
    "turns": [
        {"prompt": "Hello", "completion": "Hi."},
        {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon.", "level": "better"},
        {
            "prompt": "And of Italy?",
            "responses": ["Rome.", "Milan."],
            "ratings": [
                {"rater": "ann", "chosen": 0, "level": "better", "edited": "Rome, on the Tiber."},
                {"rater": "bob", "chosen": 0},
            ],
        },
        {
            "prompt": "And of Spain?",
            "responses": ["Madrid.", "Toledo."],
            "ratings": [{"rater": "ann", "chosen": None}],
            "continued": 1,
        },
        {"prompt": "Thanks", "chosen": "You are welcome.", "rejected": "No."},
    ],
}


def test_a_dialog_gives_a_row_for_each_compared_turn_with_all_that_was_said_before(tmp_path: Path) -> None:
    found = read(tmp_path, [DIALOG])
    assert [one.id for one in found] == ["d/turn-2", "d/turn-3", "d/turn-4", "d/turn-5"]
    assert majority_row(found[2], 0.5) == "tie"
    rows = [row_of(found[place]) for place in (0, 1, 3)]
    assert texts(rows[0].prompt) == ["Be brief.", "Hello", "Hi.", "Capital of France?"]
    assert texts(rows[1].prompt)[3:] == ["Capital of France?", "Paris.", "And of Italy?"]
    assert texts(rows[2].prompt)[5:] == ["And of Italy?", "Rome, on the Tiber.", "And of Spain?", "Toledo.", "Thanks"]
    assert [message.role for message in rows[2].prompt] == ["system", *["user", "assistant"] * 4, "user"]
    assert [row.level for row in rows] == ["better", "better", None]
    assert {row.batch for row in rows} == {"week-1"}


def test_calls_and_tool_outputs_pass_through_a_dialog(tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": "{}"}}]}
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}]
    turns = [
        {"prompt": "Time?", "chosen": [call], "rejected": "I do not know."},
        {"prompt": [{"role": "tool", "content": "12:00"}], "chosen": "Noon.", "rejected": "Midnight."},
    ]
    first, second = read(tmp_path, [{"tools": tools, "turns": turns}])
    assert row_of(first).chosen[0].tool_calls[0].name == "clock"
    assert [message.role for message in second.prompt] == ["user", "assistant", "tool"]
    assert second.tools == first.tools != ""


LABEL_STUDIO_TASK = {
    "id": 7,
    "data": {"prompt": "Capital of France?", "answer1": "Paris.", "answer2": "Lyon.", "batch": "week-2"},
    "annotations": [
        {
            "id": 31,
            "completed_by": {"id": 4, "email": "ann@example.org"},
            "was_cancelled": False,
            "result": [
                {
                    "id": "x1",
                    "from_name": "comparison",
                    "to_name": "answer1,answer2",
                    "type": "pairwise",
                    "value": {"selected": "left"},
                },
                {"from_name": "how_much", "to_name": "prompt", "type": "choices", "value": {"choices": ["much"]}},
                {
                    "from_name": "rewrite",
                    "to_name": "prompt",
                    "type": "textarea",
                    "value": {"text": ["Paris, France."]},
                },
            ],
        },
        {
            "id": 32,
            "completed_by": 5,
            "result": [{"from_name": "comparison", "type": "pairwise", "value": {"selected": "right"}}],
        },
        {
            "id": 33,
            "completed_by": 6,
            "was_cancelled": True,
            "result": [{"from_name": "comparison", "type": "pairwise", "value": {"selected": "left"}}],
        },
    ],
    "predictions": [{"result": [{"from_name": "comparison", "value": {"selected": "right"}}]}],
}


def test_label_studio_tasks_hold_one_judgement_for_each_annotation_that_was_not_skipped(tmp_path: Path) -> None:
    fields = ExportFields(level="how_much", levels={"much": "significantly better"}, edited="rewrite")
    (compared,) = read(tmp_path, [LABEL_STUDIO_TASK], "export.json", export=fields)
    assert grades(compared) == {"ann@example.org": 4, "5": None}
    assert [judgement.side for judgement in compared.judgements] == [1, -1]
    assert compared.judgements[0].edited is not None
    assert texts(compared.judgements[0].edited) == ["Paris, France."]
    assert (compared.id, compared.batch, compared.source) == ("7", "week-2", "export")
    assert compared.places == (f"{tmp_path / 'export.json'}:2",)


def test_a_label_studio_scale_is_read_as_grades(tmp_path: Path) -> None:
    task = LABEL_STUDIO_TASK | {
        "annotations": [
            {
                "completed_by": rater,
                "result": [{"from_name": "comparison", "type": "rating", "value": {"rating": stars}}],
            }
            for rater, stars in ((1, 1), (2, 3), (3, 5))
        ]
    }
    fields = ExportFields(choices={"1": 4, "2": 2, "3": 0, "4": -2, "5": -4})
    (compared,) = read(tmp_path, [task], "export.json", export=fields)
    assert grades(compared) == {"1": 4, "2": 0, "3": -4}


def test_label_studio_min_has_a_record_for_each_annotation(tmp_path: Path) -> None:
    shared = {"id": 7, "prompt": "Capital of France?", "answer1": "Paris.", "answer2": "Lyon.", "lead_time": 3.1}
    records = [
        shared | {"annotator": 4, "annotation_id": 31, "comparison": [{"selected": "left"}]},
        shared | {"annotator": 5, "annotation_id": 32, "comparison": "left"},
        shared | {"annotator": 6, "annotation_id": 33},
    ]
    (compared,), repeats = merge_judgements(read(tmp_path, records, "min.json"))
    assert repeats == 1, "the one who left it open adds nothing"
    assert row_of(compared).raters == ("4", "5")
    assert said(row_of(compared)) == ["Paris.", "Lyon."]


ARGILLA_FIELDS = ExportFields(
    prompt="instruction",
    responses=("response-1", "response-2"),
    question="preference",
    models=("model-1", "model-2"),
    choices={"A is better": "first", "B is better": "second"},
)
_FIELDS = {"instruction": "Capital of France?", "response-1": "Lyon.", "response-2": "Paris."}
_MODELS = {"model-1": "m-1", "model-2": "m-2", "round": 3}
_U1, _U2, _U3 = "0f1e", "1a2b", "2c3d"
_RANKED = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]

ARGILLA: dict[str, dict[str, Any]] = {
    "2.x, nested": {
        "id": "r-1",
        "fields": _FIELDS,
        "metadata": _MODELS,
        "suggestions": {"preference": {"value": "A is better", "score": 0.5, "agent": "m"}},
        "responses": {
            "preference": [
                {"value": "B is better", "user_id": _U1},
                {"value": "A is better", "user_id": _U2},
                {"value": _RANKED, "user_id": _U3},
            ]
        },
        "vectors": {},
        "_server_id": "77",
    },
    "2.x, flattened": {
        "id": "r-1",
        "_server_id": "77",
        **_FIELDS,
        **_MODELS,
        "preference.responses": ["B is better", "A is better", ["response-2", "response-1"], "A is better"],
        "preference.responses.users": [_U1, _U2, _U3, "9z"],
        "preference.responses.status": ["submitted", "submitted", "submitted", "draft"],
        "preference.suggestion": "A is better",
    },
    "1.x, records": {
        "external_id": "r-1",
        "fields": _FIELDS,
        "metadata": _MODELS,
        "responses": [
            {"user_id": _U1, "status": "submitted", "values": {"preference": {"value": "B is better"}}},
            {"user_id": _U2, "status": "submitted", "values": {"preference": {"value": "A is better"}}},
            {"user_id": _U3, "status": "submitted", "values": {"preference": {"value": _RANKED}}},
            {"user_id": "9z", "status": "discarded", "values": {"preference": {"value": "A is better"}}},
        ],
    },
    "1.x, a column of lists for each question": {
        **_FIELDS,
        "external_id": "r-1",
        "metadata": json.dumps(_MODELS),
        "preference": {
            "user_id": [_U1, _U2, _U3, "9z"],
            "value": [
                "B is better",
                "A is better",
                {"rank": [2, 1], "value": ["response-1", "response-2"]},
                "A is better",
            ],
            "status": ["submitted", "submitted", "submitted", "discarded"],
        },
    },
    "1.x, a column of answers for each question": {
        **_FIELDS,
        "external_id": "r-1",
        "metadata": json.dumps(_MODELS),
        "preference": [
            {"user_id": _U1, "value": "B is better", "status": "submitted"},
            {"user_id": _U2, "value": "A is better", "status": "submitted"},
            {"user_id": _U3, "value": _RANKED, "status": "submitted"},
        ],
    },
}


@pytest.mark.parametrize("form", ARGILLA)
def test_argillas_exports_of_both_versions_say_the_same(tmp_path: Path, form: str) -> None:
    (compared,) = read(tmp_path, [ARGILLA[form]], "argilla.json", export=ARGILLA_FIELDS)
    assert {judgement.rater: judgement.side for judgement in compared.judgements} == {_U1: -1, _U2: 1, _U3: -1}
    row = row_of(compared)
    assert said(row) == ["Paris.", "Lyon."]
    assert row.models == ("m-2", "m-1")
    assert (row.id, row.round, row.raters) == ("r-1", 3, (_U1, _U2, _U3))


def test_argillas_rating_of_each_response_is_a_score(tmp_path: Path) -> None:
    record = ARGILLA["2.x, nested"] | {
        "responses": {
            "rating-1": [{"value": 2, "user_id": _U1}, {"value": 4, "user_id": _U2}],
            "rating-2": [{"value": 5, "user_id": _U1}],
        }
    }
    fields = ARGILLA_FIELDS.model_copy(update={"scores": ("rating-1", "rating-2")})
    (compared,) = read(tmp_path, [record], export=fields, scores=ScoresConfig(levels={"better": 2}))
    assert grades(compared) == {_U1: -3}


def test_a_task_without_judgements_is_no_error(tmp_path: Path) -> None:
    (compared,) = read(tmp_path, [LABEL_STUDIO_TASK | {"annotations": []}], "export.json")
    assert majority_row(compared, 0.5) == "not judged"


def test_an_export_config_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="models has 1 names for 2 responses"):
        ExportFields(models=("m",))
    with pytest.raises(ValueError, match="less than or equal to 4"):
        ExportFields(choices={"best": 5})
    with pytest.raises(ValueError, match="greater than 0"):
        ScoresConfig(levels={"better": 0})


RATED = {"prompt": "Hi", "responses": ["Hello.", "Hey."]}

BAD: list[tuple[Any, str]] = [
    ({"prompt": "Hi", "chosen": "Hello."}, r":2: is no PreferenceRow"),
    (
        {"prompt": "Hi", "chosen": "Hello.", "rejected": 5},
        r":2: rejected: expected text or a list of messages, found 5",
    ),
    (PAIRS["TRL"] | {"level": "best"}, r":2: level: expected a level, found 'best'"),
    (PAIRS["TRL"] | {"edited": 3}, r":2: edited: expected text or a list"),
    (PAIRS["TRL"] | {"round": "two"}, r":2: round: expected a number from 0 on, found 'two'"),
    (PAIRS["TRL"] | {"models": ["one"]}, r":2: models: expected 2 names, found \['one'\]"),
    (PAIRS["ours"] | {"models": ["a"]}, r":2: .*models names 1 for 2 completions"),
    (RATED | {"ratings": [{"chosen": 0}]}, r":2: ratings\[0\]\.rater: expected a name, found nothing"),
    (
        RATED | {"ratings": [{"rater": "ann", "chosen": 2}]},
        r":2: ratings\[0\]\.chosen: expected the index of a response",
    ),
    (RATED | {"ratings": [{"rater": "ann", "grade": 5}]}, r":2: ratings\[0\]\.grade: expected a number from -4 to 4"),
    (RATED | {"ratings": [{"rater": "ann"}]}, r":2: ratings\[0\]: contains no judgement"),
    (RATED | {"ratings": [{"rater": "ann", "scores": [1]}]}, r":2: ratings\[0\]\.scores: expected 2 numbers"),
    (RATED | {"scores": [1, "good"]}, r":2: scores\[1\]: expected a number, found 'good'"),
    ({"prompt": "Hi", "responses": ["Hello."], "scores": [1]}, r":2: responses: expected two or more responses"),
    ({"prompt": "Hi", "responses": ["Hello.", 7], "scores": [1, 2]}, r":2: responses\[1\]: expected text"),
    ({"responses": ["Hello.", "Hey."], "scores": [1, 2]}, r":2: prompt: expected a prompt, found nothing"),
    ({"turns": []}, r":2: turns: expected a list of objects"),
    (
        {"turns": [RATED | {"ratings": [{"rater": "a", "chosen": 9}]}]},
        r":2: turns\[0\]\.ratings\[0\]\.chosen: expected",
    ),
    (
        {"turns": [RATED | {"ratings": [{"rater": "a", "chosen": None}]}, PAIRS["TRL"]]},
        r":2: turns\[0\]\.responses: none was chosen, so it is unknown .*continues. Add continued",
    ),
    (
        LABEL_STUDIO_TASK | {"data": {"text": "Hi"}},
        r":2: prompt: expected this field in the export, found text. Set .* preferences\.imports\.export",
    ),
    (
        LABEL_STUDIO_TASK
        | {"annotations": [{"completed_by": 1, "result": [{"from_name": "comparison", "value": {"choices": ["A"]}}]}]},
        r":2: comparison: expected a known answer, found 'A'. .* preferences\.imports\.export\.choices",
    ),
    ([1, 2], r":2: expected a JSON object, found list"),
]


@pytest.mark.parametrize("record, message", BAD, ids=[message[:40] for _, message in BAD])
def test_a_bad_record_names_file_line_field_and_reason(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(RowError, match=r"mine\.jsonl" + message):
        read(tmp_path, [PAIRS["TRL"], record])


SOUND: list[tuple[dict[str, Any], ExportFields]] = [
    *((record, ExportFields()) for record in [*PAIRS.values(), ULTRAFEEDBACK, DISTILABEL, DIALOG, LABEL_STUDIO_TASK]),
    *((record, ARGILLA_FIELDS) for record in ARGILLA.values()),
    (
        RATED | {"ratings": [{"rater": "a", "ranks": [1, 2]}, {"rater": "b", "chosen": 0, "edited": "Hi!"}]},
        ExportFields(),
    ),
]
JUNK = [
    None,
    True,
    7,
    -1.5,
    "",
    "odd",
    [],
    ["odd"],
    [None],
    {},
    {"odd": 1},
    {"value": 3, "user_id": "u"},
    {"role": "x"},
]


def spoiled(value: Any, draw: random.Random, chance: float) -> Any:
    """A copy in which any part may be junk or may be missing."""
    if draw.random() < chance:
        return copy.deepcopy(draw.choice(JUNK))
    if isinstance(value, dict):
        return {key: spoiled(one, draw, chance) for key, one in value.items() if draw.random() > chance / 2}
    if isinstance(value, list):
        return [spoiled(one, draw, chance) for one in value if draw.random() > chance / 2]
    return value


@pytest.mark.slow
def test_a_spoiled_record_of_any_form_is_read_or_named_and_never_breaks_the_build(tmp_path: Path) -> None:
    draw = random.Random(0)
    read_well, named = 0, 0
    for record, fields in SOUND:
        lines = [spoiled(record, draw, 0.06) for _ in range(300)]
        path = tmp_path / "mine.jsonl"
        path.write_text("\n".join(json.dumps(line if isinstance(line, dict) else record) for line in lines))
        for number, found in enumerate(comparisons_in(path, ImportConfig(export=fields)), start=1):
            if isinstance(found, RowError):
                named += 1
                assert found.where.startswith(f"{path}:{number}"), found
            else:
                read_well += 1
                for compared in merge_judgements(found)[0]:
                    majority_row(compared, 0.5)
    assert read_well + named == 300 * len(SOUND)
    assert min(read_well, named) > 500


def test_a_line_that_is_not_json_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", \n\n' + json.dumps(PAIRS["TRL"]) + "\n")
    first, second = comparisons_in(path, ImportConfig())
    assert isinstance(first, RowError)
    assert str(first).startswith(f"{path}:1: is not JSON")
    assert isinstance(second, list)
    assert second[0].places == (f"{path}:3",)


def test_records_of_an_array_have_the_line_that_they_begin_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("\n[\n" + ",\n\n".join(json.dumps(pair, indent=2) for pair in PAIRS.values()) + "\n]\n")
    lines = path.read_text().splitlines()
    found = list(comparisons_in(path, ImportConfig()))
    assert len(found) == len(PAIRS)
    for one in found:
        assert isinstance(one, list)
        assert lines[int(one[0].places[0].rpartition(":")[2]) - 1] == "{"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no rows"),
        ('[{"a": 1}, ', "is an array that breaks off"),
        ('[{"a": 1} {"b": 2}]', "followed by neither a comma nor"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(RowError, match=message):
        list(comparisons_in(path, ImportConfig()))


def test_a_system_prompt_next_to_an_exports_fields_is_read(tmp_path: Path) -> None:
    (compared,) = read(
        tmp_path,
        [LABEL_STUDIO_TASK | {"system": "Be brief."}],
        "export.json",
        export=ExportFields(level="how_much", levels={"much": "significantly better"}),
    )
    assert (compared.prompt[0].role, compared.prompt[0].content) == ("system", "Be brief.")
