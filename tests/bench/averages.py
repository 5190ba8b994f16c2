"""Averages against mergekit's method `linear`: the same numbers, and the time of both programs.

    python -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit
    python tests/bench/averages.py /tmp/mergekit/bin/python CHECKPOINT

mergekit is installed apart, since its requirements are not ours. The second checkpoint is the first one with seeded
noise on every weight. Both programs are started as a user starts them, in turns; the fastest of each counts. Seconds of
all processors are measured too, since other programs of the machine change these less.

    weights 1/2, 1/2   every product and sum is rounded once, so every element has to be equal
    weights 1/4, 3/4   the same: mergekit multiplies and adds in one step
    weights 0.3, 0.7   mergekit sums in float32, so it rounds more than once; both are compared with the mean in float64
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_checkpoints(start: str, folder: Path, dtype: str) -> list[Path]:
    """The starting checkpoint in `dtype`, and one with noise of a hundredth of each tensor's spread."""
    model = AutoModelForCausalLM.from_pretrained(start, dtype=DTYPES[dtype])
    tokenizer = AutoTokenizer.from_pretrained(start)
    generator = torch.Generator().manual_seed(0)
    made = []
    for name in ("first", "second"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        made.append(folder / name)
        with torch.no_grad():
            for weight in model.parameters():
                noise = torch.randn(weight.shape, generator=generator) * weight.float().std() / 100
                weight.copy_(weight.float() + noise)
    return made


def ours(members: Sequence[Path], weights: Sequence[float], output: Path) -> list[str]:
    """The command that averages here."""
    entries = [f"{{path: {member}, weight: {weight}}}" for member, weight in zip(members, weights, strict=True)]
    config = output.with_suffix(".yaml")
    config.write_text(f"checkpoints: [{', '.join(entries)}]\noutput_dir: {output}\n", encoding="utf-8")
    return [sys.executable, str(ROOT / "recipes" / "average.py"), str(config)]


def theirs(python: str, members: Sequence[Path], weights: Sequence[float], dtype: str, output: Path) -> list[str]:
    """The command that averages with mergekit."""
    entries = [
        f"  - {{model: {member}, parameters: {{weight: {weight}}}}}"
        for member, weight in zip(members, weights, strict=True)
    ]
    config = output.with_suffix(".yaml")
    config.write_text("\n".join(["merge_method: linear", f"dtype: {dtype}", "models:", *entries, ""]), encoding="utf-8")
    return [python, "-m", "mergekit.scripts.run_yaml", str(config), str(output)]


def seconds_of(command: Sequence[str]) -> tuple[float, float]:
    """Seconds on the wall, and of all processors."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def compare(members: Sequence[Path], weights: Sequence[float], ours_at: Path, theirs_at: Path) -> str:
    """How many elements differ, and how many of each are not the number of their type that is nearest to the mean."""
    first, second = (load_file(member / "model.safetensors") for member in members)
    one, two = (load_file(folder / "model.safetensors") for folder in (ours_at, theirs_at))
    odd = sorted(one.keys() ^ two.keys())
    elements = different = 0
    rounded_twice = {"ours": 0, "mergekit": 0}
    for name in one.keys() & two.keys():
        assert one[name].dtype == two[name].dtype, name
        exact = weights[0] * first[name].double() + weights[1] * second[name].double()
        elements += exact.numel()
        different += int((one[name] != two[name]).sum())
        for program, found in (("ours", one[name]), ("mergekit", two[name])):
            size = found.abs()
            spacing = torch.nextafter(size, torch.full_like(size, torch.inf)).double() - size.double()
            apart = (found.double() - exact).abs()
            rounded_twice[program] += int((apart > spacing * (0.5 + 1e-6)).sum())  # a tie may go either way
    counts = ", ".join(f"{program} {count:,}" for program, count in rounded_twice.items())
    extra = f"; tensors of one program only: {', '.join(odd)}" if odd else ""
    return f"{elements:,} elements, {different:,} differ; not the nearest to the mean: {counts}{extra}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mergekit", help="the Python of the environment that mergekit is in")
    parser.add_argument("checkpoint", help="a folder or Hub name of a language model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        members = make_checkpoints(arguments.checkpoint, folder, arguments.dtype)
        for place, weights in enumerate(((0.5, 0.5), (0.25, 0.75), (0.3, 0.7))):
            here, there = folder / f"ours-{place}", folder / f"mergekit-{place}"
            commands = {
                "ours": ours(members, weights, here),
                "mergekit": theirs(arguments.mergekit, members, weights, arguments.dtype, there),
            }
            times: dict[str, list[tuple[float, float]]] = {program: [] for program in commands}
            for _ in range(arguments.rounds if place == 0 else 1):
                for program, command in commands.items():
                    times[program].append(seconds_of(command))
            print(f"{arguments.dtype}, weights {weights}: {compare(members, weights, here, there)}")
            for program, taken in times.items() if place == 0 else ():
                wall, used = (min(column) for column in zip(*taken, strict=True))
                print(f"  {program:9} {wall:6.2f} s on the wall, {used:6.2f} s of processors")


if __name__ == "__main__":
    main()
