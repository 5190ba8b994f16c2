"""Plans of stages that train: SFT, DPO, reward model.

Speed. A packed row takes its operations (`align/tree/flops.py`) over `tflops`; with checkpointing those of a further
forward pass too, which is a third more, or half as much again where only adapters are trained.
In each round of rows all processes gather the weights twice and reduce the gradients once; transfers overlap with
arithmetic, so a round takes the longer of the two. Processes that share a row divide its operations, and what they
exchange around attention is added. DPO's reference pass is added: one epoch of forward passes, which gather the
weights once. Not counted: the optimizer, Python, waiting for data, and held-out rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from transformers import AutoConfig

from align.models.logps import TILE
from align.planner.launches import Launch
from align.planner.plan import GIB, StagePlan
from align.planner.rows import drawn_rows
from align.planner.settings import MachineConfig, RowsConfig
from align.settings import LoRAConfig, ModelConfig, TrainingConfig, TreeDataConfig
from align.trainers.activations import Activations, activations, typical_row, without_memory
from align.trainers.disk import disk_need
from align.trainers.footprint import Footprint, Weights, counted, footprint
from align.trainers.throughput import LayerWeights, layer_weights
from align.tree.flops import forward_flops, training_flops
from align.tree.pack import RunPlan, occupancy_warnings
from align.tree.sequence_parallel import divided_heads, require_groups

COMPLETIONS = {"sft": 1, "dpo": 2, "reward": 2}
_STEPS = 10
"""Optimizer steps whose rows are packed, to find out how full they are and how long they take."""
_LEAST_BUDGET = 1024


@dataclass(frozen=True)
class TrainingStage:
    """A stage that trains, with all that its plan depends on."""

    label: str
    recipe: str
    shape: str
    config: str
    """The Hugging Face model's, as JSON."""
    model: ModelConfig
    training: TrainingConfig
    data: TreeDataConfig
    launch: Launch
    reference: bool = False
    """Whether a pass computes the reference's log-probabilities before the first step."""

    @property
    def scorer(self) -> bool:
        return self.recipe == "reward"

    @property
    def sharing(self) -> int:
        """Processes that share a packed row."""
        return self.training.sequence_parallel


class _Built(NamedTuple):
    """A model on the meta device."""

    model: Any
    weights: Weights
    layers: LayerWeights


def plan_training(stage: TrainingStage, machine: MachineConfig, rows: RowsConfig) -> StagePlan:
    """What the stage needs; if it does not fit, also with which settings it would."""
    require_groups(stage.sharing, stage.launch.processes, zero3=stage.launch.zero is not None)
    plan = _timed(stage, machine, rows, _sized(stage, machine))
    return plan if plan.fits else replace(plan, changes=tuple(_changes(stage, machine)))


# Memory and disk


def _sized(stage: TrainingStage, machine: MachineConfig) -> StagePlan:
    on_gpu, processes = machine.device == "gpu", stage.launch.processes
    memory = _footprint(stage, on_gpu)
    parts = dict(memory.parts)
    if not stage.scorer:  # of the activations, the output head's: a tile of logits, and the gradient of its weights
        config = config_from(stage.config)
        high, wide = TILE["cuda" if on_gpu else "cpu"]
        gradient = 0 if stage.model.lora else 4 * config.vocab_size * config.hidden_size
        parts["logits"] = min(4 * high * wide + gradient, parts["activations"])
        parts["activations"] -= parts["logits"]
    built = _built_of(stage)
    need = disk_need(
        built.model,
        stage.training,
        1,
        sharded=stage.launch.zero is not None,
        validated=stage.data.has_eval_rows,
    )
    return StagePlan(
        label=stage.label,
        recipe=stage.recipe,
        shape=stage.shape,
        where=f"{processes} x {'GPU' if on_gpu else 'CPU'}, {stage.launch.name}"
        + (f", {stage.sharing} share a row" if stage.sharing > 1 else ""),
        memory=parts,
        limit=round(machine.gib * GIB / (1 if on_gpu else processes)),  # processes of a CPU share its memory
        host=min(processes, machine.gpus_per_node) * sum(memory.host.values()),
        host_limit=round(machine.host_gib * GIB),
        checkpoint=need.checkpoint,
        save_seconds=need.checkpoint / (machine.disk_gb_per_second * 1e9),
    )


def _footprint(stage: TrainingStage, on_gpu: bool) -> Footprint:
    row = _activations_of(
        stage.config,
        settings_text(stage.model),
        stage.data.token_budget,
        COMPLETIONS[stage.recipe],
        stage.scorer,
        "bf16" if stage.training.precision == "auto" and on_gpu else stage.training.precision.replace("auto", "fp32"),
        on_gpu,
        stage.sharing,
    )
    if stage.model.quantization is not None:  # one matrix at a time is unpacked for its product
        config = config_from(stage.config)
        row = Activations(row.held, row.peak + 2 * config.hidden_size * config.intermediate_size)
    weights = _built_of(stage).weights
    return footprint(weights, row, processes=stage.launch.processes, zero=stage.launch.zero, on_gpu=on_gpu)


