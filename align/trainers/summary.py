"""The first and the last word of a run: what is trained, on what and where, and what came of it.

`first_word` is one block before the first step, `last_word` one after the last. Both are said by rank zero only.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerState, TrainingArguments

import align
from align.chat.protocol import ChatProtocol
from align.effective_time import EffectiveTime, RunClock
from align.errors import AlignError
from align.hardware import cpu_name
from align.models.adapters import is_adapted
from align.precision import kept
from align.reporting import commands, duration, fields, logger
from align.settings import ModelConfig, TrainingConfig
from align.trainers.alarms import alarms_so_far
from align.trainers.data import DROPPED, HELD_OUT
from align.trainers.forecast import forecast
from align.trainers.rollbacks import Rollback
from align.trainers.trackers import Speed, parameter_counts, peak_memory, run_name
from align.trainers.validation import Validation
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan, occupancy_warnings, tree_numbers

log = logger(__name__)

RECIPES = Path(align.__file__).resolve().parents[1] / "recipes"

TRAINS_ON = {
    ("sft", "final"): "the messages after the last user message (sft.train_on: final, as in Llama 3). Other trainers "
    "often train on every message of the assistant: sft.train_on=all",
    ("sft", "all"): "every message of the assistant (sft.train_on: all)",
    ("dpo", True): "the content of chosen against that of rejected, without headers and end tokens",
    ("dpo", False): "chosen against rejected, with headers and end tokens",
    ("reward", None): "the score of each completion, read at its last token",
}
"""(stage, its setting) -> what the loss reads."""

_SHOWN_REASONS = 6


class Summarized(Protocol):
    """What a summary needs of a trainer."""

    stage: str
    start: ModelConfig
    training: TrainingConfig
    recipe: dict[str, Any]
    plan: RunPlan
    trees: Sequence[PromptTree]
    protocol: ChatProtocol
    output: Path
    model: Any
    args: TrainingArguments
    state: TrainerState
    speed: Speed
    validation: Validation | None
    rollbacks: list[Rollback]
    clock: RunClock

    @property
    def hugging_face_model(self) -> Any: ...


def run_facts(trainer: Summarized) -> dict[str, Any]:
    """What is known of a run before it begins, beyond its config. Trackers log it as the section `run`."""
    total, trained = parameter_counts(trainer.hugging_face_model)
    return {
        "stage": trainer.stage,
        "family": str(trainer.hugging_face_model.config.model_type),
        "parameters": total,
        "trained_parameters": trained,
        "device": _device(trainer.args),
        "dtype": _name_of(trainer.hugging_face_model.dtype),
        "precision": trainer.model.precision,
        "processes": trainer.args.world_size,
        "rows": len(trainer.trees),
        "tokens": int(tree_numbers(trainer.trees, "tokens").sum()),
        "batch_size": min(trainer.training.batch_size, len(trainer.trees)),
        "steps": len(trainer.plan),
        "steps_per_epoch": trainer.plan.steps_per_epoch,
    }


def first_word(trainer: Summarized, step: int) -> None:
    """Say what a run is about to do. step: the step after which it resumes, 0 for a new run."""
    if trainer.args.process_index == 0:
        message, extra = fields(f"{trainer.stage}: {run_name(trainer.training)}", first_lines(trainer, step))
        log.info(message, extra=extra)
        for text in occupancy_warnings(trainer.plan, trainer.plan.occupancy()):
            log.warning(text)


def last_word(trainer: Summarized, seconds: float) -> None:
    """Say where the result is, and what can be done with it. seconds: since the process began."""
    if trainer.args.process_index == 0:
        title = f"{trainer.stage} is finished: {run_name(trainer.training)}"
        for message, extra in (fields(title, last_lines(trainer, seconds)), commands("next:", next_commands(trainer))):
            log.info(message, extra=extra)


def first_lines(trainer: Summarized, step: int) -> list[tuple[str, str]]:
    """Name and text of each line of the first word."""
    facts, plan, training = run_facts(trainer), trainer.plan, trainer.training
    lines = [
        ("model", f"{trainer.start.path} ({_parts(facts, trainer.start)})"),
        ("device", f"{facts['device']}, {_precision(trainer, facts)}"),
        ("attention", _ATTENTION[trainer.start.attention]),
        ("chat", _chat(trainer.protocol)),
        *_data_lines(trainer, facts),
        *_held_out(trainer),
        ("trains on", _trains_on(trainer)),
        ("batch", _batch(trainer, facts)),
        ("steps", steps_line(plan, step)),
        ("tokens", _tokens(trainer, step)),
        ("learning rate", _rate(training)),
    ]
    if training.report_to:
        project = f" of project {training.project}" if training.project else ""
        lines.append(("trackers", f"{', '.join(training.report_to)}: run {run_name(training)}{project}"))
    return [*lines, ("result", f"{trainer.output}/ (metrics.jsonl, checkpoint-N/ every {training.save_steps} steps)")]


def last_lines(trainer: Summarized, seconds: float) -> list[tuple[str, str]]:
    """Name and text of each line of the last word."""
    kind = "adapter, for its base model" if is_adapted(trainer.hugging_face_model) else "model"
    lines = [("result", f"{trainer.output}/ ({kind})")]
    lines += guard_lines(trainer)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if best := _best(trainer):
        lines.append(("best", best))
    if losses:
        steps = f"{trainer.state.global_step:,} steps"
        lines.append(("loss", f"{losses[0]:.4g} at first, {losses[-1]:.4g} at the end, after {steps}"))
    speed = trainer.speed
    done = trainer.state.global_step
    sizes = tree_numbers(trainer.trees, "tokens")
    tokens = trainer.plan.sum_to_step(sizes, done) - trainer.plan.sum_to_step(sizes, done - speed.all_steps)
    parts = [duration(seconds)]
    if speed.all_seconds:
        each = f"{speed.all_steps:,} optimizer steps of {speed.all_seconds / speed.all_steps:.2g} s"
        parts.append(f"{each}, {tokens / speed.all_seconds:,.0f} tokens/s")
    lines += [("time", "; ".join(parts)), ("memory", _memory(trainer))]
    return [*lines, ("effective", effective_line(trainer.clock.effective_time()))]


def effective_line(time: EffectiveTime) -> str:
    """The effective training time of a run, with what took the rest: the largest causes first.

    72% of 4 min 10 s in 2 starts (1 killed); 15 steps lost; other time: lost steps 11%, start-up 6%, saving 5%
    """
    starts = f" in {time.starts} starts ({time.killed} killed)" if time.starts > 1 else ""
    lost = f"; {time.lost_steps:,} steps lost" if time.lost_steps else ""
    line = f"{time.ratio:.0%} of {duration(time.elapsed)}{starts}{lost}"
    shares = {cause: seconds / max(time.elapsed, 1e-9) for cause, seconds in time.causes.items()}
    rest = [
        f"{cause} {share:.0%}" for cause, share in sorted(shares.items(), key=lambda each: -each[1]) if share > 0.005
    ]
    return line + (f"; other time: {', '.join(rest)}" if rest else "")


def guard_lines(trainer: Summarized) -> list[tuple[str, str]]:
    """Roll-backs and alarms of the run, over all its starts; none if there were none."""
    lines = [
        ("rolled back", f"step {each.step}: {each.cause.partition(' on rows ')[0]}; {len(each.rows)} rows left out")
        for each in trainer.rollbacks
    ]
    for name, (count, first) in alarms_so_far(trainer.state.log_history).items():
        lines.append(("alarm", f"{name} in {count} log line{'' if count == 1 else 's'}, first at step {first}"))
    return lines


def next_commands(trainer: Summarized) -> list[tuple[str, str]]:
    """What can be done with the result: a name, and a command that works when it is pasted."""
    folder = str(trainer.output)
    found: list[tuple[str, str]] = []
    if trainer.stage == "reward":
        held_out = _held_out_rows(trainer.recipe.get("data", {}))
        if held_out:
            settings = [f"reward_model.path={folder}", f"reward_accuracy.pairs={held_out}", f"output_dir={folder}-eval"]
            found.append(("evaluate", _command("run_eval", "preferences", settings)))
    else:
        settings = [f"model.path={folder}", f"output_dir={folder}-eval", "limit=100"]
        found.append(("evaluate", _command("run_eval", "bfcl", settings)))
        code = (
            f'from transformers import pipeline; chat = pipeline("text-generation", {json.dumps(folder)}); '
            'print(chat([{"role": "user", "content": "What do bees make?"}], max_new_tokens=60)'
            '[0]["generated_text"][-1]["content"])'
        )
        found.append(("sample", f"{_python()} -c {shlex.quote(code)}"))
    if is_adapted(trainer.hugging_face_model):
        settings = [f"adapter={folder}", f"output_dir={folder}-merged"]
        found.append(("merge", _command("merge", "llama3.1-8b", settings)))
    settings = [f"checkpoint={folder}", f"hub.repo=me/{trainer.output.resolve().name}"]
    return [*found, ("publish", _command("publish", "default", settings))]


# Lines


_ATTENTION = {
    "segments": "segments: one call of PyTorch's attention for each prompt and each completion",
    "flex": "flex: one FlexAttention call for each layer",
}


def _parts(facts: Mapping[str, Any], model: ModelConfig) -> str:
    total, trained = facts["parameters"], facts["trained_parameters"]
    parts = [str(facts["family"]), f"{_count(total)} parameters"]
    if trained == total:
        parts.append("all trained")
    else:
        parts.append(f"{_count(trained)} trained ({trained / total:.2%})")
    if model.lora is not None:
        kind = "DoRA" if model.lora.use_dora else "LoRA"
        scaling = ", rsLoRA" if model.lora.use_rslora else ""
        parts.append(f"{kind} rank {model.lora.rank}, alpha {model.lora.alpha}{scaling}")
    if model.quantization is not None:
        parts.append(f"frozen weights in {model.quantization}")
    return ", ".join(parts)


def _precision(trainer: Summarized, facts: Mapping[str, Any]) -> str:
    """Types of weights and products, and why: `float32 weights, products in bfloat16 (NVIDIA H100 supports it)`."""
    products = {"bf16": "bfloat16", "fp32": facts["dtype"]}[facts["precision"]]
    return f"{facts['dtype']} weights, products in {products} ({_reason(trainer)})"


def _reason(trainer: Summarized) -> str:
    try:
        decision = kept(trainer.output)
    except AlignError:
        decision = None
    if decision is not None and decision.precision == trainer.model.precision:
        return decision.cause
    return "set by training.precision"


def _chat(protocol: ChatProtocol) -> str:
    return f"{protocol.name}: {protocol.template_summary}" if protocol.template_summary else protocol.name


def _data_lines(trainer: Summarized, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows that were read, dropped and kept."""
    record = _record(trainer.output / DROPPED)
    read = sum(source.get("read", 0) for source in record.get("sources", {}).values())
    dropped = dict(record.get("dropped", {}))
    held_out = dropped.pop(HELD_OUT, 0)
    names = ", ".join(record.get("sources", {})) or "rows"
    line = f"{facts['rows']:,} rows kept"
    if read:
        taken = f"{held_out:,} held out, " if held_out else ""
        line = f"{read:,} rows read, {taken}{sum(dropped.values()):,} dropped, {facts['rows']:,} kept"
    lines = [("data", f"{names}: {line}")]
    if dropped:
        most = sorted(dropped.items(), key=lambda each: -each[1])
        more = f", {len(most) - _SHOWN_REASONS} more reasons" if len(most) > _SHOWN_REASONS else ""
        lines.append(("dropped", ", ".join(f"{n:,} {why}" for why, n in most[:_SHOWN_REASONS]) + more))
    return lines


