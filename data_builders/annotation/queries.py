"""The longer SQL queries of the store. The tables are described in `database.py`."""

from __future__ import annotations

LAST = """
SELECT judgement.id, turn.task, turn.number FROM judgement JOIN turn ON turn.id = judgement.turn
WHERE turn.rater = ? AND judgement.withdrawn IS NULL ORDER BY judgement.place DESC LIMIT 1
"""
# The first task for a rater: one that can be shown (it has responses, or models can answer it), that this rater has not
# had yet, and that still needs raters. A rater counts for a task if the assignment is open and not older than
# hold_minutes (:stale is the oldest time that counts), or if the rater has judged the task. Example with two raters per
# pair (:required = 2): ann has judged it, bob opened it 90 minutes ago with hold_minutes = 60. Only ann counts,
# so a third rater gets the task.
NEXT = """
SELECT * FROM task
WHERE (:live OR responses IS NOT NULL)
AND NOT EXISTS (SELECT 1 FROM assignment AS mine WHERE mine.task = task.id AND mine.rater = :rater)
AND :required > (
    SELECT count(*) FROM assignment WHERE assignment.task = task.id AND (
        (closed IS NULL AND taken > :stale)
        OR EXISTS (
            SELECT 1 FROM turn JOIN judgement ON judgement.turn = turn.id
            WHERE turn.task = assignment.task AND turn.rater = assignment.rater AND judgement.withdrawn IS NULL
        )
    )
)
ORDER BY position LIMIT 1
"""
# How many comparisons have all their judgements. Only first turns count, which all raters of a task share.
COMPLETE = """
SELECT count(*) FROM (
    SELECT turn.task FROM judgement JOIN turn ON turn.id = judgement.turn
    WHERE judgement.withdrawn IS NULL AND turn.number = 1 GROUP BY turn.task HAVING count(*) >= ?
)
"""
# Raters who are in the middle of a dialog: they have judged a turn of it, and it is open and not stale.
GOING_ON = """
SELECT count(*) FROM assignment WHERE closed IS NULL AND taken > ? AND EXISTS (
    SELECT 1 FROM turn JOIN judgement ON judgement.turn = turn.id
    WHERE turn.task = assignment.task AND turn.rater = assignment.rater AND judgement.withdrawn IS NULL
)
"""
OPEN = """
SELECT turn.id FROM assignment JOIN turn ON turn.task = assignment.task AND turn.rater = assignment.rater
WHERE assignment.rater = ? AND closed IS NULL AND withdrawn IS NULL ORDER BY taken DESC, number DESC LIMIT 1
"""
