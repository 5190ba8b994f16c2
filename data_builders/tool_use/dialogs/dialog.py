"""Tool dialogs out of tasks: functions are offered, a user asks, calls are really made, and the assistant answers.

Each kind of dialog is one function below. All of them take the same few things: a random source, what is offered, and
a recorder over the real functions. A dialog whose call fails where it should not is dropped, and counted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from align.rows import Message, Messages, ToolCall, ToolSpec
from align.tools.registry import Registry
from align.tools.replay import CallRecord, Recorder
from data_builders.tool_use.dialogs import code, files, phrases
from data_builders.tool_use.dialogs.catalog import Domain
from data_builders.tool_use.dialogs.renaming import Offered, plain, renamed
from data_builders.tool_use.dialogs.samplers import Value
from data_builders.tool_use.dialogs.task import Chain, Query, Task, as_query

TemplateKind = Literal[
    "single", "parallel", "multi-step", "mended", "dialog", "none-right", "restraint", "tools-off", "file", "code"
]
KINDS: tuple[TemplateKind, ...] = (
    "single", "parallel", "multi-step", "mended", "dialog", "none-right", "restraint", "tools-off", "file",
    "code",
)  # fmt: skip


@dataclass(frozen=True)
class Played:
    """A dialog that took place: every result in it is what the function returned."""

    kind: TemplateKind
    messages: Messages
    tools: tuple[ToolSpec, ...]
    records: tuple[CallRecord, ...]
    offered: tuple[Offered, ...]
    final: str = ""
    """What the last call gave, where the dialog's end depends on it."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files that calls read, by their paths in the folder that is read."""


class CallFailed(Exception):
    """A call that should have succeeded did not; the message is the kind of the error."""


@dataclass(frozen=True)
class Stage:
    """What dialogs are made from."""

    domains: Sequence[Domain]
    most_offered: int
    """At most so many functions in a dialog."""
    renamed_share: float
    """Share of the functions that appear under another name."""
    alone_share: float = 0.0
    """Share of the dialogs that offer no function beside those that they are about."""

    def domain(self, rng: random.Random) -> Domain:
        return rng.choice(self.domains)

    def offer(self, task: Task, domain: Domain, rng: random.Random) -> Offered:
        return renamed(task, domain.name, rng) if rng.random() < self.renamed_share else plain(task)

    def others(self, taken: Sequence[Offered], domain: Domain, rng: random.Random, least: int = 0) -> list[Offered]:
        """Further functions to offer, of the same domain as often as of others, none of which is among the taken."""
        if not least and rng.random() < self.alone_share:
            return []
        room = self.most_offered - len(taken)
        wanted = min(room, rng.choices(range(least, least + 4), weights=(5, 3, 2, 1))[0])
        found: list[Offered] = []
        for _ in range(10 * wanted):
            if len(found) == wanted:
                break
            there = domain if rng.random() < 0.5 else self.domain(rng)
            task = rng.choice(there.tasks)
            if all(task is not other.task for other in (*taken, *found)):
                offered = self.offer(task, there, rng)
                if all(offered.tool.spec.name != other.tool.spec.name for other in (*taken, *found)):
                    found.append(offered)
        return found


def play(kind: TemplateKind, stage: Stage, rng: random.Random) -> Played | None:
    """One dialog of a kind; None where what was drawn does not allow one. Raises CallFailed."""
    return _PLAYS[kind](stage, rng)


# One request


@dataclass(frozen=True)
class Request:
    """What a user asks, and the arguments that it takes."""

    text: str
    arguments: dict[str, Any]
    said: dict[str, str]


def request(task: Task, rng: random.Random, query: Query | None = None) -> Request:
    query = query or as_query(rng.choice(task.queries))
    drawn = _drawn(task, query.named, rng)
    return _request(query, drawn)


def _request(query: Query, drawn: Mapping[str, Value], leave_out: str | None = None) -> Request:
    said = {name: value.said for name, value in drawn.items()}
    arguments = {name: value.value for name, value in drawn.items()} | dict(query.fixed)
    arguments.pop(leave_out or "", None)
    return Request(query.text.format(**said), arguments, said)


