"""A program in the place of a rater: it judges by a fixed rule, through the same requests as the page in a browser.

It exercises a collection (a test, a rehearsal) without people. It sees what a rater sees, without names of models. Its
judgements carry its own name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from align.errors import StageError
from align.files import fingerprint_of
from align.rows import Message, Messages
from data_builders.annotation.settings import ScriptedRaterConfig
from data_builders.preferences.comparisons import judgement_of_scores

if TYPE_CHECKING:
    from httpx2 import Client

Score = Callable[[Messages, tuple[Messages, Messages]], tuple[float, float]]
"""A dialog and two responses -> their scores; the higher one is better."""

_PAUSE_SECONDS = 0.2
_TIMEOUT_SECONDS = 60.0


class ScriptedRater:
    """Judges all comparisons that the page has for it, in a thread of its own."""

    def __init__(self, config: ScriptedRaterConfig) -> None:
        self._config = config
        self._score = _score_of(config)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: Exception | None = None
        """Why it has ended early."""

    def start(self, address: str) -> None:
        """Begin to judge at the page of this address, which may contain a token."""
        self._thread = threading.Thread(target=self._run, args=(address,), name="scripted-rater", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the present comparison."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def grade(self, state: dict[str, Any]) -> int:
        """Return the grade of a comparison as the page sends it, from 4 (left is significantly better) to -4."""
        if state["left"] == state["right"]:
            return 0
        left, right = self._score(_messages(state["dialog"]), (_messages(state["left"]), _messages(state["right"])))
        judgement = judgement_of_scores(left, right, self._config.levels)
        return judgement.side if judgement.grade is None else judgement.grade  # without a level: marginally better

    def _run(self, address: str) -> None:
        import httpx2

        parts = urlsplit(address)
        try:
            with httpx2.Client(base_url=f"{parts.scheme}://{parts.netloc}", timeout=_TIMEOUT_SECONDS) as client:
                client.get(address, follow_redirects=True)  # the token of the link becomes a cookie
                while not self._stopped.is_set() and self._take_step(client):
                    pass
        except Exception as error:
            if not self._stopped.is_set():  # otherwise the page has closed, because the batch is complete
                self.failure = error

    def _take_step(self, client: Client) -> bool:
        """Do one thing that the page asks for. Returns whether there may be more to do."""
        state = self._post(client, "/api/state")
        kind = state["kind"]
        if kind == "done":
            return False
        if kind in ("waiting", "running"):
            time.sleep(_PAUSE_SECONDS)
        elif kind == "rate":
            judgement = fingerprint_of(self._config.name, state["turn"])[:32]
            self._post(client, "/api/judge", turn=state["turn"], judgement=judgement, grade=self.grade(state))
            self._stopped.wait(self._config.pause_seconds)
        else:  # the dialog could be continued, or failed
            self._post(client, "/api/leave", turn=state["turn"])
        return True

    def _post(self, client: Client, path: str, **body: object) -> dict[str, Any]:
        answer = client.post(path, json={"rater": self._config.name, **body})
        if answer.status_code != 200:
            what = f"was refused by the page at {path} ({answer.status_code}: {answer.text[:200]})"
            raise StageError("scripted_rater", what, "See the message; rating.raters must name it, if it names any")
        found: dict[str, Any] = answer.json()
        return found


def _score_of(config: ScriptedRaterConfig) -> Score:
    if config.reward_model is None:
        return _brevity
    from align.judges.reward_model import RewardModelJudge

    judge = RewardModelJudge.from_settings(config.reward_model, config.token_budget)

    def score(prompt: Messages, responses: tuple[Messages, Messages]) -> tuple[float, float]:
        first, second = judge.score(prompt, responses)
        return first, second

    return score


def _brevity(_: Messages, responses: tuple[Messages, Messages]) -> tuple[float, float]:
    first, second = (-sum(len(message.content) for message in response) / 100 for response in responses)
    return first, second


def _messages(shown: list[dict[str, str]]) -> Messages:
    return tuple(Message.model_validate({"role": one["role"], "content": one["text"]}) for one in shown)