def _held_out(trainer: Summarized) -> list[tuple[str, str]]:
    """The held-out rows, if there are any."""
    if trainer.validation is None:
        return []
    rows, every = f"{len(trainer.validation.trees):,} rows", trainer.validation.every
    return [
        ("held out", f"{rows}, evaluated every {every:,} steps and after the last; best by {trainer.validation.metric}")
    ]


def _trains_on(trainer: Summarized) -> str:
    section = trainer.recipe.get(trainer.stage) or {}
    setting = {"sft": section.get("train_on", "final"), "dpo": section.get("mask_format_tokens", True)}
    text = TRAINS_ON.get((trainer.stage, setting.get(trainer.stage)), "")
    if trainer.stage == "dpo":
        text += f" (dpo.loss: {section['loss']}, beta {section['beta']:g})"
        if section["nll_coefficient"]:
            text += f", and {section['nll_coefficient']:g} times the negative log-likelihood of chosen"
    return text


def _batch(trainer: Summarized, facts: Mapping[str, Any]) -> str:
    processes, rows, plan = facts["processes"], facts["batch_size"], trainer.plan
    each = f"about {rows / processes:,.1f}" if rows % processes else f"{rows // processes:,}"
    spread = f"{processes} process{'' if processes == 1 else 'es'} x {each} rows"
    bins = len(plan.first_with_rows().bins)
    share = " on each process" if processes > 1 else ""
    packed = (
        f"{bins} packed row{'' if bins == 1 else 's'}{share} of up to {plan.token_budget:,} tokens in the first step"
    )
    return f"{rows:,} rows a step = {spread}; {packed}, {plan.filled_share():.0%} filled"


