"""The private parts of libraries that we use are as we know them, and all of them are in the table."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from align.trainers.hooks import HOOKS, Hook, changes

ROOT = Path(__file__).parents[3]
OURS = {"_exit", "_asdict", "_replace", "_fields", "_name_", "_value_"}


@pytest.mark.slow
def test_the_installed_versions_have_changed_nothing_that_we_use() -> None:
    assert changes() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "hook, message",
    [
        (
            Hook("transformers:Trainer._gone", "a.py", "b"),
            "transformers:Trainer._gone does not exist (used in a.py: b)",
        ),
        (
            Hook("transformers:Trainer._save", "a.py", "b", ("(self, folder)",)),
            "transformers:Trainer._save has the signature (self, output_dir=None, state_dict=None), "
            "expected (self, folder) (used in a.py: b)",
        ),
        (
            Hook("transformers:Trainer._save", "a.py", "b", callers=("log",)),
            "transformers:Trainer._save is not called by log (used in a.py: b)",
        ),
        (
            Hook("transformers:Trainer._gone", "a.py", "b", in_source=True),
            "transformers:Trainer._gone is not in the source of its class (used in a.py: b)",
        ),
    ],
)
def test_a_change_names_the_hook_what_changed_and_the_file_to_adapt(hook: Hook, message: str) -> None:
    assert changes([hook]) == [message]


def private_names_of_libraries(tree: ast.Module) -> set[str]:
    """Names with an underscore that a file reads from other objects than its own, and does not define itself."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) in ("self", "cls")
    }
    own |= {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()")
    }
    asked = {
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
        and isinstance(node.args[1], ast.Constant)
    }
    return {name for name in (read - own) | asked if name.startswith("_") and not name.startswith("__")} - OURS


@pytest.mark.slow
def test_every_private_name_of_a_library_that_training_and_models_use_is_in_the_table() -> None:
    files = [file for folder in ("trainers", "models", "tree") for file in (ROOT / "align" / folder).glob("*.py")]
    known = {hook.name.rpartition(".")[2].rpartition(":")[2] for hook in HOOKS}
    known |= {"_schema", "_parameters", "_buffers"}  # of the test's own reading, and torch's dictionaries of a module
    known |= {"_tiles"}  # of align/models/logps.py
    unknown = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in private_names_of_libraries(ast.parse(file.read_text(encoding="utf-8")))
        if name not in known
    }
    assert len(files) > 25
    assert unknown == set()


def test_every_method_of_the_trainer_that_is_replaced_is_in_the_table() -> None:
    from transformers import Trainer

    from align.trainers.base import TreeTrainer
    from align.trainers.dpo import DPOTrainer
    from align.trainers.reward import RewardTrainer
    from align.trainers.sft import SFTTrainer

    kinds: list[type[Any]] = [TreeTrainer, SFTTrainer, DPOTrainer, RewardTrainer]
    replaced = {name for kind in kinds for name in vars(kind) if hasattr(Trainer, name) and not name.startswith("__")}
    known = {hook.name.rpartition(".")[2] for hook in HOOKS if hook.name.startswith("transformers:Trainer.")}
    assert replaced - {"_abc_impl"} <= known
    assert len(replaced) >= 10
