"""Alarms of samples: repeated, nearly empty, unfinished, shorter than in the round before."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from align.errors import CheckError
from align.manifest import write_data_manifest
from align.rows import Candidate, Message, ToolCall
from align.sampling.collapse import SAMPLES, SampleAlarmsConfig, SampleFigures, check_samples, sample_figures
from tests.fakes import candidates


def made(*texts: str, prompt: str = "p", unfinished: int = 0) -> list[Candidate]:
    return candidates(*((text, 0.0, place >= unfinished) for place, text in enumerate(texts)), prompt=prompt)


def former(folder: Path, counts: dict) -> Path:
    """The candidates of the round before, with these counts in their manifest."""
    path = folder / "candidates.jsonl"
    path.write_text("")
    write_data_manifest(path, config={}, counts=counts)
    return path


def test_figures_are_ratios_of_all_candidates_and_a_repeat_is_one_of_the_same_prompt() -> None:
    rows = [*made("a b", "a b", "c", unfinished=2), *made("d e f", "", prompt="q"), *made("a b", prompt="r")]
    found = sample_figures(rows)
    assert found == {"repeated": 0.1667, "nearly_empty": 0.8333, "unfinished": 0.3333, "mean_characters": 2.5}
    by_unit = SampleFigures()
    for unit in (rows[:3], rows[3:5], rows[5:]):
        by_unit.add(unit)
    assert by_unit.figures() == found
    calls = made("x", "y")
    call = Message(role="assistant", content="", tool_calls=(ToolCall(name="f", arguments="{}"),))
    calls = [one.model_copy(update={"completion": (call,)}) for one in calls]
    assert sample_figures(calls)["nearly_empty"] == 0
    assert sample_figures(calls)["repeated"] == 0.5
    assert sample_figures([])["mean_characters"] == 0


@pytest.mark.parametrize(
    "name, texts, unfinished",
    [
        ("repeated", ["the same"] * 4, 0),
        ("nearly_empty", ["a", "b ", "c d", "a long one"], 0),
        ("unfinished", ["one text", "two texts", "three texts"], 2),
    ],
)
def test_each_alarm_is_a_warning_in_log_and_manifest_or_a_stop(
    name: str, texts: list[str], unfinished: int, caplog: pytest.LogCaptureFixture
) -> None:
    rows = made(*texts, unfinished=unfinished)
    with caplog.at_level(logging.WARNING):
        found = check_samples(sample_figures(rows), SampleAlarmsConfig())
    assert found["alarms"] == [name]
    assert f"alarms.{name} is" in caplog.text
    with pytest.raises(CheckError, match=rf"samples: \d+% of the candidates .*alarms\.{name} is"):
        check_samples(sample_figures(rows), SampleAlarmsConfig(action="stop"))
    assert "alarms" not in check_samples(sample_figures(rows), SampleAlarmsConfig(**{name: None}))
    assert "alarms" not in check_samples(sample_figures(rows), SampleAlarmsConfig(**{name: 1.0}, action="stop"))


def test_lengths_are_compared_with_those_of_the_round_before(tmp_path: Path) -> None:
    before = former(tmp_path, {SAMPLES: {"mean_characters": 40.0}})
    found = check_samples(sample_figures(made("a text of 18 chars")), SampleAlarmsConfig(former=(before,)))
    assert found["shorter"] == 0.55
    assert found["alarms"] == ["shorter"]
    longer = check_samples(sample_figures(made("a text of 18 chars" * 3)), SampleAlarmsConfig(former=(before,)))
    assert longer["shorter"] == -0.35
    assert "alarms" not in longer
    older = former(tmp_path, {"rows": 3})
    assert "shorter" not in check_samples(sample_figures(made("a text")), SampleAlarmsConfig(former=(older,)))
