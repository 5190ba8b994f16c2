"""Plans of stages that sample completions, or score them with a model.

The cache of the local backend is a rectangle: every completion at work is as wide as the longest prompt among them with
`max_completion_tokens`. vLLM has `gpu_memory_utilization` of the GPU. It measures a pass over as many tokens as it
reads at a time, and divides what is left of this share into the pages of its cache; it refuses to start if that is less
than one completion of `max_model_len` needs.

Speed. A decoding step reads the weights and the cache of all completions at work, so it takes their bytes over
`memory_gb_per_second`. Not counted: prompts, Python, and a batch that is not full.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from align.generation.local import PREFILL_TOKENS
from align.planner.launches import Launch
from align.planner.plan import GIB, StagePlan
from align.planner.rows import drawn_lengths
from align.planner.settings import MachineConfig, RowsConfig
from align.planner.training import config_from, settings_text
from align.settings import ModelConfig, SamplingConfig, VLLMConfig
from align.trainers.activations import activations, typical_row, without_memory
from align.trainers.footprint import GPU_CONTEXT

_LONGEST_PROMPT = 0.999
"""This quantile of the prompts' lengths decides the width of the cache."""


@dataclass(frozen=True)
class SamplingStage:
    """A model that samples completions in a stage."""

    label: str
    recipe: str
    shape: str
    config: str
    """The Hugging Face model's, as JSON."""
    sampling: SamplingConfig
    completions: int
    """Of each prompt."""
    launch: Launch


@dataclass(frozen=True)
class ScoringStage:
    """A model that scores completions in a stage."""

    label: str
    recipe: str
    shape: str
    config: str
    model: ModelConfig
    token_budget: int
    completions: int
    launch: Launch


def plan_sampling(stage: SamplingStage, machine: MachineConfig, rows: RowsConfig) -> StagePlan:
    """What sampling needs. A server of completions needs nothing here."""
    plan = _sampling(stage, machine, rows)
    if plan.fits:
        return plan
    changes = []
    for kind in (_smaller_batches(stage), _spread(stage, machine)):
        for text, changed in kind:
            found = _sampling(changed, machine, rows)
            if found.fits:
                changes.append(f"{text} ({found.needed / GIB:.1f} GiB)")
                break
    return replace(plan, changes=tuple(changes))


def plan_scoring(stage: ScoringStage, machine: MachineConfig, rows: RowsConfig) -> StagePlan:
    """What scoring needs."""
    plan = _scoring(stage, machine, rows)
    budget = stage.token_budget // 2
    while not plan.fits and budget >= 1024:
        found = _scoring(replace(stage, token_budget=budget), machine, rows)
        if found.fits:
            return replace(plan, changes=(f"token_budget={budget} ({found.needed / GIB:.1f} GiB)",))
        budget //= 2
    return plan


def _sampling(stage: SamplingStage, machine: MachineConfig, rows: RowsConfig) -> StagePlan:
    sampling, on_gpu = stage.sampling, machine.device == "gpu"
    width = _bytes_of_type(sampling.dtype, on_gpu)
    count = parameters(stage.config)
    config = config_from(stage.config)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_token = 2 * config.num_hidden_layers * heads * head_size * width
    prompts = drawn_lengths(rows, rows.prompt_tokens, rows.rows, seed=0)
    longest = int(sorted(prompts)[int(_LONGEST_PROMPT * (len(prompts) - 1))])
    most = longest + sampling.max_completion_tokens
    spread, processes = gpus_of(sampling), stage.launch.processes
    limit = round(machine.gib * GIB / (1 if on_gpu else processes))
    batch = sampling.batch_size
    memory = {"weights": round(count * width / spread)}
    if sampling.backend == "vllm":
        vllm = sampling.vllm or VLLMConfig()
        limit = round(vllm.gpu_memory_utilization * limit)
        longest_row = vllm.max_model_len or config.max_position_embeddings
        least = a_token * longest_row / spread
        memory["activations"] = _profiled(config, batch, longest_row, spread, width, machine.gib)
        left = limit - memory["weights"] - memory["activations"] - (GPU_CONTEXT if on_gpu else 0)
        memory["KV cache"] = max(round(least), left)
    else:
        memory["KV cache"] = a_token * batch * most
        memory["activations"] = _forward(stage.config, PREFILL_TOKENS, "float32" if width == 4 else "bfloat16", on_gpu)
        memory["logits"] = _sampled(config, batch)
    if on_gpu:
        memory["context"] = GPU_CONTEXT
    length = min(rows.completion_tokens, sampling.max_completion_tokens)
    read = count * width + batch * a_token * (rows.prompt_tokens + length / 2)
    rate = batch / (read / spread / (machine.memory_gb_per_second * 1e9)) * processes
    return StagePlan(
        label=stage.label,
        recipe=stage.recipe,
        shape=stage.shape,
        where=f"{processes} x {f'{spread} GPUs' if spread > 1 else 'GPU' if on_gpu else 'CPU'}, {sampling.backend}",
        memory=memory,
        limit=limit,
        tokens_per_second=rate if on_gpu else 0.0,
        hours=rows.rows * stage.completions * length / rate / 3600 if on_gpu else 0.0,
    )


