"""Collect one batch of comparisons: models answer prompts, raters compare the answers, and rows are made of it.

`recipes/collect.py` runs the steps in this order, each of which continues where a killed run was:

1. `answer_prompts`: two models that are drawn for each prompt answer it, in units of work, one model in memory at a
   time. So no model is in memory while people rate, unless dialogs continue.
2. `serve`: the page is open until the agreed number of comparisons is judged, or until the file `finish` appears.
3. `write_batch`: the judgements, and preference rows by majority.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from align.config import Section, dump
from align.errors import RowError, StageError
from align.files import fingerprint_of
from align.generation.engine import GenerationEngine
from align.jsonl import write_rows
from align.manifest import write_data_manifest
from align.publish.names import shown_path
from align.reporting import Progress, logger, on_terminal
from align.rounds.processes import Signals
from align.rows import PromptRow, row_id
from align.sampling.candidates import fitting_prompts, sample_candidates
from align.settings import InputSource, InputSources, ModelConfig, Reading, SamplingConfig
from data_builders.annotation.answers import Answers
from data_builders.annotation.export import export
from data_builders.annotation.scripted_rater import ScriptedRater
from data_builders.annotation.server import TOKEN_VARIABLE, Server
from data_builders.annotation.store import Store
from data_builders.annotation.tool_turns import ToolTurns
from data_builders.preferences.builder import PreferencesConfig, build
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_set import read_row_set

FINISH = "finish"
"""A file of this name in the output folder ends the collection with the judgements that there are."""
LINK = "link.txt"
"""A file in the output folder with the address of a page that has a generated token, while the page is open."""
_LOOK_SECONDS = 0.3


def choose_prompts(
    sources: InputSources, reading: Reading, evaluation: Decontamination, limit: int | None, seed: int
) -> list[PromptRow]:
    """Read prompts, and draw `limit` of those that no evaluation has. The log says what was dropped, and why."""
    prompts = read_row_set(sources, PromptRow, reading, seed)
    prompts.drop_duplicates()
    prompts.drop_matches(evaluation)
    prompts.limit(limit, seed)
    logger("data_builders").info("%-20s %s", "prompts", prompts.summary())
    if not prompts.rows:
        raise RowError("prompts", f"no prompt is left: {prompts.summary()}", "Name a file with prompts")
    return prompts.rows


def draw_models(names: Sequence[str], seed: int, prompt_id: str) -> list[str]:
    """Draw the two different models that answer a prompt, by seed and prompt only."""
    return random.Random(row_id(seed, prompt_id)).sample(sorted(names), 2)


class Answering(NamedTuple):
    """How models answer prompts: settings of `recipes/collect.py`."""

    models: Mapping[str, ModelConfig]
    sampling: SamplingConfig
    samples: int
    unit_size: int
    round_number: int | None
    seed: int


def answer_prompts(prompts: Sequence[PromptRow], how: Answering, folder: Path) -> dict[str, Path]:
    """Let two models answer each prompt. Returns name of a model -> its answers, as a file of candidates.

    Each answer has a seed of its own, made from `how.seed`, the model's name, the prompt's id and the answer's number.
    A prompt that is too long for a model is dropped for it, which the manifest of the file counts.
    """
    asked: dict[str, list[PromptRow]] = defaultdict(list)
    for row in prompts:
        for name in draw_models(list(how.models), how.seed, row.id):
            asked[name].append(row)
    files = {}
    for name, rows in sorted(asked.items()):
        engine = GenerationEngine.from_settings(how.models[name], how.sampling)
        fitting, dropped = fitting_prompts(rows, engine)
        answers = sample_candidates(
            fitting,
            engine,
            k=how.samples,
            seed=int(fingerprint_of(how.seed, name)[:12], 16),
            folder=folder / "units" / name,
            unit_size=how.unit_size,
            label=name[:14],
            model=shown_path(how.models[name].path),
            round_number=how.round_number,
            temperature=how.sampling.temperature,
        )
        engine.close()
        files[name] = folder / f"answers.{name}.jsonl"
        counts = {"rows": write_rows(files[name], answers.rows()), "dropped": dict(dropped)}
        write_data_manifest(files[name], config=dump(how.sampling), counts=counts)
    return files


def serve(
    server: Server,
    store: Store,
    folder: Path,
    *,
    answers: Answers | None = None,
    tools: ToolTurns | None = None,
    scripted: ScriptedRater | None = None,
) -> None:
    """Serve the page until all comparisons are judged, or until the file `finish` is in the folder.

    After SIGTERM, SIGINT or SIGHUP the page is closed, and SystemExit is raised with the shell's code for the signal:
    the collection is not over, and the same command continues it. Closes the store.
    """
    place = announce(server, folder)
    with Signals() as signals:
        page = threading.Thread(target=server.run, args=(store, answers, tools, False), name="page")
        page.start()
        progress = Progress("comparisons", total=store.comparisons, done=store.complete)
        if not on_terminal():  # at once, so that rounds show where the page is
            print(progress.line(0.0, place), file=sys.stderr, flush=True)
        try:
            if scripted is not None:
                scripted.start(server.address)
            while not (signals.caught or (folder / FINISH).exists() or store.is_finished):
                progress.advance(store.complete - progress.done, note=place)
                signals.wait(_LOOK_SECONDS)
                if scripted is not None and scripted.failure is not None:
                    raise scripted.failure
                if not page.is_alive():  # it has closed the store too
                    raise StageError("page", "has ended unexpectedly", "See the log; the same command continues")
            logger("data_builders").info("%-20s %d of %d", "comparisons", store.complete, store.comparisons)
        finally:
            progress.close()
            if scripted is not None:
                scripted.stop()
            server.stop()
            page.join()
            if tools is not None:
                tools.close()
            (folder / LINK).unlink(missing_ok=True)
        if signals.caught:
            logger("data_builders").info("the page is closed; the same command continues, with all judgements")
            raise SystemExit(128 + signals.caught[0])


class BatchRules(NamedTuple):
    """How judgements become rows: settings of the builder `preferences`."""

    majority: float
    heldout_ratio: float
    seed: int
    evaluation: tuple[InputSource, ...] = ()
    decontamination: DecontaminationConfig = DecontaminationConfig()


def write_batch(
    database: Path,
    folder: Path,
    config: Section,
    rules: BatchRules,
    names: Mapping[str, str],
    dropped: Mapping[str, int],
) -> Path:
    """Write `ratings.jsonl`, all judgements, and `preferences.jsonl`, the rows that follow by majority.

    names: name of a model in the database -> its name in the rows. All levels are kept; trainers select by level.
    dropped: reason -> number of prompts that could not be compared, for the manifest.
    """
    ratings = export(database, folder / "ratings.jsonl", config, names, dropped)
    build(PreferencesConfig(path=ratings, levels=None, **rules._asdict()), folder)
    (folder / FINISH).unlink(missing_ok=True)
    return folder


def announce(server: Server, folder: Path) -> str:
    """Print where the page is. Returns the place for the progress line.

    In rounds, what is printed becomes a log, so a token is not printed. If it was generated, a link with it is written
    to a file that its owner alone can read; if the environment has it, nothing is written.
    """
    place, _, query = server.address.partition("?")
    if query and os.environ.get(TOKEN_VARIABLE):
        place = f"{place} (with the token in {TOKEN_VARIABLE})"
    elif query:
        link = folder / LINK
        link.touch(mode=0o600)
        link.chmod(0o600)
        link.write_text(f"{server.address}\n", encoding="utf-8")
        place = f"the link in {link}"
    print(f"annotation page   {place}\nto finish early   touch {folder / FINISH}", flush=True)
    return place
