"""Models that answer prompts and rewrite answers in a thread of their own, while raters work.

The web server puts requests into a queue. The thread takes several of them at once, so that the model computes them as
one batch, and writes the answers to the store.
"""

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

from align.errors import AlignError, RowError
from align.generation.engine import GenerationEngine
from align.reporting import logger
from align.rows import Message, Messages, row_id
from align.sampling.candidates import candidate_seed
from align.settings import ModelConfig, SamplingConfig
from data_builders.annotation.settings import RatingConfig
from data_builders.annotation.store import PromptToAnswer, Store, Turn
from data_builders.annotation.view import with_last_text

REWRITE = (
    "Write your last answer again, better, following this feedback. Give the new answer alone.\n\nFeedback: {feedback}"
)
"""The message after a model's own answer that asks the model to improve it."""

_BATCH_SIZE = 16
"""Maximum number of requests in one call of a model. Later requests wait until the call is finished."""
_AHEAD_BATCH_SIZE = 4
"""The same for prompts that are answered in advance: a rater who comes then waits for a short call only."""
_ATTEMPTS = 3
"""How often an answer that reaches the length limit is sampled, each time with another seed. It is never shown: rows
are made of what raters compare, and a model that is trained on answers that break off learns to break off."""


@dataclass(order=True)
class _Request:
    """A request for one completion by one model.

    Requests are sorted: those that a rater is waiting for come first, then in the order in which they were made.
    """

    ahead: bool
    number: int
    model: str = field(compare=False)
    prompt: Messages = field(compare=False)
    tools: str = field(compare=False)
    seed: int = field(compare=False)
    done: Future[Messages] = field(compare=False, default_factory=Future)


class Answers:
    """A queue of requests and the thread that answers them.

    models: name -> engine. With two or more models, two of them answer each prompt, and the answers go into the store.
        A single model can only refine answers.
    """

    def __init__(self, models: Mapping[str, GenerationEngine], store: Store, config: RatingConfig) -> None:
        self._models, self._store, self._config = dict(models), store, config
        self._numbers = itertools.count()
        self._waiting: queue.PriorityQueue[_Request] = queue.PriorityQueue()
        self._asked: dict[tuple[str, str, int, Messages], str | None] = {}
        """Prompts that are being answered (None), and prompts that failed (the reason)."""
        self._lock = threading.Lock()
        threading.Thread(target=self._work, name="answers", daemon=True).start()
        self.look_ahead()

    def request_answers(self, turn: Turn) -> str | None:
        """Let two models answer a turn, unless they are doing so already. Returns the reason if an attempt has
        failed."""
        return self._request(
            PromptToAnswer(turn.task, "" if turn.number == 1 else turn.rater, turn.number, turn.prompt, turn.tools)
        )

    def look_ahead(self) -> None:
        """Let the models answer the next prompts in advance."""
        if self._store.multi_turn:
            for asked in self._store.unanswered(self._config.ahead):
                self._request(asked, ahead=True)

    def refine(self, turn: Turn, place: int, text: str, feedback: str) -> Future[Messages]:
        """Let a model rewrite a response of a turn: the model that wrote it, or another one if that is not loaded.

        text: the response as the rater has edited it so far.
        """
        assert turn.responses is not None
        name = turn.models[place] if turn.models[place] in self._models else min(self._models)
        response = with_last_text(turn.responses[place], text)
        prompt = (*turn.prompt, *response, Message(role="user", content=REWRITE.format(feedback=feedback)))
        number = next(self._numbers)  # part of the seed, so that the same feedback again gives another answer
        request = _Request(False, number, name, prompt, turn.tools, self._seed(turn.id, text, feedback, number))
        self._waiting.put(request)
        return request.done

    def _request(self, asked: PromptToAnswer, ahead: bool = False) -> str | None:
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
                return  # this is called for each of the two requests; only the second call finds both done
            try:
                seeds = [request.seed for request in requests]
                self._store.answer(asked, (one.result(), other.result()), (first, second), seeds)
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
            most = _AHEAD_BATCH_SIZE if taken[0].ahead else _BATCH_SIZE
            # A request that is added between the check and the call of `get` can be taken instead, which does no harm.
            while len(taken) < most and self._waiting.queue and self._waiting.queue[0].ahead == taken[0].ahead:
                taken.append(self._waiting.get())
            by_model: dict[str, list[_Request]] = defaultdict(list)
            for request in taken:
                by_model[request.model].append(request)
            for name, requests in by_model.items():
                try:
                    self._complete(self._models[name], requests)
                except Exception as error:  # any error of the model, such as out of memory: the thread has to continue
                    logger("data_builders").exception("%s could not answer", name)
                    reason = RowError(
                        "the model", f"could not answer ({type(error).__name__})", "See the log of the server"
                    )
                    for request in requests:
                        if not request.done.done():
                            request.done.set_exception(reason)

    def _complete(self, engine: GenerationEngine, requests: list[_Request]) -> None:
        fitting: list[tuple[_Request, list[int]]] = []
        for request in requests:
            try:
                ids = engine.prompt_ids(request.prompt, request.tools)
                if len(ids) > engine.max_prompt_tokens:
                    what = f"has {len(ids)} tokens, but at most {engine.max_prompt_tokens} leave space for an answer"
                    raise RowError("the dialog", what, "End the dialog here")
                fitting.append((request, ids))
            except AlignError as error:
                request.done.set_exception(error)
        for attempt in range(_ATTEMPTS):
            if not fitting:
                return
            for request, _ in fitting if attempt else ():
                request.seed = self._seed(request.seed, attempt)
            completions = engine.generate([ids for _, ids in fitting], [[request.seed] for request, _ in fitting])
            unfinished = []
            for (request, ids), (completion,) in zip(fitting, completions, strict=True):
                if completion.finished:
                    request.done.set_result((engine.parse(completion),))
                else:
                    unfinished.append((request, ids))
            fitting = unfinished
        for request, _ in fitting:
            what = f"reached the length limit {_ATTEMPTS} times"
            how = "End the dialog here. sampling.max_completion_tokens is the limit"
            request.done.set_exception(RowError("the model's answer", what, how))


def load_models(models: Mapping[str, ModelConfig], sampling: SamplingConfig) -> dict[str, GenerationEngine]:
    """Load models. Returns name -> engine. Their weights have the type sampling.dtype."""
    return {name: GenerationEngine.from_settings(config, sampling) for name, config in models.items()}
