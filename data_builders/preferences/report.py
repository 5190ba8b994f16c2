"""Describe the composition of preference data: the columns of Llama 3's table 6, length bias, and levels.

    python -m data_builders.preferences.report FILE.jsonl [FILE.jsonl ...] [--tokenizer FOLDER] [--by source]

prints the report for any file of preference rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from align.errors import AlignError
from align.files import fingerprint_of
from align.jsonl import read_rows
from align.rows import Message, Messages, PreferenceRow
from data_builders.preferences.agreement import batch_name
from data_builders.preferences.comparisons import GRADES
from data_builders.row_contents import message_texts
from data_builders.row_set import characters

GroupBy = Literal["source", "batch", "level"]
Measure = Callable[[Messages], int]
"""A function that returns the length of messages in some unit."""

GROUPS: Mapping[GroupBy, Callable[[PreferenceRow], str]] = {
    "source": lambda row: row.source,
    "batch": lambda row: batch_name(row.round, row.batch) or "(no batch)",
    "level": lambda row: row.level or "(ungraded)",
}


def measures(tokenizer: Path | None) -> dict[str, Measure]:
    """Return unit -> measure: tokens if a tokenizer (folder or Hub name) is given, else characters and words.

    Words are separated by spaces. Contents and calls are measured, without the chat protocol's control tokens.
    """
    if tokenizer is None:
        return {"characters": characters, "words": lambda messages: sum(len(text.split()) for text in _texts(messages))}
    from align.models.loading import plain_tokenizer

    loaded = plain_tokenizer(tokenizer, key="tokenizer")
    return {
        "tokens": lambda messages: sum(
            len(loaded(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in _texts(messages)
        )
    }


def composition(rows: Sequence[PreferenceRow], by: GroupBy, units: Mapping[str, Measure]) -> list[dict[str, Any]]:
    """Return the columns of table 6 of Llama 3 for each group of rows, the largest first, and for the total.

    turns_per_dialog: the mean number of user messages per dialog. Rows belong to one dialog if the prompt of one begins
        with the prompt of the other; the longest of them counts.
    per_example: the whole row: its prompt with all earlier turns, and all its responses.
    in_prompt: the last user message only.
    in_response: one completion.
    """
    groups: dict[str, list[PreferenceRow]] = defaultdict(list)
    for row in rows:
        groups[GROUPS[by](row)].append(row)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return [_line(name, part, len(rows), units) for name, part in [*ordered, ("total", list(rows))]]


def length_bias(rows: Sequence[PreferenceRow]) -> dict[str, Any]:
    """Measure how often the chosen response is the longer one (in characters), over all rows and by level.

    If it is much more than half, a reward model can score well by preferring long answers.
    """
    lengths: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        for group in ("all", row.level or "(ungraded)"):
            lengths[group].append((characters(row.chosen), characters(row.rejected)))
    return {
        group: {
            "rows": len(pairs),
            "chosen_longer": fmean(chosen > rejected for chosen, rejected in pairs),
            "same_length": fmean(chosen == rejected for chosen, rejected in pairs),
            "mean_chosen_characters": fmean(chosen for chosen, _ in pairs),
            "mean_rejected_characters": fmean(rejected for _, rejected in pairs),
        }
        for group, pairs in lengths.items()
    }


def level_shares(rows: Iterable[PreferenceRow]) -> dict[str, dict[str, float]]:
    """Return level -> number of rows and their ratio, the strongest level first and rows without a level last."""
    counts: Counter[str] = Counter(row.level or "(ungraded)" for row in rows)
    order: list[str] = [*GRADES, "(ungraded)"]
    return {level: {"rows": counts[level], "share": counts[level] / counts.total()} for level in order if counts[level]}


def table_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Format the result of `composition` as a table of text."""
    if not lines:
        return "no rows"
    cells = [[key.replace("_", " ") for key in lines[0]], *[[_cell(*item) for item in line.items()] for line in lines]]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    )


def bias_text(bias: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the result of `length_bias` as lines of text."""
    return "\n".join(
        f"{group}: chosen is longer in {100 * one['chosen_longer']:.1f}% of {one['rows']} rows "
        f"(on average {one['mean_chosen_characters']:.0f} characters, rejected {one['mean_rejected_characters']:.0f})"
        for group, one in bias.items()
    )


def _line(name: str, rows: Sequence[PreferenceRow], total: int, units: Mapping[str, Measure]) -> dict[str, Any]:
    turns = _turns_of_dialogs(rows)
    line: dict[str, Any] = {
        "dataset": name,
        "comparisons": len(rows),
        "share": len(rows) / total if total else 0.0,
        "turns_per_dialog": fmean(turns) if turns else 0.0,
    }
    for unit, measure in units.items():
        responses = [measure(response) for row in rows for response in row.completions]
        line[f"{unit}_per_example"] = (sum(measure(row.prompt) for row in rows) + sum(responses)) / max(len(rows), 1)
        line[f"{unit}_in_prompt"] = fmean(measure(_asked_last(row.prompt)) for row in rows) if rows else 0.0
        line[f"{unit}_in_response"] = fmean(responses) if responses else 0.0
    return line


def _turns_of_dialogs(rows: Sequence[PreferenceRow]) -> list[int]:
    """Count the user messages of each dialog. A prompt with which another row's prompt begins is not counted."""
    turns: dict[str, int] = {}
    begun: set[str] = set()
    for row in rows:
        key, asked = "", []
        for message in row.prompt:
            key = fingerprint_of(key, *message_texts([message]))
            if message.role == "user":
                asked.append(key)
        begun.update(one for one in asked if one != key)
        turns[key] = len(asked)
    return [count for key, count in turns.items() if key not in begun]


def _asked_last(prompt: Messages) -> Messages:
    return next(((message,) for message in reversed(prompt) if message.role == "user"), prompt)


def _texts(messages: Iterable[Message]) -> list[str]:
    return [
        text
        for message in messages
        for text in (message.content, *(f"{call.name} {call.arguments}" for call in message.tool_calls))
        if text
    ]


def _cell(key: str, value: Any) -> str:
    if key == "share":
        return f"{100 * value:.2f}%"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="data_builders.preferences.report", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="JSONL files with preference rows")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder: count tokens instead of characters and words")
    parser.add_argument("--by", choices=list(GROUPS), default="source", help="what the table is grouped by")
    given = parser.parse_args(arguments)
    try:
        rows = read_rows(given.files, PreferenceRow)
    except AlignError as error:
        print(error, file=sys.stderr)
        return 2
    print(table_text(composition(rows, given.by, measures(given.tokenizer))))
    print(f"\n{bias_text(length_bias(rows))}\n\nlevels: {json.dumps(level_shares(rows))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
