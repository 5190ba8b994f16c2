"""Does a run of rounds that is killed at random moments end as one that is left alone, byte for byte?

    python tests/bench/killed_rounds.py recipes/configs/rounds/rehearsal.yaml     # or: make killed-rehearsal
    python tests/bench/killed_rounds.py CONFIG.yaml precision=fp32 --whole runs/whole --seconds 1700

It runs the rounds once without interruption and moves the folder aside. With `--whole` it takes a finished run instead,
which was made by the same code, with the same settings, into the same folder, and then moved. Then it runs them again
into the same folder, and kills the driver and all of its processes with SIGKILL `--kills` times at random moments. Then
both folders are compared. Left out are the records of time and of what was tried again: logs, ledger, units of work,
checkpoints before the last, the report, when raters said what (what they said is in `collect/`), and in JSON files the
values that say when and how long (`VOLATILE`).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from align.config import load_config
from align.rounds.plan import RoundsConfig

ASIDE = ("logs", "units", "scores", "verified", "reference", "judgements", ".trash")
NOT_COMPARED = (
    ".lock",
    "ledger.sqlite",
    "report.html",
    "report.md",
    "starts.jsonl",
    "timing.json",
    ".precision.json",
    "README.md",
)
VOLATILE = (
    *("created", "seconds", "time", "starts", "effective_time", "hardware"),
    *("train_runtime", "train_samples_per_second", "train_steps_per_second", "speed"),
)
"""Keys of JSON objects whose values may differ between two runs. Hashes and sizes of files that hold such values differ
too, so files are compared, and not the hashes that manifests have of them."""


def main() -> None:
    arguments = _arguments()
    config = load_config(RoundsConfig, arguments.config, arguments.settings)
    run: Path = config.run_dir
    whole: Path = arguments.whole or Path(f"{run}-whole")
    for path in (run, *(() if arguments.whole else (whole,))):
        if path.exists():
            raise SystemExit(f"{path} exists: move it away first")
    seconds = arguments.seconds
    if arguments.whole is None:
        began = time.monotonic()
        _require_success(_start(arguments).wait())
        seconds = time.monotonic() - began
        shutil.move(run, whole)
    moments = kill_often(arguments, seconds)
    different, compared = differences(whole, run)
    print(json.dumps({"killed after seconds": moments, "files compared": compared, "different": different}, indent=1))
    if different or not compared or len(moments) < arguments.kills:
        raise SystemExit(1)


def kill_often(arguments: argparse.Namespace, seconds: float) -> list[float]:
    """Start the rounds, kill them at random moments, and let the last start end. Returns the seconds of each start."""
    rng, moments = random.Random(arguments.seed), []
    share = seconds / (arguments.kills + 1)
    for _ in range(arguments.kills):
        process = _start(arguments)
        moment = rng.uniform(0.3, 1.5) * share
        try:
            _require_success(process.wait(moment))
            print("the rounds ended before all kills: give a smaller --seconds", file=sys.stderr)
            return moments
        except subprocess.TimeoutExpired:
            moments.append(round(moment, 1))
        parent = psutil.Process(process.pid)
        for one in [parent, *parent.children(recursive=True)]:  # stages are in sessions of their own
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait()
    _require_success(_start(arguments).wait())
    return moments


def differences(whole: Path, killed: Path) -> tuple[list[str], int]:
    """Files that differ or that one of two runs does not have, and how many were compared."""
    one, other = _files(whole), _files(killed)
    different = sorted(one ^ other)
    for name in sorted(one & other):
        if _content(whole / name) != _content(killed / name):
            different.append(name)
    return different, len(one & other)


def _files(run: Path) -> set[str]:
    found = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in found
        if path.name not in NOT_COMPARED
        and not path.name.endswith(".stage")
        and not {*ASIDE} & {*path.parts}
        and not any(part.startswith("checkpoint-") for part in path.parts)
    }


def _content(path: Path) -> Any:
    """The bytes of rows and weights; of JSON, and of metrics, what does not depend on the time and place of a run."""
    if path.name == "metrics.jsonl" or path.suffix == ".json":
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return [_lasting(json.loads(line)) for line in lines]
    return path.read_bytes()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        hashes = {"blake3", "bytes", "key"}  # the key of an evaluation has the hash of its baseline, which holds times
        return {key: _lasting(each) for key, each in value.items() if key not in VOLATILE and key not in hashes}
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def _start(arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [sys.executable, "recipes/rounds.py", str(arguments.config), *arguments.settings]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def _require_success(status: int) -> None:
    if status != 0:
        raise SystemExit(f"the rounds ended with {status}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a file of rounds")
    parser.add_argument("settings", nargs="*", help="key=value, as for recipes/rounds.py")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", type=Path, help="a finished run of the same code, to compare with")
    parser.add_argument("--seconds", type=float, default=1500, help="how long the run named by --whole took")
    return parser.parse_args()


if __name__ == "__main__":
    main()
