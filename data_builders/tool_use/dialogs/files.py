"""Files with the questions that they answer: a shop's stock, a team's hours, a program's settings, and more.

The content of a file is drawn and written to disk, the tool `read_file` reads it, and the answer is computed from the
drawn content. `dialog.py` makes the dialog.

Source: the notice of a file is that of Llama's reference agent, a tool's message before the user's.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from align.tools.reader import file_reader
from data_builders.tool_use.dialogs.file_forms import Content, Note, Script, Table, bytes_of, suffixes_of
from data_builders.tool_use.dialogs.renaming import Offered
from data_builders.tool_use.dialogs.task import Task
from data_builders.tool_use.names import CITIES, FIRST_NAMES

NOTICE = '# There is a file accessible to you at "{path}"'
"""How the model learns of a file."""

Asks = Literal["cell", "absent", "largest", "smallest", "total", "rows", "count", "which", "fact", "returns"]
"""What is asked about a table, a note (`fact`) or a script (`returns`); see `_ASKS`."""


@dataclass(frozen=True)
class Question:
    """One thing that people ask about a file."""

    asks: Asks
    queries: tuple[str, ...]
    """What a user says; `{key}` is a row's first value, `{value}` another value that the question names."""
    answers: tuple[str, ...]
    """What the assistant says, with `{result}` too."""
    column: str = ""
    """Which column, or which fact, it is about."""


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    stems: tuple[str, ...]
    """Names of such files, without suffix."""
    draw: Callable[[random.Random], tuple[Content, str]]
    """Draws the content, and a key that does not occur in it."""
    questions: tuple[Question, ...]


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
        kind = rng.choice(KINDS)
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
        said = _ASKS[question.asks](drawn, question.column, rng)
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


# What is drawn

Cell = Callable[[random.Random], Any]


def _whole(low: int, high: int) -> Cell:
    return lambda rng: rng.randint(low, high)


def _price(low: int, high: int) -> Cell:
    """Never a whole number, which a workbook would return without its decimal point."""
    return lambda rng: rng.randint(low, high) + rng.choice((0.25, 0.4, 0.5, 0.75, 0.95))


def _of(*values: str) -> Cell:
    return lambda rng: rng.choice(values)


def _day(first: int = 1, last: int = 12) -> Cell:
    """A date between two months."""
    return lambda rng: f"2025-{rng.randint(first, last):02d}-{rng.randint(1, 28):02d}"


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(6, 21):02d}:{rng.randint(1, 11) * 5:02d}"


def _table_of(title: str, key: str, keys: Sequence[str], **columns: Cell) -> Callable[..., tuple[Content, str]]:
    def draw(rng: random.Random) -> tuple[Content, str]:
        absent, *there = rng.sample(keys, rng.randint(4, 7) + 1)
        there.sort(key=keys.index)  # hours and names in ascending order
        rows = tuple((name, *(cell(rng) for cell in columns.values())) for name in there)
        return Table(title, (key, *columns), rows), absent

    return draw


def _note_of(title: str, **facts: Cell) -> Callable[..., tuple[Content, str]]:
    return lambda rng: (Note(title, {name: cell(rng) for name, cell in facts.items()}), "")


def _script(rng: random.Random) -> tuple[Content, str]:
    absent, *names = rng.sample(
        ("scale", "shift", "grow", "adjust", "weigh", "convert", "charge", "reduce", "bonus"), rng.randint(3, 5)
    )
    return Script("Small helpers", {name: (rng.choice("+-*"), rng.randint(2, 9)) for name in names}), absent


_ITEMS = ("pens", "notebooks", "staplers", "lamps", "cables", "mugs", "chairs", "rulers", "markers", "folders",
          "clocks", "batteries", "backpacks", "umbrellas")  # fmt: skip
_TASKS = ("Book the room", "Order paper", "Call the bank", "Send the invoices", "Fix the printer", "Water the plants",
          "Write the report", "Update the website", "Clean the kitchen", "Plan the trip")  # fmt: skip
