"""The commands that read a run of rounds instead of starting it: `python recipes/rounds.py COMMAND CONFIG.yaml ...`.

    status CONFIG                  every stage: its state, time and key numbers
    plan CONFIG                    what the next start would do, and why
    why CONFIG STAGE               everything that changed since a stage was made
    trace CONFIG CHECKPOINT|ROW    what a checkpoint or a row, by its id, was made from
    gc CONFIG [--delete[=KINDS]]   what can be deleted; without --delete it is only listed

Settings may follow as key=value. None of these commands writes anything, except `gc --delete`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from align.config import answering, config_from_argv
from align.errors import ConfigError
from align.rounds.decisions import LEDGER
from align.rounds.garbage import chosen_kinds, delete, garbage_of, garbage_text
from align.rounds.ledger import Ledger
from align.rounds.plan import RoundsConfig, labels, load_stages
from align.rounds.preview import explanation, plan_text, preview, stages_named
from align.rounds.status import reading, stage_states, table
from align.rounds.trace import trace_text

_SETTING = re.compile(r"(--)?[\w.-]+=.*|--(?!delete\b)[\w.-]+", re.DOTALL)


def answered(words: Sequence[str], recipes: Path) -> bool:
    """Run the command that `words` begin with, and print what it says. False if they begin with no command.

    words: those of the command line, without the program. recipes: the folder of the recipe scripts.
    Exits as a recipe does: with 2 for a mistake in the config or in the words, with 1 for a damaged run.
    """
    if not words or words[0] not in COMMANDS:
        return False
    command, *rest = words
    if not rest or rest[0] in ("-h", "--help"):
        print(f"usage: {Path(sys.argv[0]).name} {command} CONFIG.yaml ...\n\n{__doc__}".rstrip())
        raise SystemExit(0 if rest else 2)
    answering(lambda: COMMANDS[command](rest, recipes))
    return True


def _status(words: Sequence[str], recipes: Path) -> None:
    run_dir = Path(words[0])
    if run_dir.is_dir() and len(words) == 1:
        print(table(stage_states(run_dir)))
        return
    config, _ = _parsed(words, 0, "status CONFIG.yaml, or status RUN_FOLDER")
    print(table(stage_states(config.run_dir, labels(config))))


def _plan(words: Sequence[str], recipes: Path) -> None:
    config, _ = _parsed(words, 0, "plan CONFIG.yaml")
    print(plan_text(preview(config, recipes)))


def _why(words: Sequence[str], recipes: Path) -> None:
    config, (name,) = _parsed(words, 1, "why CONFIG.yaml STAGE, such as round-1/sft, or sft for all rounds")
    print("\n".join(explanation(stage) for stage in stages_named(preview(config, recipes), name)))


def _gc(words: Sequence[str], recipes: Path) -> None:
    flags = [word for word in words if re.fullmatch(r"--delete(=.*)?", word)]
    config, _ = _parsed([word for word in words if word not in flags], 0, "gc CONFIG.yaml [--delete[=KIND,KIND]]")
    kinds = chosen_kinds(flags[0].partition("=")[2] if flags else "")
    ledger = Ledger(config.run_dir / LEDGER, in_memory=True)
    found = [each for each in garbage_of(config.run_dir, load_stages(config, recipes), ledger) if each.kind in kinds]
    if flags and found:
        delete(config.run_dir, found)
    print(garbage_text(found, deleted=bool(flags)))


def _trace(words: Sequence[str], recipes: Path) -> None:
    if Path(words[0]).is_dir() and len(words) == 2:
        run_dir, target = Path(words[0]), words[1]
    else:
        config, (target,) = _parsed(words, 1, "trace CONFIG.yaml CHECKPOINT, or the id of a row")
        run_dir = config.run_dir
    print(trace_text(run_dir, target, reading(run_dir)))


COMMANDS: dict[str, Callable[[Sequence[str], Path], None]] = {
    "status": _status,
    "plan": _plan,
    "why": _why,
    "trace": _trace,
    "gc": _gc,
}


def _parsed(words: Sequence[str], targets: int, usage: str) -> tuple[RoundsConfig, list[str]]:
    """The config that the first word names, with key=value among the others, and the words that are neither.

    targets: how many of the latter there are.
    """
    named = [word for word in words[1:] if not _SETTING.fullmatch(word)]
    if len(named) != targets:
        extra = f"got {len(named)} ({', '.join(named)})" if named else "got none"
        raise ConfigError("command line", f"expected {targets} words after the config, {extra}", f"Usage: {usage}")
    settings = [word for word in words[1:] if _SETTING.fullmatch(word)]
    return config_from_argv(RoundsConfig, [words[0], *settings]), named
