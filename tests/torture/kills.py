"""Are runs that are killed with SIGKILL again and again equal to runs that were left alone?

    python tests/torture/kills.py --seed 1 --kills 50

SFT, reward models and DPO, with one process and with two (DPO on DeepSpeed ZeRO-3, the others by torchrun). Of ten
kills five are in the middle of a save (tests/torture/killed.py), two while an old checkpoint is deleted, and three at a
random moment, of all processes or of one of two. After one to four kills a run is left to end: then its weights,
metrics and checkpoints are those of the run that was left alone to the byte, and no other file is there. Prints a line
of JSON, and exits with 1 if a run failed, with all of its kills.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from align.jsonl import write_rows  # noqa: E402
from align.manifest import is_whole  # noqa: E402
from align.rows import PreferenceRow, SFTRow  # noqa: E402
from tests.metrics import metrics_of  # noqa: E402
from tests.processes import PYTHON, TORCHRUN, ZERO3, Started  # noqa: E402
from tests.torture.stops import debris, tiny_checkpoint, write_pairs  # noqa: E402

KILLED = "tests/torture/killed.py"
STEPS, SAVE_STEPS = 12, 2
PHASES = ("saving", "moment", "saving", "pruning", "saving", "moment", "saving", "pruning", "saving", "moment")
RUNS = (("sft", 1), ("reward", 1), ("dpo", 1), ("sft", 1), ("dpo", 2), ("reward", 1), ("dpo", 1), ("sft", 2),
        ("reward", 2))  # fmt: skip


class Failed(Exception):
    """A run ended by itself, and not well."""


class Alone(NamedTuple):
    """A run that was left alone."""

    output: Path
    seconds: float
    counts: dict[str, int]
    """File operations in its saves and deletions."""


class Runs:
    """Starts runs in a folder."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.checkpoint = tiny_checkpoint(folder)
        self.rows = {"dpo": folder / "pairs.jsonl", "reward": folder / "pairs.jsonl", "sft": folder / "rows.jsonl"}
        write_pairs(self.rows["dpo"], 2 * STEPS)
        lines = self.rows["dpo"].read_text(encoding="utf-8").splitlines()
        pairs = [PreferenceRow.model_validate_json(line) for line in lines]
        messages = [(*row.prompt, *row.completions[0]) for row in pairs]
        write_rows(self.rows["sft"], [SFTRow(id=f"r{n}", source="test", messages=m) for n, m in enumerate(messages)])
        self._alone: dict[tuple[str, int], Alone] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        """Of the shortest run that was not killed in time."""

    def command(self, stage: str, processes: int, output: Path) -> list[str]:
        config = self.folder / f"{stage}.yaml"
        config.write_text(
            f"model: {{path: {self.checkpoint}}}\n"
            f"data: {{path: {self.rows[stage]}}}\n"
            f"training: {{output_dir: here, batch_size: 2, epochs: 1, save_steps: {SAVE_STEPS}, learning_rate: 1e-4,\n"
            "           precision: fp32, checks: false}\n"
        )
        launcher = [PYTHON] if processes == 1 else ZERO3 if stage == "dpo" else TORCHRUN
        return [*launcher, KILLED, stage, str(config), f"training.output_dir={output}"]

    def alone(self, stage: str, processes: int) -> Alone:
        """Made once."""
        found = self._alone.get((stage, processes))
        if found is None:
            output, counts = self.folder / f"alone-{stage}-{processes}" / "run", self.folder / "counts.json"
            began = time.monotonic()
            ended = Started(self.command(stage, processes, output), KILLED_COUNTS=str(counts))
            assert ended.wait() == 0, ended.output[-3000:]
            found = Alone(output, time.monotonic() - began, json.loads(counts.read_text()))
            self._alone[stage, processes] = found
        return found

    def kill_in(self, phase: str, stage: str, processes: int, output: Path) -> bool:
        """Start a run, and kill it in a phase. False if it had ended before. Raises Failed if it ended otherwise."""
        alone = self.alone(stage, processes)
        command = self.command(stage, processes, output)
        if phase == "moment":
            seconds = self._seconds.get((stage, processes), alone.seconds)
            began = time.monotonic()
            killed = kill_at_a_moment(Started(command), processes, self.rng.uniform(0.05, 1) * seconds, self.rng)
            if not killed:  # the machine is less busy than it was
                self._seconds[stage, processes] = min(seconds, time.monotonic() - began)
            return killed
        # Of the first two saves or deletions of this start.
        times = STEPS // SAVE_STEPS if phase == "saving" else STEPS // SAVE_STEPS - 2
        at = self.rng.randint(1, max(1, 2 * alone.counts[phase] // times))
        # Rank 0 kills itself. The launcher ends the other one, which may wait for it.
        mark = self.folder / "killed.mark"
        mark.unlink(missing_ok=True)
        environment = {"KILLED_IN": phase, "KILLED_AT": str(at), "KILLED_MARK": str(mark)}
        started = Started(command, **environment, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="3")
        started.wait()
        return was_killed(started, by_kill=mark.exists())


def was_killed(started: Started, *, by_kill: bool) -> bool:
    """Whether a run that has ended was killed; False if it had ended well before.

    by_kill: whether it, or one of its processes, was sent SIGKILL. Raises Failed for a run that failed without, and for
    one that ended well in spite of it: then the test has not done what it says.
    """
    code = started.poll()
    if (code != 0) != by_kill:
        raise Failed(f"{'killed' if by_kill else 'not killed'}, and ended with {code}: {started.output[-1000:]}")
    return by_kill


def kill_at_a_moment(started: Started, processes: int, seconds: float, rng: random.Random) -> bool:
    """Kill a started run after some seconds. False if it had ended before. Raises Failed as `was_killed`."""
    deadline = time.monotonic() + seconds
    while started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    if started.poll() is not None:
        return was_killed(started, by_kill=False)
    by_kill = False
    if processes > 1 and rng.random() < 0.5:  # one of them alone; the launcher ends the other one
        with suppress(psutil.NoSuchProcess, IndexError):
            victim = rng.choice(psutil.Process(started.pid).children())
            by_kill = victim.status() != psutil.STATUS_ZOMBIE
            victim.kill()
            deadline = time.monotonic() + 60
            while started.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
    kill(started)
    code = started.poll()
    # A process that is killed while it leaves has done its work: then the launcher, or the run itself, ends well.
    return False if code == 0 else was_killed(started, by_kill=by_kill or code == -signal.SIGKILL)


def kill(started: Started) -> None:
    """All of its processes that are still there."""
    if started.poll() is None:
        with suppress(psutil.NoSuchProcess):
            started.kill()


def differences(output: Path, alone: Path) -> list[str]:
    """What of a finished run is not as in the one that was left alone."""
    found = [f"left {name}" for name in debris(output)]
    names, expected = ({str(f.relative_to(each)) for f in each.rglob("*") if f.is_file()} for each in (output, alone))
    found += [f"more or fewer files: {sorted(names ^ expected)}"] if names != expected else []
    weights = sorted(name for name in expected if name.endswith(".safetensors"))
    assert weights
    found += [f"{name} differs" for name in weights if _read(output / name) != _read(alone / name)]
    found += [] if metrics_of(output) == metrics_of(alone) else ["metrics.jsonl differs"]
    return found + [f"{each} is not whole" for each in (output, *output.glob("checkpoint-*")) if not is_whole(each)]


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def killed_run(
    runs: Runs, stage: str, processes: int, phases: Sequence[str], output: Path
) -> tuple[list[str], list[str]]:
    """Kill a run in each phase, then let it end. Returns the phases in which it was killed, and what is wrong."""
    killed: list[str] = []
    wrong: list[str] = []
    for phase in phases:
        try:
            if not runs.kill_in(phase, stage, processes, output):
                break
        except Failed as failed:
            return killed, [*wrong, f"{phase}: {failed}"]
        killed.append(phase)
        sealed = [each for each in output.glob("checkpoint-*") if (each / "MANIFEST.json").exists()]
        wrong += [f"{each.name} is sealed and not whole after {killed}" for each in sealed if not is_whole(each)]
    ended = Started(runs.command(stage, processes, output))
    if ended.wait() != 0:
        return killed, [*wrong, f"the last start ended with {ended.poll()}: {ended.output[-1000:]}"]
    wrong += differences(output, runs.alone(stage, processes).output)
    wrong += ["a traceback"] if "Traceback" in ended.output else []
    return killed, wrong


def kills(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill runs until there are `count` kills, half of them in saves."""
    rng = random.Random(seed)
    runs = Runs(folder, rng)
    counted: Counter[str] = Counter()
    failures: list[str] = []
    done = number = 0
    while done < count:
        stage, processes = RUNS[number % len(RUNS)]
        phases = [PHASES[(done + n) % len(PHASES)] for n in range(min(rng.randint(1, 4), count - done))]
        killed, wrong = killed_run(runs, stage, processes, phases, folder / f"run-{number}" / "run")
        said = f"{stage}, {processes} processes, killed in {', '.join(killed)}: {'; '.join(wrong) or 'the same bytes'}"
        failures += [said] * max(1, len(killed)) if wrong else []
        counted.update(killed)
        counted.update({f"{stage}, {processes} processes": len(killed)})
        done, number = done + max(len(killed), bool(wrong)), number + 1
        print(f"{done}/{count}  {said}", file=sys.stderr, flush=True)
    return {"test": "SIGKILL", "tried": done, "runs": number, "failures": failures, **counted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="align-kills-") as name:
        result = kills(arguments.kills, arguments.seed, Path(name))
    print(json.dumps(result), flush=True)
    raise SystemExit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
