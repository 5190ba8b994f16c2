"""Candidates are verified by what their prompts require, and what failed is neither kept as best nor lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import RowError
from align.jsonl import read_rows, write_rows
from align.rows import Candidate, Message, PreferenceRow, PromptRow, SFTRow, VerifiedPromptRow
from align.sampling.selection import best_and_worst, best_of
from align.sampling.verification import Verification
from align.sampling.work_units import Units
from align.settings import ModelConfig, SamplingConfig

ASKED = (Message(role="user", content="How much is 6 * 7?"),)


def prompt(name: str = "p", **verify: Any) -> VerifiedPromptRow:
    return VerifiedPromptRow(id=name, source="test", prompt=ASKED, verify=json.dumps(verify) if verify else "")


def candidates(*made: tuple[str, float], prompt_id: str = "p", finished: bool = True) -> list[Candidate]:
    """(text, score) of each candidate of one prompt."""
    return [
        Candidate(
            id=f"{prompt_id}-{index}",
            source="test",
            prompt_id=prompt_id,
            prompt=ASKED,
            completion=(Message(role="assistant", content=text),),
            index=index,
            seed=index,
            finished=finished,
            score=score,
        )
        for index, (text, score) in enumerate(made)
    ]


def verified(*made: tuple[str, float]) -> list[Candidate]:
    return Verification([prompt(maths={"answer": "42"})], ["maths"]).verify(candidates(*made))


def test_failures_are_recorded_and_counted_by_verifier_and_reason() -> None:
    checks = {"checks": [{"kind": "words", "at_most": 3}]}
    rows = [prompt(maths={"answer": "42"}, instructions=checks), prompt("q", instructions=checks), prompt("r")]
    made = [
        *candidates(("It is 42.", 0.0), ("It is 43.", 1.0), ("I do not know.", 2.0)),
        *candidates(("No more than 43.", 0.0), prompt_id="q"),
        *candidates(("Anything at all goes.", 0.0), prompt_id="r"),
    ]
    verification = Verification(rows, ["maths", "instructions"])
    found, counts = verification.verify(made), verification.counts()
    counts.add(found[:2])
    counts.add(found[2:])
    assert [candidate.failed for candidate in found] == [
        (),
        ("maths: wrong answer",),
        ("maths: no answer", "instructions: words"),
        ("instructions: words",),
        (),
    ]
    assert counts.by_verifier() == {
        "maths": {"passed": 1, "failed": {"wrong answer": 1, "no answer": 1}},
        "instructions": {"passed": 2, "failed": {"words": 2}},
    }
    assert [candidate.passed for candidate in found] == [("maths", "instructions"), ("instructions",), (), (), ()]
    assert [candidate.model_copy(update={"failed": (), "passed": ()}) for candidate in found] == made


def test_what_comes_before_scoring_is_verified_once_however_often_units_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from align.judges.verifiers.maths import MathsVerifier

    monkeypatch.setattr(MathsVerifier, "before_scoring", True)
    verification, verified_texts = Verification([prompt(maths={"answer": "42"})], ["maths"]), []
    failure = MathsVerifier.failure

    def counted(self: MathsVerifier, completion: Any, *given: Any) -> Any:
        verified_texts.append(completion[0].content)
        return failure(self, completion, *given)

    monkeypatch.setattr(MathsVerifier, "failure", counted)
    made = [*candidates(("42", 0.0), ("41", 0.0)), *candidates(("40", 0.0), prompt_id="q")]
    units = verification.verify_before_scoring(Units.of(made, 2))
    for _ in range(2):
        assert [one.failed for one in units.rows()] == [(), ("maths: wrong answer",), ()], "q has no entry"
    assert verified_texts == ["42", "41"]


def test_a_candidate_that_failed_is_never_the_best() -> None:
    made = verified(("41", 3.0), ("42", -1.0), ("It is 42.", 0.5), ("43", -3.0))
    assert [row.candidate for row in best_of(made).rows] == ["p-2"]
    all_wrong = verified(("41", 3.0), ("43", 1.0))
    assert best_of(all_wrong) == ([], {"no candidate passed the verifiers": 1})
    assert best_and_worst(all_wrong, 0.0) == ([], {"no candidate passed the verifiers": 1})


def test_pairs_are_passing_over_failing_whatever_the_scores_say(tmp_path: Path) -> None:
    made = verified(("It is 42", 0.5), ("Surely 42", 0.1), ("say 41", 2.0), ("hm, 43", 1.0))
    pairs = best_and_worst(made, 1.0).rows
    assert [(pair.candidates, pair.scores) for pair in pairs] == [(("p-0", "p-3"), (0.5, 1.0))]
    assert pairs[0].failed == ("maths: wrong answer",), "says why the scores contradict"
    write_rows(tmp_path / "pairs.jsonl", pairs)
    assert read_rows(tmp_path / "pairs.jsonl", PreferenceRow) == pairs

    [agreeing] = best_and_worst(verified(("It is 42", 0.5), ("Surely 42", -9.0), ("say 41", 0.4)), 1.0).rows
    assert (agreeing.candidates, agreeing.scores) == (("p-0", "p-2"), (0.5, 0.4)), "the gap is not read"

    [passed_all] = best_and_worst(verified(("It is 42", 0.5), ("Yes, 42", -9.0)), 1.0).rows
    assert (passed_all.candidates, passed_all.failed) == (("p-0", "p-1"), ()), "by score, because none failed"


def test_prompts_of_which_all_candidates_passed_may_be_dropped() -> None:
    passed_all = verified(("It is 42", 0.5), ("Yes, 42", -9.0))
    not_verified = candidates(("One thing", 0.5), ("Something else", -9.0), prompt_id="q")
    mixed = [
        candidate.model_copy(update={"prompt_id": "r"}) for candidate in verified(("It is 42", 0.5), ("Say 41", 0.9))
    ]
    rows, dropped = best_and_worst([*passed_all, *not_verified, *mixed], 1.0, all_passed="drop")
    assert [row.candidates for row in rows] == [("q-0", "q-1"), ("p-0", "p-1")]
    assert dropped == {"all candidates passed the verifiers": 1}


def test_a_failed_candidate_without_a_score_is_the_worst_one() -> None:
    made = verified(("It is 42", 0.5), ("say 41", -3.0), ("hm, 43", -9.0))
    made[1] = made[1].model_copy(update={"score": None})
    [pair] = best_and_worst(made, 1.0).rows
    assert (pair.candidates, pair.scores) == (("p-0", "p-1"), ())
    assert [row.candidate for row in best_of(made, per_prompt=3).rows] == ["p-0"]


def test_the_best_of_all_bad_is_not_kept_below_the_floor() -> None:
    made = [
        *candidates(("bad one", -2.0), ("worse one", -4.0)),
        *candidates(("fair one", -1.0), ("poor one", -3.0), prompt_id="q"),
    ]
    assert [row.candidate for row in best_of(made).rows] == ["p-0", "q-0"]
    rows, dropped = best_of(made, min_score=-1.0)
    assert ([row.candidate for row in rows], dropped) == (["q-0"], {"best score below min_score": 1})
    pairs, dropped = best_and_worst(made, 0.5, min_score=-1.0)
    assert ([pair.candidates for pair in pairs], dropped) == ([("q-0", "q-1")], {"best score below min_score": 1})


@pytest.mark.parametrize(
    "verify, names, expected",
    [
        ({"maths": {"answer": ""}}, ["maths"], r"prompt p: verify\.maths\.answer: String should have at least 1"),
        ({"maths": "42"}, ["maths"], r"prompt p: verify\.maths: Input should be a valid dictionary"),
        ({"maths": {"answer": "42"}}, ["answer"], "requires 'maths', and the verifiers are answer"),
        ({}, ["maths"], "the verifier 'maths' is switched on, but no prompt has an entry for it"),
    ],
)
def test_an_entry_that_cannot_be_verified_is_an_error(verify: dict[str, Any], names: Any, expected: str) -> None:
    with pytest.raises(RowError, match=expected):
        Verification([prompt(**verify)], names)


@pytest.mark.parametrize(
    "record",
    [
        {"id": "1", "source": "mine", "prompt": [{"role": "user", "content": "6 * 7?"}]},
        {"question": "6 * 7?", "answer": "42"},
        {"messages": [{"role": "user", "content": "6 * 7?"}]},
    ],
)
def test_prompts_of_any_form_may_say_what_is_verified(tmp_path: Path, record: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(record) + "\n")
    [plain] = read_rows(path, PromptRow)
    path.write_text(json.dumps({**record, "verify": {"maths": {"answer": "42"}, "answer": None}}) + "\n")
    [row] = read_rows(path, VerifiedPromptRow)
    assert row.required() == {"maths": {"answer": "42"}}
    assert Verification([row], ["maths"]).prompts == [plain], "the same prompt with the same id"
    with pytest.raises(RowError, match="verify"):
        read_rows(path, PromptRow)
    path.write_text(json.dumps({**record, "verify": "42"}) + "\n")
    with pytest.raises(RowError, match=r"rows.jsonl:1: verify: expected a JSON object"):
        read_rows(path, VerifiedPromptRow)


@pytest.mark.slow
def test_the_recipe_verifies_and_samples_the_same_candidates(
    tiny_checkpoint: Path, tiny_reward_checkpoint: Path, tmp_path: Path
) -> None:
    from recipes.rejection_sample import RejectionSampleRecipe, run

    checks = {
        "instructions": {"checks": [{"kind": "keywords", "absent": ["e", "a", "of"]}, {"kind": "words", "at_least": 2}]}
    }

    def folder(name: str, row: PromptRow, **settings: Any) -> Path:
        write_rows(tmp_path / f"{name}.jsonl", [row])
        recipe = RejectionSampleRecipe(
            model=ModelConfig(path=tiny_checkpoint),
            reward_model=ModelConfig(path=tiny_reward_checkpoint),
            prompts=tmp_path / f"{name}.jsonl",
            k=8,
            sampling=SamplingConfig(max_completion_tokens=12, dtype="float32", threads=1),
            output_dir=tmp_path / name,
            **settings,
        )
        return run(recipe)

    plain = folder("plain", PromptRow(id="p", source="test", prompt=ASKED))
    checked = folder("checked", prompt(**checks), verifiers=("instructions",))
    for part in ("units", "scores"):
        names = sorted(path.name for path in (plain / part).iterdir())
        assert names == sorted(path.name for path in (checked / part).iterdir())
        for name in names:
            assert (plain / part / name).read_bytes() == (checked / part / name).read_bytes()
    made = read_rows(checked / "candidates.jsonl", Candidate)
    failed = [candidate for candidate in made if candidate.failed]
    assert 0 < len(failed) < 8, "choose other checks: these tell nothing apart"
    assert b"failed" not in (plain / "candidates.jsonl").read_bytes()
    manifest = json.loads((checked / "candidates.jsonl.manifest.json").read_text())
    assert manifest["counts"]["verified"]["instructions"]["passed"] == 8 - len(failed)
    assert "verified" not in json.loads((plain / "candidates.jsonl.manifest.json").read_text())["counts"]
    if (checked / "sft.jsonl").stat().st_size:
        [best] = read_rows(checked / "sft.jsonl", SFTRow)
        passing = [one for one in made if one.finished and not one.failed]
        assert best.candidate == max(passing, key=lambda one: one.score or 0).id


@pytest.mark.slow
def test_candidates_that_fail_before_scoring_are_not_scored_and_slow_checks_are_units(
    tiny_checkpoint: Path, tiny_reward_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.judges.verifiers.instructions import InstructionsVerifier
    from recipes.rejection_sample import RejectionSampleRecipe, run

    checks = {"instructions": {"checks": [{"kind": "keywords", "absent": ["e", "a", "of"]}]}}
    write_rows(tmp_path / "rows.jsonl", [prompt(**checks)])

    def candidates_of(name: str) -> list[Candidate]:
        recipe = RejectionSampleRecipe(
            model=ModelConfig(path=tiny_checkpoint),
            reward_model=ModelConfig(path=tiny_reward_checkpoint),
            prompts=tmp_path / "rows.jsonl",
            k=8,
            sampling=SamplingConfig(max_completion_tokens=12, dtype="float32", threads=1),
            verifiers=("instructions",),
            output_dir=tmp_path / name,
        )
        return read_rows(run(recipe) / "candidates.jsonl", Candidate)

    plain = candidates_of("plain")
    failed = [one for one in plain if one.failed]
    assert 0 < len(failed) < 8, "choose other checks: these tell nothing apart"
    monkeypatch.setattr(InstructionsVerifier, "slow", True)
    assert candidates_of("slow") == plain
    assert (tmp_path / "slow" / "verified" / "unit-00000.jsonl").exists()
    assert not (tmp_path / "plain" / "verified").exists()
    counts = [
        json.loads((tmp_path / name / "candidates.jsonl.manifest.json").read_text())["counts"]
        for name in ("plain", "slow")
    ]
    assert counts[0] == counts[1]

    monkeypatch.setattr(InstructionsVerifier, "slow", False)
    monkeypatch.setattr(InstructionsVerifier, "before_scoring", True)
    before = candidates_of("before")
    assert [one.model_copy(update={"score": None}) for one in before if one.failed] == [
        one.model_copy(update={"score": None}) for one in failed
    ]
    assert [one.score for one in before if one.failed] == [None] * len(failed)
    assert [one.id for one in before if one.score is not None] == [one.id for one in plain if not one.failed]
