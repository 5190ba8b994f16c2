"""`pip install -e .` alone is enough: without extras every recipe answers, every config loads, small trainings run.

The environment of these tests has all extras, which hides a missing requirement. So a virtual environment is made that
has exactly what `dependencies` in pyproject.toml bring: the closure of their requirements, as symbolic links to the
packages that are installed here. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import tomllib
import venv
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SITE = Path(sysconfig.get_paths()["purelib"])

pytestmark = [pytest.mark.install, pytest.mark.timeout(300)]


def closure(requirements: list[str]) -> set[str]:
    """The names of all distributions that the requirements bring, by the metadata of those installed here."""
    found: set[tuple[str, str]] = set()
    pending = [Requirement(line) for line in requirements]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            for inner in map(Requirement, metadata.distribution(name).requires or ()):
                if not extra if inner.marker is None else inner.marker.evaluate({"extra": extra}):
                    pending.append(inner)
    return {name for name, _ in found}


def link_distributions(names: set[str], target: Path) -> None:
    """Link the files of the named distributions into the folder `target`.

    A folder is linked whole if only named distributions have files in it; if others share it, such as a namespace
    package, it is made, and its files are linked one by one.
    """
    files: dict[str, list[Path]] = defaultdict(list)  # name -> paths below site-packages
    owners: dict[str, set[str]] = defaultdict(set)  # first part of a path -> names
    for distribution in metadata.distributions(path=[str(SITE)]):
        name = canonicalize_name(distribution.metadata["Name"])
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts[:1]:
                files[name].append(Path(file))
                owners[file.parts[0]].add(name)
    for name in names:
        for file in files[name]:
            part = file if owners[file.parts[0]] - names else Path(file.parts[0])
            link = target / part
            if not link.is_symlink() and (SITE / part).exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(SITE / part)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the base requirements, and this checkout as `pip install -e .` adds it."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    target = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    names = closure(PROJECT["dependencies"])
    assert len(names) > 30
    link_distributions(names, target)
    (target / "checkout.pth").write_text(f"{ROOT}\n")
    return python


def run(python: Path, folder: Path, code: str, *argv: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ALIGN_PRECISION": "fp32"}
    done = subprocess.run(
        [str(python), "-c", code, *argv], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


RECIPES_ANSWER = """
import contextlib, importlib.util, io, json, os, runpy, sys
from pathlib import Path

root = Path(sys.argv[1])
extras = json.loads(sys.argv[2])
present = [name for name in extras if importlib.util.find_spec(name)]
assert not present, f"the environment is not bare: {present}"

helped = {}
for script in sorted((root / "recipes").glob("*.py")):
    sys.argv = [script.name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as left:
            assert left.code == 0, script
    helped[script.stem] = text.getvalue()

from align.config import help_text, load_config
from align.rounds.plan import RoundsConfig, load_stages, recipe_class
from recipes.build_data import BuildDataRecipe

os.chdir(root)
for builder in BuildDataRecipe.catalogue():
    assert help_text(BuildDataRecipe, "build_data.py", builder)
configs = sorted(Path("recipes/configs").rglob("*.yaml"))
for config in configs:
    folder = config.parts[2]
    load_config(recipe_class(Path("recipes"), {"data": "build_data"}.get(folder, folder)), config)
stages = 0
for config in Path("recipes/configs/rounds").glob("*.yaml"):
    stages += len(load_stages(load_config(RoundsConfig, config), Path("recipes")))
print(json.dumps({"helped": sorted(helped), "configs": len(configs), "stages": stages}))
"""


def modules_of_extras() -> list[str]:
    """The top-level modules that only an extra brings."""
    base = closure(PROJECT["dependencies"])
    named = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
    only = {canonicalize_name(each.name) for each in named} - base
    owners_of = {
        module: {canonicalize_name(owner) for owner in owners}
        for module, owners in metadata.packages_distributions().items()
    }
    return sorted(module for module, owners in owners_of.items() if owners <= only and module.isidentifier())


@pytest.mark.slow
def test_every_recipe_answers_and_every_config_loads_without_extras(bare_python: Path, tmp_path: Path) -> None:
    extras = modules_of_extras()
    assert "docstring_parser" in extras
    found = json.loads(run(bare_python, tmp_path, RECIPES_ANSWER, str(ROOT), json.dumps(extras)))
    assert found["helped"] == sorted(file.stem for file in (ROOT / "recipes").glob("*.py"))
    assert found["configs"] > 20
    assert found["stages"] > 20


TRAININGS_RUN = """
import json, runpy, sys

for command in json.loads(sys.argv[1]):
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
"""


@pytest.mark.slow
def test_data_sft_reward_model_and_dpo_run_without_extras(
    bare_python: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    pairs = [{"prompt": f"What is {n} + {n}?", "chosen": f"It is {2 * n}.", "rejected": "No idea."} for n in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    dialogs = [
        {"messages": [{"role": "user", "content": pair["prompt"]}, {"role": "assistant", "content": pair["chosen"]}]}
        for pair in pairs
    ]
    (tmp_path / "dialogs.jsonl").write_text("".join(f"{json.dumps(dialog)}\n" for dialog in dialogs))
    data = {"output": "data", "preferences": {"path": "pairs.jsonl", "heldout_ratio": 0.25}}
    (tmp_path / "data.yaml").write_text(json.dumps(data))
    commands = [[str(ROOT / "recipes" / "build_data.py"), "data.yaml"]]
    rows = "data/preferences.jsonl"
    for name, path in (("sft", "dialogs.jsonl"), ("reward", rows), ("dpo", rows)):
        config = {
            "model": {"path": str(tiny_checkpoint)},
            "data": {"path": path},
            "training": {"output_dir": name, "max_steps": 2, "batch_size": 4},
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config))
        commands.append([str(ROOT / "recipes" / f"{name}.py"), f"{name}.yaml"])
    run(bare_python, tmp_path, TRAININGS_RUN, json.dumps(commands))
    assert (tmp_path / "data" / "preferences.heldout.jsonl").is_file()
    for name in ("sft", "reward", "dpo"):
        assert (tmp_path / name / "MANIFEST.json").is_file()
        assert (tmp_path / name / "model.safetensors").is_file()
