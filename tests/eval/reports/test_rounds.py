"""What is read of a run, and its report as text: the run of conftest.py, in which every number is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.errors import StageError
from align.rounds.ledger import Ledger
from eval.reports.rounds import Report, read_report
from eval.reports.tables import choice_table, flow_table, row_name
from eval.reports.text import markdown, text_table


def test_the_terminal_table_has_a_column_for_before_and_for_each_round(report: Report) -> None:
    lines = [line.split() for line in text_table(report).splitlines()]
    assert lines[0] == ["before", "round", "1", "round", "2", "(95%", "interval)"]
    assert ["wrong", "answers", "68%", "31%", "19%", "(14-25)"] in lines
    assert ["known", "kept", "-", "88%", "88%", "(80-94)"] in lines
    assert ["reward", "accuracy", "-", "67%", "67%", "(61-73)"] in lines
    result = text_table(report).splitlines()[-1].split(" · ")
    assert result[0] == "effective training time 75% of the training stages"
    assert result[1:] == ["12 min 0 s in all stages", "not finished: publish"]


def test_differences_from_the_baseline_are_a_table_of_their_own_everywhere(report: Report) -> None:
    lines = text_table(report).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("against the baseline"))
    assert lines[place].split("  ")[0] == "against the baseline"
    assert "before" not in lines[place]
    assert " ".join(lines[place + 1].split()) == "wrong answers -37 (-44 to -29) -49 (-56 to -41) 50"
    text = markdown(report)
    assert "## Differences from the baseline" in text
    assert "| wrong answers | -37 (-44 to -29) | -49 (-56 to -41) | 50 |" in text


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


def test_held_out_values_are_a_dashed_line_in_the_plot_of_the_training_values(report: Report) -> None:
    curve = next(curve for curve in report.curves if (curve.stage, curve.metric) == ("sft", "loss"))
    assert list(curve.lines) == ["round 1", "round 2", "round 2, held out"]
    assert curve.lines["round 2, held out"] == [(4, 2.0), (8, 1.5)]
    assert curve.dashed == ("round 2, held out",)


def test_the_knowledge_map_shows_what_was_known_before_and_what_is_answered_after_by_round(report: Report) -> None:
    result = markdown(report)
    assert (
        "| countries | all | 0 / 100 / 0 (n 20) | 22 / 56 / 22 (n 9) | 0 / 95 / 5 (n 20) | 11 / 56 / 33 (n 9) |"
        in result
    )
    lines = text_table(report).splitlines()
    assert any(line.startswith("countries  capital") and "0 / 100 / 0 (n 20)" in line for line in lines)


def test_risk_coverage_curves_are_lines_over_the_share_answered(report: Report) -> None:
    chart = next(curve for curve in report.curves if curve.axis == "answered")
    assert chart.lines["round 2"] == [(0.5, 0.1), (1.0, 0.4)]
    assert chart.title == "factuality: wrong among answered, by propensity"


def test_markdown_tables_keep_their_columns_whatever_a_text_holds(report: Report) -> None:
    result = markdown(report)
    assert "| wrong answers | 68% (60-75) | 31% (26-37) | 19% (14-25) | 50 |" in result
    lines = [line for line in result.splitlines() if not line.startswith("    ")]  # indented: code, shown unchanged
    assert "<script" not in "".join(lines)
    tables = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    dropped = [line for line in tables if line.startswith("| data | preferences")]
    assert len(dropped) == 1
    assert dropped[0].count("|") == 6


def test_rows_are_followed_from_in_to_kept_with_a_column_for_each_round(report: Report, evil: str) -> None:
    (flow,) = report.flows
    assert (flow.stage, flow.file) == ("data", "preferences.jsonl")
    head, rows = flow_table(flow)
    assert head == ["", "before"]
    assert rows == [["rows in", "533"], ["duplicate", "-19"], [evil, "-2"], ["rows kept", "512"]]


def test_each_stage_names_the_stages_and_the_files_that_it_was_made_from(report: Report, evil: str) -> None:
    by_label = {stage.label: stage for stage in report.lineage}
    assert by_label["round-2/eval"].stages == ("round-2/sft",)
    assert by_label["round-1/sft"].stages == ("data",)
    assert by_label["round-1/sft"].files == (str(Path("outside") / evil),)
    assert by_label["data"].made[0].fingerprint == "hash of data"


def test_the_last_choice_of_the_best_model_after_each_round_is_shown_with_its_reason(report: Report, evil: str) -> None:
    head, rows = choice_table(report)
    assert head == ["after round", "name", "model", "why"]
    assert rows == [["1", "best", "sft", "round 1 scores 0.3"], ["2", "best", "other", f"it stays {evil}"]]
    assert "| 1 | best | sft | round 1 scores 0.3 |" in markdown(report)


def test_the_search_of_an_averages_weights_is_shown_with_every_trial(report: Report) -> None:
    search = report.searches["round-2/average"]
    assert [row[0] for row in search.rows] == ["1, 0", "0, 1", "0.5, 0.5"]
    text = markdown(report)
    assert (
        "3 averages were evaluated, of at most 16, on development rows (factuality: data/questions.dev.jsonl)" in text
    )
    assert "| 0.5, 0.5 | 35.0% (25.0% to 45.0%) | 0.3500 | chosen |" in text


def test_agreement_and_length_of_preferences_come_from_their_report(report: Report, evil: str) -> None:
    assert report.preferences == {
        "data": {
            "comparisons": "533",
            "judged by several raters": "40",
            "alpha of sides": "0.61",
            "alpha of grades": "-",
            "ties": "2",
            "contradictions": "0",
            f"level: {evil}": "512 (100%)",
            "chosen is longer": "57% of 512 rows",
        }
    }
    assert "| alpha of sides | 0.61 |" in markdown(report)


def test_markdown_has_a_part_of_the_samples_and_says_how_many_more_there_are(run_dir: Path) -> None:
    result = markdown(read_report(run_dir, samples=20))
    assert result.count("- **factuality:**") == 12
    assert "8 more of factuality are in the page." in result


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
    assert text_table(report)
    assert markdown(report)
