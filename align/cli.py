"""The console command `align`: it starts the recipes by name, from any folder.

    align dpo CONFIG.yaml key=value ...       # the same as python recipes/dpo.py CONFIG.yaml key=value ...

A recipe is started as a script, by its path: `align` never imports `recipes`, which are the layer above, and the list
of commands is read from the first lines of the scripts without running them. So `align --help` answers at once.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import align

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
"""Next to the package `align`, both in a checkout and where a wheel is installed."""

OTHERS = {
    "assets": ("align/assets.py", "Fetch the pinned model and data that the rehearsal and the tests read."),
    "data why": ("data_builders/quality/why.py", "Print why rows stayed or went in the builder `quality`."),
}
"""Commands that are no recipe: name -> script, line of help."""

INIT = "init"
_INIT_SUMMARY = "Copy the YAML configs and launch files into ./recipes, to edit them there."

_PROCESSES = """\
Training with several processes or GPUs is started by accelerate:

  accelerate launch --config_file recipes/launch/zero3.yaml -m recipes.dpo CONFIG.yaml [key=value ...]"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command in `argv`. Exits with the code of the recipe, or with 2 for a command that does not exist."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        raise SystemExit(0 if words else 2)
    if words[0] in ("-V", "--version"):
        print(f"align {align.__version__}")
        return
    name = words[0].replace("-", "_")
    if (two := " ".join((name, *words[1:2]))) in OTHERS:
        _run(RECIPES.parent / OTHERS[two][0], two, words[2:])
    elif name in OTHERS:
        _run(RECIPES.parent / OTHERS[name][0], name, words[1:])
    elif name in _recipes():
        _run(RECIPES / f"{name}.py", name, words[1:])
    elif name == INIT:
        _init(words[1:])
    else:
        close = difflib.get_close_matches(name, commands(), n=3)
        how = f"Did you mean {' or '.join(close)}?" if close else "See align --help."
        print(f"align {words[0]}: there is no such command. {how}", file=sys.stderr)
        raise SystemExit(2)


def commands() -> dict[str, str]:
    """Every command with its line of help."""
    found = {name: _summary(RECIPES / f"{name}.py") for name in _recipes()}
    found |= {name: summary for name, (_, summary) in OTHERS.items()}
    return dict(sorted((found | {INIT: _INIT_SUMMARY}).items()))


def usage() -> str:
    """What `align --help` prints."""
    listed = commands()
    width = max(map(len, listed))
    lines = [f"  {name:{width}}  {summary}" for name, summary in listed.items()]
    return "\n".join(
        (
            "usage: align COMMAND CONFIG.yaml [key=value ...]",
            "       align COMMAND --help [NAME]",
            "",
            "Post-training for Llama checkpoints. Each command runs one recipe; its --help lists the settings.",
            "",
            *lines,
            "",
            _PROCESSES,
            "",
            f"The recipes and their configs are in {RECIPES}.",
        )
    )


def _recipes() -> list[str]:
    return sorted(file.stem for file in RECIPES.glob("[a-z]*.py"))


def _run(script: Path, name: str, arguments: list[str]) -> None:
    """Run a script as `python SCRIPT ARGUMENTS` would, except that it calls itself `align NAME` in its messages.

    `runpy.run_path` is not used, because it sets `sys.argv[0]` to the path of the script.
    """
    sys.argv = [f"align {name}", *arguments]
    spec = importlib.util.spec_from_file_location("__main__", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__spec__ = None  # as for any script: processes that multiprocessing spawns then find it by its path
    sys.modules["__main__"] = module  # pydantic looks annotations up in the module of the class
    spec.loader.exec_module(module)


def _init(arguments: Sequence[str]) -> None:
    """Copy configs and launch files below ./recipes. A file that exists already is left as it is."""
    if arguments:
        print(f"usage: align {INIT}\n\n{_INIT_SUMMARY}")
        raise SystemExit(0 if arguments[0] in ("-h", "--help") else 2)
    copied, kept = 0, 0
    for source in sorted(file for folder in ("configs", "launch") for file in (RECIPES / folder).rglob("*.*")):
        target = Path("recipes") / source.relative_to(RECIPES)
        if target.exists():
            kept += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        copied += 1
    print(f"copied {copied} files into recipes/" + (f"; left {kept} that exist already" if kept else ""))


def _summary(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_bytes())) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
