"""Combine several sources of SFT rows into one training file, with a weight and a limit for each source.

Rows that are duplicates of each other, and rows that appear in an evaluation set, are removed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from align.config import Section, dump
from align.errors import RowError
from align.records import identities_of, is_known_to_be_empty, sources_of
from align.reporting import logger
from align.rows import SFTRow, row_id
from align.settings import InputSource, InputSources, Reading, Source
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_set import RowSet, read_row_set


class MixSource(Section):
    """One source of the mix: where its rows are, how many of them are used, and how often."""

    path: InputSources
    """SFT rows: a file, a dataset on the Hub, or a list of them."""
    weight: float = Field(1.0, gt=0)
    """How often each row appears in the mix: 2 repeats every row once, 0.5 keeps a random half."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of rows, chosen at random before the weight is applied. null: no limit."""

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        for path in self.path if isinstance(self.path, tuple) else (self.path,):
            if isinstance(path, Source) and path.weight != 1:
                what = "is set inside path, where it has no effect: the mix drops the copies as duplicates"
                raise ValueError(f"weight {path.weight:g} {what}. Set weight next to path instead")
        return self


class SFTMixConfig(Reading):
    """Combine named sources of SFT rows into one training file, `sft.jsonl`."""

    sources: dict[str, MixSource] = Field(min_length=1)
    """Name -> source. If several sources contain the same row, only the row of the source named first is kept."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Rows whose prompt is in one of them are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    seed: int = 0
    """Seed of the choice of rows (limit, weight) and of their order."""


def build(config: SFTMixConfig, output: Path) -> Path:
    """Write `sft.jsonl` into the folder `output` and return the folder.

    The manifest says how many rows each named source contributed. Raises RowError if all sources are empty.
    """
    mixed: RowSet[SFTRow] = RowSet()
    origin: dict[str, str] = {}
    given: list[Source] = []
    for name, source in config.sources.items():
        for path in sources_of(source.path):
            given.append(path)
            if is_known_to_be_empty(path):
                continue
            rows = read_row_set(path, SFTRow, config, config.seed)
            for row in rows.rows:
                if row.id in origin:
                    renamed = {"id": row_id(name, path.path, row.id), "made_from": (row.id,)}
                    row = row.model_copy(update=renamed)
                origin[row.id] = name
                mixed.keep(row)
            mixed.dropped.update(rows.dropped)
    if not mixed.rows:
        raise RowError(
            ", ".join(source.path for source in given), "contain no rows", "Check the stages that wrote them"
        )
    mixed.drop_duplicates()
    mixed.drop_matches(Decontamination.of(config.evaluation, config.decontamination, config.bad_rows))
    by_source: dict[str, RowSet[SFTRow]] = {name: RowSet() for name in config.sources}
    for row in mixed.rows:
        by_source[origin[row.id]].keep(row)
    mixed.rows = []
    for name, part in by_source.items():
        source = config.sources[name]
        part.limit(source.limit, config.seed)
        part.apply_weight(source.weight, config.seed)
        mixed.add(part)
    mixed.shuffle(config.seed)
    mix = {name: len(part.rows) for name, part in by_source.items()}
    inputs = identities_of([*given, *config.evaluation])
    mixed.write(output / "sft.jsonl", config=dump(config), inputs=inputs, notes={"mix": mix})
    logger("data_builders").info("%-20s %s: %s", "sft mix", mixed.summary(), mix)
    return output
