"""Turn a user's preference data into training rows and held-out rows for a reward model and DPO.

This file holds the order of the steps:

1. read records of any supported form as comparisons of two responses (`importers.py`);
2. bring all judgements of the same comparison together, and decide it by majority (`comparisons.py`);
3. drop rows that are not usable: weak levels, empty responses, duplicates, near-duplicates (`near_duplicates.py`);
4. split by prompt into training and held-out rows, and drop training rows that match an evaluation set;
5. write the rows, and a report on their composition (`report.py`) and on how far the raters agree (`agreement.py`).
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
from align.rows import STRONG_LEVELS, Level, Messages, PreferenceRow
from align.settings import InputPath, InputSource, InputSources
from align.splits import part_of, prompt_identity
from align.text import normalize
from data_builders.preferences.agreement import agreement, batch_name
from data_builders.preferences.comparisons import Comparison, majority_row, merge_judgements
from data_builders.preferences.importers import ImportConfig, comparisons_in
from data_builders.preferences.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from data_builders.preferences.report import (
    GroupBy,
    bias_text,
    composition,
    length_bias,
    level_shares,
    measures,
    table_text,
)
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_set import RowSet, characters

_MAX_LISTED_BAD_ROWS = 20


class PreferencesConfig(Section):
    """Your own preference data (pairs, ratings, scores, dialogs, exports) as training rows and held-out rows."""

    path: InputSources
    """Records in any supported format: our pairs or those of other toolkits, ratings by several raters, scores,
    dialogs,
    exports of Argilla and Label Studio. docs/formats.md has an example of each."""
    imports: ImportConfig = ImportConfig()
    """How records become comparisons."""
    bad_rows: Literal["stop", "drop"] = "stop"
    """What to do with records that cannot be read. stop: end the run and report file, line, field and reason of each.
    drop: skip and count them, and list them in `preferences.bad.jsonl`."""
    majority: float = Field(0.5, ge=0.5, le=1)
    """Ratio of a comparison's judgements, ties included, that must prefer the same response. More than half is always
    required; 1 requires all."""
    levels: tuple[Level, ...] | None = STRONG_LEVELS
    """Levels of preference to keep; null keeps all. Llama 3 (section 4.2.1) trains on these two. Rows without a level
    are always kept."""
    near_duplicates: NearDuplicatesConfig = NearDuplicatesConfig()
    """When two responses are too similar to learn from."""
    heldout_ratio: float = Field(0.1, ge=0, lt=1)
    """Ratio of the prompts to hold out, from 0 to 1. All pairs of a prompt and all turns of a dialog are on the same
    side.
    At least one prompt of every named batch is held out, if the batch has two or more."""
    max_characters: int | None = Field(None, gt=0)
    """Maximum length of prompt and completions together, in characters. Longer rows are dropped and counted. null: no
    limit."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of training rows, chosen at random. null: no limit."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Training rows whose prompt is in one of them are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    table_by: GroupBy = "source"
    """What the rows of the printed table are grouped by."""
    tokenizer: InputPath | None = None
    """Folder of a tokenizer, to print lengths in tokens. null: lengths in characters and words."""
    seed: int = 0
    """Seed of the split and of the choice of rows."""


