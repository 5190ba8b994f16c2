"""Win rate: how often are a model's answers preferred to those of another model, such as that of the round before?

A judge that no stage trained on compares the two answers to each prompt: a held-out reward model, or a language model
that is asked in both orders. Judges prefer long answers, so a second rate answers what the first would be if both
answers were equally long (`eval/length_control.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from align.jsonl import Drops, read_rows
from align.rows import Message, PromptRow
from align.settings import InputPath, InputSources, ModelConfig, Reading, SamplingConfig
from eval.baseline import rows_of_baseline
from eval.intervals import Share, share
from eval.length_control import length_controlled, length_effect
from eval.runner import Generator, Result, Scorer, completion_text, limited, prompt_text

NAME = "win_rate"
NO_VERDICT = "no verdict"


class WinRateConfig(Reading):
    """Prompts, the model to compare with, and who judges."""

    prompts: InputSources
    """Prompts that no stage trains on."""
    opponent: ModelConfig | None = None
    """The model to compare with: it answers the same prompts with the same sampling. In rounds, {best} as its path is
    the model of the round before."""
    opponent_answers: InputPath | None = None
    """In place of `opponent`: win_rate.json of the model to compare with, whose answers are taken. With neither of
    the two, the answers are kept for a later comparison, and nothing is judged."""
    heldout_judge: ModelConfig | None = None
    """A reward model trained on other preferences than the one that selected the training data. It scores the two
    answers separately, so that their order cannot matter."""
    judge: ModelConfig | None = None
    """In place of `heldout_judge`: a language model, asked about each pair in both orders."""
    judge_sampling: SamplingConfig = SamplingConfig()
    """Backend, batch size and dtype of `judge`. It always decodes greedily."""

    @model_validator(mode="after")
    def _has_one_judge(self) -> Self:
        if self.opponent is not None and self.opponent_answers is not None:
            raise ValueError("opponent and opponent_answers both name the model to compare with. Remove one of them")
        judges = [name for name in ("heldout_judge", "judge") if getattr(self, name) is not None]
        if len(judges) == 2:
            raise ValueError("heldout_judge and judge are both given. Remove one of them")
        compares = self.opponent is not None or self.opponent_answers is not None
        if compares and not judges:
            raise ValueError("there is a model to compare with, and no judge. Set heldout_judge or judge")
        return self


def evaluate(config: WinRateConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """Rates over all prompts that have a verdict:

    win_rate: the mean of the points; a win is one point, a tie half.
    length_controlled: the same at equal length, by the fit of `eval/length_control.py`.

    In the counts: wins, ties, losses, prompts without a verdict (a language model's reply was not one of its words),
    the mean lengths in characters, the coefficient of length, and `first_preferred`: how often a language model
    preferred the answer that it saw first, one half for a judge without a preference for a place.
    """
    drops = Drops()
    prompts = limited(read_rows(config.prompts, PromptRow, config, drops=drops), limit)
    answers = [completion_text(one.completion) for one in generator.answers(prompts, units, NAME)]
    rows: list[dict[str, Any]] = [
        {"id": row.id, "prompt": prompt_text(row.prompt), "answer": answer, "source": row.source}
        for row, answer in zip(prompts, answers, strict=True)
    ]
    others = _opponent_answers(config, generator, prompts, rows, units)
    if others is None:
        return Result({}, {"rows": len(rows)} | drops.dropped, rows)
    generator.release()
    judged = _scored(config, generator, prompts, answers, others) if config.heldout_judge is not None else None
    if judged is None:
        judged = _compared(config, prompts, answers, others)
    for row, other, verdict in zip(rows, others, judged, strict=True):
        row |= {"opponent_answer": other, **verdict, "characters": [len(row["answer"]), len(other)]}
        row["verdict"] = verdict_of(row["points"])
    scores, counts = rates_of(rows)
    return Result(scores, {"rows": len(rows), **counts} | drops.dropped, rows)


def verdict_of(points: float | None) -> str:
    """win, tie or loss; `no verdict` for None. Two orders that contradict each other are a tie."""
    return NO_VERDICT if points is None else "win" if points > 0.5 else "loss" if points < 0.5 else "tie"


def rates_of(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Share | None], dict[str, Any]]:
    """(scores, counts) of rows with `points`, `characters` of both answers, and `shown_first` of a language model."""
    judged = [row for row in rows if row["points"] is not None]
    points = [row["points"] for row in judged]
    longer_by = [row["characters"][0] - row["characters"][1] for row in judged]
    counts: dict[str, Any] = dict(Counter(row["verdict"] for row in rows))
    if judged:
        counts["mean_characters"] = [sum(row["characters"][side] for row in judged) / len(judged) for side in (0, 1)]
        counts["length_effect"] = length_effect(points, longer_by)
    orders = [row["orders"] for row in judged if "orders" in row]
    if orders:
        first = sum(shown_first + (1 - shown_second) for shown_first, shown_second in orders) / (2 * len(orders))
        counts["first_preferred"] = first
    scores = {"win_rate": share(sum(points), len(points)), "length_controlled": length_controlled(points, longer_by)}
    return scores, counts


def _opponent_answers(
    config: WinRateConfig,
    generator: Generator,
    prompts: Sequence[PromptRow],
    rows: Sequence[Mapping[str, Any]],
    units: Path,
) -> list[str] | None:
    """The other model's answer to each prompt; None if there is no other model."""
    if config.opponent_answers is not None:
        asked = {row["id"]: {"prompt": row["prompt"]} for row in rows}
        found = rows_of_baseline(config.opponent_answers, asked, "prompts")
        return [str(found[row["id"]]["answer"]) for row in rows]
    if config.opponent is None:
        return None
    generator.release()
    opponent = Generator(config.opponent, generator.sampling)
    answers = opponent.answers(prompts, units / "opponent", f"{NAME}, opponent")
    opponent.release()
    return [completion_text(one.completion) for one in answers]


def _scored(
    config: WinRateConfig,
    generator: Generator,
    prompts: Sequence[PromptRow],
    answers: Sequence[str],
    others: Sequence[str],
) -> list[dict[str, Any]]:
    """The verdict of the held-out reward model on each pair: `points` and both `scores`, in log-odds."""
    from align.judges.judge import ScoreRequest

    assert config.heldout_judge is not None
    requests = [
        ScoreRequest(row.prompt, [_said(answer), _said(other)], row.tools)
        for row, answer, other in zip(prompts, answers, others, strict=True)
    ]
    scorer = Scorer(config.heldout_judge, generator.token_budget)
    found = scorer.scores(requests)
    scorer.release()
    return [
        {"points": 0.5 if answer == other or mine == theirs else float(mine > theirs), "scores": [mine, theirs]}
        for (mine, theirs), answer, other in zip(found, answers, others, strict=True)
    ]


def _compared(
    config: WinRateConfig, prompts: Sequence[PromptRow], answers: Sequence[str], others: Sequence[str]
) -> list[dict[str, Any]]:
    """The verdict of the language model on each pair: `points`, and its `orders` if it gave a verdict in both."""
    from align.generation.engine import GenerationEngine
    from align.judges.pair_judge import MAX_TOKENS, PairJudge, PairRequest

    assert config.judge is not None
    greedy = config.judge_sampling.greedy(MAX_TOKENS)
    engine = GenerationEngine.from_settings(config.judge, greedy)
    pairs = [PairRequest(row.prompt, *both) for row, *both in zip(prompts, answers, others, strict=True)]
    found = PairJudge(engine).preferences(pairs)
    engine.close()
    return [{"points": None} if one is None else {"points": one.points, "orders": list(one)} for one in found]


def _said(text: str) -> tuple[Message]:
    return (Message(role="assistant", content=text),)
