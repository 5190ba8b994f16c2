"""Is every damage to a checkpoint found and named, and the checkpoint before it used?

    python tests/torture/damage.py --seed 1 --cases 200

A run that was interrupted has checkpoint-2 and checkpoint-4. In each case one file of checkpoint-4 has one bit flipped,
is cut at a random place, or is deleted: every file in turn, MANIFEST.json included, of runs of SFT, DPO, a reward model
and LoRA, and of SFT on DeepSpeed ZeRO-3 with two processes. Then the same command must name the file, resume from
checkpoint-2, print no traceback, and end with the weights of a run that was never damaged. Prints a line of JSON, and
exits with 1 if a case failed. A short form is in tests/test_torture.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from align.jsonl import write_rows  # noqa: E402
from align.manifest import SEAL  # noqa: E402
from align.rows import Message, PreferenceRow, SFTRow  # noqa: E402
from align.settings import (  # noqa: E402
    LoRAConfig,
    ModelConfig,
    PreferenceDataConfig,
    TrainingConfig,
    TreeDataConfig,
)
from tests.processes import ZERO3, Started  # noqa: E402

KINDS = ("sft", "dpo", "reward", "lora", "zero3")
DAMAGES = ("flip", "cut", "delete")
NEWEST, BEFORE = "checkpoint-4", "checkpoint-2"
SETTINGS = {"batch_size": 4, "epochs": 2, "save_steps": 2, "learning_rate": 1e-3, "precision": "fp32", "checks": False}
"""Six steps of 12 rows."""


class Case(NamedTuple):
    kind: str
    file: str
    """In the folder of the checkpoint."""
    damage: str


class Interrupted(NamedTuple):
    """A run that was interrupted after the save of step 4."""

    kind: str
    output: Path
    weights: bytes
    """Of a run that was not."""

    @property
    def files(self) -> list[str]:
        folder = self.output / NEWEST
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def write_data(folder: Path) -> None:
    """Rows of SFT and pairs."""
    questions = [Message(role="user", content=f"What is the capital of land {n}?") for n in range(12)]
    good, bad = ([Message(role="assistant", content=f"{word} {n}.") for n in range(12)] for word in ("City", "Town"))
    turns = enumerate(zip(questions, good, bad, strict=True))
    pairs = [PreferenceRow(id=f"r{n}", source="t", prompt=(q,), completions=((a,), (b,))) for n, (q, a, b) in turns]
    write_rows(folder / "pairs.jsonl", pairs)
    rows = [SFTRow(id=row.id, source="t", messages=(*row.prompt, *row.completions[0])) for row in pairs]
    write_rows(folder / "rows.jsonl", rows)


def train(kind: str, checkpoint: Path, data: Path, output: Path) -> Path:
    """In this process."""
    from recipes import dpo, reward, sft

    training = TrainingConfig(output_dir=output, **SETTINGS)
    model = ModelConfig(path=checkpoint, lora=LoRAConfig(rank=4, alpha=8) if kind == "lora" else None)
    pairs = PreferenceDataConfig(path=data / "pairs.jsonl")
    if kind == "dpo":
        return dpo.run(dpo.DPORecipe(model=model, data=pairs, training=training))
    if kind == "reward":
        return reward.run(reward.RewardRecipe(model=model, data=pairs, training=training))
    return sft.run(sft.SFTRecipe(model=model, data=TreeDataConfig(path=data / "rows.jsonl"), training=training))


def command(checkpoint: Path, data: Path, output: Path) -> list[str]:
    """SFT on two processes."""
    config = output.parent / "zero3.yaml"
    settings = ", ".join(f"{name}: {json.dumps(value)}" for name, value in SETTINGS.items())
    config.write_text(
        f"model: {{path: {checkpoint}}}\ndata: {{path: {data / 'rows.jsonl'}}}\n"
        f"training: {{output_dir: here, {settings}}}\n"
    )
    return [*ZERO3, "recipes/sft.py", str(config), f"training.output_dir={output}"]


def interrupted(kind: str, checkpoint: Path, data: Path, folder: Path) -> Interrupted:
    """Train two runs, one to the end and the other until it is interrupted."""
    from tests import conftest

    alone, output = folder / f"{kind}-alone", folder / f"{kind}-interrupted"
    if kind == "zero3":
        ended = Started(command(checkpoint, data, alone))
        assert ended.wait() == 0, ended.output[-3000:]
        started = Started(command(checkpoint, data, output))
        started.wait_for((output / NEWEST / SEAL).exists)
        started.kill()
        shutil.rmtree(output / "checkpoint-6", ignore_errors=True)
    else:
        train(kind, checkpoint, data, alone)
        with conftest.left_unfinished.__wrapped__()():
            train(kind, checkpoint, data, output)
        shutil.rmtree(output / "checkpoint-6", ignore_errors=True)
    assert (output / BEFORE / SEAL).exists()
    assert (output / NEWEST / SEAL).exists()
    return Interrupted(kind, output, weights(alone))


def weights(output: Path) -> bytes:
    """Of a finished run: a model's, or an adapter's."""
    (file,) = output.glob("*model.safetensors")
    return file.read_bytes()


def cases_of(runs: dict[str, Interrupted], count: int, rng: random.Random) -> list[Case]:
    """Every file of every run with every damage, then the same again. Of ZeRO-3, which takes longer, each file once."""
    slow = [Case(kind, file, rng.choice(DAMAGES)) for kind in runs if kind == "zero3" for file in runs[kind].files]
    quick = [
        Case(kind, file, each) for kind in runs if kind != "zero3" for file in runs[kind].files for each in DAMAGES
    ]
    rng.shuffle(quick)
    found = slow[:count]
    while len(found) < count:
        found += (quick or slow)[: count - len(found)]
    return found


def do_damage(file: Path, damage: str, rng: random.Random) -> str:
    """Returns what was done."""
    if damage == "delete":
        file.unlink()
        return "deleted"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        size = rng.randrange(len(content))
        file.write_bytes(content[:size])
        return f"cut to {size} of {len(content)} bytes"
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {place} flipped"


@contextmanager
def listening() -> Iterator[list[str]]:
    """What is logged in the block."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener()
    logging.getLogger("align").addHandler(listener)
    try:
        yield said
    finally:
        logging.getLogger("align").removeHandler(listener)


