"""Executed tool trajectories: a model gets prompts and tools, its calls are run as it writes them, and the trajectories
that end well become rows.

This is how Llama 3 (section 4.3.5) makes zero-shot and multi-step tool data, with execution in place of annotators.
Every row has the records of its calls, so a trajectory can be played back without any tool. `trajectory_rows.py`
decides which trajectories are kept, and makes the pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from align.config import dump
from align.errors import ConfigError, RowError
from align.files import fingerprint_of, fingerprint_of_each
from align.jsonl import read_rows
from align.records import inputs_of, label_of, sources_of
from align.reporting import logger
from align.rows import Message, Messages, PromptRow, Row, SFTRow, ToolQuestionRow, row_id, tools_of, tools_text
from align.sampling.workers import Workers, turn_to_write
from align.settings import ChatName, EnvironmentConfig, InputPath, InputSource, InputSources, Reading, SamplingConfig
from align.tools.catalog import ToolsConfig, make_registry
from align.tools.interpreter import DialogSession, interpreter_tool
from align.tools.registry import Registry
from align.tools.replay import CallRecord, Recorder, Replay, ReplayError
from align.tools.sandbox.session import Sandbox, SandboxLimits
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_set import RowSet, read_row_set
from data_builders.tool_use.trajectory_rows import SampledTrajectory, preference_rows, sft_rows

if TYPE_CHECKING:  # importing these takes seconds
    from align.generation.engine import GenerationEngine

INTERPRETER = "code_interpreter"


class TrajectoriesConfig(Reading):
    """Sample tool dialogs of a model, execute their calls, and make rows of those that end well."""

    prompts: InputSources
    """Prompts. A prompt with `tools` is offered only those functions, any other all of them. For a tool question, which
    has the expected calls or answers, a trajectory is kept only if it calls, and answers, as expected."""
    tools: ToolsConfig = ToolsConfig()
    """The tools that answer the calls."""
    interpreter: bool = False
    """Offer code_interpreter: each dialog that runs code has a sandboxed process of its own."""
    sandbox: SandboxLimits = SandboxLimits()
    """Limits for the code of one dialog."""
    environment: EnvironmentConfig = EnvironmentConfig(ipython=False)
    """The system message. A prompt's own system message replaces `instructions`. With ipython (Llama 3) its lines
    offer the interpreter and the built-in tools that it names; without it every function is offered by its schema."""
    model: InputPath
    """The checkpoint to sample from: a Hugging Face folder, or a name on the Hub."""
    revision: str | None = None
    """A branch, tag or commit of a Hub name; None for its main branch."""
    chat: ChatName = "auto"
    """The chat protocol; auto chooses by the tokenizer's control tokens."""
    call_syntax: Literal["hermes", "json", "function_tag", "python_list"] | None = None
    """How calls are written; null keeps that of the checkpoint's template, or else of the protocol."""
    samples: int = Field(4, ge=1)
    """Trajectories sampled for each prompt. Pairs require two or more."""
    sampling: SamplingConfig = SamplingConfig()
    """How each message is sampled."""
    max_calls: int = Field(10, ge=1)
    """Calls of the model in one dialog, at most (Llama's reference loop: 10)."""
    limit: int | None = Field(None, gt=0)
    """Rows in each file, at most, chosen by a seeded shuffle."""
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of evaluation prompts. Prompts that match one are dropped before sampling, and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    label: str = Field("tool-trajectories", min_length=1)
    """How the rows' source begins; the kind of trajectory follows."""
    unit_size: int = Field(16, gt=0)
    """Prompts in one unit of work, whose dialogs run together; a crash loses at most one unit."""
    seed: int = 0
    """Sampling and shuffles."""

    @model_validator(mode="after")
    def _there_are_tools(self) -> Self:
        if not (self.tools.built_in or self.tools.functions or self.interpreter):
            raise ValueError("expected tools.built_in, tools.functions or interpreter, found no tool")
        if missing := sorted(set(self.environment.built_in) - set(self.tools.built_in)):
            raise ValueError(f"environment.built_in turns on {', '.join(missing)}, which tools.built_in does not name")
        return self


class TrajectoryRecords(Row):
    """The calls of the row of `trajectories.jsonl` with this id, to play them back."""

    seed: int
    prompt_messages: int
    """How many of the row's first messages are the prompt; the others were sampled, or are results."""
    records: tuple[CallRecord, ...]


