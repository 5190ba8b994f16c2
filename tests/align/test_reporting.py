"""What a run says while it goes."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from align import reporting
from align.reporting import MetricsFile, Progress, commands, duration, fields


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


@pytest.mark.slow
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


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What a terminal shows of a block, a warning and a bar."""
    terminal = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(reporting, "_console", None)
    log = reporting.logger("align.shown")
    message, extra = fields("sft: [a]", [("model", "[my]-model"), ("result", "runs/my/sft")])
    log.info(message, extra=extra)
    message, extra = commands("next:", [("publish", "python publish.py " + "very/long/" * 20)])
    log.info(message, extra=extra)
    log.warning("the disk is %d%% full", 90)
    progress = Progress("sft", total=2)
    progress.advance(1, "loss 0.61")
    log.info("between")
    progress.advance(1, "loss 0.60")
    return terminal.getvalue()


def test_a_terminal_gets_color_and_a_bar_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch)
    assert "\x1b[36mmodel" in text, "names are colored"
    assert "\x1b[33m" in text.partition("the disk is 90% full")[0].splitlines()[-1], "warnings are yellow"
    plain = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", text)
    assert "─ sft: [a] ─" in plain
    assert "[my]-model" in plain, "square brackets are no markup"
    assert "\n  python publish.py " + "very/long/" * 20 + "\n" in plain, "a command has no line break"
    assert re.search(r"sft +━+ +100% 2/2 +loss 0\.60 +0 s", plain)
    assert re.search(r"\d\d:\d\d:\d\d between", plain), "a line of the log is printed above the bar"
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"
    assert reporting._bars is None


def test_no_color_leaves_the_text_without_color(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, NO_COLOR="1")
    colors = [code for code in re.findall("\x1b\\[([0-9;]+)m", text) if re.search(r"(^|;)(3[0-8]|9[0-7])(;|$)", code)]
    assert not colors
    assert "[my]-model" in text


def test_elsewhere_a_block_is_plain_text_and_rich_is_not_imported(capsys: pytest.CaptureFixture[str]) -> None:
    message, _ = fields("sft", [("model", "m"), ("trained on", "all")])
    assert message == "sft\n  model       m\n  trained on  all"
    code = (
        "import sys; from align.reporting import Progress, fields, logger\n"
        "message, extra = fields('sft', [('model', 'm')]); logger('align.x').info(message, extra=extra)\n"
        "Progress('bar', 1).advance(); print('rich' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "\x1b" not in done.stderr
    assert "sft\n  model  m\n" in done.stderr


def test_a_bar_that_ends_early_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(reporting, "_console", None)
    monkeypatch.setattr(reporting.time, "monotonic", iter(range(9)).__next__)
    first, second = Progress("first", total=10), Progress("second", total=10)
    first.advance()
    second.advance()
    first.close()
    assert reporting._bars is not None, "the second is still drawn"
    second.close()
    second.close()
    assert reporting._bars is None


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


@pytest.mark.parametrize(
    "step, evaluations, expected", [(0, 0, 0), (2, 0, 3), (2, 1, 4), (2, 2, 5), (2, 9, 5), (3, 0, 6)]
)
def test_evaluations_that_a_checkpoint_does_not_have_are_deleted(
    step: int, evaluations: int, expected: int, tmp_path: Path
) -> None:
    """They are made again: of step 0 before any checkpoint, of a later step if a resumed run was killed after one."""
    names = [(0, "eval_loss"), (1, "loss"), (2, "loss"), (2, "eval_loss"), (2, "eval_loss"), (3, "loss")]
    path = tmp_path / "metrics.jsonl"
    whole = [json.dumps({"step": number, name: 0.5, "n": n}) for n, (number, name) in enumerate(names)]
    path.write_text("".join(f"{line}\n" for line in whole))
    MetricsFile(path, keep_to_step=step, evaluations=evaluations)
    kept = path.read_text().splitlines()
    assert len(kept) == expected
    assert kept == [line for line in whole if line in kept], "the first of a step stay"
