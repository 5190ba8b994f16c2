"""The knowledge map: what a model knew of each kind of fact before, and what it answers after, by round.

Before is the probe's map.json (questions that are trained on, asked several times), after is factuality (held-out
questions, asked once): the two are about the same kinds of fact, and never about the same entities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from align.rounds.results import words
from eval.reports.plots import Bar, stacked_bars

ALL = "all"
"""In place of a relation: all of its topic."""
KNOWLEDGE = ("known", "unknown", "unsure")
ANSWERS = ("right", "wrong", "abstained")
_PART_OF = {"known": "right", "unknown": "wrong", "unsure": "unsure"} | {name: name for name in ANSWERS}
_LEGEND = {"right": "known, right", "wrong": "unknown, wrong", "abstained": "abstained", "unsure": "unsure"}


class Probed(NamedTuple):
    """What the probe of one round found, before that round's training."""

    round: str
    relations: Mapping[str, Mapping[str, int]]
    """Relation -> known, unknown, unsure, uninformative."""


class Evaluated(NamedTuple):
    """What one model answers, after a round or before all of them."""

    column: str
    relations: Mapping[tuple[str, str], Mapping[str, int]]
    """(topic, relation) -> right, wrong, abstained."""


class Entry(NamedTuple):
    """One kind of fact, or a whole topic."""

    topic: str
    relation: str
    counts: tuple[Mapping[str, int] | None, ...]
    """For each column of the map; None where nothing was asked."""


class KnowledgeMap(NamedTuple):
    """Every kind of fact that was probed or asked."""

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    """(column, what its counts are counts of), in the order in which they were found."""
    entries: tuple[Entry, ...]


NOTHING_ASKED = KnowledgeMap((), ())


def probed_of(label: str, found: Mapping[str, Any]) -> Probed:
    """A map.json as it stands. Answers that say nothing leave it open what is known: they count as unsure."""
    relations = found.get("relations", {})
    return Probed(
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


def evaluated_of(column: str, rows: Sequence[Mapping[str, Any]]) -> Evaluated:
    """The rows of a factuality.json. Rows from before there were topics have an empty one; those of no relation go."""
    relations: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        relation, verdict = row.get("relation", ""), row.get("verdict")
        if relation and verdict in ANSWERS:
            counts = relations.setdefault((row.get("topic", ""), relation), dict.fromkeys(ANSWERS, 0))
            counts[verdict] += 1
    return Evaluated(column, relations)


def knowledge_map(found: Sequence[Probed | Evaluated]) -> KnowledgeMap:
    """One column for each of `found`, in their order; a topic's sum, then its kinds of fact by name.

    A relation that was only probed stands under the topic that an evaluation names for it, or under none.
    """
    topic_of = {relation: topic for one in found if isinstance(one, Evaluated) for topic, relation in one.relations}
    columns = []
    cells: list[dict[tuple[str, str], Mapping[str, int]]] = []
    for one in found:
        if isinstance(one, Probed):
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
    """Head and rows: each cell the shares in percent, in the order of the column's head, and how many were asked."""
    head = ["topic", "kind of fact", *(f"{column}: {' / '.join(kinds)}" for column, kinds in found.columns)]
    rows = []
    for entry in found.entries:
        cells = [_told(counts, kinds) for counts, (_, kinds) in zip(entry.counts, found.columns, strict=True)]
        rows.append([words(entry.topic) or "-", words(entry.relation), *cells])
    return head, rows


def map_picture(found: KnowledgeMap) -> str:
    """Stacked bars: for each kind of fact one bar a column."""
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
    return stacked_bars("what was known before, and what is answered after", groups, _LEGEND)


def _shares(counts: Mapping[str, int], kinds: Sequence[str]) -> list[tuple[str, float]]:
    whole = sum(counts[kind] for kind in kinds)
    return [(kind, counts[kind] / whole) for kind in kinds]


def _told(counts: Mapping[str, int] | None, kinds: Sequence[str]) -> str:
    if not counts or not sum(counts.values()):
        return "-"
    shares = " / ".join(f"{100 * share:.0f}" for _, share in _shares(counts, kinds))
    return f"{shares} (n {sum(counts.values())})"


def _sum(counts: Sequence[Mapping[str, int]]) -> Mapping[str, int] | None:
    if not counts:
        return None
    return {kind: sum(own[kind] for own in counts) for kind in counts[0]}
