"""The report of a run that is written here by hand, so that every number in it is known."""

from __future__ import annotations

import json
import sqlite3
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from align.errors import StageError
from align.manifest import write_data_manifest
from align.rounds.ledger import Ledger
from eval.reports.page import page
from eval.reports.rounds import Report, markdown, read_report, row_name, text_table

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)> | [a](http://b) \"&"


def score(value: float, low: float, high: float, n: int = 50) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


def evaluation(
    name: str, scores: dict[str, Any], answers: dict[str, tuple[str, str]], differences: dict[str, Any] | None = None
) -> str:
    rows = [
        {"id": key, "prompt": f"What is {key}? {EVIL}", "answer": answer, "verdict": verdict, "expected": ["Rome"]}
        | {"topic": "countries", "relation": "capital"}
        for key, (answer, verdict) in answers.items()
    ]
    points = [[0.5, 0.1, 2.0], [1.0, 0.4, 1.0]]
    counts = {"risk_coverage": {"propensity": {"points": points}, "no_answer": 0}} if name == "factuality" else {}
    found = {"name": name, "model": "m", "scores": scores, "counts": counts, "seconds": 1.0, "rows": rows}
    return json.dumps(found | ({"differences": differences} if differences else {}))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two rounds: data, an evaluation before, SFT and an evaluation in each round."""
    run = tmp_path / "run"
    ledger = Ledger(run / "ledger.sqlite")
    run_id = ledger.begin_run(f"python recipes/rounds.py {EVIL}")

    def stage(name: str, round_number: int | None, made: Path, status: str = "finished") -> None:
        label = name if round_number is None else f"round-{round_number}/{name}"
        record = ledger.begin_stage(
            run_id,
            label=label,
            name=name,
            round_number=round_number,
            recipe=name,
            key="k",
            command=f"python recipes/{name}.py",
            config={},
            inputs={},
        )
        ledger.end_stage(record, status, {"out": {"path": str(made), "blake3": ""}})  # type: ignore[arg-type]

    rows = run / "data" / "preferences.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text("{}\n")
    write_data_manifest(rows, config={}, counts={"rows": 512, "dropped": {"duplicate": 19, EVIL: 2}})
    stage("data", None, rows.parent)
    questions = {f"q{n}": (f"It is {n} {EVIL}", "wrong") for n in range(20)}
    before = run / "eval-start"
    before.mkdir()
    (before / "factuality.json").write_text(evaluation("factuality", {"wrong": score(0.68, 0.6, 0.75)}, questions))
    stage("eval-start", None, before)
    for round_number, wrong in ((1, 0.31), (2, 0.19)):
        folder = run / f"round-{round_number}"
        probe = folder / "probe"
        probe.mkdir(parents=True)
        probed = {"known": 3 - round_number, "unknown": 5, "unsure": 1, "uninformative": round_number}
        (probe / "map.json").write_text(json.dumps({"all": probed, "relations": {"capital": probed, EVIL: probed}}))
        stage("probe", round_number, probe)
        sft = folder / "sft"
        sft.mkdir(parents=True)
        lines = [{"step": step, "loss": 3 / step, "accuracy": float("nan")} for step in range(1, 9)]
        if round_number == 2:
            lines += [{"step": 4, "eval_loss": 2.0}, {"step": 6, "eval_loss": None}, {"step": 8, "eval_loss": 1.5}]
        (sft / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (sft / "timing.json").write_text(json.dumps({"seconds": 9.0, "trained_seconds": 45.0, "steps": 8}))
        stage("sft", round_number, sft)
        made = folder / "eval"
        made.mkdir()
        answers = {key: ("I do not know.", "abstained") if key == "q3" else old for key, old in questions.items()}
        scores = {"wrong": score(wrong, wrong - 0.05, wrong + 0.06), "known_kept": score(0.88, 0.8, 0.94)}
        changes = {"wrong": score(wrong - 0.68, wrong - 0.75, wrong - 0.6)}
        (made / "factuality.json").write_text(evaluation("factuality", scores, answers, changes))
        accuracy = {"accuracy": score(0.67, 0.61, 0.73)}
        (made / "reward_accuracy.json").write_text(evaluation("reward_accuracy", accuracy, {}))
        stage("eval", round_number, made)
    stage("publish", None, run / "nowhere", "failed")
    ledger.close()
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("UPDATE stages SET ended = started + 60")
    return run


@pytest.fixture
def report(run_dir: Path) -> Report:
    return read_report(run_dir, samples=4)


def test_the_terminal_table_has_a_column_for_before_and_for_each_round(report: Report) -> None:
    lines = [line.split() for line in text_table(report).splitlines()]
    assert lines[0] == ["before", "round", "1", "round", "2", "(95%", "interval)"]
    assert ["wrong", "answers", "68%", "31%", "19%", "(14-25)"] in lines
    assert ["known", "kept", "-", "88%", "88%", "(80-94)"] in lines
    assert ["reward", "accuracy", "-", "67%", "67%", "(61-73)"] in lines
    result = text_table(report).splitlines()[-1].split(" · ")
    assert result[0] == "effective training time 75% of the training stages"
    assert result[1:] == ["8 min 0 s in all stages", "not finished: publish"]


def test_differences_from_the_baseline_are_a_table_of_their_own_everywhere(report: Report) -> None:
    lines = text_table(report).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("against the baseline"))
    assert lines[place].split("  ")[0] == "against the baseline"
    assert "before" not in lines[place]
    assert " ".join(lines[place + 1].split()) == "wrong answers -37 (-44 to -29) -49 (-56 to -41) 50"
    text = markdown(report)
    assert "## Differences from the baseline" in text
    assert "| wrong answers | -37 (-44 to -29) | -49 (-56 to -41) | 50 |" in text
    parsed = Page()
    parsed.feed(page(report))
    assert "-49 (-56 to -41)" in parsed.text
    assert parsed.open == []


def test_names_of_metrics_are_for_people() -> None:
    assert row_name("factuality", "right") == "right answers"
    assert row_name("factuality", "false_refusals") == "false refusals"
    assert row_name("tool_use", "right_function") == "tool use: right function"
    assert row_name("reward_accuracy", "accuracy") == "reward accuracy"


def test_answers_stand_side_by_side_and_changed_ones_come_first(report: Report) -> None:
    assert [sample.evaluation for sample in report.samples] == ["factuality"] * 4
    first = report.samples[0]
    assert first.prompt.startswith("What is q3?")
    assert first.verdicts == {"before": "wrong", "round 1": "abstained", "round 2": "abstained"}
    assert first.expected == "Rome"


class Page(HTMLParser):
    """Every tag, attribute and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "line", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are closed in order"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_nothing_that_a_model_wrote_is_markup(report: Report) -> None:
    parsed = Page()
    parsed.feed(page(report))
    assert parsed.open == []
    assert not {"script", "img", "a", "link", "iframe", "object"} & set(parsed.tags)
    names = {name for name, _ in parsed.attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"src", "href"})
    assert parsed.text.count(EVIL) > 8, "the text itself is there, as text"
    assert "http" not in {value for name, value in parsed.attributes if name != "http-equiv"}


