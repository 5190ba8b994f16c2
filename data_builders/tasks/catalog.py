"""The domains of tasks, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from data_builders.tasks.task import Chain, Task

OWN = {"task", "draw", "words", "catalog", "surface", "scenes", "files", "file_forms", "code"}
"""Modules of this room that are no domain."""

DOMAINS = tuple(sorted(found.name for found in iter_modules([str(Path(__file__).parent)]) if found.name not in OWN))


@dataclass(frozen=True)
class Domain:
    """What one file of tasks holds."""

    name: str
    tasks: tuple[Task, ...]
    chains: tuple[Chain, ...]

    def task_of(self, function: object) -> Task:
        return next(task for task in self.tasks if task.function is function)


def domains(names: Iterable[str] = DOMAINS) -> list[Domain]:
    modules = {name: import_module(f"data_builders.tasks.{name}") for name in names}
    return [Domain(name, module.TASKS, module.CHAINS) for name, module in modules.items()]
