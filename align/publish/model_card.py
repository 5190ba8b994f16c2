"""The card of a published checkpoint: what it is, from what it was made and how, how well it does, what to mind.

A card is made from a checkpoint's manifest and from facts that the manifest does not hold. Nothing is claimed that they
do not say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True)
class DataFile:
    """A file of rows that the model was trained on or evaluated with, as its manifest has it."""

    name: str
    rows: int | None
    dropped: Mapping[str, int] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    """Source -> licence of its data."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond the checkpoint's manifest."""

    title: str = ""
    base_model: str = ""
    """The Hub name of the model that training began from."""
    license: str = ""
    """A licence identifier of the Hub, such as apache-2.0 or llama3.1."""
    data: tuple[DataFile, ...] = ()
    evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Evaluation -> metric -> {"value", "low", "high", "n"}."""
    command: str = ""
    limits: tuple[str, ...] = (
        "It was evaluated on the sets named above and on nothing else.",
        "It states wrong facts, also with confidence. Check what matters.",
    )


def model_card(manifest: Mapping[str, Any], facts: CardFacts) -> str:
    """The README.md of a checkpoint, with the Hub's YAML front matter.

    manifest: the checkpoint's MANIFEST.json.
    """
    stage = str(manifest.get("stage") or ("average" if "averaged" in manifest else "model"))
    head: dict[str, Any] = {}
    if facts.base_model:
        head["base_model"] = facts.base_model
    if facts.license:
        head["license"] = facts.license
    head |= {"library_name": "transformers", "tags": ["align", "llama", stage]}
    head["pipeline_tag"] = "text-classification" if stage == "reward" else "text-generation"
    sections = [
        f"# {facts.title or stage}",
        _how_it_was_made(manifest, facts, stage),
        _data(facts),
        _evaluation(facts),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in facts.limits),
        _settings(manifest),
    ]
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n\n".join(part for part in sections if part) + "\n"
    )


def cell(value: object) -> str:
    """A value inside a Markdown table or line: one line, with bars and angle brackets made harmless."""
    text = re.sub(r"\s+", " ", str(value))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")


def _how_it_was_made(manifest: Mapping[str, Any], facts: CardFacts, stage: str) -> str:
    lines = ["## How it was made", "", f"- Stage: {cell(stage)}"]
    if facts.base_model:
        lines.append(f"- Base model: {cell(facts.base_model)}")
    if "averaged" in manifest:
        members = [f"{cell(member['checkpoint'])} ({member['weight']:g})" for member in manifest["averaged"]]
        lines += [f"- Averaged: {member}" for member in members]
    if "steps" in manifest:
        lines.append(f"- Optimizer steps: {manifest['steps']}, on {manifest.get('processes', 1)} process(es)")
    made_by = ", ".join(f"{name} {version}" for name, version in manifest.get("made_by", {}).items())
    lines.append(f"- Made by: {cell(made_by)}")
    if facts.command:
        lines += ["- Command:", "", *_fenced(facts.command, "sh")]
    return "\n".join(lines)


def _data(facts: CardFacts) -> str:
    if not facts.data:
        return ""
    lines = ["## Data", "", "| file | rows | dropped | sources and their licences |", "| --- | ---: | --- | --- |"]
    for file in facts.data:
        dropped = ", ".join(f"{count} {reason}" for reason, count in file.dropped.items()) or "-"
        licences = "; ".join(f"{source}: {licence}" for source, licence in file.licences.items()) or "not stated"
        rows = "-" if file.rows is None else file.rows
        lines.append(f"| {cell(file.name)} | {rows} | {cell(dropped)} | {cell(licences)} |")
    return "\n".join(lines)


def _evaluation(facts: CardFacts) -> str:
    if not facts.evaluations:
        return "## Evaluation\n\nNot evaluated."
    lines = [
        "## Evaluation",
        "",
        "| evaluation | metric | value | 95% interval | n |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, scores in facts.evaluations.items():
        for metric, score in scores.items():
            value, low, high = (score.get(part) for part in ("value", "low", "high"))
            interval = "-" if low is None or high is None else f"{low:.1%} to {high:.1%}"
            told = "-" if value is None else f"{value:.1%}"
            lines.append(f"| {cell(name)} | {cell(metric)} | {told} | {interval} | {score.get('n', '-')} |")
    return "\n".join(lines)


def _settings(manifest: Mapping[str, Any]) -> str:
    config = manifest.get("config")
    if not config:
        return ""
    return "\n".join(["## Settings", "", *_fenced(json.dumps(config, indent=1, ensure_ascii=False), "json")])


def _fenced(text: str, language: str) -> list[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text, fence]
