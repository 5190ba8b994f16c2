"""How completions are sampled: the backend, its settings, and temperature, length and type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from align.addresses import place_of
from align.config import Section


class SamplingServerConfig(Section):
    """The servers that sample for `backend: server`. Read by `align/generation/server.py`; see docs/backends.md.

    `model` and the weights behind it decide what is sampled. The other settings, except for `max_model_len`, may differ
    between two starts of one run.
    """

    base_urls: tuple[str, ...] = Field(min_length=1)
    """Addresses of one or several servers with the OpenAI completions interface, such as http://node1:8000/v1. All must
    serve the same model; each request goes to the server with the fewest open requests."""
    model: str | None = Field(None, min_length=1)
    """The model's name at the servers. None: the name in model.path if a server has it, else the only one it has."""
    concurrency: int = Field(64, gt=0, le=100_000)
    """Requests that are open at the same time at each server. Use what the server runs in one batch (vLLM:
    max_num_seqs; llama.cpp: parallel)."""
    timeout_seconds: float = Field(600.0, gt=0)
    """A request without an answer after this time is sent again, to another server if there is one."""
    retries: int = Field(8, ge=0, le=1000)
    """How often a request is sent again after a lost connection, a timeout, or an answer 408, 425, 429 or 5xx. Waits
    grow from 0.5 to 30 seconds, or are what the server asks for. With the default a server may be away for about 90
    seconds."""
    max_model_len: int | None = Field(None, gt=0)
    """The longest prompt with its completion, in tokens. None: what the servers report (vLLM, llama.cpp)."""
    api_key_variable: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Name of the environment variable that contains the API key. None: no key is sent. The key itself is never part
    of a config."""

    @field_validator("base_urls")
    @classmethod
    def _addresses_are_complete(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            try:
                place_of(url)
            except ValueError as error:
                raise ValueError(f"{url!r} is not an address such as http://localhost:8000/v1: it {error}") from None
        roots = [url.rstrip("/").removesuffix("/v1") for url in urls]
        for url, root in zip(urls, roots, strict=True):
            if roots.count(root) > 1:
                raise ValueError(f"base_urls names {url} twice")
        return urls


class VLLMConfig(Section):
    """How vLLM runs for `backend: vllm`. Read by `align/generation/vllm.py`; see docs/backends.md.

    `sampling.dtype` is the type of the weights, and `sampling.batch_size` the most completions that are decoded at the
    same time.
    """

    tensor_parallel_size: int = Field(1, gt=0, le=1024)
    """GPUs over which the weights are spread. Process r of a launcher takes the r-th group of this many GPUs."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """The part of a GPU's memory that vLLM takes, for weights and cache. Lower it if other processes use the GPU."""
    max_model_len: int | None = Field(None, gt=0)
    """The longest prompt with its completion, in tokens. None: that of the model, which may need more memory for the
    cache than there is."""
    enforce_eager: bool = False
    """true: no CUDA graphs and no compilation. vLLM then starts faster, and samples more slowly."""


class SamplingConfig(Section):
    """How completions are sampled."""

    backend: Literal["local", "vllm", "server"] = "local"
    """What samples. local: transformers, in this process. vllm: vLLM, in this process; requires the extra `vllm`.
    server: one or several running servers with the OpenAI completions interface (vLLM, SGLang, llama.cpp), named in
    `server`. See docs/backends.md."""
    server: SamplingServerConfig | None = None
    """The servers of `backend: server`."""
    vllm: VLLMConfig | None = None
    """How vLLM runs, for `backend: vllm`. None: the defaults of this section."""

    temperature: float = Field(1.0, ge=0, le=100)
    """Sampling temperature. 0 is greedy decoding: the most likely token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: sample among the most likely tokens whose probabilities add up to this. 1 for all."""
    max_completion_tokens: int = Field(256, gt=0, le=100_000_000)
    """A completion ends after this many tokens, and is then marked as unfinished."""
    batch_size: int = Field(64, gt=0, le=1_000_000)
    """Completions that are decoded at the same time. Memory grows with it. Servers decide themselves; see
    server.concurrency."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of the generator's weights. auto: bfloat16 where it is faster, as for training.precision. A server
    decides itself."""
    threads: int | None = Field(None, gt=0)
    """CPU threads that sample; those of the whole process in an evaluation and in rejection sampling. None leaves the
    choice to torch."""

    def libraries(self) -> dict[str, str]:
        return {"vllm": "vllm"} if self.backend == "vllm" else {}

    @model_validator(mode="after")
    def _the_backend_reads_its_settings(self) -> Self:
        if self.backend == "server" and self.server is None:
            raise ValueError("the backend server requires the section sampling.server, which is missing")
        if self.backend != "server" and self.server is not None:
            raise ValueError(f"sampling.server is given, which the backend {self.backend} does not read")
        if self.backend != "vllm" and self.vllm is not None:
            raise ValueError(f"sampling.vllm is given, which the backend {self.backend} does not read")
        # A server reads neither dtype, which rounds set in every section, nor batch_size, so that a config for another
        # backend needs one change only.
        if self.threads is not None and self.backend != "local":
            raise ValueError(f"sampling.threads is {self.threads}, which the backend {self.backend} does not read")
        return self

    def greedy(self, max_completion_tokens: int) -> Self:
        """These settings for a model that is asked for one short reply: the most likely token each time."""
        return self.model_copy(update={"temperature": 0.0, "max_completion_tokens": max_completion_tokens})

    def result_settings(self) -> dict[str, Any]:
        """The settings that completions depend on, for keys of results.

        Settings that change the speed only are left out. Those of the local backend are without `backend`, so that
        results that were made before there were other backends keep their keys.
        """
        left_out = {"batch_size", "threads", "server", "vllm"}
        left_out |= {"backend"} if self.backend == "local" else {"dtype"} if self.backend == "server" else set()
        values = self.model_dump(mode="json", exclude=left_out)
        if self.server is not None:
            values["server"] = self.server.model_dump(include={"model", "max_model_len"})
        if self.vllm is not None and self.vllm.max_model_len is not None:
            values["max_model_len"] = self.vllm.max_model_len
        return values


BACKENDS: tuple[str, ...] = get_args(SamplingConfig.model_fields["backend"].annotation)


def backend_module(name: str) -> str:
    """The module of a backend: local -> align.generation.local."""
    # In parts, because code_of follows the names of modules that a file holds as text.
    return ".".join(("align", "generation", name))


def unused_backends(*values: Any) -> tuple[str, ...]:
    """The modules of the backends that no SamplingConfig in `values` chooses, for `code_of(without=...)`.

    values: sections, and tuples, lists and mappings of them, looked through to any depth. The local backend always
        counts as used, since it is what code without settings for sampling runs.
    """
    used = {"local", *_chosen_backends(values)}
    return tuple(backend_module(name) for name in BACKENDS if name not in used)


def _chosen_backends(value: Any) -> Iterator[str]:
    if isinstance(value, SamplingConfig):
        yield value.backend
    elif isinstance(value, Section):
        for name in type(value).model_fields:
            yield from _chosen_backends(getattr(value, name))
    elif isinstance(value, dict):
        yield from _chosen_backends(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _chosen_backends(item)
