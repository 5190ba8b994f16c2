"""The recipe of a model next to that of Llama 3 (arXiv:2407.21783): each knob is the same, changed, or not stated.

`KNOBS` is the one place that says what the paper has. Our values are read from the configs in the manifests that a
checkpoint's lineage leads to, so a table has the stages that the model went through, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from align.publish.lineage import Lineage, Step
from align.publish.names import shown_path
from align.rows import STRONG_LEVELS

Verdict = Literal["same", "changed", "not stated in the paper"]
NOT_STATED: Verdict = "not stated in the paper"

Values = Callable[[Lineage], list[Any]]
Rule = Callable[[Any], bool]


class Knob(NamedTuple):
    """One decision of the recipe."""

    stage: str
    name: str
    paper: str
    """What the paper has, in words; empty if it does not say."""
    section: str
    """Of the paper: where the value is, or where it would be expected."""
    ours: Values
    """The different values in a lineage; none if the model did not go through this stage."""
    agrees: Rule | None = None
    """Whether one of our values is that of the paper; None if the paper does not say."""


class Line(NamedTuple):
    """A line of the table."""

    stage: str
    name: str
    paper: str
    section: str
    ours: str
    verdict: Verdict


def parity(lineage: Lineage) -> list[Line]:
    """The knobs of the stages that a lineage has."""
    lines = []
    for knob in KNOBS:
        values = list({str(value): value for value in knob.ours(lineage)}.values())
        if values:
            agrees = knob.agrees
            verdict = NOT_STATED if agrees is None else "same" if all(map(agrees, values)) else "changed"
            shown = ", ".join(dict.fromkeys(map(_shown, values)))
            lines.append(Line(knob.stage, knob.name, knob.paper or "-", knob.section, shown, verdict))
    return lines


# How our values are read


def _steps(lineage: Lineage, stage: str) -> list[Step]:
    """The steps of a stage; those whose weights are in the model if there are any, and otherwise those of its rows."""
    found = [step for step in lineage.steps if step.stage == stage]
    return [step for step in found if step.of_weights] or found


def _setting(stage: str, key: str) -> Values:
    """A dotted key of the configs of a stage. Configs that do not have it give no value."""

    def values(lineage: Lineage) -> list[Any]:
        found = (_at(step.config, key.split(".")) for step in _steps(lineage, stage))
        return [value for value in found if value is not _MISSING]

    return values


_MISSING = object()


def _at(config: Any, keys: list[str]) -> Any:
    for key in keys:
        if not isinstance(config, Mapping) or key not in config:
            return _MISSING
        config = config[key]
    return config


def _fixed(stage: str, value: str) -> Values:
    """What the code of a stage always does."""
    return lambda lineage: [value] if _steps(lineage, stage) else []


def _optimizer_steps(stage: str) -> Values:
    return lambda lineage: [s.optimizer_steps for s in _steps(lineage, stage) if s.optimizer_steps is not None]


def _rounds(lineage: Lineage) -> list[int]:
    rounds = [step.round for step in lineage.steps if step.round is not None]
    return [max(rounds)] if rounds else []


def _start(stage: str) -> Values:
    """What a stage started from: pre-trained or post-trained, as far as its name says, and the name."""

    def values(lineage: Lineage) -> list[str]:
        names = [shown_path(str(value)) for value in _setting(stage, "model.path")(lineage)]
        return [f"{'post-trained' if _POST_TRAINED.search(name) else 'pre-trained'}: {name}" for name in names]

    return values


_POST_TRAINED = re.compile(r"(?i)instruct|chat|(^|[-_/])(it|sft|dpo|rlhf|average|merged?|aligned)($|[-_/.])")


def _start_of_dpo(lineage: Lineage) -> list[str]:
    fine_tuned = {PurePath(step.name).name for step in lineage.steps if step.stage == "sft" or "sft" in step.members}
    names = [shown_path(str(value)) for value in _setting("dpo", "model.path")(lineage)]
    return [f"{'the SFT model' if PurePath(name).name in fine_tuned else 'another model'}: {name}" for name in names]


def _dpo_steps(lineage: Lineage) -> list[str]:
    dpo, sft = (_optimizer_steps(stage)(lineage) for stage in ("dpo", "sft"))
    if not dpo or not sft:
        return []
    how = "fewer" if max(dpo) < min(sft) else "not fewer"
    return [f"{how}: {_range(dpo)} after {_range(sft)}"]


def _averaged(lineage: Lineage) -> list[str]:
    """What was averaged with what, such as `dpo with dpo`."""
    found = dict.fromkeys(step.members for step in lineage.steps if step.members)
    texts = [" with ".join(members) for members in found]
    trained = any(step.stage in ("reward", "sft", "dpo") for step in lineage.steps)
    return ["; ".join(texts)] if texts else ["nothing"] if trained else []


def _averages_each_stage(text: str) -> bool:
    return all(re.search(rf"(^|; ){stage}( with {stage})+($|;)", text) for stage in ("reward", "sft", "dpo"))


def _members(lineage: Lineage) -> list[int]:
    return [len(step.members) for step in lineage.steps if step.members]


def _evaluations_kept_out(lineage: Lineage) -> list[str]:
    values = _setting("sft_mix", "evaluation")(lineage)
    return [f"prompts of {len(value)} evaluation files are dropped" if value else "not checked" for value in values]


def _is(expected: Any) -> Rule:
    return lambda value: bool(value == expected)


def _begins(expected: str) -> Rule:
    return lambda value: str(value).startswith(expected)


def _between(low: float, high: float) -> Rule:
    return lambda value: isinstance(value, int | float) and low <= value <= high


def _range(values: Iterable[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_shown(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " and ".join(map(_shown, value)) or "none"
    return str(value)


_RS = "rejection_sample"
_ANY_LEVELS = _is(list(STRONG_LEVELS))

KNOBS: tuple[Knob, ...] = (
    Knob("rounds", "rounds", "6", "4.1.6", _rounds, _is(6)),
    Knob("reward", "starts from", "the pre-trained model", "4.1.2", _start("reward"), _begins("pre-trained")),
    Knob("reward", "margin in the loss", "none", "4.1.2", _setting("reward", "reward.margins"), _is({})),
    Knob("reward", "centering of scores", "none", "4.1.2", _setting("reward", "reward.centering"), _is(0)),
    Knob(
        "reward",
        "ranking",
        "edited > chosen > rejected",
        "4.1.2",
        _fixed("reward", "edited > chosen > rejected"),
        _begins("edited > chosen > rejected"),
    ),
    Knob(
        "reward",
        "responses in one row",
        "prompt and responses in random order, each sees those before it",
        "4.1.2",
        _fixed("reward", "prompt and responses, each sees the prompt alone"),
        _begins("prompt and responses in random order"),
    ),
    Knob(
        "reward",
        "levels of preference",
        "significantly better and better",
        "4.2.1",
        _setting("reward", "data.levels"),
        _ANY_LEVELS,
    ),
    Knob("reward", "learning rate", "", "4.1.2", _setting("reward", "training.learning_rate")),
    Knob("reward", "batch size", "", "4.1.2", _setting("reward", "training.batch_size")),
    Knob("reward", "epochs", "", "4.1.2", _setting("reward", "training.epochs")),
    Knob("rejection sampling", "samples per prompt", "10 to 30", "4.2.2", _setting(_RS, "k"), _between(10, 30)),
    Knob("rejection sampling", "answers kept per prompt", "1", "4.2.2", _setting(_RS, "sft_per_prompt"), _is(1)),
    Knob(
        "rejection sampling", "steering by system prompts", "in later rounds", "4.2.2", _setting(_RS, "steering"), bool
    ),
    Knob("rejection sampling", "temperature", "", "4.2.2", _setting(_RS, "sampling.temperature")),
    Knob("sft", "starts from", "the pre-trained model", "4.1", _start("sft"), _begins("pre-trained")),
    Knob(
        "sft",
        "loss",
        "cross-entropy on target tokens, prompts masked",
        "4.1.3",
        _fixed("sft", "cross-entropy on target tokens, prompts masked"),
        _begins("cross-entropy on target tokens, prompts masked"),
    ),
    Knob("sft", "target", "the final response", "4.2.2, table 7", _setting("sft", "sft.train_on"), _is("final")),
    Knob("sft", "learning rate", "1e-5", "4.1.3", _setting("sft", "training.learning_rate"), _is(1e-5)),
    Knob("sft", "steps", "8,500 to 9,000", "4.1.3", _optimizer_steps("sft"), _between(8500, 9000)),
    Knob("sft", "batch size", "", "4.1.3", _setting("sft", "training.batch_size")),
    Knob("sft", "schedule", "", "4.1.3", _setting("sft", "training.schedule")),
    Knob("sft", "weight decay", "", "4.1.3", _setting("sft", "training.weight_decay")),
    Knob("dpo", "starts from", "the SFT model of the round", "4.1", _start_of_dpo, _begins("the SFT model")),
    Knob("dpo", "loss", "sigmoid", "4.1.4", _setting("dpo", "dpo.loss"), _is("sigmoid")),
    Knob("dpo", "learning rate", "1e-5", "4.1.4", _setting("dpo", "training.learning_rate"), _is(1e-5)),
    Knob("dpo", "beta", "0.1", "4.1.4", _setting("dpo", "dpo.beta"), _is(0.1)),
    Knob("dpo", "coefficient of the NLL", "0.2", "4.1.4", _setting("dpo", "dpo.nll_coefficient"), _is(0.2)),
    Knob("dpo", "normalization of the NLL", "", "4.1.4", _setting("dpo", "dpo.nll_normalization")),
    Knob(
        "dpo",
        "header and end tokens masked",
        "yes",
        "4.1.4",
        _setting("dpo", "dpo.mask_format_tokens"),
        _is(True),
    ),
    Knob(
        "dpo",
        "levels of preference",
        "significantly better and better",
        "4.2.1",
        _setting("dpo", "data.levels"),
        _ANY_LEVELS,
    ),
    Knob("dpo", "steps", "fewer than SFT", "4.3.4", _dpo_steps, _begins("fewer")),
    Knob("dpo", "batch size", "", "4.1.4", _setting("dpo", "training.batch_size")),
    Knob(
        "average",
        "averaged",
        "reward, SFT and DPO models, by stage",
        "4.1.5",
        _averaged,
        _averages_each_stage,
    ),
    Knob("average", "members", "", "4.1.5", _members),
    Knob(
        "knowledge probe",
        "who judges the answers",
        "Llama 3",
        "4.3.6",
        _setting("knowledge_probe", "judge"),
        _is("model"),
    ),
    Knob("knowledge probe", "answers per question", "", "4.3.6", _setting("knowledge_probe", "samples")),
    Knob(
        "decontamination",
        "evaluation prompts in SFT rows",
        "dropped at an exact match",
        "5.2",
        _evaluations_kept_out,
        _begins("prompts of"),
    ),
)
