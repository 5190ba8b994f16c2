"""Sampling: against `generate`, inside the model's forward pass, and with two processes against one.

    python tests/bench/sampling.py generate     # 8 completions of a 768-token prompt, against num_return_sequences=8
    python tests/bench/sampling.py forward      # 200 prompts x 8: the share of the time inside the model's forward pass
    python tests/bench/sampling.py processes    # recipes/rejection_sample.py with one process and with two
    python tests/bench/sampling.py kills        # the same command killed 20 times at random, 1 and 2 processes
    python tests/bench/sampling.py memory       # selection and files of 10,000 and 100,000 candidates: peak memory

All with the 135M model of `make assets`. `generate` and `forward` suppress no token and end no completion before its
length, so that both sides do the same work. `processes` and `kills` run the recipe as a user starts it, with one thread
for each process, and require the same bytes of every file of rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

MODEL = Path(".assets/SmolLM2-135M-Instruct")
FILES = ("candidates.jsonl", "sft.jsonl", "preferences.jsonl")


def generate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of K = 8 completions of a 768-token prompt, in turns, at several lengths of the completion."""
    import torch

    found = {}
    rng = random.Random(0)
    prompt = [rng.randrange(1000, 40_000) for _ in range(768)]
    for length in (32, 64, 128):
        ours, model = _endless(length, arguments.dtype)
        options = {"do_sample": True, "top_k": 0, "num_return_sequences": 8, "pad_token_id": 0}
        limits = {"max_new_tokens": length, "min_new_tokens": length}

        def theirs(model: Any = model, options: dict[str, Any] = options | limits) -> None:
            with torch.inference_mode():
                assert model.generate(torch.tensor([prompt]), **options).shape == (8, 768 + options["max_new_tokens"])

        times = _in_turns({"generate": theirs, "ours": lambda ours=ours: ours.complete([prompt], [list(range(8))])}, 4)
        found[f"{length} tokens"] = _ratio(times, "generate", "ours")
    return found


def forward(arguments: argparse.Namespace) -> dict[str, Any]:
    """The share of `complete` that is spent inside the model's forward pass: 200 prompts of 20 to 200 tokens, K = 8."""
    ours, model = _endless(48, arguments.dtype)
    rng = random.Random(0)
    prompts = [[rng.randrange(1000, 40_000) for _ in range(rng.randrange(20, 200))] for _ in range(200)]
    inside = 0.0
    own_forward = model.forward

    def timed(*given: Any, **more: Any) -> Any:
        nonlocal inside
        begin = time.perf_counter()
        try:
            return own_forward(*given, **more)
        finally:
            inside += time.perf_counter() - begin

    timed.__signature__ = __import__("inspect").signature(own_forward)  # type: ignore[attr-defined]
    model.forward = timed
    begin = time.perf_counter()
    completions = ours.complete(prompts, [list(range(8))] * len(prompts))
    seconds = time.perf_counter() - begin
    tokens = sum(len(one.ids) for group in completions for one in group)
    return {"seconds": seconds, "tokens": tokens, "inside the forward pass": inside / seconds}


