"""The settings of every recipe, found by reflection: what each path refuses, and how mistakes are answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from align.config import Recipe, config_from_argv, help_text, load_config
from align.errors import ConfigError
from align.rounds.plan import recipe_class
from align.settings import INPUT, OUTPUT, paths_of

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
NAMES = sorted(file.stem for file in RECIPES.glob("*.py"))
FOLDERS = {"build_data": "data"}
"""Recipe -> its folder under recipes/configs, where that has another name."""


def shipped(name: str) -> list[Path]:
    return sorted((RECIPES / "configs" / FOLDERS.get(name, name)).glob("*.yaml"))


def path_settings() -> Iterator[tuple[type[Recipe], Path, str]]:
    """One example of each path setting that a shipped config has."""
    seen = set()
    for name in NAMES:
        recipe = recipe_class(RECIPES, name)
        for config in shipped(name):
            loaded = load_config(recipe, config)
            for key in paths_of(loaded, INPUT) | paths_of(loaded, OUTPUT):
                if (name, key) not in seen:
                    seen.add((name, key))
                    yield recipe, config, key


@pytest.mark.slow
def test_every_recipe_has_configs_with_paths() -> None:
    assert {recipe.__module__.removeprefix("_recipe_") for recipe, *_ in path_settings()} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "value, expected",
    [
        ("''", "must not be empty"),
        ("'  '", "must not be empty"),
        ("a\0b", "holds a NUL character"),
        ('"a\\nb"', "a path has no control characters"),
        ("x" * 256, "has a name of 256 bytes"),
        ("~no-such-user/x", "there is no such user"),
    ],
)
def test_no_path_setting_takes_what_no_file_system_has(
    value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for recipe, config, key in path_settings():
        setting = key.rpartition(".")[0] if key.rpartition(".")[2].isdigit() else key  # one alone is a list of one
        message = refusal(recipe, config, f"{setting}={value}")
        if "there is no path to set" in message:  # the file writes a section with a path as the path alone
            message = refusal(recipe, config, f"{setting.removesuffix('.path')}={value}")
        assert expected in message, (config.name, key)


def refusal(recipe: type[Recipe], config: Path, override: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, config, [override])
    return str(caught.value)


@pytest.mark.parametrize("value", ["", "a b", "x" * 256, "~no-such-user/x"])
def test_a_source_written_as_a_section_checks_its_path_too(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = RECIPES / "configs" / "sft" / "llama3.1-8b.yaml"
    given = [f'data.path={{path: "{value}", weight: 2}}']
    if value == "a b":
        assert load_config(recipe_class(RECIPES, "sft"), config, given).data.path.path == "a b"
        return
    with pytest.raises(ConfigError, match=r"data\.path\.path: "):
        load_config(recipe_class(RECIPES, "sft"), config, given)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_help_explains_every_paper_that_a_setting_cites(name: str) -> None:
    recipe = recipe_class(RECIPES, name)
    for topic in ("", *recipe.catalogue()):
        settings, _, papers = help_text(recipe, name, topic).partition("cited above:")
        assert not re.findall(r"\bP (?:\d|table|eq)|\bL2\b", settings), "abbreviations of papers"
        cited = set(re.findall(r"arXiv:(\d{4}\.\d{5})", settings))
        cited |= set(re.findall(r"\b(Llama [23])\b(?!\.)", settings)) | set(re.findall(r"(\w+) et al", settings))
        assert all(each in papers for each in cited), (topic, cited)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_config_that_is_missing_or_has_an_unknown_key_ends_every_recipe_with_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_class(RECIPES, name)
    config = tmp_path / "config.yaml"
    for text, expected in [(None, "cannot be read"), ("<<: {a: 1}\n", "<<: is not a setting")]:
        if text is not None:
            config.write_text(text)
        with pytest.raises(SystemExit) as caught:
            config_from_argv(recipe, [str(config)])
        assert caught.value.code == 2
        assert expected in capsys.readouterr().err
