"""The knowledge probe: find out what a model knows, and make rows that teach it to abstain from the rest.

It follows section 4.3.6 of Llama 3 ("knowledge probing"):

1. Questions with their accepted answers come in as rows. `data_builders/questions/` makes them from documents or facts.
2. The model answers every question several times, without seeing the document.
3. Every answer is judged right, wrong or abstained (`verdicts.py`).
4. A question is known or unknown if the verdicts on its answers are consistent.
5. Unknown questions get a refusal (`refusals.py`); known ones keep an answer that the model itself gave, so training
   adds no facts that the model did not know. The answers that are kept are checked (`kept_answers.py`).
6. Both become SFT rows and preference pairs (`rows.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.config import dump
from align.files import whole_file
from align.manifest import write_data_manifest
from align.records import inputs_of
from align.reporting import logger
from align.rows import Candidate, PromptRow, QuestionRow
from align.sampling.workers import Workers, turn_to_write
from align.settings import SamplingConfig
from data_builders.knowledge_probe.config import KnowledgeProbeConfig
from data_builders.knowledge_probe.kept_answers import kept_answers
from data_builders.knowledge_probe.refusals import writer_prompt
from data_builders.knowledge_probe.rows import (
    Balance,
    checked_refusals,
    choose_targets,
    judged_refusals,
    preference_rows,
    sft_rows,
    worded_refusals,
)
from data_builders.knowledge_probe.verdicts import (
    ProbedQuestion,
    Thresholds,
    completion_text,
    group_answers,
    knowledge_counts,
    model_verdicts,
    probed_questions,
    rule_verdicts,
)
from data_builders.quality.decontamination import Decontamination
from data_builders.row_set import RowSet, read_row_set

if TYPE_CHECKING:  # the judge model imports torch, and `--help` has to answer without it
    from align.generation.engine import GenerationEngine
    from align.judges.model_judge import ModelJudge


def build(
    config: KnowledgeProbeConfig,
    output: Path,
    engine: GenerationEngine | None = None,
    *,
    judge: GenerationEngine | None = None,
    writer: GenerationEngine | None = None,
    workers: Workers | None = None,
) -> Path:
    """Probe the model and write `answers.jsonl`, `map.json`, `sft.jsonl` and `preferences.jsonl` into `output`.

    engine: the model that answers; by default `config.model` is loaded.
    judge, writer: the models that judge answers and write refusals; by default the config's models are loaded if
    needed.
    workers: the processes that share the work; None if this process works alone. One of them writes the files.

    Answers, verdicts and refusals are saved while they are made, in `output/units`, `output/judge-units` and
    `output/refusal-units`. A run that was interrupted continues from them.
    """
    _require_models(config, [engine, judge, writer])
    models = _Models(config, engine, judge, writer)
    questions = _read_questions(config)
    probed = _probe(config, questions.rows, models, output)

    inputs = inputs_of(config)
    found = knowledge_counts(probed)
    counts = questions.counts | {"knowledge": found["all"]}
    parts: dict[str, RowSet[Any]] = {}
    if config.make_rows:
        targets = choose_targets(probed, refuse_unsure=config.middle == "refuse")
        refusals = worded_refusals(probed, targets, config.refusals, config.seed)
        counted: dict[str, Any] = {"by templates": len(refusals)}
        if config.refusals.by == "model":
            questions_with_rows = [each.question for each in probed if each.question.id in targets]
            written, problems = _write_refusals(config, questions_with_rows, models, output / "refusal-units")
            refusals |= written
            counted = {"by templates": len(refusals) - len(written), "by a model": len(written), "not taken": problems}
        found["refusals"] = counted
        kept = kept_answers(probed, check=config.check_answers, max_sentences=config.max_answer_sentences)
        found["kept_answers"] = kept.counts
        balances = _balance(config, config.max_refusal_ratio), _balance(config, config.pairs_ratio)
        parts["sft"] = sft_rows(probed, targets, refusals, kept, config.label, balances[0])
        parts["preferences"] = preference_rows(probed, targets, refusals, kept, config.label, balances[1])

    with turn_to_write(workers) as is_first:
        if not is_first:
            return output
        _write_answers(output / "answers.jsonl", probed, config=dump(config), inputs=inputs, counts=counts)
        for name, rows in parts.items():
            notes = {"refusals": found["refusals"], "kept_answers": found["kept_answers"]}
            rows.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs, notes=notes)
            logger("data_builders").info("%-20s %s", f"probe {name}", rows.summary())
        if found["unfinished_answers"]:
            line = "%d of %d answers were cut off at %d tokens and are no evidence; %d questions have too few others"
            cut, limit = found["unfinished_answers"], config.sampling.max_completion_tokens
            answers = sum(len(each.answers) for each in probed)
            logger("data_builders").info(line, cut, answers, limit, found["all"]["unfinished"])
        if "agree" in (judges := found.get("judges", {})):
            line = "rules and judge model agree on %.0f%% of %d answers, Krippendorff's alpha %s"
            logger("data_builders").info(line, 100 * judges["agree"], judges["answers"], judges["alpha"])
        with whole_file(output / "map.json") as handle:  # the catalog names it as the last file
            json.dump(found, handle, indent=1, ensure_ascii=False)
    return output


def _require_models(config: KnowledgeProbeConfig, given: Sequence[GenerationEngine | None]) -> None:
    """Raise an error that names a setting whose model does not exist, before anything is sampled."""
    from align.models.preflight import require_inputs

    settings = ("model", config.model), ("judge_model", config.judge_model), ("refusals.model", config.refusals.model)
    named = {
        f"knowledge_probe.{key}": path
        for (key, path), engine in zip(settings, given, strict=True)
        if path is not None and engine is None
    }
    require_inputs(config, named)


class _Models:
    """The models of a probe. Each is loaded when it is asked for, unless the caller of `build` gave it.

    Only one model is in memory at a time, so each is asked for again before it is used again.
    """

    def __init__(
        self,
        config: KnowledgeProbeConfig,
        probed: GenerationEngine | None,
        judge: GenerationEngine | None,
        writer: GenerationEngine | None,
    ) -> None:
        from align.generation.engine import EngineCache

        self._config, self._engines = config, EngineCache()
        self._probed, self._judge, self._writer = probed, judge, writer

    def probed(self) -> GenerationEngine:
        """Return the model that is probed."""
        config = self._config
        return self._probed or self._engines.engine(config.model, config.chat, config.sampling)

    def judge(self) -> ModelJudge:
        """Return the model that judges, decoding greedily."""
        from align.judges.model_judge import MAX_TOKENS, ModelJudge

        config = self._config
        greedy = config.sampling.greedy(MAX_TOKENS)
        return ModelJudge(self._judge or self._load(config.judge_model, config.judge_chat, greedy))

    def writer(self) -> GenerationEngine:
        """Return the model that writes refusals."""
        refusals = self._config.refusals
        return self._writer or self._load(refusals.model, refusals.chat, refusals.sampling)

    def _load(self, path: Path | None, chat: str, sampling: SamplingConfig) -> GenerationEngine:
        """Load the model in the folder `path`, or the probed model if no path is set."""
        config = self._config
        return self._engines.engine(*((config.model, config.chat) if path is None else (path, chat)), sampling)


def _read_questions(config: KnowledgeProbeConfig) -> RowSet[QuestionRow]:
    questions = read_row_set(config.questions, QuestionRow, config, config.seed)
    questions.drop_duplicates()
    questions.drop_matches(Decontamination.of(config.evaluation, config.decontamination, config.bad_rows))
    return questions


def _probe(
    config: KnowledgeProbeConfig, questions: Sequence[QuestionRow], models: _Models, output: Path
) -> list[ProbedQuestion]:
    """Sample answers, judge them, and classify every question."""
    answers = _sample(questions, models.probed(), config.samples, config, output / "units", "candidates")
    answered = group_answers(questions, answers)
    by_rules = None if config.judge == "model" else rule_verdicts(answered)
    by_model = None
    if config.judge != "rules":
        by_model = model_verdicts(answered, models.judge(), config.unit_size, output / "judge-units")
    thresholds = Thresholds(config.known_ratio, config.unknown_ratio, config.min_finished_ratio)
    return probed_questions(answered, by_rules, by_model, thresholds, pool_facts=config.pool == "fact")


def _write_refusals(
    config: KnowledgeProbeConfig, questions: Sequence[QuestionRow], models: _Models, folder: Path
) -> tuple[dict[str, str], dict[str, int]]:
    """Let a model write refusals. Returns question id -> refusal, and how many texts were not used, by reason.

    Known questions get a written refusal too. If a model wrote only one side of the preference pairs, DPO would learn
    the style instead of the content.
    """
    prompts = [writer_prompt(question) for question in questions]
    written = _sample(prompts, models.writer(), 1, config, folder, "refusals")
    kept, problems = checked_refusals(questions, written, allow_apology=config.refusals.allow_apology)
    if config.judge != "rules":
        kept, more = judged_refusals(kept, questions, models.judge())
        problems.update(more)
    return kept, dict(problems)


def _sample(
    prompts: Sequence[PromptRow],
    engine: GenerationEngine,
    k: int,
    config: KnowledgeProbeConfig,
    folder: Path,
    label: str,
) -> list[Candidate]:
    from align.sampling.candidates import sample_candidates

    unit_size, seed = config.unit_size, config.seed
    found = sample_candidates(prompts, engine, k=k, seed=seed, folder=folder, unit_size=unit_size, label=label)
    return list(found.rows())


def _balance(config: KnowledgeProbeConfig, max_ratio: float) -> Balance:
    return Balance(max_ratio, config.min_refusal_ratio, config.balance == "relation", config.limit, config.seed)


def _write_answers(
    path: Path,
    probed: Sequence[ProbedQuestion],
    *,
    config: dict[str, Any],
    inputs: Mapping[str, str],
    counts: dict[str, Any],
) -> None:
    """Write every question with all its answers: text, seed, the verdict of each judge, and the verdict that counts."""
    with whole_file(path) as handle:
        for each in probed:
            samples = []
            for place, answer in enumerate(each.answers):
                sample: dict[str, Any] = {
                    "text": completion_text(answer.completion),
                    "verdict": each.verdicts[place],
                }
                if each.by_model:
                    sample["model"] = each.by_model[place]
                    sample |= {"rules": each.by_rules[place]} if each.by_rules else {}
                samples.append(sample | {"finished": answer.finished, "seed": answer.seed})
            line = each.question.model_dump(exclude_defaults=True)
            line |= {"knowledge": each.knowledge, "samples": samples}
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_data_manifest(path, config=config, inputs=inputs, counts=counts)
