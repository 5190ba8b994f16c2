"""The command line of recipes: three forms of a setting, and what is said about words that are none."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from align.config import config_from_argv, help_text, load_config
from align.config_values import held_by, holder_of, kinds_of, prepared
from align.errors import ConfigError
from align.rounds.plan import RoundsConfig, load_stages, recipe_class
from data_builders.catalog import BUILDERS
from data_builders.catalog import config_class as builder_config
from eval.catalog import EVALUATIONS
from eval.catalog import config_class as evaluation_config

RECIPES = Path(__file__).parents[2] / "recipes"
SFT = recipe_class(RECIPES, "sft")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    text = "model: {path: m}\ndata: {path: rows.jsonl}\ntraining: {output_dir: out, learning_rate: 1.0e-5}\n"
    for name in ("sft.yaml", "runs/lr=1e-4.yaml"):
        (tmp_path / name).write_text(text)
    (tmp_path / "list.yaml").write_text("- a\n")
    return "sft.yaml"


@pytest.mark.parametrize(
    "words",
    [
        ("training.learning_rate=1e-4",),
        ("--training.learning_rate=1e-4",),
        ("--training.learning_rate", "1e-4"),
        ("training.learning_rate=3", "--training.learning_rate", "1e-4"),
    ],
)
def test_the_three_forms_of_a_setting_are_the_same(words: tuple[str, ...], config: str) -> None:
    expected = load_config(SFT, config, ["training.learning_rate=1e-4"])
    assert config_from_argv(SFT, [config, *words]) == expected
    assert config_from_argv(SFT, [*words, config]) == expected, "in any order"
    assert config_from_argv(SFT, ["runs/lr=1e-4.yaml", *words]) == expected, "a file's name may look like a setting"


def test_a_value_may_begin_with_a_dash(config: str) -> None:
    for words in (["--data.columns={a: -1}"], ["--data.path", "-"], ["--data.path=--x"], ["data.path=-x=1"]):
        try:
            found = config_from_argv(SFT, [config, *words])
        except SystemExit:
            assert words == ["--data.columns={a: -1}"]  # not a setting of this recipe
        else:
            assert str(found.model_dump()["data"]["path"]) in ("-", "--x", "-x=1")


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--learning_rate", "1e-4"], "learning_rate: is not a setting. Did you mean training.learning_rate?"),
        (["learning_rate=1e-4"], "command line: learning_rate: is not a setting. Did you mean training.learning_rate?"),
        (["--lr=1e-4"], "command line: lr: is not a setting. Did you mean training.learning_rate?"),
        (["--training.lr=1"], "command line: training.lr: is not a setting. Did you mean training.learning_rate?"),
        (["--training.learning-rate=1"], "is not a setting. Did you mean training.learning_rate?"),
        (["--Training.seed=1"], "command line: Training: is not a setting. Did you mean training?"),
        (["--path", "x"], "command line: path: is not a setting. Did you mean model.path or data.path?"),
        (["--training.checks"], "has no value. Write --training.checks=value; a switch has a value too: --training.ch"),
        (["--training.checks", "--training.seed=1"], "--training.checks: has no value."),
        (["--no-training.checks"], "has no value, and settings are not negated. Write --training.checks=false."),
        (["--training.checks=yes"], "training.checks: must be true or false, got 'yes'. Start from true."),
        (["-training.seed=3"], "-training.seed=3: options begin with two dashes. Write --training.seed=3."),
        (["training.seed", "=", "3"], "a setting has no spaces around its equals sign. Write training.seed=3."),
        (["training.seed:3"], "training.seed:3: expected key=value. Write training.seed=3."),
        (["training.seed"], "training.seed: expected key=value. Write for example training.seed=1."),
        (["--config", "sft.yaml"], "--config: the config file is no option. Write the file's name alone: sft.yaml."),
        (["other.yaml"], "other.yaml: is a second config file, after sft.yaml. Name one file; override with"),
        (["--training.seed=-1"], "command line: training.seed: must be from 0 to 4294967295, got -1. Start from 0."),
        (["--training.seed", "-1"], "command line: training.seed: must be from 0 to 4294967295, got -1. Start from 0."),
        (["training.learning_rate=0,1"], "training.learning_rate: must be a number, got '0,1'. Start from 1e-05."),
        (["training.learning_rate="], "training.learning_rate: must be a number, got null. Start from 1e-05."),
        (["training.schedule=cosin"], "'linear' or 'constant', got 'cosin'. Did you mean cosine?"),
        (["model=x"], "model: must be a section of `key: value` lines, got 'x'. Did you mean model.path=x?"),
        (["data=a.jsonl"], "must be a section of `key: value` lines, got 'a.jsonl'. Did you mean data.path=a.jsonl?"),
        (["training=3"], "got 3. Its settings are written below it, such as training.output_dir."),
        (["model.lora=true"], "got true. Write its settings, such as model.lora.rank, or model.lora={} for all"),
        (["data.ignore_columns={a: 1}"], "must be a list, got {'a': 1}. Write it as a list: data.ignore_columns=[...]"),
        (["data.levels=better"], "data.levels: is not a setting."),
        (["model.path=3"], "command line: model.path: must be a path, got 3."),
        (["model.path={a: 1}"], "command line: model.path: must be a path, got {'a': 1}."),
    ],
)  # fmt: skip
def test_words_that_are_no_setting_say_what_to_write(
    words: list[str], expected: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        config_from_argv(SFT, [config, *words])
    assert left.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, expected",
    [
        (["."], ".: is a folder, and a config file is expected. Name a file in it, such as list.yaml."),
        (["sft.yml"], "sft.yml: cannot be read (No such file or directory). Did you mean sft.yaml?"),
        (["nothing.yaml"], "nothing.yaml: cannot be read (No such file or directory). Name a YAML file first"),
        (["rows.jsonl"], "rows.jsonl: is a file of data, and a config file is expected."),
        (["list.yaml"], "list.yaml: expected settings as `key: value`, found a list."),
        (["training.seed=1"], "command line: names no config file. Name a YAML file first, then key=value."),
        (["--config=sft.yaml"], "--config=sft.yaml: the config file is no option. Write the file's name alone"),
    ],
)  # fmt: skip
def test_a_word_that_is_no_config_file_says_so(
    words: list[str], expected: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        config_from_argv(SFT, words)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(expected)


def test_one_process_of_a_launch_tells_the_mistake(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit) as left:
            config_from_argv(SFT, [config, "--training.seed"])
        assert left.value.code == 2
        said.append(capsys.readouterr().err)
    assert said[0]
    assert not said[1]


def test_help_describes_the_forms() -> None:
    text = help_text(SFT, "sft.py")
    assert "A setting is given as key=value, --key=value or --key value, and replaces the one of the YAML file." in text
    assert "true and false are written out: --training.checks=false." in text


# A single value for a list


def lists_in(section: type[BaseModel], key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any], Any]]:
    """Key, kinds and a single value for every list of text, paths, numbers or choices in a config and its sections."""
    for name, field in section.model_fields.items():
        kinds = kinds_of(field.annotation)
        holder = holder_of(kinds)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from lists_in(kind, (*key, name))
        if holder is None or typing.get_origin(holder) is dict:
            continue
        for kind in kinds_of(held_by(holder)):
            if typing.get_origin(kind) is typing.Literal:
                yield (*key, name), kinds, typing.get_args(kind)[0]
            elif kind in (str, Path):
                yield (*key, name), kinds, "x.jsonl"
            elif kind in (int, float):
                yield (*key, name), kinds, 1


@pytest.mark.slow
def test_a_single_value_is_a_list_of_one_in_every_config() -> None:
    recipes = [recipe_class(RECIPES, file.stem) for file in sorted(RECIPES.glob("*.py"))]
    sections = [*recipes, *map(builder_config, BUILDERS), *map(evaluation_config, EVALUATIONS)]
    found = 0
    for section in sections:
        for key, kinds, value in lists_in(section):
            refused: list[Any] = []
            made = prepared(kinds, value, key, lambda at, detail, refused=refused: refused.append((at, detail)))
            one_or_several = any(kind in (str, Path) for kind in kinds) or not isinstance(made, list)
            assert made == [value] or one_or_several, f"{section.__name__}: {'.'.join(key)}"
            assert not refused
            found += made == [value]
    assert found > 15


def test_a_single_value_works_in_yaml_on_the_command_line_and_in_rounds(config: str, tmp_path: Path) -> None:
    expected = ("tensorboard",)
    assert (
        config_from_argv(SFT, [config, "training.report_to=tensorboard"]).model_dump()["training"]["report_to"]
        == expected
    )
    (tmp_path / "one.yaml").write_text((tmp_path / config).read_text().replace("out,", "out, report_to: tensorboard,"))
    assert load_config(SFT, "one.yaml").model_dump()["training"]["report_to"] == expected
    stage = {"name": "sft", "recipe": "sft", "config": "sft.yaml", "set": {"training.report_to": "tensorboard"}}
    places = {"training.output_dir": "{round_dir}/sft", "model.path": "{start}", "data.path": "rows.jsonl"}
    stage["set"] |= places  # type: ignore[operator]
    (tmp_path / "m").mkdir()
    rounds = RoundsConfig.model_validate(
        {"run_dir": "run", "start": "m", "rounds": 1, "best": "sft", "each_round": [stage]}
    )
    (planned,) = load_stages(rounds, RECIPES)
    assert planned.config.model_dump()["training"]["report_to"] == expected
    for wrong in ("{a: b}", "3", "[wandb, 3]"):
        with pytest.raises(ConfigError, match=r"training\.report_to"):
            load_config(SFT, config, [f"training.report_to={wrong}"])
