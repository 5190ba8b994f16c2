"""The search of an average's weights, as its manifest records it: for the model card and for the report of a run.

The search itself is `align/models/weight_search.py`, which writes the record. Nothing here trusts it: a manifest may be
of another version, or damaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NO_EVALUATION = {"sampling", "dtype", "limit"}
"""Keys of `search.evaluation` that are no evaluation."""


@dataclass(frozen=True)
class WeightSearch:
    """The search of the weights of one average, for people."""

    checkpoints: tuple[str, ...]
    """What was averaged, in the order of the weights."""
    sentence: str
    """By what the weights were chosen, how, within which budget, and on which rows."""
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """A line for each average that was tried: the weights, the objective, the scores, and whether it was chosen."""


def weight_search_of(manifest: Mapping[str, Any]) -> WeightSearch | None:
    """The search in the manifest of an average; None if its weights were given, or if the record cannot be read.

    Example of the columns, for two checkpoints and `search.score: factuality.right`:

        weights      factuality.right           objective
        0.5, 0.5     33.7% (24.5% to 44.4%)     0.337      chosen
    """
    search = manifest.get("search")
    try:
        return _weight_search(search) if isinstance(search, Mapping) else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _weight_search(search: Mapping[str, Any]) -> WeightSearch:
    settings, trials = search["settings"], search["trials"]
    score: Mapping[str, float] = settings["score"]
    rows = [
        (
            _weights_text(trial["weights"]),
            *(_score_text(trial["scores"][name]) for name in score),
            f"{trial['objective']:.4f}",
            "chosen" if list(trial["weights"]) == list(search["weights"]) else "",
        )
        for trial in trials
    ]
    terms = " + ".join(name if share == 1 else f"{share:g} x {name}" for name, share in score.items())
    evaluated = {name: section for name, section in search.get("evaluation", {}).items() if name not in _NO_EVALUATION}
    on = "; ".join(f"{name}: {_rows_of(section)}" for name, section in evaluated.items())
    limit = search.get("evaluation", {}).get("limit")
    sentence = (
        f"The weights were chosen by {terms}, with the method {settings['method']}: {len(trials)} averages were "
        f"evaluated, of at most {settings['max_evaluations']}"
        + (f", on development rows ({on}{f', at most {limit}' if limit else ''})" if on else "")
        + ". The score of the best of several is higher than that of the same weights on other rows."
    )
    names = tuple(str(each["checkpoint"]) for each in search["checkpoints"])
    return WeightSearch(names, sentence, ("weights", *score, "objective", ""), tuple(rows))


def _weights_text(weights: Sequence[float]) -> str:
    return ", ".join(f"{share:.3g}" for share in weights)


def _score_text(score: Mapping[str, Any]) -> str:
    value = f"{score['value']:.1%}"
    return f"{value} ({score['low']:.1%} to {score['high']:.1%})" if {"low", "high"} <= score.keys() else value


def _rows_of(section: Any) -> str:
    """The files of rows that an evaluation's settings name: `{"questions": "data/questions.dev.jsonl"}`."""
    found = [value for value in _texts(section) if "/" in value or value.endswith((".jsonl", ".json", ".csv"))]
    return ", ".join(dict.fromkeys(found)) or "its own rows"


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for each in inner for text in _texts(each)]
