"""Combine several sources of SFT rows into one training file, by target shares, or by epochs of each source.

Rows that are duplicates of each other, and rows that repeat an example of an evaluation set, are removed.

The rows are streamed: they are read once into a file next to the result, and copied from there in their new order. In
memory are some 400 bytes for each row (its id, its place in the file, a key of its content), and not its text.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from align.config import Section, dump
from align.errors import RowError
from align.files import whole_file
from align.jsonl import Drops, stream_rows
from align.manifest import write_data_manifest
from align.records import identities_of, is_known_to_be_empty, sources_of
from align.reporting import logger
from align.rows import SFTRow, row_id
from align.settings import InputPath, InputSource, InputSources, Reading, Source
from data_builders.quality.composition import Category, Composition, table
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.quality.spool import Spool
from data_builders.row_contents import content_key

_BATCH = 1024  # rows that are compared with the evaluation sets at once


class MixSource(Section):
    """One source of the mix: where its rows are, how many of them are used, and how often."""

    path: InputSources
    """SFT rows: a file, a dataset on the Hub, or a list of them."""
    weight: float = Field(1.0, gt=0)
    """Epochs: how often each row appears in the mix. 2 repeats every row once, 0.5 keeps a random half."""
    share: float | None = Field(None, gt=0, le=1)
    """Target ratio of the mix's rows, from 0 to 1, in place of a weight: the rows are repeated or thinned out to it.
    Give it to all sources or to none; the shares add up to 1. The share of a source without rows goes to the others."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of rows, chosen at random before weight or share is applied. null: no limit."""
    category: Category | None = None
    """The data set of Llama 3's table 7 with which the source is compared. null: with none."""

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
    rows: int | None = Field(None, gt=0)
    """Rows of a mix with shares. null: as many as the sources have together."""
    max_epochs: float = Field(4.0, ge=1)
    """A share that repeats the rows of a source more often is an error. Up to about 4 epochs, repeated text is nearly
    as good as new text (Muennighoff et al. 2023, arXiv:2305.16264)."""
    tokenizer: InputPath | None = None
    """Folder or Hub name of the tokenizer with which lengths are reported. null: in words."""
    seed: int = 0
    """Seed of the choice of rows (limit, weight, share) and of their order."""

    @model_validator(mode="after")
    def _shares_are_complete(self) -> Self:
        shares = [source.share for source in self.sources.values() if source.share is not None]
        if not shares:
            if self.rows is not None:
                raise ValueError("rows is set, but no source has a share. Set share for each source, or remove rows")
            return self
        if len(shares) < len(self.sources):
            missing = next(name for name, source in self.sources.items() if source.share is None)
            raise ValueError(f"sources.{missing} has no share, but others have. Set share for all sources or for none")
        if abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"the shares of the sources add up to {sum(shares):g}. Change them so that they add up to 1"
            )
        weighted = [name for name, source in self.sources.items() if source.weight != 1]
        if weighted:
            raise ValueError(f"sources.{weighted[0]} has a share and a weight. Remove one of them")
        return self


class _Use(NamedTuple):
    """A row of the mix: which one, and which copy of it."""

    id: str
    number: int
    copy: int


class _Written(NamedTuple):
    """What is in the file."""

    mix: Counter[str]
    """Rows by named source."""
    sources: Counter[str]
    """Rows by their own `source`."""
    composition: Composition


def build(config: SFTMixConfig, output: Path) -> Path:
    """Write `sft.jsonl` and `composition.md` into the folder `output` and return the folder.

    The manifest says how many rows each named source contributed, how often they are repeated, and what the mix
    consists of. Raises RowError if all sources are empty, or if a share would repeat a source too often.
    """
    output.mkdir(parents=True, exist_ok=True)
    dropped: Counter[str] = Counter()
    given = [path for source in config.sources.values() for path in sources_of(source.path)]
    with Spool(output) as spool:
        for name, rows in _read(config, dropped):
            spool.add(name, rows)
        if not spool.ids and not dropped:
            paths = ", ".join(source.path for source in given)
            raise RowError(paths, "contain no rows", "Check the stages that wrote them")
        uses, epochs = _chosen(config, spool, dropped)
        written = _write(config, output / "sft.jsonl", spool, uses)
    mix = {name: written.mix[name] for name in config.sources}
    copies = sum(use.copy > 0 for use in uses)
    counts = {
        "read": len(uses) - copies + dropped.total(),
        "rows": len(uses),
        **({"copies": copies} if copies else {}),
        "dropped": dict(sorted(dropped.items())),
        "sources": dict(sorted(written.sources.items())),
    }
    inputs = identities_of([*given, *config.evaluation])
    record = written.composition.record({name: each.category for name, each in config.sources.items() if each.category})
    notes = {"mix": mix, "epochs": epochs, "composition": record}
    write_data_manifest(output / "sft.jsonl", config=dump(config), inputs=inputs, counts=counts, notes=notes)
    with whole_file(output / "composition.md") as handle:
        handle.write(table(record) + "\n")
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    log = logger("data_builders")
    log.info("%-20s %d rows%s: %s", "sft mix", len(uses), f" (dropped: {reasons})" if reasons else "", mix)
    log.info("%s", table(record))
    return output


