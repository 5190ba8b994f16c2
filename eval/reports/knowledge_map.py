"""The knowledge map: what a model knew about each kind of fact before a round, and what it answers after the round.

"Before" comes from the probe's `map.json`: training questions, each asked several times. "After" comes from the
factuality evaluation: held-out questions, each asked once. Both are about the same kinds of facts, but never about the
same entities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align.rounds.results import words
from eval.reports.plots import Bar, Spec, stacked_bars

ALL = "all"
"""Used instead of a relation for the sum over a topic."""
KNOWLEDGE = ("known", "unknown", "unsure")
ANSWERS = ("right", "wrong", "abstained")
_PART_OF = {"known": "right", "unknown": "wrong", "unsure": "unsure"} | {name: name for name in ANSWERS}
_LEGEND = {"right": "known, right", "wrong": "unknown, wrong", "abstained": "abstained", "unsure": "unsure"}


class ProbeColumn(NamedTuple):
    """What the probe of one round found before the training of that round."""

    round: str
    relations: Mapping[str, Mapping[str, int]]
    """Relation -> known, unknown, unsure, uninformative."""


class EvaluationColumn(NamedTuple):
    """What one model answers, after a round or before the first one."""

    column: str
    relations: Mapping[tuple[str, str], Mapping[str, int]]
    """(topic, relation) -> right, wrong, abstained."""


class Entry(NamedTuple):
    """A row of the map: one kind of fact, or a whole topic."""

    topic: str
    relation: str
    counts: tuple[Mapping[str, int] | None, ...]
    """The counts in each column of the map; None if nothing was asked."""


class KnowledgeMap(NamedTuple):
    """All kinds of facts that were probed or evaluated."""

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    """(name, what is counted), such as ("round 1", ("right", "wrong", "abstained"))."""
    entries: tuple[Entry, ...]


NOTHING_ASKED = KnowledgeMap((), ())


def probe_column(label: str, found: Mapping[str, Any]) -> ProbeColumn:
    """Convert the content of a `map.json` to a column. Uninformative questions count as unsure."""
    relations = found.get("relations", {})
    return ProbeColumn(
        label,
        {
            name: {
                "known": counts.get("known", 0),
                "unknown": counts.get("unknown", 0),
                "unsure": counts.get("unsure", 0) + counts.get("uninformative", 0),
            }
            for name, counts in relations.items()
        },
    )


def evaluation_column(column: str, rows: Sequence[Mapping[str, Any]]) -> EvaluationColumn:
    """Convert the rows of a `factuality.json` to a column. Rows without a relation are left out."""
    relations: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        relation, verdict = row.get("relation", ""), row.get("verdict")
        if relation and verdict in ANSWERS:
            counts = relations.setdefault((row.get("topic", ""), relation), dict.fromkeys(ANSWERS, 0))
            counts[verdict] += 1
    return EvaluationColumn(column, relations)


def knowledge_map(found: Sequence[ProbeColumn | EvaluationColumn]) -> KnowledgeMap:
    """Combine columns into a map. Its rows are each topic's sum, followed by its kinds of facts in alphabetical order.

    A probe does not know topics: its relations get the topic that an evaluation gives them, or an empty one.
    """
    topic_of = {
        relation: topic for one in found if isinstance(one, EvaluationColumn) for topic, relation in one.relations
    }
    columns = []
    cells: list[dict[tuple[str, str], Mapping[str, int]]] = []
    for one in found:
        if isinstance(one, ProbeColumn):
            columns.append((f"{one.round}, before", KNOWLEDGE))
            cells.append({(topic_of.get(name, ""), name): counts for name, counts in one.relations.items()})
        else:
            columns.append((one.column, ANSWERS))
            cells.append(dict(one.relations))
    keys = sorted({key for own in cells for key in own})
    entries = []
    for topic in sorted({topic for topic, _ in keys}):
        own = [key for key in keys if key[0] == topic]
        entries.append(Entry(topic, ALL, tuple(_sum([cell[key] for key in own if key in cell]) for cell in cells)))
        entries += [Entry(topic, relation, tuple(cell.get((topic, relation)) for cell in cells)) for _, relation in own]
    return KnowledgeMap(tuple(columns), tuple(entries))


def map_table(found: KnowledgeMap) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the map as a table. A cell has ratios in percent and the number of questions."""
    head = ["topic", "kind of fact", *(f"{column}: {' / '.join(kinds)}" for column, kinds in found.columns)]
    rows = []
    for entry in found.entries:
        cells = [_cell(counts, kinds) for counts, (_, kinds) in zip(entry.counts, found.columns, strict=True)]
        rows.append([words(entry.topic) or "-", words(entry.relation), *cells])
    return head, rows


def map_plot(found: KnowledgeMap) -> Spec:
    """Draw the map as stacked bars: one group for each kind of fact, with one bar for each column."""
    groups = []
    for entry in found.entries:
        bars = [
            Bar(
                column, f"n {sum(counts.values())}", [(_PART_OF[kind], share) for kind, share in _shares(counts, kinds)]
            )
            for counts, (column, kinds) in zip(entry.counts, found.columns, strict=True)
            if counts and sum(counts.values())
        ]
        groups.append((f"{words(entry.topic) or '-'}: {words(entry.relation)}", bars))
    return stacked_bars("what was known before the training, and what is answered after it", groups, _LEGEND)


def _shares(counts: Mapping[str, int], kinds: Sequence[str]) -> list[tuple[str, float]]:
    whole = sum(counts[kind] for kind in kinds)
    return [(kind, counts[kind] / whole) for kind in kinds]


def _cell(counts: Mapping[str, int] | None, kinds: Sequence[str]) -> str:
    if not counts or not sum(counts.values()):
        return "-"
    shares = " / ".join(f"{100 * share:.0f}" for _, share in _shares(counts, kinds))
    return f"{shares} (n {sum(counts.values())})"


def _sum(counts: Sequence[Mapping[str, int]]) -> Mapping[str, int] | None:
    if not counts:
        return None
    return {kind: sum(own[kind] for own in counts) for kind in counts[0]}
