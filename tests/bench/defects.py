"""Precision and recall of the cleaning rules and gates of the builder `quality`, on planted defects of every kind.

    python tests/bench/defects.py                 # 100 plants of each kind among packaged rows; prints the table
    python tests/bench/defects.py --show          # the rows without a plant that were dropped, too, to read them

A plant is a packaged row (Alpaca and preference demo sets) with one defect. Found are the plants that are dropped for
the right reason; precision is the ratio of plants among all rows that are dropped for a reason. Rows without a plant
may have a defect of their own, which counts against the precision.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align.jsonl import write_rows
from align.rows import Message, SFTRow
from data_builders.quality.builder import QualityConfig, build

FUNCTION_WORDS = ("and", "or", "the", "a", "of", "to", "with", "for")
SENTENCES = (
    "Die Hauptstadt liegt an einem großen Fluss, und viele Menschen besuchen sie jedes Jahr im Sommer.",
    "La capital está situada junto a un gran río y muchas personas la visitan cada año en verano.",
    "La capitale se trouve près d'un grand fleuve et beaucoup de gens la visitent chaque été.",
    "राजधानी एक बड़ी नदी के किनारे है और हर साल गर्मियों में बहुत से लोग उसे देखने आते हैं।",
    "La capitale si trova su un grande fiume e molte persone la visitano ogni anno durante l'estate.",
    "A capital fica junto a um grande rio e muitas pessoas visitam-na todos os anos durante o verão.",
    "เมืองหลวงตั้งอยู่ริมแม่น้ำสายใหญ่และมีผู้คนจำนวนมากมาเยี่ยมชมทุกปีในฤดูร้อน",
)
EMOJIS = "😀😂🎉🔥💯👍🚀✨🙏😎🤖🌍🍕❤⭐✅🐶🏆💡📚"


class Texts(NamedTuple):
    """Prompt and answer of a row."""

    prompt: str
    answer: str


Planter = Callable[[random.Random, Texts], Texts]


class Kind(NamedTuple):
    """A kind of defect: the gate and the reason by which it should be dropped, and what makes it of a row."""

    gate: str
    reason: str
    plant: Planter


def in_answer(change: Callable[[random.Random, str], str]) -> Planter:
    """A planter that changes the answer only."""
    return lambda draw, row: Texts(row.prompt, change(draw, row.answer))


def one_of(*texts: str) -> Planter:
    """A planter that puts one of the texts in place of the answer; `{}` is where the answer was."""
    return in_answer(lambda draw, answer: draw.choice(texts).replace("{}", answer))


def scattered(draw: random.Random, text: str, parts: Sequence[str]) -> str:
    """The text with parts after random words."""
    words = text.split(" ")
    for part in parts:
        words.insert(draw.randint(1, len(words)), part)
    return " ".join(words)


def cut(draw: random.Random, text: str, ends: Callable[[str], bool]) -> str:
    """The beginning of a text of at least nine words, up to a word for which `ends` is true, if it has one."""
    words = text.split()
    places = [place for place in range(9, len(words)) if ends(words[place - 1])]
    return " ".join(words[: draw.choice(places)]) if places else f"{' '.join(words)} and the"


def another_word(draw: random.Random, text: str, every: int) -> str:
    """The text with one word in `every` replaced by another of its words."""
    words = text.split()
    for place in draw.sample(range(len(words)), len(words) // every):
        words[place] = draw.choice(words)
    return " ".join(words)


RULES = "rules"
TRUNCATED, BOILERPLATE, REPEATED = "truncated answer", "boilerplate", "repeated lines or sentences"
KINDS: dict[str, Kind] = {
    "no prompt": Kind(RULES, "empty prompt", lambda draw, row: Texts(" ", row.answer)),
    "a placeholder": Kind(RULES, "empty answer", one_of("...", "N/A", "TODO", "null", "[insert answer here]")),
    "a control token": Kind(
        RULES,
        "control tokens in a text",
        in_answer(lambda draw, answer: scattered(draw, answer, [draw.choice(("<|eot_id|>", "<|im_end|>", "[INST]"))])),
    ),
    "the user goes on": Kind(
        RULES,
        "another role in the answer",
        one_of("{}\nUser: And then?", "{}\n\nHuman: Thanks!", "{}\n### Instruction:\nNow"),
    ),
    "cut off at a comma or a function word": Kind(
        RULES,
        TRUNCATED,
        in_answer(lambda draw, answer: cut(draw, answer, lambda word: word.endswith(",") or word in FUNCTION_WORDS)),
    ),
    "cut off at any word": Kind(
        RULES, TRUNCATED, in_answer(lambda draw, answer: cut(draw, answer, lambda word: word[-1] not in ".!?"))
    ),
    "remains of a page that the rule lists": Kind(
        RULES, BOILERPLATE, one_of("{}\n\nRegenerate response", "{}\nShare this: X", "{} Click here to subscribe.")
    ),
    "other remains of a page": Kind(
        RULES, BOILERPLATE, one_of("{}\n\nSign up for our daily letter", "{}\nRead more articles", "Log in to vote\n{}")
    ),
    "8 to 20 emojis": Kind(
        RULES,
        "too many emojis",
        in_answer(
            lambda draw, answer: scattered(
                draw, answer, draw.choices(EMOJIS, k=draw.randint(8, 20) + len(answer.split()) // 50)
            )
        ),
    ),
    "exclamation marks": Kind(
        RULES,
        "too many exclamation marks",
        one_of("I apologize!!!!!! {}", "{} Great!!!", "Wow! Yes! Hey! Super! OK! Go!"),
    ),
    "an open code block, bold text or link": Kind(
        RULES,
        "broken Markdown",
        one_of("{}\n\n```python\nx = 1", "{}\n\n**Note: this is all.", "{}\n\nSee [the page](https://a.b/c for it."),
    ),
    "a line again and again": Kind(
        RULES, REPEATED, in_answer(lambda draw, answer: answer + "\nThis is the last line of it." * draw.randint(4, 9))
    ),
    "a sentence again and again": Kind(
        RULES, REPEATED, in_answer(lambda draw, answer: answer + " This is the last sentence." * draw.randint(4, 9))
    ),
    "another language": Kind("language", "another language than the prompt", one_of(*SENTENCES)),
    "a copy in other case and spacing": Kind(
        "exact duplicates",
        "exact duplicate",
        lambda draw, row: Texts(f"  {row.prompt.upper()}", row.answer.replace(" ", "  ")),
    ),
    "a copy with one word in 25 changed": Kind(
        "near duplicates",
        "near duplicate",
        lambda draw, row: Texts(another_word(draw, row.prompt, 25), another_word(draw, row.answer, 25)),
    ),
}
COPIES = ("exact duplicates", "near duplicates")
"""The gates of copies, which are planted behind their originals."""


class Plant(NamedTuple):
    """A row with a defect, or a row as it is: then `kind` is empty."""

    texts: Texts
    kind: str = ""
    origin: int = -1
    """The row that it was made of, by its place."""


class Found(NamedTuple):
    """What was dropped."""

    planted: Counter[str]
    """Kind -> rows. Copies of rows that were dropped themselves do not count: they repeat nothing."""
    found: Counter[str]
    """Kind -> rows that were dropped for the right reason."""
    dropped: Counter[str]
    """Reason -> rows of any kind."""
    false_drops: list[dict[str, Any]]


def plants(rows: Sequence[Texts], each: int, seed: int, *, copies: bool) -> list[Plant]:
    """`each` plants of every kind that is, or is not, a copy of another row."""
    draw = random.Random(seed)
    long = [place for place, row in enumerate(rows) if len(row.answer.split()) >= 50] or list(range(len(rows)))
    found = []
    for name, kind in KINDS.items():
        if (kind.gate in COPIES) == copies:
            origins = draw.sample(long, min(each, len(long))) if copies else draw.choices(range(len(rows)), k=each)
            found += [Plant(kind.plant(draw, rows[origin]), name, origin) for origin in origins]
    return found


def measured(rows: Sequence[Texts], folder: Path, *, each: int, seed: int = 1, **settings: Any) -> Found:
    """Run the builder over rows and plants. settings: of the builder.

    Copies are planted behind all rows. The other plants are a run of their own, without the gates of duplicates, since
    several of them are made of one row.
    """
    found = Found(Counter(), Counter(), Counter(), [])
    whole = [*(Plant(row) for row in rows), *plants(rows, each, seed, copies=True)]
    without = {**settings, "duplicates": {"exact": False, "near": False}}
    for name, planted, given in (("a", whole, settings), ("b", plants(rows, each, seed, copies=False), without)):
        drops = _dropped([plant.texts for plant in planted], folder / name, given)
        for number, plant in enumerate(planted):
            drop = drops.get(number)
            if plant.kind and KINDS[plant.kind].gate in COPIES and plant.origin in drops:
                continue
            found.planted[plant.kind] += 1
            if drop is None:
                continue
            found.dropped[drop["reason"]] += 1
            if plant.kind:
                found.found[plant.kind] += (drop["gate"], drop["reason"]) == KINDS[plant.kind][:2]
            else:
                found.false_drops.append(drop)
    return found


def _dropped(rows: Sequence[Texts], folder: Path, settings: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Place of a row -> its line in dropped.jsonl."""
    folder.mkdir()
    made = [
        SFTRow(
            id=f"{place}",
            source="made",
            messages=(Message(role="user", content=row.prompt), Message(role="assistant", content=row.answer)),
        )
        for place, row in enumerate(rows)
    ]
    write_rows(folder / "rows.jsonl", made)
    build(QualityConfig(path=folder / "rows.jsonl", **settings), folder / "out")
    lines = (folder / "out" / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    return {int(drop["id"]): drop for drop in map(json.loads, lines)}


def table(found: Found) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["| gate | planted | found | precision of the reason |", "| --- | --- | ---: | ---: |"]
    right = Counter[str]()
    for name, count in found.found.items():
        right[KINDS[name].reason] += count
    for name, kind in KINDS.items():
        if planted := found.planted[name]:
            dropped = found.dropped[kind.reason]
            precision = f"{right[kind.reason] / dropped:.1%}" if dropped else "-"
            lines.append(f"| {kind.gate} | {name} | {found.found[name] / planted:.0%} of {planted} | {precision} |")
    lines.append(f"| all | nothing | {len(found.false_drops)} of {found.planted['']} dropped | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    from data_builders import packaged

    rows = [Texts(*pair) for pair in packaged.answered_instructions()]
    rows += [Texts(pair.prompt[-1].content, pair.chosen) for pair in packaged.general_pairs() if len(pair.prompt) == 1]
    rows = list({row.prompt: row for row in rows if row.prompt.strip() and row.answer.strip()}.values())
    with tempfile.TemporaryDirectory() as folder:
        found = measured(
            rows, Path(folder), each=arguments.each, language={"enabled": True}, balance={"enabled": False}
        )
    print("\n".join(table(found)))
    for drop in found.false_drops if arguments.show else ():
        print(json.dumps({name: drop.get(name) for name in ("gate", "reason", "detail", "row")}, ensure_ascii=False))


if __name__ == "__main__":
    main()
