"""Are candidates lost or doubled where sampling is killed again and again?

    python tests/torture/sampling.py --seed 1 --kills 20

recipes/rejection_sample.py with a two-layer generator and reward model, 14 prompts and 4 candidates each, is killed at
random moments, all processes at once or, of two, one alone. After one to three kills it is left to end, and every file
is that of a run that was left alone, to the byte; no other file is there. Prints a line of JSON, and exits with 1 if a
run failed. `tests/bench/sampling.py kills` does the same with a real model.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.align.sampling import test_candidates  # noqa: E402
from tests.processes import PYTHON, TORCHRUN, Started  # noqa: E402
from tests.torture.kills import Failed, kill_at_a_moment  # noqa: E402
from tests.torture.stops import tiny_checkpoint  # noqa: E402


def command(config: Path, output: Path, processes: int) -> list[str]:
    words = test_candidates.command(config, output)[1:]
    return [*([PYTHON] if processes == 1 else TORCHRUN), *words]


def candidates(output: Path) -> Counter[str]:
    """How often each id is in the file of candidates."""
    lines = (output / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
    return Counter(json.loads(line)["id"] for line in lines)


def differences(output: Path, alone: Path) -> list[str]:
    """What is not as in the run that was left alone."""
    found, expected = candidates(output), candidates(alone)
    wrong = [f"{(expected - found).total()} lost, {(found - expected).total()} doubled"] if found != expected else []
    files, others = test_candidates.files_of(output), test_candidates.files_of(alone)
    differing = sorted(name for name in files.keys() | others.keys() if files.get(name) != others.get(name))
    return wrong + [f"{name} differs" for name in differing]


def kills(count: int, seed: int, folder: Path) -> dict[str, Any]:
    rng = random.Random(seed)
    made = SimpleNamespace(mktemp=lambda name: (folder / name).mkdir() or folder / name)
    config = test_candidates.rejection_config.__wrapped__(tiny_checkpoint(folder), made)
    alone, seconds = folder / "alone", {}
    for processes in (2, 1):  # what is compared with is of one process
        output = alone if processes == 1 else folder / "alone-2"
        began = time.monotonic()
        ended = Started(command(config, output, processes))
        assert ended.wait() == 0, ended.output[-3000:]
        seconds[processes] = time.monotonic() - began
    failures: list[str] = []
    done = number = 0
    counted: Counter[str] = Counter()
    while done < count:
        processes, output = 1 + number % 2, folder / f"run-{number}"
        killed, wrong = 0, []
        for _ in range(min(rng.randint(1, 3), count - done)):
            moment = rng.uniform(0.05, 1) * seconds[processes]
            began = time.monotonic()
            try:
                if not kill_at_a_moment(Started(command(config, output, processes)), processes, moment, rng):
                    seconds[processes] = min(seconds[processes], time.monotonic() - began)  # the machine is less busy
                    break
            except Failed as failed:
                wrong.append(str(failed))
                break
            killed += 1
        ended = Started(command(config, output, processes))
        wrong += differences(output, alone) if ended.wait() == 0 else [f"code {ended.poll()}: {ended.output[-1000:]}"]
        said = f"{processes} processes, {killed} kills: {'; '.join(wrong) or 'the same bytes'}"
        failures += [said] * max(1, killed) if wrong else []
        counted[f"{processes} processes"] += killed
        done, number = done + max(killed, bool(wrong)), number + 1
        print(f"{done}/{count}  {said}", file=sys.stderr, flush=True)
    return {
        "test": "sampling killed",
        "tried": done,
        "runs": number,
        "candidates": candidates(alone).total(),
        "failures": failures,
        **counted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="align-sampling-") as name:
        result = kills(arguments.kills, arguments.seed, Path(name))
    print(json.dumps(result), flush=True)
    raise SystemExit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
