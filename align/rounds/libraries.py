"""The versions of the libraries that compute a stage's result, for its key: an upgrade makes the stage again.

Not every library counts. Those that are listed here compute tensors, token ids, verdicts or results of tools, and the
same code gives other values with another version of them. Others move data or check it (pydantic, pyarrow, datasets,
safetensors, huggingface_hub, numpy), write charts, or are used by tests only (trl): they are in manifests, not in keys.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PREFIX = "library/"

COUNTED = {
    **{name: name for name in ("torch", "transformers", "tokenizers", "accelerate", "deepspeed", "peft")},
    **{name: name for name in ("bitsandbytes", "vllm", "py3langid", "sympy", "pint", "bm25s")},
    "lm_eval": "lm-eval",
}
"""Module -> name of the distribution that brings it."""

_BY_LAUNCH = "deepspeed"
"""Imported by every trainer, and at work only in a stage whose launch file names it."""


def library_versions(modules: Iterable[str], config: Mapping[str, Any], launch: Path | None) -> dict[str, str]:
    """`library/<module>` -> version, of the libraries that compute the result of a stage and are installed.

    modules: what the stage's code imports (`align.source_code.libraries_of`). config: its settings, as plain values.
    The build for a device is no part of a version, just as the device is no part of a key: `2.13.0+cpu` is 2.13.0.
    """
    used = set(modules) - {_BY_LAUNCH}
    if "transformers" in used:
        used.add("tokenizers")
    if "transformers" in used and any(_values_of("quantization", config)):
        used.add("bitsandbytes")
    if launch is not None and re.search(_BY_LAUNCH, launch.read_text(encoding="utf-8"), re.IGNORECASE):
        used.add(_BY_LAUNCH)
    found = {module: _version(COUNTED[module]) for module in sorted(used & COUNTED.keys())}
    return {f"{PREFIX}{module}": version for module, version in found.items() if version}


@cache
def _version(distribution: str) -> str:
    """The public part of the installed version; empty if it is not installed."""
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def _values_of(name: str, value: Any) -> Iterator[Any]:
    """Every value of a setting called `name`, at any depth."""
    if isinstance(value, Mapping):
        if name in value:
            yield value[name]
        for inner in value.values():
            yield from _values_of(name, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _values_of(name, inner)
