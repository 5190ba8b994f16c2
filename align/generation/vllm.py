"""A backend that samples with vLLM in this process: continuous batching over a paged cache, on one or several GPUs.

vLLM gets token ids and one request for each prompt and seed. Requests of one prompt share its keys and values (prefix
caching). What vLLM would add by itself is turned off: its tokenizer, the defaults of generation_config.json, and every
stop token other than the protocol's. The engine of vLLM runs in a process of its own, which ends when the last backend
over it is freed; so the memory of the GPU is free for the reward model.

This is the only file that imports vLLM, and only when `sampling.backend` is vllm.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from align.chat.protocol import ChatProtocol
from align.errors import AlignError, CheckpointError, ConfigError, first_line
from align.files import fingerprint_of
from align.generation.backend import CheckedBackend, Completion
from align.manifest import content_fingerprint
from align.models.checkpoints import open_adapter, open_checkpoint
from align.models.fitting import require_fit
from align.optional import library
from align.precision import resolved_dtype
from align.settings import SamplingConfig, VLLMConfig

LOWEST_TEMPERATURE = 0.01
"""vLLM replaces a lower temperature by this one; 0 is greedy decoding."""

_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells its processes about each other. vLLM's processes form groups of their own."""
_START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


class VLLMWeights:
    """A checkpoint in the memory of vLLM. Its processes end when the last reference to this object is gone."""

    def __init__(self, vllm: Any, llm: Any, fingerprint: str) -> None:
        self.vllm, self.llm, self.fingerprint = vllm, llm, fingerprint
        self._end = weakref.finalize(self, _shut_down, llm)

    @property
    def max_model_len(self) -> int:
        """The longest prompt with its completion."""
        return int(self.llm.llm_engine.model_config.max_model_len)


def _shut_down(llm: Any) -> None:
    llm.llm_engine.engine_core.shutdown()