def build(
    config: TrajectoriesConfig,
    output: Path,
    engine: GenerationEngine | None = None,
    *,
    workers: Workers | None = None,
) -> Path:
    """Sample, execute, and write `trajectories.jsonl`, `records.jsonl` and `preferences.jsonl` into `output`.

    engine: what generates; None loads `config.model`. Units that exist in `output/units` are not repeated.
    workers: the processes that share the work; None if this process works alone. One of them writes the files.
    """
    prompts = read_row_set(config.prompts, ToolQuestionRow, config, config.seed)
    prompts.drop_duplicates()
    prompts.drop_matches(Decontamination.of(config.evaluation, config.decontamination, config.bad_rows))
    if not prompts.rows:
        where = ", ".join(map(label_of, sources_of(config.prompts)))
        raise RowError(where, f"no prompt is left: {prompts.summary()}", "Use other prompts")
    if engine is None:
        from align.generation.engine import GenerationEngine

        engine = GenerationEngine.load(
            config.model,
            config.sampling,
            chat=config.chat,
            call_syntax=config.call_syntax,
            revision=config.revision,
        )
    if config.environment.ipython and engine.protocol.name != "llama3":
        what = f"is for Llama 3's system message, and the chat protocol is {engine.protocol.name}"
        raise ConfigError("tool_trajectories.environment.ipython", what, "Set it to false")
    sampled = sample_trajectories(prompts.rows, config, engine, output / "units")
    with turn_to_write(workers) as is_first:
        if is_first:
            _write_files(config, output, prompts, sampled)
    return output


def _write_files(
    config: TrajectoriesConfig, output: Path, prompts: RowSet[ToolQuestionRow], sampled: list[SampledTrajectory]
) -> None:
    """Make rows of the trajectories, and write the files. The catalog of builders names the last one."""
    questions = {row.id: row for row in prompts.rows}
    rows, made_from = sft_rows(sampled, questions, config.label)
    pairs = preference_rows(sampled, questions, config.label)
    for each in (rows, pairs):
        each.drop_duplicates()
        each.limit(config.limit, config.seed)
        each.shuffle(config.seed)
    notes = {
        "prompts": prompts.counts,
        "endings": dict(Counter(each.ended for each in sampled)),
        "errors": dict(Counter(record.error for each in sampled for record in each.records if record.error)),
    }
    inputs = inputs_of(config)
    for name, part in (("trajectories", rows), ("preferences", pairs)):
        part.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs, notes=notes)
        logger("data_builders").info("%-20s %s", name, part.summary())
    records = RowSet(_records(row, made_from[row.id]) for row in rows.rows)
    records.write(output / "records.jsonl", config=dump(config), inputs=inputs)
    if not rows.rows:
        how = "Use easier prompts, a stronger model or more samples; output/units has the sampled dialogs"
        raise RowError(output, f"no trajectory is left to train on: {rows.summary()}", how)
    verify(output)


