"""Decides what `precision: auto` and `dtype: auto` mean on this machine, once per run.

bfloat16 is chosen on a CUDA device that supports it, and on a CPU that has the instructions if a short trial shows that
they are faster. Without the instructions a CPU emulates bfloat16, usually 20 times slower. Otherwise float32 is chosen.

A decision is kept with what is made with it, and the config that a run works with holds the value in place of `auto`,
so that manifests, keys and caches name it and a later start does not decide again:

    1. a checkpoint in the output folder: its run continues with the precision that its manifest names
    2. `.precision.json` in the output folder, or in the folder of the rounds, which pass it to their stages
    3. the environment variable ALIGN_PRECISION, fp32 or bf16
    4. the device and the trial
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from align.config import Section
from align.errors import ConfigError
from align.files import write_text
from align.hardware import BF16_INSTRUCTIONS, cpu_instructions, describe
from align.manifest import SEAL
from align.reporting import logger

log = logger(__name__)

Precision = Literal["fp32", "bf16"]
AUTO = "auto"
DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16"}
"""What the weights of a model that samples or scores are held in."""

VARIABLE = "ALIGN_PRECISION"
RECORD = ".precision.json"
"""Hidden, so that it is no part of a folder's fingerprint: what the trial measured differs from start to start."""

TRIAL_SECONDS = 0.5
NEEDED_SPEEDUP = 1.1
"""bfloat16 costs accuracy, so it has to be faster by more than a trial's noise."""

S = TypeVar("S", bound=Section)


_EARLIER = "; as decided earlier"


@dataclass(frozen=True)
class Decision:
    """What `auto` means here, and why."""

    precision: Precision
    reason: str

    @property
    def dtype(self) -> str:
        return DTYPES[self.precision]

    @property
    def cause(self) -> str:
        """The reason without where the decision is kept."""
        return self.reason.partition(_EARLIER)[0]


def resolved(config: S, folder: Path | None = None) -> S:
    """`config` with every precision and dtype that is `auto` replaced. One log line says by what, and why.

    In a recipe that trains, model.dtype becomes float32: the master weights. All processes of a launch get the first
    one's decision; call it when they have met, which is after `training_arguments`.

    folder: the output folder of the run, in which a decision is kept and looked for; None keeps none.
    """
    _warn_of_emulation(config)
    if not _left_open(config):
        return cast(S, _replaced(config, None, _trains(config)))
    decision = _agreed(lambda: _looked_up(folder))
    log.info("precision: %s (%s)", decision.precision, decision.reason)
    return cast(S, _replaced(config, decision, _trains(config)))


def automatic(config: Section) -> dict[str, str]:
    """Dotted key -> `precision` or `dtype`, of every such setting that is `auto`."""
    return {".".join(map(str, key)): str(key[-1]) for key, value in _settings(config, ()) if value == AUTO}


def overrides(config: Section, precision: str) -> list[str]:
    """`key=value` for each setting that `resolved` would decide: how rounds give their decision to a stage."""
    values = {"precision": precision, "dtype": DTYPES[cast(Precision, precision)]}
    return [f"{key}={values[name]}" for key, name in _left_open(config).items()]


def decided(folder: Path) -> Decision:
    """The decision kept in `folder`; if there is none, one that is made and kept now."""
    decision = kept(folder)
    if decision is None:
        decision = decide()
        text = {"precision": decision.precision, "reason": decision.reason, "hardware": describe()}
        write_text(folder / RECORD, json.dumps(text, indent=1) + "\n")
    return decision


