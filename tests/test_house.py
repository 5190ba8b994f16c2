"""The layers of imports (described in CONTRIBUTING.md), and checks that hold for every recipe and every YAML."""

from __future__ import annotations

import ast
import json
import re
import resource
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from align.config import load_config
from align.rounds.plan import recipe_class

ROOT = Path(__file__).parents[1]

PACKAGES = {
    "align": set(),
    "data_builders": {"align"},
    "eval": {"align"},
    "recipes": {"align", "data_builders", "eval"},
}

LAYERS = [  # of align/, from the lowest up; a module or folder imports from layers below its own, and from itself
    {"errors"},
    {"reporting", "hub_errors", "hub_names", "hardware", "leaving", "losses"},
    {"addresses", "secret_forms", "failures", "files", "strict_yaml", "optional", "cpu_matmul"},
    {
        "optimizers",
        "source_code",
        "text",
        "rows",
        "command_line",
        "config_values",
        "harmless",
        "trackers",
        "effective_time",
    },
    {"config_help", "splits", "ngrams"},
    {"config_mistakes", "manifest"},
    {"config"},
    {"assets", "settings", "precision"},
    {"records", "publish"},
    {"formats", "rounds"},
    {"jsonl", "tools"},
    {"chat", "row_export"},
    {"tree"},
    {"models"},
    {"generation", "trainers"},
    {"judges", "planner"},
    {"sampling"},
    {"cli"},
]
LAYER_OF = {part: number for number, parts in enumerate(LAYERS) for part in parts}
HEAVY = {"torch", "transformers", "deepspeed", "accelerate", "datasets", "vllm", "peft", "numpy", "huggingface_hub"}
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
CONFIGS = sorted((ROOT / "recipes" / "configs").rglob("*.yaml"))
RECIPE_OF = {"data": "build_data"}  # folders under configs/ that are not named for their recipe
ANSWER_SECONDS = 1.5
"""The goal is 0.5 s; machines that run tests are shared."""


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


class Source(NamedTuple):
    """What these tests ask of a source file, so that each is parsed once."""

    imports: dict[str, int]
    """Dotted names that it imports, wherever in the file, with their lines. `from a import b` gives a and a.b."""
    whole: dict[str, int]
    """Those of `import a`, with their lines."""
    swallowing: list[int]
    """Lines of `except Exception: pass` and wider."""
    is_silent: bool
    """It has code and no docstring."""


@cache
def read(file: Path) -> Source:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = Source({}, {}, [], bool(tree.body) and not ast.get_docstring(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}": node.lineno for alias in node.names}
            found.imports.update({"." * node.level + (node.module or ""): node.lineno} | names)
        elif isinstance(node, ast.Import):
            found.whole.update({alias.name: node.lineno for alias in node.names})
        elif isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
            is_broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id.endswith("Exception"))
            found.swallowing.extend([node.lineno] * is_broad)
    found.imports.update(found.whole)
    return found


def imports_of(file: Path) -> dict[str, int]:
    imports = read(file).imports
    relative = {name: line for name, line in imports.items() if name.startswith(".")}
    assert not relative, f"{file}: relative imports {relative}; write the whole path"
    return imports


