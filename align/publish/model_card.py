"""The card of a published checkpoint: what it is, from what it was made and how, how well it does, what to mind.

A card is made from a checkpoint's manifest and the facts that `align/publish/facts.py` gathers. Nothing is claimed that
they do not say: what is not known is left out of the front matter and called unknown in the text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from align.publish.lineage import Relation, members_of
from align.publish.names import without_paths

_LICENSE_NAME = "see-sources"
_LIMITS = ("It states wrong facts, also with confidence. Check what matters.",)


@dataclass(frozen=True)
class DataFile:
    """A file of rows that the model was trained on, as its manifest has it."""

    name: str
    rows: int | None
    dropped: Mapping[str, int] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    """Source of rows -> licence of its text, or "unknown"."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond the checkpoint's manifest."""

    title: str = ""
    repo: str = ""
    """owner/name of the published model, for the usage example."""
    revision: str = ""
    """The branch that has the model; empty for main."""
    base_models: tuple[str, ...] = ()
    """Hub names of the models that training began from."""
    base_is_stated: bool = False
    """Whether the user named the base model, in place of what the manifests say."""
    unknown_starts: tuple[str, ...] = ()
    """Checkpoints that training began from, and of which no Hub name is known."""
    relation: Relation = "finetune"
    license: str = ""
    """A licence identifier of the Hub, such as apache-2.0 or llama3.1; "unknown" or "other" where that is the truth."""
    base_licences: Mapping[str, str] = field(default_factory=dict)
    """Base model -> its licence."""
    data: tuple[DataFile, ...] = ()
    datasets: tuple[str, ...] = ()
    """Data sets of the Hub that it was trained on."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes."""
    model_type: str = ""
    """The architecture, as config.json has it, such as llama or qwen2."""
    has_chat_template: bool = False
    evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Evaluation -> metric -> {"value", "low", "high", "n"}; values from 0 to 1."""
    command: str = ""


def model_card(manifest: Mapping[str, Any], facts: CardFacts) -> str:
    """The README.md of a checkpoint, with the Hub's YAML front matter.

    manifest: the checkpoint's MANIFEST.json. Absolute paths in it are shortened.
    """
    from huggingface_hub import ModelCard

    manifest = without_paths(manifest)
    stage = str(manifest.get("stage") or ("average" if "averaged" in manifest else "model"))
    sections = [
        f"# {cell(facts.title or stage)}",
        _usage(facts, stage),
        _how_it_was_made(manifest, facts, stage),
        _data(facts),
        _evaluation(facts),
        _limits(facts),
        _settings(manifest),
    ]
    body = "\n\n".join(part for part in sections if part)
    return str(ModelCard(f"---\n{_front_matter(facts, stage)}\n---\n\n{body}\n"))


def cell(value: object) -> str:
    """A value inside a Markdown line or table: one line, in which nothing is markup, an image or a link."""
    text = re.sub(r"\s+", " ", str(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~!])", r"\\\1", text)
    # GitHub's Markdown makes links of bare addresses too; an entity in their middle stops that and reads the same.
    text = re.sub(r"(?i)\b(https?|ftp)://", r"\1&#58;//", text)
    return re.sub(r"(?i)\bwww\.", "www&#46;", text).replace("@", "&#64;")


def _front_matter(facts: CardFacts, stage: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = "text-classification" if stage == "reward" else "text-generation"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=_slug(name),
            dataset_name=str(name),
            metric_type=_slug(metric),
            metric_name=str(metric).replace("_", " "),
            metric_value=value,
        )
        for name, scores in facts.evaluations.items()
        for metric, score in scores.items()
        if (value := _number(score.get("value"))) is not None
    ]
    tags = ["align", stage, facts.model_type, "lora" if facts.relation == "adapter" else ""]
    more: dict[str, Any] = {}
    if facts.base_models:
        more["base_model_relation"] = facts.relation
    data = ModelCardData(
        base_model=(facts.base_models[0] if len(facts.base_models) == 1 else list(facts.base_models)) or None,
        license=facts.license or None,
        license_name=_LICENSE_NAME if facts.license == "other" else None,
        language=list(facts.languages) or None,
        library_name="peft" if facts.relation == "adapter" else "transformers",
        pipeline_tag=task,
        tags=[tag for tag in dict.fromkeys(tags) if tag],
        datasets=list(facts.datasets) or None,
        model_name=(facts.title or stage) if results else None,
        eval_results=results or None,
        **more,
    )
    return data.to_yaml()


def _usage(facts: CardFacts, stage: str) -> str:
    if not facts.repo:
        return ""
    dialog = '[{"role": "user", "content": "What is the capital of France?"}]'
    adapter = facts.relation == "adapter"
    if stage == "reward":
        kind = "AutoPeftModelForSequenceClassification" if adapter else "AutoModelForSequenceClassification"
        answer = '{"role": "assistant", "content": "Paris."}'
        use = [
            f"dialog = {dialog[:-1]}, {answer}]",
            "inputs = tokenizer.apply_chat_template(dialog, return_tensors='pt', return_dict=True)",
            "print(model(**inputs).logits[0, 0].item())  # a higher score is a better answer",
        ]
    else:
        kind = "AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM"
        use = [
            f"dialog = {dialog}",
            "inputs = tokenizer.apply_chat_template(",
            "    dialog, add_generation_prompt=True, return_tensors='pt', return_dict=True",
            ")",
            "output = model.generate(**inputs, max_new_tokens=200)",
            "print(tokenizer.decode(output[0, inputs['input_ids'].shape[1] :], skip_special_tokens=True))",
        ]
        if not facts.has_chat_template:
            use = [
                "inputs = tokenizer('The capital of France is', return_tensors='pt')",
                "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))",
            ]
    imports = ["from transformers import AutoTokenizer", f"from {'peft' if adapter else 'transformers'} import {kind}"]
    if not adapter:
        imports = [f"from transformers import {kind}, AutoTokenizer"]
    where = f'"{facts.repo}", revision="{facts.revision}"' if facts.revision else f'"{facts.repo}"'
    load = [
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({where})",
        f"model = {kind}.from_pretrained({where})",
    ]
    return "\n".join(["## Usage", "", *_fenced("\n".join([*imports, *load, *use]), "python")])


def _how_it_was_made(manifest: Mapping[str, Any], facts: CardFacts, stage: str) -> str:
    lines = ["## How it was made", "", f"- Stage: {cell(stage)}"]
    for base in facts.base_models:
        licence = facts.base_licences.get(base, "unknown")
        lines.append(f"- Base model: [{cell(base)}](https://huggingface.co/{base}), licence {cell(licence)}")
    for start in facts.unknown_starts:
        lines.append(f"- Base model: unknown; training began from a local checkpoint, {cell(start)}")
    if not facts.base_models and not facts.unknown_starts:
        lines.append("- Base model: unknown")
    if facts.relation == "adapter":
        lines += _adapter(manifest)
    for member in members_of(manifest):
        lines.append(f"- Averaged: {cell(member.get('checkpoint'))}, weight {cell(member.get('weight'))}")
    if isinstance(manifest.get("merged"), Mapping):
        lines.append(f"- Merged from the adapter {cell(manifest['merged'].get('adapter'))}")
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
        lines += ["- Command:", "", *_fenced(without_paths(facts.command), "sh")]
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


def _data(facts: CardFacts) -> str:
    if not facts.data:
        return "## Data\n\nNot documented."
    lines = ["## Data", "", "| file | rows | dropped | sources and their licences |", "| --- | ---: | --- | --- |"]
    for file in facts.data:
        dropped = ", ".join(f"{count} {reason}" for reason, count in file.dropped.items()) or "-"
        licences = "; ".join(f"{source}: {licence}" for source, licence in file.licences.items()) or "unknown"
        rows = "-" if file.rows is None else file.rows
        lines.append(f"| {cell(file.name)} | {cell(rows)} | {cell(dropped)} | {cell(licences)} |")
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
            value, low, high = (_number(score.get(part)) for part in ("value", "low", "high"))
            interval = "-" if low is None or high is None else f"{low:.1%} to {high:.1%}"
            shown = cell(score.get("value", "-")) if value is None else f"{value:.1%}"
            lines.append(f"| {cell(name)} | {cell(metric)} | {shown} | {interval} | {cell(score.get('n', '-'))} |")
    return "\n".join(lines)


def _limits(facts: CardFacts) -> str:
    limits = list(_LIMITS)
    if facts.evaluations:
        limits.insert(0, "It was evaluated on the sets named above and on nothing else.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _settings(manifest: Mapping[str, Any]) -> str:
    named = [("", manifest.get("config"))]
    named += [(f"{member.get('checkpoint')}", member.get("config")) for member in members_of(manifest)]
    lines: list[str] = []
    for name, config in named:
        if config:
            lines += ["", *([f"{cell(name)}:", ""] if name else [])]
            lines += _fenced(json.dumps(config, indent=1, ensure_ascii=False), "json")
    return "\n".join(["## Settings", *lines]) if lines else ""


def _number(value: Any) -> float | None:
    """A score that can be shown as a share, or None for text, booleans and what is not finite."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _slug(name: object) -> str:
    return re.sub(r"[^\w-]+", "-", str(name)).strip("-").lower() or "unnamed"


def _fenced(text: str, language: str) -> list[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text, fence]