def kept(folder: Path) -> Decision | None:
    """The decision kept in `folder`; None if there is none. Raises ConfigError for a damaged one. Imports no torch."""
    record = folder / RECORD
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        precision, reason = found["precision"], str(found["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"cannot be read ({type(error).__name__})"
        raise ConfigError(record, what, "Delete the file: the next start decides again") from None
    if precision not in DTYPES:
        raise ConfigError(record, f"names the precision {precision!r}", "Delete the file: the next start decides again")
    return Decision(precision, f"{reason}{_EARLIER}, see {record}")


def resolved_precision(value: str) -> str:
    """`value`, or the decision if it is `auto`. For callers without a recipe's config."""
    return decide().precision if value == AUTO else value


def resolved_dtype(value: str) -> str:
    """`value`, or the decision's dtype if it is `auto`."""
    return decide().dtype if value == AUTO else value


@functools.cache
def decide() -> Decision:
    """What this process and this machine say, without a look at any folder. The same for the life of the process."""
    named = os.environ.get(VARIABLE, AUTO)
    if named in DTYPES:
        return Decision(named, f"{VARIABLE} is set")
    if named not in ("", AUTO):
        raise ConfigError(VARIABLE, f"must be fp32, bf16 or auto, got {named!r}", "Set one of them, or unset it")
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if cuda_has_bf16():
            return Decision("bf16", f"{name} supports it")
        return Decision("fp32", f"{name} has no bfloat16 arithmetic")
    instruction = bf16_instruction()
    if instruction is None:
        known = " ".join(cpu_instructions()) or "none that we know"
        return Decision("fp32", f"this CPU has no bfloat16 instructions: {known}")
    speedup = trial()
    measured = f"{instruction}; in a trial bf16 was {speedup:.1f} times as fast as fp32"
    return Decision("bf16" if speedup >= NEEDED_SPEEDUP else "fp32", measured)


def bf16_instruction() -> str | None:
    """The fastest bfloat16 instructions that this CPU has; None if it has none."""
    return next((name for name in BF16_INSTRUCTIONS if name in cpu_instructions()), None)


def cuda_has_bf16() -> bool:
    """Whether the GPU computes with bfloat16 itself; `is_bf16_supported` counts emulation too unless asked not to."""
    import torch

    try:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    except TypeError:  # ROCm builds and old versions take no argument
        return bool(torch.cuda.is_bf16_supported())


def trial(seconds: float = TRIAL_SECONDS, tokens: int = 512) -> float:
    """How many times as fast as float32 a bfloat16 pass is on this CPU.

    Forward and backward passes of one layer of a small model (576 wide, SmolLM2-135M's shapes), in turns
    until the time is up. The fastest of each counts, in processor seconds of one thread: so the answer does not depend
    on what else the machine does. With two threads on two cores next to eight busy processes five trials gave 0.7 to
    1.4, with one thread 1.6 to 1.9.
    """
    import torch
    from torch.nn import functional

    from align.cpu_matmul import use_onednn

    use_onednn()  # as when a model is loaded
    width, inner, heads = 576, 1536, 9
    generator = torch.Generator().manual_seed(0)  # the run's own random numbers stay as they are
    shapes = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
    weights = [torch.randn(shape, generator=generator).mul_(0.02).requires_grad_() for shape in shapes]
    states = torch.randn((tokens, width), generator=generator)

    def once(precision: Precision) -> float:
        began = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            queries, keys, values = (states @ weights[0]).view(1, tokens, 3, heads, -1).unbind(2)
            mixed = functional.scaled_dot_product_attention(
                queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), is_causal=True
            )
            attended = states + mixed.transpose(1, 2).reshape(tokens, width) @ weights[1]
            out = attended + functional.silu(attended @ weights[2]) @ weights[3]
        torch.autograd.grad(out.float().square().mean(), weights)
        return time.thread_time() - began

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the backward pass of CPU tensors runs in this thread too
    try:
        until = time.perf_counter() + seconds
        fastest: dict[Precision, float] = {}
        for precision in DTYPES:
            fastest[precision] = once(precision)  # compiles kernels, so it counts only if there is no second pass
        while time.perf_counter() < until:
            for precision in DTYPES:
                fastest[precision] = min(fastest[precision], once(precision))
    finally:
        torch.set_num_threads(threads)
    return fastest["fp32"] / fastest["bf16"]


def _left_open(config: Section) -> dict[str, str]:
    """`automatic`, but without the dtype of a model that is trained, which is always float32."""
    fields = automatic(config)
    return {key: name for key, name in fields.items() if name == "precision" or not _trains(config)}


def _looked_up(folder: Path | None) -> Decision:
    if folder is None:
        return decide()
    return _of_checkpoints(folder) or decided(folder)


def _of_checkpoints(folder: Path) -> Decision | None:
    """The precision of the newest checkpoint in an output folder, of the finished model first."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    numbered.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)
    for checkpoint in (folder, *numbered):
        try:
            manifest = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
            found = manifest["config"]["training"]["precision"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no checkpoint, or a damaged one, which the trainer passes over too
        if found in DTYPES:
            return Decision(found, f"as recorded in {checkpoint / SEAL}")
    return None


def _agreed(question: Callable[[], Decision]) -> Decision:
    """The first process's answer, or its error, on all of them."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return question()
    answer: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            answer[0] = question()
        except (ConfigError, OSError) as error:
            answer[1] = error
    distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return cast(Decision, answer[0])


def _warn_of_emulation(config: Section) -> None:
    """Say what bfloat16 that a config asks for costs on a CPU that only emulates it."""
    explicit = [".".join(map(str, key)) for key, value in _settings(config, ()) if value in ("bf16", "bfloat16")]
    if not explicit or bf16_instruction() is not None or os.environ.get("RANK", "0") != "0":
        return
    import torch

    if not torch.cuda.is_available():
        what = "%s: bfloat16, which this CPU emulates: in a trial %.0f times slower than float32. auto takes float32"
        log.warning(what, " and ".join(explicit), 1 / trial(tokens=64))


def _trains(config: Section) -> bool:
    return "precision" in getattr(type(getattr(config, "training", None)), "model_fields", {})


def _settings(value: Any, key: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(key, value) of every setting that is called precision or dtype."""
    if isinstance(value, Section):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if name in ("precision", "dtype"):
                yield (*key, name), inner
            else:
                yield from _settings(inner, (*key, name))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _settings(inner, (*key, name))
    elif isinstance(value, tuple | list):
        for place, inner in enumerate(value):
            yield from _settings(inner, (*key, place))


def _replaced(value: Any, decision: Decision | None, trains: bool) -> Any:
    """`value` with `auto` replaced in it; what has none is returned itself."""
    if isinstance(value, Section):
        changed: dict[str, Any] = {}
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if name == "precision" and inner == AUTO and decision is not None:
                changed[name] = decision.precision
            elif name == "dtype" and inner == AUTO:
                changed[name] = "float32" if trains or decision is None else decision.dtype
            elif (new := _replaced(inner, decision, trains)) is not inner:
                changed[name] = new
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, dict):
        new_dict = {name: _replaced(inner, decision, trains) for name, inner in value.items()}
        return new_dict if any(new_dict[name] is not inner for name, inner in value.items()) else value
    if isinstance(value, tuple):
        new_tuple = tuple(_replaced(inner, decision, trains) for inner in value)
        return new_tuple if any(new is not old for new, old in zip(new_tuple, value, strict=True)) else value
    return value


if __name__ == "__main__":  # `python -m align.precision FOLDER`: rounds decide in a process that brings torch and ends
    warnings.simplefilter("ignore")
    decided(Path(sys.argv[1]))
