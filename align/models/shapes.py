"""The architecture of a model from its config.json, or from a table of known models if it is not on this machine.

A plan is made before anything is downloaded or trained: `meta-llama/Llama-3.1-70B` and `runs/llama3.1-70b/round-2/sft`
both have the shape `llama3.1-70b`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from align.errors import AlignError, ConfigError
from align.hub_names import is_hub_name
from align.models.checkpoints import ADAPTER_CONFIG, CONFIG, base_of, located, read_config
from align.strict_yaml import read_yaml

_TABLE = Path(__file__).with_name("shapes.yaml")


def shape_of(path: str | Path, otherwise: str | Path | None = None, *, key: str = "model.path") -> tuple[str, Any]:
    """The name of a model's shape, or where it is from, and transformers' config of it. Nothing is downloaded.

    path: a folder with config.json or an adapter's; a name on the Hub, if its files are in the Hub's cache; or a path
        that contains the name of a known shape. otherwise: what to take for a path that is none of these.
    Raises ConfigError if there is no shape.
    """
    for name in (path, otherwise):
        if name is None:
            continue
        found = _of_files(Path(name))
        known = known_shape(str(name))
        if found is not None:
            is_known = known is not None and all(
                getattr(found, key) == value for key, value in known_shapes()[known].items()
            )
            return str(known if is_known else name), found
        if known is not None:
            return known, _config(known)
    how = f"Set shape= to one of {', '.join(known_shapes())}, or to a folder with the model's {CONFIG}"
    raise ConfigError(key, f"{path} is not on this machine, and its name contains no known shape", how)


def known_shape(text: str) -> str | None:
    """The last name of a known shape that `text` contains, without regard to case, dashes and underscores.

    `runs/llama3.1-70b/round-1/reward-llama3.1-8b` is a model of 8B.
    """
    plain = _plain(text)
    found = {name: plain.rfind(_plain(name)) for name in known_shapes()}
    last = max(found, key=lambda name: (found[name], len(name)))
    return last if found[last] >= 0 else None


@cache
def known_shapes() -> dict[str, dict[str, Any]]:
    """Name -> values of config.json."""
    return read_yaml(_TABLE)[0]


def _config(name: str) -> Any:
    return AutoConfig.for_model(**known_shapes()[name])


def _plain(text: str) -> str:
    return re.sub(r"[-_ ]", "", text.lower())


def _of_files(path: Path) -> Any:
    """The config of a model that is on this machine; None if there is none. An adapter has that of its base."""
    if (path / ADAPTER_CONFIG).is_file() and (base := base_of(path)) is not None:
        path = Path(base.name)
    if is_hub_name(path) and not path.parent.exists():
        try:
            path = located(path, local_files_only=True)
        except AlignError:
            return None  # not in the Hub's cache
    return AutoConfig.for_model(**read_config(path)) if (path / CONFIG).is_file() else None
