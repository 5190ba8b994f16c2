"""What replaces a model in tests: one backend that answers from a function or a script, and candidates made by hand.

Imported as `from tests.fakes import FakeBackend`: pytest has the repository's root on its path (pyproject.toml).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from align.chat.protocol import ChatProtocol
from align.generation.backend import Completion
from align.generation.engine import GenerationEngine
from align.rows import Candidate, Message

Reply = Callable[[str, int], str]
"""(text of the prompt without control tokens, index of the sample) -> what the model says."""


def candidates(*made: tuple[str, float | None, bool], prompt: str = "p", **more: Any) -> list[Candidate]:
    """Candidates of one prompt from (text, score, finished) of each, with `more` fields."""
    return [
        Candidate(
            id=f"{prompt}-{index}",
            source="test",
            prompt_id=prompt,
            prompt=(Message(role="user", content="Say."),),
            completion=(Message(role="assistant", content=text),),
            index=index,
            seed=index,
            finished=finished,
            score=score,
            **more,
        )
        for index, (text, score, finished) in enumerate(made)
    ]


class FakeBackend:
    """A backend whose sample i of a prompt is `reply(text of the prompt, i)`.

    A reply that ends with "..." ran into the length limit, and one that ends with `<|eom_id|>` stops with that token.
    Control tokens in a reply are control tokens, as a model would write them.

    stop_after: calls of `complete` after which the next one raises KeyboardInterrupt, as a user who ends the run.
    """

    def __init__(
        self,
        protocol: ChatProtocol,
        reply: Reply | None = None,
        *,
        name: str = "fake",
        max_prompt_tokens: int = 4000,
        stop_after: int | None = None,
    ) -> None:
        self.protocol, self.reply = protocol, reply
        self.max_prompt_tokens, self.stop_after = max_prompt_tokens, stop_after
        self.identity = {"model": name}
        self.prompts: list[list[int]] = []
        self.seeds: list[list[int]] = []
        """The seeds of each prompt."""
        self.temperatures: list[list[float]] = []
        """The temperatures of each prompt that was asked with its own ones."""
        self.batches: list[int] = []
        """Completions in each call."""

    @property
    def engine(self) -> GenerationEngine:
        return GenerationEngine(self, self.protocol)

    @property
    def asked(self) -> list[str]:
        """The text of each prompt, in order."""
        return [self.protocol.text(prompt) for prompt in self.prompts]

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None = None,
    ) -> list[list[Completion]]:
        assert prompts, "nothing was asked"
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(sum(map(len, seeds)))
        self.prompts += [list(prompt) for prompt in prompts]
        self.seeds += [list(own) for own in seeds]
        self.temperatures += [list(own) for own in temperatures or ()]
        return [
            [self.completion(prompt, seed, place) for place, seed in enumerate(own)]
            for prompt, own in zip(prompts, seeds, strict=True)
        ]

    def completion(self, prompt: Sequence[int], seed: int, place: int) -> Completion:
        """One sample of one prompt. Tests that need other completions than texts override this."""
        assert self.reply is not None
        text = self.reply(self.protocol.text(prompt), place)
        finished = not text.endswith("...")
        if finished and not text.endswith("<|eom_id|>"):
            text += "<|eot_id|>" if self.protocol.name == "llama3" else "<|im_end|>"
        return Completion(tuple(self.protocol.tokenizer.encode(text, add_special_tokens=False)), finished)


class ScriptedDialogs(FakeBackend):
    """A backend that says a question's lines one after the other, one line for each assistant message.

    scripts: question (a part of the prompt's text) -> one list of lines for each sample. Samples that have said the
        same so far share a prompt; their order distinguishes them.
    """

    def __init__(self, protocol: ChatProtocol, scripts: Mapping[str, Sequence[Sequence[str]]], **settings: int) -> None:
        super().__init__(protocol, **settings)
        self.scripts = scripts
        self.started: list[str] = []
        """The questions of the dialogs that began, in order."""
        header = protocol.encode((), open_assistant=True).ids
        self.opened = protocol.tokenizer.decode(header[1:] if protocol.name == "llama3" else header)

    def completion(self, prompt: Sequence[int], seed: int, place: int) -> Completion:
        text = self.protocol.tokenizer.decode(list(prompt))
        (question,) = [question for question in self.scripts if question in text]
        before = text.split(self.opened)[1:-1]
        if not before and place == 0:
            self.started.append(question)
        here = samples = self.scripts[question]
        if len(samples) > 1:  # with one sample alone, the context may also hold its calls in another spacing
            here = [lines for lines in samples if len(lines) > len(before) and all(map(str.startswith, before, lines))]
        self.reply = partial(_said, here[place % len(here)][len(before)])
        return super().completion(prompt, seed, place)


def _said(line: str, text: str, place: int) -> str:
    return line
