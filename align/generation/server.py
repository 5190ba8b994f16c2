"""A backend that samples at running servers with the OpenAI completions interface: vLLM, SGLang, llama.cpp and others.

One request for each prompt and seed; at temperature 0, one for each prompt. Prompts are sent as token ids. How the
completion's ids come back, in the order of preference:

    server      asked for by                      read from
    vLLM        return_token_ids                  choices[0].token_ids
    llama.cpp   its own /completion, return_tokens   tokens
    others      -                                 choices[0].text, encoded again with the protocol's tokenizer

Text that is encoded again is checked to decode to the same text. Its ids may be another segmentation than the one that
the model sampled: " Par" + "is" comes back as " Paris".

`endpoints.py` spreads the requests over the servers and repeats those that fail. This file knows what is sent, what an
answer means, and what a server must be to be used. It imports no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align.chat.protocol import ChatProtocol
from align.errors import ConfigError, ServerError, first_line
from align.files import fingerprint_of
from align.generation.backend import CheckedBackend, Completion
from align.generation.endpoints import Endpoint, Endpoints, Fault, Session
from align.manifest import content_fingerprint
from align.reporting import logger
from align.settings import SamplingConfig, SamplingServerConfig

log = logger(__name__)

_SEED_MASK = 2**31 - 1
"""Seeds are sent as 31 bits, which every server takes: llama.cpp has 32, and its 2**32 - 1 means a random seed."""

_SAMPLE = 'Größe, 東京\n\n- 1234567: {"name": "it\'s"}  def f(n):\n    return n'
"""Text that tokenizers of different models encode differently."""

_REPLACED = "\ufffd"
"""What a server writes for bytes that are not UTF-8."""


class _Served(NamedTuple):
    """What a server says about the model that it serves."""

    name: str
    about: str
    """All that tells two models apart, as JSON. Times, and ids that are made for each answer, are left out."""
    max_model_len: int | None
    """The longest prompt with its completion."""
    is_llama_cpp: bool


class ServerBackend(CheckedBackend):
    """Completions from the servers of `sampling.server`.

    path: `model.path`, the checkpoint or Hub name that the servers serve, and whose tokenizer `protocol` has.
    protocol: gives the stop ids, and encodes text where a server gives no ids.
    Raises ServerError if no server can be reached, if one serves another model, or if its tokenizer differs.
    """

    def __init__(self, path: Path, protocol: ChatProtocol, sampling: SamplingConfig) -> None:
        assert sampling.server is not None, "SamplingConfig has checked it"
        self.protocol, self.sampling = protocol, sampling
        self._path, self._settings = path, sampling.server
        self._served: _Served | None = None
        self._max_model_len = sampling.server.max_model_len
        self._is_warned = False
        self._endpoints = Endpoints(self._settings, _api_key(self._settings), self._check)
        self._endpoints.check_all()
        if self._max_model_len is None:
            what = f"required, but missing: {self._settings.base_urls[0]} does not say how long a prompt may be"
            raise ConfigError("sampling.server.max_model_len", what, "Set it to the context length of the servers")
        self._require_space(f"the servers have a context of {self._max_model_len} tokens")

    @property
    def identity(self) -> dict[str, str]:
        """See `Backend.identity`. The model is what the servers say about it, and the content of `model.path` if that
        is a folder. Which servers are asked, and how many requests at a time, is left out."""
        assert self._served is not None
        sampling = {name: value for name, value in self.sampling.result_settings().items() if name != "server"}
        model = fingerprint_of("server", self._served.about, content_fingerprint(self._path))
        return self._identity_with(model, sampling)

    @property
    def max_model_len(self) -> int:
        assert self._max_model_len is not None
        return self._max_model_len

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None,
    ) -> list[list[Completion]]:
        jobs = [
            [_job(prompt, seed, temperature) for seed, temperature in zip(own, warmth, strict=True)]
            for prompt, own, warmth in zip(prompts, seeds, self._each_temperature(seeds, temperatures), strict=True)
        ]
        different = list(dict.fromkeys(job for group in jobs for job in group))
        answers = dict(zip(different, self._endpoints.run(self._answer, different), strict=True))
        return [[answers[job] for job in group] for group in jobs]

    async def _answer(self, session: Session, endpoint: Endpoint, job: _Job) -> Completion:
        assert self._served is not None
        url = endpoint.root + ("/completion" if self._served.is_llama_cpp else "/v1/completions")
        answer = await session.post(url, self._request(job))
        try:
            return self._completion(answer, job, url)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise Fault(f"the answer is not a completion ({type(error).__name__}: {first_line(error)})") from None

    def _request(self, job: _Job) -> dict[str, Any]:
        """One completion. Names that a server does not know are ignored by vLLM, SGLang and llama.cpp.

        Servers have defaults for much that is not sent: vLLM those of the checkpoint's generation_config.json, such as
        top_k 20, and llama.cpp its own, such as top_k 40 and top_p before the temperature. So all are sent.
        """
        assert self._served is not None
        return {
            "model": self._served.name,
            "prompt": list(job.prompt),
            "n": 1,
            "max_tokens": self.sampling.max_completion_tokens,
            "temperature": job.temperature,
            "top_p": self.sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "samplers": ["temperature", "top_p"],  # llama.cpp: these two alone, in this order
            "seed": job.seed,
            "stop_token_ids": list(self.protocol.stop_ids),
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
            "return_token_ids": True,
            "return_tokens": True,
        }

    def _completion(self, answer: Any, job: _Job, url: str) -> Completion:
        """The completion in an answer of either form."""
        if "choices" in answer:
            choice = answer["choices"][0]
            ids, text, reason = choice.get("token_ids"), choice.get("text"), choice["finish_reason"]
            counted = (answer.get("usage") or {}).get("prompt_tokens")
        else:  # llama.cpp
            choice, ids, text = answer, answer["tokens"], answer["content"]
            reason = {"eos": "stop", "word": "stop", "limit": "length"}.get(answer["stop_type"])
            counted = answer.get("tokens_evaluated")
        if reason not in ("stop", "length"):
            raise Fault(f"a completion was ended by the server (finish_reason {reason!r})")
        if counted is not None and counted != len(job.prompt):
            what = f"the server read a prompt of {counted} tokens, and {len(job.prompt)} were sent"
            raise ServerError(url, what, "Use a server that takes prompts of token ids as they are")
        return self._stopped(
            self._encoded(text, reason, url) if ids is None else list(ids), reason, choice, ids is None
        )

    def _stopped(self, ids: list[int], reason: str, choice: Mapping[str, Any], is_text: bool) -> Completion:
        """The ids up to the first stop token.

        A server may have gone on after it, if it ignores `stop_token_ids`. It may also leave the stop token out of the
        text that it returns; then it is the one that `stop_reason` names, or the one that ends an assistant's turn.
        """
        stops = self.protocol.stop_ids
        first = next((place for place, token in enumerate(ids) if token in stops), None)
        if first is not None:
            return Completion(tuple(ids[: first + 1]), True)
        if reason == "length":
            return Completion(tuple(ids), False)
        named = choice.get("stop_reason")
        if isinstance(named, int) and named in stops:
            return Completion((*ids, named), True)
        if is_text:
            return Completion((*ids, self.protocol.terminators[0]), True)
        self._warn("the servers end completions at tokens that are no stop tokens of the protocol, such as %s; these "
                   "count as unfinished", ids[-1:] or named)  # fmt: skip
        return Completion(tuple(ids), False)

    def _encoded(self, text: str, reason: str, url: str) -> list[int]:
        """The ids of a text. Raises ServerError if they do not decode to it."""
        self._warn("the servers return text without token ids; it is encoded again. See docs/backends.md")
        if reason == "length":
            text = text.rstrip(_REPLACED)  # a character of several tokens that was cut
        tokenizer = self.protocol.tokenizer
        ids = list(tokenizer.encode(text, add_special_tokens=False))
        decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if decoded != text or _REPLACED in text:
            what = f"a completion's text cannot be encoded again: {text[-60:]!r} becomes {decoded[-60:]!r}"
            raise ServerError(
                url, what, "Use a server that returns token ids, such as vLLM from 0.10.2 on or llama.cpp"
            )
        return ids

    def _warn(self, what: str, *values: object) -> None:
        if not self._is_warned:
            self._is_warned = True
            log.warning(what, *values)

    async def _check(self, session: Session, endpoint: Endpoint) -> None:
        """Require that a server has the model, the tokenizer, and the same model as the other servers."""
        served = await self._described(session, endpoint)
        if self._served is None:
            self._served = served
        if served.about != self._served.about:
            what = f"serves {served.about}; another server has {self._served.about}"
            raise ServerError(endpoint.root, what, "Start all servers with the same checkpoint under the same name")
        await self._require_tokenizer(session, endpoint, served.name)
        lengths = [length for length in (self._max_model_len, served.max_model_len) if length is not None]
        self._max_model_len = min(lengths, default=None)

    async def _described(self, session: Session, endpoint: Endpoint) -> _Served:
        listed = await session.get(endpoint.root + "/v1/models")
        try:
            models = {name: model for model in listed["data"] for name in (model["id"], *(model.get("aliases") or ()))}
        except (KeyError, TypeError, AttributeError):
            raise Fault("the answer to /v1/models is not a list of models") from None
        name = self._name(list(models), endpoint)
        model = models[name]
        meta = model.get("meta") or {}
        context = meta.get("n_ctx")
        about = {"name": name, **{key: model.get(key) for key in ("root", "parent") if model.get(key) is not None}}
        about |= {key: value for key, value in meta.items() if key != "n_ctx"}
        return _Served(
            name,
            json.dumps(about, sort_keys=True, ensure_ascii=False),
            # llama.cpp stops one token before its context is full
            model.get("max_model_len") if context is None else context - 1,
            model.get("owned_by") == "llamacpp",
        )

    def _name(self, served: list[str], endpoint: Endpoint) -> str:
        """The model's name among those that a server has."""
        asked = self._settings.model
        if asked is None:
            asked = str(self._path) if str(self._path) in served or len(served) != 1 else served[0]
        if asked not in served:
            listed = ", ".join(map(repr, served)) or "no model"
            what = f"the server has no model {asked!r}; it serves {listed}"
            raise ServerError(endpoint.root, what, "Set sampling.server.model to a name that the server has")
        return asked

    async def _require_tokenizer(self, session: Session, endpoint: Endpoint, name: str) -> None:
        """Compare the tokenizers, if the server has /tokenize (vLLM and llama.cpp, each with its own names)."""
        tokenizer = self.protocol.tokenizer
        text = _SAMPLE + self.protocol.eos_token
        body = {"model": name, "prompt": text, "content": text, "add_special_tokens": False}
        try:
            theirs = (await session.post(endpoint.root + "/tokenize", body))["tokens"]
        except (ServerError, Fault, KeyError, TypeError) as error:
            log.info("%s does not say how it encodes text (%s); its tokenizer is not checked", endpoint.root, error)
            return
        ours = list(tokenizer.encode(text, add_special_tokens=False))
        if theirs != ours:
            what = (
                f"the server's tokenizer differs from that of {self._path}: it encodes {text!r} as {theirs}, not {ours}"
            )
            raise ServerError(endpoint.root, what, "Set model.path to the checkpoint that the server serves")


class _Job(NamedTuple):
    """One completion to sample."""

    prompt: tuple[int, ...]
    seed: int
    temperature: float


def _job(prompt: Sequence[int], seed: int, temperature: float) -> _Job:
    """At temperature 0 all seeds are one job, since their completions are the same."""
    return _Job(tuple(prompt), seed & _SEED_MASK if temperature else 0, temperature)


def _api_key(settings: SamplingServerConfig) -> str | None:
    name = settings.api_key_variable
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        where = "sampling.server.api_key_variable"
        raise ConfigError(where, f"the environment variable {name} is not set", "Set it, or delete this setting")
    return key
