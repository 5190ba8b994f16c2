"""The domains of tasks, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from data_builders.tool_use.dialogs.task import Chain, Task

FOLDER = Path(__file__).parents[1] / "domains"
DOMAINS = tuple(sorted(found.name for found in iter_modules([str(FOLDER)])))


@dataclass(frozen=True)
class Domain:
    """What one file of tasks holds."""

    name: str
    tasks: tuple[Task, ...]
    chains: tuple[Chain, ...]

    def task_of(self, function: object) -> Task:
        return next(task for task in self.tasks if task.function is function)


def domains(names: Iterable[str] = DOMAINS) -> list[Domain]:
    modules = {name: import_module(f"data_builders.tool_use.domains.{name}") for name in names}
    return [Domain(name, module.TASKS, module.CHAINS) for name, module in modules.items()]
