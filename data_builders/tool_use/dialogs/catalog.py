"""The domains of a folder, found by listing it: each is a pair of files, NAME.py and NAME.yaml."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from align.errors import ConfigError
from align.tools.registry import load_functions
from data_builders.tool_use.dialogs.domain_file import read_domain
from data_builders.tool_use.dialogs.task import Domain

PACKAGED = Path(__file__).resolve().parents[1] / "domains"
"""The folder of the domains that come with the project."""


def domain_files(folders: Sequence[Path] = (PACKAGED,)) -> dict[str, Path]:
    """Name -> YAML file of each domain, sorted by name. Nothing is read or run.

    Raises ConfigError for a folder without domains, a file without its partner, and a name in two folders.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(folder, "is not a folder", "Name a folder with pairs of NAME.py and NAME.yaml")
        files = [file for file in folder.iterdir() if file.suffix in (".py", ".yaml") and file.stem != "__init__"]
        if not files:
            raise ConfigError(folder, "has no domains", "Name a folder with pairs of NAME.py and NAME.yaml")
        for file in sorted(files):
            partner = file.with_suffix(".yaml" if file.suffix == ".py" else ".py")
            if partner not in files:
                raise ConfigError(file, f"a domain is a pair of files, and {partner.name} is missing", "Add that file")
            known = found.setdefault(file.stem, file.with_suffix(".yaml"))
            if known.parent != file.parent:
                raise ConfigError(file, f"{known.parent} has a domain {file.stem} too", "Rename one of the two pairs")
    return dict(sorted(found.items()))


def load_domains(names: Iterable[str] | None = None, folders: Sequence[Path] = (PACKAGED,)) -> list[Domain]:
    """Domains in the order of the names; all that the folders have, sorted by name, if no names are given."""
    files = domain_files(folders)
    return [load_domain(files[name]) for name in (files if names is None else names)]


def load_domain(path: Path) -> Domain:
    """The domain of a YAML file and the .py file of its name, which is run. Raises ConfigError or ToolError."""
    if path.parent.resolve() == PACKAGED:
        return _packaged(path.stem)
    try:
        tools = load_functions(path.with_suffix(".py"))
    except SyntaxError as error:
        where = f"{path.with_suffix('.py')}:{error.lineno}"
        raise ConfigError(where, f"is not Python ({error.msg})", "Fix that line") from None
    return read_domain(path, _functions(sys.modules[tools[0].function.__module__]))


@cache
def _packaged(name: str) -> Domain:
    """A domain that comes with the project: imported, and read once in a process."""
    module = import_module(f"data_builders.tool_use.domains.{name}")
    return read_domain(PACKAGED / f"{name}.yaml", _functions(module))


def _functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """All functions that a module defines, by name, those that begin with _ included."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
