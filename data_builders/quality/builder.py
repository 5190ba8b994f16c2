"""The builder `quality`: raw rows in, rows to train on out, and for each row why it stayed or went.

    rows.jsonl            the rows that are kept, in the order of the sources; or one file for each named source
    dropped.jsonl         the rows that are dropped, each with gate, reason, and the id of the row that caused it
    decisions.parquet     one line for each row, kept or dropped, with its tags: what `align data why` reads
    card.md, card.json    the data card: sources with their licences, what each gate did, examples
    units/                the shards, from which an interrupted run goes on; delete the folder to free the disk

The gates are steps (`steps.py`) of one pipeline (`pipeline.py`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from align.config import dump
from align.errors import AlignError
from align.leaving import LEAVE_SECONDS, clean_up_on_sigterm, exit_code
from align.reporting import logger
from align.rows import PreferenceRow, PromptRow, Row, SFTRow
from align.settings import BadRows, InputSource, InputSources
from data_builders.quality.settings import (
    BalanceConfig,
    DecontaminationConfig,
    DifficultyConfig,
    DuplicatesConfig,
    GradesConfig,
    LanguageConfig,
    RayConfig,
    RulesConfig,
    SemanticConfig,
    TopicConfig,
)

if TYPE_CHECKING:
    from align.sampling.workers import Workers
    from data_builders.quality.pipeline import Pipeline
    from data_builders.quality.shards import Engine
    from data_builders.quality.steps import Step

Kind: TypeAlias = Literal["sft", "preferences", "prompts"]
_KINDS: dict[Kind, type[Row]] = {"sft": SFTRow, "preferences": PreferenceRow, "prompts": PromptRow}

log = logger("data_builders")

ROWS, UNITS = "rows", "units"
_SPARE_SECONDS = 5.0
"""After the time in which a helper has to clean up, until it is killed."""
_FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class QualityConfig(BadRows):
    """Clean rows: rules, language, evaluation sets, duplicates, and the balance of over-used phrases."""

    path: InputSources | None = None
    """The rows: a file, a dataset on the Hub, or a list of them. Earlier sources take precedence: of duplicates, the
    first row is kept."""
    sources: dict[Annotated[str, Field(pattern=_FILE_NAME)], InputSources] = Field(default_factory=dict)
    """In place of `path`: name -> rows. The kept rows of each name are in a file of their own, NAME.jsonl, for a mix in
    which each of them has its own weight. Sources that are named first take precedence."""
    kind: Kind = "sft"
    """What the rows are: sft (dialogs), preferences (pairs), or prompts."""
    ignore_columns: tuple[str, ...] = ()
    """Columns to ignore in the records of every source."""
    rules: RulesConfig = RulesConfig()
    """Cleaning rules."""
    language: LanguageConfig = LanguageConfig()
    """The answer's language must be the prompt's."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Rows that repeat one of their examples are dropped, and the example is named."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    duplicates: DuplicatesConfig = DuplicatesConfig()
    """Exact and near duplicates."""
    grades: GradesConfig = GradesConfig()
    """Rows that models mark as high quality. Off unless a model is named."""
    topic: TopicConfig = TopicConfig()
    """Tags rows with a topic; drops none."""
    difficulty: DifficultyConfig = DifficultyConfig()
    """Tags rows with what their user intends, and with how difficult they are; drops none. Off unless a model is
    named."""
    semantic: SemanticConfig = SemanticConfig()
    """Rows that say the same in other words."""
    balance: BalanceConfig = BalanceConfig()
    """Over-used openings and phrases."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Source of rows -> the Hub's identifier of its licence, for your own data; the data card names it."""
    shard_rows: int = Field(4096, ge=1)
    """Rows in one shard. In memory is one shard for each process; a crash loses the work on one."""
    processes: int | None = Field(1, ge=1)
    """Processes on this machine that share the work. null: one for each core. Further machines that see the folder
    join in if the same command is started there."""
    ray: RayConfig | None = None
    """Share the work through Ray Data, in place of `processes`. null: without Ray."""

    @property
    def uses_model(self) -> bool:
        """Whether a gate loads a model: each process then takes a GPU of its own."""
        return any(gate.enabled for gate in (self.grades, self.topic, self.difficulty, self.semantic))

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if (self.path is None) != bool(self.sources):
            found = "both" if self.sources else "neither"
            raise ValueError(f"expected either path or sources, found {found}. Set one of them, and the other to null")
        if "dropped" in self.sources:
            raise ValueError("sources.dropped: dropped.jsonl is the file of the dropped rows. Choose another name")
        return self

    @property
    def named_sources(self) -> dict[str, InputSources]:
        """Name of a file of kept rows, without its ending -> the rows that go into it."""
        return self.sources if self.path is None else {ROWS: self.path}

    @model_validator(mode="after")
    def _only_answers_are_graded(self) -> Self:
        if self.kind == "prompts" and self.grades.enabled:
            raise ValueError("grades names a model, but prompts have no answer to grade. Remove grades")
        return self