def processes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the whole command and of its work, from the first unit to the last file, with 1 and 2 processes."""
    times: dict[str, list[float]] = {"1 process": [], "2 processes": []}
    commands: dict[str, list[float]] = {"1 process": [], "2 processes": []}
    for turn in range(arguments.repeats):
        for count, name in ((1, "1 process"), (2, "2 processes"))[:: 1 if turn % 2 == 0 else -1]:
            folder = arguments.folder / f"{turn}-{count}"
            begin = time.time()
            _finish(_start(arguments, folder, count))
            commands[name].append(time.time() - begin)
            first = min(path.stat().st_mtime for path in folder.rglob("*") if "claim" not in path.name)
            times[name].append((folder / "candidates.jsonl").stat().st_mtime - first)
    _require_same(arguments.folder.glob("?-?"))
    return {
        "work": _ratio(times, "1 process", "2 processes"),
        "command": _ratio(commands, "1 process", "2 processes"),
    }


def kills(arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill the command `repeats` times with 1 and as often with 2 processes, at random moments, then let it end."""
    rng = random.Random(arguments.seed)
    whole = arguments.folder / "whole"
    begin = time.monotonic()
    _finish(_start(arguments, whole, 1))
    seconds = time.monotonic() - begin
    found: dict[str, Any] = {"seconds of a whole run": round(seconds, 1)}
    for count in (1, 2):
        folder, moments = arguments.folder / f"killed-{count}", []
        for _ in range(arguments.repeats):
            started = _start(arguments, folder, count)
            moment = rng.uniform(0.3, 0.9) * seconds / (1 if not moments else 2)
            try:
                _require_success(started.wait(moment))
            except subprocess.TimeoutExpired:
                moments.append(round(moment, 1))
            _kill(started.pid)
            started.wait()
        _finish(_start(arguments, folder, count))
        found[f"{count} processes killed after"] = moments
    _require_same([whole, arguments.folder / "killed-1", arguments.folder / "killed-2"])
    rows = [json.loads(line) for line in (whole / "candidates.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == arguments.prompts * arguments.k
    return found | {"candidates": len(rows), "bytes": "the same"}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of the passes over units of candidates, without a model (`tests/last_pass.py`), each in a process of
    its own: 10,000 candidates of 500 characters, ten times as many, and texts ten times as long."""
    found = {}
    for prompts, characters in ((625, 500), (6250, 500), (625, 5000)):
        folder = arguments.folder / f"{prompts}-{characters}"
        command = [sys.executable, "tests/last_pass.py", str(folder), str(prompts), "16", str(characters)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        size = round((folder / "candidates.jsonl").stat().st_size / 2**20)
        name = f"{prompts * 16} candidates of {characters} characters"
        found[name] = json.loads(printed.splitlines()[-1]) | {"MiB in candidates.jsonl": size}
        shutil.rmtree(folder)
    return found


def _endless(length: int, dtype: str) -> tuple[Any, Any]:
    """Our backend and its model, which ends no completion before `length` tokens."""
    from align.generation.local import LocalBackend
    from align.models.loading import load_generator
    from align.settings import SamplingConfig

    model = load_generator(MODEL, dtype)
    model.generation_config.eos_token_id = None
    protocol: Any = SimpleNamespace(stop_ids=(), pad_id=0)
    return LocalBackend(model, protocol, SamplingConfig(max_completion_tokens=length, batch_size=64)), model


def _start(arguments: argparse.Namespace, folder: Path, count: int) -> subprocess.Popen[bytes]:
    prompts = arguments.folder / "prompts.jsonl"
    if not prompts.exists():
        _write_prompts(prompts, arguments.prompts)
    recipe = [
        "recipes/rejection_sample.py",
        "recipes/configs/rejection_sample/rehearsal.yaml",
        f"reward_model.path={arguments.reward_model}",
        f"prompts={prompts}",
        "verifiers=[]",
        "steering_examples=null",
        f"k={arguments.k}",
        f"output_dir={folder}",
        "unit_size=4",
        f"sampling.max_completion_tokens={arguments.tokens}",
        "sampling.batch_size=32",
        f"sampling.dtype={arguments.dtype}",
        "sampling.threads=1",
    ]
    launcher = [sys.executable]
    if count > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder.with_suffix(".log")).open("ab")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen([*launcher, *recipe], stdout=log, stderr=log, env=environment, start_new_session=True)


def _kill(pid: int) -> None:
    """Kill a process and all that it has started; the launcher's processes are in sessions of their own."""
    try:
        launcher = psutil.Process(pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            process.kill()
    except psutil.NoSuchProcess:
        pass


def _finish(started: subprocess.Popen[bytes]) -> None:
    _require_success(started.wait())


def _require_success(status: int) -> None:
    if status != 0:
        raise SystemExit(f"the recipe ended with {status}: see the logs next to its folder")


def _write_prompts(path: Path, count: int) -> None:
    from data_builders.packaged import judged_answers

    questions = [question.question for question in judged_answers()][:count]
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"id": f"q{number}", "prompt": question} for number, question in enumerate(questions)]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def _require_same(folders: Any) -> None:
    """The files of rows of all folders are equal byte for byte."""
    first, *others = sorted(folders)
    for folder in others:
        for name in FILES:
            assert (folder / name).read_bytes() == (first / name).read_bytes(), f"{folder / name} differs from {first}"


def _in_turns(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, in turns; the first turn warms up and is left out."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - begin)
    return times


def _ratio(times: dict[str, list[float]], slow: str, fast: str) -> dict[str, Any]:
    """Median seconds of each, and the median and range of the ratios of each turn."""
    ratios = [one / other for one, other in zip(times[slow], times[fast], strict=True)]
    seconds = {name: round(statistics.median(values), 2) for name, values in times.items()}
    found = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return {"seconds": seconds, "ratio": {name: round(value, 2) for name, value in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=[function.__name__ for function in (generate, forward, processes, kills, memory)]
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-sampling"))
    parser.add_argument("--reward-model", type=Path, default=Path("runs/rehearsal/round-1/reward"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder = arguments.folder / arguments.what
    shutil.rmtree(arguments.folder, ignore_errors=True)
    print(json.dumps(globals()[arguments.what](arguments), indent=1))


if __name__ == "__main__":
    main()
