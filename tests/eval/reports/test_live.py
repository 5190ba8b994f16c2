"""The live view: it follows the ledger and the metrics of a run, and answers to its own name only."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from align.errors import ConfigError
from align.rounds.ledger import Ledger
from eval.reports.live import LiveReport, LiveServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(LiveReport(tmp_path / "run", samples=2, seconds=0.2), port=0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def read(server: LiveServer, path: str = "", **headers: str) -> tuple[int, str]:
    try:
        with urlopen(Request(server.address + path, headers=headers), timeout=300) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def start_sft(run: Path) -> Path:
    """A run whose first stage has begun; its folder, which does not exist yet."""
    return start(run, "sft")


def start(run: Path, recipe: str) -> Path:
    folder = run / "round-1" / recipe
    ledger = Ledger(run / "ledger.sqlite")
    ledger.begin_stage(
        ledger.begin_run("python recipes/rounds.py"), label=f"round-1/{recipe}", name=recipe, round_number=1,
        recipe=recipe, key="k", command="c", config={"training": {"output_dir": str(folder)}}, inputs={},
    )  # fmt: skip
    ledger.close()
    return folder


def train(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {n}, "loss": {3 / n}}}\n' for n in (1, 2, 3)))


def test_a_run_is_followed_from_before_its_start_to_its_metrics(server: LiveServer, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert read(server) == (503, f"{run}: contains no ledger.sqlite, so it is not the folder of a run. "
                                 "Run recipes/rounds.py first, or set run_dir.")  # fmt: skip
    folder = start_sft(run)
    assert "No stage has written metrics." in read(server)[1]
    started = read(server, "state")[1]
    train(folder)
    assert read(server, "state")[1] != started
    status, shown = read(server)
    assert status == 200
    assert "sft: loss" in shown, "of a stage that has not finished"
    assert f'data-state="{read(server, "state")[1]}"' in shown, "reading has changed nothing"
    assert server.report.page() is server.report.page(), "the page is made once for each state"


def test_what_runs_now_is_named_but_not_the_stage_that_makes_the_report(tmp_path: Path) -> None:
    """The report of a finished run is made by its last stage, and said that the run was still running."""
    start(tmp_path, "report")
    with (tmp_path / ".lock").open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert "Running:" not in LiveReport(tmp_path, samples=2, seconds=1).page()
        start(tmp_path, "sft")
        assert "Running: round-1/sft, for" in LiveReport(tmp_path, samples=2, seconds=1).page()
    assert "Running:" not in LiveReport(tmp_path, samples=2, seconds=1).page(), "no process drives the run"


@pytest.mark.slow
def test_an_open_page_loads_itself_again_when_there_is_something_new(
    server: LiveServer, tmp_path: Path, browser: Any
) -> None:
    folder = start_sft(tmp_path / "run")
    tab = browser.new_page()
    tab.set_default_timeout(120_000)  # the machine may be busy
    tab.goto(server.address)
    tab.get_by_text("No stage has written metrics.").wait_for()
    train(folder)
    tab.locator("#training figure svg .mark-group").first.wait_for()
    tab.close()


def test_it_answers_to_its_own_name_and_listens_on_this_machine_only(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    port = server.server_port
    assert read(server, "state", Host=f"attacker.example:{port}")[0] == 403
    assert read(server, "state", Host=f"localhost:{port}")[0] == 200
    assert read(server, "other")[0] == 404


def test_a_port_that_is_taken_is_named(server: LiveServer) -> None:
    with pytest.raises(ConfigError, match=f"port: {server.server_port} cannot be used"):
        LiveServer(server.report, server.server_port)


def test_the_recipe_serves_until_it_is_interrupted(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from align.config import load_config
    from recipes.report import ReportRecipe, run

    config = tmp_path / "report.yaml"
    outputs = {"html": str(tmp_path / "r.html"), "markdown": str(tmp_path / "r.md")}
    config.write_text(json.dumps({"run_dir": str(run_dir), **outputs, "serve": True, "port": 0}))
    asked: list[int] = []

    def serve_forever(self: LiveServer) -> None:
        asked.append(self.server_port)
        raise KeyboardInterrupt

    monkeypatch.setattr(LiveServer, "serve_forever", serve_forever)
    run(load_config(ReportRecipe, config))
    assert f"http://127.0.0.1:{asked[0]}/" in capsys.readouterr().out
    assert not (tmp_path / "r.html").exists()
