"""Into the raters' page and out of it: which comparisons files hold, and what the builder makes of an export."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.config import load_config
from align.errors import ConfigError, RowError
from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest
from align.rows import Candidate, Message, Messages, PreferenceRow, ToolCall, ToolSpec, tools_text
from data_builders.annotation.export import export
from data_builders.annotation.settings import RatingConfig, TasksConfig
from data_builders.annotation.store import PromptToAnswer, Store
from data_builders.annotation.tasks import Task, choose_two, read_tasks

pytestmark = pytest.mark.usefixtures("closed_stores")

ROOT = Path(__file__).parents[3]
USER = (Message(role="user", content="Name a river."),)


def said(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def tasks_in(seed: int = 0, **config: Any) -> list[Task]:
    return read_tasks(TasksConfig.model_validate(config), seed)


def test_ready_pairs_are_read_with_and_without_old_judgements(tmp_path: Path) -> None:
    path = written(
        tmp_path / "pairs.jsonl",
        {"prompt": "Name a river.", "responses": ["Rhine", "Alps"], "models": ["a", "b"], "batch": "week-1"},
        {
            "id": "two",
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}],
            "responses": [{"text": "Po", "model": "c"}, {"text": "Elbe", "model": "d"}],
            "ratings": [{"rater": "ann", "grade": 4}],
        },
        {"prompt": "Name a river.", "chosen": "Nile", "rejected": "Everest"},
        {
            "id": "ranked",
            "source": "old",
            "prompt": [{"role": "user", "content": "Name a river."}],
            "completions": [[{"role": "assistant", "content": text}] for text in ("edited", "chosen", "rejected")],
            "models": ["", "e", "f"],
            "round": 3,
        },
    )
    tasks = tasks_in(pairs=[path], batch="week-9", round=2)
    assert [task.responses and tuple(one[0].content for one in task.responses) for task in tasks] == [
        ("Rhine", "Alps"),
        ("Po", "Elbe"),
        ("Nile", "Everest"),
        ("chosen", "rejected"),
    ]
    assert [task.models for task in tasks] == [("a", "b"), ("c", "d"), ("", ""), ("e", "f")]
    assert [task.batch for task in tasks] == ["week-1", "week-9", "week-9", "week-9"]
    assert [task.round for task in tasks] == [2, 2, 2, 3]
    assert [message.role for message in tasks[1].prompt] == ["system", "user"]
    assert [task.source for task in tasks] == ["pairs", "pairs", "pairs", "old"]


def test_of_more_than_two_responses_two_models_are_drawn_by_seed() -> None:
    names = ["a", "a", "b", "a", "c"]
    places = {choose_two(names, 0, f"row-{number}") for number in range(200)}
    assert all(first < second and names[first] != names[second] for first, second in places)
    assert {place for pair in places for place in pair} == {0, 1, 2, 3, 4}
    assert [choose_two(names, 5, f"row-{n}") for n in range(50)] == [
        choose_two(names, 5, f"row-{n}") for n in range(50)
    ]
    assert choose_two(["a", "a", "a"], 0, "x") in {(0, 1), (0, 2), (1, 2)}


def candidates(path: Path, texts: dict[str, list[tuple[str, bool]]], prompt: Messages = USER) -> Path:
    """A file of candidates: prompt id -> (text, finished) of each."""
    rows = [
        Candidate(
            id=f"{path.stem}-{name}-{index}",
            source="test",
            prompt_id=name,
            prompt=prompt,
            completion=said(text),
            index=index,
            seed=index,
            finished=finished,
        )
        for name, found in texts.items()
        for index, (text, finished) in enumerate(found)
    ]
    write_rows(path, rows)
    return path


def test_candidates_of_two_models_meet_by_prompt_and_what_cannot_meet_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = candidates(
        tmp_path / "one.jsonl",
        {
            "p": [("Rhine", True), ("cut o", False)],
            "alone": [("Po", True)],
            "cut": [("x", True)],
            "same": [("y", True)],
        },
    )
    other = candidates(tmp_path / "other.jsonl", {"p": [("Elbe", True)], "cut": [("z", False)], "same": [("y ", True)]})
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    with caplog.at_level(logging.INFO, "align"):
        [task] = tasks_in(candidates={"one": one, "other": other})
    assert task.name == "p"
    assert task.responses is not None
    assert dict(zip(task.models, (part[0].content for part in task.responses), strict=True)) == {
        "one": "Rhine",
        "other": "Elbe",
    }
    assert "2 prompt with finished candidates of fewer than two models, 1 both responses the same" in caplog.text


def test_candidates_under_one_id_must_answer_one_prompt(tmp_path: Path) -> None:
    one = candidates(tmp_path / "one.jsonl", {"p": [("Rhine", True)]})
    other = candidates(tmp_path / "other.jsonl", {"p": [("Elbe", True)]}, (Message(role="user", content="Other?"),))
    with pytest.raises(
        RowError, match=r"other\.jsonl: prompt_id: 'p' has different prompts in .*\. Sample both models on"
    ):
        tasks_in(candidates={"one": one, "other": other})


def test_the_same_pair_in_two_files_is_rated_once(tmp_path: Path) -> None:
    pair = {"prompt": "Name a river.", "responses": ["Rhine", "Alps"]}
    files = [written(tmp_path / f"{name}.jsonl", pair | {"id": name}) for name in ("one", "other")]
    assert [task.name for task in tasks_in(pairs=files)] == ["one"]


@pytest.mark.parametrize(
    "record, error",
    [
        ({"prompt": "x", "responses": ["one"]}, r"pairs\.jsonl:1: responses: expected two or more responses, found"),
        ({"responses": ["one", "two"]}, r"pairs\.jsonl:1: prompt: expected a prompt, found nothing"),
        ({"prompt": "x"}, r"pairs\.jsonl:1: is no PreferenceRow"),
        ({"prompt": "x", "responses": ["a", "b"], "tools": [{"no": 1}]}, r"pairs\.jsonl:1: tools: .*with a name"),
        (
            {"prompt": "x", "responses": ["a", "a"]},
            r"tasks: there is nothing to compare \(dropped: 1 both responses the same",
        ),
    ],
)
def test_a_pair_that_cannot_be_compared_is_named(tmp_path: Path, record: dict[str, Any], error: str) -> None:
    with pytest.raises(RowError, match=error):
        tasks_in(pairs=[written(tmp_path / "pairs.jsonl", record)])


@pytest.mark.parametrize(
    "tasks, error",
    [
        ({}, "tasks: expected pairs, candidates or prompts to compare, found none"),
        ({"candidates": {"one": "x.jsonl"}}, "candidates of a single model cannot be compared"),
        ({"prompts": ["x.jsonl"]}, "tasks.prompts requires two models to answer, found 0"),
    ],
)
def test_a_config_with_nothing_to_compare_is_refused(tmp_path: Path, tasks: dict[str, Any], error: str) -> None:
    from align.rounds.plan import recipe_class

    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"tasks": tasks, "database": "r.sqlite"}))
    with pytest.raises(ConfigError, match=error):
        load_config(recipe_class(ROOT / "recipes", "annotate"), config)


LOOK = tools_text([ToolSpec(name="look", description="Look something up")])


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """A database in which ann and bob judged: with a contradiction, a tie, an edit, an undo, a second turn, tools."""
    looked = (
        Message(role="assistant", content="", tool_calls=(ToolCall(name="look", arguments={"for": ["a", "b"]}),)),
        Message(role="tool", content="It is 7.", name="look"),
        Message(role="assistant", content="Seven."),
    )
    store = Store(tmp_path / "r.sqlite", RatingConfig(raters_per_pair=2, max_turns=2), multi_turn=True)
    store.add(
        [
            Task(
                name=name,
                source="here",
                prompt=(
                    Message(role="system", content="Be brief."),
                    Message(role="user", content=f"{name}, what is it?"),
                ),
                tools=LOOK if name == "tooled" else "",
                responses=(
                    looked if name == "tooled" else said(f"{name} was one thing"),
                    said(f"{name}: quite another"),
                ),
                models=("alpha", "beta"),
                batch="week-7",
                round=4,
            )
            for name in ("agreed", "contradicted", "tied", "tooled", "unseen")
        ]
    )
    grades = {"ann": [4, 3, 0, -4], "bob": [3, -3, 0, -3]}
    for rater, said_of in grades.items():
        for number, grade in enumerate(said_of):
            turn = store.current(rater)
            assert turn is not None
            if rater == "ann" and number == 0:
                store.judge(rater, turn.id, "taken-back-1", -1, None)
                store.undo(rater, "taken-back-1")
            edited = said("agreed, and edited to be better still") if (rater, number) == ("bob", 0) else None
            store.judge(rater, turn.id, f"{rater}-{number}", grade, edited)
            if (rater, number) == ("bob", 0):
                store.go_on(rater, turn.id, "And then what?")
                following = store.current(rater)
                assert following is not None
                asked = PromptToAnswer(following.task, rater, 2, following.prompt, "")
                store.answer(asked, (said("then this came"), said("later it was that")), ("beta", "alpha"))
                store.judge(rater, following.id, "bob-turn-2", -4, None)
            else:
                store.leave(rater, turn.id)
    store.close()
    return tmp_path


def test_an_export_holds_each_comparison_once_with_all_its_raters(rated: Path) -> None:
    path = export(rated / "r.sqlite", rated / "out.jsonl", RatingConfig())
    records = {record["id"].split("/")[0]: record for record in map(json.loads, path.read_text().splitlines())}
    found = {name: [(one["rater"], one["grade"]) for one in record["ratings"]] for name, record in records.items()}
    assert len(path.read_text().splitlines()) == 5, "four tasks and one second turn"
    assert found["contradicted"] == [("ann", 3), ("bob", -3)]
    assert found["tied"] == [("ann", 0), ("bob", 0)]
    assert "unseen" not in found
    counts = read_data_manifest(path)["counts"]
    assert counts["judgements"] == 9
    assert counts["raters"] == {"ann": 4, "bob": 5}
    assert counts["dropped"] == {"withdrawn": 1, "not judged": 1}
    assert counts["left_is_better"] + counts["right_is_better"] + counts["ties"] == 9


@pytest.mark.slow
def test_the_builder_makes_preference_rows_of_an_export(rated: Path) -> None:
    """Both by the commands that a user types."""
    config = rated / "annotate.yaml"
    config.write_text(json.dumps({"tasks": {"pairs": ["gone.jsonl"]}, "database": str(rated / "r.sqlite")}))
    run("annotate.py", config, f"export={rated / 'ratings.jsonl'}")
    more = ["preferences.heldout_ratio=0", f"preferences.path={rated / 'ratings.jsonl'}", f"output={rated / 'data'}"]
    run("build_data.py", ROOT / "recipes/configs/data/preferences.yaml", *more)
    rows = {
        (row.id.split("/")[0], len(row.prompt)): row
        for row in read_rows(rated / "data/preferences.jsonl", PreferenceRow)
    }
    assert rows.keys() == {("agreed", 2), ("agreed", 4), ("tooled", 2)}

    first = rows["agreed", 2]
    assert [part[0].content for part in first.completions] == [
        "agreed, and edited to be better still",
        "agreed was one thing",
        "agreed: quite another",
    ]
    assert (first.level, first.models) == ("better", ("", "alpha", "beta"))
    assert (first.raters, first.batch, first.round) == (("ann", "bob"), "week-7", 4)

    second = rows["agreed", 4]
    assert [message.content for message in second.prompt[2:]] == [
        "agreed, and edited to be better still",
        "And then what?",
    ]
    assert [part[0].content for part in second.completions] == ["later it was that", "then this came"]
    assert (second.models, second.raters, second.level) == (("alpha", "beta"), ("bob",), "significantly better")

    tooled = rows["tooled", 2]
    assert tooled.tools == LOOK
    assert tooled.rejected[0].tool_calls[0].parsed() == {"for": ["a", "b"]}
    assert [message.role for message in tooled.rejected] == ["assistant", "tool", "assistant"]

    report = json.loads((rated / "data/preferences.report.json").read_text())
    assert set(report["agreement"]["raters"]) == {"ann", "bob"}
    assert report["agreement"]["judged_by_several"] == 4
    assert [one["id"] for one in report["agreement"]["contradictions"]] == ["contradicted"]


def test_an_export_without_judgements_or_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"r\.sqlite: does not exist\. Set database to the file that the page"):
        export(tmp_path / "r.sqlite", tmp_path / "out.jsonl", RatingConfig())
    Store(tmp_path / "r.sqlite", RatingConfig()).close()
    with pytest.raises(RowError, match=r"r\.sqlite: contains no judgement\. Run the page and rate some"):
        export(tmp_path / "r.sqlite", tmp_path / "out.jsonl", RatingConfig())
    assert not (tmp_path / "out.jsonl").exists()


def run(recipe: str, config: Path, *more: str) -> None:
    command = [sys.executable, str(ROOT / "recipes" / recipe), str(config), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_columns_that_the_config_ignores_are_left_out_and_others_are_named(tmp_path: Path) -> None:
    for pair in ({"prompt": "x", "responses": ["a", "b"]}, {"prompt": "x", "chosen": "a", "rejected": "b"}):
        path = written(tmp_path / "pairs.jsonl", pair | {"remark": "!"})
        with pytest.raises(RowError, match=r"pairs\.jsonl:1: remark: is not a column that is read"):
            tasks_in(pairs=[path])
        assert len(tasks_in(pairs=[path], ignore_columns=("remark",))) == 1
