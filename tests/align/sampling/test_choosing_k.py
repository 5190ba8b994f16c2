"""The K that a pilot chooses, against curves worked out by hand, and a run that uses it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from align.errors import CheckpointError, RowError
from align.jsonl import write_rows
from align.rows import Candidate, Message, PromptRow
from align.sampling.choosing_k import ChooseKConfig, choose_k, pilot_prompts
from align.settings import ModelConfig, SamplingConfig

ASKED = (Message(role="user", content="Say."),)


def candidates(*scores: float | None, prompt: str = "p") -> list[Candidate]:
    """A candidate of each score; None is an unfinished one."""
    return [
        Candidate(
            id=f"{prompt}-{index}",
            source="test",
            prompt_id=prompt,
            prompt=ASKED,
            completion=(Message(role="assistant", content=f"text {index}"),),
            index=index,
            seed=index,
            finished=score is not None,
            score=0.0 if score is None else score,
        )
        for index, score in enumerate(scores)
    ]


def test_the_smallest_k_within_the_tolerance_is_chosen() -> None:
    """Scores 1, 2, 4, 7: the best of 1, 2, 3, 4 is 3.5, 5.17, 6.25, 7 (docs/choosing_k.md)."""
    made = candidates(1.0, 2.0, 4.0, 7.0)
    found = choose_k(made, tolerance=0.76)
    assert [point.score for point in found.curve] == pytest.approx([3.5, 31 / 6, 6.25, 7.0])
    assert (found.k, found.decided_by, found.prompts) == (3, "reward_model", 1)
    assert choose_k(made, tolerance=0.74).k == 4
    assert choose_k(made, tolerance=2.0).k == 2
    assert choose_k(made, tolerance=9.0).k == 2
    assert choose_k(made, tolerance=9.0, at_least=1).k == 1
    assert choose_k(made, tolerance=9.0, at_least=5).k == 4


def test_the_heldout_judge_decides_if_there_is_one() -> None:
    """It falls where the reward model climbs: the best of 1, 2, 3, 4 has 2.5, 2, 1.5, 1 in its eyes.

    Of the 6 pairs the higher score is chosen: 3, 2, 2, 1, 1, 1 held out, with a mean of 10 / 6.
    """
    made = candidates(1.0, 2.0, 3.0, 4.0)
    heldout = {"p-0": 4.0, "p-1": 3.0, "p-2": 2.0, "p-3": 1.0}
    found = choose_k(made, heldout, tolerance=0.1, at_least=1)
    assert [point.heldout for point in found.curve] == pytest.approx([2.5, 10 / 6, 5 / 4, 1.0])
    assert (found.k, found.decided_by) == (1, "heldout_judge")
    assert choose_k(made, tolerance=0.1, at_least=1).k == 4


def test_a_k_that_keeps_fewer_prompts_is_not_chosen() -> None:
    """One of four is finished: n candidates contain it with n / 4."""
    made = [*candidates(1.0, None, None, None), *candidates(1.0, 1.0, 1.0, 1.0, prompt="q")]
    found = choose_k(made, tolerance=9.0)
    assert [point.kept for point in found.curve] == pytest.approx([5 / 8, 6 / 8, 7 / 8, 1.0])
    assert found.k == 4
    with pytest.raises(
        RowError, match="choose_k: its candidates contain none that may be chosen, for any of 1 prompts"
    ):
        choose_k(candidates(None, None), tolerance=1.0)


def test_candidates_below_min_score_are_never_chosen() -> None:
    """One of four is above 2: n candidates contain it with n / 4, so that fewer than four lose it."""
    made = candidates(0.0, 1.0, 1.5, 3.0)
    assert choose_k(made, tolerance=9.0).k == 2
    found = choose_k(made, tolerance=9.0, min_score=2.0)
    assert [point.kept for point in found.curve] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1.0])
    assert [point.score for point in found.curve] == pytest.approx([3.0] * 4)
    assert found.k == 4
    with pytest.raises(RowError, match="lower min_score"):
        choose_k(made, tolerance=9.0, min_score=4.0)


def test_the_pilots_prompts_depend_on_the_seed_and_not_on_the_order() -> None:
    rows = [PromptRow(id=str(number), source="test", prompt=ASKED) for number in range(50)]
    chosen = pilot_prompts(rows, 10, seed=3)
    assert len(chosen) == 10
    assert chosen == sorted(chosen, key=rows.index)
    assert {row.id for row in pilot_prompts(rows[::-1], 10, seed=3)} == {row.id for row in chosen}
    assert pilot_prompts(rows, 10, seed=4) != chosen
    assert pilot_prompts(rows, 99, seed=3) == rows


def test_a_heldout_judge_without_a_score_head_is_refused_before_anything_is_sampled(tiny_checkpoint: Path) -> None:
    from align.models.preflight import require_inputs

    config = ChooseKConfig(heldout_judge=ModelConfig(path=tiny_checkpoint))
    with pytest.raises(CheckpointError, match=r"has no reward head: the tensor score\.weight is in no file"):
        require_inputs(config)


@pytest.mark.slow
def test_two_starts_of_a_run_use_the_k_of_their_pilot(
    tiny_checkpoint: Path, tiny_reward_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipes.rejection_sample import RejectionSampleRecipe, run

    one_at_a_time = threading.Lock()  # transformers cannot load two models in two threads
    from_pretrained = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def load(cls: type, *given: Any, **settings: Any) -> Any:
        with one_at_a_time:
            return from_pretrained(cls, *given, **settings)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(load))

    write_rows(tmp_path / "p.jsonl", [PromptRow(id=str(n), source="t", prompt=ASKED) for n in range(3)])

    def folder(name: str, **settings: Any) -> Path:
        recipe = RejectionSampleRecipe(
            model=ModelConfig(path=tiny_checkpoint),
            reward_model=ModelConfig(path=tiny_reward_checkpoint),
            prompts=tmp_path / "p.jsonl",
            sampling=SamplingConfig(max_completion_tokens=12, dtype="float32", threads=1),
            output_dir=tmp_path / name,
            unit_size=1,
            **settings,
        )
        return run(recipe)

    judge = {"path": tiny_reward_checkpoint}
    settings: dict[str, Any] = {
        "k": 6,
        "choose_k": {"prompts": 2, "tolerance": 1000.0, "at_least": 2, "heldout_judge": judge},
    }
    # Two starts of the same command. Locks belong to open files, so that threads are as good as processes here.
    with ThreadPoolExecutor(2) as pool:
        [chosen, _] = pool.map(lambda _: folder("chosen", **settings), range(2))
    assert not [path for path in chosen.rglob(".unit*")], "no claim or unfinished file is left"
    written = json.loads((chosen / "choose_k.json").read_text())
    assert (written["decided_by"], written["prompts"], len(written["curve"])) == ("heldout_judge", 2, 6)
    assert [point["heldout"] for point in written["curve"]] == pytest.approx([p["score"] for p in written["curve"]])
    fixed = folder("fixed", k=written["k"])
    for name in ("candidates", "sft", "preferences"):
        assert (chosen / f"{name}.jsonl").read_bytes() == (fixed / f"{name}.jsonl").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in chosen.rglob("unit*")}
    folder("chosen", **settings)
    assert {path: path.stat().st_mtime_ns for path in chosen.rglob("unit*")} == before, "nothing is sampled twice"
