"""The sections of a card, each as Markdown in which nothing that comes from data is markup."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from align.effective_time import EffectiveTime
from align.publish.facts import CardFacts, DataFile
from align.publish.licences import NOTICES, UNKNOWN, most_restrictive_first, terms_of
from align.publish.lineage import Step
from align.publish.manifests import members_of
from align.publish.markdown import cell, fenced, table
from align.publish.names import shown_path, without_paths
from align.publish.parity import NOT_STATED, parity
from align.publish.searches import weight_search_of
from align.reporting import duration

_PAPER = "[Llama 3](https://arxiv.org/abs/2407.21783)"
_ORDER = {"reward": 0, "sft": 1, "dpo": 2}
_MOST_NAMES = 12
"""Sources that one cell of a table names; the rest are counted."""


def notices(facts: CardFacts) -> str:
    """What a licence says must be shown, and what forbids commercial use, before anything else."""
    uses = most_restrictive_first(facts.licences)
    lines = list(dict.fromkeys(NOTICES[licence][0] for licence in uses if licence in NOTICES))
    forbidding = [f"{cell(_few(names))} ({cell(licence)})" for licence, names in uses.items() if _forbids(licence)]
    if forbidding:
        lines.append(f"**Not for commercial use**, because of {' and '.join(forbidding)}.")
    return "\n\n".join(lines)


def how_it_was_made(manifest: Mapping[str, Any], facts: CardFacts, stage: str) -> str:
    lineage, licences = facts.lineage, dict(facts.licences)
    lines = ["## How it was made", "", f"- Stage: {cell(stage)}"]
    rounds = [step.round for step in lineage.steps if step.round is not None]
    if rounds:
        lines.append(f"- Rounds of post-training: {max(rounds)}")
    for base in lineage.bases:
        licence = cell(licences.get(base, UNKNOWN))
        lines.append(f"- Base model: [{cell(base)}](https://huggingface.co/{base}), licence {licence}")
    for start in lineage.unknown:
        lines.append(f"- Base model: unknown; training began from a local checkpoint, {cell(start)}")
    if not lineage.bases and not lineage.unknown:
        lines.append("- Base model: unknown")
    if facts.relation == "adapter":
        lines += _adapter(manifest)
    for member in members_of(manifest):
        name, weight = cell(member.get("checkpoint")), cell(member.get("weight"))
        used = "weight" in member
        lines.append(f"- Averaged: {name}, weight {weight}" if used else f"- Left out by the search of weights: {name}")
    if isinstance(manifest.get("merged"), Mapping):
        lines.append(f"- Merged from the adapter {cell(manifest['merged'].get('adapter'))}")
    writers = [*lineage.writers, *lineage.unknown_writers]
    if writers:
        lines.append(f"- Rows were written by models that began from: {cell(', '.join(writers))}")
    if "steps" in manifest:
        steps, processes = cell(manifest["steps"]), cell(manifest.get("processes", 1))
        lines.append(f"- Optimizer steps: {steps}, on {processes} process(es)")
    config = manifest.get("config")
    training = config.get("training") if isinstance(config, Mapping) else None
    stored = training.get("save_dtype", "auto") if isinstance(training, Mapping) else "auto"
    if stored != "auto":
        lines.append(f"- Weights: stored as {cell(stored)}, after training in another type")
    made_by = manifest.get("made_by")
    if isinstance(made_by, Mapping):
        lines.append("- Made by: " + cell(", ".join(f"{name} {version}" for name, version in made_by.items())))
    if facts.command:
        lines += ["- Command:", "", *fenced(without_paths(facts.command), "sh")]
    return "\n".join(lines)


def _adapter(manifest: Mapping[str, Any]) -> list[str]:
    """The line on what kind of adapter it is; none where the manifest does not say."""
    config = manifest.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    lora = model.get("lora") if isinstance(model, Mapping) else None
    if not isinstance(lora, Mapping):
        return []
    kind = "DoRA" if lora.get("use_dora") else "LoRA"
    scale = "alpha / sqrt(rank), rsLoRA" if lora.get("use_rslora") else "alpha / rank"
    return [f"- Adapter: {kind} of rank {cell(lora.get('rank'))}, alpha {cell(lora.get('alpha'))} (scaled by {scale})"]


def training(facts: CardFacts) -> str:
    """The trained checkpoints that led to this one: its own stages, and those that ranked or wrote its rows."""
    steps = [step for step in facts.lineage.steps if "training" in step.config]
    if not steps:
        return ""
    steps = sorted(steps, key=lambda step: (step.round or 0, _ORDER.get(step.stage, len(_ORDER))))
    head = ("round", "checkpoint", "stage", "started from", "learning rate", "batch", "epochs", "steps", "objective")
    lines = ["## Training", "", *table(head, map(_step, steps), numbers=(0, 4, 5, 6, 7))]
    if any(not step.of_weights for step in steps):
        lines += ["", "Stages in parentheses are not in the weights: they ranked or wrote rows."]
    effective = [f"{cell(step.name)} {_effective(step.effective)}" for step in steps if step.effective]
    if effective:
        said = "Effective training time (optimizer steps that count, of the time since the first start of a stage): "
        lines += ["", f"{said}{'; '.join(effective)}."]
    return "\n".join(lines)


def _effective(time: EffectiveTime) -> str:
    starts = f" in {time.starts} starts" if time.starts > 1 else ""
    return f"{time.ratio:.0%} of {duration(time.elapsed)}{starts}"


def _step(step: Step) -> Sequence[object]:
    how = step.config["training"] if isinstance(step.config["training"], Mapping) else {}
    model = step.config.get("model")
    start = model.get("path", "-") if isinstance(model, Mapping) else "-"
    objective = step.config.get(step.stage)
    said = {} if not isinstance(objective, Mapping) else {k: v for k, v in objective.items() if v not in (None, {}, "")}
    shown = ", ".join(f"{name} {value}" for name, value in said.items() if not name.startswith("reference_"))
    return (
        "-" if step.round is None else step.round,
        step.name,
        step.stage if step.of_weights else f"({step.stage})",
        shown_path(str(start)),
        *(how.get(key, "-") for key in ("learning_rate", "batch_size", "epochs")),
        "-" if step.optimizer_steps is None else step.optimizer_steps,
        shown or "-",
    )


def search(manifest: Mapping[str, Any]) -> str:
    """The search of an average's weights; empty if they were given."""
    found = weight_search_of(manifest)
    if found is None:
        return ""
    order = f"Weights are in the order {', '.join(map(cell, found.checkpoints))}."
    lines = table([cell(name) for name in found.head], found.rows)
    return "\n".join(["## Search of weights", "", f"{cell(found.sentence)} {order}", "", *lines])


