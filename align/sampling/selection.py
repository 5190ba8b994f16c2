"""Selection among scored candidates: the best ones as SFT rows, the best and the worst as a preference row.

A candidate that failed a verifier (`Candidate.failed`) is never the best one, whatever its score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from align.errors import RowError
from align.rows import Candidate, Messages, PreferenceRow, Row, SFTRow, row_id

R = TypeVar("R", bound=Row)
AllPassed = Literal["by_score", "drop"]


class Selection(NamedTuple, Generic[R]):
    """The selected rows, in the order of the prompts, and how many prompts gave none, by reason."""

    rows: list[R]
    dropped: Counter[str]


def best_of(
    candidates: Iterable[Candidate],
    *,
    per_prompt: int = 1,
    min_score: float | None = None,
    source: str = "rejection-sampling",
) -> Selection[SFTRow]:
    """The best candidates of each prompt as SFT rows, which have the candidates' ids (Llama 3, section 4.2.2).

    per_prompt: the most rows of one prompt, best first. Of candidates with the same text one is selected. Several right
        solutions of one problem teach more than one (Yuan et al. 2023, arXiv:2308.01825, rejection sampling
        fine-tuning).
    min_score: no candidate with a lower score is selected. None: the best one is selected, however bad all are.

    Unfinished, empty and failed candidates are never selected. Among equal scores, the lowest index is selected.
    """
    rows, dropped = [], Counter[str]()
    for group in _by_prompt(candidates):
        best = _best(group, min_score, per_prompt)
        if isinstance(best, str):
            dropped[best] += 1
            continue
        rows += [
            SFTRow(
                id=one.id,
                source=f"{source}/{one.source}",
                tools=one.tools,
                messages=(*one.prompt, *one.completion),
                candidate=one.id,
                score=score_of(one),
                model=one.model,
                round=one.round,
            )
            for one in best
        ]
    return Selection(rows, dropped)


def best_and_worst(
    candidates: Iterable[Candidate],
    min_gap: float,
    *,
    max_similarity: float = 0.9,
    min_score: float | None = None,
    all_passed: AllPassed = "by_score",
    source: str = "rejection-sampling",
) -> Selection[PreferenceRow]:
    """The best and the worst candidate of each prompt as a preference row.

    min_gap: the smallest difference of their scores, in the judge's units (log-odds for a reward model: 1.0 is 73%).
    max_similarity: pairs with a higher `similarity` are dropped (Llama 3, section 4.2.1, discards similar pairs).
    min_score: as for `best_of`: no pair is made of a prompt whose best candidate is below it.
    all_passed: what becomes of a prompt of which every candidate passed its verifiers. by_score: a pair by the scores
        alone, as without verifiers. drop: no pair.

    An unfinished candidate may be the worst one, but never the best. Empty candidates are left out, and so are those
    with the text of the best one. Two candidates with equal scores make no pair, whatever min_gap is, because either
    could be called better. The row keeps both candidates' ids, scores, seeds, model and round.

    If candidates failed a verifier, the one of these with the lowest score is the rejected one. The verifiers decide
    then: min_gap is not read, and the scores, which the row keeps, may contradict them.
        passed 0.5, passed 0.1, failed 2.0, failed 1.0     gives 0.5 over the one with 1.0
        passed 0.5, passed 0.1, failed -1.0                gives 0.5 over -1.0
        passed 0.5, failed -1.0, failed without a score    gives 0.5 over the one without a score
    """
    rows, dropped = [], Counter[str]()
    for group in _by_prompt(candidates):
        found = _best(group, min_score)
        if isinstance(found, str):
            dropped[found] += 1
            continue
        [best] = found
        worst = _worst(group, best)
        if worst is None:
            dropped["all the same"] += 1
            continue
        reason = None if worst.failed else _undecided(best, worst, min_gap, all_passed)
        if (
            reason is None
            and similarity(completion_text(best.completion), completion_text(worst.completion)) > max_similarity
        ):
            reason = "too similar"
        if reason is not None:
            dropped[reason] += 1
            continue
        rows.append(
            PreferenceRow(
                id=row_id(best.id, worst.id),
                source=f"{source}/{best.source}",
                tools=best.tools,
                prompt=best.prompt,
                completions=(best.completion, worst.completion),
                models=(best.model, worst.model) if best.model or worst.model else (),
                round=best.round,
                candidates=(best.id, worst.id),
                scores=() if worst.failed and worst.score is None else (score_of(best), score_of(worst)),
                seeds=(best.seed, worst.seed),
                temperature=best.temperature if best.temperature == worst.temperature else None,
                failed=worst.failed,
            )
        )
    return Selection(rows, dropped)


def similarity(left: str, right: str) -> float:
    """How many words two texts have in common, in any order, from 0 to 1. Repeated words count as often as they occur.

    "a b b" and "b b c" have two words in common (b, b) out of 3 + 3: 2 * 2 / 6 = 0.67.
    """
    left_words, right_words = Counter(left.casefold().split()), Counter(right.casefold().split())
    total = left_words.total() + right_words.total()
    return 2 * (left_words & right_words).total() / total if total else 1.0


def _by_prompt(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.prompt_id, []).append(candidate)
    return list(groups.values())


def _best(group: Sequence[Candidate], min_score: float | None, per_prompt: int = 1) -> list[Candidate] | str:
    """The best candidates of a prompt with different texts, best first, or the reason why none is selected."""
    passed = [candidate for candidate in group if is_usable(candidate)]
    if not passed:
        return "no candidate passed the verifiers" if any(map(_is_whole, group)) else "no finished candidate"
    ranked = sorted(passed, key=_rank, reverse=True)
    if min_score is not None:
        ranked = [candidate for candidate in ranked if score_of(candidate) >= min_score]
    by_text: dict[str, Candidate] = {}
    for candidate in ranked:
        by_text.setdefault(completion_text(candidate.completion), candidate)
    return list(by_text.values())[:per_prompt] or "best score below min_score"


def _worst(group: Sequence[Candidate], best: Candidate) -> Candidate | None:
    """The rejected candidate of a pair: of those that failed if there are any. None if all texts are the same."""
    different = [
        one
        for one in group
        if not _is_empty(one.completion) and completion_text(one.completion) != completion_text(best.completion)
    ]
    failed = [one for one in different if one.failed]
    if failed:
        return min(failed, key=lambda one: (-math.inf, -one.index) if one.score is None else _rank(one))
    return min(different, key=_rank, default=None)


def _undecided(best: Candidate, worst: Candidate, min_gap: float, all_passed: AllPassed) -> str | None:
    """Why the scores decide no pair of two candidates that failed nothing, or None if they do."""
    if all_passed == "drop" and best.passed:
        return "all candidates passed the verifiers"
    gap = score_of(best) - score_of(worst)
    if gap == 0:
        return "equal scores"
    if gap < 0:
        return "unfinished candidates score higher"
    return "scores too close" if gap < min_gap else None


def is_usable(candidate: Candidate) -> bool:
    """Whether `best_of` may select it: it is finished, not empty, and failed no verifier."""
    return _is_whole(candidate) and not candidate.failed


def _is_whole(candidate: Candidate) -> bool:
    return candidate.finished and not _is_empty(candidate.completion)


def _is_empty(completion: Messages) -> bool:
    return not any(message.content.strip() or message.tool_calls for message in completion)


def _rank(candidate: Candidate) -> tuple[float, int]:
    return score_of(candidate), -candidate.index


def score_of(candidate: Candidate) -> float:
    """The score of a candidate. Raises RowError if it has none, or none that is a finite number."""
    where = f"candidate {candidate.id} of prompt {candidate.prompt_id}"
    if candidate.score is None:
        raise RowError(where, "has no score", "Score the candidates before selecting")
    if not math.isfinite(candidate.score):
        what = f"has the score {candidate.score}, expected a finite number"
        raise RowError(where, what, "Check the weights of the judge that gave it")
    return candidate.score


def completion_text(completion: Messages) -> str:
    """The texts and calls of a completion as one text, to compare two completions."""
    return "\n".join(
        "\n".join([message.content.strip(), *(f"{call.name} {call.arguments}" for call in message.tool_calls)])
        for message in completion
    )