_BOOKS = ("The Silver Lake", "Winter Roads", "A House of Glass", "The Last Garden", "Paper Boats", "Night Train North",
          "The Clockmaker", "Salt and Stone", "Under the Hill", "Seven Letters")  # fmt: skip
_HOURS = tuple(f"{hour:02d}:00" for hour in range(24))
_ROOMS = ("Room 2", "Room 5", "Room 11", "the library", "the small hall", "the meeting room upstairs")

_NOT_THERE = (
    "{file} does not list {key}.",
    "There is nothing about {key} in {file}.",
    "I looked into {file}, and {key} does not appear there.",
)

KINDS: tuple[Kind, ...] = (
    Kind(
        ("stock", "inventory", "shop_stock"),
        _table_of("Stock", "item", _ITEMS, quantity=_whole(0, 90), price=_price(1, 40), shelf=_of("A", "B", "C", "D")),
        (
            Question("cell", ("How many {key} do we have?", "What quantity of {key} is in stock?",
                              "How many {key} are left?", "Tell me the stock of {key}."),
                     ("{result} {key} are in stock.", "There are {result} {key} in stock."), "quantity"),
            Question("cell", ("What does the shop charge for {key}?", "What is the price of {key}?",
                              "How much do {key} cost?"),
                     ("The price of {key} is {result}.", "{result} is the price of {key}."), "price"),
            Question("absent", ("How many {key} do we have?", "What is the price of {key}?",
                                "On which shelf are the {key}?"), _NOT_THERE),
            Question("largest", ("Which item do we have the most of?", "What item has the largest quantity?",
                                 "Of which item is there most in stock?"),
                     ("You have the most {result}: {value}.", "{result}, with {value} in stock."), "quantity"),
            Question("largest", ("What is the most expensive item?", "Which item has the highest price?",
                                 "Which item costs the most?"),
                     ("{result}, at {value}.", "The highest price, {value}, is that of {result}."), "price"),
            Question("total", ("How many pieces are in stock altogether?", "What is the sum of all quantities?",
                               "Add up the quantities of all items."),
                     ("{result} pieces in all.", "The quantities add up to {result}."), "quantity"),
            Question("which", ("Which items are on shelf {value}?", "What do we keep on shelf {value}?",
                               "List the items of shelf {value}."),
                     ("On shelf {value}: {result}.", "Shelf {value} holds {result}."), "shelf"),
        ),
    ),
    Kind(
        ("hours", "timesheet", "team_hours"),
        _table_of("Hours", "name", FIRST_NAMES, team=_of("sales", "design", "support"), hours=_whole(4, 45)),
        (
            Question("cell", ("How many hours did {key} work?", "What are {key}'s hours?",
                              "How long did {key} work, in hours?"),
                     ("{key} worked {result} hours.", "{result} hours."), "hours"),
            Question("cell", ("Which team is {key} in?", "What team does {key} belong to?",
                              "Tell me the team of {key}."),
                     ("{key} is in the {result} team.", "That is the {result} team."), "team"),
            Question("absent", ("How many hours did {key} work?", "Which team is {key} in?",
                                "What are {key}'s hours?"), _NOT_THERE),
            Question("largest", ("Who worked the most?", "Who has the most hours?", "Whose hours are the highest?"),
                     ("{result} worked the most, {value} hours.", "{result}, with {value} hours."), "hours"),
            Question("smallest", ("Who worked the least?", "Who has the fewest hours?", "Whose hours are the lowest?"),
                     ("{result} worked the least, {value} hours.", "{result}, with {value} hours."), "hours"),
            Question("total", ("How many hours did they all work together?", "What is the total of the hours?",
                               "Sum up everyone's hours."),
                     ("Together they worked {result} hours.", "The total is {result} hours."), "hours"),
            Question("count", ("How many people are in the {value} team?", "What is the size of the {value} team?",
                               "Count the members of the {value} team."),
                     ("The {value} team has this many people: {result}.", "{value}: {result}."), "team"),
        ),
    ),
    Kind(
        ("members", "club", "member_list"),
        _table_of("Members", "name", FIRST_NAMES, city=_of(*CITIES[:8]), joined=_whole(2001, 2024)),
        (
            Question("cell", ("Where does {key} live?", "In which city does {key} live?", "What is {key}'s city?"),
                     ("{key} lives in {result}.", "In {result}."), "city"),
            Question("cell", ("When did {key} join?", "In what year did {key} become a member?",
                              "Since when is {key} a member?"),
                     ("{key} joined in {result}.", "In {result}."), "joined"),
            Question("absent", ("When did {key} join?", "Is {key} a member?", "Where does {key} live?"), _NOT_THERE),
            Question("smallest", ("Who has been a member the longest?", "Who joined first?",
                                  "Which member joined the earliest?"),
                     ("{result}, who joined in {value}.", "That is {result} ({value})."), "joined"),
            Question("rows", ("How many members does the club have?", "How many people are listed?",
                              "Count the members."),
                     ("The club has {result} members.", "{result} members are listed.")),
            Question("which", ("Who lives in {value}?", "Which members are from {value}?",
                               "Name the members in {value}."),
                     ("From {value}: {result}.", "Living in {value}: {result}."), "city"),
        ),
    ),
    Kind(
        ("readings", "sensor", "measurements"),
        _table_of("Readings", "time", _HOURS, temperature=_price(-4, 30), humidity=_whole(20, 95)),
        (
            Question("cell", ("What was the temperature at {key}?", "How warm was it at {key}?",
                              "Which temperature did the sensor read at {key}?"),
                     ("At {key} it was {result} degrees.", "The sensor read {result} degrees."), "temperature"),
            Question("cell", ("What was the humidity at {key}?", "How humid was it at {key}?",
                              "Which humidity was measured at {key}?"),
                     ("The humidity at {key} was {result}%.", "{result}%."), "humidity"),
            Question("largest", ("When was it the warmest?", "At what time was the highest temperature read?",
                                 "When did the temperature peak?"),
                     ("At {result}, with {value} degrees.", "The peak was {value} degrees at {result}."),
                     "temperature"),
            Question("smallest", ("When was the air driest?", "At what time was the humidity lowest?",
                                  "When was the lowest humidity measured?"),
                     ("At {result}, with {value}%.", "The humidity was lowest at {result}: {value}%."), "humidity"),
            Question("rows", ("How many readings are there?", "How often did the sensor measure?",
                              "Count the readings."),
                     ("There are {result} readings.", "{result} readings.")),
        ),
    ),
    Kind(
        ("todo", "tasks", "open_points"),
        _table_of("To do", "task", _TASKS, owner=_of(*FIRST_NAMES[:6]), due=_day(), done=_of("yes", "no")),
        (
            Question("cell", ('Who does "{key}"?', 'Who is to do the task "{key}"?', 'Whose task is "{key}"?'),
                     ('"{key}" is the task of {result}.', "{result} does that."), "owner"),
            Question("cell", ('When is "{key}" due?', 'By which date is "{key}" to be done?',
                              'What is the due date of "{key}"?'),
                     ("It is due on {result}.", '"{key}" is due on {result}.'), "due"),
            Question("absent", ('When is "{key}" due?', 'Who does "{key}"?', 'Is "{key}" done?'), _NOT_THERE),
            Question("smallest", ("Which task is due first?", "What has the earliest due date?",
                                  "Which task has to be done the soonest?"),
                     ("{result}, due on {value}.", "The first is: {result} ({value})."), "due"),
            Question("which", ("Which tasks does {value} have?", "What does {value} have to do?",
                               "List the tasks of {value}."),
                     ("Tasks of {value}: {result}.", "{value} has these: {result}."), "owner"),
            Question("rows", ("How many tasks are on the list?", "How long is the list of tasks?", "Count the tasks."),
                     ("There are {result} tasks on the list.", "{result} tasks.")),
        ),
    ),
    Kind(
        ("expenses", "costs", "trip_costs"),
        _table_of("Expenses", "what", ("train", "hotel", "lunch", "dinner", "taxi", "museum", "parking", "coffee",
                                       "tickets", "gifts"),
                  amount=_price(2, 180), day=_day(), paid_by=_of("card", "cash")),
        (
            Question("cell", ("How much was the expense for {key}?", "What did we spend on {key}?",
                              "Which amount is noted for {key}?"),
                     ("{result} for {key}.", "You spent {result} on {key}."), "amount"),
            Question("cell", ("When was {key} paid for?", "On which day is {key} noted?",
                              "What is the date of the expense for {key}?"),
                     ("On {result}.", "The expense for {key} is of {result}."), "day"),
            Question("absent", ("How much did we spend on {key}?", "What did {key} cost?",
                                "When was {key} paid for?"), _NOT_THERE),
            Question("largest", ("What was the biggest expense?", "What did we spend the most on?",
                                 "Which expense was the highest?"),
                     ("The biggest one was {result}, at {value}.", "{result}, with {value}."), "amount"),
            Question("total", ("How much did we spend in all?", "What do the expenses add up to?",
                               "What is the total amount?"),
                     ("You spent {result} in all.", "The total is {result}."), "amount"),
            Question("count", ("How many expenses were paid by {value}?", "How often was {value} used to pay?",
                               "Count the payments by {value}."),
                     ("Payments by {value}: {result}.", "That is {result}."), "paid_by"),
        ),
    ),
    Kind(
        ("scores", "grades", "test_results"),
        _table_of("Scores", "student", FIRST_NAMES, points=_whole(20, 100), grade=_of("A", "B", "C", "D")),
        (
            Question("cell", ("How many points did {key} get?", "What was {key}'s score?",
                              "Tell me the points of {key}."),
                     ("{key} got {result} points.", "{result} points."), "points"),
            Question("cell", ("Which grade did {key} get?", "What is {key}'s grade?", "How was {key} graded?"),
                     ("{key} got the grade {result}.", "The grade is {result}."), "grade"),
            Question("largest", ("Who got the most points?", "Who has the best score?",
                                 "Which student scored highest?"),
                     ("{result}, with {value} points.", "The best score, {value}, is that of {result}."), "points"),
            Question("smallest", ("Who got the fewest points?", "Who has the lowest score?",
                                  "Which student scored lowest?"),
                     ("{result}, with {value} points.", "The lowest score, {value}, is that of {result}."), "points"),
            Question("count", ("How many students got the grade {value}?", "How often was a {value} given?",
                               "Count the students with grade {value}."),
                     ("Grade {value} was given this many times: {result}.", "{result} with grade {value}."), "grade"),
            Question("rows", ("How many students took the test?", "How many students are listed?",
                              "Count the students."),
                     ("{result} students are listed.", "There are {result} students.")),
        ),
    ),
    Kind(
        ("departures", "timetable", "trains"),
        _table_of("Departures", "destination", CITIES[:30], departs=_clock, platform=_whole(1, 12),
                  minutes=_whole(15, 320)),
        (
            Question("cell", ("When does the train to {key} leave?", "At what time is the departure for {key}?",
                              "When is the train to {key}?"),
                     ("The train to {key} leaves at {result}.", "At {result}."), "departs"),
            Question("cell", ("From which platform does the train to {key} go?",
                              "What is the platform for {key}?", "Which platform do I need for {key}?"),
                     ("It goes from platform {result}.", "Platform {result}."), "platform"),
            Question("absent", ("When does the train to {key} leave?", "Is there a train to {key}?",
                                "From which platform does the train to {key} go?"), _NOT_THERE),
            Question("largest", ("Which train ride takes the longest?", "To which destination is the ride longest?",
                                 "What destination has the longest ride?"),
                     ("The ride to {result}, with {value} minutes.", "{result}: {value} minutes."), "minutes"),
            Question("smallest", ("Which train leaves first?", "Where does the earliest train go?",
                                  "What is the destination of the first train?"),
                     ("The train to {result}, at {value}.", "To {result}; it leaves at {value}."), "departs"),
        ),
    ),
    Kind(
        ("books", "library", "catalog"),
        _table_of("Books", "title", _BOOKS, author=_of("Novak", "Silva", "Tanaka", "Weber", "Okafor"),
                  year=_whole(1950, 2024), copies=_whole(1, 15)),
        (
            Question("cell", ('Who wrote "{key}"?', 'Who is the author of "{key}"?', 'Name the author of "{key}".'),
                     ('{result} wrote "{key}".', "The author is {result}."), "author"),
            Question("cell", ('How many copies of "{key}" are there?', 'How often do we have "{key}"?',
                              'Tell me the number of copies of "{key}".'),
                     ('Copies of "{key}": {result}.', "We have this many: {result}."), "copies"),
            Question("absent", ('Who wrote "{key}"?', 'Do we have "{key}"?', 'When did "{key}" appear?'), _NOT_THERE),
            Question("smallest", ("Which book is the oldest?", "What is the oldest book?",
                                  "Which book appeared first?"),
                     ('"{result}", of {value}.', 'The oldest is "{result}" ({value}).'), "year"),
            Question("total", ("How many copies do we have of all books together?", "Add up the copies.",
                               "What is the total number of copies?"),
                     ("{result} copies in all.", "The copies add up to {result}."), "copies"),
            Question("which", ("Which books are by {value}?", "What did {value} write?", "List the books of {value}."),
                     ("By {value}: {result}.", "{value} wrote these: {result}."), "author"),
        ),
    ),
    Kind(
        ("settings", "config", "server_settings"),
        _note_of("Settings", host=_of("alpha", "beacon", "cedar", "delta"), port=_whole(1024, 9999),
                 workers=_whole(1, 32), log_level=_of("debug", "info", "warning"), timeout_seconds=_whole(5, 300)),
        (
            Question("fact", ("Which port is set?", "What port does the server use?", "On what port does it listen?"),
                     ("The port is {result}.", "Port {result}."), "port"),
            Question("fact", ("How many workers are configured?", "What is the number of workers?",
                              "With how many workers does it run?"),
                     ("Workers: {result}.", "The number of workers is {result}."), "workers"),
            Question("fact", ("What is the log level?", "Which log level is set?", "At what level does it log?"),
                     ("The log level is {result}.", "It is set to {result}."), "log_level"),
            Question("fact", ("What is the timeout, in seconds?", "After how many seconds does it time out?",
                              "How long is the timeout set to?"),
                     ("{result} seconds.", "The timeout is {result} seconds."), "timeout_seconds"),
            Question("fact", ("Which host is named?", "What is the host called?", "Tell me the host's name."),
                     ("The host is {result}.", "It is called {result}."), "host"),
        ),
    ),
    Kind(
        ("meeting", "minutes", "meeting_note"),
        _note_of("Meeting", date=_day(1, 5), place=_of(*_ROOMS), chair=_of(*FIRST_NAMES), people=_whole(3, 25),
                 budget=_whole(200, 9000), next_meeting=_day(6, 12)),
        (
            Question("fact", ("Where did the meeting take place?", "What was the place of the meeting?",
                              "Where did they meet?"),
                     ("The meeting took place here: {result}.", "The place was {result}."), "place"),
            Question("fact", ("Who chaired the meeting?", "Who was in the chair?", "Who led the meeting?"),
                     ("{result} chaired it.", "The chair was {result}."), "chair"),
            Question("fact", ("How many people came?", "How many people were at the meeting?",
                              "What was the number of people?"),
                     ("{result} people were there.", "{result} people."), "people"),
            Question("fact", ("What budget was agreed on?", "How large is the budget?", "Which budget is noted?"),
                     ("The budget is {result}.", "They agreed on {result}."), "budget"),
            Question("fact", ("When is the next meeting?", "What is the date of the next meeting?",
                              "When do they meet again?"),
                     ("The next meeting is on {result}.", "On {result}."), "next_meeting"),
        ),
    ),
    Kind(
        ("helpers", "functions", "small_math"),
        _script,
        (
            Question("returns", ("What does {key}({value}) return?", "What is the result of {key}({value})?",
                                 "If I call {key} with {value}, what do I get?"),
                     ("{key}({value}) returns {result}.", "It returns {result}.")),
        ),
    ),
)  # fmt: skip
