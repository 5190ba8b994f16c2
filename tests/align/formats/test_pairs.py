"""The prompt of a pair is never lost or made up, and a pair whose scores say otherwise prefers nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError, UnusableRow
from align.jsonl import row_of
from align.rows import PreferenceRow, PromptRow, SFTRow
from align.settings import PreferenceDataConfig, RewardConfig
from data_builders.preferences.builder import PreferencesConfig, build
from data_builders.preferences.importers import ImportConfig
from data_builders.preferences.ratings import ScoresConfig

HERE = "data/my.jsonl:7"
PAIR = {"prompt": "Name a river", "chosen": "Rhine is long", "rejected": "Po flows east"}
LEVELS = {"significantly better": 3.0, "better": 2.0, "slightly better": 1.0, "marginally better": 0.1}


def asked(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in row_of(record, PreferenceRow, HERE).prompt]


@pytest.mark.parametrize("name", ["prompt", "instruction", "question", "query", "input"])
def test_the_prompt_is_read_from_each_of_its_names(name: str) -> None:
    record = {name: "What is 6 times 7?", "chosen": "The answer is 42.", "rejected": "The answer is 41."}
    assert asked(record) == [("user", "What is 6 times 7?")]
    messages = record | {name: [{"role": "user", "content": "What is 6 times 7?"}]}
    assert asked(messages) == asked(record)
    dialogs = {
        side: [*messages[name], {"role": "assistant", "content": record[side]}] for side in ("chosen", "rejected")
    }
    assert asked(record | dialogs) == asked(record)
    assert row_of(record, PromptRow, HERE).prompt[0].content == "What is 6 times 7?"


@pytest.mark.parametrize(
    "name", ["problem", "user", "text", "topic", "title", "context", "task", "Prompt", "questions"]
)
def test_two_texts_are_not_split_where_another_column_may_hold_their_prompt(name: str) -> None:
    record = {name: "What is 6 times 7?", "chosen": "The answer is 42.", "rejected": "The answer is 41."}
    with pytest.raises(RowError, match=rf":7: {name}: is a text that is not read, next to chosen and rejected"):
        row_of(record, PreferenceRow, HERE)
    assert asked({key: record[key] for key in ("chosen", "rejected")}) == [("user", "The answer is 4")]


def test_a_second_prompt_that_says_something_else_is_refused() -> None:
    with pytest.raises(RowError, match=":7: question: is not a column that is read"):
        row_of(PAIR | {"question": "Name a lake"}, PreferenceRow, HERE)
    assert asked(PAIR | {"question": "Name a river"}) == [("user", "Name a river")]


@pytest.mark.parametrize("begin", ["", "\n", "\n\n", " \n\n"])
@pytest.mark.parametrize("between", ["\n\n", "\n"])
def test_transcripts_are_read_with_and_without_their_first_line_breaks(begin: str, between: str) -> None:
    turns = f"{begin}Human: Hi{between}Assistant: Yes?{between}Human: A river{between}Assistant: "
    record = {"chosen": turns + "Rhine", "rejected": turns + "Rome"}
    row = row_of(record, PreferenceRow, HERE)
    assert asked(record) == [("user", "Hi"), ("assistant", "Yes?"), ("user", "A river")]
    assert [completion[0].content for completion in row.completions] == ["Rhine", "Rome"]


def test_a_turns_name_inside_an_answer_is_text() -> None:
    turns = "\n\nHuman: Write a scene\n\nAssistant: EVE\nHuman: Hi\n"
    row = row_of({"chosen": turns + "good", "rejected": turns + "bad"}, PreferenceRow, HERE)
    assert row.chosen[0].content == "EVE\nHuman: Hi\ngood"


@pytest.mark.parametrize("shared", ["Human: Hi ", "### Instruction: Hi ", "[USER] Hi ", "Question: Hi "])
def test_dialogs_in_one_text_of_an_unknown_form_are_not_taken_for_a_prompt(shared: str) -> None:
    with pytest.raises(RowError, match="chosen: looks like a whole dialog in one text"):
        row_of({"chosen": shared + "Rhine", "rejected": shared + "Rome"}, PreferenceRow, HERE)


RENDERED = [
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<s>[INST] Hi [/INST]",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "<|user|>\nHi</s>\n<|assistant|>\n",
]


@pytest.mark.parametrize("text", RENDERED)
def test_a_dialog_that_a_chat_template_has_rendered_is_not_rendered_again_as_one_message(text: str) -> None:
    for record in (
        {"chosen": text + "Rhine", "rejected": text + "Rome"},
        {"prompt": text, "chosen": "Rhine", "rejected": "Rome"},
    ):
        with pytest.raises(RowError, match="is a dialog that a chat template has rendered into one text"):
            row_of(record, PreferenceRow, HERE)
    with pytest.raises(RowError, match=":7: prompt: is a dialog that a chat template"):
        row_of({"prompt": text, "completion": "Rhine"}, SFTRow, HERE)


def test_an_alpaca_template_that_both_texts_share_is_no_prompt() -> None:
    shared = "Below is an instruction.\n\n### Instruction:\nHi\n\n### Response:\n"
    with pytest.raises(RowError, match="chosen: is a dialog that a chat template has rendered"):
        row_of({"chosen": shared + "Rhine", "rejected": shared + "Rome"}, PreferenceRow, HERE)


@pytest.mark.parametrize("prompt", ["What does <|im_start|>user mean?", "[INST] is a marker of Llama 2. Why?", "<s>"])
def test_a_prompt_about_chat_templates_is_a_prompt(prompt: str) -> None:
    assert asked(PAIR | {"prompt": prompt}) == [("user", prompt)]


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'assistant', 'content': 'Rhine'}]",
        '[{"content": "Rhine", "role": "assistant"}]',
        "[{'from': 'gpt', 'value': 'Rhine'}\n {'from': 'human', 'value': 'And?'}]",
        "array([{'content': 'Rhine', 'role': 'assistant'}], dtype=object)",
    ],
)
def test_messages_written_into_a_text_are_not_taken_for_what_the_model_is_to_say(text: str) -> None:
    for record, kind in (
        (PAIR | {"chosen": text}, PreferenceRow),
        (PAIR | {"prompt": text}, PreferenceRow),
        ({"prompt": "Name a river", "completion": text}, SFTRow),
        ({"messages": text}, SFTRow),
    ):
        with pytest.raises(RowError, match="is a list of messages written into a text"):
            row_of(record, kind, HERE)
    assert row_of(PAIR | {"chosen": '[{"name": "Rhine", "content": 1}]'}, PreferenceRow, HERE).chosen


@pytest.mark.parametrize("level", ["significantly-better", "Significantly  Better", "significantly_better "])
def test_a_level_is_read_however_its_words_are_joined(level: str) -> None:
    assert row_of(PAIR | {"level": level}, PreferenceRow, HERE).level == "significantly better"


def test_a_prompt_that_has_its_answer_already_is_refused_by_every_reader() -> None:
    prompt = [{"role": "user", "content": "Name a river"}, {"role": "assistant", "content": "Po"}]
    for kind in (PreferenceRow, PromptRow):
        with pytest.raises(RowError, match=":7: prompt: ends with an assistant message"):
            row_of(PAIR | {"prompt": prompt}, kind, HERE)


def test_a_prompt_may_be_a_transcript_too() -> None:
    prompt = "\n\nHuman: Hi \n\nAssistant: Yes?\n\nHuman: A river\n\nAssistant:"
    assert asked(PAIR | {"prompt": prompt}) == [("user", "Hi"), ("assistant", "Yes?"), ("user", "A river")]
    with pytest.raises(RowError, match="prompt: ends with an assistant message"):
        row_of(PAIR | {"prompt": prompt + " Rh"}, PreferenceRow, HERE)


def test_a_prompt_and_longer_dialogs_give_the_longer_of_both() -> None:
    first, reply, last = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "A river"},
    )
    good, bad = {"role": "assistant", "content": "Rhine"}, {"role": "assistant", "content": "Rome"}
    whole = [("user", "Hi"), ("assistant", "Yes?"), ("user", "A river")]
    long = {"chosen": [first, reply, last, good], "rejected": [first, reply, last, bad]}
    short = {"chosen": [last, good], "rejected": [last, bad]}
    assert asked({"prompt": "A river", **long}) == whole
    assert asked({"prompt": [first, reply, last], **long}) == whole
    assert asked({"prompt": [first, reply, last], **short}) == whole
    with pytest.raises(RowError, match="does not contain the prompt"):
        row_of({"prompt": [last, reply, first], **long}, PreferenceRow, HERE)


SCORES = [
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("rating-chosen", "rating-rejected"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("chosen_reward", "rejected_reward"),
    ("reward_chosen", "reward_rejected"),
    ("rating", ""),
    ("scores", ""),
    ("margin", "-"),
]


def scored(names: tuple[str, str], chosen: Any, rejected: Any) -> dict[str, Any]:
    first, second = names
    if second == "-":
        return PAIR | {first: chosen - rejected}
    return PAIR | ({first: chosen, second: rejected} if second else {first: [chosen, rejected]})


def kept(folder: Path, record: dict[str, Any], levels: dict[str, float]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows that the builder keeps, and what it dropped for which reason."""
    (folder / "u.jsonl").write_text(json.dumps(record) + "\n")
    imports = ImportConfig(scores=ScoresConfig(levels=levels))  # type: ignore[arg-type]
    build(PreferencesConfig(path=folder / "u.jsonl", imports=imports, heldout_ratio=0), folder / "o")
    rows = [json.loads(line) for line in (folder / "o/preferences.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "o/preferences.jsonl.manifest.json").read_text())["counts"]["dropped"]


@pytest.mark.parametrize("names", SCORES, ids=lambda names: names[0])
def test_scores_must_agree_with_the_choice_directly_and_in_the_builder(names: tuple[str, str], tmp_path: Path) -> None:
    assert row_of(scored(names, 8.0, 5.5), PreferenceRow, HERE).level is None
    rows, _ = kept(tmp_path, scored(names, 8.0, 5.5), LEVELS)
    assert [row["level"] for row in rows] == ["better"]
    assert kept(tmp_path, scored(names, 5.5, 5.0), LEVELS) == ([], {"level not kept": 1})
    for chosen, rejected, reason in ((7, 7, "tie"), (2, 9, "scores contradict the choice")):
        record = scored(names, chosen, rejected)
        with pytest.raises(UnusableRow, match=":7: chosen: ") as caught:
            row_of(record, PreferenceRow, HERE)
        assert caught.value.reason == reason
        with pytest.raises(UnusableRow):
            row_of(record | {"level": "significantly better"}, PreferenceRow, HERE)
        assert kept(tmp_path, record, {}) == ([], {reason: 1})


NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), "good", True]


