"""Whether a folder belongs to the run that is started now, and what an extended run changes.

A run may be resumed with other values of the settings in `align/harmless.py`. It may also get another number of steps
(`training.epochs`, `training.max_steps`): which rows are in step k depends on the seed and on k alone
(`align.tree.pack.RunPlan`), so the steps already done stay what they were. The learning rate of later steps follows the
schedule for the new number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from align.config import Section, dump
from align.errors import CheckpointError
from align.harmless import changes_no_model, may_change
from align.settings import TrainingConfig
from align.trainers.schedules import Schedule, warmup_steps

LENGTH = ("training.epochs", "training.max_steps")
"""Settings that give a run its number of steps."""

_MEANING = {
    "template": ("with another tokenizer, chat template or protocol", "model.path"),
    "start": ("from other starting weights", "model.path"),
    "rows": ("on other rows", "data.path"),
    "precision": ("in another precision", "training.precision"),
}
"""Part of an identity -> what differs, and the setting whose files or value changed."""

_BY_CONTENT = {"data.path": ("rows",), "model.path": ("start", "template"), "model.revision": ("start", "template")}
"""Settings that name a place -> the parts of an identity that say what is there. The place may change: rows and models
are moved, and a path may be relative in one start and absolute in the next."""


class Default(NamedTuple):
    """The value that a setting has in configs from before it existed."""

    value: Any
    inside: Mapping[str, Default]
    """Defaults of the settings in it, if it is a section."""


def default_values(section: Section) -> dict[str, Default]:
    """Name -> default of every setting of a config, as plain values.

    A manifest that was written by an earlier version lacks the settings that came later. They count as their defaults,
    since a new setting's default never changes a result.
    """
    found = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        found[name] = Default(_plain(default), default_values(value) if isinstance(value, Section) else {})
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return dump(value)
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


class Run(NamedTuple):
    """The run that is started now."""

    stage: str
    config: Mapping[str, Any]
    identity: Mapping[str, str]
    """See `align.trainers.checkpoints.run_identity`."""
    defaults: Mapping[str, Default]
    output: Path


def refuse_other_run(run: Run, folder: Path, manifest: Mapping[str, Any], *, finished: bool) -> None:
    """Raise CheckpointError if a whole folder was made by another stage, config, start, template or data.

    finished: whether the folder holds the finished model. Then settings that decide its form must be the same, too.
    """
    how = f"choose another training.output_dir, or delete {run.output} to start over"
    choose = how[0].upper() + how[1:]
    if manifest.get("stage") != run.stage:
        what = f"holds what the stage {manifest.get('stage')} made, and this is {run.stage}"
        raise CheckpointError(folder, what, choose)
    recorded = manifest.get("identity")
    known = recorded if isinstance(recorded, dict) else {}
    same = {part for part, value in run.identity.items() if known.get(part) == value}
    harmless = changes_no_model if finished else may_change
    for key, before, now in _differences(manifest.get("config", {}), run.config, run.defaults):
        # data.path may be a section, {path: rows.jsonl, weight: 2}: all of its settings decide about the rows alone.
        place = "data.path" if key.startswith("data.path.") else key
        moved = place in _BY_CONTENT and same.issuperset(_BY_CONTENT[place])
        if not (moved or harmless(key) or key in LENGTH):
            raise CheckpointError(folder, f"was made with {key}={before}, and now {key}={now}", choose)
    if not isinstance(recorded, dict):
        what = "was written by an older version, which did not record what it was trained from"
        raise CheckpointError(folder, what, choose)
    for part, (difference, key) in _MEANING.items():
        if recorded.get(part) != run.identity[part]:
            what = f"was trained {difference} than {key} gives now ({recorded.get(part)}, now {run.identity[part]})"
            raise CheckpointError(folder, what, f"Restore what changed, {how}")


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Default], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, earlier value and present value of each setting that differs, in the order of the keys."""
    for name in sorted(before.keys() | now.keys()):
        default = defaults.get(name, Default(None, {}))
        one, two = before.get(name, default.value), now.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            yield from _differences(one, two, default.inside, f"{prefix}{name}.")
        elif one != two:
            yield f"{prefix}{name}", one, two


def changed_schedule(training: TrainingConfig, before: int, now: int, done: int) -> str:
    """What another number of steps does to the learning rate, in one sentence.

    before, now: steps of the run in its earlier start and in this one. done: steps already trained.
    """
    step = done + 1
    old, new = (training.learning_rate * _schedule(training, steps)(done) for steps in (before, now))
    kind = f"the {training.schedule} schedule"
    if step > now:
        return f"the run now ends at step {now} instead of {before}; all of its steps are done"
    if step > before:
        return f"{kind} now ends at step {now} instead of {before}; step {step} has the learning rate {new:.3g}"
    if old == new:
        return f"the run now ends at step {now} instead of {before}; the learning rate at step {step} stays {new:.3g}"
    moved = f"the learning rate at step {step} changes from {old:.3g} to {new:.3g}"
    return f"{kind} now ends at step {now} instead of {before}; {moved}"


def _schedule(training: TrainingConfig, steps: int) -> Schedule:
    warmup = warmup_steps(training.warmup_ratio, steps)
    return Schedule(training.schedule, steps, warmup, training.min_learning_rate_ratio)