def _drawn(task: Task, names: Sequence[str], rng: random.Random) -> dict[str, Value]:
    while True:
        drawn = {name: task.arguments[name](rng) for name in names}
        different = [str(drawn[name].value) for name in task.different if name in drawn]
        if len(set(different)) == len(different):
            return drawn


class _Scene:
    """A dialog as it goes on: messages are added, and calls are made."""

    def __init__(self, offered: Sequence[Offered], rng: random.Random) -> None:
        self.offered = tuple(rng.sample(list(offered), len(offered)))
        self.recorder = Recorder(Registry(each.tool for each in self.offered))
        said = rng.choice(phrases.SYSTEM)
        self.messages = [Message(role="system", content=said)] if said else []
        self.final = ""

    def user(self, text: str) -> None:
        self.messages.append(Message(role="user", content=text))

    def says(self, text: str) -> None:
        self.messages.append(Message(role="assistant", content=text))

    def calls(self, *calls: ToolCall, content: str = "", fails: bool = False) -> list[Any]:
        """The calls in one message, and their results; raises CallFailed unless they end as they should."""
        self.messages.append(Message(role="assistant", content=content, tool_calls=calls))
        found = []
        for call in calls:
            result = self.recorder.call(call)
            if result.ok is fails:
                raise CallFailed(result.error or "no error where one was due")
            self.messages.append(Message(role="tool", content=result.text, name=call.name))
            found.append(_value(result.text, self._returns_text(call.name)))
            self.final = result.text
        return found

    def _returns_text(self, name: str) -> bool:
        function = next(each.task.function for each in self.offered if each.tool.spec.name == name)
        return get_type_hints(function).get("return") is str

    def played(self, kind: TemplateKind, files: Mapping[str, bytes] | None = None) -> Played:
        specs = tuple(each.tool.spec for each in self.offered)
        records = tuple(self.recorder.records)
        return Played(kind, tuple(self.messages), specs, records, self.offered, self.final, files or {})


def _value(text: str, is_text: bool) -> Any:
    """What a call gave. A text of digits stays a text where the function returns one ("0042" of `pad_code`)."""
    if is_text:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def answer(template: str, result: Any, said: Mapping[str, str], given: Any = None) -> str:
    """The answer's words, with what was asked, what the call gave, and its fields."""
    fields = {key: shown(value) for key, value in result.items()} if isinstance(result, dict) else {}
    return template.format(**{**said, **fields, "result": shown(result), "given": shown(given)})