@pytest.mark.parametrize("names", [names for names in SCORES if names[1] != "-"], ids=lambda names: names[0])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_score_that_is_no_finite_number_is_refused(names: tuple[str, str], value: Any) -> None:
    for record in (scored(names, value, 5.0), scored(names, 5.0, value)):
        with pytest.raises(RowError, match="expected a number, found"):
            row_of(record, PreferenceRow, HERE)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_the_builder_keeps_no_pair_with_a_score_that_is_no_finite_number(value: Any, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"expected a number, found|which is no JSON"):
        kept(tmp_path, PAIR | {"score_chosen": value, "score_rejected": 5.0}, {})


def test_one_score_alone_is_refused() -> None:
    with pytest.raises(RowError, match=":7: score_chosen: is given without a score of rejected"):
        row_of(PAIR | {"score_chosen": 7}, PreferenceRow, HERE)


def test_a_contradiction_between_two_kinds_of_scores_is_none_of_them() -> None:
    with pytest.raises(UnusableRow, match="margin -1"):
        row_of(PAIR | {"score_chosen": 8, "score_rejected": 2, "margin": -1}, PreferenceRow, HERE)


def test_scores_of_distilabels_generations_are_found_by_their_texts() -> None:
    swapped = {"generations": ["Po flows east", "Rhine is long"], "order": ["rejected", "chosen"], "chosen_score": 9.0}
    assert row_of(PAIR | swapped | {"rating": [3.0, 9.0]}, PreferenceRow, HERE)
    with pytest.raises(UnusableRow, match="rating 3 and 9"):
        row_of(PAIR | swapped | {"rating": [9.0, 3.0]}, PreferenceRow, HERE)
    with pytest.raises(RowError, match="chosen: is none of generations"):
        row_of(PAIR | {"generations": ["a", "b"], "rating": [3.0, 9.0]}, PreferenceRow, HERE)
    with pytest.raises(UnusableRow, match="status tie"):
        row_of(PAIR | {"status": "tie"}, PreferenceRow, HERE)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hi", "chosen": "A", "rejected": "A"},
        {"prompt": "Hi", "chosen": [{"role": "assistant", "content": "A"}], "rejected": "A"},
        {"prompt": "Hi", "completions": ["A", "A"]},
        {"prompt": "Hi", "responses": ["A", "A"], "scores": [2, 1]},
    ],
)
def test_the_same_completion_twice_prefers_nothing(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnusableRow) as caught:
        row_of(record, PreferenceRow, HERE)
    assert caught.value.reason == "identical completions"
    assert kept(tmp_path, record, {}) == ([], {"identical completions": 1})


