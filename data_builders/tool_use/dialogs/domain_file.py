"""A domain's YAML file, read and checked against the functions of its .py file. Mistakes are named by file and line.

The form of the file is that of the sections below; `samplers.py` says how the values of arguments are drawn. Example,
for a function `fence_posts(fence_length: float, spacing: float, closed: bool = True) -> int`:

    tasks:
      fence_posts:
        arguments:
          fence_length: {whole: [20, 900]}
          spacing: {decimal: [1.5, 5]}
        queries:
          - How many posts for {fence_length} m of fence, one every {spacing} m?
          - {text: "Open fence, {fence_length} m, a post every {spacing} m: posts?", fixed: {closed: false}}
        answers: ["The fence needs {result} posts."]
"""

from __future__ import annotations

import inspect
import string
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from align.config import Section, checked_values, joined
from align.errors import ConfigError
from align.strict_yaml import Key, read_yaml
from data_builders.tool_use.dialogs.sampler_specs import SpecError, sampler_of
from data_builders.tool_use.dialogs.samplers import SAMPLERS, Sampler
from data_builders.tool_use.dialogs.task import Chain, Domain, Query, Task

Functions = Mapping[str, Callable[..., Any]]


class QueryEntry(Section):
    """A query that implies arguments without naming them."""

    text: str
    """What a user says; `{parameter}` is replaced by the drawn value."""
    fixed: dict[str, Any] = Field(default_factory=dict)
    """Parameter -> its value in the call."""


class CorrectionEntry(Section):
    """A value that the function refuses, in a way that its error helps to correct."""

    wrong: Any
    """What the user says."""
    right: Any
    """What the function accepts."""


QueryText = Annotated[
    Annotated[str, Tag("<path>")] | Annotated[QueryEntry, Tag("<section>")],
    Discriminator(lambda value: "<section>" if isinstance(value, dict | QueryEntry) else "<path>"),
]


