"""Libraries that only some users need: imported when first used, with the command that installs a missing one.

Which extra brings which library is written in pyproject.toml.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from align.errors import ConfigError

DISTRIBUTION = "align-post-training"
"""The name by which pip knows this package."""


def library(module: str, extra: str, where: str) -> Any:
    """Import a module that the extra brings. `where` is the setting or part that needs it.

    Raises ConfigError if it is not installed; an error inside an installed library stays what it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigError(where, f"the library {module} is required, but not installed", install(extra)) from None


def is_installed(module: str) -> bool:
    """Whether a top-level module is installed, without importing it."""
    return importlib.util.find_spec(module) is not None


def install(extra: str) -> str:
    """How to install an extra, for a message."""
    return f"Install the extra: pip install '{DISTRIBUTION}[{extra}]'"
