"""From rows to the trees a trainer gets: a seeded choice of rows, and a record of what was dropped."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from align.files import whole_file
from align.reporting import logger
from align.settings import TreeDataConfig
from align.tree.encode import Encodings, PromptTree, require_trees

log = logger(__name__)

R = TypeVar("R")


def chosen_rows(rows: Sequence[R], data: TreeDataConfig, seed: int) -> Sequence[R]:
    """`data.limit` rows by a seeded choice, in their order; all of them without a limit."""
    if data.limit is None or data.limit >= len(rows):
        return rows
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), data.limit))]


def trees_of(found: Encodings, output_dir: Path) -> list[PromptTree]:
    """The trees, with what was dropped and why in `<output_dir>/dropped.json` and the log."""
    trees = require_trees(found, output_dir)
    tokens = sum(tree.tokens for tree in trees)
    log.info("%d rows to train on, %d tokens; dropped: %s", len(trees), tokens, dict(found.dropped) or "none")
    if int(os.environ.get("RANK", "0")) == 0:
        with whole_file(output_dir / "dropped.json") as handle:
            json.dump({"rows": len(trees), "tokens": tokens, "dropped": dict(found.dropped)}, handle)
    return trees