@cache
def _activations_of(
    config: str, model: str, tokens: int, completions: int, scorer: bool, precision: str, on_gpu: bool, sharing: int
) -> Activations:
    row = typical_row(tokens, completions, completion_share=0.5)
    return activations(
        config_from(config),
        ModelConfig.model_validate_json(model),
        row,
        scorer=scorer,
        precision=precision,
        on_gpu=on_gpu,
        sequence_parallel=sharing,
    )


def _built_of(stage: TrainingStage) -> _Built:
    return _built(
        stage.config,
        settings_text(stage.model),
        stage.training.optimizer,
        stage.scorer,
        stage.model.quantization is not None,
    )


@cache
def _built(config: str, model: str, optimizer: str, scorer: bool, quantized: bool) -> _Built:
    made = without_memory(config_from(config), ModelConfig.model_validate_json(model), scorer)
    training = TrainingConfig.model_validate({"output_dir": "out", "optimizer": optimizer})
    return _Built(made, counted(made, training, quantized=quantized), layer_weights(made))


def settings_text(model: ModelConfig) -> str:
    """What the plan reads of a model's settings, as a key."""
    values = {"path": "model", "dtype": model.dtype, "gradient_checkpointing": model.gradient_checkpointing}
    lora = None if model.lora is None else model.lora.model_dump(mode="json")
    return json.dumps(values | {"lora": lora})


@cache
def config_from(text: str) -> Any:
    return AutoConfig.for_model(**json.loads(text))


# Speed


def _timed(stage: TrainingStage, machine: MachineConfig, rows: RowsConfig, plan: StagePlan) -> StagePlan:
    drawn = drawn_rows(rows, COMPLETIONS[stage.recipe], stage.data)
    built, training = _built_of(stage), stage.training
    forward = forward_flops(
        drawn,  # type: ignore[arg-type]
        built.model.config,
        head=not stage.scorer,
        added=built.layers.adapters,
    )
    flops = training_flops(
        drawn,  # type: ignore[arg-type]
        built.model.config,
        trained=built.layers.trained,
        head=not stage.scorer,
        head_is_trained=stage.model.lora is None,
        added=built.layers.adapters,
    )
    run = RunPlan(
        drawn.tokens,
        costs=flops,
        batch_size=training.batch_size,
        token_budget=stage.data.token_budget,
        epochs=training.epochs,
        max_steps=training.max_steps,
        seed=training.seed,
        processes=stage.launch.processes // stage.sharing,
    )
    steps = [run.bins(step) for step in range(min(_STEPS, run.steps_per_epoch))]
    tokens = sum(int(drawn.tokens[members].sum()) for bins in steps for members in bins) / len(steps)
    transfers = _transfers(stage, machine)
    rate = machine.tflops * 1e12 * stage.sharing
    exchanged = drawn.tokens * _exchange(stage, machine)  # in a forward pass; as much in the backward pass
    forward_seconds = forward / rate + exchanged
    row_seconds = flops / rate + 2 * exchanged + (forward_seconds if stage.model.gradient_checkpointing else 0)
    seconds = _step_seconds(steps, run.processes, row_seconds, transfers.in_round) + transfers.in_step
    disk = disk_need(
        built.model,
        training,
        len(run),
        sharded=stage.launch.zero is not None,
        validated=stage.data.has_eval_rows,
    )
    total = len(run) * seconds + disk.saves(0, seconds) * plan.save_seconds
    if stage.reference:
        passes = min(len(run), run.steps_per_epoch)
        total += passes * _step_seconds(steps, run.processes, forward_seconds, transfers.in_forward)
    occupancy = run.occupancy(_STEPS)
    warnings = occupancy_warnings(run, occupancy)
    share, setting = _saving(stage, plan, seconds)
    if share > 0.1:
        warnings.append(f"saving takes {share:.0%} of the time: raise training.{setting}")
    return replace(
        plan,
        disk=disk.bytes_at_the_peak(0, 0),
        steps=len(run),
        step_seconds=seconds,
        tokens_per_second=tokens / seconds,
        hours=total / 3600,
        filled=occupancy.filled,
        empty=occupancy.empty,
        save_share=share,
        warnings=tuple(warnings),
    )


def _step_seconds(steps: list[list[list[int]]], processes: int, seconds: Any, transfer: float) -> float:
    """Mean seconds of a step's rounds of rows, in each of which the processes wait for each other.

    steps: the rows of each bin of each step. processes: those that share a row count as one. seconds: of each row.
    transfer: seconds of a process's transfers in a round.
    """
    total = 0.0
    for bins in steps:
        costs = [float(seconds[members].sum()) for members in bins]
        rounds = (costs[first : first + processes] for first in range(0, len(costs), processes))
        total += sum(max([*each, transfer]) for each in rounds)
    return total / len(steps)


class _Transfers(NamedTuple):
    """Seconds of a process's transfers."""

    in_round: float = 0.0
    """In a forward and backward pass over a round of rows."""
    in_forward: float = 0.0
    """In a forward pass alone."""
    in_step: float = 0.0
    """Once in each optimizer step."""


