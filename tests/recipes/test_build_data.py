"""Builders by name: the one that a config names is imported, and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from align.config import Section, help_text, load_config
from align.errors import ConfigError
from align.source_code import code_of
from data_builders.catalog import BUILDERS, build_function, config_class, uses_model
from recipes.build_data import BuildDataRecipe

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes" / "configs" / "data").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_of_the_catalogue_has_settings_a_function_and_help(name: str) -> None:
    assert issubclass(config_class(name), Section)
    assert callable(build_function(name))
    text = help_text(BuildDataRecipe, "build_data.py", name)
    assert BUILDERS[name].summary in text
    others = [other for other in BUILDERS if other != name and f"  {other}." in text]
    assert not others
    fields = config_class(name).model_fields
    assert all(f"\n  {name}.{field}" in text for field in fields)


def test_the_settings_of_the_builder_quality_say_whether_it_loads_a_model() -> None:
    """Each of its processes then takes a GPU of its own; other builders that share their work always do so."""
    model = {"path": "m"}
    quality, shared = config_class("quality"), config_class("knowledge_probe").model_construct()
    assert not uses_model(quality.model_validate({"path": "a.jsonl"}))
    for gate in ({"grades": {"judge": model}}, {"grades": {"reward_model": model}}, {"semantic": {"enabled": True}}):
        assert uses_model(quality.model_validate({"path": "a.jsonl", **gate}))
    assert uses_model(shared)


@pytest.mark.slow
def test_the_list_of_builders_imports_none_of_them(tmp_path: Path) -> None:
    config = tmp_path / "one.yaml"
    config.write_text("output: x\nsft_mix: {sources: {}}\n")
    code = (
        "import json, runpy, sys\n"
        "sys.argv = json.loads(sys.argv[1])\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as left:\n"
        "    print(file=sys.stderr)\n"
        "    print(json.dumps([name for name in sys.modules if name.startswith('data_builders.')]), file=sys.stderr)\n"
    )

    def imported(*argv: str) -> set[str]:
        command = [sys.executable, "-c", code, json.dumps([str(ROOT / "recipes" / "build_data.py"), *argv])]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return set(json.loads(done.stderr.splitlines()[-1]))

    assert imported("--help") == {"data_builders.catalog"}
    mix = imported(str(config))
    assert "data_builders.quality.mix" in mix
    assert not [name for name in mix if "tool_use" in name or "questions" in name or "rehearsal" in name]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("preference: {}\n", "config.yaml:2: preference: is not a setting. Did you mean preferences?"),
        ("no_builder: {}\n", "no_builder: is not a setting. Known here: document_questions, "),
        ("", f"expected exactly one builder section ({', '.join(BUILDERS)}), found none"),
        ("preferences: {path: a}\ntool_use: {}\n", "found preferences and tool_use"),
        ("preferences: {pth: a}\n", "config.yaml:2: preferences.pth: is not a setting. Did you mean preferences.path?"),
    ],
)
def test_a_config_without_exactly_one_known_builder_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"output: x\n{text}")
    with pytest.raises(ConfigError) as caught:
        load_config(BuildDataRecipe, config)
    assert expected in str(caught.value)


def test_a_section_that_is_null_counts_as_not_given(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("output: x\npreferences: {path: a}\ntool_use: null\n")
    assert load_config(BuildDataRecipe, config).builder == "preferences"


@pytest.mark.slow
def test_shipped_configs_use_every_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    used = {load_config(BuildDataRecipe, config).builder for config in CONFIGS}
    assert BUILDERS.keys() - used <= {"tool_use"}, "each builder has a YAML to start from"


@pytest.mark.slow
def test_the_code_of_a_stage_is_that_of_its_builder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_config(BuildDataRecipe, "recipes/configs/data/knowledge_probe.yaml")
    assert set(recipe.code_modules()) == {
        "data_builders.knowledge_probe.builder",
        "data_builders.knowledge_probe.config",
    }
    found = code_of(*recipe.code_modules())
    assert "data_builders/knowledge_probe/verdicts.py" in found
    assert "data_builders/catalog.py" not in found
    assert not [name for name in found if name.startswith("data_builders/tool_use/")]