def test_every_part_of_align_has_a_layer() -> None:
    here = (ROOT / "align").iterdir()
    parts = {path.stem for path in here if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len(parts) > 10, "the walk found too few modules"
    assert parts - {"__init__"} == LAYER_OF.keys(), "name each module and folder of align/ in one of LAYERS"


@pytest.mark.slow
def test_imports_go_to_lower_layers() -> None:
    files = python_files(*PACKAGES)
    assert len(files) > 50, f"the walk found {len(files)} files only"
    broken = []
    for file in files:
        here = file.relative_to(ROOT)
        package, part = here.with_suffix("").parts[:2]
        for name, line in imports_of(file).items():
            other_package, _, rest = name.partition(".")
            other_part = rest.partition(".")[0]
            where = f"{here}:{line} -> {name}"
            if other_package in PACKAGES and other_package != package and other_package not in PACKAGES[package]:
                broken.append(f"{where}: {package} must not import {other_package}")
            elif package == other_package == "align" and other_part != part and {part, other_part} <= LAYER_OF.keys():
                broken += [f"{where}: imports from its own layer or a higher one"] * (
                    LAYER_OF[other_part] >= LAYER_OF[part]
                )
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_no_two_files_import_each_other() -> None:
    files = {}
    for file in python_files(*PACKAGES):
        files[".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = file
    graph = {name: {other for other in imports_of(file) if other in files} - {name} for name, file in files.items()}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in graph[name]:
                walk(other, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())
    assert len(done) == len(files) > 50


@pytest.mark.slow
def test_eval_is_never_imported_as_a_name() -> None:
    whole = {file.relative_to(ROOT): read(file).whole for file in python_files(*PACKAGES, "tests")}
    found = [
        f"{file}:{names['eval']}: write `from eval.x import y`" for file, names in whole.items() if "eval" in names
    ]
    assert not found, found


@pytest.mark.slow
def test_errors_are_not_swallowed() -> None:
    """`except Exception: pass` hides what went wrong; a narrow error may be ignored, with a comment that says why."""
    files = python_files(*PACKAGES)
    found = [f"{file.relative_to(ROOT)}:{line}" for file in files for line in read(file).swallowing]
    assert not found, found


@pytest.mark.slow
def test_every_module_says_what_it_holds() -> None:
    silent = [str(file.relative_to(ROOT)) for file in python_files(*PACKAGES, "tests") if read(file).is_silent]
    assert not silent, silent


def test_files_are_not_called_utils() -> None:
    assert not [
        file for file in python_files(*PACKAGES, "tests") if file.stem in ("utils", "helpers", "common", "misc")
    ]


@pytest.mark.slow
def test_no_recipe_hides_an_installed_module() -> None:
    """A script run by path has its folder first on sys.path: recipes/evaluate.py would hide the library `evaluate`."""
    assert len(RECIPES) >= 10
    installed = set(packages_distributions()) | set(sys.stdlib_module_names)
    hidden = {file.stem for file in RECIPES if file.stem in installed}
    assert not hidden, hidden
    assert not {file.stem for file in RECIPES if find_spec(file.stem) is not None}


@pytest.fixture(scope="module")
def recipes_loaded() -> dict[str, list[str]]:
    """Recipe -> heavy modules that its import brings, each recipe in a clean process."""
    code = (
        "import importlib.util, json, sys\n"
        "out = {}\n"
        "for path in sys.argv[1:]:\n"
        "    spec = importlib.util.spec_from_file_location('recipe_under_test', path)\n"
        "    module = sys.modules['recipe_under_test'] = importlib.util.module_from_spec(spec)\n"
        "    spec.loader.exec_module(module)\n"
        f"    out[path] = sorted({HEAVY!r} & sys.modules.keys())\n"
        "print(json.dumps(out))\n"
    )
    command = [sys.executable, "-c", code, *map(str, RECIPES)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_importing_a_recipe_brings_nothing_heavy(recipes_loaded: dict[str, list[str]]) -> None:
    assert len(recipes_loaded) == len(RECIPES)
    assert not {Path(path).name: heavy for path, heavy in recipes_loaded.items() if heavy}


OPTIONAL = ("tools", "annotate", "language", "quality", "gguf", "tensorboard")
"""Extras that a recipe's `--help` and the check of a config must not need."""


@pytest.mark.slow
def test_every_recipe_is_imported_without_the_extras() -> None:
    """`pip install -e .` alone is enough to read any recipe and to check any config."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {_normalized(re.split(r"[<>=\[]", entry)[0]) for extra in OPTIONAL for entry in extras[extra]}
    brought = {owner: name for name, owners in packages_distributions().items() for owner in map(_normalized, owners)}
    assert len(named & brought.keys()) > 10, "what is not installed cannot be needed, but then this says little"
    modules = {name for name, owners in packages_distributions().items() if named & set(map(_normalized, owners))}
    code = (
        "import runpy, sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "for recipe in sys.argv[1:]:\n"
        "    runpy.run_path(recipe)\n"
    )
    command = [sys.executable, "-c", code, *map(str, RECIPES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def processor_seconds(command: list[str]) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Processor time of a command, which other processes on the machine lengthen far less than the time on the wall."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_help_and_a_bad_config_answer_at_once(recipe: Path, tmp_path: Path) -> None:
    seconds, done = processor_seconds([sys.executable, str(recipe), "--help"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {recipe.name} CONFIG.yaml [key=value ...]")
    assert seconds < ANSWER_SECONDS
    bad = tmp_path / "bad.yaml"
    bad.write_text("no_such_setting: 1\n")
    seconds, done = processor_seconds([sys.executable, str(recipe), str(bad)])
    assert done.returncode == 2
    assert f"{bad}:1: no_such_setting: is not a setting." in done.stderr
    assert "Traceback" not in done.stderr
    assert seconds < ANSWER_SECONDS


@pytest.mark.slow
def test_every_recipe_is_a_config_a_run_and_one_line_of_main() -> None:
    for recipe in RECIPES:
        tree = ast.parse(recipe.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {name for name in functions if not name.startswith("_")} == {"run"}, f"{recipe.name}: {functions}"
        last = tree.body[-1]
        assert isinstance(last, ast.If), recipe.name
        assert len(last.body) == 1, recipe.name
        loops = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.For | ast.While)]
        assert not loops, f"{recipe.name}:{loops[0]}: a loop belongs in the library"
        config = recipe_class(recipe.parent, recipe.stem).__name__
        (run,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run")
        assert ast.unparse(run.args) == f"recipe: {config}", f"{recipe.name}:{run.lineno}: run takes the config alone"
        assert ast.unparse(last.body[0]) == f"main({config}, run)", f"{recipe.name}:{last.lineno}"


@pytest.mark.slow
def test_every_yaml_parses_against_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(CONFIGS) >= 18, f"{len(CONFIGS)} configs only"
    for config in CONFIGS:
        recipe = RECIPE_OF.get(config.parent.name, config.parent.name)
        load_config(recipe_class(ROOT / "recipes", recipe), config)
    names = {RECIPE_OF.get(config.parent.name, config.parent.name) for config in CONFIGS}
    assert names == {recipe.stem for recipe in RECIPES}, "every recipe has a YAML"


def test_every_launch_file_that_is_named_exists_and_names_a_deepspeed_config() -> None:
    """Configs, code and documents name launch files by path, and launch files name their DeepSpeed config."""
    folder = ROOT / "recipes" / "launch"
    texts = [path for package in (*PACKAGES, "tests", "docs") for path in (ROOT / package).rglob("*")]
    texts = [
        path for path in [*texts, ROOT / "README.md", ROOT / "Makefile"] if path.suffix in (".py", ".yaml", ".md", "")
    ]
    named = {
        (path.relative_to(ROOT), name)
        for path in texts
        if path.is_file() and path.name != "test_documented_commands.py"  # it names one that does not exist
        for name in re.findall(r"recipes/launch/([\w.-]+\.(?:yaml|json))", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 10, "the walk found too few"
    missing = [f"{path}: recipes/launch/{name}" for path, name in sorted(named) if not (folder / name).is_file()]
    assert not missing, missing
    launches = sorted(folder.glob("*.yaml"))
    used = set()
    for launch in launches:
        written = yaml.safe_load(launch.read_text(encoding="utf-8"))
        if written["distributed_type"] == "MULTI_GPU":  # processes that share units, without DeepSpeed
            continue
        deepspeed = written["deepspeed_config"]["deepspeed_config_file"]
        assert json.loads((ROOT / deepspeed).read_text(encoding="utf-8"))["zero_optimization"]["stage"] == 3, launch
        used.add(ROOT / deepspeed)
    assert used == set(folder.glob("*.json")), "every DeepSpeed config belongs to a launch file"


@pytest.mark.slow
def test_the_word_list_is_checked_inside_identifiers_too(tmp_path: Path) -> None:
    """What `make check` runs: the words of .codespell.txt and misspellings, also as a part of a name or a phrase."""
    pytest.importorskip("codespell_lib")
    text = tmp_path / "text.py"
    text.write_text('is_{} = "he {} it, {} {}"\nplain_name = "the expected value"\n'.format(*FORBIDDEN))
    command = [sys.executable, "-m", "codespell_lib", str(text)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert [line.split(" ==> ")[0].rpartition(": ")[2] for line in done.stdout.splitlines()] == list(FORBIDDEN)


FORBIDDEN = ("want" + "ed", "to" + "ld", "held" + " to", "recie" + "ve")


def test_no_machine_and_no_registry_is_named() -> None:
    """Addresses of package registries and paths of one machine do not belong into the project."""
    words = ["files." + "pythonhosted", "pypi" + ".org", "/ro" + "ot/", "/wo" + "rk/", "index" + "-url ="]
    kinds = {".py", ".yaml", ".toml", ".md", ".txt", ".json", ""}
    folders = [*PACKAGES, "tests", ".ci"]
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # a file in a worktree
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in kinds}
    assert len(texts) > 80
    found = [f"{path.relative_to(ROOT)}: {word}" for path, text in texts.items() for word in words if word in text]
    assert not found, found
