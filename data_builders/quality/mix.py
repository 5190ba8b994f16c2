"""One SFT file out of several: named sources with weights and limits, without duplicates and evaluation prompts."""

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
from data_builders.row_set import Counted, evaluation_keys, read_counted


class MixSource(Section):
    """One source of the mix."""

    path: InputSources
    """SFT rows: a file, a Hub dataset, or a list of them."""
    weight: float = Field(1.0, gt=0)
    """How often each row stands in the mix: 2 repeats every row, 0.5 keeps a seeded half."""
    limit: int | None = Field(None, gt=0)
    """At most so many rows before the weight acts, taken by a seeded shuffle."""

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        for path in self.path if isinstance(self.path, tuple) else (self.path,):
            if isinstance(path, Source) and path.weight != 1:
                what = "is set in a section of path, whose copies the mix would drop as duplicates"
                raise ValueError(f"weight {path.weight:g} {what}; set weight next to path")
        return self


class SFTMixConfig(Reading):
    """Named sources that become one `sft.jsonl`."""

    sources: dict[str, MixSource] = Field(min_length=1)
    """Name -> source. Of rows that say the same, the one of the source named first is kept."""
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of evaluation prompts, of any kind of row. Rows that match one are dropped, and counted."""
    seed: int = 0
    """Limits, weights and the order of the rows."""


def build(config: SFTMixConfig, output: Path) -> Path:
    """Write `sft.jsonl` into the folder `output`, and return the folder. The manifest counts rows by source name."""
    mixed: Counted[SFTRow] = Counted()
    origin: dict[str, str] = {}
    given: list[Source] = []
    for name, source in config.sources.items():
        for path in sources_of(source.path):
            given.append(path)
            if is_known_to_be_empty(path):
                continue
            rows = read_counted(path, SFTRow, config, config.seed)
            for row in rows.rows:
                row = row if row.id not in origin else row.model_copy(update={"id": row_id(name, path.path, row.id)})
                origin[row.id] = name
                mixed.keep(row)
            mixed.dropped.update(rows.dropped)
    if not mixed.rows:
        raise RowError(", ".join(source.path for source in given), "hold no rows", "Check the stages that wrote them")
    mixed.drop_duplicates()
    mixed.drop_matches(evaluation_keys(config.evaluation, config.bad_rows))
    by_source: dict[str, Counted[SFTRow]] = {name: Counted() for name in config.sources}
    for row in mixed.rows:
        by_source[origin[row.id]].keep(row)
    mixed.rows = []
    for name, part in by_source.items():
        source = config.sources[name]
        part.limit(source.limit, config.seed)
        part.weigh(source.weight, config.seed)
        mixed.add(part)
    mixed.shuffle(config.seed)
    mix = {name: len(part.rows) for name, part in by_source.items()}
    inputs = identities_of([*given, *config.evaluation])
    mixed.write(output / "sft.jsonl", config=dump(config), inputs=inputs, notes={"mix": mix})
    logger("data_builders").info("%-20s %s: %s", "sft mix", mixed.summary(), mix)
    return output
