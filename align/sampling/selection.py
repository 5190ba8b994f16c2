"""Which candidates are kept: the best as an SFT row, the best and the worst as a preference.

Reads scores; samples and scores nothing.
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
    """The rows kept, at most one a prompt, and how many prompts gave none, by reason."""

    rows: list[R]
    dropped: Counter[str]


def best_of(candidates: Iterable[Candidate], *, source: str = "rejection-sampling") -> Selection[SFTRow]:
    """The best candidate of each prompt as an SFT row (P 4.2.2). The row bears the candidate's id.

    Unfinished and empty candidates are never kept. Of equal scores the lowest index wins.
    """
    rows, dropped = [], Counter[str]()
    for group in _by_prompt(candidates):
        whole = _usable(group)
        if not whole:
            dropped["no finished candidate"] += 1
            continue
        best = max(whole, key=_rank)
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
    source: str = "rejection-sampling",
) -> Selection[PreferenceRow]:
    """The best and the worst candidate of each prompt as a preference.

    min_gap: least difference of their scores, in the judge's units (log-odds for a reward model: 1.0 is 73%).
    max_similarity: share of words in common from which on the two say the same (P 4.2.1 discards similar pairs).
    An unfinished candidate is never the best; it may be the worst. Empty ones are left out. Two of equal scores make no
    pair, whatever min_gap is: which of them would be called better is chance. The row keeps both candidates' ids,
    scores, seeds, model and round.
    """
    rows, dropped = [], Counter[str]()
    for group in _by_prompt(candidates):
        whole = _usable(group)
        if not whole:
            dropped["no finished candidate"] += 1
            continue
        best = max(whole, key=_rank)
        worst = min((candidate for candidate in group if not _is_empty(candidate.completion)), key=_rank)
        if worst.id == best.id or _text(worst.completion) == _text(best.completion):
            dropped["all the same"] += 1
        elif _score(best) == _score(worst):
            dropped["equal scores"] += 1
        elif _score(best) - _score(worst) < min_gap:
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
                    scores=(_score(best), _score(worst)),
                    seeds=(best.seed, worst.seed),
                    temperature=best.temperature if best.temperature == worst.temperature else None,
                )
            )
    return Selection(rows, dropped)


def similarity(left: str, right: str) -> float:
    """Share of words that two texts have in common, counted with their repeats, order ignored: 0 to 1."""
    left_words, right_words = Counter(left.casefold().split()), Counter(right.casefold().split())
    total = left_words.total() + right_words.total()
    return 2 * (left_words & right_words).total() / total if total else 1.0


def _by_prompt(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.prompt_id, []).append(candidate)
    return list(groups.values())


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
    """What a completion says and calls, for comparing two of them."""
    return "\n".join(
        "\n".join([message.content.strip(), *(f"{call.name} {call.arguments}" for call in message.tool_calls)])
        for message in completion
    )