def steps_line(plan: RunPlan, step: int) -> str:
    """How many steps a run has, and how many are left after `step`, from which it resumes."""
    epochs = len(plan) / plan.steps_per_epoch
    line = f"{len(plan):,} ({_short(epochs)} epochs of {plan.steps_per_epoch:,} steps)"
    return line + (f"; {step:,} are done, {len(plan) - step:,} to go" if step else "")


def _tokens(trainer: Summarized, step: int) -> str:
    sizes = tree_numbers(trainer.trees, "tokens")
    total = trainer.plan.sum_to_step(sizes, len(trainer.plan))
    left = total - trainer.plan.sum_to_step(sizes, step)
    return f"{left:,} to go; {int(sizes.sum()):,} in an epoch, with prompts that completions share counted once"


def _rate(training: TrainingConfig) -> str:
    ends = {"cosine": f" to {training.min_learning_rate_ratio:.0%} of it", "linear": " to 0", "constant": ""}
    warmup = f"after {training.warmup_ratio:.0%} warm-up, " if training.warmup_ratio else ""
    return f"{training.learning_rate:g}, {warmup}{training.schedule}{ends[training.schedule]}"


def _device(arguments: TrainingArguments) -> str:
    if arguments.device.type == "cuda":
        return str(torch.cuda.get_device_name(arguments.device))
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _memory(trainer: Summarized) -> str:
    """`peak 3.1 GiB; 2.4 GiB for training, of which the planner expects 2.5 (4% more)`."""
    peak = f"peak {peak_memory():.1f} GiB"
    found = forecast(trainer)
    if found is None:
        return peak
    planned, measured = found.planned / 2**30, found.measured / 2**30
    side = "more" if found.error >= 0 else "less"
    return (
        f"{peak}; training took {measured:.2f} GiB, recipes/plan.py says {planned:.2f} ({abs(found.error):.0%} {side})"
    )


