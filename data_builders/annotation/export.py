"""Export the judgements as a file of ratings, which the builder `preferences` reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.config import Section, dump
from align.errors import RowError
from align.files import whole_file
from align.manifest import write_data_manifest
from align.reporting import logger
from data_builders.annotation.database import open_database

_CURRENT = """
SELECT task.name, task.source, task.tools, task.round, task.batch, turn.id, turn.task, turn.rater, turn.number,
       turn.first_is_left, turn.prompt, turn.responses, turn.models, turn.seeds, judgement.grade, judgement.edited
FROM judgement JOIN turn ON turn.id = judgement.turn JOIN task ON task.id = turn.task
WHERE judgement.withdrawn IS NULL ORDER BY task.position, turn.number, judgement.place
"""


def export(
    database: Path,
    path: Path,
    config: Section,
    names: Mapping[str, str] | None = None,
    dropped: Mapping[str, int] | None = None,
) -> Path:
    """Write a record for each comparison that was judged, with the ratings of all its raters, and a manifest.

    The first turn of a task is one comparison for all its raters. Later turns differ between raters, so each of them is
    a comparison with one rater.

    names: name of a model in the database -> its name in the records, where that differs.
    dropped: reason -> number of prompts that were not compared, for the manifest.

    Raises RowError if the database does not exist or contains no judgement.
    """
    if not database.exists():
        raise RowError(database, "does not exist", "Set database to the file that the page was run with")
    names = names or {}
    db = open_database(database)
    judgements = db.execute(_CURRENT).fetchall()
    withdrawn = db.execute("SELECT count(*) FROM judgement WHERE withdrawn IS NOT NULL").fetchone()[0]
    unjudged = db.execute("SELECT count(*) FROM task").fetchone()[0] - len({row["task"] for row in judgements})
    db.close()
    if not judgements:
        raise RowError(database, "contains no judgement", "Run the page and rate some comparisons first")
    records: dict[str, dict[str, Any]] = {}
    for row in judgements:
        key = row["task"] if row["number"] == 1 else row["id"]
        rating = {"rater": row["rater"], "grade": row["grade"]}
        if row["edited"]:
            rating["edited"] = json.loads(row["edited"])
        records.setdefault(key, _record(row, names))["ratings"].append(rating)
    with whole_file(path) as handle:
        handle.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records.values())
    sided = [(row["grade"] > 0) == bool(row["first_is_left"]) for row in judgements if row["grade"]]
    counts = {
        "rows": len(records),
        "judgements": len(judgements),
        "raters": dict(sorted(Counter(row["rater"] for row in judgements).items())),
        "ties": len(judgements) - len(sided),
        "left_is_better": sum(sided),
        "right_is_better": len(sided) - sum(sided),
        "edited": sum(row["edited"] is not None for row in judgements),
        "dropped": {"withdrawn": withdrawn, "not judged": unjudged, **(dropped or {})},
    }
    write_data_manifest(path, config=dump(config), counts=counts)
    logger("data_builders").info(
        "%-20s %d comparisons, %d judgements by %d raters (%d judgements undone, %d comparisons not judged)",
        *(path.name, len(records), len(judgements), len(counts["raters"]), withdrawn, unjudged),
    )
    return path


def _record(row: Any, names: Mapping[str, str]) -> dict[str, Any]:
    record = {
        "id": row["name"] if row["number"] == 1 else f"{row['name']}/{row['id']}",
        "source": row["source"],
        "batch": row["batch"],
        "prompt": json.loads(row["prompt"]),
        "responses": json.loads(row["responses"]),
        "models": [names.get(name, name) for name in json.loads(row["models"])],
        "ratings": [],
    }
    if seeds := json.loads(row["seeds"]):
        record["seeds"] = seeds
    return record | {key: row[key] for key in ("tools", "round") if row[key] not in (None, "")}
