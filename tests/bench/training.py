"""Training steps of DPO, SFT and the reward model: ours against TRL's, after the gate.

A step is zero_grad, collation, forward and backward. The optimizer's part is the same for all, so it is timed once for
each step and given apart. Weights do not move: it runs at a learning rate of zero, and every arm sees the same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gates
import limits
import measure
import ours
import peers
import shapes
import torch
from torch import Tensor, nn

Step = Callable[[int], Tensor]


@dataclass
class Contest:
    """Arms on the same batches. `ours` must be among them; `oracle` names the one that the others are compared with."""

    oracle: str
    arms: dict[str, Step]
    models: dict[str, nn.Module]  # arm -> the module that its gradients land in
    trees: list[list[Any]]  # of each batch
    forward_only: dict[str, Step] = field(default_factory=dict)  # timed among the arms, without gradients
    notes: dict[str, Any] = field(default_factory=dict)


def dpo(
    folder: Path, *, model: str, dtype: str, prompt: int, completion: int, pairs: int, steps: int
) -> dict[str, Any]:
    """Four arms: TRL as it comes, TRL at its best, the same with compaction forced, ours."""
    tokenizer, rows = _tokenizer(), shapes.rows(pairs * steps, prompt, completion)
    start, other = (shapes.checkpoint(model, folder, kind) for kind in ("policy", "reference"))
    bf16 = dtype == "bf16"
    theirs = peers.policy(start)
    as_it_comes = peers.dpo_as_it_comes(theirs, peers.policy(other), rows, tokenizer, pairs, bf16, folder / "trl")
    best = peers.dpo_best(
        _sharing_weights(start, theirs), peers.policy(other), rows, tokenizer, pairs, bf16, folder / "trl"
    )
    assert as_it_comes.checkpointing
    assert not best.checkpointing
    best.trainer.ref_model = None

    batches = _batches(ours.preference_trees(map(ours.preference_row, rows), ours.protocol_of(start)), pairs)
    policy, reference = ours.policy(start, dtype), ours.policy(other, dtype).eval()
    frozen = [ours.reference_logps(reference, trees) for trees in batches]
    contest = Contest(
        oracle="trl best",
        arms={
            "trl": as_it_comes.step,
            "trl best": best.step,
            "trl compact": best.step_compact,
            "ours": lambda batch: ours.dpo_step(policy, batches[batch], frozen[batch]),
        },
        models={"trl": theirs, "trl best": best.trainer.model, "trl compact": best.trainer.model, "ours": policy.model},
        trees=batches,
        forward_only={"our reference": lambda batch: ours.reference_logps(reference, batches[batch])},
        notes={"padding": [as_it_comes.padding_share(batch) for batch in range(steps)]},
    )
    oracle = None if not bf16 else lambda batch: ours_in_fp32(start, other, batches[batch])
    return run(contest, policy.model, dtype, oracle)


def ours_in_fp32(start: Path, other: Path, trees: list[Any]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one DPO batch in float32: what bfloat16 is compared with."""
    policy = ours.policy(start, "fp32")
    frozen = ours.reference_logps(ours.policy(other, "fp32"), trees)
    loss = ours.dpo_step(policy, trees, frozen).item()
    return loss, gradients(policy.model)