def test_what_is_known_of_a_pair_comes_along_to_trainers() -> None:
    known = {"level": "Better", "rater": "ann", "round": 2, "batch": "week-7", "edited": "Rhine, by far"}
    row = row_of(PAIR | known | {"chosen-model": "m-1", "rejected_model": "m-2"}, PreferenceRow, HERE)
    assert [completion[0].content for completion in row.completions] == [
        "Rhine, by far",
        PAIR["chosen"],
        PAIR["rejected"],
    ]
    assert (row.level, row.models, row.raters, row.round, row.batch) == (
        "better",
        ("", "m-1", "m-2"),
        ("ann",),
        2,
        "week-7",
    )
    pair = row_of(PAIR | {"models": ["m-1", "m-2"], "raters": ["ann", "bob"]}, PreferenceRow, HERE)
    assert (pair.models, pair.raters) == (("m-1", "m-2"), ("ann", "bob"))
    with pytest.raises(RowError, match="level: expected a level, found 'much better'"):
        row_of(PAIR | {"level": "much better"}, PreferenceRow, HERE)


def test_levels_in_settings_are_levels() -> None:
    with pytest.raises(ValueError, match="'significantly better', 'better', 'slightly better' or 'marginally better'"):
        PreferenceDataConfig(path="x", levels=("best",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'significantly better', 'better', 'slightly better' or 'marginally better'"):
        RewardConfig(margins={"best": 1.0})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="'significantly better', 'better', 'slightly better' or 'marginally better'"):
        ScoresConfig(levels={"best": 1.0})  # type: ignore[dict-item]