def shown(value: Any) -> str:
    """A result as the assistant writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    return str(value)


# The kinds of dialogs


def _single(stage: Stage, rng: random.Random) -> Played:
    domain = stage.domain(rng)
    right = stage.offer(rng.choice(domain.tasks), domain, rng)
    scene = _Scene([right, *stage.others([right], domain, rng)], rng)
    _ask(scene, right, rng)
    return scene.played("single")


def _ask(scene: _Scene, right: Offered, rng: random.Random) -> None:
    asked = request(right.task, rng)
    scene.user(asked.text)
    (result,) = scene.calls(right.call(asked.arguments))
    scene.says(answer(rng.choice(right.task.answers), result, asked.said))


def _parallel(stage: Stage, rng: random.Random) -> Played | None:
    """The same function for several things, or two functions, in one message."""
    domain = stage.domain(rng)
    first = stage.offer(rng.choice(domain.tasks), domain, rng)
    asked: list[tuple[Offered, Request]] = []
    if rng.random() < 0.6:
        query = as_query(rng.choice(first.task.queries))
        asked = [(first, request(first.task, rng, query)) for _ in range(rng.choice((2, 2, 3)))]
    else:
        others = stage.others([first], domain, rng, least=1)
        if not others:
            return None
        asked = [(each, request(each.task, rng)) for each in (first, others[0])]
    if len({(each.tool.spec.name, str(what.arguments)) for each, what in asked}) < len(asked):
        return None
    right = list({each.tool.spec.name: each for each, _ in asked}.values())
    scene = _Scene([*right, *stage.others(right, domain, rng)], rng)
    scene.user(phrases.joined([what.text for _, what in asked], rng))
    results = scene.calls(*(each.call(what.arguments) for each, what in asked))
    said = [
        answer(rng.choice(each.task.answers), result, what.said)
        for (each, what), result in zip(asked, results, strict=True)
    ]
    scene.says(" ".join(said))
    return scene.played("parallel")


def _multi_step(stage: Stage, rng: random.Random) -> Played | None:
    domain = stage.domain(rng)
    if not domain.chains:
        return None
    chain = rng.choice(domain.chains)
    first, second = (stage.offer(domain.task_of(function), domain, rng) for function in (chain.first, chain.second))
    if first.tool.spec.name == second.tool.spec.name:
        return None
    scene = _Scene([first, second, *stage.others([first, second], domain, rng)], rng)
    _ask_chain(scene, chain, first, second, rng)
    return scene.played("multi-step")


def _ask_chain(scene: _Scene, chain: Chain, first: Offered, second: Offered, rng: random.Random) -> None:
    query = as_query(rng.choice(chain.queries))
    drawn: dict[str, Value] = {}
    for task in (first.task, second.task):
        drawn |= _drawn(task, [name for name in query.named if name in first.names.keys() | second.names.keys()
                               and name in task.arguments and name not in drawn], rng)  # fmt: skip
    asked = _request(query, drawn)
    scene.user(asked.text)
    (found,) = scene.calls(first.call({key: value for key, value in asked.arguments.items() if key in first.names}))
    given = found[chain.takes] if chain.takes else found
    rest = {key: value for key, value in asked.arguments.items() if key in second.names}
    between = answer(rng.choice(chain.between), found, asked.said, given)
    (result,) = scene.calls(second.call({**rest, chain.feeds: given}), content=between)
    scene.says(answer(rng.choice(chain.answers), result, asked.said, given))


def _mended(stage: Stage, rng: random.Random) -> Played | None:
    """The user's word is not what the function takes; its error says what it takes, and the second call has it."""
    domain = stage.domain(rng)
    slipping = [task for task in domain.tasks if task.slips]
    if not slipping:
        return None
    task = rng.choice(slipping)
    parameter = rng.choice(tuple(task.slips))
    wrong, right = rng.choice(task.slips[parameter])
    queries = [query for query in map(as_query, task.queries) if parameter in query.named]
    if not queries:
        return None
    query = rng.choice(queries)
    drawn = _drawn(task, query.named, rng) | {parameter: Value(wrong, str(wrong))}
    asked = _request(query, drawn)
    offered = stage.offer(task, domain, rng)
    scene = _Scene([offered, *stage.others([offered], domain, rng)], rng)
    scene.user(asked.text)
    scene.calls(offered.call(asked.arguments), fails=True)
    mended = {**asked.arguments, parameter: right}
    (result,) = scene.calls(offered.call(mended), content=rng.choice(phrases.MENDING).format(wrong=wrong, right=right))
    scene.says(answer(rng.choice(task.answers), result, {**asked.said, parameter: str(right)}))
    return scene.played("mended")


def _dialog(stage: Stage, rng: random.Random) -> Played:
    """Several turns; some want a call, some only words."""
    domain = stage.domain(rng)
    offered: list[Offered] = []
    for task in rng.sample(domain.tasks, min(2, len(domain.tasks), stage.most_offered)):
        found = stage.offer(task, domain, rng)
        if all(found.tool.spec.name != other.tool.spec.name for other in offered):
            offered.append(found)
    scene = _Scene(offered, rng)
    for turn in range(rng.choice((2, 3, 3))):
        if turn and rng.random() < 0.3:
            small = rng.choice(phrases.SMALL_TALK)
            scene.user(small[0])
            scene.says(small[1])
        else:
            _ask(scene, rng.choice(offered), rng)
    return scene.played("dialog")


