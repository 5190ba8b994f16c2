"""BFCL, the Berkeley Function Calling Leaderboard: single calls, one function of several, parallel calls, and no call.

Questions, possible answers and the checker that judges calls come from the pinned package `bfcl-eval`. This file offers
the functions and reads the calls by the model's chat protocol, and gives the verdicts that need no checker.
Source: Patil et al. 2025, the Berkeley Function Calling Leaderboard (BFCL v4), gorilla.cs.berkeley.edu.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

from pydantic import Field

from align.assets import path_of
from align.config import Section
from align.errors import RowError
from align.formats.bfcl import DATA, first_answer, prompt_fields, read_records
from align.rows import Message, PromptRow, ToolCall
from align.settings import InputPath
from eval.intervals import Share, share
from eval.runner import Generator, Result, completion_text, limited, prompt_text

PACKAGE = "bfcl_eval"
CHECKER = f"{PACKAGE}.eval_checker.ast_eval.ast_checker"
MODEL_CONFIG = f"{PACKAGE}.constants.model_config"
MODEL = "align"

BFCLSection = Literal["simple_python", "multiple", "parallel", "irrelevance"]
Verdict = Literal[
    "right", "wrong arguments", "wrong function", "malformed call", "no call", "right silence", "needless call"
]


class BFCLConfig(Section):
    """BFCL's sections with Python functions. Neither the questions nor the functions may be in the training data."""

    sections: tuple[BFCLSection, ...] = Field(("simple_python", "multiple", "parallel", "irrelevance"), min_length=1)
    """simple_python: one function, one call (400). multiple: one call, of several functions (200). parallel: several
    calls of one function (200). irrelevance: no function fits, so that no call is right (240)."""
    path: InputPath | None = None
    """A folder with bfcl_eval/ of the package bfcl-eval, whose checker is run; None for the pinned version."""


@dataclass(frozen=True)
class Case:
    """A question, with what the checker needs to judge the answer."""

    section: BFCLSection
    prompt: PromptRow
    functions: list[dict[str, Any]]
    """BFCL's schemas, with its own names of types."""
    possible_answers: list[dict[str, Any]]
    """One `{function: {argument: [possible values]}}` for each call; empty if no call is right."""


@dataclass(frozen=True)
class Judged:
    """The verdict on an answer."""

    verdict: Verdict
    error_type: str = ""
    """BFCL's name of the error; empty if there is none."""
    error: Any = ""
    """BFCL's description: a list of messages, nested for parallel calls."""


Checker = Callable[[Case, Sequence[ToolCall]], Judged | None]
"""Returns None if the official checker finds the calls valid, else its error with the verdict `wrong arguments`."""