def data(facts: CardFacts) -> str:
    if not facts.data:
        return "## Data\n\nNot documented."
    head = ("file", "rows", "dropped", "sources and their licences")
    return "\n".join(["## Data", "", *table(head, map(data_line, facts.data), numbers=(1,))])


def data_line(file: DataFile) -> Sequence[object]:
    """A file of rows in the table of a card."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in file.dropped.items()) or "-"
    sources = "; ".join(f"{source}: {licence}" for source, licence in file.licences.items()) or "unknown"
    return (file.name, "-" if file.rows is None else file.rows, dropped, sources)


def licences(facts: CardFacts) -> str:
    """The licences of all that went in, the most restrictive first."""
    uses = most_restrictive_first(facts.licences)
    if not uses:
        return ""
    rows = [(licence, terms_of(licence).text, _few(names)) for licence, names in uses.items()]
    said = {
        "": "No licence is stated.",
        UNKNOWN: "The licence is unknown, because one of these is.",
        "other": "Several of these apply at once.",
    }.get(facts.license, f"The licence is {cell(facts.license)}.")
    text = f"Base model, models that wrote rows, and rows, the most restrictive first. {said}"
    return "\n".join(["## Licence", "", text, "", *table(("licence", "terms", "of"), rows)])


def evaluation(facts: CardFacts) -> str:
    if not facts.evaluations:
        return "## Evaluation\n\nNot evaluated."
    rows: list[Sequence[object]] = [
        (each.name, metric, *_score(score), _change(each.differences.get(metric)))
        for each in facts.evaluations
        for metric, score in each.scores.items()
    ]
    head = ["evaluation", "metric", "value", "95% interval", "n", "against the baseline"]
    if not any(each.differences for each in facts.evaluations):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return "\n".join(["## Evaluation", "", *table(head, rows, numbers=(2, 3, 4, 5))])


def _score(score: Mapping[str, Any]) -> tuple[str, str, str]:
    value, low, high = (number(score.get(part)) for part in ("value", "low", "high"))
    interval = "-" if low is None or high is None else f"{low:.1%} to {high:.1%}"
    return str(score.get("value", "-")) if value is None else f"{value:.1%}", interval, str(score.get("n", "-"))


def _change(difference: Any) -> str:
    """In percentage points, with its interval: +12.0 (+3.1 to +20.9)."""
    parts = [number(difference.get(part)) if isinstance(difference, Mapping) else None for part in _PARTS]
    if any(part is None for part in parts):
        return "-"
    value, low, high = (f"{100 * part:+.1f}" for part in parts if part is not None)
    return f"{value} ({low} to {high})"


_PARTS = ("value", "low", "high")


def comparison(facts: CardFacts) -> str:
    """The recipe next to that of the paper."""
    lines = parity(facts.lineage)
    if not lines:
        return ""
    counts = [sum(line.verdict == verdict for line in lines) for verdict in ("same", "changed", NOT_STATED)]
    same, changed, not_stated = counts
    text = (
        f"The stages that led to this model, next to the recipe of {_PAPER}: {same} knobs are the same, {changed} are "
    )
    text += f"changed, and {not_stated} are not stated in the paper."
    head = ("stage", "knob", "Llama 3", "section", "here", "")
    return "\n".join(["## Compared with Llama 3", "", text, "", *table(head, lines)])


def limits(facts: CardFacts, stage: str) -> str:
    found = []
    if facts.evaluations:
        found.append("It was evaluated on the sets named above and on nothing else.")
    if stage == "reward":
        found.append("Its scores compare answers to one prompt. Scores of different prompts do not compare.")
    else:
        found.append("It states wrong facts, also with confidence. Check what matters.")
    if facts.languages:
        found.append(f"It was trained on text in {cell(', '.join(facts.languages))}, and may fail in other languages.")
    if any(licence == UNKNOWN for _, licence in facts.licences):
        found.append("The licence of a part of what it was made from is unknown.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in found)


def settings(manifest: Mapping[str, Any]) -> str:
    """Every setting of the checkpoint, or of each member of an average."""
    named = [("", manifest.get("config"))]
    named += [(f"{member.get('checkpoint')}", member.get("config")) for member in members_of(manifest)]
    lines: list[str] = []
    for name, config in named:
        if config:
            lines += ["", *([f"{cell(name)}:", ""] if name else [])]
            lines += fenced(json.dumps(config, indent=1, ensure_ascii=False), "json")
    return "\n".join(["## Settings", *lines]) if lines else ""


def number(value: Any) -> float | None:
    """A score that can be shown as a share, or None for text, booleans and what is not finite."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _forbids(licence: str) -> bool:
    return terms_of(licence).rank == 0


def _few(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
