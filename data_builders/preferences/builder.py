"""Preference rows: comparisons that a user brings, and general pairs. Answers that people marked: `judged_answers.py`.

A user's comparisons are read by `importers.py`, settled by `comparisons.py`, and reported on by `agreement.py`
and `preference_report.py`; here stands what is done to them in which order.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from align.config import Section, dump
from align.errors import RowError, UnusableRow
from align.files import fingerprint_of, whole_file
from align.records import SourceLike, identities_of, sources_of
from align.reporting import logger
from align.rows import STRONG_LEVELS, Level, Message, Messages, PreferenceRow, row_id
from align.settings import InputPath, InputSource, InputSources
from align.text import normalize
from data_builders.packaged import GENERAL, Comparison
from data_builders.preferences.agreement import agreement, batch_name
from data_builders.preferences.comparisons import Compared, merged, settled
from data_builders.preferences.importers import ImportConfig, comparisons_in
from data_builders.preferences.near_duplicates import NearEqualConfig, drop_near_equal
from data_builders.preferences.report import (
    GroupBy,
    bias_text,
    composition,
    length_bias,
    level_shares,
    measures,
    table_text,
)
from data_builders.row_set import Counted, characters, evaluation_keys, part_of, prompt_keys

_TOLD_BAD_ROWS = 20


class GeneralConfig(Section):
    """The general pairs of the demo set; who chose is not documented."""

    max_characters: int = Field(4000, gt=0)
    """A row with more in prompt, chosen and rejected together is dropped, and counted."""
    limit: int | None = Field(None, gt=0)
    """Rows to train on."""
    heldout_limit: int | None = Field(None, gt=0)
    """Rows held out."""


class PreferencesConfig(Section):
    """A user's own comparisons: read, settled, checked, and cut into rows to train on and rows held out."""

    path: InputSources
    """Records in any form of file (docs/formats.md): pairs of ours or of other toolkits, ratings by several raters,
    scores, dialogs, exports of Argilla and Label Studio. `data_builders/preferences/importers.py` lists the forms."""
    imports: ImportConfig = ImportConfig()
    """How records become comparisons."""
    bad_rows: Literal["stop", "drop"] = "stop"
    """A record that cannot be read ends the run, with file, line, field and reason of each; or it is dropped, counted,
    and listed in `preferences.bad.jsonl`."""
    majority: float = Field(0.5, ge=0.5, le=1)
    """Share of a comparison's judgements, ties included, that must agree on the better response. More than half always;
    1 wants all."""
    levels: tuple[Level, ...] | None = STRONG_LEVELS
    """Graded rows are kept at these levels (P 4.2.1), None for all; rows that nobody graded are kept."""
    near_equal: NearEqualConfig = NearEqualConfig()
    """Which responses are too similar to learn from."""
    heldout_share: float = Field(0.1, ge=0, lt=1)
    """Share of the prompts held out. A prompt is on one side only, with all its pairs and all turns of its dialog. Of
    every named batch at least one prompt is held out, where it has two."""
    max_characters: int | None = Field(None, gt=0)
    """A row with more in its prompt and completions together is dropped, and counted; None for no limit."""
    limit: int | None = Field(None, gt=0)
    """Rows to train on, taken by a seeded shuffle."""
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of evaluation prompts, of any kind of row. Rows to train on that match one are dropped, and counted."""
    table_by: GroupBy = "source"
    """What a line of the printed table stands for."""
    tokenizer: InputPath | None = None
    """A tokenizer's folder, to print the table in tokens; None prints characters and words."""
    seed: int = 0
    """The cut and the shuffle."""


def build(config: PreferencesConfig, output: Path) -> Path:
    """Write `preferences.jsonl`, `preferences.heldout.jsonl` and `preferences.report.json` into the folder `output`.

    Each row file has its manifest. What is dropped before the cut is counted with the rows to train on.
    """
    log = logger("data_builders")
    records, compared, bad, unusable = _read(sources_of(config.path), config.imports)
    if bad and config.bad_rows == "stop":
        raise _stopped(bad)
    comparisons, repeats = merged(compared)
    train: Counted[PreferenceRow] = Counted()
    train.drop("bad row", len(bad))
    for reason, count in unusable.items():
        train.drop(reason, count)
    train.drop("duplicate", repeats)
    for one in comparisons:
        row = settled(one, config.majority)
        if isinstance(row, str):
            train.drop(row)
        else:
            train.keep(row)
    shares = level_shares(train.rows)
    if config.levels is not None:
        kept = frozenset(config.levels)
        train.drop_where(lambda row: row.level is not None and row.level not in kept, "level not kept")
    train.drop_where(lambda row: any(map(_is_empty, row.completions)), "empty response")
    drop_unusable(train, config.max_characters)
    thinned = drop_near_equal(train, config.near_equal)
    heldout = cut_by_prompt(train, config.heldout_share, config.seed)
    train.drop_matches(evaluation_keys(config.evaluation, config.bad_rows).union(*map(prompt_keys, heldout.rows)))
    train.limit(config.limit, config.seed)

    rows = train.rows + heldout.rows
    units = measures(config.tokenizer)
    parts = {"preferences": train, "preferences.heldout": heldout}
    report: dict[str, Any] = {
        "records": records,
        "bad_rows": len(bad),
        "middle_responses_left_out": thinned,
        "levels": shares,
        "length_bias": length_bias(rows),
        "table": composition(rows, config.table_by, units),
        "parts": {name: composition(part.rows, "batch", units) for name, part in parts.items()},
        "agreement": agreement(comparisons),
    }
    inputs = identities_of([*sources_of(config.path), *sources_of(config.evaluation)])
    for name, part in parts.items():
        if part.rows or name == "preferences":
            part.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs, notes={"records": records})
        log.info("%-20s %s", name, part.summary())
    (output / "preferences.bad.jsonl").unlink(missing_ok=True)
    if bad:
        with whole_file(output / "preferences.bad.jsonl") as handle:
            handle.writelines(json.dumps(_told(error), ensure_ascii=False) + "\n" for error in bad)
    with whole_file(output / "preferences.report.json") as handle:
        json.dump(report, handle, indent=1, ensure_ascii=False)
    log.info("\n%s\n\n%s\n\n%s", table_text(report["table"]), bias_text(report["length_bias"]), _agreed(report))
    return output


