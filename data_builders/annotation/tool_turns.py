"""Execute the calls of a chosen response while raters work, so that the dialog continues with their results.

Llama 3's tool data was collected in this way (The Llama 3 Herd of Models, section 4.3.5): raters compare two messages
with the same context, the chosen or edited one joins the dialog, and results of tools are neither compared nor edited.

    models A and B propose a message -> a rater chooses, or edits -> its calls run here -> A and B propose the next one

Each execution makes an interpreter of its own, and repeats the dialog's earlier code in it. So its variables are those
of this dialog, also after an undo, for several raters of one dialog, and after the server was killed. Example:

    code_interpreter("x = 2")     judged, and run in interpreter 1
    code_interpreter("x * 21")    judged; interpreter 2 runs "x = 2", whose result is ignored, then "x * 21"
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from align.errors import AlignError
from align.generation.tool_loop import call_results
from align.reporting import logger
from align.rows import Messages, PromptRow, tools_of
from align.tools.catalog import make_registry
from align.tools.interpreter import INTERPRETER, DialogSession, interpreter_tool
from align.tools.registry import Registry
from align.tools.sandbox.session import Sandbox
from data_builders.annotation.settings import ToolTurnsConfig
from data_builders.annotation.store import Store, Turn
from data_builders.annotation.tasks import Task

_THREADS = 4
"""Dialogs whose calls run at the same time."""


class ToolTurns:
    """Tools, and threads that make the calls of judged turns."""

    def __init__(self, config: ToolTurnsConfig, store: Store) -> None:
        self._config, self._store = config, store
        self._registry = make_registry(config)
        self._sandbox = Sandbox(config.sandbox) if config.interpreter else None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tools")
        self._asked: dict[str, str | None] = {}
        """Id of a judgement whose calls are being made (None), or could not be made (the reason)."""
        self._lock = threading.Lock()
        self._is_closed = False

    def check(self, rows: Iterable[PromptRow | Task]) -> None:
        """Raise ToolError if a row offers a function that there is no tool for."""
        with self._session() as session:
            for row in rows:
                self._offered(row.tools, session)

    def request(self, turn: Turn) -> str | None:
        """Make the calls of a judged turn, unless that is going on already. Returns the reason if an attempt failed."""
        assert turn.judgement is not None
        key = turn.judgement.id
        with self._lock:
            if key in self._asked:
                return self._asked[key]
            self._asked[key] = None
        self._threads.submit(self._make, turn, key)
        return None

    def results(self, turn: Turn) -> Messages:
        """Make the calls in the chosen response of a judged turn. Returns a tool message for each."""
        chosen = turn.continuation()[-1]
        with self._session() as session:
            registry = self._offered(turn.tools, session)
            if session is not None and any(call.name == INTERPRETER for call in chosen.tool_calls):
                _repeat(session, (*turn.prompt, *turn.continuation()[:-1]))
            return tuple(call_results(chosen, registry, self._config.max_result_characters))

    def close(self) -> None:
        """Stop after the calls that are being made. Their results are not kept; the next start makes them again."""
        self._is_closed = True
        self._threads.shutdown(cancel_futures=True)

    def _make(self, turn: Turn, key: str) -> None:
        try:
            self._store.add_results(turn, self.results(turn))
        except Exception as error:  # whatever a tool raises: the rater has to see it, and can go to the next prompt
            if self._is_closed:  # and the database too
                return
            logger("data_builders").exception("the calls of a turn could not be made")
            reason = str(error) if isinstance(error, AlignError) else f"{type(error).__name__}; see the log"
            self._asked[key] = reason
        else:
            del self._asked[key]

    def _offered(self, tools: str, session: DialogSession | None) -> Registry:
        """The tools of one dialog: those that its row offers, or all."""
        registry = self._registry if session is None else self._registry.extended(interpreter_tool(session))
        names = [spec.name for spec in tools_of(tools)]
        if not names:
            return registry
        return registry.only(names if session is None else dict.fromkeys([*names, INTERPRETER]))

    @contextmanager
    def _session(self) -> Iterator[DialogSession | None]:
        """The interpreter of one dialog, which starts with its first code; None if the config has none."""
        if self._sandbox is None:
            yield None
            return
        with DialogSession(self._sandbox) as session:
            yield session


def _repeat(session: DialogSession, messages: Messages) -> None:
    """Run the code of a dialog's earlier calls, for the variables that it leaves."""
    for message in messages:
        for call in message.tool_calls:
            code = call.parsed().get("code") if call.name == INTERPRETER else None
            if isinstance(code, str):
                session.run(code)