def build(config: PreferencesConfig, output: Path) -> Path:
    """Write `preferences.jsonl`, `preferences.heldout.jsonl` and `preferences.report.json` into the folder `output`.

    Each file of rows gets a manifest. Rows that are dropped before the split are counted in the manifest of the
    training rows. Raises RowError for records that cannot be read, unless `bad_rows` is "drop".
    """
    log = logger("data_builders")
    records, read, bad, unusable = _read(sources_of(config.path), config.imports)
    if bad and config.bad_rows == "stop":
        raise _stopped(bad)
    comparisons, repeats = merge_judgements(read)
    train: RowSet[PreferenceRow] = RowSet()
    train.drop("bad row", len(bad))
    for reason, count in unusable.items():
        train.drop(reason, count)
    train.drop("duplicate", repeats)
    _add_majority_rows(train, comparisons, config.majority)
    shares = level_shares(train.rows)
    if config.levels is not None:
        kept = frozenset(config.levels)
        train.drop_where(lambda row: row.level is not None and row.level not in kept, "level not kept")
    train.drop_where(lambda row: any(map(_is_empty, row.completions)), "empty response")
    drop_unusable(train, config.max_characters)
    shortened = drop_near_duplicates(train, config.near_duplicates)
    heldout = split_by_prompt(train, config.heldout_ratio, config.seed)
    evaluation = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    evaluation.add_prompts(heldout.rows)
    train.drop_matches(evaluation)
    train.limit(config.limit, config.seed)

    rows = train.rows + heldout.rows
    units = measures(config.tokenizer)
    parts = {"preferences": train, "preferences.heldout": heldout}
    report: dict[str, Any] = {
        "records": records,
        "bad_rows": len(bad),
        "middle_responses_left_out": shortened,
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
    _write_bad_rows(output / "preferences.bad.jsonl", bad)
    with whole_file(output / "preferences.report.json") as handle:
        json.dump(report, handle, indent=1, ensure_ascii=False)
    agreed = _agreement_text(report["agreement"])
    log.info("\n%s\n\n%s\n\n%s", table_text(report["table"]), bias_text(report["length_bias"]), agreed)
    return output


def split_by_prompt(found: RowSet[PreferenceRow], ratio: float, seed: int) -> RowSet[PreferenceRow]:
    """Move all rows of some prompts out of `found`, and return them as the held-out rows.

    Whether a prompt is held out depends on its hash only, so it does not change when data is added. If no prompt of a
    named batch with two or more prompts is chosen this way, the one with the smallest hash is held out too, in all
    batches, so that every batch can be evaluated.
    """
    prompts = {row.id: prompt_identity(row.prompt) for row in found.rows}
    chosen = {prompt for prompt in prompts.values() if part_of(prompt, (ratio,), seed) == 0}
    batches: dict[str, set[str]] = {}
    for row in found.rows:
        if row.batch or row.round is not None:
            batches.setdefault(batch_name(row.round, row.batch), set()).add(prompts[row.id])
    for _, batch in sorted(batches.items()):
        if ratio and len(batch) > 1 and chosen.isdisjoint(batch):
            chosen.add(min(batch, key=lambda prompt: fingerprint_of(seed, prompt)))
    heldout = RowSet(row for row in found.rows if prompts[row.id] in chosen)
    found.rows = [row for row in found.rows if prompts[row.id] not in chosen]
    return heldout


def drop_unusable(found: RowSet[PreferenceRow], max_characters: int | None) -> None:
    """Drop duplicates, rows whose completions are equal after normalization, and rows that are too long."""
    found.drop_duplicates()
    found.drop_where(lambda row: _normalized(row.chosen) == _normalized(row.rejected), "similar answers")
    if max_characters is not None:
        found.drop_where(lambda row: _length(row) > max_characters, "over max_characters")


def _add_majority_rows(rows: RowSet[PreferenceRow], comparisons: Sequence[Comparison], majority: float) -> None:
    for comparison in comparisons:
        row = majority_row(comparison, majority)
        if isinstance(row, str):
            rows.drop(row)
        else:
            rows.keep(row)


def _normalized(completion: Messages) -> list[tuple[str, str]]:
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
) -> tuple[int, list[Comparison], list[RowError], Counter[str]]:
    """Read all sources.

    Returns the number of records, their comparisons, the errors of records that cannot be read, and why other records
    prefer no response.
    """
    records, comparisons, bad, unusable = 0, [], [], Counter[str]()
    for path in paths:
        for found in comparisons_in(path, config):
            records += 1
            if isinstance(found, UnusableRow):
                unusable[found.reason] += 1
            elif isinstance(found, RowError):
                bad.append(found)
            else:
                comparisons += found
    return records, comparisons, bad, unusable


def _stopped(bad: Sequence[RowError]) -> RowError:
    """Put all records that cannot be read into one error, the first of them in full."""
    first, *others = bad
    how = f"{first.how} Or set preferences.bad_rows to drop, to continue without such rows"
    more = [f"{error.where}: {error.what}" for error in others[:_MAX_LISTED_BAD_ROWS]]
    if len(others) > _MAX_LISTED_BAD_ROWS:
        more.append(f"and {len(others) - _MAX_LISTED_BAD_ROWS} more")
    return RowError(first.where, first.what, "\n".join([f"{how}.", *more]) if more else how)


def _write_bad_rows(path: Path, bad: Sequence[RowError]) -> None:
    """List the records that were dropped because they cannot be read. Without any, an old list is deleted."""
    path.unlink(missing_ok=True)
    if bad:
        with whole_file(path) as handle:
            handle.writelines(json.dumps(_bad_row(error), ensure_ascii=False) + "\n" for error in bad)


def _bad_row(error: RowError) -> dict[str, Any]:
    file, line, field = re.fullmatch(r"(.*?):(\d+)(?:: (.*))?", error.where, re.DOTALL).groups()  # type: ignore[union-attr]
    return {"file": file, "line": int(line), "field": field, "reason": error.what}


def _agreement_text(found: dict[str, Any]) -> str:
    """Return the agreement of the raters as a line of text."""
    if not found["judged_by_several"]:
        return "agreement: no comparison was judged by more than one rater"
    sides, grades = ("undefined" if found[key] is None else f"{found[key]:.3f}" for key in ("sides", "grades"))
    return (
        f"agreement: Krippendorff's alpha is {sides} for sides and {grades} for grades, over "
        f"{found['judged_by_several']} comparisons with several raters; {len(found['ties'])} comparisons have a tie, "
        f"{len(found['contradictions'])} have raters who contradict each other"
    )