def sample_trajectories(
    rows: Sequence[PromptRow], config: TrajectoriesConfig, engine: GenerationEngine, folder: Path
) -> list[SampledTrajectory]:
    """K executed trajectories of each prompt, in the order of the rows and then of their index, in units of work."""
    from align.generation.tool_loop import run_dialogs
    from align.sampling.candidates import candidate_seed, check_ids
    from align.sampling.work_units import Units, run_units

    check_ids(rows)
    # One cap for both, so that a record's text is what the model read.
    most = min(config.tools.max_result_characters, config.environment.max_result_characters)
    registry = make_registry(config.tools.model_copy(update={"max_result_characters": most}))
    sandbox = Sandbox(config.sandbox) if config.interpreter else None

    def sample(unit: Sequence[PromptRow]) -> tuple[list[SampledTrajectory], int]:
        tasks = [(row, index) for row in unit for index in range(config.samples)]
        with ExitStack() as sessions:
            offers = []
            for row, _ in tasks:
                own = registry
                if sandbox is not None:
                    own = registry.extended(interpreter_tool(sessions.enter_context(DialogSession(sandbox))))
                offers.append(_offered(row, own, config))
            recorders = [Recorder(tools) for tools, _ in offers]
            found = run_dialogs(
                [prompt for _, prompt in offers],
                engine,
                recorders,
                seeds=[candidate_seed(config.seed, row.id, index) for row, index in tasks],
                max_calls=config.max_calls,
                max_result_characters=most,
            )
        made = [
            SampledTrajectory(
                id=row_id(each.row.id, index, each.seed),
                source=each.row.source,
                tools=each.row.tools,
                prompt_id=each.row.id,
                prompt=each.row.prompt,
                index=index,
                seed=each.seed,
                messages=each.messages,
                ended=each.ended,
                reason=each.reason,
                records=tuple(recorder.records),
            )
            for each, (_, index), recorder in zip(found, tasks, recorders, strict=True)
        ]
        return made, sum(len(each.messages) for each in made)

    read = ("samples", "seed", "unit_size", "max_calls", "interpreter", "sandbox", "environment")
    key = {
        "rows": fingerprint_of_each(row.model_dump_json() for row in rows),
        "tools": fingerprint_of(*(tool.identity for tool in registry.tools.values()), most),
        **{name: value for name, value in config.model_dump(mode="json").items() if name in read},
        **engine.identity,
    }
    found = run_units(
        Units.of(rows, config.unit_size),
        sample,
        SampledTrajectory,
        folder=folder,
        key=key,
        label="trajectories",
        things="messages",
        code=engine.code_modules,
        unused_code=engine.unused_code,
    )
    return list(found.rows())


def verify(folder: Path) -> int:
    """Play back every trajectory of a built folder from its records, without any tool. Returns how many there are.

    Raises ReplayError with the first row whose calls or results differ from its records, or that has no records.
    """
    path = folder / "records.jsonl"
    records = {record.id: record for record in read_rows(path, TrajectoryRecords)}
    rows = read_rows(folder / "trajectories.jsonl", SFTRow)
    for row in rows:
        if row.id not in records:
            raise ReplayError(f"{path}, row {row.id}", "has no records of its calls", "Build the folder again")
        _play_back(row, records.pop(row.id))
    if records:
        what = f"has records of {len(records)} rows that trajectories.jsonl does not have"
        raise ReplayError(f"{path}, row {next(iter(records))}", what, "Build the folder again")
    return len(rows)


def _records(row: SFTRow, each: SampledTrajectory) -> TrajectoryRecords:
    return TrajectoryRecords(
        id=row.id, source=row.source, seed=each.seed, prompt_messages=len(each.prompt), records=each.records
    )


def _play_back(row: SFTRow, recorded: TrajectoryRecords) -> None:
    """Make the row's calls on its records, and compare what comes back with its tool messages."""
    replay = Replay(recorded.records, f"row {row.id}")
    messages = iter(row.messages[recorded.prompt_messages :])
    for message in messages:
        for call in message.tool_calls:
            expected = Message(role="tool", name=call.name, content=replay.call(call).text)
            found = next(messages, None)
            if found != expected:
                what = f"the result of {call.name} was {expected.content[:80]!r}, is {found and found.content[:80]!r}"
                raise ReplayError(f"row {row.id}", what, "Build the folder again")
    replay.end()


def _offered(row: PromptRow, registry: Registry, config: TrajectoriesConfig) -> tuple[Registry, PromptRow]:
    """The tools that a prompt may call, and the prompt as the model reads it: with its system lines and schemas."""
    # Tools that the system message turns on by name need no schema.
    lines = [*config.environment.built_in, INTERPRETER] if config.environment.ipython else []
    turned_on = [name for name in lines if name in registry.tools]
    named = [tool.name for tool in tools_of(row.tools)] or [name for name in registry.tools if name not in turned_on]
    offered = registry.only(dict.fromkeys([*named, *turned_on]))
    tools = row.tools or tools_text(registry.only(named).specs)
    return offered, PromptRow(
        id=row.id, source=row.source, tools=tools, prompt=_with_system(row.prompt, config.environment)
    )


def _with_system(prompt: Messages, environment: EnvironmentConfig) -> Messages:
    from align.chat.system_prompt import system_text

    if prompt[0].role == "system":
        environment = environment.model_copy(update={"instructions": prompt[0].content})
        prompt = prompt[1:]
    text = system_text(environment)
    return (Message(role="system", content=text), *prompt) if text else prompt
