"""What must hold before the first update, or the run stops: plain functions, each of which raises ProofError.

They cost a few forward passes on two short rows, draw no random numbers and leave the model as it was. Every process
makes the same passes on the same rows: ZeRO-3 gathers weights in each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from align.chat.protocol import ChatProtocol
from align.errors import ProofError
from align.reporting import logger
from align.tree.encode import PromptTree, Segment
from align.tree.pack import TreeBatch, collate

log = logger(__name__)

Supervised = Callable[[Segment], Sequence[bool] | np.ndarray]
"""Which of a branch's tokens the loss reads."""

LONGEST = 256
"""Tokens of the row that is packed and taken apart, at most, where the first step has one that short."""

PACKING_TOLERANCE = {False: 1e-4, True: 0.3}
"""By whether products run in bfloat16: how far a packed row's values may be from those of each completion alone and of
the model's own forward pass, root mean square, in nats for log-probabilities, log-odds for scores. Measured on
SmolLM2-135M: 1e-5 and 0.03 to 0.07 nats, and 1e-6 and 0.01 to 0.03 for scores; with branches that see each other at
least 1 nat, 0.02 for scores of an untrained head."""

UNTRAINED_NATS = 0.01
"""Mean absolute difference of logratios before any training, at most: the reference pass ran the first step's very
batches, and what is left is the noise of kernels that are not deterministic. In float32 other batches make no more."""

ROUNDING_NATS = 0.5
"""The same for each square root of a completion's tokens, where products run in bfloat16 and other batches made the
reference's values. Measured on SmolLM2-135M: 0.06 to 0.09 (0.42 nats at a mean of 54 tokens)."""


def show_supervision(trees: Sequence[PromptTree], supervised: Supervised, protocol: ChatProtocol) -> None:
    """Log the rows' text: what the loss reads stands between marks, and all the rest is not trained on."""
    for tree in trees:
        lines = []
        for branch in tree.branches:
            mask = supervised(branch)
            lines.append(f"    {_marked(tree, branch, mask, protocol)}")
            between = [text for text, read in _runs(branch, mask, protocol) if not read]
            told = f", and {between}" if between else ""
            read = sum(map(bool, mask))
            lines.append(f"      {read} tokens in the loss; not: the prompt's {len(tree.prompt)}{told}")
        log.info("row %s, in the loss is what stands between ⟦ ⟧:\n%s", tree.id, "\n".join(lines))


def prove_terminators(trees: Sequence[PromptTree], supervised: Supervised, protocol: ChatProtocol) -> None:
    """Every branch's last token in the loss ends a message: a model that never trains on it never learns to stop."""
    for tree in trees:
        for branch in tree.branches:
            places = [place for place, read in enumerate(supervised(branch)) if read]
            if not places or int(branch.ids[places[-1]]) not in protocol.stop_ids:
                stops = " or ".join(protocol.tokenizer.decode([token]) for token in protocol.stop_ids)
                last = protocol.tokenizer.decode([int(branch.ids[places[-1]])]) if places else "nothing"
                tail = protocol.tokenizer.decode([int(token) for token in branch.ids[-12:]])
                what = f"the last token in the loss is {last!r}, wanted {stops}; the completion ends {tail!r}"
                how = "Check the row's tail, model.chat, and the loss mask of align/tree/encode.py"
                raise ProofError(f"row {tree.id}", what, how)


