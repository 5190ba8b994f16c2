"""Are faulty steps found, and are clean ones left alone?

    python tests/torture/guards.py --seed 1 --faults 30 --steps 1000

Each fault is injected into a short SFT run of a two-layer model at a random step: a loss or a gradient that is not
finite or too large, a flipped bit in a gradient, in a weight, or in a hidden state of a probe. It is found if the run
names that step, as suspected corruption or in skipped.json. Then a run of 1,000 clean steps must have no roll-back, no
suspicion and no alarm. Prints a line of JSON for each part, and exits with 1 if one fails. Short forms are in
tests/align/trainers/test_guards.py.

What is not injected, because it cannot be seen: flips that change a value little, such as one in the last bits of a
weight, or one that makes a weight smaller.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from align.errors import CorruptionError  # noqa: E402
from align.jsonl import write_rows  # noqa: E402
from align.rows import Message, SFTRow  # noqa: E402
from align.settings import GuardsConfig, ModelConfig, TrainingConfig, TreeDataConfig  # noqa: E402
from align.trainers.rollbacks import read_rollbacks  # noqa: E402

ROWS, STEPS, WARMUP, PROBE_STEPS = 64, 40, 20, 5
SAVE_STEPS = 10
HIGHEST_EXPONENT_BIT = 30
"""Of a float32: a value between -2 and 2 becomes about 1e38 times as large."""


class Fault(NamedTuple):
    """One fault to inject."""

    kind: str
    """loss, gradient: multiplied by `factor`, however often the step is computed. gradient bit: a bit of one gradient
    is flipped, once. weight bit: a bit of one weight is flipped before the step. probe bit: a bit of a hidden state is
    flipped in one pass of a probe."""
    step: int
    factor: float = 1.0
    bit: int = HIGHEST_EXPONENT_BIT


class Outcome(NamedTuple):
    """How a run with a fault ended."""

    found: str
    """corruption, rolled back, or nothing."""
    said: str


def faults_of(count: int, rng: random.Random) -> list[Fault]:
    """Faults of every kind in turn, each at a step of its own."""
    kinds: list[tuple[str, Sequence[float]]] = [
        ("loss", (math.nan, math.inf, 1e2, 1e4, 1e8)),
        ("gradient", (math.nan, -math.inf, 1e3, 1e5, 1e8)),
        ("gradient bit", (1.0,)),
        ("weight bit", (1.0,)),
        ("probe bit", (1.0,)),
    ]
    found = []
    for place in range(count):
        kind, factors = kinds[place % len(kinds)]
        step = rng.randrange(WARMUP + 5, STEPS)
        if kind == "probe bit":
            step -= (step - 1) % PROBE_STEPS  # the step that a probe comes before
            found.append(Fault(kind, step, bit=rng.randrange(20, 31)))
        else:
            found.append(Fault(kind, step, factors[place // len(kinds) % len(factors)]))
    return found


def flip(values: torch.Tensor, place: int, bit: int) -> None:
    """Flip one bit of a float32 tensor in place. bit: from 0, the lowest of the mantissa, to 31, the sign."""
    flat = values.detach().view(-1)
    one = flat[place : place + 1].view(torch.int32)
    one ^= torch.tensor([-(2**31) if bit == 31 else 2**bit], dtype=torch.int32)


@contextmanager
def injected(fault: Fault, rng: random.Random) -> Iterator[None]:
    """In the block, SFT trainings have the fault."""
    from align.trainers.gradients import Gradients
    from align.trainers.probe import Probe
    from align.trainers.sft import SFTTrainer

    honest_loss, honest_compute, honest_check = SFTTrainer.batch_loss, Gradients.compute, Probe.check
    done: list[str] = []

    def a_weight(trainer: Any) -> nn.Parameter:
        return rng.choice([each for each in trainer.hugging_face_model.parameters() if each.dim() > 1])

    def batch_loss(self: Any, *arguments: Any) -> torch.Tensor:
        loss = honest_loss(self, *arguments)
        if self.state.global_step + 1 != fault.step:
            return loss
        if fault.kind == "loss":
            return loss * fault.factor
        if fault.kind == "gradient":
            loss.register_hook(lambda gradient: gradient * fault.factor)
        return loss

    def compute(self: Any, *arguments: Any) -> Any:
        here = self.trainer.state.global_step + 1 == fault.step and not done
        if here and fault.kind == "weight bit":
            done.append(fault.kind)
            weight = a_weight(self.trainer)
            flip(weight, rng.randrange(weight.numel()), fault.bit)
        losses = honest_compute(self, *arguments)
        if here and fault.kind == "gradient bit":
            done.append(fault.kind)
            gradient = a_weight(self.trainer).grad
            assert gradient is not None
            flip(gradient, int(gradient.abs().argmax()), fault.bit)
        return losses

    def check(self: Any, model: nn.Module) -> None:
        if fault.kind != "probe bit" or self.trainer.state.global_step + 1 != fault.step:
            return honest_check(self, model)
        layer = self.trainer.hugging_face_model.model.layers[0]

        def spoil(module: nn.Module, inputs: Any, output: Any) -> None:
            if not done:
                done.append(fault.kind)
                states = output[0] if isinstance(output, tuple) else output
                flip(states, int(states.abs().argmax()), fault.bit)

        handle = layer.register_forward_hook(spoil)
        try:
            return honest_check(self, model)
        finally:
            handle.remove()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTTrainer, "batch_loss", batch_loss)
        patch.setattr(Gradients, "compute", compute)
        patch.setattr(Probe, "check", check)
        yield


def write_data(path: Path, seed: int) -> Path:
    """Rows of which no two are equal."""
    rng = random.Random(seed)
    words = ["capital", "France", "Italy", "river", "Paris", "Rome", "answer", "short", "sentence", "know", "guess"]

    def say() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 12)))

    turns = [(Message(role="user", content=say()), Message(role="assistant", content=say())) for _ in range(ROWS)]
    write_rows(path, [SFTRow(id=f"r{n}", source="torture", messages=each) for n, each in enumerate(turns)])
    return path


def train(checkpoint: Path, data: Path, output: Path, steps: int, **guards: Any) -> Path:
    """A run of `steps` steps of eight rows, with a checkpoint every ten."""
    from recipes import sft

    training = TrainingConfig(
        output_dir=output, batch_size=8, epochs=1000, max_steps=steps, save_steps=SAVE_STEPS, learning_rate=1e-4,
        precision="fp32", checks=False, guards=GuardsConfig(spike_warmup=WARMUP, **guards),
    )  # fmt: skip
    recipe = sft.SFTRecipe(model=ModelConfig(path=checkpoint), data=TreeDataConfig(path=data), training=training)
    return sft.run(recipe)


def outcome_of(fault: Fault, checkpoint: Path, data: Path, output: Path, rng: random.Random) -> Outcome:
    """Train with one fault."""
    try:
        with injected(fault, rng):
            train(checkpoint, data, output, STEPS, probe_steps=PROBE_STEPS)
    except CorruptionError as error:
        return Outcome("corruption", str(error))
    rollbacks = read_rollbacks(output)
    if not rollbacks:
        return Outcome("nothing", "")
    return Outcome("rolled back", f"step {rollbacks[0].step}: {rollbacks[0].cause}")


def is_found(fault: Fault, outcome: Outcome) -> bool:
    """Whether the outcome is the right one, and names the step."""
    expected = "corruption" if fault.kind in ("gradient bit", "probe bit") else "rolled back"
    steps = [fault.step - 1 if fault.kind == "probe bit" else fault.step]  # a probe is after the step before
    if fault.kind == "weight bit":  # seen in the loss, or when the weights are to be saved
        steps += range(fault.step + 1, -(-fault.step // SAVE_STEPS) * SAVE_STEPS + 1)
    return outcome.found == expected and any(outcome.said.startswith(f"step {step}:") for step in steps)


def false_alarms(checkpoint: Path, data: Path, output: Path, steps: int) -> list[str]:
    """Every suspicion, roll-back and alarm of a clean run, with a probe every ten steps."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "alarm" in record.getMessage():
                found.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("align").addHandler(listener)
    try:
        train(checkpoint, data, output, steps, probe_steps=10)
    except CorruptionError as error:
        found.append(str(error))
    finally:
        logging.getLogger("align").removeHandler(listener)
    return [*found, *(f"step {each.step}: {each.cause}" for each in read_rollbacks(output))]


