"""Checks of what a recipe reads, before anything heavy is imported or loaded: its models and its data.

A reward model that does not exist is then named at the start, and not after the hours in which the candidates that it
scores were sampled. What needs the weights themselves is checked when they are loaded (`align/models/loading.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from align.config import Section
from align.errors import CheckpointError
from align.models.checkpoints import (
    HEAD,
    base_of,
    has_tokenizer,
    located,
    no_tokenizer,
    read_config,
    require_known_architecture,
    tensor_names,
)
from align.records import require_sources
from align.settings import ModelConfig


def require_inputs(config: Section, models: Mapping[str, Path] | None = None) -> None:
    """Raise an error that names the first model or source of rows that cannot be read.

    Of a name on the Hub everything but the weights is fetched. Of a dataset on the Hub its description is read.

    models: setting -> model, for models that have no section of their own.
    """
    sections = dict(_model_sections(config))
    named = [(f"{key}.path", section.path, section.revision) for key, section in sections.items()]
    named += [(key, path, None) for key, path in (models or {}).items()]
    folders = [_require_model(path, revision, key) for key, path, revision in named]
    require_sources(config)
    for folder in folders:  # last, since it imports transformers
        require_known_architecture(folder)
    if "training" in type(config).model_fields:
        from align.models.loading import attention_of

        for section in sections.values():
            attention_of(section)


def _require_model(path: Path, revision: str | None, key: str) -> Path:
    """The folder of the whole model: the base's, for an adapter."""
    folder = located(path, revision, key=key)
    base = base_of(folder)
    whole, name = (folder, path) if base is None else (located(base.name, base.revision, key=base.key), Path(base.name))
    if not has_tokenizer(folder) and not has_tokenizer(whole):
        raise no_tokenizer(whole)
    read_config(whole)
    # Weights on this disk are looked at; those of a name on the Hub are not fetched yet.
    on_disk = [place for place, given in ((folder, path), (whole, name)) if given.is_dir()]
    tensors = {tensor for place in on_disk for tensor in tensor_names(place)}
    scores = key.removesuffix(".path").rpartition(".")[2] in ("reward_model", "heldout_judge")
    if scores and whole in on_disk and not any(tensor.endswith(HEAD) for tensor in tensors):
        what = f"has no reward head: the tensor {HEAD} is in no file"
        how = "Name a reward model's folder, as recipes/reward.py leaves it; scores of a fresh head would be noise"
        raise CheckpointError(path, what, how)
    return whole


def _model_sections(config: Section, prefix: str = "") -> Iterator[tuple[str, ModelConfig]]:
    """Dotted key and section of every model in a config."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        inside = value.items() if isinstance(value, dict) else [("", value)]
        for key, each in inside:
            here = f"{prefix}{name}.{key}".rstrip(".")
            if isinstance(each, ModelConfig):
                yield here, each
            elif isinstance(each, Section):
                yield from _model_sections(each, f"{here}.")
