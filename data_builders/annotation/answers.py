"""Models that answer prompts and rewrite answers in a thread of their own, while raters work."""

from __future__ import annotations

import itertools
import queue
import random
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from align.chat.protocol import ChatProtocol
from align.errors import AlignError, RowError
from align.generation.backend import Backend
from align.reporting import logger
from align.rows import Message, Messages, row_id
from align.sampling.candidates import candidate_seed
from align.settings import ModelConfig, SamplingConfig
from data_builders.annotation.settings import RatingConfig
from data_builders.annotation.store import Asked, Store, Turn
from data_builders.annotation.view import with_last_text

REWRITE = (
    "Write your last answer again, better, following this feedback. Give the new answer alone.\n\nFeedback: {feedback}"
)
"""What a model is told after its own answer, to refine it."""

Model = tuple[Backend, ChatProtocol]

_AT_ONCE = 16  # requests that enter one call of a backend: later ones wait until all of them are done,
_AHEAD_AT_ONCE = 4  # so what nobody waits for goes in small calls


@dataclass(order=True)
class _Request:
    """One completion by one model. Smaller ones go first: what a rater waits for, then in the order of asking."""

    ahead: bool
    number: int
    model: str = field(compare=False)
    prompt: Messages = field(compare=False)
    tools: str = field(compare=False)
    seed: int = field(compare=False)
    done: Future[Messages] = field(compare=False, default_factory=Future)


class Answers:
    """A queue of requests and the thread that works it off.

    models: name -> (backend, protocol). What they answer goes into the store. One model alone only refines.
    """

    def __init__(self, models: Mapping[str, Model], store: Store, config: RatingConfig) -> None:
        self._models, self._store, self._config = dict(models), store, config
        self._numbers = itertools.count()
        self._waiting: queue.PriorityQueue[_Request] = queue.PriorityQueue()
        self._asked: dict[tuple[str, str, int, Messages], str | None] = {}
        """What is under way, with None, and what failed, with the reason."""
        self._lock = threading.Lock()
        threading.Thread(target=self._work, name="answers", daemon=True).start()
        self.look_ahead()

    def want(self, turn: Turn) -> str | None:
        """Have two models answer a turn; asked again, it is not answered again. Returns why it failed, where it did."""
        return self._want(
            Asked(turn.task, "" if turn.number == 1 else turn.rater, turn.number, turn.prompt, turn.tools)
        )

    def look_ahead(self) -> None:
        """Have the next prompts answered before anybody opens them."""
        if self._store.goes_on:
            for asked in self._store.unanswered(self._config.ahead):
                self._want(asked, ahead=True)

    def refine(self, turn: Turn, place: int, text: str, feedback: str) -> Future[Messages]:
        """Have a response of a turn, as it now reads, rewritten by its own model; by any where that is not here."""
        assert turn.responses is not None
        name = turn.models[place] if turn.models[place] in self._models else min(self._models)
        said = with_last_text(turn.responses[place], text)
        prompt = (*turn.prompt, *said, Message(role="user", content=REWRITE.format(feedback=feedback)))
        number = next(self._numbers)  # in the seed too: the same feedback again gives another answer
        request = _Request(False, number, name, prompt, turn.tools, self._seed(turn.id, text, feedback, number))
        self._waiting.put(request)
        return request.done

    def _want(self, asked: Asked, ahead: bool = False) -> str | None:
        key = (asked.task, asked.rater, asked.number, asked.prompt)
        with self._lock:
            if key in self._asked:
                return self._asked[key]
            self._asked[key] = None
        identity = row_id(self._config.seed, *key[:3], *(message.model_dump_json() for message in asked.prompt))
        first, second = random.Random(identity).sample(sorted(self._models), 2)
        requests = [
            _Request(ahead, next(self._numbers), name, asked.prompt, asked.tools, self._seed(identity, place))
            for place, name in enumerate((first, second))
        ]

        def keep(_: Future[Messages]) -> None:
            one, other = (request.done for request in requests)
            if not (one.done() and other.done()):
                return  # called for each; both are answered by the one thread
            try:
                self._store.answer(asked, (one.result(), other.result()), (first, second))
                del self._asked[key]
            except (AlignError, sqlite3.Error) as error:
                self._asked[key] = str(error)

        for request in requests:
            request.done.add_done_callback(keep)
            self._waiting.put(request)
        return None

    def _seed(self, *parts: object) -> int:
        return candidate_seed(self._config.seed, row_id(*parts), 0)

    def _work(self) -> None:
        while True:
            taken = [self._waiting.get()]
            most = _AHEAD_AT_ONCE if taken[0].ahead else _AT_ONCE
            # What is put between this look and the taking slips in, which does no harm.
            while len(taken) < most and self._waiting.queue and self._waiting.queue[0].ahead == taken[0].ahead:
                taken.append(self._waiting.get())
            by_model: dict[str, list[_Request]] = defaultdict(list)
            for request in taken:
                by_model[request.model].append(request)
            for name, requests in by_model.items():
                try:
                    self._complete(*self._models[name], requests)
                except Exception as error:  # whatever an engine raises, such as for memory: the thread must live on
                    logger("data_builders").exception("%s could not answer", name)
                    reason = RowError(
                        "the model", f"could not answer ({type(error).__name__})", "See the operator's log"
                    )
                    for request in requests:
                        if not request.done.done():
                            request.done.set_exception(reason)

    def _complete(self, backend: Backend, protocol: ChatProtocol, requests: list[_Request]) -> None:
        fitting: list[tuple[_Request, list[int]]] = []
        for request in requests:
            try:
                ids = protocol.encode(request.prompt, request.tools, open_assistant=True).ids
                if len(ids) > backend.max_prompt_tokens:
                    what = f"has {len(ids)} tokens where {backend.max_prompt_tokens} leave room for an answer"
                    raise RowError("the dialog", what, "End it here")
                fitting.append((request, ids))
            except AlignError as error:
                request.done.set_exception(error)
        if not fitting:
            return
        completions = backend.complete([ids for _, ids in fitting], [[request.seed] for request, _ in fitting])
        for (request, _), completion in zip(fitting, completions, strict=True):
            request.done.set_result((protocol.parse(completion[0].ids),))


def load_models(models: Mapping[str, ModelConfig], sampling: SamplingConfig) -> dict[str, Model]:
    """Name -> backend and protocol, each model held in sampling.dtype."""
    from align.generation.local import LocalBackend
    from align.models.loading import load_generator, load_tokenizer

    loaded: dict[str, Model] = {}
    for name, config in models.items():
        _, protocol = load_tokenizer(config.path, config.chat, config.call_syntax, config.revision)
        loaded[name] = (
            LocalBackend(load_generator(config.path, sampling.dtype, config.revision), protocol, sampling),
            protocol,
        )
    return loaded
