"""Time our own training steps of two checkouts of this repository: did a change make them slower?

    git worktree add /tmp/before COMMIT
    python tests/bench/compare.py /tmp/before                  # against this checkout
    python tests/bench/compare.py /tmp/before --only sft --quick

Each checkout has a process of its own with the same model and the same batches; both wait, and take turns: before,
after on one batch, after, before on the next. So what slows the machine down for a while slows both. A step is what
training.py times: from trees to gradients. Prints, for each case, the median and the quartiles of the ratios of single
steps (above 1: this checkout is slower), and how far the losses are apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parents[2]


class Steps(NamedTuple):
    """Steps of one method: the model of shapes.py, mean tokens of a prompt and of a completion, rows a step."""

    method: str
    model: str
    dtype: str
    prompt: int
    completion: int
    rows: int
    completions: int

    def __str__(self) -> str:
        return f"{self.method} {self.model} {self.dtype} {self.prompt}-{self.completion}"


CASES = [
    Steps("dpo", "50M", "fp32", 475, 284, 4, 2),
    Steps("dpo", "50M", "fp32", 96, 256, 4, 2),
    Steps("dpo", "50M", "bf16", 475, 284, 4, 2),
    Steps("dpo", "15M", "fp32", 96, 256, 4, 2),
    Steps("dpo", "135M", "bf16", 475, 284, 4, 2),
    Steps("dpo", "128k words", "fp32", 96, 256, 4, 2),
    Steps("sft", "50M", "fp32", 475, 284, 6, 1),
    Steps("sft", "50M", "bf16", 475, 284, 6, 1),
    Steps("reward", "50M", "fp32", 475, 284, 2, 3),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--only", choices=sorted({case.method for case in CASES}), help="one method")
    parser.add_argument(
        "--steps", type=int, default=6, choices=range(2, 101), metavar="N", help="steps of each case, 2 to 100"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it run, not how fast")
    arguments = parser.parse_args()
    for case in CASES:
        if arguments.only in (None, case.method):
            shown = case._replace(model="3M", prompt=60, completion=40) if arguments.quick else case
            print(_compared(shown, arguments.before.resolve(), arguments.steps), flush=True)


def _compared(case: Steps, before: Path, steps: int) -> str:
    with TemporaryDirectory() as folder:
        sides = [_Side(tree, case, steps, Path(folder, str(n))) for n, tree in enumerate((before, HERE))]
        taken: list[list[dict[str, float]]] = [[], []]
        for step in range(steps):
            for n in (0, 1) if step % 2 == 0 else (1, 0):
                taken[n].append(sides[n].take(step))
        for side in sides:
            side.end()
    pairs = list(zip(*taken, strict=True))
    low, middle, high = statistics.quantiles([b["wall"] / a["wall"] for a, b in pairs], n=4, method="inclusive")
    apart = max(abs(a["loss"] - b["loss"]) for a, b in pairs)
    seconds = statistics.median(a["wall"] for a, _ in pairs)
    return f"{case}: {middle:.3f} ({low:.3f} to {high:.3f}) of {seconds:.2f} s; losses differ by at most {apart:.1e}"


class _Side:
    """The process of one checkout, which takes a step when it is asked to."""

    def __init__(self, tree: Path, case: Steps, steps: int, folder: Path) -> None:
        folder.mkdir()
        self.errors = folder / "errors.txt"
        words = [sys.executable, __file__, "--serve", str(tree), json.dumps(case), str(steps), str(folder)]
        self.process = subprocess.Popen(
            words, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.errors.open("w"),
        )  # fmt: skip
        self._answer()

    def take(self, step: int) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{step}\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise SystemExit(f"the process of a checkout ended without an answer:\n{self.errors.read_text()[-3000:]}")


def serve(tree: Path, case: Steps, steps: int, folder: Path) -> None:
    """In the process of one checkout: take the steps that standard input names, with that checkout's code."""
    sys.path.insert(0, str(tree / "tests" / "bench"))
    import measure

    step = _step(case, steps, folder)
    step(0)
    print("{}", flush=True)
    for line in sys.stdin:
        losses: list[float] = []
        taken = measure.taken_by(lambda n=int(line), found=losses: found.append(float(step(n))))
        print(json.dumps({"wall": taken.wall, "process": taken.process, "loss": losses[0]}), flush=True)


def _step(case: Steps, steps: int, folder: Path) -> Callable[[int], Any]:
    import ours
    import shapes

    rows = shapes.rows(case.rows * steps, case.prompt, case.completion, branches=case.completions)
    start = shapes.checkpoint(case.model, folder, "reward" if case.method == "reward" else "policy")
    protocol = ours.protocol_of(start)
    if case.method == "sft":
        trees = list(ours.sft_trees(map(ours.sft_row, rows), protocol))
    else:
        pairs = case.method == "dpo"
        trees = list(ours.preference_trees(map(ours.preference_row, rows), protocol, pairs=pairs))
    batches = [trees[n * case.rows : (n + 1) * case.rows] for n in range(steps)]
    model = ours.scorer(start, case.dtype) if case.method == "reward" else ours.policy(start, case.dtype)

    def cleared(step: Callable[[int], Any]) -> Callable[[int], Any]:
        def taken(n: int) -> Any:
            model.model.zero_grad(set_to_none=True)
            return step(n)

        return taken

    if case.method == "sft":
        return cleared(lambda n: ours.sft_step(model, batches[n]))
    if case.method == "reward":
        return cleared(lambda n: ours.reward_step(model, batches[n]))
    reference = ours.policy(shapes.checkpoint(case.model, folder, "reference"), case.dtype).eval()
    frozen = [ours.reference_logps(reference, batch) for batch in batches]
    return cleared(lambda n: ours.dpo_step(model, batches[n], frozen[n]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), Steps(*json.loads(sys.argv[3])), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
