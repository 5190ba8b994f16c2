"""Preference data and the agreement of its raters, by round, from the reports that builders leave with their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.rounds.ledger import StageRecord
from align.rounds.results import counts_of, words
from eval.reports.columns import column_of, json_of, label_of, made_by

PREFERENCES = "preferences.report.json"
"""Written by the builder `preferences`: levels, lengths, agreement of the raters."""
PROBE = "map.json"
"""Written by the builder `knowledge_probe`: how far rules and a judge model agree, among others."""

NOTE = (
    "Krippendorff's alpha: 1 is full agreement, 0 what chance would give. If the chosen answer is the longer one in "
    "much more than half of the rows, a reward model can score well by length alone."
)


def preference_facts(records: Sequence[StageRecord]) -> dict[str, dict[str, str]]:
    """Stage -> name of a fact -> its value as text. Stages without a report are left out."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        for made in made_by(record):
            if made.is_dir():
                facts = _of_preferences(json_of(made / PREFERENCES)) | _of_probe(json_of(made / PROBE))
                for counts in counts_of(made).values():
                    facts |= _of_judgements(counts)
                if facts:
                    found[label_of(record.name, column_of(record))] = facts
    return found


def _of_preferences(report: Mapping[str, Any]) -> dict[str, str]:
    agreement, bias = report.get("agreement"), report.get("length_bias")
    if not isinstance(agreement, dict) or not isinstance(bias, dict):
        return {}
    facts = {
        "comparisons": f"{agreement.get('comparisons', 0):,}",
        "judged by several raters": f"{agreement.get('judged_by_several', 0):,}",
        "alpha of sides": _alpha(agreement.get("sides")),
        "alpha of grades": _alpha(agreement.get("grades")),
        "ties": f"{len(agreement.get('ties', ())):,}",
        "contradictions": f"{len(agreement.get('contradictions', ())):,}",
    }
    for level, one in report.get("levels", {}).items():
        facts[f"level: {level}"] = f"{one['rows']:,} ({one['share']:.0%})"
    if "all" in bias:
        facts["chosen is longer"] = f"{bias['all']['chosen_longer']:.0%} of {bias['all']['rows']:,} rows"
    return facts


def _of_judgements(counts: Mapping[str, Any]) -> dict[str, str]:
    """What the manifest of judgements from the raters' page says; empty for other files."""
    if not isinstance(counts.get("judgements"), int) or not isinstance(counts.get("raters"), dict):
        return {}
    left, right = counts.get("left_is_better", 0), counts.get("right_is_better", 0)
    return {
        "judgements": f"{counts['judgements']:,} by {len(counts['raters'])} raters",
        "answers edited by raters": f"{counts.get('edited', 0):,}",
        "left is better": f"{left / (left + right):.0%} of {left + right:,}" if left + right else "-",
    }


def _of_probe(report: Mapping[str, Any]) -> dict[str, str]:
    judges = report.get("judges")
    if not isinstance(judges, dict) or "agree" not in judges:
        return {}
    return {
        "answers judged by rules and by a model": f"{judges['answers']:,}",
        words("judges_agree"): f"{judges['agree']:.0%}",
        "alpha of judges": _alpha(judges.get("alpha")),
    }


def _alpha(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
