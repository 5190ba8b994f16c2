"""Memory, each number from a fresh process: a DPO step of one arm, and the output head alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import ours
import shapes
import torch


def dpo_step(
    folder: Path, *, arm: str, model: str, dtype: str, prompt: int, completion: int, pairs: int
) -> dict[str, Any]:
    """VmHWM of two DPO steps of one arm, and what was in memory before them (weights, reference, libraries).

    arm: "trl", "trl best", "trl compact" or "ours". The gradients, which every arm has alike, stand before the second
    step: it accumulates into them, as micro-steps do.
    """
    rows = shapes.rows(pairs * 2, prompt, completion)
    start, other = (shapes.checkpoint(model, folder, kind) for kind in ("policy", "reference"))
    if arm == "ours":
        policy = ours.policy(start, dtype)
        trees = list(ours.preference_trees(map(ours.preference_row, rows), ours.protocol_of(start)))
        batches = [trees[:pairs], trees[pairs:]]
        reference = ours.policy(other, dtype)
        frozen = [ours.reference_logps(reference, batch) for batch in batches]
        del reference

        def step(batch: int) -> object:
            return ours.dpo_step(policy, batches[batch], frozen[batch])
    else:
        import peers

        make = peers.dpo_as_it_comes if arm == "trl" else peers.dpo_best
        tokenizer = ours.protocol_of(start).tokenizer
        made = make(peers.policy(start), peers.policy(other), rows, tokenizer, pairs, dtype == "bf16", folder / "trl")
        if arm != "trl":
            made.trainer.ref_model = None
        step = made.step_compact if arm == "trl compact" else made.step  # type: ignore[assignment]
    step(0)
    before = measure.resident_bytes()
    measure.forget_peak()
    step(1)
    peak = measure.peak_bytes()
    return {"arm": arm, "before_bytes": before, "peak_bytes": peak, "above_bytes": peak - before}


def head(folder: Path, *, arm: str, words: int, width: int, labels: int) -> dict[str, Any]:
    """Peak memory of the output head, forward and backward, above its inputs and the gradients that it leaves.

    arm: "logits" (all of them, cross-entropy), "trl" (its chunked head) or "ours".
    """
    torch.manual_seed(0)
    states = torch.randn(labels, width, requires_grad=True)
    expected = torch.randint(0, words, (labels,))
    if arm == "ours":
        loss_of = ours.head_nll(words, width)
    else:
        import peers

        loss_of = peers.head_nll(arm, words, width)
    parameters = [states, loss_of.args[0].weight]
    torch.nn.init.normal_(parameters[1], std=width**-0.5)
    loss_of(states[:2], expected[:2]).backward()  # warm
    for parameter in parameters:
        parameter.grad = None
    before = measure.resident_bytes()
    measure.forget_peak()
    loss = loss_of(states, expected)
    loss.backward()
    left = sum(parameter.grad.nbytes for parameter in parameters)
    peak = measure.peak_bytes()
    return {
        "arm": arm,
        "loss": loss.item(),
        "gradient_norm": parameters[1].grad.norm().item(),
        "weight_bytes": parameters[1].numel() * 4,
        "gradient_bytes": left,
        "logits_bytes": labels * words * 4,
        "above_bytes": peak - before - left,
    }
