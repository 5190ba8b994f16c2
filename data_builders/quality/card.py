"""The data card of a run of the builder `quality`: where the rows come from, what they may be used for, and what each
gate did to them.

`card.json` has the figures, and `card.md` is the same for people. Licences are those of the sources themselves
(`align/publish/licences.py`); the package that carries a source has one of its own, and both are named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from align.publish.licences import licence_of_source, most_restrictive_first, source_name, terms_of
from align.publish.markdown import cell, fenced, table
from data_builders.quality.card_tags import tags_in, tags_record, tags_text
from data_builders.quality.pipeline import Decision

UNREADABLE = "(not readable)"
"""The source of records that are no rows."""
_KEPT_EXAMPLES = 2
_LISTED_REASONS = 100
_SHOWN = 300
"""Characters of an example that are shown."""


class CardCounts:
    """Counts of rows by source, gate and reason, and the first rows of each: what the card is made of."""

    def __init__(self, licences: Mapping[str, str]) -> None:
        """licences: source -> licence, from the user."""
        self._licences = licences
        self._names: dict[str, str] = {"": UNREADABLE}  # the source of a row -> its name in the card
        self._sources: dict[str, Counter[tuple[str, str]]] = {}  # ("", "") are kept rows
        self._kept: list[Decision] = []
        self._dropped: dict[tuple[str, str], Decision] = {}  # (gate, reason) -> the first row
        self._tags: dict[str, Counter[str]] = {}  # of the kept rows: name of a tag -> value -> rows

    def count(self, decision: Decision) -> None:
        """Count a row."""
        if decision.source not in self._names:
            self._names[decision.source] = source_name(decision.source, self._licences)
        name = self._names[decision.source]
        self._sources.setdefault(name, Counter())[decision.gate, decision.reason] += 1
        if not decision.gate:
            for tag, value in decision.tags.items():
                self._tags.setdefault(tag, Counter()).update(tags_in(tag, value))
            if len(self._kept) < _KEPT_EXAMPLES:
                self._kept.append(decision)
        elif len(self._dropped) < _LISTED_REASONS:
            self._dropped.setdefault((decision.gate, decision.reason), decision)

    def record(
        self,
        gates: Sequence[Mapping[str, Any]],
        inputs: Sequence[str],
        evaluation: Sequence[str],
        notes: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The card as JSON values.

        gates: the counts of all sources together, as `Funnel.counts` gives them. inputs and evaluation: labels of what
        was read, and of the evaluation sets that the rows were compared with. notes: what the steps say of themselves.
        """
        sources = {name: _source(name, counts, self._licences) for name, counts in sorted(self._sources.items())}
        kept = [(name, each["licence"]) for name, each in sources.items() if each["kept"]]
        return {
            "inputs": list(inputs),
            "evaluation": list(evaluation),
            "gates": list(gates),
            "licences": {
                licence: {"terms": terms_of(licence).text, "sources": names}
                for licence, names in most_restrictive_first(kept).items()
            },
            "sources": sources,
            "tags": tags_record(self._tags, notes),
            "examples": {
                "kept": [_example(each) for each in self._kept],
                "dropped": [_example(each) for each in self._dropped.values()],
            },
        }


def card_text(record: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    gates, sources = record["gates"], record["sources"]
    read, kept = (sum(each[name] for each in sources.values()) for name in ("read", "kept"))
    lines = ["# Data card", "", f"{kept:,} of {read:,} rows were kept.", "", "## Licences of the kept rows", ""]
    lines += table(
        ("licence", "what it asks for", "sources"),
        [(name, each["terms"], ", ".join(each["sources"])) for name, each in record["licences"].items()],
    )
    lines += ["", "The strictest is first. A licence is the source's own; the package that carries it has another.", ""]
    lines += ["## Sources", ""]
    lines += table(
        ("source", "licence", "carried by", "licence of the carrier", "read", "kept"),
        [
            (name, each["licence"], each["carrier"] or "-", each["carrier_licence"] or "-", each["read"], each["kept"])
            for name, each in sources.items()
        ],
        numbers=(4, 5),
    )
    lines += ["", "Read from:", "", *(f"- {cell(label)}" for label in record["inputs"])]
    lines += ["", "## Gates", ""]
    lines += table(
        ("gate", "rows in", "dropped", "rows out"),
        [(gate["gate"], gate["in"], sum(gate["dropped"].values()), gate["out"]) for gate in gates],
        numbers=(1, 2, 3),
    )
    lines += ["", "## Dropped rows by source and reason", ""]
    drops = [
        (name, gate, reason, count)
        for name, each in sources.items()
        for gate, reasons in each["dropped"].items()
        for reason, count in reasons.items()
    ]
    lines += table(("source", "gate", "reason", "rows"), drops, numbers=(3,)) if drops else ["No row was dropped."]
    lines += tags_text(record["tags"])
    lines += ["", "## Contamination", "", *_contamination(record), "", "## Examples", ""]
    for example in record["examples"]["kept"]:
        lines += [f"Kept: {cell(example['id'])} ({cell(example['source'])})", "", *fenced(example["text"], ""), ""]
    for example in record["examples"]["dropped"]:
        why = f"{example['gate']}, {example['reason']}" + (f": {example['detail']}" if example["detail"] else "")
        cause = f", because of {cell(example['cause'])}" if example["cause"] else ""
        lines += [f"Dropped by {cell(why)}{cause}: {cell(example['id'])}", "", *fenced(example["text"], ""), ""]
    return "\n".join(lines).rstrip() + "\n"


def _source(name: str, counts: Counter[tuple[str, str]], licences: Mapping[str, str]) -> dict[str, Any]:
    dropped: dict[str, dict[str, int]] = {}
    for (gate, reason), count in sorted(counts.items()):
        if gate:
            dropped.setdefault(gate, {})[reason] = count
    licence = licence_of_source(name, licences)
    carrier, carrier_licence = _carrier_of(name)
    return {
        "licence": licence,
        "terms": terms_of(licence).text,
        "carrier": carrier,
        "carrier_licence": carrier_licence,
        "read": counts.total(),
        "kept": counts["", ""],
        "dropped": dropped,
    }


def _carrier_of(source: str) -> tuple[str, str]:
    """The package that a packaged source is in, and the package's licence; empty for other sources."""
    from align.assets import asset_named
    from data_builders.packaged import PACKAGES

    if source not in PACKAGES:
        return "", ""
    asset = asset_named(PACKAGES[source])
    return asset.folder, asset.package_licence


def _contamination(record: Mapping[str, Any]) -> list[str]:
    """What the rows were compared with, and what was found."""
    found = next((gate for gate in record["gates"] if gate["gate"] == "decontamination"), None)
    if found is None or not record["evaluation"]:
        return ["The rows were not compared with any evaluation set."]
    count = sum(found["dropped"].values())
    lines = [f"{count:,} of {found['in']:,} rows repeat an example of one of these sets, and were dropped:", ""]
    return lines + [f"- {cell(label)}" for label in record["evaluation"]]


def _example(decision: Decision) -> dict[str, str]:
    found = {name: value for name, value in decision._asdict().items() if name not in ("row", "tags")}
    text = json.dumps(json.loads(decision.row), ensure_ascii=False) if decision.row else ""
    return {**found, "text": text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."}
