"""The preferences builder: splits by prompt, drops what cannot be used, and reports on the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError
from align.jsonl import read_rows
from align.manifest import read_data_manifest
from align.rows import PreferenceRow
from align.text import normalize
from data_builders.preferences.builder import PreferencesConfig, build


def write_pairs(path: Path, pairs: list[tuple[str, str, str]]) -> Path:
    lines = [json.dumps({"prompt": p, "chosen": c, "rejected": r}) for p, c, r in pairs]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_a_users_pairs_are_cut_by_prompt_deduplicated_and_decontaminated(tmp_path: Path) -> None:
    pairs = [(f"Tell me about number {n}", f"It is {n}.", f"It is {m}.") for n in range(60) for m in (n + 1, n + 2)]
    pairs += [pairs[0], ("Is this the same?", "Yes.", "yes")]
    path = write_pairs(tmp_path / "mine.jsonl", pairs)
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"prompt": "tell me about number 7!"}) + "\n")
    config = PreferencesConfig(path=path, heldout_ratio=0.3, evaluation=(evaluation,), limit=50)
    out = build(config, tmp_path / "out")
    train, heldout = (
        read_rows(out / f"{name}.jsonl", PreferenceRow) for name in ("preferences", "preferences.heldout")
    )
    prompts = [{row.prompt[0].content for row in part} for part in (train, heldout)]
    assert prompts[0].isdisjoint(prompts[1])
    assert len(prompts[1]) > 5
    assert "Tell me about number 7" not in prompts[0]
    counts = [read_data_manifest(out / f"{name}.jsonl")["counts"] for name in ("preferences", "preferences.heldout")]
    assert sum(part["read"] for part in counts) == len(pairs)
    dropped = {reason: sum(part["dropped"].get(reason, 0) for part in counts) for reason in counts[0]["dropped"]}
    assert dropped["over the limit"] > 0
    assert sum(part["dropped"].get("duplicate", 0) for part in counts) == 1
    assert sum(part["dropped"].get("similar answers", 0) for part in counts) == 1
    assert len(train) == 50


def test_pairs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"none\.jsonl: cannot be read"):
        build(PreferencesConfig(path=tmp_path / "none.jsonl"), tmp_path / "out")


def build_rows(path: Path, records: list[dict], **config: Any) -> tuple[list[PreferenceRow], list[PreferenceRow], dict]:
    """(rows to train on, rows held out, report) of a build from these records."""
    path.mkdir(exist_ok=True)
    (path / "mine.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    out = build(PreferencesConfig(path=path / "mine.jsonl", **config), path / "out")
    heldout = out / "preferences.heldout.jsonl"
    report = json.loads((out / "preferences.report.json").read_text())
    train = read_rows(out / "preferences.jsonl", PreferenceRow)
    return train, read_rows(heldout, PreferenceRow) if heldout.exists() else [], report


def pair(number: int, **known: Any) -> dict[str, Any]:
    return {
        "prompt": f"Tell me all about number {number}",
        "chosen": f"It is {number}.",
        "rejected": "No idea.",
    } | known


def counts_of(path: Path, name: str = "preferences") -> dict[str, Any]:
    return read_data_manifest(path / "out" / f"{name}.jsonl")["counts"]


def test_the_two_strongest_levels_are_kept_by_default_and_ungraded_rows_are(tmp_path: Path) -> None:
    levels = ["significantly better", "better", "slightly better", "marginally better", None]
    records = [pair(number, level=level) for number, level in enumerate(levels)]
    train, _, report = build_rows(tmp_path, records, heldout_ratio=0)
    assert {row.level for row in train} == {"significantly better", "better", None}
    assert counts_of(tmp_path)["dropped"] == {"level not kept": 2}
    assert report["levels"]["marginally better"] == {"rows": 1, "share": 0.2}, "counted before any row is dropped"
    every, _, _ = build_rows(tmp_path, records, heldout_ratio=0, levels=None)
    assert {row.level for row in every} == set(levels)


@pytest.mark.slow
def test_every_batch_has_held_out_prompts_and_no_prompt_is_on_both_sides(tmp_path: Path) -> None:
    records = [
        pair(number % 40, rejected=f"No idea {number}", round=1, batch=f"week-{number // 20}") for number in range(120)
    ]
    records += [pair(90, batch="tiny"), pair(91, batch="tiny"), pair(92, batch="lonely")]
    for seed in range(5):
        train, heldout, _ = build_rows(tmp_path, records, heldout_ratio=0.1, seed=seed)
        sides = [{normalize(row.prompt[0].content) for row in part} for part in (train, heldout)]
        assert sides[0].isdisjoint(sides[1])
        assert len(train) + len(heldout) == len(records)
        assert {row.batch for row in heldout} >= {f"week-{week}" for week in range(6)} | {"tiny"}
        assert {row.batch for row in train} >= {f"week-{week}" for week in range(6)} | {"tiny"}


@pytest.mark.slow
def test_a_prompt_stays_on_its_side_as_data_grows(tmp_path: Path) -> None:
    records = [pair(number) for number in range(200)]
    _, few, _ = build_rows(tmp_path / "few", records[:100])
    _, many, _ = build_rows(tmp_path / "many", records)
    held = {row.prompt[0].content for row in many}
    assert {row.prompt[0].content for row in few} == held & {record["prompt"] for record in records[:100]}


@pytest.mark.slow
def test_the_turns_of_a_dialog_stay_on_one_side(tmp_path: Path) -> None:
    dialogs = [
        {
            "turns": [
                pair(number),
                pair(1000 + number),
                {"prompt": f"Go on {number}", "chosen": "Yes.", "rejected": "No"},
            ]
        }
        for number in range(60)
    ]
    train, heldout, report = build_rows(tmp_path, dialogs, heldout_ratio=0.3)
    assert len(train) + len(heldout) == 180
    openings = [{row.prompt[0].content for row in part} for part in (train, heldout)]
    assert openings[0].isdisjoint(openings[1])
    assert report["table"][-1]["turns_per_dialog"] == 3
    turns = [{len(row.prompt) for row in part} for part in (train, heldout)]
    assert turns == [{1, 3, 5}, {1, 3, 5}]


def test_lines_of_several_raters_are_decided_and_their_agreement_is_reported(tmp_path: Path) -> None:
    def line(number: int, rater: str, grade: int) -> dict[str, Any]:
        answers = (f"It is {number}.", "No idea.")
        chosen, rejected = answers if grade > 0 else answers[::-1]
        level = {4: "significantly better", 3: "better", 1: "marginally better"}[abs(grade)]
        return {"prompt": f"Number {number}?", "chosen": chosen, "rejected": rejected, "rater": rater, "level": level}

    records = [line(1, "ann", 4), line(1, "bob", 3), line(2, "ann", 3), line(2, "bob", -3), line(3, "ann", -4)]
    records += [line(3, "bob", -4), line(3, "cem", 1), line(1, "ann", 4)]
    train, _, report = build_rows(tmp_path, records, heldout_ratio=0)
    result = {row.prompt[0].content: (row.chosen[0].content, row.level, row.raters) for row in train}
    assert result == {
        "Number 1?": ("It is 1.", "better", ("ann", "bob")),
        "Number 3?": ("No idea.", "significantly better", ("ann", "bob", "cem")),
    }
    counts = counts_of(tmp_path)
    assert counts["dropped"] == {"duplicate": 1, "raters contradict each other": 1}
    assert counts["read"] == 4, "three comparisons and a repeat"
    assert report["records"] == 8
    assert [len(one["places"]) for one in report["agreement"]["contradictions"]] == [2, 3]
    assert report["agreement"]["raters"]["cem"]["with_majority"] == 0
    assert report["agreement"]["judgements"] == 7


def test_a_bad_row_stops_the_build_and_all_of_them_are_named(tmp_path: Path) -> None:
    bad = [{"prompt": "Hi"}, pair(2, level="best"), pair(3, rejected=7)]
    with pytest.raises(RowError) as error:
        build_rows(tmp_path, [pair(1), *bad])
    file = tmp_path / "mine.jsonl"
    first, *others = str(error.value).splitlines()
    assert first.startswith(f"{file}:2: is no PreferenceRow and no form known here")
    assert "set preferences.bad_rows to drop" in first
    assert others[0].startswith(f"{file}:3: level: expected a level, found 'best'")
    assert others[1].startswith(f"{file}:4: rejected: expected text")
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_bad_rows_are_dropped_counted_and_listed_where_the_config_says_so(tmp_path: Path) -> None:
    bad = [{"prompt": "Hi"}, pair(2, level="best")]
    train, _, report = build_rows(tmp_path, [pair(1), *bad, pair(4)], bad_rows="drop", heldout_ratio=0)
    assert len(train) == 2
    assert counts_of(tmp_path)["dropped"] == {"bad row": 2}
    assert report["bad_rows"] == 2
    listed = [json.loads(line) for line in (tmp_path / "out" / "preferences.bad.jsonl").read_text().splitlines()]
    assert [(one["line"], one["field"]) for one in listed] == [(2, None), (3, "level")]
    assert {one["file"] for one in listed} == {str(tmp_path / "mine.jsonl")}
    assert listed[1]["reason"].startswith("expected a level, found 'best'")


def test_near_duplicate_responses_are_dropped_before_the_cut(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(62))
    records = [pair(1), pair(2, chosen=text, rejected=text.replace("word30", "other"))]
    train, _, _ = build_rows(tmp_path, records, heldout_ratio=0)
    assert [row.prompt[0].content for row in train] == ["Tell me all about number 1"]
    assert counts_of(tmp_path)["dropped"] == {"near-duplicate n-grams": 1}


def test_a_response_that_says_nothing_is_dropped_and_a_call_says_something(tmp_path: Path) -> None:
    call = [{"role": "assistant", "tool_calls": [{"name": "clock", "arguments": {}}]}]
    records = [pair(1, rejected=" \n"), pair(2, chosen=""), pair(3, chosen=call)]
    train, _, _ = build_rows(tmp_path, records, heldout_ratio=0)
    assert [row.chosen[0].tool_calls[0].name for row in train] == ["clock"]
    assert counts_of(tmp_path)["dropped"] == {"empty response": 2}


@pytest.mark.slow
def test_two_builds_of_the_same_data_are_the_same_bytes(tmp_path: Path) -> None:
    records = [pair(number, batch=f"b-{number % 3}") for number in range(50)]
    build_rows(tmp_path, records)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    build_rows(tmp_path, records)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(first) == 5
