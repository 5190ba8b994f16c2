"""Check on one GPU what no CPU can show: equal values, speed next to other implementations, memory. Ten minutes.

    make gpu                                       # on a machine with a GPU, with the torch that is installed
    python -m tests.gpu --only equality attention  # these parts
    python -m tests.gpu --dry-run                  # all code, on tiny shapes, on a CPU: no figure means anything

Writes results.json and results.md into runs/gpu/. The exit code is 1 if values differ that must be equal, or a part
could not be run for another reason than a missing package. Without a GPU it says so, and does nothing.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PARTS = ("equality", "attention", "training", "serving", "memory")
LIBRARIES = ("torch", "transformers", "trl", "flash-attn", "flash-pref")
SECONDS = 570.0


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    try:
        return _run(chosen)
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed for {sys.executable}: pip install -e .", file=sys.stderr)
        return 1


def _run(chosen: argparse.Namespace) -> int:
    import torch

    if not chosen.dry_run and not torch.cuda.is_available():
        print("no GPU is visible to PyTorch: nothing was checked. --dry-run runs all code on tiny shapes, on a CPU")
        return 0
    from tests.gpu import attention, equality, memory, report, serving, shapes, training
    from tests.gpu.measure import Check

    device = torch.device("cpu" if chosen.dry_run else "cuda")
    torch.set_float32_matmul_precision("highest")  # float32 means float32: no TF32
    check = Check(device, shapes.DRY if chosen.dry_run else shapes.FULL, SECONDS, dry=chosen.dry_run)
    parts: dict[str, Any] = {
        "equality": equality.cases, "attention": attention.cases, "serving": serving.cases, "memory": memory.cases,
        "training": lambda check: training.cases(check, chosen.arms),
    }  # fmt: skip
    for part in PARTS:
        if part in chosen.only:
            for name, work in parts[part](check).items():
                check.run(name, work)
    report.write(chosen.out, _machine(check), check.results)
    failed = report.failures(check.results)
    print("\n".join([*failed, f"{len(check.results)} parts, {len(failed)} failures: {chosen.out / 'results.md'}"]))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on a CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="of training: segments, flex, trl, ...")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="FOLDER", help="where the results go")
    return parser


def _machine(check: Any) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_properties(check.device) if check.on_gpu else None
    return {
        "device": "a CPU, with tiny shapes: figures mean nothing" if gpu is None else gpu.name,
        "memory_gib": None if gpu is None else round(gpu.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - check.began, 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
