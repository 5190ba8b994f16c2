"""Optional libraries that stages need and this environment does not have: reported before the first stage starts.

What a section of a config needs is said by its method `libraries`, next to the settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from align.config import Section
from align.errors import ConfigError
from align.optional import install, is_installed
from align.rounds.stage import Stage


def missing_libraries(stages: Sequence[Stage]) -> Iterator[ConfigError]:
    """An error for each extra that is needed and not installed, with the first stage that needs it."""
    reported = set()
    for stage in stages:
        for key, section in _sections_in(stage.config):
            for module, extra in section.libraries().items():
                if extra not in reported and not is_installed(module):
                    reported.add(extra)
                    where = f"stage {stage.label}: {key}" if key else f"stage {stage.label}"
                    what = f"the library {module} is required, but not installed"
                    yield ConfigError(where, what, install(extra) if extra else _INSTALL_AGAIN)


_INSTALL_AGAIN = "Install the project's requirements again: pip install -e ."


def _sections_in(value: Any, key: str = "") -> Iterator[tuple[str, Section]]:
    """A section and those inside it, through tuples and mappings, each with its dotted key."""
    if isinstance(value, Section):
        yield key, value
        inner: Any = [(name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, tuple | list):
        inner = enumerate(value)
    else:
        return
    for name, each in inner:
        yield from _sections_in(each, f"{key}.{name}" if key else str(name))
