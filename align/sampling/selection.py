"""Selection among scored candidates: the best one as an SFT row, the best and the worst as a preference row.

A candidate that failed a verifier (`Candidate.failed`) is never the best one, whatever its score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from align.errors import RowError
from align.rows import Candidate, Messages, PreferenceRow, Row, SFTRow, row_id

R = TypeVar("R", bound=Row)


class Selection(NamedTuple, Generic[R]):
    """The selected rows, at most one for each prompt, and how many prompts gave none, by reason."""

    rows: list[R]
    dropped: Counter[str]


def best_of(
    candidates: Iterable[Candidate], *, min_score: float | None = None, source: str = "rejection-sampling"
) -> Selection[SFTRow]:
    """The best candidate of each prompt as an SFT row, which has the candidate's id (Llama 3, section 4.2.2).

    min_score: the best candidate of a prompt is dropped if its score is lower. None: it is kept, however bad all are.

    Unfinished, empty and failed candidates are never selected. Among equal scores, the lowest index is selected.
    """
    rows, dropped = [], Counter[str]()
    for group in _by_prompt(candidates):
        best = _best(group, min_score)
        if isinstance(best, str):
            dropped[best] += 1
            continue
        messages = (*best.prompt, *best.completion)
        rows.append(
            SFTRow(
                id=best.id,
                source=f"{source}/{best.source}",
                tools=best.tools,
                messages=messages,
                candidate=best.id,
                score=_score(best),
                model=best.model,
                round=best.round,
            )
        )
    return Selection(rows, dropped)


def best_and_worst(
    candidates: Iterable[Candidate],
    min_gap: float,
    *,
    max_similarity: float = 0.9,
    min_score: float | None = None,
    source: str = "rejection-sampling",
) -> Selection[PreferenceRow]:
    """The best and the worst candidate of each prompt as a preference row.

    min_gap: the smallest difference of their scores, in the judge's units (log-odds for a reward model: 1.0 is 73%).
    max_similarity: pairs with a higher `similarity` are dropped (Llama 3, section 4.2.1, discards similar pairs).
    min_score: as for `best_of`: no pair is made of a prompt whose best candidate is below it.

    An unfinished candidate may be the worst one, but never the best. Empty candidates are left out. Two candidates with
    equal scores make no pair, whatever min_gap is, because either could be called better. The row keeps both
    candidates' ids, scores, seeds, model and round.

    If candidates failed a verifier, the worst of these is the rejected one. The verifiers decide then, so min_gap is
    not read, and scores that contradict them are left out of the row:
        passed 0.5, passed 0.1, failed 2.0, failed 1.0     gives 0.5 over the one with 1.0, without scores
        passed 0.5, passed 0.1, failed -1.0                gives 0.5 over -1.0, with scores
    """
    rows, dropped = [], Counter[str]()
    for group in _by_prompt(candidates):
        best = _best(group, min_score)
        if isinstance(best, str):
            dropped[best] += 1
            continue
        others = [candidate for candidate in group if not _is_empty(candidate.completion)]
        failed = [candidate for candidate in others if candidate.failed]
        worst = min(failed or others, key=_rank)
        if worst.id == best.id or _text(worst.completion) == _text(best.completion):
            dropped["all the same"] += 1
        elif not failed and _score(best) == _score(worst):
            dropped["equal scores"] += 1
        elif not failed and _score(best) - _score(worst) < min_gap:
            dropped["scores too close"] += 1
        elif similarity(_text(best.completion), _text(worst.completion)) > max_similarity:
            dropped["too similar"] += 1
        else:
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
                    scores=(_score(best), _score(worst)) if _score(best) > _score(worst) else (),
                    seeds=(best.seed, worst.seed),
                    temperature=best.temperature if best.temperature == worst.temperature else None,
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


def _best(group: Sequence[Candidate], min_score: float | None) -> Candidate | str:
    """The best candidate of a prompt, or the reason why none is selected."""
    whole = _usable(group)
    passed = [candidate for candidate in whole if not candidate.failed]
    if not passed:
        return "no candidate passed the verifiers" if whole else "no finished candidate"
    best = max(passed, key=_rank)
    return "best score below min_score" if min_score is not None and _score(best) < min_score else best


def _usable(group: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in group if candidate.finished and not _is_empty(candidate.completion)]


def _is_empty(completion: Messages) -> bool:
    return not any(message.content.strip() or message.tool_calls for message in completion)


def _rank(candidate: Candidate) -> tuple[float, int]:
    return _score(candidate), -candidate.index


def _score(candidate: Candidate) -> float:
    where = f"candidate {candidate.id} of prompt {candidate.prompt_id}"
    if candidate.score is None:
        raise RowError(where, "has no score", "Score the candidates before selecting")
    if not math.isfinite(candidate.score):
        what = f"has the score {candidate.score}, expected a finite number"
        raise RowError(where, what, "Check the weights of the judge that gave it")
    return candidate.score


def _text(completion: Messages) -> str:
    """The texts and calls of a completion as one text, to compare two completions."""
    return "\n".join(
        "\n".join([message.content.strip(), *(f"{call.name} {call.arguments}" for call in message.tool_calls)])
        for message in completion
    )


class Choices(NamedTuple):
    """What rejection sampling chooses from for one prompt: the usable candidates, in the order given."""

    prompt_id: str
    k: int
    """All candidates of the prompt, those that are unfinished, empty or failed included."""
    ids: tuple[str, ...]
    scores: tuple[float, ...]
    texts: tuple[str, ...]


def choices_of(candidates: Iterable[Candidate]) -> list[Choices]:
    """The candidates of each prompt that `best_of` may choose. Raises RowError for one without a finite score."""
    found = []
    for group in _by_prompt(candidates):
        usable = [one for one in _usable(group) if not one.failed]
        ids, scores = tuple(one.id for one in usable), tuple(map(_score, usable))
        texts = tuple(_text(one.completion) for one in usable)
        found.append(Choices(group[0].prompt_id, len(group), ids, scores, texts))
    return found