def sft(
    folder: Path, *, model: str, dtype: str, prompt: int, completion: int, pairs: int, steps: int
) -> dict[str, Any]:
    """TRL padded as it comes, with checkpointing off, packed, packed and compact; ours. `pairs` are rows."""
    tokenizer, rows = _tokenizer(), shapes.rows(pairs * steps, prompt, completion, branches=1)
    start = shapes.checkpoint(model, folder)
    bf16 = dtype == "bf16"
    theirs = peers.policy(start)
    made = {
        name: peers.sft(
            theirs if name == "trl" else _sharing_weights(start, theirs), rows, tokenizer, pairs, bf16, folder / "trl",
            checkpointing=name == "trl", packed=name == "trl packed",
        )
        for name in ("trl", "trl padded", "trl packed")
    }  # fmt: skip
    batches = _batches(ours.sft_trees(map(ours.sft_row, rows), ours.protocol_of(start)), pairs)
    policy = ours.policy(start, dtype)
    contest = Contest(
        oracle="trl padded",
        arms={
            **{name: arm.step for name, arm in made.items()},
            "trl packed compact": made["trl packed"].step_compact,
            "ours": lambda batch: ours.sft_step(policy, batches[batch]),
        },
        models={
            **{name: arm.trainer.model for name, arm in made.items()},
            "trl packed compact": made["trl packed"].trainer.model,
            "ours": policy.model,
        },
        trees=batches,
        notes={"padding": [made["trl"].padding_share(batch) for batch in range(steps)]},
    )

    def in_fp32(batch: int) -> tuple[float, dict[str, Tensor]]:
        exact = ours.policy(start, "fp32")
        return ours.sft_step(exact, batches[batch]).item(), gradients(exact.model)

    return run(contest, policy.model, dtype, in_fp32 if bf16 else None)


def reward(
    folder: Path, *, model: str, dtype: str, prompt: int, completion: int, pairs: int, steps: int, branches: int
) -> dict[str, Any]:
    """TRL as it comes (checkpointing on), with checkpointing off, ours. `pairs` are prompts."""
    tokenizer, rows = _tokenizer(), shapes.rows(pairs * steps, prompt, completion, branches=branches)
    start = shapes.checkpoint(model, folder, "reward")
    bf16 = dtype == "bf16"
    theirs = peers.reward_model(start)
    as_it_comes = peers.reward(theirs, rows, tokenizer, pairs, bf16, folder / "trl", checkpointing=True)
    best = peers.reward(
        _sharing_weights(start, theirs, peers.reward_model), rows, tokenizer, pairs, bf16, folder / "trl",
        checkpointing=False,
    )  # fmt: skip
    rows_of_trees = map(ours.preference_row, rows)
    batches = _batches(ours.preference_trees(rows_of_trees, ours.protocol_of(start), pairs=False), pairs)
    scorer = ours.scorer(start, dtype)
    contest = Contest(
        oracle="trl best",
        arms={
            "trl": as_it_comes.step,
            "trl best": best.step,
            "ours": lambda batch: ours.reward_step(scorer, batches[batch]),
        },
        models={"trl": theirs, "trl best": best.trainer.model, "ours": scorer.model},
        trees=batches,
        notes={"padding": [as_it_comes.padding_share(batch) for batch in range(steps)]},
    )

    def in_fp32(batch: int) -> tuple[float, dict[str, Tensor]]:
        exact = ours.scorer(start, "fp32")
        return ours.reward_step(exact, batches[batch]).item(), gradients(exact.model)

    return run(contest, scorer.model, dtype, in_fp32 if bf16 else None, head=False)