def run_faults(count: int, rng: random.Random, checkpoint: Path, data: Path, folder: Path) -> dict[str, Any]:
    """Inject faults one after the other."""
    missed = []
    for number, fault in enumerate(faults_of(count, rng)):
        outcome = outcome_of(fault, checkpoint, data, folder / f"fault-{number}", rng)
        if not is_found(fault, outcome):
            missed.append(f"{fault}: {outcome}")
    return {"test": "injected NaN, spikes, flips", "cases": count, "found": count - len(missed), "failures": missed}


def run_clean(steps: int, checkpoint: Path, data: Path, folder: Path) -> dict[str, Any]:
    """Clean steps."""
    found = false_alarms(checkpoint, data, folder / "clean", steps)
    return {"test": "false alarms in clean steps", "steps": steps, "failures": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--steps", type=int, default=1000, help="clean ones")
    arguments = parser.parse_args()
    from tests import conftest

    with tempfile.TemporaryDirectory(prefix="align-guards-") as name:
        folder = Path(name)
        checkpoint = conftest._saved(conftest.chatml_tokenizer.__wrapped__(), folder / "tiny")
        data = write_data(folder / "rows.jsonl", arguments.seed)
        parts: list[Callable[[], dict[str, Any]]] = [
            lambda: run_faults(arguments.faults, random.Random(arguments.seed), checkpoint, data, folder),
            lambda: run_clean(arguments.steps, checkpoint, data, folder),
        ]
        results = []
        for part in parts:
            results.append({**part(), "seed": arguments.seed})
            print(json.dumps(results[-1]), flush=True)
    raise SystemExit(1 if any(result["failures"] for result in results) else 0)


if __name__ == "__main__":
    main()
