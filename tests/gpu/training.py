"""Forward and backward passes of DPO, SFT and the reward model: seconds, share of the device's peak, memory.

An arm is timed only if its loss and its gradients are those of ours. The reference of DPO is the policy itself, as in
the first step of a run; all arms have its log-probabilities beforehand. The optimizer's part is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from align.losses import dpo_loss, nll_loss, reward_loss, sum_by_sequence
from align.tree.encode import PromptTree
from align.tree.flops import layer_shape, training_flops
from align.tree.pack import collate
from tests.gpu import peers, shapes
from tests.gpu.equality import relative_difference, require_attention
from tests.gpu.measure import OUT_OF_MEMORY, Check, Skipped

Outcome = tuple[float, dict[str, Tensor]]
"""The loss and the gradients of a step."""

METHODS = ("dpo", "sft", "reward")
OURS = ("segments", "flex")
REFERENCE = "segments"
BOUND = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (2e-2, 1e-1)}
"""How far the loss and the gradients of an arm may be from those of our segments."""


def cases(check: Check, arms: Sequence[str] = ()) -> dict[str, Callable[[], dict[str, Any]]]:
    """arms: the names of those that are run; all if empty."""
    return {
        f"{method}, {name}": lambda m=method, n=name: compare(check, m, n, arms)
        for name in check.sizes.llamas
        for method in METHODS
    }


def compare(check: Check, method: str, name: str, chosen: Sequence[str]) -> dict[str, Any]:
    branches = 1 if method == "sft" else 2
    trees = shapes.pairs(
        check.sizes.trees,
        check.sizes.prompt,
        check.sizes.completion,
        shapes.LLAMAS[name]["vocab_size"],
        branches=branches,
    )
    scorer = method == "reward"

    def model_of(attention: str) -> Any:
        return shapes.llama(name, check.dtype, check.device, attention=attention, scorer=scorer)

    makers: dict[str, Callable[[], tuple[peers.Step, Any]]] = {
        "segments": lambda: _ours(check, method, model_of, trees, "segments"),
        "flex": lambda: _ours(check, method, model_of, trees, "flex"),
        "padded rows": lambda: _with_model(model_of("sdpa"), lambda m: peers.padded_rows(check, method, m, trees)),
        "trl": lambda: _with_model(model_of("sdpa"), lambda m: peers.trl_step(check, method, m, trees)),
    }
    if method == "dpo":
        makers["flash-preference"] = lambda: _flash_preference(check, method, model_of, trees)
    flops = _flops(trees, name, scorer=scorer)
    found: dict[str, Any] = {"tokens": sum(tree.tokens for tree in trees), "flops": flops, "arms": {}}
    expected: Outcome | None = None
    for arm in makers:  # our segments first, which all are compared with, also if they are not to be timed
        if chosen and arm not in (REFERENCE, *chosen):
            continue
        try:
            if expected is None and arm != REFERENCE:
                raise Skipped(f"{REFERENCE} failed, and there is nothing else to compare with")
            step, model = makers[arm]()
            outcome = step().item(), {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
            if expected is None:
                expected = outcome[0], {name: gradient.cpu() for name, gradient in outcome[1].items()}
            apart = _same(arm, outcome, expected, check.dtype)
            outcome = None  # its gradients would count as memory of the timed steps
            if not chosen or arm in chosen:
                timed = check.timed(partial(_fresh_step, step, model))
                found["arms"][arm] = {**timed, "apart": apart, "mfu": check.share_of_peak(flops, timed["seconds"])}
        except Skipped as reason:
            found["arms"][arm] = {"skipped": str(reason)}
        except torch.OutOfMemoryError:  # what others need is no fault of ours
            found["arms"][arm] = {"failed" if arm in OURS else "skipped": OUT_OF_MEMORY}
        except Exception as error:  # of a peer's own code: the other arms are measured all the same
            found["arms"][arm] = {"failed": f"{type(error).__name__}: {error}"}
        step = model = outcome = None
        check.clear()
    ours = found["arms"].get("segments", {}).get("seconds")
    found["ratios"] = {
        f"{arm} / segments": each["seconds"] / ours for arm, each in found["arms"].items() if ours and "seconds" in each
    }
    return found


def _ours(
    check: Check, method: str, model_of: Callable[[str], Any], trees: Sequence[PromptTree], attention: str
) -> tuple[peers.Step, Any]:
    require_attention(check, attention)
    model = model_of(shapes.ATTENTION[attention])
    whole = shapes.tree_model(model, scorer=method == "reward")
    reference = None
    if method == "dpo":
        batch = collate(trees).to(check.device)
        with torch.no_grad():
            reference = sum_by_sequence(whole(batch), batch.label_counts).view(-1, 2)

    def step() -> Tensor:
        batch = collate(trees).to(check.device)
        values = whole(batch)
        if method == "reward":
            loss = reward_loss(*values.view(-1, 2).unbind(1)).loss.mean()
        elif method == "sft":
            loss = nll_loss(values, batch.label_counts, normalization="token_mean").sum() / len(values)
        else:
            assert reference is not None
            policy = sum_by_sequence(values, batch.label_counts).view(-1, 2)
            loss = dpo_loss(*policy.unbind(1), *reference.unbind(1), beta=peers.BETA).loss.mean()
        loss.backward()
        return loss.detach()

    return step, model


def _with_model(model: Any, make: Callable[[Any], peers.Step]) -> tuple[peers.Step, Any]:
    return make(model), model


def _flash_preference(
    check: Check, method: str, model_of: Callable[[str], Any], trees: Sequence[PromptTree]
) -> tuple[peers.Step, Any]:
    models: list[Any] = []

    def kept(attention: str) -> Any:
        models.append(model_of(attention))
        return models[-1]

    return peers.flash_preference(check, method, kept, trees), models[-1]


def _fresh_step(step: peers.Step, model: Any) -> None:
    model.zero_grad(set_to_none=True)
    step()


def _same(arm: str, found: Outcome, expected: Outcome, dtype: torch.dtype) -> dict[str, float]:
    apart = {"loss": abs(found[0] - expected[0]), "gradient": relative_difference(found[1], expected[1])}
    bounds = dict(zip(apart, BOUND[dtype], strict=True))
    if not all(apart[each] <= bounds[each] for each in apart):
        raise AssertionError(f"{arm} computes something else: it is apart by {apart}, expected at most {bounds}")
    return apart


def _flops(trees: Sequence[PromptTree], name: str, *, scorer: bool) -> float:
    """What every arm has to compute at least, each prompt once."""
    config = shapes.llama_config(name)
    trained = layer_shape(config).weights
    each = training_flops(trees, config, trained=trained, head=not scorer, head_is_trained=True)
    return float(each.sum())
