"""recipes/dpo.py with one part that takes longer and says by a file that it has begun, for tests that stop a run in it.

SLOWED=encoding SLOWED_SECONDS=5 SLOWED_REACHED=/tmp/reached python tests/torture/slowed.py CONFIG.yaml

SLOWED_RANK=1 delays the second of several processes alone.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

PARTS = {
    "start-up": "align.models.loading:load_policy",
    "encoding": "align.trainers.data:_recorded",
    "checks": "align.trainers.base:run_checks",
    "reference pass": "align.trainers.reference:ReferenceCache._make_step",
    "steps": "align.trainers.dpo:DPOTrainer.batch_loss",
    "validation": "align.trainers.validation:Validation._means",
    "saving": "align.trainers.checkpointing:require_saved",
    "finishing": "align.trainers.checkpointing:convert_weights",
}
"""Part of a run -> the function that is delayed. Of `saving` it is between the files and their manifest."""

OTHERS = {
    "disk check": "align.trainers.checkpointing:require_space_for_checkpoint",
    "every step": "align.trainers.dpo:DPOTrainer.batch_loss",
}
"""The same for other tests: `disk check` is delayed after the second check, `every step` in each step."""

FROM_CALL = {"reference pass": 2, "steps": 3, "disk check": 2}
"""The call of the function that is delayed, where it is not the first."""


def delay(part: str, seconds: float, reached: Path) -> None:
    """Make a part of a run say that it has begun, and then take this much longer."""
    module_name, _, path = (PARTS | OTHERS)[part].partition(":")
    owner: Any = importlib.import_module(module_name)
    *owners, name = path.split(".")
    for each in owners:
        owner = getattr(owner, each)
    honest = getattr(owner, name)
    calls = 0

    def slowed(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        done = honest(*arguments, **settings) if part == "disk check" else None
        here = os.environ.get("SLOWED_RANK") in (None, os.environ.get("RANK", "0"))
        if here and (calls == FROM_CALL.get(part, 1) or part == "every step"):
            reached.touch()
            time.sleep(seconds)
        return done if part == "disk check" else honest(*arguments, **settings)

    setattr(owner, name, slowed)


if __name__ == "__main__":
    from align.config import main
    from recipes.dpo import DPORecipe, run

    delay(os.environ["SLOWED"], float(os.environ["SLOWED_SECONDS"]), Path(os.environ["SLOWED_REACHED"]))
    main(DPORecipe, run)
