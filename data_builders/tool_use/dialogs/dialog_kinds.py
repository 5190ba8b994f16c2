"""Tool dialogs from tasks: functions are offered, a user asks, the calls are really made, and the assistant answers.

Each kind of dialog is one function below. It draws what is asked and offered, and a `DialogWriter` makes the calls and
collects the messages. A call that fails unexpectedly ends the dialog with CallFailed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import get_args

from align.errors import ConfigError
from align.rows import Message
from data_builders.tool_use.dialogs import code, files, phrases
from data_builders.tool_use.dialogs.dialog import (
    DialogKind,
    DialogSource,
    DialogWriter,
    ExecutedDialog,
    Request,
    answer,
    draw_values,
    fill_query,
    request,
)
from data_builders.tool_use.dialogs.renaming import Offered
from data_builders.tool_use.dialogs.samplers import Value
from data_builders.tool_use.dialogs.task import Chain, Task

KINDS: tuple[DialogKind, ...] = get_args(DialogKind)


def make_dialog(kind: DialogKind, source: DialogSource, rng: random.Random) -> ExecutedDialog | None:
    """One dialog of a kind, or None if the draw does not allow one. Raises CallFailed."""
    return _MAKERS[kind](source, rng)


def _single(source: DialogSource, rng: random.Random) -> ExecutedDialog:
    domain = source.domain(rng)
    right = source.offer(rng.choice(domain.tasks), domain, rng)
    dialog = DialogWriter([right, *source.others([right], domain, rng)], rng)
    _ask(dialog, right, rng)
    return dialog.finished("single")


def _ask(dialog: DialogWriter, right: Offered, rng: random.Random) -> None:
    asked = request(right.task, rng)
    dialog.user(asked.text)
    (result,) = dialog.calls(right.call(asked.arguments))
    dialog.says(answer(rng.choice(right.task.answers), result, asked.said))


def _parallel(source: DialogSource, rng: random.Random) -> ExecutedDialog | None:
    """The same function for several things, or two functions, in one message."""
    domain = source.domain(rng)
    first = source.offer(rng.choice(domain.tasks), domain, rng)
    asked: list[tuple[Offered, Request]] = []
    if rng.random() < 0.6:
        query = rng.choice(first.task.queries)
        asked = [(first, request(first.task, rng, query)) for _ in range(rng.choice((2, 2, 3)))]
    else:
        others = source.others([first], domain, rng, least=1)
        if not others:
            return None
        asked = [(each, request(each.task, rng)) for each in (first, others[0])]
    if len({(each.tool.spec.name, str(what.arguments)) for each, what in asked}) < len(asked):
        return None
    right = list({each.tool.spec.name: each for each, _ in asked}.values())
    dialog = DialogWriter([*right, *source.others(right, domain, rng)], rng)
    dialog.user(phrases.joined([what.text for _, what in asked], rng))
    results = dialog.calls(*(each.call(what.arguments) for each, what in asked))
    said = [
        answer(rng.choice(each.task.answers), result, what.said)
        for (each, what), result in zip(asked, results, strict=True)
    ]
    dialog.says(" ".join(said))
    return dialog.finished("parallel")


def _multi_step(source: DialogSource, rng: random.Random) -> ExecutedDialog | None:
    domain = source.domain(rng)
    if not domain.chains:
        return None
    chain = rng.choice(domain.chains)
    first, second = (source.offer(domain.task_of(function), domain, rng) for function in (chain.first, chain.second))
    if first.tool.spec.name == second.tool.spec.name:
        return None
    dialog = DialogWriter([first, second, *source.others([first, second], domain, rng)], rng)
    _ask_chain(dialog, chain, first, second, rng)
    return dialog.finished("multi-step")


def _ask_chain(dialog: DialogWriter, chain: Chain, first: Offered, second: Offered, rng: random.Random) -> None:
    query = rng.choice(chain.queries)
    drawn: dict[str, Value] = {}
    for task in (first.task, second.task):
        drawn |= draw_values(task, [name for name in query.named if name in first.names.keys() | second.names.keys()
                               and name in task.arguments and name not in drawn], rng)  # fmt: skip
    asked = fill_query(query, drawn)
    dialog.user(asked.text)
    (found,) = dialog.calls(first.call({key: value for key, value in asked.arguments.items() if key in first.names}))
    if chain.result_key and chain.result_key not in found:
        what = f"has no key {chain.result_key}; its keys: {', '.join(found)}"
        raise ConfigError(f"the result of {chain.first.__name__}", what, "Name one of them as result_key of the chain")
    given = found[chain.result_key] if chain.result_key else found
    rest = {key: value for key, value in asked.arguments.items() if key in second.names}
    between = answer(rng.choice(chain.between), found, asked.said, given)
    (result,) = dialog.calls(second.call({**rest, chain.result_to: given}), content=between)
    dialog.says(answer(rng.choice(chain.answers), result, asked.said, given))


def _corrected(source: DialogSource, rng: random.Random) -> ExecutedDialog | None:
    """The user's value is refused; the function's error says what it accepts, and the second call passes that."""
    domain = source.domain(rng)
    correctable = [task for task in domain.tasks if task.corrections]
    if not correctable:
        return None
    task = rng.choice(correctable)
    parameter = rng.choice(tuple(task.corrections))
    wrong, right = rng.choice(task.corrections[parameter])
    queries = [query for query in task.queries if parameter in query.named]
    if not queries:
        return None
    query = rng.choice(queries)
    drawn = draw_values(task, query.named, rng) | {parameter: Value(wrong, str(wrong))}
    asked = fill_query(query, drawn)
    offered = source.offer(task, domain, rng)
    dialog = DialogWriter([offered, *source.others([offered], domain, rng)], rng)
    dialog.user(asked.text)
    dialog.calls(offered.call(asked.arguments), fails=True)
    corrected = {**asked.arguments, parameter: right}
    (result,) = dialog.calls(
        offered.call(corrected), content=rng.choice(phrases.CORRECTIONS).format(wrong=wrong, right=right)
    )
    dialog.says(answer(rng.choice(task.answers), result, {**asked.said, parameter: str(right)}))
    return dialog.finished("mended")  # codespell:ignore mended


def _dialog(source: DialogSource, rng: random.Random) -> ExecutedDialog:
    """Several turns; some require a call, others only a reply."""
    domain = source.domain(rng)
    offered: list[Offered] = []
    for task in rng.sample(domain.tasks, min(2, len(domain.tasks), source.most_offered)):
        found = source.offer(task, domain, rng)
        if all(found.tool.spec.name != other.tool.spec.name for other in offered):
            offered.append(found)
    dialog = DialogWriter(offered, rng)
    for turn in range(rng.choice((2, 3, 3))):
        if turn and rng.random() < 0.3:
            small = rng.choice(phrases.SMALL_TALK)
            dialog.user(small[0])
            dialog.says(small[1])
        else:
            _ask(dialog, rng.choice(offered), rng)
    return dialog.finished("dialog")


def _none_right(source: DialogSource, rng: random.Random) -> ExecutedDialog | None:
    """A request that no offered function can answer; the functions are of its own domain or of another one."""
    there = source.domain(rng)
    asked_task = rng.choice(there.tasks)
    near = there if rng.random() < 0.5 else source.domain(rng)
    first = [task for task in near.tasks if task is not asked_task and not _alike(task, asked_task)]
    if not first:
        return None
    offered = [source.offer(rng.choice(first), near, rng)]
    offered += [
        other
        for other in source.others(offered, near, rng)
        if other.task is not asked_task and not _alike(other.task, asked_task)
    ]
    dialog = DialogWriter(offered, rng)
    dialog.user(request(asked_task, rng).text)
    does = dialog.offered[0].tool.spec.description.split("\n")[0].rstrip(".")
    names = " and ".join(each.tool.spec.name for each in dialog.offered)
    dialog.says(rng.choice(phrases.NONE_RIGHT).format(does=does[0].lower() + does[1:], names=names))
    return dialog.finished("none-right")


def _alike(task: Task, other: Task) -> bool:
    """Whether one function might answer for the other: at least half the words of the shorter name are shared."""
    left, right = set(task.name.split("_")), set(other.name.split("_"))
    return len(left & right) * 2 >= min(len(left), len(right))


def _restraint(source: DialogSource, rng: random.Random) -> ExecutedDialog:
    """Functions are offered, and the question is easy to answer without them."""
    domain = source.domain(rng)
    first = source.offer(rng.choice(domain.tasks), domain, rng)
    dialog = DialogWriter([first, *source.others([first], domain, rng)], rng)
    _talk(dialog, rng)
    return dialog.finished("restraint")


def _tools_off(source: DialogSource, rng: random.Random) -> ExecutedDialog:
    dialog = DialogWriter([], rng)
    _talk(dialog, rng)
    return dialog.finished("tools-off")


def _file(source: DialogSource, rng: random.Random) -> ExecutedDialog:
    """A notice of a file, a question, and a call that reads it; a further question needs no second call."""
    drawn = files.drawn_file(rng)
    reader = files.reader_over(drawn)
    dialog = DialogWriter([reader, *source.others([reader], source.domain(rng), rng)], rng)
    dialog.messages.append(Message(role="tool", content=drawn.notice))
    for turn, asked in enumerate(files.questions_of(drawn, rng.choice((1, 1, 1, 2)), rng)):
        dialog.user(asked.text)
        if not turn:
            dialog.calls(reader.call({"path": drawn.path}), content=rng.choice(files.READING).format(path=drawn.path))
        dialog.says(asked.answer)
        dialog.final = asked.result
    return dialog.finished("file", {drawn.path: drawn.data})


def _code(source: DialogSource, rng: random.Random) -> ExecutedDialog:
    """A question that a few lines of Python answer, run in the sandbox. Raises SandboxError if it cannot be started."""
    program = rng.choice(code.programs())
    drawn = program.drawn(rng)
    said = {name: value.said for name, value in drawn.items()}
    with code.interpreter() as runs:
        dialog = DialogWriter([runs, *source.others([runs], source.domain(rng), rng)], rng)
        dialog.user(rng.choice(program.queries).format(**said))
        dialog.calls(runs.call({"code": program.lines(drawn)}), content=rng.choice(code.RUNNING))
        dialog.final = code.result_of(dialog.final)
        dialog.says(rng.choice(program.answers).format(**said, result=dialog.final))
        return dialog.finished("code")


def _talk(dialog: DialogWriter, rng: random.Random) -> None:
    question, said = rng.choice(phrases.EASY)
    dialog.user(question)
    dialog.says(said)


_MAKERS: dict[DialogKind, Callable[[DialogSource, random.Random], ExecutedDialog | None]] = {
    "single": _single,
    "parallel": _parallel,
    "multi-step": _multi_step,
    "mended": _corrected,  # codespell:ignore mended
    "dialog": _dialog,
    "none-right": _none_right,
    "restraint": _restraint,
    "tools-off": _tools_off,
    "file": _file,
    "code": _code,
}
