"""Sample K completions of each prompt, score them with a reward model, and keep the best.

python recipes/rejection_sample.py recipes/configs/rejection_sample/rehearsal.yaml k=4
accelerate launch --num_processes 8 recipes/rejection_sample.py recipes/configs/rejection_sample/llama3.1-8b.yaml
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from align.config import Recipe, Section, dump, main
from align.judges.verifiers.catalog import LIBRARIES, VerifierName
from align.rows import Candidate, PromptRow
from align.sampling.choosing_k import ChooseKConfig
from align.sampling.collapse import SAMPLES, SampleAlarmsConfig, SampleFigures, check_samples
from align.sampling.steering import Steering, SteeringExamplesConfig
from align.sampling.temperatures import Temperatures
from align.settings import InputSource, InputSources, ModelConfig, OutputPath, Reading, SamplingConfig
from data_builders.quality.settings import DecontaminationConfig

if TYPE_CHECKING:
    from align.generation.engine import GenerationEngine
    from align.sampling.row_files import Choice, RowFile
    from align.sampling.verification import VerdictCounts, Verification
    from align.sampling.work_units import Units
    from align.sampling.workers import Workers
    from data_builders.quality.decontamination import Decontamination


class PairsConfig(Section):
    """Preference pairs of the best and the worst candidate of each prompt."""

    enabled: bool = True
    """Write preferences.jsonl."""
    min_gap: float = Field(1.0, ge=0)
    """The smallest difference of the two scores, in log-odds of the reward model (1.0 means 73% for the better one)."""
    max_similarity: float = Field(0.9, ge=0, le=1)
    """Pairs are dropped if more than this ratio of their words is the same (Llama 3, section 4.2.1)."""
    all_passed: Literal["by_score", "drop"] = "by_score"
    """What becomes of a prompt of which every candidate passed its verifiers. by_score: a pair by the scores and
    min_gap, as without verifiers. drop: no pair. If a candidate failed, the best passing candidate is chosen over the
    failed one with the lowest score, whatever their scores are; if all failed, there is no pair."""


class RejectionSampleRecipe(Recipe, Reading):
    """Rejection sampling. After an interruption, the same command continues and samples nothing twice. Processes with
    the same command (those of a launcher, or started by hand on any node that shares the folder) divide the work."""

    model: ModelConfig
    """The model that is sampled, usually the best model of the previous round. Its weights have the type
    sampling.dtype."""
    prompts: InputSources
    """Prompts: a file, a Hub dataset, or a list of them."""
    k: int = Field(10, ge=1)
    """Candidates for each prompt (Llama 3, section 4.2.2: 10 to 30)."""
    choose_k: ChooseKConfig | None = None
    """Choose a smaller K for this run by a pilot, which samples some prompts with `k` candidates each. The choice and
    its curve are written to choose_k.json. None: `k` is used."""
    seed: int = 0
    """Each candidate has its own seed, made from this one, the id of its prompt and its index."""
    sampling: SamplingConfig = SamplingConfig()
    """How candidates are sampled."""
    temperatures: Temperatures = ()
    """Temperatures that are spread over the candidates of a prompt, instead of sampling.temperature for all:
    `[{lowest: 0.6, highest: 1.0}]`. Several ranges are a schedule over rounds, each from its `from_round` on. Each
    candidate records its own."""
    steering: dict[str, str] = Field(default_factory=dict)
    """Source of a prompt, or its beginning up to a slash -> a system prompt for sampling it, such as
    `{maths: Reason in steps.}`; `*` is for all other sources. A prompt with a system message of its own keeps that one.
    Llama 3, section 4.2.2, steers tone, style and format by capability in this way."""
    steering_examples: SteeringExamplesConfig | None = None
    """Worked examples before a prompt, for a small model that finds no right solution without them."""
    keep_steering: bool = False
    """Whether the reward model, the SFT rows and the pairs see the system prompt and the examples too. Without it, the
    trained model learns to answer so without being asked. Candidates record it in either case."""
    unit_size: int = Field(32, gt=0)
    """Prompts in one unit of work. A crash loses at most one unit."""
    reward_model: ModelConfig
    """The reward model that ranks the candidates. It is loaded after the sampled model is freed."""
    token_budget: int = Field(4096, gt=0)
    """Tokens in one forward pass of the reward model."""
    verifiers: tuple[VerifierName, ...] = ()
    """Checks of each candidate in addition to its score. A candidate that fails one is never the best of its prompt,
    and is preferred as the rejected side of a pair. What each prompt requires is in its column `verify`. maths: the
    final answer equals a reference. tool_call: calls parse and fit their schema. instructions: counts, JSON, case,
    keywords. answer: a right answer, or an abstention. language: that of the prompt; candidates in another one are not
    scored. code: tests pass in the sandbox. See docs/concepts.md."""
    min_score: float | None = Field(None, allow_inf_nan=False)
    """The lowest score that a candidate may have to be the best one, in the reward model's units. A prompt whose best
    candidate is below it gives neither an SFT row nor a pair. None: the best one is kept, however bad all are."""
    sft: bool = True
    """Write sft.jsonl: the best candidates of each prompt."""
    sft_per_prompt: int = Field(1, ge=1)
    """The most SFT rows of one prompt: its best candidates with different texts, all of which passed the verifiers.
    Several right solutions of one mathematical problem teach more than one (Yuan et al. 2023, arXiv:2308.01825)."""
    pairs: PairsConfig = PairsConfig()
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Prompts that repeat one of their examples are not sampled, and rows whose answer does are not
    written; both are counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    alarms: SampleAlarmsConfig = SampleAlarmsConfig()
    """Candidates that repeat each other, are nearly empty, break off, or become shorter from round to round."""
    label: str = "rejection-sampling"
    """The beginning of the rows' source, such as `round-1`."""
    round: int | None = Field(None, ge=0)
    """The round of post-training, which is written into the rows."""
    output_dir: OutputPath
    """The folder of candidates.jsonl, sft.jsonl and preferences.jsonl, with a manifest for each, and of the units of
    work in units/, scores/ and verified/."""

    def libraries(self) -> dict[str, str]:
        return {module: extra for name in self.verifiers for module, extra in LIBRARIES.get(name, {}).items()}


