"""What a mix of SFT rows consists of: the columns of Llama 3's table 7, with the paper's own figures next to them.

    python -m data_builders.quality.composition FILE.jsonl [FILE.jsonl ...] [--tokenizer FOLDER]

prints the table for any file of SFT rows, one line for each source.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from align.config import answering
from align.jsonl import stream_rows
from align.rows import Message, SFTRow
from data_builders.preferences.report import Measure, measures

Category = Literal["general English", "code", "multilingual", "exam-like", "reasoning and tools", "long context"]
"""The data sets of Llama 3's table 7."""


class Figures(NamedTuple):
    """One line of table 7. Lengths are means for each row, in tokens or in another unit."""

    share: float
    """Ratio of the rows, from 0 to 1."""
    turns: float
    """Messages of a dialog, without the system message: a question and its answer are 2."""
    length: float
    context: float
    """Length of all messages but the last one, and of the definitions of tools."""
    final: float
    """Length of the last message, which is the target."""


PAPER: Mapping[str, Figures] = {
    "general English": Figures(0.5266, 6.3, 974.0, 656.7, 317.1),
    "code": Figures(0.1489, 2.7, 753.3, 378.8, 374.5),
    "multilingual": Figures(0.0301, 2.7, 520.5, 230.8, 289.7),
    "exam-like": Figures(0.0814, 2.3, 297.8, 124.4, 173.4),
    "reasoning and tools": Figures(0.2119, 3.1, 661.6, 359.8, 301.9),
    "long context": Figures(0.0011, 6.7, 38135.6, 37395.2, 740.5),
    "total": Figures(1.0, 4.7, 846.1, 535.7, 310.4),
}
"""Table 7 of Llama 3 (arXiv:2407.21783), in tokens. That a turn is a message is a reading of its averages: data sets of
single questions have 2.3 and 2.7."""


class Composition:
    """Sums over the rows of a mix, from which the table is made. Only the sums are in memory."""

    def __init__(self, tokenizer: Path | None = None) -> None:
        """tokenizer: a folder or a name on the Hub. Without one, lengths are in words."""
        units = measures(tokenizer)
        self.unit = "tokens" if "tokens" in units else "words"
        self._measure: Measure = units[self.unit]
        self._sums: dict[str, list[int]] = {}  # name -> rows, turns, context, final

    def add(self, name: str, row: SFTRow, times: int = 1) -> None:
        """Count a row that is in the mix `times` times, as one of the data set `name`."""
        tools = (Message(role="system", content=row.tools),) if row.tools else ()
        turns = sum(message.role != "system" for message in row.messages)
        context, final = self._measure((*tools, *row.messages[:-1])), self._measure(row.messages[-1:])
        sums = self._sums.setdefault(name, [0, 0, 0, 0])
        for place, value in enumerate((1, turns, context, final)):
            sums[place] += times * value

    def figures(self) -> dict[str, Figures]:
        """Name -> its line, the largest data set first, and `total` last. Empty without rows."""
        if not self._sums:
            return {}
        total = [sum(column) for column in zip(*self._sums.values(), strict=True)]
        ordered = sorted(self._sums.items(), key=lambda each: (-each[1][0], each[0]))
        return {name: _figures(sums, total[0]) for name, sums in [*ordered, ("total", total)]}

    def record(self, categories: Mapping[str, Category] | None = None) -> dict[str, Any]:
        """The table as JSON values. categories: data set -> the line of the paper that it is compared with."""
        categories = categories or {}
        lines = {}
        for name, figures in self.figures().items():
            paper = PAPER.get("total" if name == "total" else categories.get(name, ""))
            lines[name] = {**figures._asdict(), **({"llama3": paper._asdict()} if paper else {})}
        return {"unit": self.unit, "data_sets": lines}


def table(record: Mapping[str, Any]) -> str:
    """The result of `Composition.record` as a table in Markdown; under a line the one of the paper, in tokens."""
    unit = record["unit"]
    heads = ["data set", "share of rows", "turns", unit, f"{unit} in context", f"{unit} in final response"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, line in record["data_sets"].items():
        lines.append([name.replace("|", "\\|"), *_cells(Figures(**{key: line[key] for key in Figures._fields}))])
        if "llama3" in line:
            paper = Figures(**line["llama3"])
            known = next(name for name, figures in PAPER.items() if figures == paper)
            lines.append([f"Llama 3 (tokens): {known}", *_cells(paper)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def composition_of(rows: Iterable[SFTRow], tokenizer: Path | None = None) -> dict[str, Any]:
    """The table of rows by their source; a source that has the name of a line of the paper is compared with it."""
    found = Composition(tokenizer)
    for row in rows:
        found.add(row.source, row)
    return found.record({name: name for name in get_args(Category)})


def _figures(sums: Sequence[int], rows: int) -> Figures:
    count, turns, context, final = sums
    return Figures(count / rows, turns / count, (context + final) / count, context / count, final / count)


def _cells(figures: Figures) -> list[str]:
    return [f"{100 * figures.share:.2f}%", *(f"{value:,.1f}" for value in figures[1:])]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of files of SFT rows."""
    parser = ArgumentParser(prog="data_builders.quality.composition", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", help="files with SFT rows")
    parser.add_argument("--tokenizer", type=Path, help="folder or Hub name of a tokenizer: count tokens, not words")
    given = parser.parse_args(sys.argv[1:] if argv is None else argv)
    answering(lambda: print(table(composition_of(stream_rows(given.files, SFTRow), given.tokenizer))))


if __name__ == "__main__":
    main()
