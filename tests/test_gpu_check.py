"""`make gpu` on a CPU: it says that there is no GPU, and its dry run goes through all of its code on tiny shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def check(*arguments: str) -> int:
    from tests.gpu.__main__ import main

    return main(arguments)


@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_checks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert check("--out", str(tmp_path / "out")) == 0
    assert capsys.readouterr().out.startswith("no GPU is visible to PyTorch: nothing was checked.")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_dry_run_goes_through_every_part(tmp_path: Path) -> None:
    """TRL's arm is in tests/align/trainers/test_against_trl.py, where TRL is imported already."""
    arms = ("segments", "flex", "padded rows", "flash-preference")
    assert check("--dry-run", "--out", str(tmp_path), "--arms", *arms) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    parts = {
        name: next((word for word in ("skipped", "failed") if word in found), "done") for name, found in results.items()
    }
    assert parts == {
        "equality, segments, float32": "done",
        "equality, segments, bfloat16": "done",
        "equality, flex, float32": "skipped",
        "equality, flex, bfloat16": "skipped",
        "attention, pairs": "done",
        "attention, short pairs": "done",
        "dpo, tiny": "done",
        "sft, tiny": "done",
        "reward, tiny": "done",
        "generation, tiny": "done",
        "scoring, tiny": "done",
        "memory, tiny": "done",
    }
    for method in ("dpo", "sft", "reward"):
        padded = results[f"{method}, tiny"]["arms"]["padded rows"]
        assert padded["apart"]["loss"] < 1e-5
        assert padded["apart"]["gradient"] < 1e-4
        assert padded["seconds"] > 0
    assert results["memory, tiny"]["planned_gib"] > 0
    page = (tmp_path / "results.md").read_text()
    assert "figures mean nothing" in page
    assert "| padded rows | " in page


@pytest.mark.slow
def test_values_that_differ_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Branches that see each other: the packed row as one causal row."""
    from torch.nn.functional import scaled_dot_product_attention
    from transformers import AttentionInterface

    import align.tree.attention as attention

    def causal(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: Any = None, **others: Any) -> Any:
        others["tree"].reached.add(type(module).__name__)
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None

    AttentionInterface.register(attention.NAME, causal)
    try:
        assert check("--dry-run", "--only", "equality", "--out", str(tmp_path)) == 1
    finally:
        AttentionInterface.register(attention.NAME, attention.tree_attention)
    assert "equality, segments, float32: AssertionError: packed trees differ from rows by" in capsys.readouterr().out


def out_of_memory(*_: object) -> dict[str, Any]:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.slow
def test_all_arms_are_compared_with_our_segments_and_only_arms_of_others_may_lack_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when segments are not asked for. No gradient of the comparison is held while steps are timed."""
    import weakref

    import torch

    from tests.gpu import peers, shapes, training
    from tests.gpu.measure import Check

    run = Check(torch.device("cpu"), shapes.DRY, seconds=60)
    held: list[weakref.ref[torch.Tensor]] = []
    compared, timed = training._same, run.timed

    def noted(arm: str, found: training.Outcome, *others: Any) -> dict[str, float]:
        held[:] = [weakref.ref(gradient) for gradient in found[1].values()]
        return compared(arm, found, *others)

    def fresh(step: Any, repeats: int | None = None) -> dict[str, Any]:
        step.args[1].zero_grad(set_to_none=True)
        assert held
        assert not any(ref() is not None for ref in held), "a gradient of the first step"
        return timed(step, repeats)

    monkeypatch.setattr(training, "_same", noted)
    monkeypatch.setattr(run, "timed", fresh)
    alone = training.compare(run, "sft", "tiny", ["padded rows"])["arms"]
    assert alone.keys() == {"padded rows"}
    assert alone["padded rows"]["apart"]["gradient"] > 0, "compared with another arm than itself"

    monkeypatch.setattr(peers, "padded_rows", out_of_memory)
    arms = training.compare(run, "sft", "tiny", ["segments", "padded rows"])["arms"]
    assert arms["padded rows"] == {"skipped": "out of memory on this device"}
    monkeypatch.setattr(training, "_ours", out_of_memory)
    arms = training.compare(run, "sft", "tiny", ["segments", "padded rows"])["arms"]
    assert arms["segments"] == {"failed": "out of memory on this device"}
    assert arms["padded rows"]["skipped"].startswith("segments failed")


def test_memory_far_from_the_plan_is_a_failure() -> None:
    from tests.gpu.memory import require_planned

    require_planned(1.1)
    for ratio in (0.7, 1.3, float("nan")):
        with pytest.raises(AssertionError, match=r"expected 0.8 to 1.25"):
            require_planned(ratio)


@pytest.mark.slow
def test_a_part_that_fails_or_comes_too_late_leaves_the_others_alone() -> None:
    import torch

    from tests.gpu import report, shapes
    from tests.gpu.measure import Check

    run = Check(torch.device("cpu"), shapes.DRY, seconds=60)
    run.run("broken", lambda: {}["missing"])
    run.run("whole", lambda: {"value": 1})
    run.run("an arm", lambda: {"arms": {"trl": {"failed": "ValueError: no"}, "ours": {"seconds": 2.0, "mfu": 0.5}}})
    run.run("large", out_of_memory)
    run.seconds = 0
    run.run("late", lambda: {"value": 1})
    assert run.results["whole"] == {"value": 1}
    assert report.failures(run.results) == [
        "broken: KeyError: 'missing'",
        "an arm > arms > trl: ValueError: no",
        "large: out of memory on this device",
        "late: TimeoutError: the 0 s of the check are used up",
    ]
    page = report.page({"device": "a card"}, run.results)
    assert "failed: KeyError: 'missing'" in page
    assert "| ours | 2 | 50% |" in page
    assert "| trl (failed: ValueError: no) |  |  |" in page
