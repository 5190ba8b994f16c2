"""The catalogue of evaluations: one entry is enough, and an evaluation is imported only when a config names it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from align.config import Section, load_config
from eval.catalog import EVALUATIONS, Evaluation, config_class, evaluate_function
from recipes.run_eval import RunEvalRecipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_evaluation_has_settings_a_function_and_help(name: str) -> None:
    assert issubclass(config_class(name), Section)
    assert callable(evaluate_function(name))
    assert RunEvalRecipe.catalogue()[name]


def test_one_entry_adds_an_evaluation_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "added_evaluation.py").write_text(
        "from align.config import Section\n\n\nclass AddedConfig(Section):\n    size: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EVALUATIONS, "added", Evaluation("added_evaluation:AddedConfig", "model", "An added one."))
    config = tmp_path / "eval.yaml"
    config.write_text(f"model: {{path: {tmp_path}}}\nadded: {{size: 5}}\noutput_dir: {tmp_path}\n")
    recipe = load_config(RunEvalRecipe, config)
    assert {name: section.model_dump() for name, section in recipe.sections.items()} == {"added": {"size": 5}}
    assert recipe.code_modules() == ("eval.runner", "added_evaluation")


@pytest.mark.slow
def test_a_config_imports_the_evaluations_that_it_names_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "eval.yaml").write_text(
        f"model: {{path: {tmp_path}}}\ntool_use: {{rows: rows.jsonl}}\nbfcl: null\noutput_dir: {tmp_path}\n"
    )
    code = (
        "import sys\n"
        "from align.config import load_config\n"
        "from recipes.run_eval import RunEvalRecipe\n"
        "names = lambda: sorted(name for name in sys.modules if name.startswith('eval.'))\n"
        "before = names()\n"
        "load_config(RunEvalRecipe, sys.argv[1])\n"
        "print(before, sorted({'eval.factuality', 'eval.tool_use', 'eval.bfcl'} & set(names())))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "eval.yaml")], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.strip() == "['eval.catalog'] ['eval.tool_use']", ran.stderr