def load_vllm(path: Path, sampling: SamplingConfig, revision: str | None = None) -> VLLMWeights:
    """Start vLLM with a checkpoint: a Hugging Face folder, or a name on the Hub.

    Raises ConfigError if vLLM is not installed or cannot start, and CheckpointError for an adapter or a checkpoint that
    is not a whole language model.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    vllm = library("vllm", "vllm", "sampling.backend")
    if open_adapter(path, revision) is not None:
        how = "Merge it with its base (recipes/merge.py) and name the merged folder, or set sampling.backend: local"
        raise CheckpointError(path, "is an adapter, which the backend vllm does not load", how)
    checkpoint = open_checkpoint(path, revision)
    require_fit(checkpoint, scorer=False)
    settings = sampling.vllm or VLLMConfig()
    arguments = {
        "model": str(checkpoint.folder),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # not the checkpoint's, whose stop tokens and top_k would be added to ours
        "dtype": resolved_dtype(sampling.dtype),
        "max_model_len": settings.max_model_len,
        "max_num_seqs": sampling.batch_size,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": True,
        "seed": 0,
        "disable_log_stats": True,
    }
    try:
        with _environment(settings.tensor_parallel_size):
            llm = vllm.LLM(**arguments)
    except AlignError:
        raise
    except Exception as error:  # of many kinds; the cause is often in the log lines of another process
        what = f"vLLM {vllm.__version__} could not start with {path} ({type(error).__name__}: {first_line(error)})"
        how = (
            "The lines above may say more. If memory is short, lower sampling.batch_size, sampling.vllm.max_model_len "
            "or gpu_memory_utilization, or raise tensor_parallel_size"
        )
        raise ConfigError("sampling.backend", what, how) from error
    return VLLMWeights(vllm, llm, content_fingerprint(checkpoint.folder))


@contextmanager
def _environment(gpus: int) -> Iterator[None]:
    """Environment variables for the processes that vLLM starts: the GPUs of this process, and nothing of a launcher.

    Process 2 of a launcher, with 2 GPUs for each process, gets the third pair:

        CUDA_VISIBLE_DEVICES unset, LOCAL_RANK=2    ->  CUDA_VISIBLE_DEVICES=4,5
        CUDA_VISIBLE_DEVICES=1,3,5,7, LOCAL_RANK=1  ->  CUDA_VISIBLE_DEVICES=5,7
    """
    changed: dict[str, str | None] = {name: None for name in os.environ if name in _LAUNCHER or _is_torchrun(name)}
    changed.setdefault(_START_METHOD, os.environ.get(_START_METHOD, "spawn"))  # a fork after the use of CUDA fails
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        own = names[int(rank) * gpus : (int(rank) + 1) * gpus]
        if len(own) < gpus:
            what = f"is {gpus}, and of the {len(names)} GPUs of this machine {len(own)} are left for process {rank}"
            how = f"Start at most {len(names) // gpus} processes" if gpus <= len(names) else "Lower it"
            raise ConfigError("sampling.vllm.tensor_parallel_size", what, how)
        changed["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        torch.cuda.set_device(int(rank) * gpus)  # the reward model comes to the first of them, not to another's
    before = {name: os.environ.get(name) for name in changed}
    _set_variables(changed)
    try:
        yield
    finally:
        _set_variables(before)


def _is_torchrun(name: str) -> bool:
    return name.startswith("TORCHELASTIC_")


def _set_variables(values: Mapping[str, str | None]) -> None:
    """Set environment variables, and remove those whose value is None."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class VLLMBackend(CheckedBackend):
    """Completions from vLLM.

    weights: may be shared by backends with other sampling settings. protocol: gives the stop ids.
    """

    def __init__(self, weights: VLLMWeights, protocol: ChatProtocol, sampling: SamplingConfig) -> None:
        self._weights, self.protocol, self.sampling = weights, protocol, sampling
        _require_temperature(sampling.temperature)
        limit = f"vLLM runs with {weights.max_model_len} tokens at most"
        self._require_space(limit, "Lower it, or raise sampling.vllm.max_model_len")

    @property
    def identity(self) -> dict[str, str]:
        """See `Backend.identity`. What changes completions by rounding only is left out: batch_size and the number of
        GPUs. The version of vLLM is part of it, because its sampler may change."""
        sampling = {**self.sampling.result_settings(), "dtype": resolved_dtype(self.sampling.dtype)}
        model = fingerprint_of("vllm", self._weights.vllm.__version__, self._weights.fingerprint)
        return self._identity_with(model, sampling)

    @property
    def max_model_len(self) -> int:
        return self._weights.max_model_len

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None,
    ) -> list[list[Completion]]:
        requests = [
            (list(prompt), self._parameters(seed, temperature))
            for prompt, own, warmth in zip(prompts, seeds, self._each_temperature(seeds, temperatures), strict=True)
            for seed, temperature in zip(own, warmth, strict=True)
        ]
        if not requests:
            return [[] for _ in prompts]
        outputs = self._weights.llm.generate(
            [{"prompt_token_ids": ids} for ids, _ in requests],
            [parameters for _, parameters in requests],
            use_tqdm=False,
        )
        made = iter([self._completion(output.outputs[0]) for output in outputs])
        return [[next(made) for _ in own] for own in seeds]

    def _parameters(self, seed: int, temperature: float) -> Any:
        _require_temperature(temperature)
        return self._weights.vllm.SamplingParams(
            seed=seed,
            temperature=temperature,
            top_p=self.sampling.top_p,
            max_tokens=self.sampling.max_completion_tokens,
            stop_token_ids=list(self.protocol.stop_ids),
            ignore_eos=True,  # the ids above are all
            detokenize=False,
        )

    def _completion(self, made: Any) -> Completion:
        """A completion from vLLM's. Its ids end with the stop token, and its reason is then "stop"."""
        ids = tuple(made.token_ids)
        finished = bool(ids) and ids[-1] in self.protocol.stop_ids
        if made.finish_reason != ("stop" if finished else "length"):
            what = f"vLLM ended a completion of {len(ids)} tokens with the reason {made.finish_reason!r}"
            raise AlignError("sampling", what, "The lines above may say why; start again, and finished units are kept")
        return Completion(ids, finished)


def _require_temperature(temperature: float) -> None:
    if 0 < temperature < LOWEST_TEMPERATURE:
        what = f"is {temperature}, and vLLM would sample with {LOWEST_TEMPERATURE} instead"
        raise ConfigError("sampling.temperature", what, f"Use 0 (greedy decoding), or {LOWEST_TEMPERATURE} or more")