def run(recipe: RejectionSampleRecipe) -> Path:
    """Sample, score, select, and return the folder."""
    from align.models.devices import cpu_threads
    from align.models.preflight import require_inputs
    from align.sampling.workers import joined

    require_inputs(recipe)
    settings = dump(recipe.model_copy(update={"output_dir": Path()}))  # nodes may have the folder under other names
    last_file = "candidates.jsonl.manifest.json"
    with (
        joined(recipe.output_dir, "output_dir", settings, last_file=last_file) as workers,
        cpu_threads(recipe.sampling.threads),
    ):
        return _run(recipe, workers)


def _run(recipe: RejectionSampleRecipe, workers: Workers) -> Path:
    from align.generation.engine import GenerationEngine
    from align.jsonl import Drops, read_rows
    from align.models.devices import use_own_gpu
    from align.precision import resolved
    from align.rows import SFTRow, VerifiedPromptRow
    from align.sampling.candidates import fitting_prompts
    from align.sampling.steering import messages_of, steered
    from align.sampling.verification import Verification
    from align.sampling.workers import turn_to_write
    from data_builders.quality.decontamination import Decontamination

    use_own_gpu()
    with workers.turn():  # the first process decides, and the others read its decision
        recipe = resolved(recipe, recipe.output_dir)
    drops = Drops()
    kind: type[PromptRow] = VerifiedPromptRow if recipe.verifiers else PromptRow
    evaluation = Decontamination.of(recipe.evaluation, recipe.decontamination, recipe.bad_rows)
    rows = read_rows(recipe.prompts, kind, recipe, drops=drops, seed=recipe.seed)
    verification = Verification(evaluation.without_repeats(rows, drops.reasons), recipe.verifiers)
    del rows  # the prompts are in the verification, without what is verified
    examples = recipe.steering_examples
    if examples is None:
        asked = steered(verification.prompts, recipe.steering)
    else:
        shown = messages_of(read_rows(examples.path, SFTRow, recipe))
        asked = steered(verification.prompts, recipe.steering, shown, examples.sources)
    engine = GenerationEngine.from_settings(recipe.model, recipe.sampling)
    prompts, dropped = fitting_prompts(asked.rows, engine)
    dropped.update(drops.reasons + asked.dropped)
    job = _Job(recipe, verification, asked.system_prompts)
    k = recipe.k
    if recipe.choose_k is not None:
        k = _choose_k(job, recipe.choose_k, prompts, engine, workers)
        engine = GenerationEngine.from_settings(recipe.model, recipe.sampling)
    candidates = _candidates(job, prompts, engine, k, recipe.output_dir)
    with turn_to_write(workers) as is_first:
        if is_first:
            _write_files(recipe, candidates, verification.counts(), evaluation, dropped, asked.counts)
    return recipe.output_dir


class _Job(NamedTuple):
    """What the pilot and the run have in common."""

    recipe: RejectionSampleRecipe
    verification: Verification
    system_prompts: dict[str, Steering]


def _candidates(
    job: _Job, prompts: Sequence[PromptRow], engine: GenerationEngine, k: int, folder: Path
) -> Units[Candidate]:
    """K candidates of each prompt, with scores and what the verifiers say. Each unit is put together from its files,
    one for each kind of work, when it is asked for."""
    from align.judges.reward_model import RewardModelJudge
    from align.publish.names import shown_path
    from align.sampling.candidates import sample_candidates
    from align.sampling.scoring import score_candidates
    from align.sampling.temperatures import candidate_temperatures

    recipe = job.recipe
    candidates = sample_candidates(
        prompts,
        engine,
        k=k,
        seed=recipe.seed,
        folder=folder / "units",
        unit_size=recipe.unit_size,
        model=shown_path(recipe.model.path),
        round_number=recipe.round,
        temperature=recipe.sampling.temperature,
        temperatures=candidate_temperatures(recipe.temperatures, k, recipe.round),
        steering=job.system_prompts,
        keep_steering=recipe.keep_steering,
    )
    engine.close()  # the two models are never in memory at once
    candidates = job.verification.verify_before_scoring(candidates)
    judge = RewardModelJudge.from_settings(recipe.reward_model, recipe.token_budget)
    candidates = score_candidates(candidates, judge, folder=folder / "scores", unit_size=recipe.unit_size)
    candidates = job.verification.verify_in_units(candidates, folder=folder / "verified", unit_size=recipe.unit_size)
    return candidates.map(job.verification.verify)