class TaskEntry(Section):
    """How people ask for one function. The key is the function's name."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Parameter -> its sampler."""
    queries: tuple[QueryText, ...]
    """What a user says; `{parameter}` is replaced by the drawn value as people say it."""
    answers: tuple[str, ...]
    """What the assistant says: `{result}`, `{key}` of a result that is an object, and `{parameter}`."""
    other_names: tuple[str, ...] = ()
    """Other names under which the function may be offered, in snake_case."""
    other_parameter_names: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Parameter -> other names for it."""
    different: tuple[str, ...] = ()
    """Parameters that must not get the same value, such as the start and the end of a journey."""
    corrections: dict[str, tuple[CorrectionEntry, ...]] = Field(default_factory=dict)
    """Parameter -> values that the function refuses, each with the one that it accepts."""


class ChainEntry(Section):
    """Two calls: the second takes the result of the first."""

    first: str
    """The function that is called first."""
    second: str
    """The function that takes its result."""
    result_to: str
    """The parameter of `second` that gets the result of `first`."""
    result_key: str = ""
    """Which key of the first result is passed on; leave it out for a result that is not an object."""
    queries: tuple[QueryText, ...]
    """`{parameter}` of either function, except `result_to`."""
    between: tuple[str, ...]
    """What the assistant says before the second call; `{given}` is the result of the first."""
    answers: tuple[str, ...]
    """`{result}` is the result of the second call, `{given}` that of the first."""


class DomainFile(Section):
    """The tasks and chains of one domain."""

    samplers: dict[str, Any] = Field(default_factory=dict)
    """Samplers that several arguments share, by name. A sampler may use those above it."""
    tasks: dict[str, TaskEntry] = Field(min_length=1)
    """Function -> how people ask for it."""
    chains: tuple[ChainEntry, ...] = ()
    """Pairs of calls."""


def read_domain(path: Path, functions: Functions) -> Domain:
    """The tasks and chains of a YAML file. Raises ConfigError, one line for each mistake.

    functions: all functions that the .py file of the domain defines, by name. Each public one requires a task.
    """
    values, lines = read_yaml(path)
    where = {key: f"{path}:{line}" for key, line in lines.items()}
    entries = checked_values(DomainFile, values, path, where, lines)
    return _Reader(path, lines, functions).domain(entries)


class _Reader:
    """One file's entries as tasks and chains. Mistakes are collected, and raised together at the end."""

    def __init__(self, path: Path, lines: Mapping[Key, int], functions: Functions) -> None:
        self.path = path
        self.lines = lines
        self.functions = functions
        self.public = {name: function for name, function in functions.items() if not name.startswith("_")}
        self.source = f"{path.stem}.py"
        self.samplers: dict[str, Sampler] = {}
        self.mistakes: list[tuple[int, ConfigError]] = []

    def domain(self, entries: DomainFile) -> Domain:
        for name, spec in entries.samplers.items():
            if name in SAMPLERS:
                self.mistake(("samplers", name), f"{name} is a sampler of every domain", "Choose another name")
            if (sampler := self.sampler(spec, ("samplers", name))) is not None:
                self.samplers[name] = sampler
        tasks = [self.task(name, entry) for name, entry in entries.tasks.items()]
        for name in self.public.keys() - entries.tasks.keys():
            how = f"Add tasks.{name}, or begin the function's name with _ if it is a helper"
            self.mistake(("tasks",), f"{name} of {self.source} has no task", how)
        by_name = {task.name: task for task in tasks if task is not None}
        chains = [self.chain(place, entry, by_name) for place, entry in enumerate(entries.chains)]
        if self.mistakes:
            raise joined([error for _, error in sorted(self.mistakes, key=lambda mistake: mistake[0])])
        return Domain(self.path.stem, tuple(filter(None, tasks)), tuple(chain for chain in chains if chain is not None))

    def mistake(self, key: Key, what: str, how: str) -> None:
        """Note a mistake at the line of the key, or of the nearest key around it."""
        line = next((self.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.lines), 1)
        error = ConfigError(f"{self.path}:{line}: {'.'.join(map(str, key))}", what, how)
        self.mistakes.append((line, error))

    def sampler(self, spec: Any, key: Key) -> Sampler | None:
        try:
            return sampler_of(spec, self.samplers, self.functions)
        except SpecError as error:
            self.mistake(key, error.what, error.how)
            return None

    # Tasks

    def task(self, name: str, entry: TaskEntry) -> Task | None:
        key: Key = ("tasks", name)
        function = self.function(name, key)
        if function is None:
            return None
        parameters = inspect.signature(function).parameters
        for field in ("arguments", "other_parameter_names", "corrections"):
            self.known(getattr(entry, field), parameters, name, (*key, field))
        self.known(entry.different, parameters, name, (*key, "different"))
        self.identifiers(entry, key)
        queries = [
            self.query(each, entry.arguments, [function], required_of(function), (*key, "queries", place))
            for place, each in enumerate(entry.queries)
        ]
        for parameter in entry.corrections:
            if not any(parameter in query.named for query in queries):
                what = f"no query names {{{parameter}}}, so the correction is never used"
                self.mistake((*key, "corrections", parameter), what, "Name it in a query")
        for place, text in enumerate(entry.answers):
            self.answer(text, function, queries, {"result"}, (*key, "answers", place))
        samplers = {each: self.sampler(spec, (*key, "arguments", each)) for each, spec in entry.arguments.items()}
        return Task(
            function,
            arguments={each: sampler for each, sampler in samplers.items() if sampler is not None},
            queries=tuple(queries),
            answers=entry.answers,
            other_names=entry.other_names,
            other_parameter_names=entry.other_parameter_names,
            different=entry.different,
            corrections={
                parameter: tuple((each.wrong, each.right) for each in pairs)
                for parameter, pairs in entry.corrections.items()
            },
        )

    def function(self, name: str, key: Key) -> Callable[..., Any] | None:
        if name not in self.public:
            how = f"Public functions of that file: {', '.join(self.public) or 'none'}"
            self.mistake(key, f"{name} is not a public function of {self.source}", how)
        return self.public.get(name)

    def known(self, names: Iterable[str], parameters: Iterable[str], function: str, key: Key) -> None:
        for place, name in enumerate(names):
            if name not in parameters:
                exact = (*key, name) if (*key, name) in self.lines else (*key, place)
                what = f"{name} is not a parameter of {function}"
                self.mistake(exact, what, f"Its parameters: {', '.join(parameters) or 'none'}")

    def identifiers(self, entry: TaskEntry, key: Key) -> None:
        names: dict[Key, str] = {("other_names", place): name for place, name in enumerate(entry.other_names)}
        for parameter, others in entry.other_parameter_names.items():
            names |= {("other_parameter_names", parameter, place): name for place, name in enumerate(others)}
        for place, name in names.items():
            if not name.isidentifier():
                self.mistake((*key, *place), f"expected a name in snake_case, found {name!r}", "Use a-z, 0-9 and _")

    # Texts

    def slots(self, text: str, key: Key) -> tuple[str, ...]:
        """The names in a template's braces, in their order."""
        found: dict[str, None] = {}
        try:
            for _, name, form, conversion in string.Formatter().parse(text):
                if name is not None and (not name.isidentifier() or form or conversion):
                    what = (
                        f"{{{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}}} is not a name"
                    )
                    self.mistake(key, what, "Write {name}; a brace of the text itself is doubled: {{ or }}")
                elif name is not None:
                    found[name] = None
        except ValueError as error:
            self.mistake(key, f"is not a template ({error})", "A brace of the text itself is doubled: {{ or }}")
        return tuple(found)

    def query(
        self,
        entry: str | QueryEntry,
        arguments: Iterable[str],
        functions: Sequence[Callable[..., Any]],
        required: Iterable[str],
        key: Key,
    ) -> Query:
        """A query with its names checked.

        arguments: parameters that have samplers. required: parameters without which no call can be made.
        """
        query = Query(entry, {}) if isinstance(entry, str) else Query(entry.text, entry.fixed)
        at = (*key, "text") if isinstance(entry, QueryEntry) else key
        names = self.slots(query.text, at)
        parameters = [name for function in functions for name in inspect.signature(function).parameters]
        which = " or ".join(function.__name__ for function in functions)
        for name in names:
            if name not in parameters:
                what = f"{{{name}}} is not a parameter of {which}"
                self.mistake(at, what, f"Parameters: {', '.join(parameters) or 'none'}")
            elif name not in arguments:
                self.mistake(at, f"{{{name}}} has no sampler", f"Add {name} to the arguments of its task")
            elif name in query.fixed:
                self.mistake((*key, "fixed", name), f"the text names {name} as well", "Keep one of them")
        self.known(query.fixed, parameters, which, (*key, "fixed"))
        missing = [name for name in required if name not in names and name not in query.fixed]
        if missing:
            what = f"gives no value for {', '.join(missing)}, and {which} requires it"
            self.mistake(key, what, f"Name {{{missing[0]}}} in the text, or give it under `fixed`")
        return query

    def answer(
        self, text: str, function: Callable[..., Any], queries: Sequence[Query], further: set[str], key: Key
    ) -> None:
        """What an answer may name: what every query names, and the result. Keys of an object are known when it runs."""
        names = self.slots(text, key)
        if gives_object(function):
            return
        named = [set(self.slots_of(query)) for query in queries]
        allowed = further | (set.intersection(*named) if named else set())
        for name in names:
            if name not in allowed:
                some = any(name in each for each in named)
                what = f"{{{name}}} is not named by every query" if some else f"{{{name}}} has no value"
                self.mistake(key, what, f"Values of every answer: {', '.join(sorted(allowed))}")

    @staticmethod
    def slots_of(query: Query) -> tuple[str, ...]:
        try:
            return query.named
        except ValueError:
            return ()  # the query has its own message

    # Chains

    def chain(self, place: int, entry: ChainEntry, tasks: Mapping[str, Task]) -> Chain | None:
        key: Key = ("chains", place)
        first, second = (self.function(getattr(entry, field), (*key, field)) for field in ("first", "second"))
        if first is None or second is None or not {entry.first, entry.second} <= tasks.keys():
            return None
        taken, given = inspect.signature(second).parameters, inspect.signature(first).parameters
        if both := sorted(taken.keys() & given.keys()):
            what = f"{entry.first} and {entry.second} share the parameter {', '.join(both)}"
            self.mistake(key, what, "Rename it in one of them: a query could not tell them apart")
        if entry.result_to not in taken:
            what = f"{entry.result_to} is not a parameter of {entry.second}"
            self.mistake((*key, "result_to"), what, f"Its parameters: {', '.join(taken) or 'none'}")
        if bool(entry.result_key) != gives_object(first):
            is_object = "an object: name one of its keys" if gives_object(first) else "no object: leave result_key out"
            self.mistake((*key, "result_key"), f"{entry.first} returns {is_object}", "See the function's return type")
        required = [name for name in (*required_of(first), *required_of(second)) if name != entry.result_to]
        arguments = {**tasks[entry.first].arguments, **tasks[entry.second].arguments}
        arguments.pop(entry.result_to, None)
        queries = [
            self.query(each, arguments, [first, second], required, (*key, "queries", number))
            for number, each in enumerate(entry.queries)
        ]
        for field, function in (("between", first), ("answers", second)):
            for number, text in enumerate(getattr(entry, field)):
                self.answer(text, function, queries, {"result", "given"}, (*key, field, number))
        return Chain(
            first, second, entry.result_to, tuple(queries), entry.between, entry.answers, result_key=entry.result_key
        )


def required_of(function: Callable[..., Any]) -> list[str]:
    """The parameters without a default."""
    parameters = inspect.signature(function).parameters
    return [name for name, parameter in parameters.items() if parameter.default is parameter.empty]


def gives_object(function: Callable[..., Any]) -> bool:
    """Whether a function returns a dict (an object in JSON), by its return type."""
    found = typing.get_type_hints(function).get("return")
    found = typing.get_origin(found) or found
    return isinstance(found, type) and issubclass(found, dict)
