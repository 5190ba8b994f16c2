"""How long until something answers: a recipe's `--help`, a recipe's refusal of a bad config, and TRL's import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import shapes


def compare(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Wall seconds of fresh processes, in turn."""
    bad = folder / "bad.yaml"
    bad.write_text("no_such_setting: 1\n", encoding="utf-8")
    recipe = str(shapes.ROOT / "recipes" / "dpo.py")
    commands = {
        "our dpo --help": ([sys.executable, recipe, "--help"], 0),
        "our dpo, a misspelt setting": ([sys.executable, recipe, str(bad)], 2),
        "our trainer's import": ([sys.executable, "-c", "from align.trainers.dpo import DPOTrainer"], 0),
        "trl's trainer's import": ([sys.executable, "-c", "from trl import DPOTrainer"], 0),
        "trl dpo --help": ([sys.executable, "-m", "trl.scripts.dpo", "--help"], 0),
    }
    arms = {name: lambda batch, c=command, w=expected: _run(c, w) for name, (command, expected) in commands.items()}
    times = measure.alternate(arms, rounds)
    return {
        "arms": {name: {"seconds": measure.summary([t.wall for t in taken])} for name, taken in times.items()},
        "ratios": {"trl dpo --help / our dpo --help": measure.ratio(times["trl dpo --help"], times["our dpo --help"])},
    }


def _run(command: list[str], expected: int) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=shapes.ROOT)
    assert done.returncode == expected, f"{command}: {done.returncode}\n{done.stderr[-2000:]}"