def prove_packing(
    values_of: Callable[[TreeBatch], Tensor], trees: Sequence[PromptTree], *, low_precision: bool
) -> None:
    """A tree packed with another gives what each completion gives alone, and in the model's own forward pass.

    values_of: a batch to its log-probabilities [N] or scores [B], in branch order, without a graph.
        A batch without a layout is a plain causal row: it goes through the model's own forward pass with its own
        attention, masks and logits.
    trees: the first optimizer step's.
    """
    beside = min(trees, key=lambda tree: tree.tokens)
    tree = max((tree for tree in trees if tree.tokens <= LONGEST), key=lambda tree: tree.tokens, default=beside)
    packed = values_of(collate([beside, tree]))
    if not torch.isfinite(packed).all():
        what = f"the model gives {packed[~torch.isfinite(packed)][0].item()} before any training"
        how = "Weights of the checkpoint, or of its score head, are not finite: load another, or make it again"
        raise ProofError(f"rows {beside.id} and {tree.id}", what, how)
    alone = [replace(tree, branches=(branch,)) for branch in tree.branches]
    one_branch = torch.cat([values_of(collate([each])) for each in alone])
    plain = torch.cat([values_of(replace(collate([each]), layout=None)) for each in alone])
    packed = packed[-len(plain) :]  # the last tree's
    tolerance = PACKING_TOLERANCE[low_precision]
    gap = _gap(packed, one_branch)
    if not gap <= tolerance:
        what = f"packed with row {beside.id} its values differ by {gap:.2g} from each completion alone"
        how = "The attention of packed trees is wrong here: check align/tree/attention.py on this device"
        raise ProofError(f"row {tree.id}", f"{what}, expected at most {tolerance:g}", how)
    own = _require_own(one_branch, plain, f"row {tree.id}", tolerance)
    found = f"{gap:.1e} from them and {own:.1e} from the model's own forward pass"
    log.info("packed rows equal completions alone: row %s differs by %s (at most %g)", tree.id, found, tolerance)


def prove_own_forward(values_of: Callable[[TreeBatch], Tensor], tree: PromptTree, where: str, tolerance: float) -> None:
    """The first completion of `tree` has the value that the model's own forward pass gives it. See `prove_packing`."""
    batch = collate([replace(tree, branches=tree.branches[:1])])
    _require_own(values_of(batch), values_of(replace(batch, layout=None)), where, tolerance)


def _require_own(values: Tensor, own: Tensor, where: str, tolerance: float) -> float:
    gap = _gap(values, own)
    if not gap <= tolerance:
        what = f"its values differ by {gap:.2g} from the model's own forward pass, expected at most {tolerance:g}"
        how = (
            "The architecture does something that packed trees do not (align/models/exactness.py lists what is known): "
            "name another model"
        )
        raise ProofError(where, what, how)
    return gap


def prove_untrained(
    *,
    margin: float,
    loss: float,
    wanted_loss: float,
    beta: float,
    means: bool,
    tokens: float,
    same_batches: bool,
    low_precision: bool,
) -> None:
    """Policy and reference are one before the first update: margin 0, and the loss that this costs.

    margin: mean absolute one, beta times nats. means: of logps that are means over the tokens. tokens: of a completion,
    on the mean. same_batches: whether the reference's values were made in the batches that the policy runs.
    """
    nats = UNTRAINED_NATS
    if low_precision and not same_batches:
        nats = ROUNDING_NATS * (tokens**-0.5 if means else tokens**0.5)
    tolerance = beta * nats
    if not margin <= tolerance:
        wanted = f"wanted 0 (at most {tolerance:.2g}) and {wanted_loss:.4f}"
        what = f"before training the margin is {margin:.4g} and the loss {loss:.4f}, {wanted}"
        how = (
            "Policy and reference differ: check model.path and model.dtype, take the reference's cache away, or set "
            "model.lora.dropout to 0 where an adapter is trained on"
        )
        raise ProofError("step 0", what, how)
    made = "the same batches" if same_batches else "other batches"
    log.info(
        "policy and reference agree: margin %.2g (at most %.2g; the reference's values are of %s), loss %.4f",
        margin,
        tolerance,
        made,
        loss,
    )


def _gap(values: Tensor, wanted: Tensor) -> float:
    return (values - wanted).square().mean().sqrt().item()


def _marked(tree: PromptTree, branch: Segment, mask: Sequence[bool] | np.ndarray, protocol: ChatProtocol) -> str:
    """A branch's whole text with the runs that the loss reads between marks."""
    runs = (f"⟦{text}⟧" if read else text for text, read in _runs(branch, mask, protocol))
    prompt = protocol.tokenizer.decode([int(token) for token in tree.prompt])
    return "".join([prompt, *runs]).replace("\n", "\\n")


def _runs(branch: Segment, mask: Sequence[bool] | np.ndarray, protocol: ChatProtocol) -> list[tuple[str, bool]]:
    """The branch's text in runs of one kind: in the loss or not."""
    found: list[tuple[str, bool]] = []
    run: list[int] = []
    for place, token in enumerate(branch.ids):
        run.append(int(token))
        if place + 1 == len(branch.ids) or mask[place + 1] != mask[place]:
            found.append((protocol.tokenizer.decode(run), bool(mask[place])))
            run = []
    return found