def test_the_page_tells_scores_curves_drops_times_command_and_versions(report: Report) -> None:
    parsed = Page()
    parsed.feed(page(report))
    for result in ("19% (14-25)", "sft: loss", "512", "19 duplicate", "1 min 0 s", "python recipes/rounds.py", "torch"):
        assert result in parsed.text, result
    assert parsed.tags.count("svg") == 3, "map, risk and loss; a metric without finite values is reported as text"
    assert "sft: accuracy: no finite value" in parsed.text
    assert parsed.tags.count("polyline") == 2 + 1 + 3
    assert "prefers-color-scheme: dark" in parsed.text
    assert "overflow-x: auto" in parsed.text


def test_a_curve_spans_its_box_from_the_first_step_to_the_last(report: Report) -> None:
    parsed = Page()
    parsed.feed(page(report))
    drawn = next(value for name, value in parsed.attributes if name == "points")
    assert drawn is not None
    points = [tuple(map(float, point.split(","))) for point in drawn.split()]
    assert len(points) == 8
    assert points[0] == (46.0, 8.0), "the highest loss is at the top left"
    assert points[-1] == (312.0, 130.0), "and the lowest at the bottom right"


def test_held_out_values_are_a_dashed_line_in_the_plot_of_the_training_values(report: Report) -> None:
    curve = next(curve for curve in report.curves if (curve.stage, curve.metric) == ("sft", "loss"))
    assert list(curve.lines) == ["round 1", "round 2", "round 2, held out"]
    assert curve.lines["round 2, held out"] == [(4, 2.0), (8, 1.5)]
    parsed = Page()
    parsed.feed(page(report))
    drawn = [value for name, value in parsed.attributes if name == "class" and value and "dashed" in value]
    assert drawn == ["line-2 dashed"]
    assert "round 2, held out" in parsed.text, "the legend"


def test_the_knowledge_map_shows_what_was_known_before_and_what_is_answered_after_by_round(report: Report) -> None:
    result = markdown(report)
    assert (
        "| countries | all | 0 / 100 / 0 (n 20) | 22 / 56 / 22 (n 9) | 0 / 95 / 5 (n 20) | 11 / 56 / 33 (n 9) |"
        in result
    )
    parsed = Page()
    parsed.feed(page(report))
    bars = [value for name, value in parsed.attributes if name == "class" and value and value.startswith("part-")]
    assert bars.count("part-abstained") == 2 * 2, "one question in round 1 and 2, in the topic and in its kind of fact"
    assert "22 / 56 / 22 (n 9)" in parsed.text
    lines = text_table(report).splitlines()
    assert any(line.startswith("countries  capital") and "0 / 100 / 0 (n 20)" in line for line in lines)


def test_risk_coverage_curves_are_lines_over_the_share_answered(report: Report) -> None:
    chart = next(curve for curve in report.curves if curve.axis == "answered")
    assert chart.lines["round 2"] == [(0.5, 0.1), (1.0, 0.4)]
    parsed = Page()
    parsed.feed(page(report))
    assert "factuality: wrong among answered, by propensity" in parsed.text
    assert "answered 0%" in parsed.text


def test_markdown_tables_keep_their_columns_whatever_a_text_holds(report: Report) -> None:
    result = markdown(report)
    assert "| wrong answers | 68% (60-75) | 31% (26-37) | 19% (14-25) | 50 |" in result
    lines = [line for line in result.splitlines() if not line.startswith("    ")]  # indented: code, shown unchanged
    assert "<script" not in "".join(lines)
    tables = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    dropped = [line for line in tables if line.startswith("| data | preferences")]
    assert len(dropped) == 1
    assert dropped[0].count("|") == 6


def test_a_folder_without_a_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"contains no ledger.sqlite, so it is not the folder of a run. Run recipes/rounds.py first"
    ):
        read_report(tmp_path, samples=1)


def test_a_run_that_has_only_begun_gives_a_report_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.begin_run("python recipes/rounds.py")
    ledger.close()
    report = read_report(tmp_path, samples=3)
    parsed = Page()
    parsed.feed(page(report))
    assert "No stage has written metrics." in parsed.text
    assert text_table(report)
    assert markdown(report)