def fault_in(case: Case, run: Interrupted, checkpoint: Path, data: Path, output: Path, rng: random.Random) -> str:
    """Damage a copy of the run, and start it again. Returns what is wrong; empty if it did as it should."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(run.output, output)
    done = do_damage(output / NEWEST / case.file, case.damage, rng)
    if case.kind == "zero3":
        started = Started(command(checkpoint, data, output))
        started.wait()
        said = started.output
    else:
        with listening() as lines:
            try:
                train(case.kind, checkpoint, data, output)
            except Exception:
                lines.append(traceback.format_exc())
        said = "\n".join(lines)
    name = NEWEST if case.damage == "delete" and case.file == SEAL else f"{NEWEST}/{case.file}"
    wrong = [] if any("passing over" in line and name in line for line in said.splitlines()) else ["not named"]
    wrong += [] if f"resuming from {output / BEFORE}" in said else [f"not resumed from {BEFORE}"]
    wrong += ["a traceback"] if "Traceback" in said else []
    wrong += ["not finished"] if not (output / SEAL).exists() else []
    wrong += ["other weights"] if (output / SEAL).exists() and weights(output) != run.weights else []
    return f"{case.kind}, {case.file} {done}: {', '.join(wrong)}: {said[-500:]}" if wrong else ""


def damages(kinds: tuple[str, ...], count: int, seed: int, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Damage checkpoints of runs of these kinds."""
    rng = random.Random(seed)
    write_data(folder)
    runs = {kind: interrupted(kind, checkpoint, folder, folder) for kind in kinds}
    cases = cases_of(runs, count, rng)
    failures = []
    for number, case in enumerate(cases, start=1):
        fault = fault_in(case, runs[case.kind], checkpoint, folder, folder / f"{case.kind}-damaged", rng)
        failures += [fault] if fault else []
        print(f"{number}/{len(cases)}  {fault or case}", file=sys.stderr, flush=True)
    files = len({(case.kind, case.file) for case in cases})
    counted = Counter(case.damage for case in cases)
    return {"test": "damaged checkpoints", "tried": len(cases), "files": files, "failures": failures, **counted}


def main() -> None:
    from tests.torture.stops import tiny_checkpoint

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="align-damage-") as name:
        checkpoint = tiny_checkpoint(Path(name))
        result = damages(tuple(arguments.kinds), arguments.cases, arguments.seed, checkpoint, Path(name))
    print(json.dumps(result), flush=True)
    raise SystemExit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