def _best(trainer: Summarized) -> str:
    """The best held-out value, by the evaluations that are in the state of the run; empty if there are none."""
    history = trainer.state.log_history
    step = next((entry["eval_best_step"] for entry in reversed(history) if "eval_best_step" in entry), None)
    metric = "eval_" + trainer.training.metric_for_best_model.removeprefix("eval_")
    values = [entry[metric] for entry in history if metric in entry and entry.get("step") == step]
    return f"{metric} {values[-1]:.4g} at step {step:,}" if values else ""


# Commands


def _held_out_rows(data: Mapping[str, Any]) -> str:
    """The held-out pairs of a run: `data.eval_path`, or the file that the builder puts next to `data.path`."""
    candidates = [data.get("eval_path"), _next_to(data.get("path"))]
    return next((each for each in candidates if isinstance(each, str) and Path(each).is_file()), "")


def _next_to(path: Any) -> str | None:
    """`preferences.jsonl` -> `preferences.heldout.jsonl`."""
    return str(Path(path).with_suffix("")) + ".heldout.jsonl" if isinstance(path, str) else None


def _command(recipe: str, config: str, settings: Sequence[str]) -> str:
    script = _shown(RECIPES / f"{recipe}.py")
    file = _shown(RECIPES / "configs" / recipe / f"{config}.yaml")
    return " ".join([_python(), script, file, *map(shlex.quote, settings)])


def _shown(path: Path) -> str:
    """A path relative to the current folder where it is inside it: a checkout shows `recipes/dpo.py`."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _python() -> str:
    """`python` where that is this interpreter, else its path."""
    found = shutil.which("python")
    same = found is not None and Path(found).parent.resolve() == Path(sys.executable).parent.resolve()
    return "python" if same else _shown(Path(sys.executable))


# Numbers


def _count(number: int) -> str:
    """134515008 -> 134.5M."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
