"""The card of a published checkpoint: its front matter for the Hub, how to use it, and the sections in their order.

The sections are in `align/publish/sections.py`, and the facts come from `align/publish/facts.py`. Nothing is claimed
that they do not say: what is not known is left out of the front matter and called unknown in the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from align.publish import sections
from align.publish.facts import CardFacts
from align.publish.markdown import cell, fenced, visible
from align.publish.names import without_paths

_LICENSE_NAME = "see-card"
_CONFIDENCE = 0.95


def model_card(manifest: Mapping[str, Any], facts: CardFacts) -> str:
    """The README.md of a checkpoint, with the Hub's YAML front matter.

    manifest: the checkpoint's MANIFEST.json. Absolute paths in it are shortened.
    """
    from huggingface_hub import ModelCard

    manifest = without_paths(manifest)
    stage = str(manifest.get("stage") or ("average" if "averaged" in manifest else "model"))
    parts = [
        f"# {cell(facts.title or stage)}",
        sections.notices(facts),
        _usage(facts, stage),
        sections.evaluation(facts),
        sections.how_it_was_made(manifest, facts, stage),
        sections.search(manifest),
        sections.training(facts),
        sections.data(facts),
        sections.licences(facts),
        sections.comparison(facts),
        sections.limits(facts, stage),
        sections.settings(manifest),
    ]
    body = "\n\n".join(part for part in parts if part)
    return str(ModelCard(f"---\n{_front_matter(facts, stage)}\n---\n\n{body}\n"))


def _front_matter(facts: CardFacts, stage: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = "text-classification" if stage == "reward" else "text-generation"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=_slug(evaluation.name),
            dataset_name=visible(evaluation.name),
            metric_type=_slug(metric),
            metric_name=visible(metric).replace("_", " "),
            metric_value=value,
            metric_args=_interval(score),
        )
        for evaluation in facts.evaluations
        for metric, score in evaluation.scores.items()
        if (value := sections.number(score.get("value"))) is not None
    ]
    tags = ["align", stage, facts.model_type, "lora" if facts.relation == "adapter" else ""]
    bases = facts.lineage.bases
    listed = facts.license == "other"  # the section on licences has them all
    more: dict[str, Any] = {}
    if bases:
        more["base_model_relation"] = facts.relation
    data = ModelCardData(
        base_model=(bases[0] if len(bases) == 1 else list(bases)) or None,
        license=facts.license or None,
        license_name=_LICENSE_NAME if listed else None,
        license_link=f"https://huggingface.co/{facts.repo}#licence"
        if facts.license == "other" and facts.repo
        else None,
        language=list(facts.languages) or None,
        library_name="peft" if facts.relation == "adapter" else "transformers",
        pipeline_tag=task,
        tags=[visible(tag) for tag in dict.fromkeys(tags) if tag],
        datasets=list(facts.lineage.datasets) or None,
        model_name=visible(facts.title or stage) if results else None,
        eval_results=results or None,
        **more,
    )
    return data.to_yaml()


def _interval(score: Mapping[str, Any]) -> dict[str, Any] | None:
    """The interval and the number of cases of a score, as the arguments of its metric; None if it has no interval."""
    low, high, cases = (sections.number(score.get(part)) for part in ("low", "high", "n"))
    if low is None or high is None:
        return None
    found: dict[str, Any] = {"confidence": _CONFIDENCE, "low": low, "high": high}
    return found if cases is None else {**found, "n": math.floor(cases)}


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
    return "\n".join(["## Usage", "", *fenced("\n".join([*imports, *load, *use]), "python")])


def _slug(name: object) -> str:
    return re.sub(r"[^\w-]+", "-", str(name)).strip("-").lower() or "unnamed"
