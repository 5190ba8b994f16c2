"""A recipe that kills itself with SIGKILL in the middle of a save, or of the deletion of old checkpoints.

KILLED_IN=saving KILLED_AT=17 KILLED_MARK=killed python tests/torture/killed.py RECIPE CONFIG.yaml ...
KILLED_COUNTS=counts.json python tests/torture/killed.py RECIPE CONFIG.yaml ...       # count them, and kill nothing

The first kills itself at the 17th file operation, and makes the file KILLED_MARK just before. RECIPE is sft, reward or
dpo. File operations are those of Python that name a file of a checkpoint folder: to open, to rename, to make a folder,
to delete. Of several processes that of rank 0 kills itself.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

PHASES = ("saving", "pruning")
RECIPES = {"sft": "SFTRecipe", "reward": "RewardRecipe", "dpo": "DPORecipe"}

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Operations:
    """Counts file operations of each phase by an audit hook, and kills the process at one of them."""

    def __init__(self, phase: str, at: int) -> None:
        self.phase, self.at = phase, at
        self.counts: Counter[str] = Counter()
        self._has_written = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        found = self._phase_of(event, arguments)
        if found is None:
            return
        self.counts[found] += 1
        if found == self.phase and self.counts[found] == self.at:
            Path(os.environ["KILLED_MARK"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _phase_of(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
            return None
        path = arguments[0]
        if isinstance(path, bytes | os.PathLike):
            path = os.fsdecode(path)
        if not isinstance(path, str):
            return None
        if event in ("os.remove", "os.rmdir"):
            # `shutil.rmtree` names a file relative to the open folder that it is in.
            return "pruning" if "checkpoint-" in path or arguments[1] != -1 else None
        if "checkpoint-" not in path:
            return None
        # Before the first write a run reads checkpoints, to find the one that it resumes from.
        self._has_written = self._has_written or event != "open" or bool(arguments[2] & _WRITES)
        return "saving" if self._has_written else None


def main() -> None:
    operations = Operations(os.environ.get("KILLED_IN", ""), int(os.environ.get("KILLED_AT", "0")))
    counts = os.environ.get("KILLED_COUNTS")
    if os.environ.get("RANK", "0") == "0":
        sys.addaudithook(operations)
        if counts:
            atexit.register(lambda: Path(counts).write_text(json.dumps(operations.counts)))
    from align.config import main as start

    name = sys.argv.pop(1)
    module = importlib.import_module(f"recipes.{name}")
    start(getattr(module, RECIPES[name]), module.run)


if __name__ == "__main__":
    main()
