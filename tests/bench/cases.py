"""The list of cases: what is measured, on what, and how long it may take. Each runs in a process of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

LLAMA3 = {"prompt": 475, "completion": 284}
"""Mean tokens of a prompt and of a completion in Llama 3's preference data (arXiv:2407.21783, table 6)."""

LONG_ANSWERS = {"prompt": 96, "completion": 256}

SWEEP = {0.25: (130, 520), 1: (390, 390), 2.7: (674, 250), 10: (976, 98)}
"""Prompt over completion -> their tokens, at about 1,170 tokens in a tree of two completions."""


@dataclass(frozen=True)
class Case:
    """A function of one of the other modules of this folder, and its settings."""

    name: str
    group: str
    function: str  # module.function
    settings: dict[str, Any]
    limit_seconds: int = 600
    quick: dict[str, Any] = field(default_factory=dict)  # what --quick puts in the place of settings
    on_demand: bool = False  # too long for a run of everything: measured where --only names its group

    def measure(self, folder: Path) -> dict[str, Any]:
        module, function = self.function.split(".")
        call: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
        return call(folder, **self.settings)

    def quickly(self) -> Case:
        return replace(self, settings={**self.settings, **self.quick})


def all_cases() -> list[Case]:
    return [*_dpo(), *_sft(), *_reward(), *_scoring(), *_preparation(), *_startup(), *_memory(), *_head(), *_growth()]


SMALL = {"model": "3M", "prompt": 60, "completion": 40, "pairs": 2, "steps": 2}


def _dpo() -> list[Case]:
    plan = [  # model, dtype, shape, steps, limit
        ("50M", "fp32", LLAMA3, 2, 1500),
        ("50M", "fp32", LONG_ANSWERS, 2, 900),
        ("50M", "bf16", LLAMA3, 2, 1200),
        ("50M", "bf16", LONG_ANSWERS, 2, 900),
        ("15M", "fp32", LLAMA3, 2, 600),
        ("15M", "fp32", LONG_ANSWERS, 2, 600),
        ("135M", "bf16", LLAMA3, 2, 1500),
        ("128k words", "fp32", LONG_ANSWERS, 2, 1200),
    ]
    cases = [
        Case(
            name=f"dpo {model} {dtype} {shape['prompt']}-{shape['completion']}",
            group="dpo",
            function="training.dpo",
            settings={"model": model, "dtype": dtype, **shape, "pairs": 4, "steps": steps},
            limit_seconds=limit,
            quick=SMALL,
        )
        for model, dtype, shape, steps, limit in plan
    ]
    for share, (prompt, completion) in SWEEP.items():
        settings = {"model": "15M", "dtype": "fp32", "prompt": prompt, "completion": completion, "pairs": 2, "steps": 2}
        quick = {"model": "3M", "prompt": prompt // 8, "completion": max(20, completion // 8), "steps": 2}
        cases.append(Case(f"sweep {share:g}", "sweep", "training.dpo", settings, 600, quick))
    return cases


def _sft() -> list[Case]:
    settings = {"model": "50M", **LLAMA3, "pairs": 6, "steps": 2}
    return [
        Case(f"sft 50M {dtype}", "sft", "training.sft", {**settings, "dtype": dtype}, 1200, SMALL)
        for dtype in ("fp32", "bf16")
    ]


def _reward() -> list[Case]:
    settings = {"model": "50M", "dtype": "fp32", **LLAMA3, "pairs": 2, "steps": 2}
    return [
        Case(
            f"reward 50M, {count} completions", "reward", "training.reward", {**settings, "branches": count}, 900, SMALL
        )
        for count in (2, 3)
    ]


def _scoring() -> list[Case]:
    settings = {"model": "50M", "prompt": 512, "completion": 256, "completions": 16, "steps": 4}
    quick = {"model": "3M", "prompt": 64, "completion": 32, "completions": 4, "steps": 2}
    return [Case("scoring 50M, 16 completions", "scoring", "scoring.compare", settings, 600, quick)]


def _preparation() -> list[Case]:
    cases = [
        Case(
            "preparation",
            "preparation",
            "preparation.rate",
            {"rows": 1000, "rounds": 4},
            300,
            {"rows": 60, "rounds": 2},
        )
    ]
    for rows in (1_000, 10_000, 100_000):
        quick = {"rows": rows // 100}
        cases.append(Case(f"rows {rows}", "rows", "preparation.memory", {"rows": rows}, 600, quick))
    million = {"rows": 1_000_000}
    cases.append(Case("rows 1000000", "million", "preparation.memory", million, 7200, {"rows": 10_000}, on_demand=True))
    return cases


def _startup() -> list[Case]:
    return [Case("startup", "startup", "startup.compare", {"rounds": 2}, 600, {"rounds": 1})]


def _memory() -> list[Case]:
    settings = {"model": "50M", "dtype": "fp32", **LLAMA3, "pairs": 4}
    quick = {"model": "3M", "prompt": 60, "completion": 40, "pairs": 2}
    return [
        Case(f"memory {arm}", "memory", "memory.dpo_step", {**settings, "arm": arm}, 600, quick)
        for arm in ("trl", "trl best", "trl compact", "ours")
    ]


def _head() -> list[Case]:
    settings = {"words": 128_256, "width": 576, "labels": 1024}
    quick = {"words": 8192, "width": 64, "labels": 512}
    return [
        Case(f"head {arm}", "head", "memory.head", {**settings, "arm": arm}, 300, quick)
        for arm in ("logits", "trl", "ours")
    ]


def _growth() -> list[Case]:
    tokens = [256, 512, 1024, 2048, 4096, 8192]
    small = {"model": "3M", "tokens": [256, 512, 1024], "steps": 2}
    many = {"model": "15M", "tokens": tokens, "tree": [128, 64], "steps": 4}
    return [
        Case("growth, many trees", "growth", "growth.packed_row", many, 900, small),
        Case(
            "growth, one tree", "growth", "growth.one_tree", {"model": "15M", "tokens": tokens, "steps": 4}, 900, small
        ),
    ]
