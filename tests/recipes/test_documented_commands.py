"""The commands of README, docs and the other pages work: each is checked, and the small ones run.

What is a command: each line of a fenced block marked `bash`, `sh`, `shell` or `console`; in an indented block, and in a
fenced block without a mark, each line that begins with python, accelerate, align, make or pip. A backslash joins lines.

What is checked: the program, the script, module, target of make or extra exists; the config file loads with the given
keys and values; what a command reads below `runs/` is written by a command before it on the page, or, where the path is
the config's own, by another config of the repository. Files elsewhere belong to the user.

How a page marks what cannot run as it is written: by a placeholder, which is a word in capitals (`CONFIG.yaml`, `N`),
in angle brackets (`<this repository>`) or with three dots, or by the line `<!-- example -->` before the block. Of such
a command only what is no placeholder is checked, and paths are not followed.

A program that is not known here fails the test: add it to `OTHER` in documented_commands.py if it is no part of align.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from align.config import load_config
from align.rounds.plan import recipe_class
from align.settings import INPUT, paths_of
from recipes.build_data import BuildDataRecipe

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NO_MODEL = ("preferences", "sft_mix")
"""Builders that run within a second and need no model."""


def _loaded() -> ModuleType:
    """documented_commands.py next to this file; pytest's import mode has no folder of tests on the path."""
    name = "documented_commands"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs = _loaded()


@pytest.fixture(scope="module")
def shipped() -> frozenset[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return docs.written_by_shipped_configs()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_would_work(
    page: Path, shipped: frozenset[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    state = docs.Page(shipped)
    wrong = []
    for command in docs.commands_of(page.read_text(encoding="utf-8")):
        try:
            state.check(command)
        except docs.WrongCommand as error:
            wrong.append(f"{name_of(page)}: {error}")
    assert not wrong, "\n".join(wrong)


def test_the_pages_have_commands() -> None:
    counts = {name_of(page): len(docs.commands_of(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert counts["README.md"] >= 5
    assert sum(counts.values()) >= 30


PAGE = """\
Text with `python nothing.py`.

    python recipes/dpo.py recipes/configs/dpo/llama3.1-8b.yaml \\
        dpo.beta=0.2     # a comment
    loss 0.6931, which is output

```bash
OMP_NUM_THREADS=1 align sft CONFIG.yaml && make test | head
```

```python
python = 3
```
"""


def test_commands_are_found_in_fenced_and_indented_blocks() -> None:
    found = [(command.words, command.line, command.is_example) for command in docs.commands_of(PAGE)]
    assert found == [
        (("python", "recipes/dpo.py", "recipes/configs/dpo/llama3.1-8b.yaml", "dpo.beta=0.2"), 3, False),
        (("align", "sft", "CONFIG.yaml"), 8, True),
        (("make", "test"), 8, False),
        (("head",), 8, False),
    ]


BUILD = (
    "python recipes/build_data.py recipes/configs/data/preferences.yaml preferences.path=a.jsonl output=runs/a/data\n"
)
TRAIN = "python recipes/dpo.py recipes/configs/dpo/llama3.1-8b.yaml model.path=me/model data.path="


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, expected",
    [
        (
            f"{BUILD}{TRAIN}runs/a/preferences.jsonl",
            "data.path reads runs/a/preferences.jsonl, which no command before",
        ),
        (f"{TRAIN}runs/a/data/preferences.jsonl", "which no command before it writes"),
        (f"{BUILD}{TRAIN}runs/a/data/preferences.jsonl dpo.bta=1", "dpo.bta: is not a setting. Did you mean dpo.beta?"),
        ("python recipes/dpo.py recipes/configs/dpo/none.yaml", "none.yaml: cannot be read"),
        ("python recipes/nothing.py CONFIG.yaml", "there is no nothing.py"),
        ("python -m align.nothing", "there is no module align.nothing"),
        (
            "accelerate launch --config_file recipes/launch/none.yaml recipes/sft.py CONFIG.yaml",
            "no recipes/launch/none",
        ),
        ("align nothing", "align has no command nothing"),
        ("align dpo --help nothing", "there is no setting or section of this name"),
        ("make nothing", "the Makefile has no target nothing"),
        ("pip install -e '.[nothing]'", "pyproject.toml has no extra nothing"),
        ("docker build --build-arg NOTHING=1 .", "the Dockerfile has no argument NOTHING"),
        ("cat runs/x", "there is no runs/x, and no command before it writes it"),
        ("frobnicate --all", "frobnicate is no known program"),
    ],
)
def test_a_command_that_would_not_work_is_found(
    text: str, expected: str, shipped: frozenset[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    state = docs.Page(shipped)
    *before, last = docs.commands_of(f"```bash\n{text}\n```\n")
    for command in before:
        state.check(command)
    with pytest.raises(docs.WrongCommand) as caught:
        state.check(last)
    assert expected in str(caught.value)


@pytest.mark.slow
def test_what_a_command_before_it_writes_may_be_read(shipped: frozenset[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    state = docs.Page(shipped)
    for command in docs.commands_of(f"```bash\n{BUILD}{TRAIN}runs/a/data/preferences.jsonl\n```\n"):
        state.check(command)
    marked = docs.commands_of(f"<!-- example -->\n\n```bash\n{TRAIN}runs/none.jsonl\n```\n")
    state.check(marked[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "recipes/" in page.read_text(encoding="utf-8")], ids=name_of
)
def test_the_small_commands_of_a_page_run(
    page: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order: copies, data builds that need no model, and trainings whose rows are there by then.

    A training takes one step with a two-layer model in place of the page's.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("recipes", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for command in docs.commands_of(page.read_text(encoding="utf-8")):
        script, *arguments = command.words[1:] if len(command.words) > 2 else ("", "")
        if command.is_example:
            continue
        if command.program == "cp" and Path(script).is_file():
            shutil.copy(script, arguments[-1])
        if command.program != "python" or not script.startswith("recipes/") or "--help" in arguments:
            continue
        name = Path(script).stem
        recipe, config, overrides = recipe_class(ROOT / "recipes", name), Path(arguments[0]), arguments[1:]
        if name in ("sft", "dpo", "reward"):
            overrides += [f"model.path={tiny_checkpoint}", "training.max_steps=1", "training.batch_size=2"]
            overrides += ["training.precision=fp32", "data.limit=4"]
        elif name != "build_data":
            continue
        loaded = load_config(recipe, config, overrides)
        read = [path for path in paths_of(loaded, INPUT).values() if not path.exists()]
        if read or (isinstance(loaded, BuildDataRecipe) and loaded.builder not in NO_MODEL):
            continue
        sys.modules[recipe.__module__].run(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["rehearsal", "tools", "knowledge", "preferences"])
def test_the_commands_of_a_target_of_make_would_work(
    target: str, shipped: frozenset[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make -n` prints them. Words with a variable of the shell are not checked."""
    monkeypatch.chdir(ROOT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "ARGS"}
    command = ["make", "-n", target]  # without the variables of the `make test` that this test may run in
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found = [command for command in docs.commands_of(f"```\n{printed}\n```\n") if "recipes/" in " ".join(command.words)]
    assert found
    state = docs.Page(shipped | {Path("runs", target)})
    for command in found:
        words = tuple(word for word in command.words if "$" not in word)
        state.check(docs.Command(words, command.line, True))
