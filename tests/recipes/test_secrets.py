"""Secrets come from the environment only, and are nowhere after a run: not in files, not in what is printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from align.config import Recipe, main
from align.trainers.base import TreeTrainer
from tests.recipes.test_user_errors import ROWS, module_of

# In parts, so that a scan of this repository for keys finds none.
KEYS = {
    "a Hugging Face token": "hf" + "_" + "a1B2c3D4" * 4,
    "an API key": "sk" + "-proj-" + "a1B2c3D4" * 4,
    "an AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a GitHub token": "ghp" + "_" + "a1B2c3D4" * 5,
    "a GitLab token": "glpat" + "-" + "a1B2c3D4" * 3,
    "a Slack token": "xoxb" + "-123456789012-abcdef",
    "a Google key": "AIza" + "SyA1B2C3" * 4 + "abc",
    "a JSON web token": "eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0" + ".c2lnbmF0dXJl",
    "a password in an address": "s3://ann:" + "pa55word@bucket/rows",
}
ENVIRONMENT = {
    "HF_TOKEN": "hf" + "_" + "canaryOfTheHub99" * 2,
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI" + "/K7MDENG/bPxRfiCYcanary1",
    "MYTOKENFORX": "canary-without-any-known-form-2",
    "OPENAIKEY": "canary-without-any-known-form-3",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "DB_PASSWORD": "canary-without-any-known-form-4",
}

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str], caplog) -> Run:
    """Runs the recipe sft, which may fail; returns all that was printed and logged."""
    (tmp_path / "rows.jsonl").write_text(ROWS)
    config = tmp_path / "sft.yaml"
    values = {
        "model": {"path": str(tiny_checkpoint)},
        "data": {"path": str(tmp_path / "rows.jsonl")},
        "training": {"output_dir": str(tmp_path / "out"), "batch_size": 2, "max_steps": 2, "save_steps": 1},
    }
    module = module_of("sft")
    recipe = next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Recipe) and value.__module__ == module.__name__
    )

    def start(*words: str, fails: type[BaseException] | None = None, **changes: object) -> str:
        config.write_text(json.dumps(values | changes))
        if fails is None:
            main(recipe, module.run, [str(config), *words])
        else:
            with pytest.raises(fails):
                main(recipe, module.run, [str(config), *words])
        printed = capfd.readouterr()
        return printed.out + printed.err + caplog.text

    return start


def found_in(folder: Path, said: str, secrets: list[str]) -> list[str]:
    """Where secrets are: names of files, and `printed`."""
    texts = {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()} | {"printed": said.encode()}
    return [f"{name}: {secret[:6]}" for name, text in texts.items() for secret in secrets if secret.encode() in text]


@pytest.mark.parametrize("what", KEYS)
def test_a_config_or_command_line_with_a_secret_is_refused_without_showing_it(
    what: str, run: Run, tmp_path: Path
) -> None:
    key = KEYS[what]
    on_the_line = [f"training.run_name={key}", f"hub.token={key}", f"--data.path={key}", key, f"data.path=[a, {key}]"]
    for words in on_the_line:
        said = run(words, fails=SystemExit)
        assert re.search(rf"command line, word 2: holds {what}; .*set it as an environment variable", said), said
        assert key not in said
    placed = [{"hub": {"token": key}}, {"data": {"path": [f"rows-{key}", "b"]}}, {key: 1}, {"sft": {"a": [{"b": key}]}}]
    for changes in placed:
        said = run(fails=SystemExit, **changes)
        assert re.search(rf"sft\.yaml:\d+: .*: holds {what}; ", said), said
        assert key not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "sft.yaml"]


def test_the_value_of_a_secret_variable_is_refused_in_a_config(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("MYTOKENFORX", "OPENAIKEY", "DB_PASSWORD"):
        said = run(f"training.run_name=x-{ENVIRONMENT[name]}", fails=SystemExit)
        assert f"holds the value of {name}; " in said
        assert ENVIRONMENT[name] not in said


@pytest.mark.slow
def test_secrets_of_the_environment_are_nowhere_after_runs_that_end_well_or_fail(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ALIGN_DEBUG", "1")  # with tracebacks
    said = run("training.report_to=[tensorboard]")
    assert (tmp_path / "out" / "MANIFEST.json").is_file()
    assert list(tmp_path.rglob("events.out.tfevents*")), "a tracker has written its files"

    (tmp_path / "bad.jsonl").write_text(ROWS + "{not JSON\n")
    bad = f"data.path={tmp_path / 'bad.jsonl'}"
    said += run(bad, f"training.output_dir={tmp_path / 'bad'}", fails=SystemExit)
    assert "bad.jsonl:5" in said

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake in a step")

    monkeypatch.setattr(TreeTrainer, "training_step", broken)
    said += run(f"training.output_dir={tmp_path / 'broken'}", fails=RuntimeError)
    assert found_in(tmp_path, said, list(ENVIRONMENT.values())) == []
    (tmp_path / "canary").write_text(ENVIRONMENT["HF_TOKEN"])
    assert found_in(tmp_path, said, list(ENVIRONMENT.values())), "the search finds what is there"