def _choose_k(
    job: _Job, config: ChooseKConfig, prompts: Sequence[PromptRow], engine: GenerationEngine, workers: Workers
) -> int:
    """Run the pilot, write choose_k.json, and return the chosen K. All processes come to the same one."""
    from align.files import write_text
    from align.jsonl import write_rows
    from align.judges.reward_model import RewardModelJudge
    from align.reporting import logger
    from align.sampling.choosing_k import choose_k, pilot_prompts
    from align.sampling.scoring import score_candidates

    recipe, folder = job.recipe, job.recipe.output_dir / "pilot"
    pilot = pilot_prompts(prompts, config.prompts, recipe.seed)
    candidates = _candidates(job, pilot, engine, recipe.k, folder).in_memory()
    heldout = None
    if config.heldout_judge is not None:
        judge = RewardModelJudge.from_settings(config.heldout_judge, recipe.token_budget)
        scored = score_candidates(candidates, judge, folder=folder / "heldout_scores", unit_size=recipe.unit_size)
        heldout = {candidate.id: candidate.score for candidate in scored.rows() if candidate.score is not None}
    found = choose_k(
        candidates.rows(), heldout, tolerance=config.tolerance, at_least=config.at_least, min_score=recipe.min_score
    )
    with workers.turn():  # the same content from each process
        write_rows(folder / "candidates.jsonl", candidates.rows())
        write_text(recipe.output_dir / "choose_k.json", json.dumps(found.record(), indent=1) + "\n")
    logger("recipes").info("choose_k: %d candidates of at most %d, by the %s", found.k, recipe.k, found.decided_by)
    return found.k


def _write_files(
    recipe: RejectionSampleRecipe,
    candidates: Units[Candidate],
    verified: VerdictCounts,
    evaluation: Decontamination,
    dropped: Counter[str],
    steered: Counter[str],
) -> None:
    """Choose among the candidates, and write the files, one unit after another. Of several processes one does so, when
    all units are there. The files get their names when every unit was read and no alarm stops the run.
    """
    from align.sampling.row_files import write_units
    from align.sampling.selection import best_and_worst, best_of

    figures, counts, limits = SampleFigures(), dict[str, Any](), recipe.pairs
    with ExitStack() as files:  # closed in reverse order: the manifest of the candidates is the last file
        all_of_them = files.enter_context(_row_file(recipe, "candidates", counts))
        all_of_them.dropped.update(dropped)
        chosen: list[tuple[RowFile, Choice]] = []
        if limits.enabled:
            pairs = partial(
                best_and_worst,
                min_gap=limits.min_gap,
                max_similarity=limits.max_similarity,
                min_score=recipe.min_score,
                all_passed=limits.all_passed,
                source=recipe.label,
            )
            chosen.append((files.enter_context(_row_file(recipe, "preferences")), pairs))
        if recipe.sft:
            best = partial(best_of, per_prompt=recipe.sft_per_prompt, min_score=recipe.min_score, source=recipe.label)
            chosen.append((files.enter_context(_row_file(recipe, "sft")), best))
        write_units(candidates, all_of_them, chosen, [verified.add, figures.add], evaluation.without_repeats)
        counts |= {"verified": verified.by_verifier(), "steered": dict(steered)}
        counts[SAMPLES] = check_samples(figures.figures(), recipe.alarms)


@contextmanager
def _row_file(recipe: RejectionSampleRecipe, name: str, more: Mapping[str, Any] | None = None) -> Iterator[RowFile]:
    """A file of rows, which appears whole when the block ends well, and then its manifest. more: other counts in it."""
    from align.files import whole_file
    from align.manifest import write_data_manifest
    from align.records import inputs_of
    from align.reporting import logger
    from align.sampling.row_files import RowFile

    path = recipe.output_dir / f"{name}.jsonl"
    with whole_file(path) as handle:
        yield (file := RowFile(handle))
    rows, dropped = file.sources.total(), {**file.dropped, **dict(sorted(file.repeats.items()))}
    counts = {"rows": rows, "dropped": dropped, "sources": dict(sorted(file.sources.items()))}
    if found := {what: value for what, value in (more or {}).items() if value}:
        counts |= found
        logger("recipes").info("%s", "; ".join(f"{what}: {json.dumps(value)}" for what, value in found.items()))
    write_data_manifest(path, config=dump(recipe), inputs=inputs_of(recipe), counts=counts)
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "0"
    logger("recipes").info("%-20s %d rows (dropped: %s)", name, rows, reasons)


if __name__ == "__main__":
    main(RejectionSampleRecipe, run)