def _none_right(stage: Stage, rng: random.Random) -> Played | None:
    """A request that none of the functions offered can answer, near to them or far."""
    there = stage.domain(rng)
    asked_task = rng.choice(there.tasks)
    near = there if rng.random() < 0.5 else stage.domain(rng)
    first = [task for task in near.tasks if task is not asked_task and not _alike(task, asked_task)]
    if not first:
        return None
    offered = [stage.offer(rng.choice(first), near, rng)]
    offered += [
        other
        for other in stage.others(offered, near, rng)
        if other.task is not asked_task and not _alike(other.task, asked_task)
    ]
    scene = _Scene(offered, rng)
    scene.user(request(asked_task, rng).text)
    does = scene.offered[0].tool.spec.description.split("\n")[0].rstrip(".")
    names = " and ".join(each.tool.spec.name for each in scene.offered)
    scene.says(rng.choice(phrases.NONE_RIGHT).format(does=does[0].lower() + does[1:], names=names))
    return scene.played("none-right")


def _alike(task: Task, other: Task) -> bool:
    """Whether a function might answer for the other: most words of their names are the same."""
    left, right = set(task.name.split("_")), set(other.name.split("_"))
    return len(left & right) * 2 >= min(len(left), len(right))


def _restraint(stage: Stage, rng: random.Random) -> Played:
    """Functions are offered, and the question is easy without them."""
    domain = stage.domain(rng)
    first = stage.offer(rng.choice(domain.tasks), domain, rng)
    scene = _Scene([first, *stage.others([first], domain, rng)], rng)
    _talk(scene, rng)
    return scene.played("restraint")


def _tools_off(stage: Stage, rng: random.Random) -> Played:
    scene = _Scene([], rng)
    _talk(scene, rng)
    return scene.played("tools-off")


def _file(stage: Stage, rng: random.Random) -> Played:
    """A file that is told of, read, and asked about; what is asked next needs no second call."""
    drawn = files.drawn_file(rng)
    reader = files.reader_over(drawn)
    scene = _Scene([reader, *stage.others([reader], stage.domain(rng), rng)], rng)
    scene.messages.append(Message(role="tool", content=drawn.notice))
    for turn, asked in enumerate(files.questions_of(drawn, rng.choice((1, 1, 1, 2)), rng)):
        scene.user(asked.text)
        if not turn:
            scene.calls(reader.call({"path": drawn.path}), content=rng.choice(files.READING).format(path=drawn.path))
        scene.says(asked.answer)
        scene.final = asked.result
    return scene.played("file", {drawn.path: drawn.data})


def _code(stage: Stage, rng: random.Random) -> Played:
    """A question that a few lines of Python answer, run in the sandbox. Raises SandboxError where there is none."""
    program = rng.choice(code.PROGRAMS)
    drawn = program.drawn(rng)
    said = {name: value.said for name, value in drawn.items()}
    with code.interpreter() as runs:
        scene = _Scene([runs, *stage.others([runs], stage.domain(rng), rng)], rng)
        scene.user(rng.choice(program.queries).format(**said))
        scene.calls(runs.call({"code": program.lines(drawn)}), content=rng.choice(code.RUNNING))
        scene.final = code.result_of(scene.final)
        scene.says(rng.choice(program.answers).format(**said, result=scene.final))
        return scene.played("code")


def _talk(scene: _Scene, rng: random.Random) -> None:
    question, said = rng.choice(phrases.EASY)
    scene.user(question)
    scene.says(said)


_PLAYS: dict[TemplateKind, Callable[[Stage, random.Random], Played | None]] = {
    "single": _single,
    "parallel": _parallel,
    "multi-step": _multi_step,
    "mended": _mended,
    "dialog": _dialog,
    "none-right": _none_right,
    "restraint": _restraint,
    "tools-off": _tools_off,
    "file": _file,
    "code": _code,
}