def evaluate(config: BFCLConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """For each section with calls: parses, right_function, right. Each requires the one before it.

    parses: the answer has at least one call, and every call is well formed. right_function: the expected functions are
    called, each as often as expected. right: the official checker finds the calls valid.

    For irrelevance: right_silence, the answer has no call and no malformed call. BFCL itself counts a call that it
    cannot decode as no call, which rewards malformed calls; `irrelevance_official` is that score, for comparison.
    """
    folder = path_of("bfcl-eval") if config.path is None else config.path
    cases = {case.prompt.id: case for section in config.sections for case in read_cases(folder, section)}
    check = load_checker(folder)
    prompts = limited([case.prompt for case in cases.values()], limit)
    rows: list[dict[str, Any]] = []
    for prompt, answer in zip(prompts, generator.answers(prompts, units, "bfcl"), strict=True):
        case = cases[prompt.id]
        judged = judge(case, answer.completion[0], check)
        rows.append(
            {
                "id": prompt.id,
                "section": case.section,
                "prompt": prompt_text(prompt.prompt),
                "answer": completion_text(answer.completion),
                "verdict": judged.verdict,
                "expected": expected_text(case),
                "error_type": judged.error_type,
                "error": judged.error,
                "finished": answer.finished,
            }
        )
    counts: dict[str, Counter[str]] = {
        section: Counter(row["verdict"] for row in rows if row["section"] == section) for section in config.sections
    }
    scores = {
        f"{section}_{metric}": score
        for section in counts
        for metric, score in _scores(section, counts[section]).items()
    }
    return Result(scores, {"rows": len(rows), **counts}, rows)


def read_cases(folder: Path, section: BFCLSection) -> list[Case]:
    """A section's questions with their possible answers, matched by id.

    Raises RowError with the file if an answer is missing.
    """
    questions = folder / DATA / f"BFCL_v4_{section}.json"
    answers = folder / DATA / "possible_answer" / questions.name
    possible = {} if section == "irrelevance" else {row["id"]: row["ground_truth"] for row in read_records(answers)}
    cases = []
    for record in read_records(questions):
        if section != "irrelevance" and record["id"] not in possible:
            raise RowError(answers, f"has no answer to {record['id']}", "Fetch the package again")
        fields = prompt_fields(record, f"{questions}: {record['id']}")
        prompt = PromptRow(id=record["id"], source=f"bfcl/{section}", **fields)
        cases.append(Case(section, prompt, record["function"], possible.get(record["id"], [])))
    return cases


def judge(case: Case, found: Message, check: Checker) -> Judged:
    """The verdict on an answer. The official checker judges answers with well-formed calls."""
    broken = None if found.tool_calls else malformed(found.content)
    if case.section == "irrelevance":
        if found.tool_calls:
            return Judged("needless call", "irrelevance_error:decoder_success", completion_text((found,)))
        return Judged("malformed call", "", broken) if broken else Judged("right silence")
    if not found.tool_calls:
        kind = "ast_decoder:decoder_failed" if broken else "ast_decoder:decoder_wrong_output_format"
        return Judged("malformed call" if broken else "no call", kind, broken or "the answer holds no call")
    wrong = check(case, found.tool_calls)
    if wrong is None:
        return Judged("right")
    expected = Counter(name for call in case.possible_answers for name in call)
    if Counter(call.name for call in found.tool_calls) != expected:
        return Judged("wrong function", wrong.error_type, wrong.error)
    return wrong


def malformed(text: str) -> str | None:
    """Why a text without calls has a malformed call, in any syntax; None if it has none."""
    from align.chat.calls import SYNTAXES, parse_calls  # imports tokenizers, which the config above does not need

    return next((why for syntax in SYNTAXES if (why := parse_calls(text, syntax).malformed)), None)


def expected_text(case: Case) -> str:
    """One right answer, for a person to read."""
    if not case.possible_answers:
        return "no call"
    calls = first_answer(case.possible_answers, case.functions, case.prompt.id)
    return completion_text((Message(role="assistant", tool_calls=calls),))


def load_checker(folder: Path) -> Checker:
    """BFCL's `ast_checker` from its own files, for Python functions under their own names.

    It is imported without its package, whose module `constants.model_config` imports the clients of every vendor. The
    checker reads only one flag of that module (whether a model writes dots in names as underscores), so a module with
    this flag replaces it during the import. sys.modules is restored, and nothing is written into the folder.
    Raises RowError if the folder does not have the checker.
    """
    with _only_while_importing(folder):
        try:
            checker = importlib.import_module(CHECKER)
        except ImportError as error:
            how = f"Name a folder with {PACKAGE}/ of the package bfcl-eval, or set none to use the pinned version"
            raise RowError(folder, f"has no checker that can be imported ({error})", how) from None

    def check(case: Case, calls: Sequence[ToolCall]) -> Judged | None:
        written = [{call.name: call.parsed()} for call in calls]
        try:
            found = checker.ast_checker(
                case.functions, written, case.possible_answers, checker.Language.PYTHON, case.section, MODEL
            )
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            # The checker fails on some values that a model may write, such as a number in a list of objects.
            return Judged("wrong arguments", "checker_failed", [f"{type(error).__name__}: {error}"])
        return None if found["valid"] else Judged("wrong arguments", found["error_type"], found["error"])

    return check


@contextmanager
def _only_while_importing(folder: Path) -> Iterator[None]:
    """Let `bfcl_eval` be imported from `folder`, and restore sys.modules at the end."""
    kept = {name: sys.modules.pop(name) for name in _loaded()}
    package, stand_in = ModuleType(PACKAGE), ModuleType(MODEL_CONFIG)
    package.__path__ = [str(folder / PACKAGE)]
    stand_in.__dict__["MODEL_CONFIG_MAPPING"] = {MODEL: SimpleNamespace(underscore_to_dot=False)}
    sys.modules.update({PACKAGE: package, MODEL_CONFIG: stand_in})
    no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = no_bytecode
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(kept)


def _loaded() -> list[str]:
    return [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]


def _scores(section: str, counts: Counter[str]) -> dict[str, Share | None]:
    """A section's scores from its verdicts."""
    rows = counts.total()
    if section == "irrelevance":
        silent = counts["right silence"]
        return {"right_silence": share(silent, rows), "official": share(silent + counts["malformed call"], rows)}
    right_function = counts["right"] + counts["wrong arguments"]
    return {
        "parses": share(right_function + counts["wrong function"], rows),
        "right_function": share(right_function, rows),
        "right": share(counts["right"], rows),
    }
