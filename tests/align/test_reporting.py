"""What a run says while it goes."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from align import reporting
from align.reporting import MetricsFile, Progress, duration


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (190, "3 min 10 s"), (3599.9, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_bar_tells_share_count_note_and_time_left() -> None:
    progress = Progress("reward", total=80)
    progress.done = 34
    line = progress.line(68.0, "loss 0.61")
    assert line == "reward        [########------------]  42%  34/80  loss 0.61  1 min 32 s left"
    assert re.search(r"\[#*-*\]\s+\d+%", line), "what rounds pass through to the terminal"
    progress.done = 80
    assert progress.line(160.0) == "reward        [####################] 100%  80/80  2 min 40 s"


def test_a_resumed_bar_reckons_from_where_it_began() -> None:
    progress = Progress("reward", total=100, done=50)
    assert progress.line(1.0).endswith("50/100  ...")
    progress.done = 60
    assert progress.line(20.0).endswith("60/100  1 min 20 s left"), "ten in 20 s, forty to go"


def test_off_a_terminal_a_bar_speaks_seldom_and_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now[0])
    progress = Progress("x", total=30)
    for second in range(30):
        now[0] = second + 1.0
        progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("]")[1].split()[1] for line in lines] == ["10/30", "20/30", "30/30"]


def test_a_bar_of_nothing_is_full() -> None:
    assert "100%  0/0" in Progress("x", total=0).line(0.0)


def test_only_rank_zero_speaks() -> None:
    code = (
        "from align.reporting import Progress, logger\n"
        "log = logger('align.x'); log.info('noted'); log.warning('warned'); Progress('bar', 1).advance()\n"
    )

    def said(rank: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, env={"RANK": rank}, check=True).stderr

    assert all(word in said("0") for word in ("noted", "warned", "bar"))
    assert "warned" in said("1")
    assert not any(word in said("1") for word in ("noted", "bar"))


def test_loggers_of_other_names_hang_below_ours() -> None:
    assert reporting.logger("data_builders").name == "align.data_builders"
    assert reporting.logger("align.tree").name == "align.tree"
    before = list(logging.getLogger("align").handlers)
    reporting.logger("align.tree")
    assert logging.getLogger("align").handlers == before, "a line is said once, however many loggers there are"


def test_metrics_of_a_resumed_run_go_on_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    first = MetricsFile(path, keep_to_step=0)
    for step in range(1, 6):
        first.write(step, {"loss": 1 / step})
    with path.open("ab") as handle:
        handle.write(b'[1]\n"text"\n{"step": "x"}\n\xff\xfe\n{"step": 6, "lo')  # damaged, and killed while writing
    resumed = MetricsFile(path, keep_to_step=3)
    resumed.write(4, {"loss": float("nan")})
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[2]["loss"] == 1 / 3
    assert lines[3]["loss"] is None, "JSON has no NaN"