def _transfers(stage: TrainingStage, machine: MachineConfig) -> _Transfers:
    processes, weights, zero = stage.launch.processes, _built_of(stage).weights, stage.launch.zero
    if processes == 1 or machine.device == "cpu":
        return _Transfers()
    within = processes <= machine.gpus_per_node
    rate = 1e9 * (machine.node_gb_per_second if within else machine.network_gb_per_second)
    if zero is None:
        return _Transfers(in_step=2 * weights.trained_bytes / rate)
    again = 1e9 * machine.node_gb_per_second if zero.second_shard > 1 else rate  # gathered from the node's own copy
    reduced = zero.gradient_bytes * weights.trained or weights.trained_bytes
    host = 1e9 * machine.host_gb_per_second
    moved = weights.bytes / processes / host if zero.offload_weights else 0.0
    forward = weights.bytes / rate + moved
    backward = weights.bytes / again + reduced / rate + moved
    return _Transfers(
        forward + backward, forward, 6 * weights.trained / processes / host if zero.offload_optimizer else 0.0
    )


def _exchange(stage: TrainingStage, machine: MachineConfig) -> float:
    """Seconds of a process's exchanges around attention in one pass, for each token of a packed row that it shares.

    Of its tokens a process sends the queries, keys, values and results to the others, S - 1 of S parts, in each layer.
    """
    if stage.sharing == 1 or machine.device == "cpu":
        return 0.0
    config = config_from(stage.config)
    heads = config.num_attention_heads
    groups = max(getattr(config, "num_key_value_heads", None) or heads, stage.sharing)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    width = 4 if stage.training.precision == "fp32" else 2
    of_layer = 2 * (heads + groups) * head_size * width * (stage.sharing - 1) / stage.sharing
    within = stage.sharing <= machine.gpus_per_node
    rate = 1e9 * (machine.node_gb_per_second if within else machine.network_gb_per_second)
    return float(config.num_hidden_layers * of_layer / rate / stage.sharing)


def _saving(stage: TrainingStage, plan: StagePlan, seconds: float) -> tuple[float, str]:
    """The share of the time that saves take, and the setting that decides it. seconds: of a step."""
    training = stage.training
    between = {f"save_steps (now {training.save_steps})": training.save_steps * seconds}
    if training.save_minutes is not None:
        between[f"save_minutes (now {training.save_minutes:g})"] = max(60 * training.save_minutes, seconds)
    setting, interval = min(between.items(), key=lambda each: each[1])
    return plan.save_seconds / (plan.save_seconds + interval), setting


# What to change


def _changes(stage: TrainingStage, machine: MachineConfig) -> Iterator[str]:
    """Of each kind of change the smallest with which the stage fits."""
    kinds = (_smaller_rows(stage), _shared_rows(stage), _more_processes(stage), _offloaded(stage), _adapters(stage))
    for kind in kinds:
        for text, changed in kind:
            plan = _sized(changed, machine)
            if plan.fits:
                yield f"{text} ({plan.needed / GIB:.1f} GiB)"
                break


Variants = Iterator[tuple[str, TrainingStage]]


def _smaller_rows(stage: TrainingStage) -> Variants:
    text = ""
    if not stage.model.gradient_checkpointing:
        stage = replace(stage, model=stage.model.model_copy(update={"gradient_checkpointing": True}))
        text = "model.gradient_checkpointing=true"
        yield text, stage
    budget = stage.data.token_budget // 2
    while budget >= _LEAST_BUDGET:
        setting = f"{text} data.token_budget={budget}".strip()
        yield setting, replace(stage, data=stage.data.model_copy(update={"token_budget": budget}))
        budget //= 2


def _shared_rows(stage: TrainingStage) -> Variants:
    """More processes for each row, as many as divide them all and the attention heads."""
    if stage.launch.zero is None:
        return
    config = config_from(stage.config)
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    for size in divided_heads(heads, groups):
        if size > stage.sharing and stage.launch.processes % size == 0:
            training = stage.training.model_copy(update={"sequence_parallel": size})
            yield f"training.sequence_parallel={size}", replace(stage, training=training)


def _more_processes(stage: TrainingStage) -> Variants:
    if stage.launch.zero is not None:
        for more in (2, 4, 8, 16, 32, 64):
            count = stage.launch.processes * more
            yield f"{count} processes", replace(stage, launch=replace(stage.launch, processes=count))


def _offloaded(stage: TrainingStage) -> Variants:
    zero = stage.launch.zero
    if zero is not None and not zero.offload_optimizer:
        moved = zero._replace(offload_optimizer=True, offload_weights=True)
        name = "recipes/launch/zero3_offload.yaml"
        yield f"launch={name}", replace(stage, launch=replace(stage.launch, zero=moved, name=name))


def _adapters(stage: TrainingStage) -> Variants:
    if stage.model.lora is None:
        adapted = stage.model.model_copy(update={"lora": LoRAConfig()})
        yield "model.lora={}", replace(stage, model=adapted)
        stage = replace(stage, model=adapted)
    if stage.launch.zero is None and stage.model.quantization is None:
        quantized = stage.model.model_copy(update={"quantization": "nf4"})
        yield "model.lora={} model.quantization=nf4", replace(stage, model=quantized)