def gpus_of(sampling: SamplingConfig) -> int:
    """On how many GPUs each process samples."""
    return sampling.vllm.tensor_parallel_size if sampling.backend == "vllm" and sampling.vllm is not None else 1


def _scoring(stage: ScoringStage, machine: MachineConfig, rows: RowsConfig) -> StagePlan:
    on_gpu, processes = machine.device == "gpu", stage.launch.processes
    width = _bytes_of_type(stage.model.dtype, on_gpu)
    count = parameters(stage.config)
    dtype = "float32" if width == 4 else "bfloat16"
    memory = {"weights": count * width, "activations": _forward(stage.config, stage.token_budget, dtype, on_gpu)}
    if on_gpu:
        memory["context"] = GPU_CONTEXT
    tokens = rows.rows * (rows.prompt_tokens + stage.completions * rows.completion_tokens)
    rate = machine.tflops * 1e12 * processes / (2 * count)
    return StagePlan(
        label=stage.label,
        recipe=stage.recipe,
        shape=stage.shape,
        where=f"{processes} x {'GPU' if on_gpu else 'CPU'}",
        memory=memory,
        limit=round(machine.gib * GIB / (1 if on_gpu else processes)),
        tokens_per_second=rate if on_gpu else 0.0,
        hours=tokens / rate / 3600 if on_gpu else 0.0,
    )


def _profiled(config: Any, batch: int, longest_row: int, spread: int, width: int, gib: float) -> int:
    """Bytes of the pass with which vLLM measures its activations before it sizes its cache, on one of `spread` GPUs.

    It reads T tokens, and then samples for `batch` of them. Where the T tokens need most, in an MLP, there are the
    residual stream and its normalized copy, with gate, up and their product, which the GPUs divide. While it samples,
    the last hidden states are still there. Example, 8B with 64 completions on one GPU of 80 GB: T is 16,384, and

        in an MLP   2 * 16384 * (2 * 4096 + 3 * 14336) = 1.56 GiB
        sampling    2 * 16384 * 4096 + 16 * 64 * 128256 = 0.25 GiB

    Source: vLLM 0.11 to 0.33, `EngineArgs.get_batch_defaults` for the class LLM (fewer tokens on a GPU below 70 GiB and
    on an A100, which is not known here) and `GPUModelRunner.profile_run`. Not counted: CUDA graphs.
    """
    tokens = min(16384 if gib >= 70 else 8192, batch * longest_row)
    hidden = tokens * config.hidden_size * width
    in_mlp = 2 * hidden + 3 * tokens * config.intermediate_size * width // spread
    return int(max(in_mlp, hidden + _sampled(config, batch)))


def _sampled(config: Any, batch: int) -> int:
    """Bytes of the logits of a batch: float32, with probabilities and their order for top_p."""
    return int(4 * 4 * batch * config.vocab_size)


@cache
def parameters(config: str) -> int:
    """The number of a model's parameters; a tied head counts once."""
    made = without_memory(config_from(config), ModelConfig.model_validate({"path": "model"}), False)
    return sum(weight.numel() for weight in made.parameters())


@cache
def _forward(config: str, tokens: int, dtype: str, on_gpu: bool) -> int:
    """Bytes of the activations of a forward pass over a packed row."""
    model = ModelConfig.model_validate_json(
        settings_text(ModelConfig.model_validate({"path": "model", "dtype": dtype}))
    )
    row = typical_row(tokens, 2, completion_share=0.5)
    return activations(config_from(config), model, row, on_gpu=on_gpu, training=False).peak


def _bytes_of_type(dtype: str, on_gpu: bool) -> int:
    return {"float32": 4, "bfloat16": 2, "auto": 2 if on_gpu else 4}[dtype]


def _smaller_batches(stage: SamplingStage) -> Iterator[tuple[str, SamplingStage]]:
    size = stage.sampling.batch_size // 2
    while size:
        yield (
            f"sampling.batch_size={size}",
            replace(stage, sampling=stage.sampling.model_copy(update={"batch_size": size})),
        )
        size //= 2


def _spread(stage: SamplingStage, machine: MachineConfig) -> Iterator[tuple[str, SamplingStage]]:
    """Larger groups of the same GPUs, as far as a node has them."""
    gpus = stage.launch.processes * gpus_of(stage.sampling)
    for group in (1, 2, 4, 8, 16):
        if group > machine.gpus_per_node:
            return
        values = stage.sampling.model_dump() | {
            "backend": "vllm",
            "vllm": {"tensor_parallel_size": group},
            "threads": None,
        }
        processes = max(1, gpus // group)
        text = f"sampling.backend=vllm sampling.vllm.tensor_parallel_size={group}"
        if processes != stage.launch.processes:
            text += f" in {processes} process{'es' * (processes > 1)}"
        launch = replace(stage.launch, processes=processes)
        yield text, replace(stage, sampling=SamplingConfig.model_validate(values), launch=launch)
