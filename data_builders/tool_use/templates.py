"""Executed tool dialogs from templates, for those who have no strong model: rows, records, pairs and a test suite.

Writes `tools.jsonl` (SFT rows), `tools.records.jsonl` (every call with its result, by row), `files/<row id>/` (the
files that the row's calls read, so that they can be repeated), `tools.preferences.jsonl` (a right message against a
wrong one), and from domains that are never trained on `tools.heldout.jsonl` (single messages, for `eval/tool_use.py`)
and `tools.dialogs.jsonl` (dialogs to run live, for `eval/tool_dialogs.py`).

The templates are domains: pairs of NAME.py, with functions, and NAME.yaml, with what people ask of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from align.config import dump
from align.errors import ConfigError
from align.files import fingerprint_of, whole_file
from align.records import identities_of
from align.reporting import logger
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import BadRows, InputPath, InputSource
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_contents import message_keys
from data_builders.row_set import RowSet, characters
from data_builders.tool_use.dialogs.catalog import PACKAGED, domain_files, load_domains
from data_builders.tool_use.dialogs.dialog import DialogKind, DialogSource, ExecutedDialog
from data_builders.tool_use.dialogs.renaming import name_key
from data_builders.tool_use.template_rows import (
    DialogSampler,
    held_out_rows,
    pair_rows,
    training_rows,
    without_similar_tasks,
)

ROWS: dict[DialogKind, int] = {
    "single": 400,
    "parallel": 80,
    "multi-step": 120,
    "mended": 40,  # codespell:ignore mended
    "dialog": 80,
    "none-right": 160,
    "restraint": 30,
    "tools-off": 20,
    "file": 20,
    "code": 20,
}


class ToolTemplatesConfig(BadRows):
    """Dialogs sampled from domains (functions, and what people ask of them), with every call executed."""

    rows: dict[DialogKind, int] = Field(default_factory=lambda: dict(ROWS))
    """Dialogs to train on, by kind."""
    domain_folders: tuple[InputPath, ...] = ()
    """Folders with domains of your own, pairs of NAME.py and NAME.yaml, in place of the packaged ones. To use both,
    name data_builders/tool_use/domains as well."""
    heldout_domains: tuple[str, ...] = ("household", "school")
    """Domains whose functions no training row offers: the test suite is made from them."""
    heldout_rows: dict[DialogKind, int] = Field(
        default_factory=lambda: {"single": 60, "multi-step": 60, "none-right": 40}  # type: ignore[arg-type]
    )
    """Dialogs held out, by kind."""
    most_offered: int = Field(3, gt=0)
    """Functions offered in one dialog, at most."""
    alone_ratio: float = Field(0.3, ge=0, le=1)
    """Share of the dialogs that offer only the functions that they are about."""
    renamed_ratio: float = Field(0.8, ge=0, le=1)
    """Share of the functions that appear under another name, with other names of parameters; the rest as they are."""
    pairs: dict[DialogKind, int] = Field(default_factory=dict)
    """Preference pairs by the kind of dialog that they come from; the dialogs are not those of `rows`. The number of
    none-right pairs, where nothing should be called, matters most for DPO: many teach silence, few teach calls."""
    without_bfcl: bool = False
    """Drop every dialog that offers a function with the name of one of BFCL's, or asks what BFCL asks."""
    max_characters: int = Field(6000, gt=0)
    """A row with more in its messages, calls and functions together is dropped, and counted."""
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of evaluation prompts, of any kind of row. Rows that match one are dropped, and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    seed: int = 0
    """Every draw."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the domains are."""
        return self.domain_folders or (PACKAGED,)

    @model_validator(mode="after")
    def _domains_exist(self) -> ToolTemplatesConfig:
        try:
            known = domain_files(self.folders)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if unknown := [name for name in self.heldout_domains if name not in known]:
            raise ValueError(f"heldout_domains: expected some of {', '.join(known)}, found {', '.join(unknown)}")
        if known.keys() <= set(self.heldout_domains):
            raise ValueError("heldout_domains names every domain, so none is left to train on")
        if not self.heldout_domains and any(self.heldout_rows.values()):
            raise ValueError("heldout_rows requires heldout_domains; set it to {} if nothing is held out")
        if without_domain := self.heldout_rows.keys() & {"file", "code"}:
            names = ", ".join(sorted(without_domain))
            raise ValueError(f"heldout_rows: {names} cannot be held out, because no domain has their functions")
        return self


