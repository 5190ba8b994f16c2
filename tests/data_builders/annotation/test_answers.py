"""Models that answer while raters work: which, how often, what they are given, and which requests come first."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.chat import load_protocol
from align.generation.backend import Completion
from align.rows import Message
from data_builders.annotation.answers import REWRITE, Answers
from data_builders.annotation.settings import RatingConfig
from data_builders.annotation.store import Store, Turn
from data_builders.annotation.tasks import Task
from tests.fakes import FakeBackend

pytestmark = pytest.mark.usefixtures("closed_stores")


class Speaker(FakeBackend):
    """A backend that says its name and a running number.

    `gate` holds it back, `fails` breaks it, and the answers of the next `cut` calls reach the length limit.
    """

    def __init__(self, name: str, protocol: Any) -> None:
        super().__init__(protocol, lambda text, place: f"{name} {len(self.asked)}", max_prompt_tokens=400)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fails = False
        self.cut = 0

    def complete(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        self.entered.set()
        assert self.gate.wait(60)
        if self.fails:
            raise MemoryError("no room")
        completions = super().complete(prompts, seeds)
        cut, self.cut = self.cut > 0, self.cut - 1
        return [[replace(one, finished=not cut) for one in several] for several in completions]


Studio = Callable[..., tuple[Store, Answers, dict[str, Speaker]]]


@pytest.fixture
def studio(tmp_path: Path, chatml_tokenizer: Any) -> Studio:
    """A store with open prompts, and models that answer them."""

    def make(
        prompts: Sequence[str], names: Sequence[str] = ("a", "b"), **rating: object
    ) -> tuple[Store, Answers, dict[str, Speaker]]:
        config = RatingConfig.model_validate({"ahead": 0} | rating)
        store = Store(tmp_path / "r.sqlite", config, multi_turn=len(names) > 1)
        store.add([Task(name=text, source="test", prompt=(Message(role="user", content=text),)) for text in prompts])
        protocol = load_protocol(chatml_tokenizer)
        speakers = {name: Speaker(name, protocol) for name in names}
        return store, Answers({name: one.engine for name, one in speakers.items()}, store, config), speakers

    return make


def until(found: Callable[[], Any]) -> Any:
    """What `found` gives as soon as it is something, within a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if (value := found()) is not None:
            return value
        time.sleep(0.005)
    raise AssertionError("it never came")


def answered(store: Store, answers: Answers, rater: str) -> Turn:
    def look() -> Turn | None:
        turn = store.current(rater)
        assert turn is not None
        if turn.responses is not None:
            return turn
        assert answers.request_answers(turn) is None
        return None

    return until(look)


def test_each_turn_is_answered_once_by_two_different_models(studio: Studio) -> None:
    store, answers, speakers = studio([f"Prompt {number}" for number in range(12)], names=("a", "b", "c"))
    seen = []
    for number in range(12):
        turn = answered(store, answers, "ann")
        assert turn.responses is not None
        assert tuple(response[0].content.split()[0] for response in turn.responses) == turn.models
        seen.append(turn.models)
        store.judge("ann", turn.id, f"judgement-{number}", 1, None)
        store.leave("ann", turn.id)
    assert all(one != other for one, other in seen)
    assert {name for pair in seen for name in pair} == {"a", "b", "c"}
    assert sum(len(speaker.asked) for speaker in speakers.values()) == 24, "asking again answers nothing again"
    seeds = [seed for speaker in speakers.values() for (seed,) in speaker.seeds]
    assert len(set(seeds)) == 24


def test_an_answer_that_reaches_the_length_limit_is_sampled_again_and_never_shown(studio: Studio) -> None:
    store, answers, speakers = studio(["One?", "Two?"])
    for speaker in speakers.values():
        speaker.cut = 2
    turn = answered(store, answers, "ann")
    assert turn.responses is not None
    assert {response[0].content for response in turn.responses} == {"a 3", "b 3"}, "the third attempt of each"
    sampled = {name: [seed for (seed,) in speaker.seeds] for name, speaker in speakers.items()}
    assert all(len({*seeds}) == 3 for seeds in sampled.values())
    with store._transaction() as db:
        (kept,) = db.execute("SELECT seeds FROM turn WHERE id = ?", (turn.id,)).fetchone()
    assert json.loads(kept) == [sampled[name][-1] for name in turn.models], "the seeds are those of what is shown"

    store.judge("ann", turn.id, "judgement", 1, None)
    store.leave("ann", turn.id)
    speakers["a"].cut = 3
    turn = store.current("ann")
    assert turn is not None
    reason = until(lambda: answers.request_answers(turn))
    assert reason == "the model's answer: reached the length limit 3 times. End the dialog here. " + (
        "sampling.max_completion_tokens is the limit."
    )
    assert store.current("ann").responses is None  # type: ignore[union-attr]


