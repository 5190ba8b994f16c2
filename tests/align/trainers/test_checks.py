"""The checks before the first update: each stops a run that was broken on purpose, and lets a whole one pass."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path

import pytest
import torch

from align.errors import CheckError
from align.jsonl import write_rows
from align.reporting import logger
from align.rows import Message, PreferenceRow, SFTRow
from tests.metrics import metrics_of

WORDS = ["capital", "France", "Italy", "river", "Paris", "Rome", "answer", "short", "sentence", "know", "guess", "call"]
STAGES = ["sft", "reward", "dpo"]


def say(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 12)))


def preference_rows(count: int) -> list[PreferenceRow]:
    rng = random.Random(count)
    return [
        PreferenceRow(
            id=f"p{n}",
            source="test",
            prompt=(Message(role="user", content=say(rng)),),
            completions=tuple((Message(role="assistant", content=say(rng)),) for _ in range(2)),
        )
        for n in range(count)
    ]


def train(stage: str, folder: Path, checkpoint: Path, *, precision: str = "fp32", **training) -> Path:
    """Two steps of a stage through its recipe."""
    from recipes import dpo, reward, sft

    rows = preference_rows(12)
    path = folder / f"{stage}.jsonl"
    if stage == "sft":
        write_rows(path, [SFTRow(id=row.id, source="test", messages=(*row.prompt, *row.chosen)) for row in rows])
    else:
        write_rows(path, rows)
    recipe, run = {
        "sft": (sft.SFTRecipe, sft.run),
        "reward": (reward.RewardRecipe, reward.run),
        "dpo": (dpo.DPORecipe, dpo.run),
    }[stage]
    settings = {"output_dir": folder / "run", "batch_size": 6, "learning_rate": 1e-3, "precision": precision}
    return run(recipe(model={"path": checkpoint}, data={"path": path}, training=settings | training))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture):
    """What the run logs; our logger does not propagate."""
    logger("align")  # sets the level, once, while no handler is there
    ours = logging.getLogger("align")
    ours.addHandler(caplog.handler)
    yield caplog
    ours.removeHandler(caplog.handler)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_healthy_run_passes_and_says_what_it_checked(
    stage: str, precision: str, tmp_path: Path, tiny_llama3_checkpoint: Path, said: pytest.LogCaptureFixture
) -> None:
    train(stage, tmp_path, tiny_llama3_checkpoint, precision=precision)
    checked = [record.getMessage() for record in said.records if "packed rows equal" in record.getMessage()]
    assert len(checked) == (2 if precision == "bf16" else 1), "bfloat16 is checked once more without its rounding"
    assert "(at most 0.0001)" in checked[-1]
    assert ("policy and reference agree: margin 0 " in said.text) == (stage == "dpo")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_completions_that_see_each_other_stop_the_run(
    stage: str, precision: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.tree.attention import TreeLayout

    honest = TreeLayout.of

    def one_long_row(trees):
        start, prompt_end, _ = trees[0]
        return honest([(start, prompt_end, ((prompt_end, trees[-1][2][-1][1]),))])

    monkeypatch.setattr(TreeLayout, "of", one_long_row)
    expected = (
        r"row p\d+: packed with row p\d+ its values differ by .* from each completion alone, expected at most 0.0001"
    )
    with pytest.raises(CheckError, match=expected + r"\. The attention of packed trees is wrong here"):
        train(stage, tmp_path, tiny_checkpoint, precision=precision)


@pytest.mark.slow
def test_an_attention_that_is_wrong_alone_too_is_held_to_transformers_own(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries scaled by half wherever a layout is given: packed and alone agree, and both are wrong."""
    import transformers

    import align.tree.attention as attention

    honest = attention.tree_attention

    def halved(module, query, key, value, mask, tree=None, **kwargs):
        return honest(module, query if tree is None else query / 2, key, value, mask, tree=tree, **kwargs)

    transformers.AttentionInterface.register(attention.NAME, halved)
    try:
        with pytest.raises(CheckError, match=r"row p\d+: its values differ by .* from the model's own forward pass"):
            train("sft", tmp_path, tiny_checkpoint)
    finally:
        transformers.AttentionInterface.register(attention.NAME, honest)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_terminator_outside_the_loss_stops_the_run_and_shows_the_tail(
    stage: str, tmp_path: Path, tiny_llama3_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers.base import TreeTrainer

    monkeypatch.setattr(TreeTrainer, "supervised", lambda self, branch: [*branch.loss_mask[:-1], False])
    expected = r"row p\d+: the last token in the loss is ' ?\w+', expected .*<\|eot_id\|>.*; .* ends with '.*<\|eot_id"
    with pytest.raises(CheckError, match=expected):
        train(stage, tmp_path, tiny_llama3_checkpoint)


def test_a_message_that_goes_on_after_a_tool_call_ends_with_a_terminator_too(tiny_llama3_checkpoint: Path) -> None:
    from align.models.loading import load_tokenizer
    from align.trainers.checks import check_terminators
    from align.tree.encode import Ask, encode_completions

    _, protocol = load_tokenizer(tiny_llama3_checkpoint)
    system = Message(
        role="system", content="Environment: ipython\nTools: brave_search\nToday Date: 21 September 2024\n"
    )
    call = {"name": "brave_search", "arguments": {"query": "Rome"}}
    calls = Message(role="assistant", tool_calls=(call,))
    (tree,) = encode_completions([Ask("call", (system, Message(role="user", content="Rome?")), [(calls,)])], protocol)
    assert protocol.tokenizer.decode(tree.branches[0].ids[-1:]) == "<|eom_id|>"
    check_terminators([tree], lambda branch: branch.loss_mask, protocol)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_stop_the_run_and_name_the_rows(value: float) -> None:
    from align.trainers.checks import check_packing
    from align.tree.encode import PromptTree, Segment

    trees = [PromptTree(name, [1], (Segment([2, 3], [True, True], [True, True]),)) for name in ("p1", "p2")]
    expected = r"rows p\d+ and p\d+: the model gives (nan|-inf) before any training\. The weights of"
    with pytest.raises(CheckError, match=expected):
        check_packing(lambda batch: torch.full(batch.labels.shape, value), trees, low_precision=False)


@pytest.mark.slow
def test_a_policy_that_is_not_its_reference_stops_at_step_0(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers.reference import ReferenceCache

    honest = ReferenceCache.logps

    def shifted(*arguments, **settings):
        found = honest(*arguments, **settings)
        return found._replace(logps=found.logps + torch.tensor([1, 0]).numpy())

    monkeypatch.setattr(ReferenceCache, "logps", shifted)
    expected = r"step 0: before training the margin is 0\.1 and the loss .*, expected 0 \(at most 0\.001\) and 0\.6931"
    with pytest.raises(CheckError, match=expected + ". Policy and reference differ"):
        train("dpo", tmp_path, tiny_checkpoint)


def test_the_log_shows_what_the_loss_reads_and_what_it_leaves_out(
    tiny_checkpoint: Path, said: pytest.LogCaptureFixture
) -> None:
    from align.models.loading import load_tokenizer
    from align.trainers.checks import show_supervision
    from align.tree.encode import Ask, encode_completions

    _, protocol = load_tokenizer(tiny_checkpoint)
    call = Message(role="assistant", content="I look.", tool_calls=({"name": "find", "arguments": "{}"},))
    completion = (call, Message(role="tool", content="SECRET", name="find"), Message(role="assistant", content="late"))
    (tree,) = encode_completions([Ask("r", (Message(role="user", content="ask"),), [completion])], protocol)
    show_supervision([tree], lambda branch: branch.loss_mask, protocol)
    text = said.records[-1].getMessage()
    assert "⟦I look." in text
    assert "⟦late<|im_end|>⟧" in text
    marked = [part.partition("⟧")[0] for part in text.split("⟦")[1:]]
    assert not any("SECRET" in part or "ask" in part for part in marked[1:])
    left_out = text.splitlines()[-1]
    assert f"not: the prompt's {len(tree.prompt)}, and [" in left_out
    assert "SECRET" in left_out
    assert "late" not in left_out

    colored = said.records[-1].drawn()
    green = {place for span in colored.spans if "green" in str(span.style) for place in range(span.start, span.end)}
    assert "".join(colored.plain[place] for place in sorted(green)) == "".join(re.findall("⟦.*?⟧", text))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_checks_change_no_bit_and_draw_no_random_number(
    stage: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers import base

    honest = base.run_checks
    states = []

    def watched(trainer, model):
        before = torch.get_rng_state()
        honest(trainer, model)
        states.append(torch.equal(before, torch.get_rng_state()))

    monkeypatch.setattr(base, "run_checks", watched)
    checked = train(stage, tmp_path, tiny_checkpoint, precision="bf16", output_dir=tmp_path / "checked")
    plain = train(stage, tmp_path, tiny_checkpoint, precision="bf16", output_dir=tmp_path / "plain", checks=False)
    assert states == [True]
    assert (checked / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert metrics_of(checked) == metrics_of(plain)


def test_the_row_that_is_checked_is_the_longest_of_moderate_ones() -> None:
    from align.trainers.checks import LONGEST, check_packing
    from align.tree.encode import PromptTree, Segment

    def tree(name: str, length: int) -> PromptTree:
        return PromptTree(name, [1] * 5, (Segment([2] * length, [True] * length, [True] * length),))

    seen = []

    def values(batch):
        seen.append((tuple(batch.tree_ids), batch.layout is None))
        return torch.zeros(len(batch.labels))

    trees = [tree("long", LONGEST + 1), tree("short", 3), tree("middle", 40)]
    check_packing(values, trees, low_precision=False)
    assert seen == [(("short", "middle"), False), (("middle",), False), (("middle",), True)]
    check_packing(values, trees[:1], low_precision=False)
    assert seen[3][0] == ("long", "long")


def test_a_row_of_100000_tokens_is_cut_before_the_models_own_forward_pass() -> None:
    from align.trainers.checks import MOST, check_packing
    from align.tree.encode import PromptTree, Segment

    mask = [True] * 50_000
    long = PromptTree("long", [1] * 50_000, (Segment([2] * 50_000, mask, mask),) * 2)
    seen = []

    def values(batch):
        seen.append((batch.layout is None, batch.input_ids.shape[1]))
        return torch.zeros(len(batch.labels))

    check_packing(values, [long], low_precision=False)
    assert seen == [(False, 6 * MOST), *[(False, 2 * MOST)] * 2, *[(True, 2 * MOST)] * 2]
