"""The console command: every recipe by its name, with the exit code and the messages of the recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from align.cli import RECIPES, commands, main, usage

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in RECIPES.glob("*.py"))


def left_with(*argv: str) -> object:
    """The exit code of the command in this process; it must not start a recipe."""
    with pytest.raises(SystemExit) as left:
        main(argv)
    return left.value.code


def align(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, run in `folder`."""
    command = [sys.executable, "-m", "align.cli", *argv]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_help_lists_every_recipe_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert left_with("--help") == 0
    text = capsys.readouterr().out
    lines = {line.split("  ")[1]: line for line in text.splitlines() if line.startswith("  ") and line[2] != " "}
    assert len(NAMES) > 10
    assert {*NAMES, "assets", "data why", "init"} <= lines.keys()
    assert all(commands()[name] and len(lines[name]) <= 120 for name in NAMES)
    assert "accelerate launch" in text
    assert left_with() == 2
    assert capsys.readouterr().out.strip() == usage()


@pytest.mark.slow
def test_help_imports_no_recipe_and_no_config() -> None:
    code = "import sys, align.cli; align.cli.usage(); print([n for n in sys.modules if n in ('pydantic', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "word, expected",
    [
        ("dop", "align dop: there is no such command. Did you mean dpo?"),
        ("rewards", "Did you mean reward or "),
        ("xyzzy", "align xyzzy: there is no such command. See align --help."),
        ("../dpo", "there is no such command."),
        ("configs/x", "there is no such command."),
    ],
)
def test_an_unknown_command_names_close_ones(word: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert left_with(word, "config.yaml") == 2
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_recipe_answers_as_it_does_when_started_by_its_path(tmp_path: Path) -> None:
    by_name = align(tmp_path, "run-eval", "--help", "limit")
    command = [sys.executable, str(RECIPES / "run_eval.py"), "--help", "limit"]
    by_path = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert by_name.returncode == 0
    assert "limit (int | null, default null)" in by_name.stdout
    assert by_name.stdout.replace("align run_eval", "run_eval.py") == by_path.stdout

    bad = tmp_path / "bad.yaml"
    bad.write_text("no_such_setting: 1\n")
    refused = align(tmp_path, "dpo", "bad.yaml")
    assert refused.returncode == 2
    assert "bad.yaml:1: no_such_setting: is not a setting." in refused.stderr


@pytest.mark.slow
def test_a_recipe_runs_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}\n')
    (tmp_path / "data.yaml").write_text("output: data\npreferences: {path: rows.jsonl, heldout_ratio: 0}\n")
    done = align(tmp_path, "build_data", "data.yaml", "output=made")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "preferences.jsonl").read_text().count("\n") == 1


def test_init_copies_what_is_missing_and_leaves_what_is_there(tmp_path: Path) -> None:
    mine = tmp_path / "recipes" / "configs" / "dpo" / "tools.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine: true\n")
    done = align(tmp_path, "init")
    assert done.returncode == 0, done.stderr
    assert "left 1 that exist already" in done.stdout
    assert mine.read_text() == "mine: true\n"
    for folder in ("configs", "launch"):
        expected = {file.relative_to(RECIPES) for file in (RECIPES / folder).rglob("*.*")}
        assert len(expected) >= 4
        made = {file.relative_to(tmp_path / "recipes") for file in (tmp_path / "recipes" / folder).rglob("*.*")}
        assert made == expected
    assert not list((tmp_path / "recipes").glob("*.py"))
