"""The part of the data card that says what the kept rows are about, and how far the taggers can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from align.publish.markdown import cell, table
from data_builders.quality.difficulty import SEPARATOR

_LISTED = 20


def tags_in(name: str, value: str) -> list[str]:
    """The single values of a tag of one row, which are counted: their number is bounded by the different tags of the
    run, whereas each row may have a combination of its own.

    intentions, "poem; sea"   poem, sea
    topic, "maths"            maths
    """
    return value.split(SEPARATOR) if name == "intentions" else [value]


def tags_record(tags: Mapping[str, Counter[str]], notes: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values. tags: name of a tag -> value -> kept rows. notes: what the steps say of themselves."""
    topic, difficulty = notes.get("topic"), notes.get("difficulty")
    found: dict[str, Any] = {}
    if topic is not None:
        found["topic"] = {
            "coarse": dict(tags.get("topic", Counter()).most_common()),
            "fine": dict(tags.get("fine_topic", Counter()).most_common()),
            **topic,
        }
    if difficulty is not None:
        found["difficulty"] = {
            "grades_of_kept_rows": dict(sorted(tags.get("difficulty", Counter()).items())),
            "intentions_of_kept_rows": dict(tags.get("intentions", Counter()).most_common(100)),
            **difficulty,
        }
    return found


def tags_text(record: Mapping[str, Any]) -> list[str]:
    """The lines in Markdown; none if no step tagged the rows."""
    lines: list[str] = []
    if "topic" in record:
        lines += ["", "## Topics of the kept rows", "", *_topics(record["topic"])]
    if "difficulty" in record:
        lines += ["", "## Difficulty of the kept rows", "", *_difficulty(record["difficulty"])]
    return lines


def _topics(topic: Mapping[str, Any]) -> list[str]:
    total = sum(topic["coarse"].values()) or 1
    lines = table(
        ("topic", "rows", "share"),
        [(name, count, f"{count / total:.1%}") for name, count in topic["coarse"].items()],
        numbers=(1, 2),
    )
    fine = ", ".join(f"{cell(name)} {count}" for name, count in list(topic["fine"].items())[:_LISTED])
    lines += ["", f"Fine topics, the most frequent first: {fine}.", ""] if fine else [""]
    held_out, confused = topic["held_out"], topic["held_out"]["confusion"]
    lines += [
        f"Tagged by: {cell(topic['tagger'])}. On {held_out['prompts']} labelled prompts that it has not learned from, "
        f"{held_out['coarse_accuracy']:.0%} of the coarse and {held_out['fine_accuracy']:.0%} of the fine topics are "
        "right. Each line has the prompts of one topic, each column those that were tagged with it:",
        "",
    ]
    names = [*confused, *sorted({one for counts in confused.values() for one in counts} - confused.keys())]
    rows = [(name, *(counts.get(one, 0) or "" for one in names)) for name, counts in confused.items()]
    return lines + table(("topic", *names), rows, numbers=range(1, len(names) + 1))


def _difficulty(difficulty: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if difficulty["grades_of_kept_rows"]:
        lines += table(("grade of 3", "rows"), list(difficulty["grades_of_kept_rows"].items()), numbers=(1,))
        lines.append("")
    intentions = difficulty["intentions_of_kept_rows"]
    if intentions:
        listed = ", ".join(f"{cell(name)} {count}" for name, count in list(intentions.items())[:_LISTED])
        lines += [f"Intentions, the most frequent first: {listed}.", ""]
    lines.append(
        f"Asked: {cell(difficulty['model'])}. {difficulty['rows_without_a_grade']} rows have no grade, and "
        f"{difficulty['rows_without_tags']} no intentions; {difficulty['tags_left_out']} rare tags were left out."
    )
    return lines
