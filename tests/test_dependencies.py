"""Every library that is imported is declared in pyproject.toml, and every declared one is imported or has a reason."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from align import optional
from align.config import Section
from align.errors import ConfigError
from align.judges.verifiers.catalog import LIBRARIES
from align.optional import DISTRIBUTION, library
from align.settings import SamplingConfig
from align.tools.catalog import ToolsConfig
from align.trackers import TRACKERS
from data_builders.annotation.settings import ServerConfig
from data_builders.quality.settings import DuplicatesConfig, LanguageConfig, SemanticConfig
from eval.benchmarks import BenchmarksConfig

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MISSING, HALF_THERE = "no_such_library.part", "half_there"
OWN = {"align", "data_builders", "eval", "recipes", "tests"}

NOT_IMPORTED = {
    "accelerate": "starts processes: `accelerate launch`; transformers trains with it",
    "deepspeed": "the engine of ZeRO-3, which accelerate starts",
    "gguf": "transformers reads GGUF files with it",
    "bitsandbytes": "transformers quantizes with it",
    "lxml": "the parser that beautifulsoup4 is asked for by name",
    "tensorboard": "a tracker, which transformers calls",
    "wandb": "a tracker, which transformers calls",
    "trackio": "a tracker, which transformers calls",
    "mlflow": "a tracker, which transformers calls",
    "mkdocs-material": "the theme that mkdocs.yml names",
    "mkdocstrings": "the plugin that mkdocs.yml names",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "ruff": "a command of `make check`",
    "mypy": "a command of `make check`",
    "codespell": "a command of `make check`",
    "bandit": "a command of `make check`",
    "pip-audit": "the command of `make audit`",
    "types-pyyaml": "types that mypy reads",
    "tiktoken": "transformers converts Llama's tokenizer with it",
}
BROUGHT = {"pydantic_core": "pydantic", "lxml": "lxml", "PIL": "", "flash_pref": "", "mkdocs": "mkdocs-material"}
"""Modules whose distribution comes with another one that is declared, or that a test does without if missing."""


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """Distributions of the base and of the named extras, without those of an extra that an extra names."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {normalized(re.split(r"[<>=~!\[;]", line)[0].strip()) for line in lines} - {DISTRIBUTION}


@cache
def names_in(file: Path) -> list[tuple[str, int]]:
    """The modules that a file imports, with their lines."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "library" and node.args:
            names = [str(node.args[0].value)] if isinstance(node.args[0], ast.Constant) else []
        found += [(name, node.lineno) for name in names]
    return found


def imported(*folders: str) -> dict[str, str]:
    """Top-level module -> the first place that imports it, by `import` or by `library("name")`."""
    found: dict[str, str] = {}
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    assert len(files) > 5, f"the walk found {len(files)} files only"
    siblings = {file.stem for file in files}  # scripts of one folder import each other by their bare names
    for file in files:
        for name, line in names_in(file):
            found.setdefault(name.partition(".")[0], f"{file.relative_to(ROOT)}:{line}")
    ours = OWN | set(sys.stdlib_module_names)
    siblings -= {"tokenizers", "vllm"}  # libraries, whose names files of ours have too
    return {name: where for name, where in found.items() if name not in ours | siblings}


def undeclared(modules: dict[str, str], allowed: set[str]) -> list[str]:
    owners = packages_distributions()
    wrong = []
    for module, where in modules.items():
        names = {BROUGHT[module]} if module in BROUGHT else {normalized(name) for name in owners.get(module, [module])}
        if not names & (allowed | {""}):
            wrong.append(f"{where} imports {module}, which no requirement brings")
    return wrong


@pytest.mark.slow
def test_every_import_of_the_package_is_declared() -> None:
    users = [extra for extra in PROJECT["optional-dependencies"] if extra not in ("dev", "bench", "docs")]
    modules = imported("align", "data_builders", "eval", "recipes")
    assert {"torch", "numpy", "sympy", "yaml"} <= modules.keys(), "the walk misses imports"
    assert not undeclared(modules, declared(*users))


def test_the_libraries_that_settings_name_are_brought_by_their_extras() -> None:
    tools = ToolsConfig(built_in=("brave_search", "wolfram_alpha", "read_file"))
    sections: list[Section] = [
        ServerConfig(),
        LanguageConfig(enabled=True),
        DuplicatesConfig(),
        SemanticConfig(enabled=True),
        tools,
    ]
    sections += [BenchmarksConfig(tasks=("arc_easy",)), SamplingConfig(backend="vllm")]
    found = [section.libraries() for section in sections]
    assert all(found)
    owners = packages_distributions()
    for module, extra in (pair for names in (*found, *LIBRARIES.values()) for pair in names.items()):
        brought = {normalized(name) for name in owners.get(module, [module])}
        assert brought & declared(extra), f"{module} is not in the extra {extra}"


@pytest.mark.slow
def test_every_import_of_tests_and_docs_is_declared() -> None:
    assert not undeclared(imported("tests", "docs"), declared(*PROJECT["optional-dependencies"]))


@pytest.mark.slow
def test_an_import_that_nothing_brings_is_found() -> None:
    modules = {"numpy": "a.py:1", "requests": "a.py:2", "no_such_module": "a.py:3"}
    found = undeclared(modules, declared())
    assert [line.split()[0] for line in found] == ["a.py:2", "a.py:3"]


@pytest.mark.slow
def test_every_requirement_is_imported_or_has_a_reason() -> None:
    owners = packages_distributions()
    modules = imported("align", "data_builders", "eval", "recipes", "tests")
    used = {normalized(owner) for module in modules for owner in owners.get(module, [module])}
    unused = declared(*PROJECT["optional-dependencies"]) - used
    assert unused <= NOT_IMPORTED.keys(), f"nothing imports {sorted(unused - NOT_IMPORTED.keys())}"


def test_a_tracker_that_names_no_package_has_an_extra_of_its_name() -> None:
    without = {name for name, tracker in TRACKERS.items() if tracker.modules and not tracker.packages}
    assert without == {"tensorboard", "wandb", "trackio", "mlflow"}
    assert without <= PROJECT["optional-dependencies"].keys()


def test_a_missing_library_names_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigError) as caught:
        library(MISSING, "tools", "align.tools")
    assert str(caught.value) == (
        "align.tools: the library no_such_library.part is required, but not installed. "
        "Install the extra: pip install 'align-post-training[tools]'."
    )
    assert PROJECT["name"] == DISTRIBUTION


def test_an_import_that_fails_inside_a_library_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{HALF_THERE}.py").write_text("import missing_inside\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert optional.is_installed(HALF_THERE)
    with pytest.raises(ModuleNotFoundError, match="missing_inside"):
        library(HALF_THERE, "tools", "align.tools")
