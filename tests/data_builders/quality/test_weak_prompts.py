"""Prompts that the model of a former round was weak on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.config import load_config
from align.errors import ConfigError, RowError
from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest
from align.rows import Candidate, Message, PromptRow, QuestionRow, VerifiedPromptRow
from recipes.build_data import BuildDataRecipe, run
from tests.fakes import candidates

# Prompt -> its source, and (score, finished, failed) of each candidate. By hand, weakest first:
#   maths: b (none passed), then c (1.0 unfinished, so none usable; a higher score), d (best passing 0.5), a (2.0)
#   chat:  f (-3.0), e (-1.0)
SCORES: dict[str, tuple[str, list[tuple[float, bool, bool]]]] = {
    "a": ("maths", [(2.0, True, False), (-5.0, True, False)]),
    "b": ("maths", [(0.7, True, True), (0.9, True, True)]),
    "c": ("maths", [(1.0, False, False)]),
    "d": ("maths", [(0.5, True, False), (9.0, True, True)]),
    "e": ("chat", [(-1.0, True, False), (-4.0, True, False)]),
    "f": ("chat", [(-3.0, True, False)]),
    "unsampled": ("chat", []),
}


def question(name: str, source: str = "facts") -> dict[str, Any]:
    return {
        "id": name,
        "source": source,
        "prompt": (Message(role="user", content=f"What is the letter {name.upper()} of all this?"),),
    }


@pytest.fixture
def former(tmp_path: Path) -> Path:
    prompts = [
        VerifiedPromptRow(**question(name, source), verify='{"maths": 1}') for name, (source, _) in SCORES.items()
    ]
    write_rows(tmp_path / "prompts.jsonl", prompts)
    made: list[Candidate] = []
    for name, (_, scores) in SCORES.items():
        for index, (score, finished, failed) in enumerate(scores):
            (one,) = candidates(
                (f"answer {index}", score, finished), prompt=name, failed=("maths: no",) if failed else ()
            )
            made.append(one.model_copy(update={"id": f"{name}-{index}", "index": index}))
    write_rows(tmp_path / "candidates.jsonl", made)
    return tmp_path


def chosen(former: Path, *settings: str, kind: type[PromptRow] = VerifiedPromptRow) -> list[str]:
    config = former / "weak.yaml"
    values = {"prompts": str(former / "prompts.jsonl"), "candidates": str(former / "candidates.jsonl")}
    config.write_text(json.dumps({"output": str(former / "out"), "weak_prompts": values}))
    run(load_config(BuildDataRecipe, config, [f"weak_prompts.{setting}" for setting in settings]))
    return sorted(row.id for row in read_rows(former / "out" / "prompts.jsonl", kind))


@pytest.mark.parametrize("ratio, expected", [(0.25, "bf"), (0.5, "bcf"), (0.75, "bcdef"), (1.0, "abcdef")])
def test_the_weakest_prompts_of_each_source_are_chosen(former: Path, ratio: float, expected: str) -> None:
    assert "".join(chosen(former, f"ratio={ratio}")) == expected


def test_what_is_left_out_is_counted_and_the_rest_kept_whole(former: Path) -> None:
    assert len(chosen(former)) == 2
    counts = read_data_manifest(former / "out" / "prompts.jsonl")["counts"]
    assert counts["dropped"] == {"no candidates": 1, "not among the weakest of its source": 4}
    rows = {row.id: row for row in read_rows(former / "out" / "prompts.jsonl", VerifiedPromptRow)}
    before = {row.id: row for row in read_rows(former / "prompts.jsonl", VerifiedPromptRow)}
    assert rows["b"] == before["b"]
    write_rows(former / "heldout.jsonl", [before["b"]])
    assert chosen(former, f"evaluation=[{former / 'heldout.jsonl'}]") == ["f"]


def test_questions_are_chosen_by_the_verdicts_of_the_probe(former: Path) -> None:
    rows = [QuestionRow(**question(name), entity=name, relation="r", answers=("x",)) for name in "abcd"]
    write_rows(former / "prompts.jsonl", rows)
    verdicts = dict(zip("abc", ("known", "unsure", "unknown"), strict=True))
    lines = [json.dumps({"id": name, "knowledge": verdict}) for name, verdict in verdicts.items()]
    (former / "answers.jsonl").write_text("\n".join(lines))
    probe = ["candidates=null", f"probe={former / 'answers.jsonl'}"]
    assert chosen(former, *probe, kind=QuestionRow) == ["b"]
    assert chosen(former, *probe, "knowledge=[unsure, unknown]", kind=QuestionRow) == ["b", "c"]
    counts = read_data_manifest(former / "out" / "prompts.jsonl")["counts"]
    assert counts["dropped"] == {"knowledge: known": 1, "not probed": 1}
    (former / "answers.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(RowError, match=r"answers.jsonl:1: has no id and knowledge. Name the answers.jsonl of a know"):
        chosen(former, *probe)


def test_exactly_one_measure_is_required(former: Path) -> None:
    with pytest.raises(ConfigError, match="expected either candidates or probe"):
        chosen(former, "candidates=null")