def build(config: ToolTemplatesConfig, output: Path) -> Path:
    """Write the files that the head of this module names into the folder `output`, and return it."""
    # What the rows are made from.
    trained = load_domains(
        (name for name in domain_files(config.folders) if name not in config.heldout_domains), config.folders
    )
    held = [without_similar_tasks(each, trained) for each in load_domains(config.heldout_domains, config.folders)]
    excluded, questions = bfcl_keys() if config.without_bfcl else (frozenset(), set())
    evaluation = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    evaluation.add_keys(questions)

    # The rows: held out, to train on, and pairs.
    held_source = DialogSource(held, config.most_offered, 0.0, config.alone_ratio)
    heldout, dialogs = held_out_rows(DialogSampler(held_source, config.seed), config.heldout_rows)
    for suite in (heldout, dialogs):
        suite.drop_duplicates()
        suite.shuffle(config.seed)
        evaluation.add_prompts(suite.rows)
    source = DialogSource(trained, config.most_offered, config.renamed_ratio, config.alone_ratio)
    train, made_from = training_rows(DialogSampler(source, config.seed, excluded), config.rows)
    pair_seed = int(fingerprint_of("pairs", config.seed)[:8], 16)
    pairs = pair_rows(DialogSampler(source, pair_seed, excluded), config.pairs, config.seed)
    for part in (train, pairs):
        drop_unfit(part, evaluation, config.max_characters)
        part.shuffle(config.seed)

    # The files.
    write_call_files(output, train, made_from)
    inputs = identities_of(config.evaluation)
    if config.domain_folders:
        files = domain_files(config.folders).values()
        inputs |= identities_of([half for file in files for half in (file, file.with_suffix(".py"))])
    parts: dict[str, RowSet[Any]] = {
        "tools": train, "tools.preferences": pairs, "tools.heldout": heldout, "tools.dialogs": dialogs,
    }  # fmt: skip
    for name, part in parts.items():
        part.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs)
        logger("data_builders").info("%-20s %s", name, part.summary())
    write_records(output / "tools.records.jsonl", train, made_from)
    return output


def bfcl_keys() -> tuple[frozenset[str], set[str]]:
    """(keys of BFCL's function names, keys of its questions): neither may be trained on."""
    from align.assets import path_of
    from align.formats import bfcl
    from align.text import exact_key

    folder = path_of("bfcl-eval")
    questions: set[str] = set()
    for text in bfcl.question_texts(folder):
        questions |= message_keys((Message(role="user", content=text),)) | {exact_key(text)}
    return frozenset(map(name_key, bfcl.function_names(folder))), questions


def drop_unfit(rows: RowSet[Any], evaluation: Decontamination, max_characters: int) -> None:
    """Drop duplicates, rows that are too long, and rows that ask what an evaluation asks."""

    def is_long(row: SFTRow | PreferenceRow) -> bool:
        messages = row.messages if isinstance(row, SFTRow) else row.prompt
        return characters(messages, row.tools) > max_characters

    rows.drop_duplicates()
    rows.drop_where(is_long, "over max_characters")
    rows.drop_matches(evaluation)


def write_call_files(output: Path, rows: RowSet[SFTRow], made_from: Mapping[str, ExecutedDialog]) -> None:
    """Write the files that the calls of a row read to `files/<row id>/`."""
    for row in rows.rows:
        for name, data in made_from[row.id].files.items():
            with whole_file(output / "files" / row.id / name, "wb") as handle:
                handle.write(data)


def write_records(path: Path, rows: RowSet[SFTRow], made_from: Mapping[str, ExecutedDialog]) -> None:
    """Write every call of a row with its result, one line for each row."""
    with whole_file(path) as handle:
        for row in rows.rows:
            calls = [record.model_dump(exclude_defaults=True) for record in made_from[row.id].records]
            handle.write(json.dumps({"id": row.id, "records": calls}, ensure_ascii=False) + "\n")