def run(
    contest: Contest,
    model: Any,
    dtype: str,
    in_fp32: Callable[[int], tuple[float, Mapping[str, Tensor]]] | None,
    *,
    head: bool = True,
) -> dict[str, Any]:
    """Gate, then time. Raises GateError instead of giving a ratio.

    model: ours, for its shapes. in_fp32: loss and gradients of a batch, what bfloat16 arms are compared with; None in
        float32, where the oracle is.
    """
    batches = len(contest.trees)
    shapes_of = [[ours.shape_of(tree) for tree in trees] for trees in contest.trees]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def clear() -> None:
        for module in contest.models.values():
            module.zero_grad(set_to_none=True)

    found: dict[str, tuple[float, dict[str, Tensor]]] = {}
    executed: dict[str, int] = {}
    differences: dict[str, gates.Difference] = {}
    if in_fp32 is not None:
        expected, bounds = in_fp32(0), gates.BF16
    else:
        expected, bounds = None, gates.FP32
    names = [contest.oracle, *(name for name in contest.arms if name != contest.oracle)]
    for name in names:  # this pass warms each arm up as well
        clear()
        loss: list[float] = []
        executed[name] = limits.count_flops(lambda n=name, r=loss: r.append(contest.arms[n](0).item()))
        found[name] = (loss[0], gradients(contest.models[name]))
        if expected is None:
            expected = found[name]
        differences[name] = gates.difference(*found[name], *expected)
        if name != contest.oracle:
            found[name] = (loss[0], {})  # its gradients have been compared
    clear()
    if in_fp32 is not None:
        bounds = gates.widened(bounds, {name: apart for name, apart in differences.items() if name != "ours"})
    gates.require_same(differences, bounds)

    losses: dict[str, list[tuple[int, float]]] = {name: [] for name in contest.arms}
    optimizer_times: list[measure.Taken] = []

    def after(name: str, batch: int, result: Tensor) -> None:
        if name in losses:
            losses[name].append((batch, result.item()))
        if name == "ours":
            optimizer_times.append(measure.taken_by(optimizer.step))

    tokens = [sum(tree.tokens for tree in trees) for trees in shapes_of]
    peak = limits.matmul_peak(model, tokens[0], _torch_dtype(dtype))
    times = measure.alternate({**contest.arms, **contest.forward_only}, batches, before=clear, after=after)
    peak = max(peak, limits.matmul_peak(model, tokens[0], _torch_dtype(dtype)))
    if in_fp32 is None:
        timed = gates.require_same_losses(losses, dict(losses[contest.oracle]), bounds.loss)
    else:
        exact = {batch: in_fp32(batch)[0] for batch in range(batches)}
        timed = gates.require_same_losses(losses, exact, bounds.loss, peers="trl")
    least = [limits.minimal_flops(model, trees, head=head) for trees in shapes_of]
    return {
        "tokens": tokens,
        "labels": [sum(tree.labels for tree in trees) for trees in shapes_of],
        **contest.notes,
        "gate": {
            "bounds": bounds._asdict(),
            "held_to": "our step in float32" if in_fp32 is not None else contest.oracle,
            "arms": {name: apart._asdict() for name, apart in differences.items()},
            "losses": losses,
            "timed": timed,
        },
        "arms": {
            name: {
                "seconds": measure.summary([taken.wall for taken in taken_all]),
                "process_seconds": measure.summary([taken.process for taken in taken_all]),
            }
            for name, taken_all in times.items()
        },
        "optimizer_seconds": measure.summary([taken.wall for taken in optimizer_times]),
        "ratios": _ratios(times, optimizer_times),
        "limits": {
            "matmul_flops_per_second": peak,
            "minimal_flops": least,
            "arms": {
                name: limits.shares(executed[name], [taken.wall for taken in times[name]], least, peak)
                for name in contest.arms
            },
        },
    }


def _ratios(times: Mapping[str, list[measure.Taken]], optimizer: list[measure.Taken]) -> dict[str, Any]:
    """Each peer's time over ours; and with what the name says added."""
    mine = times["ours"]
    ratios = {}
    for name in times:
        if not name.startswith("trl"):
            continue
        ratios[f"{name} / ours"] = measure.ratio(times[name], mine)
        with_optimizer = (measure.plus(times[name], optimizer), measure.plus(mine, optimizer))
        ratios[f"{name} / ours, both with the optimizer's step"] = measure.ratio(*with_optimizer)
    if "our reference" in times:
        paying = measure.plus(mine, times["our reference"])
        ratios["trl / ours with its reference's forward pass"] = measure.ratio(times["trl"], paying)
    return ratios


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients, by parameter name."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def _sharing_weights(folder: Path, model: Any, load: Callable[[Path], Any] = peers.policy) -> Any:
    """A model of its own around the very parameters of `model`: arms neither copy weights nor differ in them."""
    other = load(folder)
    memo = {id(mine): theirs for mine, theirs in zip(other.parameters(), model.parameters(), strict=True)}
    return copy.deepcopy(other, memo)


def _batches(trees: Any, size: int) -> list[list[Any]]:
    whole = list(trees)
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def _tokenizer() -> Any:
    """SmolLM2's, with the chat template that ours writes: both sides must see the same tokens."""
    return ours.protocol_of(shapes.SMOLLM2).tokenizer


def _torch_dtype(dtype: str) -> torch.dtype:
    return torch.bfloat16 if dtype == "bf16" else torch.float32