def cut_by_prompt(found: Counted[PreferenceRow], share: float, seed: int) -> Counted[PreferenceRow]:
    """Take the held-out rows out of `found`, and return them: all rows of some prompts, from every batch.

    A prompt goes by its hash, so it stays where it is as data grows. Where that gives none of a named batch with two
    prompts or more, its prompt with the smallest hash goes too, from all batches.
    """
    prompts = {row.id: prompt_identity(row.prompt) for row in found.rows}
    chosen = {prompt for prompt in prompts.values() if part_of(prompt, (share,), seed) == 0}
    batches: dict[str, set[str]] = {}
    for row in found.rows:
        if row.batch or row.round is not None:
            batches.setdefault(batch_name(row.round, row.batch), set()).add(prompts[row.id])
    for _, batch in sorted(batches.items()):
        if share and len(batch) > 1 and chosen.isdisjoint(batch):
            chosen.add(min(batch, key=lambda prompt: fingerprint_of(seed, prompt)))
    heldout = Counted(row for row in found.rows if prompts[row.id] in chosen)
    found.rows = [row for row in found.rows if prompts[row.id] not in chosen]
    return heldout


def general_pairs(comparisons: Sequence[Comparison], max_characters: int) -> Counted[PreferenceRow]:
    found: Counted[PreferenceRow] = Counted()
    for pair in comparisons:
        completions = (_said(pair.chosen), _said(pair.rejected))
        if completions[0] == completions[1]:
            found.drop("similar answers")
            continue
        identity = row_id(GENERAL, *(message.content for message in pair.prompt), pair.chosen, pair.rejected)
        found.keep(PreferenceRow(id=identity, source=GENERAL, prompt=pair.prompt, completions=completions))
    drop_unusable(found, max_characters)
    return found


def drop_unusable(found: Counted[PreferenceRow], max_characters: int | None) -> None:
    """Drop duplicates, rows whose completions say the same, and rows over the length."""
    found.drop_duplicates()
    found.drop_where(lambda row: _says(row.chosen) == _says(row.rejected), "similar answers")
    if max_characters is not None:
        found.drop_where(lambda row: _length(row) > max_characters, "over max_characters")


def prompt_identity(prompt: Messages) -> str:
    """What cuts apart by prompt: the first user message, so that the turns of one dialog stay together."""
    users = [message.content for message in prompt if message.role == "user"]
    return normalize(users[0] if users else prompt[0].content)


def _said(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def _says(completion: Messages) -> list[tuple[str, str]]:
    return [
        (normalize(message.content), " ".join(f"{call.name}{call.arguments}" for call in message.tool_calls))
        for message in completion
    ]


def _is_empty(completion: Messages) -> bool:
    return not any(message.content.strip() or message.tool_calls for message in completion)


def _length(row: PreferenceRow) -> int:
    return characters(row.prompt, row.tools) + sum(map(characters, row.completions))


def _read(
    paths: Sequence[SourceLike], config: ImportConfig
) -> tuple[int, list[Compared], list[RowError], Counter[str]]:
    """(records read, their comparisons, what is wrong with the bad ones, why others prefer nothing)."""
    records, compared, bad, unusable = 0, [], [], Counter[str]()
    for path in paths:
        for found in comparisons_in(path, config):
            records += 1
            if isinstance(found, UnusableRow):
                unusable[found.reason] += 1
            elif isinstance(found, RowError):
                bad.append(found)
            else:
                compared += found
    return records, compared, bad, unusable


def _stopped(bad: Sequence[RowError]) -> RowError:
    """All bad rows in one error, the first in full."""
    first, *others = bad
    how = f"{first.how} Or set preferences.bad_rows to drop, to go on without such rows"
    more = [f"{error.where}: {error.what}" for error in others[:_TOLD_BAD_ROWS]]
    if len(others) > _TOLD_BAD_ROWS:
        more.append(f"and {len(others) - _TOLD_BAD_ROWS} more")
    return RowError(first.where, first.what, "\n".join([f"{how}.", *more]) if more else how)


def _told(error: RowError) -> dict[str, Any]:
    file, line, field = re.fullmatch(r"(.*?):(\d+)(?:: (.*))?", error.where, re.DOTALL).groups()  # type: ignore[union-attr]
    return {"file": file, "line": int(line), "field": field, "reason": error.what}


def _agreed(report: dict[str, Any]) -> str:
    """The agreement of raters for a person, in a line or two."""
    found = report["agreement"]
    if not found["judged_by_several"]:
        return "agreement: no comparison was judged by more than one rater"
    sides, grades = ("undefined" if found[key] is None else f"{found[key]:.3f}" for key in ("sides", "grades"))
    return (
        f"agreement: Krippendorff's alpha {sides} of sides, {grades} of grades, over {found['judged_by_several']} "
        f"comparisons judged by several; {len(found['ties'])} with a tie, {len(found['contradictions'])} contradicted"
    )
