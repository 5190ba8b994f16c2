"""Do runs that are asked to stop, that find no disk space or that are killed leave what the next start can use?

    python tests/torture/stops.py --seed 1 --stops 20 --sizes 20 --seconds 600

SIGTERM at random moments of every part of a DPO run; a disk that is full in the middle of a save; the effective
training time of a run that is killed again and again. The disk is a small tmpfs, which needs root to be mounted;
without it, `--disk FOLDER` names a folder on a small file system, or that part is left out. Prints a line of JSON for
each part, and exits with 1 if one fails. Short forms are in tests/align/trainers/test_stops.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from align.effective_time import effective_time_of  # noqa: E402
from align.jsonl import write_rows  # noqa: E402
from align.manifest import is_whole  # noqa: E402
from align.rows import Message, PreferenceRow  # noqa: E402
from tests.processes import PYTHON, Started, run  # noqa: E402
from tests.torture.slowed import PARTS  # noqa: E402

SLOWED = "tests/torture/slowed.py"
STEPS = 12
SIGTERM_CODE = 143


def stop_in(
    part: str, arguments: list[str], folder: Path, seconds: float, *, after: float = 0.0, **environment: str
) -> Started:
    """Start a training by recipes/dpo.py, and send it SIGTERM in a part of it, which takes `seconds` longer.

    folder: for a file that says when the part has begun. after: seconds from then to the signal.
    Returns the process, which has ended; one that is not asked to stop in time because it has ended before is returned
    too.
    """
    started, reached = start_slowed(part, arguments, folder, seconds, **environment)
    while not reached.exists() and started.poll() is None:
        time.sleep(0.01)
    if started.poll() is None:
        time.sleep(after)
        started.terminate()
    started.wait(seconds + 120)
    return started


def start_slowed(
    part: str, arguments: list[str], folder: Path, seconds: float, **environment: str
) -> tuple[Started, Path]:
    """Start a training in which a part takes longer. Returns the process, and the file that says that it has begun."""
    reached = folder / f"reached-{part.replace(' ', '-')}"
    reached.unlink(missing_ok=True)
    words = [SLOWED if word == "recipes/dpo.py" else word for word in arguments]
    slowed = {"SLOWED": part, "SLOWED_SECONDS": str(seconds), "SLOWED_REACHED": str(reached)}
    return Started(words, **slowed, **environment), reached


def debris(output: Path) -> list[str]:
    """Names of temporary files in a folder, and of checkpoints that are not sealed."""
    found = [file.name for file in output.rglob("*") if file.name.endswith((".part", ".tmp"))]
    return found + [folder.name for folder in output.glob("checkpoint-*") if not (folder / "MANIFEST.json").exists()]


def write_pairs(path: Path, count: int) -> None:
    """Rows to train on."""
    prompts = [(Message(role="user", content=f"What is the capital of {n}?"),) for n in range(count)]
    answers = [[(Message(role="assistant", content=f"{word} {n}."),) for word in "ab"] for n in range(count)]
    rows = [
        PreferenceRow(id=f"p{n}", source="test", prompt=prompt, completions=tuple(both))
        for n, (prompt, both) in enumerate(zip(prompts, answers, strict=True))
    ]
    write_rows(path, rows)


def command(checkpoint: Path, pairs: Path, output: Path, start: Sequence[str], *extra: str) -> list[str]:
    """DPO in steps of two pairs, with a checkpoint and an evaluation at every second step."""
    config = output.parent / "dpo.yaml"
    config.write_text(
        f"model: {{path: {checkpoint}}}\n"
        f"data: {{path: {pairs}, eval_path: {pairs}}}\n"
        "dpo: {reference_shard_steps: 1}\n"
        "training: {output_dir: here, batch_size: 2, epochs: 1, save_steps: 2, learning_rate: 1e-4, precision: fp32,\n"
        "           checks: false}\n"
    )
    return [*start, "recipes/dpo.py", str(config), f"training.output_dir={output}", *extra]


def tiny_checkpoint(folder: Path) -> Path:
    """A two-layer Llama of random weights with the tokenizer of the tests."""
    from tests import conftest

    return conftest._saved(conftest.chatml_tokenizer.__wrapped__(), folder / "tiny")


# SIGTERM


def stops(count: int, rng: random.Random, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """SIGTERM at random moments. Runs that are finished are compared with one that was left alone."""
    pairs = folder / "pairs.jsonl"
    write_pairs(pairs, 2 * STEPS)
    extra = "training.checks=true"
    alone = folder / "alone"
    run(command(checkpoint, pairs, alone, [PYTHON], extra))
    failures: list[str] = []
    output, number = folder / "run-0", 0
    for trial in range(count):
        part = list(PARTS)[trial % len(PARTS)]
        after = rng.uniform(0, 1.5)
        arguments = command(checkpoint, pairs, output, [PYTHON], extra)
        stopped = stop_in(part, arguments, folder, 1.5, after=after)
        said = f"{part} after {after:.2f} s: "
        if stopped.poll() not in (SIGTERM_CODE, 0):
            failures.append(f"{said}code {stopped.poll()}: {stopped.output[-300:]}")
        if left := debris(output):
            failures.append(f"{said}left {left}")
        if broken := [each.name for each in output.glob("checkpoint-*") if not is_whole(each)]:
            failures.append(f"{said}{broken} not whole")
        if rng.random() < 0.3 or trial == count - 1 or (output / "MANIFEST.json").exists():
            run(command(checkpoint, pairs, output, [PYTHON], extra))
            if (output / "model.safetensors").read_bytes() != (alone / "model.safetensors").read_bytes():
                failures.append(f"{said}another model than that of a run that was left alone")
            number += 1
            output = folder / f"run-{number}"
    return {"test": "SIGTERM at random moments", "tried": count, "failures": failures}


# A full disk


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A tmpfs of this size, mounted in `folder` for the block; None where it cannot be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    """Use up the disk but for `left` bytes."""
    free = shutil.disk_usage(disk).free
    with (disk / "filler").open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(free - left, 1))


def full_disk(rooms: Sequence[float], checkpoint: Path, folder: Path, disk: Path) -> dict[str, Any]:
    """The disk becomes full in the save of step 4. rooms: each a ratio of a checkpoint for which there is room."""
    pairs = folder / "pairs.jsonl"
    write_pairs(pairs, 2 * 6)
    alone = folder / "alone-disk"
    run(command(checkpoint, pairs, alone, [PYTHON]))
    failures = []
    for room in rooms:
        output = disk / "run"
        arguments = command(checkpoint, pairs, output, [PYTHON])
        started, reached = start_slowed("disk check", arguments, folder, 0.5)
        started.wait_for(reached.exists)
        whole = sum(file.stat().st_size for file in (output / "checkpoint-2").rglob("*") if file.is_file())
        fill(disk, round(whole * room))
        code = started.wait()
        said = f"room for {room:.0%} of a checkpoint: "
        if code != 1 or "Traceback" in started.output or "cannot be written" not in started.output:
            failures.append(f"{said}code {code}: {started.output[-300:]}")
        if not is_whole(output / "checkpoint-2") or debris(output):
            failures.append(f"{said}checkpoint-2 is whole: {is_whole(output / 'checkpoint-2')}, left {debris(output)}")
        (disk / "filler").unlink()
        run(arguments)
        if (output / "model.safetensors").read_bytes() != (alone / "model.safetensors").read_bytes():
            failures.append(f"{said}another model than that of a run that was left alone")
        for path in disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {"test": "disk full in the middle of a save", "tried": len(rooms), "failures": failures}


# Effective training time


def killed_again_and_again(seconds: float, every: float, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """A run of about `seconds` of steps, of 0.25 s each and saved every tenth, that is killed every `every` seconds.

    Its processes are started as users start them, so that start-up is what it is.
    """
    pairs, output = folder / "long.jsonl", folder / "long"
    steps = round(seconds / 0.25)
    write_pairs(pairs, 8)
    settings = [f"training.max_steps={steps}", "training.epochs=9999", "training.save_steps=10", "data.eval_path=null"]
    arguments = command(checkpoint, pairs, output, [PYTHON], *settings)
    words = [SLOWED if word == "recipes/dpo.py" else word for word in arguments]
    slowed = {"SLOWED": "every step", "SLOWED_SECONDS": "0.25", "SLOWED_REACHED": str(folder / "reached")}
    kills = 0
    began = time.time()
    while True:
        started = Started(words, real=True, **slowed)
        deadline = time.monotonic() + every
        while started.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if started.poll() is not None:
            break
        started.kill()
        kills += 1
    found = effective_time_of(output)
    failures = [] if started.poll() == 0 else [started.output[-500:]]
    if found is None or found.ratio < 0.9 or found.killed != kills:
        failures.append(f"{found}")
    measured = time.time() - began
    if found is not None and not 0.9 * measured < found.elapsed <= measured + 1:
        failures.append(f"{found.elapsed:.1f} s recorded, {measured:.1f} s measured")
    record = {} if found is None else found.record()
    return {"test": "effective training time", "kills": kills, "failures": failures, **record}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stops", type=int, default=20, help="signals")
    parser.add_argument("--sizes", type=int, default=20, help="sizes of the disk")
    parser.add_argument("--seconds", type=float, default=600, help="of steps of the run that is killed")
    parser.add_argument("--every", type=float, default=120, help="seconds between two kills")
    parser.add_argument("--disk", type=Path, help="a folder on a file system of about 100 MB, in place of a tmpfs")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="align-stops-") as name:
        folder = Path(name)
        checkpoint = tiny_checkpoint(folder)
        results = []
        if arguments.stops:
            results.append(stops(arguments.stops, rng, checkpoint, folder))
            print(json.dumps(results[-1]), flush=True)
        if rooms := [size / arguments.sizes for size in range(arguments.sizes)]:
            with small_disk(folder / "disk", 128) as disk:
                where = arguments.disk or disk
                if where is None:
                    print(json.dumps({"test": "disk full in the middle of a save", "left out": "no tmpfs"}))
                else:
                    results.append(full_disk(rooms, checkpoint, folder, where))
                    print(json.dumps(results[-1]), flush=True)
        if arguments.seconds:
            results.append(killed_again_and_again(arguments.seconds, arguments.every, checkpoint, folder))
            print(json.dumps(results[-1]), flush=True)
    raise SystemExit(1 if any(result["failures"] for result in results) else 0)


if __name__ == "__main__":
    main()