def test_the_next_turn_reads_the_dialog_as_it_went_on(studio: Studio) -> None:
    store, answers, speakers = studio(["Well?"])
    turn = answered(store, answers, "ann")
    store.judge("ann", turn.id, "judgement-1", 2, (Message(role="assistant", content="Improved."),))
    store.go_on("ann", turn.id, "And more?")
    answered(store, answers, "ann")
    for speaker in speakers.values():
        read = speaker.asked[-1]
        assert [read.index(text) for text in ("Well?", "Improved.", "And more?")] == sorted(
            read.index(text) for text in ("Well?", "Improved.", "And more?")
        )
        assert f"{turn.models[0]} 1" not in read, "the answer was replaced by its edited form"


def test_a_slow_model_does_not_delay_raters_who_do_not_need_it(studio: Studio) -> None:
    store, answers, speakers = studio(["Slow?"], raters_per_pair=2)
    ready = Task(
        name="ready",
        source="test",
        prompt=(Message(role="user", content="Ready?"),),
        responses=((Message(role="assistant", content="yes"),), (Message(role="assistant", content="no"),)),
        models=("a", "b"),
    )
    store.add([ready])
    for speaker in speakers.values():
        speaker.gate.clear()
    waiting = store.current("ann")
    assert waiting is not None
    answers.request_answers(waiting)
    until(lambda: any(speaker.entered.is_set() for speaker in speakers.values()) or None)
    store.current("bob")  # the slow one, to be left for the ready one
    began = time.monotonic()
    with store._transaction() as db:
        db.execute("UPDATE assignment SET closed = 'x' WHERE rater = 'bob'")
    turn = store.current("bob")
    assert turn is not None
    store.judge("bob", turn.id, "judgement-1", 1, None)
    assert answers.request_answers(waiting) is None
    assert time.monotonic() - began < 5
    assert store.progress("bob")["mine"] == 1
    for speaker in speakers.values():
        speaker.gate.set()
    assert answered(store, answers, "ann").responses is not None


def test_prompts_are_answered_before_anybody_opens_them(studio: Studio) -> None:
    store, _, speakers = studio([f"Prompt {number}" for number in range(5)], ahead=3)
    until(lambda: True if len(store.unanswered(9)) == 2 else None)
    assert sum(len(speaker.asked) for speaker in speakers.values()) == 6
    turn = store.current("ann")
    assert turn is not None
    assert turn.responses is not None, "no rater waits"


def test_a_prompt_that_a_model_cannot_answer_is_reported_and_the_others_are_answered(studio: Studio) -> None:
    store, answers, speakers = studio(["Much too long " * 300, "Short?"])
    turn = store.current("ann")
    assert turn is not None
    reason = until(lambda: answers.request_answers(turn))
    assert "tokens, but at most 400 leave space for an answer. End the dialog here." in reason
    store.leave("ann", turn.id)
    assert answered(store, answers, "ann").prompt[0].content == "Short?"
    speakers["a"].fails = True
    store.add([Task(name="more", source="test", prompt=(Message(role="user", content="More?"),))])
    for expected in ("Much too long", "More?"):
        broken = store.current("bob")
        assert broken is not None
        assert broken.prompt[0].content.startswith(expected)
        reason = until(lambda turn=broken: answers.request_answers(turn))
        store.leave("bob", broken.id)
    assert reason == "the model: could not answer (MemoryError). See the log of the server."


def test_refining_asks_the_answers_own_model_with_its_text_and_the_feedback(studio: Studio) -> None:
    store, answers, speakers = studio(["Well?"])
    turn = answered(store, answers, "ann")
    for place in (0, 1):
        name = turn.models[place]
        rewritten = answers.refine(turn, place, "As it now reads.", "shorter, please").result(60)
        assert rewritten[0].content == f"{name} 2"
        read = speakers[name].asked[-1]
        assert (
            read.index("Well?")
            < read.index("As it now reads.")
            < read.index(REWRITE.format(feedback="shorter, please"))
        )


def test_one_model_alone_refines_ready_answers_of_models_that_are_not_here(studio: Studio) -> None:
    store, answers, speakers = studio([], names=("helper",))
    responses = ((Message(role="assistant", content="yes"),), (Message(role="assistant", content="no"),))
    prompt = (Message(role="user", content="Ready?"),)
    store.add([Task(name="ready", source="test", prompt=prompt, responses=responses, models=("x", "y"))])
    turn = store.current("ann")
    assert turn is not None
    assert answers.refine(turn, 1, "no", "why?").result(60)[0].content == "helper 1"
    store.judge("ann", turn.id, "judgement-1", 1, None)
    assert store.current("ann") is None, "a single model cannot be compared, so the dialog is not continued"
    assert len(speakers["helper"].asked) == 1
