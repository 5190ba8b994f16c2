"""What the quality gates of a run did to its rows: the funnel of each stage as a picture, and its data card.

Both are read from the `card.json` that the builder `quality` writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from align.rounds.ledger import StageRecord
from eval.reports.columns import column_of, json_of, made_by
from eval.reports.plots import Dropped, Spec, funnel_chart

CARD = "card.json"
MOST_REASONS = 8
"""Reasons of one gate that the picture shows; the others are one bar. The card has all of them."""
NOTE = (
    "From top to bottom: the rows that were read, what each gate dropped and for which reason, and the rows that are "
    "left. Licences are those of the sources themselves, the strictest first."
)

Table = tuple[list[str], list[list[str]]]


class QualityCard(NamedTuple):
    """The data card of one stage in one round."""

    stage: str
    column: str
    """`before` or `round 1`, and so on."""
    record: Mapping[str, Any]
    """The JSON of the card, see `data_builders/quality/card.py`."""

    @property
    def title(self) -> str:
        return f"{self.stage}, {self.column}"

    @property
    def counts(self) -> tuple[int, int]:
        """Rows read and kept."""
        gates = self.record["gates"]
        return gates[0]["in"], gates[-1]["out"]

    @property
    def examples(self) -> list[tuple[str, str]]:
        """What became of a row, and the beginning of the row."""
        found = self.record["examples"]
        kept = [(f"Kept: {each['id']} ({each['source']})", each["text"]) for each in found["kept"]]
        return kept + [(_why(each), each["text"]) for each in found["dropped"]]


def quality_cards(records: Iterable[StageRecord]) -> tuple[QualityCard, ...]:
    """The cards of the stages, in the order in which they ran."""
    found = []
    for record in records:
        for made in made_by(record):
            card = json_of(made / CARD) if made.is_dir() else {}
            if card.get("gates"):
                found.append(QualityCard(record.name, column_of(record), card))
    return tuple(found)


def funnel(card: QualityCard) -> Spec:
    """Draw what is left of the rows after each reason to drop some."""
    drops = [Dropped(f"{gate['gate']}: {why}", count) for gate in card.record["gates"] for why, count in _reasons(gate)]
    return funnel_chart(card.title, card.counts[0], drops)


def card_tables(card: QualityCard) -> dict[str, Table]:
    """Heading -> table of the card: licences, sources, and drops by source."""
    record = card.record
    sources: Mapping[str, Any] = record["sources"]
    licences = [[name, each["terms"], ", ".join(each["sources"])] for name, each in record["licences"].items()]
    rows = [
        [name, each["licence"], each["carrier"] or "-", f"{each['read']:,}", f"{each['kept']:,}"]
        for name, each in sources.items()
    ]
    drops = [
        [name, gate, why, f"{count:,}"]
        for name, each in sources.items()
        for gate, reasons in each["dropped"].items()
        for why, count in reasons.items()
    ]
    return {
        "Licences of the kept rows": (["licence", "what it asks for", "sources"], licences),
        "Sources": (["source", "licence", "carried by", "rows read", "rows kept"], rows),
        "Dropped rows": (["source", "gate", "reason", "rows"], drops),
    }


def contamination(card: QualityCard) -> str:
    """A sentence on the evaluation sets that the rows were compared with."""
    found = next((gate for gate in card.record["gates"] if gate["gate"] == "decontamination"), None)
    if found is None or not card.record["evaluation"]:
        return "The rows were not compared with any evaluation set."
    dropped = sum(found["dropped"].values())
    return f"{dropped:,} of {found['in']:,} rows repeat an example of: {', '.join(card.record['evaluation'])}."


def _reasons(gate: Mapping[str, Any]) -> Sequence[tuple[str, int]]:
    """The reasons of a gate with the rows that each dropped, the most frequent first; rare ones together."""
    ordered = Counter(gate["dropped"]).most_common()
    if len(ordered) <= MOST_REASONS:
        return ordered
    rest = ordered[MOST_REASONS - 1 :]
    return [*ordered[: MOST_REASONS - 1], (f"{len(rest)} other reasons", sum(count for _, count in rest))]


def _why(example: Mapping[str, str]) -> str:
    detail = f": {example['detail']}" if example["detail"] else ""
    cause = f", because of {example['cause']}" if example["cause"] else ""
    return f"Dropped by {example['gate']}, {example['reason']}{detail}{cause}: {example['id']} ({example['source']})"
