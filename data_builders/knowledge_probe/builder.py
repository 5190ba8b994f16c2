"""The knowledge probe: find what a model knows by asking it several times, and teach it to say so where it does not.

The six steps of Llama 3 (section 4.3.6). A snippet and a question about it come in as a row (`document_questions.py`
makes them of documents, `from_facts.py` of structured facts); several answers are sampled without the snippet; each is
judged correct and informative or not (`verdicts.py`); and where answers are consistently informative and wrong, a
refusal becomes the target (`refusals.py`). What is known keeps an answer that the model gave itself, so nothing is
taught that it did not know (`rows.py`).
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
from align.rows import Candidate, QuestionRow
from data_builders.engines import Engine, Engines
from data_builders.knowledge_probe.config import KnowledgeProbeConfig
from data_builders.knowledge_probe.rows import (
    judged_refusals,
    preference_rows,
    sft_rows,
    worded_refusals,
    written_refusals,
)
from data_builders.knowledge_probe.verdicts import Probed, judge_answers, knowledge_map, text_of
from data_builders.row_set import Counted, evaluation_keys, read_counted

if TYPE_CHECKING:  # it brings torch, and `--help` is answered without it
    from align.judges.model_judge import ModelJudge


def build(
    config: KnowledgeProbeConfig,
    output: Path,
    backend: Any = None,
    protocol: Any = None,
    *,
    judge: Engine | None = None,
    writer: Engine | None = None,
) -> Path:
    """Probe, and write `answers.jsonl`, `map.json` and the rows, `sft.jsonl` and `preferences.jsonl`, into `output`.

    backend, protocol: what answers; None loads `config.model`. judge, writer: the same for what judges and what writes
    refusals, where the config wants a model for that. What was sampled into `output/units`, `output/judge-units` and
    `output/refusal-units` is kept.
    """
    engines = Engines()
    questions = _questions(config)
    asked = (backend, protocol) if backend is not None else engines.engine(config.model, config.chat, config.sampling)
    answers = _answers(questions.rows, asked, config, output / "units")
    del asked, backend  # what judges may be another model, and one is in memory at a time

    probed = judge_answers(questions.rows, answers, config, _judge(config, engines, judge), output / "judge-units")

    inputs = inputs_of(config)
    found = knowledge_map(probed)
    _write_answers(output / "answers.jsonl", probed, config, inputs, questions.counts | {"knowledge": found["all"]})
    if config.make_rows:
        refusals, told = _refusals(probed, config, engines, judge, writer, output / "refusal-units")
        found["refusals"] = told
        for name, rows in (
            ("sft", sft_rows(probed, refusals, config)),
            ("preferences", preference_rows(probed, refusals, config)),
        ):
            rows.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs, notes={"refusals": told})
            logger("data_builders").info("%-20s %s", f"probe {name}", rows.summary())
    if "agree" in (judges := found.get("judges", {})):
        told_by = "rules and model agree on %.0f%% of %d answers, alpha %s"
        logger("data_builders").info(told_by, 100 * judges["agree"], judges["answers"], judges["alpha"])
    with whole_file(output / "map.json") as handle:
        json.dump(found, handle, indent=1, ensure_ascii=False)
    return output


def _questions(config: KnowledgeProbeConfig) -> Counted[QuestionRow]:
    questions = read_counted(config.questions, QuestionRow, config, config.seed)
    questions.drop_duplicates()
    questions.drop_matches(evaluation_keys(config.evaluation, config.bad_rows))
    return questions


def _answers(
    questions: Sequence[QuestionRow], asked: Engine, config: KnowledgeProbeConfig, folder: Path
) -> list[Candidate]:
    from align.sampling.candidates import sample_candidates

    backend, protocol = asked
    return sample_candidates(
        questions,
        backend,
        protocol,
        k=config.samples,
        seed=config.seed,
        folder=folder,
        unit_size=config.unit_size,
    )


def _judge(config: KnowledgeProbeConfig, engines: Engines, given: Engine | None) -> ModelJudge | None:
    """The model that judges, where the config wants one."""
    from align.judges.model_judge import MAX_TOKENS, ModelJudge

    if config.judge == "rules":
        return None
    if given is None:
        greedy = config.sampling.model_copy(update={"temperature": 0.0, "max_completion_tokens": MAX_TOKENS})
        path, chat = _or_probed(config, config.judge_model, config.judge_chat)
        given = engines.engine(path, chat, greedy)
    return ModelJudge(*given)


def _refusals(
    probed: Sequence[Probed],
    config: KnowledgeProbeConfig,
    engines: Engines,
    judge: Engine | None,
    writer: Engine | None,
    folder: Path,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Question id -> its refusal, and for the map: by whom they are, and what was not taken, by reason."""
    worded = worded_refusals(probed, config)
    told: dict[str, Any] = {"by templates": len(worded)}
    if config.refusals.by == "templates":
        return worded, told
    if writer is None:
        path, chat = _or_probed(config, config.refusals.model, config.refusals.chat)
        writer = engines.engine(path, chat, config.refusals.sampling)
    written, faults = written_refusals(probed, config, writer, folder)
    del writer
    model_judge = _judge(config, engines, judge)
    if model_judge is not None:
        written, more = judged_refusals(written, probed, model_judge)
        faults.update(more)
    refusals = worded | written
    told = {"by templates": len(refusals) - len(written), "by a model": len(written), "not taken": dict(faults)}
    return refusals, told


def _or_probed(config: KnowledgeProbeConfig, path: Path | None, chat: str) -> tuple[Path, str]:
    return (config.model, config.chat) if path is None else (path, chat)


def _write_answers(
    path: Path,
    probed: Sequence[Probed],
    config: KnowledgeProbeConfig,
    inputs: Mapping[str, str],
    counts: dict[str, Any],
) -> None:
    """Every question with every answer, its seed, what each judge said of it, and what counted."""
    with whole_file(path) as handle:
        for each in probed:
            samples = []
            for place, answer in enumerate(each.answers):
                told: dict[str, Any] = {"text": text_of(answer.completion), "verdict": each.verdicts[place]}
                if each.by_model:
                    told["model"] = each.by_model[place]
                    told |= {"rules": each.by_rules[place]} if each.by_rules else {}
                samples.append(told | {"finished": answer.finished, "seed": answer.seed})
            line = each.question.model_dump(exclude_defaults=True)
            line |= {"knowledge": each.knowledge, "samples": samples}
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_data_manifest(path, config=dump(config), inputs=inputs, counts=counts)
