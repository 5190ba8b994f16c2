"""Files with the questions that they answer: a shop's stock, a team's hours, a program's settings, and more.

The content of a file is drawn and written to disk, the tool `read_file` reads it, and the answer is computed from the
drawn content. `file_kinds.yaml` has the kinds of files and the questions; `dialog_kinds.py` makes the dialog.

Source: the notice of a file is that of Llama's reference agent, a tool's message before the user's.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from align.tools.reader import file_reader
from data_builders.tool_use.dialogs.file_forms import Content, Note, Script, Table, bytes_of, suffixes_of
from data_builders.tool_use.dialogs.file_kinds import Asks, Kind, file_kinds
from data_builders.tool_use.dialogs.renaming import Offered
from data_builders.tool_use.dialogs.task import Task

NOTICE = '# There is a file accessible to you at "{path}"'
"""How the model learns of a file."""


@dataclass(frozen=True)
class Drawn:
    """A file to ask about."""

    path: str
    """Relative to the folder that is read."""
    data: bytes
    kind: Kind
    content: Content
    absent: str

    @property
    def notice(self) -> str:
        return NOTICE.format(path=self.path)


@dataclass(frozen=True)
class Asked:
    """A question about a file, and its answer."""

    text: str
    answer: str
    result: str
    """What the answer must contain."""


def drawn_file(rng: random.Random, suffix: str | None = None) -> Drawn:
    """A file with the suffix, of any kind that has a form for it; of any kind and suffix if none is given."""
    while True:
        kind = rng.choice(file_kinds())
        content, absent = kind.draw(rng)
        if suffix is None or suffix in suffixes_of(content):
            break
    stem = rng.choice(kind.stems) + rng.choice(("", "", "", "_2024", "_2025", "-new", f"-{rng.randint(2, 40)}"))
    suffix = suffix or rng.choice(suffixes_of(content))
    path = rng.choice(("", "", "", "", "data/", "shared/")) + stem + suffix
    return Drawn(path, bytes_of(content, suffix), kind, content, absent)


def questions_of(drawn: Drawn, count: int, rng: random.Random) -> list[Asked]:
    """Different questions that the file answers, at most `count`."""
    found: list[Asked] = []
    for question in rng.sample(drawn.kind.questions, len(drawn.kind.questions)):
        said = _ASKS[question.asks](drawn, question.about, rng)
        if said is not None and len(found) < count:
            text = rng.choice(_FRAMES).format(rng.choice(question.queries).format(**said), file=drawn.path)
            found.append(Asked(text, rng.choice(question.answers).format(**said), str(said.get("result", ""))))
    return found


_FRAMES = ("{}", "{}", "{}", "Look into {file}. {}", "{} The file should tell.", "See {file}: {}", "{} (from {file})")

READING = ("", "", "", "I read the file.", "Let me look into the file.", "I will open {path}.")
"""What the assistant says with the call."""


def reader_over(drawn: Drawn) -> Offered:
    """`read_file` for a folder with this file only."""
    holder, offered = _desk()
    shutil.rmtree(_folder(holder))
    place = _folder(holder) / drawn.path
    place.parent.mkdir(parents=True)
    place.write_bytes(drawn.data)
    return offered


@cache
def _desk() -> tuple[tempfile.TemporaryDirectory[str], Offered]:
    """One folder, deleted when this process ends, and one reading process for all dialogs."""
    holder = tempfile.TemporaryDirectory(prefix="align-files-")
    _folder(holder).mkdir()
    tool = file_reader(_folder(holder))
    return holder, Offered(Task(tool.function, {}, (), ()), tool, {"path": "path"})


def _folder(holder: tempfile.TemporaryDirectory[str]) -> Path:
    return Path(holder.name) / "files"


# What is asked: values for the templates, or None if the content does not allow the question


Said = dict[str, Any] | None


def _row(drawn: Drawn, column: str, rng: random.Random) -> Said:
    row = rng.choice(_table(drawn).records)
    return {"key": _key(drawn, row), "result": row[column]}


def _absent(drawn: Drawn, column: str, rng: random.Random) -> Said:
    return {"key": drawn.absent, "file": drawn.path}


def _extreme(choose: Callable[..., Any]) -> Callable[[Drawn, str, random.Random], Said]:
    def ask(drawn: Drawn, column: str, rng: random.Random) -> Said:
        rows = _table(drawn).records
        end = choose(row[column] for row in rows)
        found = [_key(drawn, row) for row in rows if row[column] == end]
        return {"result": found[0], "value": end} if len(found) == 1 else None

    return ask


def _total(drawn: Drawn, column: str, rng: random.Random) -> Said:
    total = round(sum(row[column] for row in _table(drawn).records), 2)
    return {"result": int(total) if total == int(total) else total}


def _rows(drawn: Drawn, column: str, rng: random.Random) -> Said:
    return {"result": len(_table(drawn).rows)}


def _with_value(drawn: Drawn, column: str, rng: random.Random) -> tuple[Any, list[str]]:
    rows = _table(drawn).records
    value = rng.choice(rows)[column]
    return value, [_key(drawn, row) for row in rows if row[column] == value]


def _count(drawn: Drawn, column: str, rng: random.Random) -> Said:
    value, keys = _with_value(drawn, column, rng)
    return {"value": value, "result": len(keys)}


def _which(drawn: Drawn, column: str, rng: random.Random) -> Said:
    value, keys = _with_value(drawn, column, rng)
    return {"value": value, "result": ", ".join(keys)}


def _fact(drawn: Drawn, column: str, rng: random.Random) -> Said:
    assert isinstance(drawn.content, Note)
    return {"result": drawn.content.facts[column]}


def _returns(drawn: Drawn, column: str, rng: random.Random) -> Said:
    assert isinstance(drawn.content, Script)
    name = rng.choice(sorted(drawn.content.functions))
    operator, number = drawn.content.functions[name]
    value = rng.randint(2, 12)
    results = {"+": value + number, "-": value - number, "*": value * number}
    return {"key": name, "value": value, "result": results[operator]}


_ASKS: dict[Asks, Callable[[Drawn, str, random.Random], Said]] = {
    "cell": _row, "absent": _absent, "largest": _extreme(max), "smallest": _extreme(min), "total": _total,
    "rows": _rows, "count": _count, "which": _which, "fact": _fact, "returns": _returns,
}  # fmt: skip


def _table(drawn: Drawn) -> Table:
    assert isinstance(drawn.content, Table)
    return drawn.content


def _key(drawn: Drawn, row: dict[str, Any]) -> str:
    return str(row[_table(drawn).columns[0]])