def build(config: QualityConfig, output: Path, *, workers: Workers | None = None) -> Path:
    """Write the files that the head of this module names into the folder `output`, and return it.

    workers: the processes on other machines that share the work; None if there are none.
    """
    from align.records import identities_of
    from align.sampling.workers import turn_to_write
    from data_builders.quality.results import write_results

    output.mkdir(parents=True, exist_ok=True)
    if config.ray is None:
        gate_pipeline = pipeline_of(config, output)
        with _helpers(config, output, _processes(config) - 1):
            gate_pipeline.complete()
    else:
        from data_builders.quality.ray_engine import RayEngine

        with RayEngine(config.ray) as engine:
            gate_pipeline = pipeline_of(config, output, engine)
            gate_pipeline.complete()
    with turn_to_write(workers) as is_first:
        if is_first:
            write_results(
                output,
                gate_pipeline,
                settings=dump(config.model_copy(update={"processes": None, "ray": None})),  # no file depends on them
                evaluation=identities_of(config.evaluation),
                licences=config.licences,
            )
    return output


def pipeline_of(config: QualityConfig, output: Path, engine: Engine | None = None) -> Pipeline[Any]:
    """The pipeline that a config describes, with its shards in `output/units`. engine: None for the local one."""
    from data_builders.quality.pipeline import Job, Pipeline
    from data_builders.quality.shards import claimed_shards

    job = Job(
        config.named_sources,
        _KINDS[config.kind],
        output / UNITS,
        config.shard_rows,
        config.bad_rows,
        config.ignore_columns,
    )
    return Pipeline(job, steps_of(config, output), engine or claimed_shards)


def steps_of(config: QualityConfig, output: Path) -> list[Step]:
    """The gates, in their order: what is cheap and looks at one row first, so that later gates see fewer rows."""
    from align.records import identities_of
    from data_builders.quality.balance import Balance
    from data_builders.quality.decontamination import Decontamination, DecontaminationStep
    from data_builders.quality.duplicates import ExactDuplicates, NearDuplicates
    from data_builders.quality.language import SameLanguage
    from data_builders.quality.rules import Rules

    steps: list[Step] = [Rules(config.rules)]
    if config.language.enabled:
        steps.append(SameLanguage(config.language))
    if config.decontamination.enabled:
        against = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows, output / UNITS)
        steps.append(DecontaminationStep(against, identities_of(config.evaluation)))
    if config.duplicates.exact:
        steps.append(ExactDuplicates())
    if config.duplicates.near:
        steps.append(NearDuplicates(config.duplicates))
    steps += _model_steps(config)
    if config.balance.enabled:
        steps.append(Balance(config.balance))
    return steps


def _model_steps(config: QualityConfig) -> list[Step]:
    """The gates that ask models. Those that tag rows come after the one that drops most of them."""
    steps: list[Step] = []
    quality, difficulty = None, None
    if config.grades.enabled:
        from data_builders.quality.grades import Grades

        steps.append(quality := Grades(config.grades))
    if config.topic.enabled:
        from data_builders.quality.topic import Topics

        steps.append(Topics(config.topic))
    if config.difficulty.enabled:
        from data_builders.quality.difficulty import Difficulty

        steps.append(difficulty := Difficulty(config.difficulty))
    if config.semantic.enabled:
        from data_builders.quality.semantic import SemanticDuplicates

        steps.append(SemanticDuplicates(config.semantic, [step for step in (quality, difficulty) if step is not None]))
    return steps


def _processes(config: QualityConfig) -> int:
    return config.processes if config.processes is not None else len(os.sched_getaffinity(0))


@contextmanager
def _helpers(config: QualityConfig, output: Path, count: int) -> Iterator[None]:
    """Other processes that complete the same shards while the block runs. One that ends early leaves its work to the
    others, and the log says why.
    """
    context = multiprocessing.get_context("spawn")  # forked processes would share open files and threads
    started: list[BaseProcess] = []
    try:
        for number in range(1, count + 1):
            # A daemon could not start processes, and vLLM does.
            process = context.Process(target=_help, args=(config, output, number), name=f"quality-{number}")
            process.start()
            started.append(process)
        yield
        for helper in started:
            if helper.exitcode:
                said = f"exit code {helper.exitcode}"
                log.warning("%s ended early (%s); the other processes have done its work", helper.name, said)
    finally:
        _end(started)


def _end(processes: Sequence[BaseProcess]) -> None:
    """End helpers: all shards are there, or the first process has failed. One that cannot clean up is killed."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + LEAVE_SECONDS + _SPARE_SECONDS
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
            process.join()


def _help(config: QualityConfig, output: Path, number: int) -> None:
    os.environ["RANK"] = "1"  # progress bars and the log are those of the first process
    os.environ["LOCAL_RANK"] = str(int(os.environ.get("LOCAL_RANK", "0")) + number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with clean_up_on_sigterm():
        try:
            if config.uses_model:
                from align.models.devices import use_own_gpu

                use_own_gpu()
            pipeline_of(config, output).complete()
        except AlignError as error:
            log.error("quality-%d ended early: %s", number, error)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(exit_code(signal.SIGINT)) from None
        finally:
            for child in multiprocessing.active_children():  # otherwise the interpreter would wait for them
                child.terminate()


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, also if that one was killed and could not end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # ends the processes that this one has started, too
        time.sleep(LEAVE_SECONDS + _SPARE_SECONDS)
        os._exit(1)
