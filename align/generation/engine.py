"""The generation engine: all that turns messages into sampled messages, as one object.

A `GenerationEngine` holds a backend, which knows token ids only (weights, sampling, device, length limits), and the
chat protocol of its model (tokenizer, control tokens, stop ids). Whatever generates takes one engine:

    engine = GenerationEngine.from_settings(ModelConfig(path="..."), SamplingConfig(temperature=0.7))
    prompt = engine.prompt_ids((Message(role="user", content="Hello"),))
    [[first, second]] = engine.generate([prompt], seeds=[[1, 2]])  # two samples of one prompt
    message = engine.parse(first)
    engine.close()

`sampling.backend` chooses the backend, here and nowhere else: `load_weights` loads what a backend samples from, and
`backend_of` makes a backend over it. To add one, write a class that follows `align/generation/backend.py` in a file of
its own and make it in both functions. `EngineCache` is for jobs that ask several models in turn.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from align.chat.calls import CallSyntax
from align.chat.protocol import ChatProtocol
from align.generation.backend import Backend, Completion
from align.rows import Message, Messages
from align.settings import BACKENDS, ModelConfig, SamplingConfig, backend_module


def load_weights(path: Path, sampling: SamplingConfig, revision: str | None = None) -> Any:
    """What the backend `sampling.backend` samples from, such as a model in memory.

    It depends on the checkpoint and on `weights_key(sampling)`. Backends with other settings may share it.
    """
    if sampling.backend == "server":  # the weights are there
        return path
    if sampling.backend == "vllm":
        from align.generation.vllm import load_vllm

        return load_vllm(path, sampling, revision)
    from align.models.loading import load_generator

    return load_generator(path, sampling.dtype, revision)


def backend_of(weights: Any, protocol: ChatProtocol, sampling: SamplingConfig) -> Backend:
    """A backend over the result of `load_weights`."""
    if sampling.backend == "server":
        from align.generation.server import ServerBackend

        return ServerBackend(weights, protocol, sampling)
    if sampling.backend == "vllm":
        from align.generation.vllm import VLLMBackend

        return VLLMBackend(weights, protocol, sampling)
    from align.generation.local import LocalBackend

    return LocalBackend(weights, protocol, sampling)


def weights_key(sampling: SamplingConfig) -> tuple[object, ...]:
    """The settings that `load_weights` depends on."""
    return sampling.backend, sampling.dtype, sampling.vllm


class GenerationEngine:
    """A model that completes dialogs.

    backend: samples token ids. protocol: the chat protocol of the backend's model.
    """

    def __init__(self, backend: Backend, protocol: ChatProtocol) -> None:
        self._backend: Backend | None = backend
        self.protocol = protocol

    @classmethod
    def from_settings(cls, model: ModelConfig, sampling: SamplingConfig) -> Self:
        """The engine of a `model` section. Of its settings, those of training (lora, attention and so on) are not read,
        and the weights are held in `sampling.dtype`."""
        return cls.load(
            model.path,
            sampling,
            chat=model.chat,
            call_syntax=model.call_syntax,
            revision=model.revision,
            template_kwargs=model.chat_template_kwargs,
            today=model.chat_date,
        )

    @classmethod
    def load(
        cls,
        path: Path,
        sampling: SamplingConfig,
        *,
        chat: str = "auto",
        call_syntax: CallSyntax | None = None,
        revision: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        today: str | None = None,
    ) -> Self:
        """The engine of a checkpoint: a Hugging Face folder, or a name on the Hub.

        chat, call_syntax, revision: as in `ModelConfig`. template_kwargs, today: its `chat_template_kwargs` and
            `chat_date`.
        """
        from align.models.loading import load_tokenizer

        _, protocol = load_tokenizer(path, chat, call_syntax, revision, template_kwargs=template_kwargs, today=today)
        return cls(backend_of(load_weights(path, sampling, revision), protocol, sampling), protocol)

    @property
    def backend(self) -> Backend:
        assert self._backend is not None, "this engine is closed"
        return self._backend

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprints of all that completions depend on other than prompt and seed. Part of the keys of work units."""
        return self.backend.identity

    @property
    def code_modules(self) -> tuple[str, str]:
        """The modules whose code completions depend on. Part of the keys of work units."""
        return type(self.backend).__module__, type(self.protocol).__module__

    @property
    def unused_code(self) -> tuple[str, ...]:
        """The modules of the other backends, which this module imports and completions do not depend on."""
        return tuple(module for module in map(backend_module, BACKENDS) if module != type(self.backend).__module__)

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that leaves space for a completion."""
        return self.backend.max_prompt_tokens

    def prompt_ids(self, prompt: Messages, tools: str = "") -> list[int]:
        """A dialog as token ids, up to and including the header of the assistant message that is to be written.

        tools: the functions offered, as in `Row.tools`.
        Raises RowError for a dialog that the protocol cannot express.
        """
        return self.protocol.encode(prompt, tools, open_assistant=True).ids

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None = None,
    ) -> list[list[Completion]]:
        """len(seeds[i]) completions of prompts[i], in the order of the seeds. See `Backend.complete`."""
        if temperatures is None:
            return self.backend.complete(prompts, seeds)
        return self.backend.complete(prompts, seeds, temperatures)

    def replies(self, texts: Sequence[str]) -> list[str | None]:
        """The reply to each text as the only message of a user, in their order. For judges and taggers, whose engines
        should sample greedily: a text that occurs several times is asked once, always with the seed 0.

        None for a text that leaves no space for a completion.
        """
        prompts = {text: self.prompt_ids((Message(role="user", content=text),)) for text in dict.fromkeys(texts)}
        prompts = {text: ids for text, ids in prompts.items() if len(ids) <= self.max_prompt_tokens}
        completions = self.generate(list(prompts.values()), [[0]] * len(prompts)) if prompts else []
        said = {text: self.parse(completion).content for text, (completion,) in zip(prompts, completions, strict=True)}
        return [said.get(text) for text in texts]

    def parse(self, completion: Completion) -> Message:
        """A completion as an assistant message. A malformed call stays text."""
        return self.protocol.parse(completion.ids)

    def close(self) -> None:
        """Free the weights. A closed engine cannot generate; closing it again does nothing."""
        self._backend = None
        gc.collect()


class EngineCache:
    """Engines for a job that asks several models in turn, with one model in memory at a time.

    Engines of one checkpoint share its weights, whatever their sampling. Asking for another checkpoint, or for the same
    one in another dtype or with another backend, closes all engines that were given out before.
    """

    def __init__(self) -> None:
        self._loaded: tuple[object, ...] | None = None
        """The path and the `weights_key` of what is in memory."""
        self._weights: Any = None
        self._given: list[GenerationEngine] = []

    def engine(self, path: Path, chat: str, sampling: SamplingConfig) -> GenerationEngine:
        """An engine of the checkpoint in the folder `path`. It is loaded if it is not the one in memory."""
        from align.models.loading import load_tokenizer

        _, protocol = load_tokenizer(path, chat)
        expected = (path, *weights_key(sampling))
        if self._loaded != expected:
            self.close()
            self._weights = load_weights(path, sampling)
            self._loaded = expected
        engine = GenerationEngine(backend_of(self._weights, protocol, sampling), protocol)
        self._given.append(engine)
        return engine

    def close(self) -> None:
        """Free the model in memory, and close its engines."""
        for engine in self._given:
            engine.close()
        self._given.clear()
        self._loaded, self._weights = None, None
        gc.collect()