def _read(config: SFTMixConfig, dropped: Counter[str]) -> Iterator[tuple[str, list[SFTRow]]]:
    """Batches of rows that are no duplicates and repeat no evaluation example, with the names of their sources."""
    evaluation = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    ids: set[str] = set()
    seen: set[bytes] = set()
    for name, source in config.sources.items():
        for path in sources_of(source.path):
            if is_known_to_be_empty(path):
                continue
            drops = Drops()
            stream = stream_rows(path, SFTRow, reading=config, drops=drops, seed=config.seed)
            while batch := list(islice(stream, _BATCH)):
                rows = []
                for row in batch:
                    if row.id in ids:
                        renamed = {"id": row_id(name, path.path, row.id), "made_from": (row.id,)}
                        row = row.model_copy(update=renamed)
                    ids.add(row.id)
                    key = bytes.fromhex(content_key(row)[:32])
                    if key in seen:
                        dropped["duplicate"] += 1
                        continue
                    seen.add(key)
                    rows.append(row)
                found = evaluation.drops(rows)
                dropped.update(drop.reason for drop in found.values())
                yield name, [row for place, row in enumerate(rows) if place not in found]
            drops.tell()
            dropped.update(drops.reasons)


def _chosen(config: SFTMixConfig, spool: Spool, dropped: Counter[str]) -> tuple[list[_Use], dict[str, float]]:
    """The rows of the mix in their order, and name of a source -> how often its rows are in it."""
    available: dict[str, Sequence[int]] = {name: spool.numbers(name) for name in config.sources}
    for name, numbers in available.items():
        most = config.sources[name].limit
        if most is not None and len(numbers) > most:
            dropped["over the limit"] += len(numbers) - most
            available[name] = _shuffled(numbers, spool.ids, config.seed)[:most]
    targets = _targets(config, {name: len(numbers) for name, numbers in available.items()})
    uses = []
    for name, numbers in available.items():
        order, target = _shuffled(numbers, spool.ids, config.seed), targets[name]
        if target < len(order):
            dropped["down-weighted"] += len(order) - target
        for place in range(target):
            copy, number = place // len(order), order[place % len(order)]
            uses.append(_Use(spool.ids[number] + (f".{copy}" if copy else ""), number, copy))
    uses.sort()
    random.Random(config.seed).shuffle(uses)
    return uses, {name: round(targets[name] / len(numbers), 4) for name, numbers in available.items() if numbers}


def _targets(config: SFTMixConfig, available: Mapping[str, int]) -> dict[str, int]:
    """Name of a source -> its rows in the mix.

    Shares 0.5, 0.3 and 0.2 of 9 rows are 4.5, 2.7 and 1.8 rows: 4, 2 and 1, and the two rows that are missing go to the
    largest remainders, 0.8 and 0.7: 4, 3 and 2.
    """
    shares = {name: source.share for name, source in config.sources.items() if source.share and available[name]}
    if not shares:
        weights = {name: source.weight for name, source in config.sources.items()}
        return {
            name: int(weight) * available[name] + round((weight - int(weight)) * available[name])
            for name, weight in weights.items()
        }
    for name in config.sources.keys() - shares.keys():
        logger("data_builders").warning("sources.%s has no rows: its share goes to the other sources", name)
    total = config.rows if config.rows is not None else sum(available.values())
    exact = {name: share / sum(shares.values()) * total for name, share in shares.items()}
    targets = {name: int(rows + 1e-9) for name, rows in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (targets[name] - exact[name], name))
    for name in by_remainder[: total - sum(targets.values())]:
        targets[name] += 1
    for name, target in targets.items():
        epochs = target / available[name]
        if epochs > config.max_epochs:
            what = f"a share of {shares[name]:g} of {total} rows is {epochs:.1f} epochs of its {available[name]} rows"
            how = f"At most max_epochs={config.max_epochs:g}: lower share or rows, add rows, or raise max_epochs"
            raise RowError(f"sources.{name}", what, how)
    return {name: targets.get(name, 0) for name in config.sources}


def _write(config: SFTMixConfig, path: Path, spool: Spool, uses: Sequence[_Use]) -> _Written:
    """Copy the rows into the file, and measure each once. A copy has an id of its own, and names the row it repeats."""
    written = _Written(Counter(), Counter(), Composition(config.tokenizer and Path(config.tokenizer)))
    times = Counter(use.number for use in uses)
    with whole_file(path) as handle:
        for use in uses:
            text, name = spool.text(use.number), spool.source(use.number)
            written.mix[name] += 1
            if use.copy:
                record: dict[str, Any] = json.loads(text)
                row = SFTRow.model_validate({**record, "id": use.id, "made_from": (record["id"],)})
                text = row.model_dump_json(exclude_defaults=True)
            else:  # every row that is used has this copy
                row = SFTRow.model_validate_json(text)
                written.composition.add(name, row, times[use.number])
            written.sources[row.source] += 1
            handle.write(text + "\n")
    return written


def _shuffled(numbers: Sequence[int], ids: Sequence[str], seed: int) -> list[int]:
    """An order that depends on the rows' ids and the seed only."""
    ordered = sorted(numbers, key=ids.__getitem__)
    random.Random(seed).shuffle(ordered)
    return ordered
