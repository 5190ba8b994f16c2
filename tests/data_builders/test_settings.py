"""The settings of the builders, as `--help` and the configuration reference show them, and who imports demo data."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from data_builders.catalog import BUILDERS, config_class

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "data_builders").rglob("*.py"))
SETTINGS = ("Section", "Reading", "BadRows")


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def settings_classes() -> list[tuple[Path, ast.ClassDef]]:
    return [
        (file, node)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id in SETTINGS for b in node.bases)
    ]


@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_has_a_purpose_in_one_line(name: str) -> None:
    purpose = (config_class(name).__doc__ or "").splitlines()
    assert purpose, "say what the builder is for"
    assert purpose[0].endswith("."), purpose[0]


@pytest.mark.slow
def test_every_setting_of_a_builder_is_documented() -> None:
    classes = settings_classes()
    assert len(classes) > 20, "the walk found too few classes"
    missing = []
    for file, node in classes:
        for line, following in zip(node.body, [*node.body[1:], None], strict=True):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if isinstance(line, ast.AnnAssign) and not is_text:
                missing.append(f"{file.relative_to(ROOT)}:{line.lineno}: {ast.unparse(line.target)}")
    assert not missing, missing


@pytest.mark.slow
def test_demo_data_is_not_imported_by_the_builders_of_a_users_data() -> None:
    """`rehearsal/` is used by itself only; the packaged sources also by the facts, and as a default of `defaults`."""
    allowed = ("data_builders/rehearsal/", "data_builders/questions/facts/", "data_builders/questions/from_facts.py")
    defaults = (
        "data_builders/tool_use/imported.py",
        "data_builders/instructions/sources.py",
        "data_builders/maths/builder.py",
        "data_builders/maths/problems.py",
        "data_builders/quality/card.py",  # names the licences of packaged sources that rows say they are from
    )
    found = []
    for file in FILES:
        here = str(file.relative_to(ROOT))
        for name in imports_of(file):
            if name.startswith("data_builders.rehearsal") and not here.startswith(allowed[0]):
                found.append(f"{here} -> {name}")
            if name.startswith("data_builders.packaged") and not here.startswith(allowed):
                found += [f"{here} -> {name}"] * (here not in defaults)
    assert len(FILES) > 40
    assert not found, found
