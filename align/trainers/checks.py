"""Checks before the first update. Each is a function that raises CheckError, and the run stops.

They take a few forward passes on two short rows, draw no random numbers and do not change the model. Every process
makes the same passes on the same rows, because ZeRO-3 gathers weights in each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from align.chat.protocol import ChatProtocol
from align.errors import CheckError
from align.models.exactness import local_settings
from align.reporting import drawn, logger
from align.tree.encode import PromptTree, Segment
from align.tree.pack import RunPlan, TreeBatch, collate, tree_numbers

log = logger(__name__)

Supervised = Callable[[Segment], Sequence[bool] | np.ndarray]
"""Which of a branch's tokens the loss reads."""

LONGEST = 256
"""The row that is checked has at most this many tokens, if the first step has such a row."""

MOST = 4096
"""A longer prompt or completion of the row that is checked is cut: the model's own forward pass holds the logits of all
of its tokens, which would be 67 GB for 131,072 of them in a vocabulary of 128,256."""

PACKING_TOLERANCE = {False: 1e-4, True: 0.3}
"""Whether products run in bfloat16 -> the largest allowed difference between a packed row and each completion alone,
and between these and the model's own forward pass: root mean square, in nats for log-probabilities and log-odds for
scores.

Measured on SmolLM2-135M: 1e-5 nats in float32 and 0.03 to 0.07 in bfloat16; for scores 1e-6 and 0.01 to 0.03. If the
branches see each other by mistake, it is at least 1 nat, or 0.02 for scores of an untrained head."""

UNTRAINED_NATS = 0.01
"""The largest allowed mean absolute difference of logratios before any training, if the reference pass used the same
batches as the first step, or ran in float32. What remains is the noise of kernels that are not deterministic."""

ROUNDING_NATS = 0.5
"""The same if products run in bfloat16 and the reference pass used other batches, per square root of a completion's
tokens. Measured on SmolLM2-135M: 0.06 to 0.09 (0.42 nats at a mean of 54 tokens)."""


class Checked(Protocol):
    """What checks need of a trainer."""

    trees: Sequence[PromptTree]
    plan: RunPlan
    protocol: ChatProtocol
    args: TrainingArguments
    model: Any

    @property
    def hugging_face_model(self) -> Any: ...
    def supervised(self, branch: Segment) -> Sequence[bool] | np.ndarray: ...


def run_checks(trainer: Checked, model: nn.Module) -> None:
    """All checks on the rows of the first step. model: as it is wrapped for training."""
    rows = [trainer.trees[row] for row in trainer.plan.first_with_rows().rows]
    show_supervision(rows[:2], trainer.supervised, trainer.protocol)
    check_terminators(rows, trainer.supervised, trainer.protocol)
    model.eval()
    _check_values(trainer, model, rows)
    if trainer.model.precision == "bf16" and trainer.hugging_face_model.dtype == torch.float32:
        trainer.model.precision = "fp32"  # once more without bfloat16's rounding, which would hide a small fault
        _check_values(trainer, model, rows)
        trainer.model.precision = "bf16"


@torch.no_grad()
def _check_values(trainer: Checked, model: nn.Module, rows: Sequence[PromptTree]) -> None:
    def values_of(batch: TreeBatch) -> Tensor:
        return cast(Tensor, model(batch.to(trainer.args.device)))

    check_packing(values_of, rows, low_precision=trainer.model.low_precision)
    if settings := local_settings(trainer.model.config):
        check_longest_row(values_of, trainer.trees, settings, low_precision=trainer.model.low_precision)


def show_supervision(trees: Sequence[PromptTree], supervised: Supervised, protocol: ChatProtocol) -> None:
    """Log the text of the rows, with marks around what the loss reads. All the rest is not trained on."""
    for number, tree in enumerate(trees, 1):
        lines = []
        for branch in tree.branches:
            mask = supervised(branch)
            lines.append(f"    {_marked(tree, branch, mask, protocol)}")
            between = [text for text, read in _runs(branch, mask, protocol) if not read]
            also = f", and {between}" if between else ""
            read = sum(map(bool, mask))
            lines.append(f"      {read} tokens in the loss; not: the prompt's {len(tree.prompt)}{also}")
        what = f"row {number} of the first step: the text between ⟦ ⟧ is in the loss"
        message = "\n".join([what, *lines])
        log.info(message, extra=drawn(partial(_colored, message)))


def _colored(text: str) -> Any:
    """What the loss reads in green, between its marks; the rest dim."""
    from rich.text import Text

    colored = Text(text)
    head = text.partition("\n")[0]
    colored.stylize("dim", len(head))
    colored.highlight_regex("(?s)⟦.*?⟧", style="not dim green")
    colored.highlight_regex(r"(?m)^ {6}\d+ tokens in the loss", style="not dim")
    return colored


def check_terminators(trees: Sequence[PromptTree], supervised: Supervised, protocol: ChatProtocol) -> None:
    """Raise CheckError if the last trained token of a branch is no terminator: the model would never learn to stop."""
    for tree in trees:
        for branch in tree.branches:
            places = [place for place, read in enumerate(supervised(branch)) if read]
            if places == [len(branch.ids) - 1]:
                # A score is read at the last token, which a template may write after the terminator (`chat: native`).
                places = np.flatnonzero(branch.loss_mask).tolist()
            if not places or int(branch.ids[places[-1]]) not in protocol.stop_ids:
                stops = " or ".join(protocol.tokenizer.decode([token]) for token in protocol.stop_ids)
                last = protocol.tokenizer.decode([int(branch.ids[places[-1]])]) if places else "nothing"
                tail = protocol.tokenizer.decode([int(token) for token in branch.ids[-12:]])
                what = f"the last token in the loss is {last!r}, expected {stops}; the completion ends with {tail!r}"
                how = "Check the row's tail, model.chat, and the loss mask of align/tree/encode.py"
                raise CheckError(f"row {tree.id}", what, how)


def check_packing(
    values_of: Callable[[TreeBatch], Tensor], trees: Sequence[PromptTree], *, low_precision: bool
) -> None:
    """Raise CheckError if packing changes the values of a tree, or if the model's own forward pass gives others.

    The same tree is computed three times: packed with another tree, each completion alone through our attention, and
    each completion alone through the model's own attention, masks and logits.

    values_of: gives the log-probabilities [N] or scores [B] of a batch, in branch order, without a graph. A batch
        without a layout is a plain causal row, and goes through the model's own forward pass.
    trees: the rows of the first optimizer step.
    """
    other = _cut(min(trees, key=lambda tree: tree.tokens))
    tree = max((tree for tree in trees if tree.tokens <= LONGEST), key=lambda tree: tree.tokens, default=other)
    packed = values_of(collate([other, tree]))
    if not torch.isfinite(packed).all():
        what = f"the model gives {packed[~torch.isfinite(packed)][0].item()} before any training"
        how = "The weights of the checkpoint or of its score head are not finite: load another, or train it again"
        raise CheckError(f"rows {other.id} and {tree.id}", what, how)
    alone = [replace(tree, branches=(branch,)) for branch in tree.branches]
    one_branch = torch.cat([values_of(collate([each])) for each in alone])
    plain = torch.cat([values_of(replace(collate([each]), layout=None)) for each in alone])
    packed = packed[-len(plain) :]  # the last tree's
    tolerance = PACKING_TOLERANCE[low_precision]
    gap = _gap(packed, one_branch)
    if not gap <= tolerance:
        what = f"packed with row {other.id} its values differ by {gap:.2g} from each completion alone"
        how = "The attention of packed trees is wrong here: check align/tree/attention.py on this device"
        raise CheckError(f"row {tree.id}", f"{what}, expected at most {tolerance:g}", how)
    own = _require_own(one_branch, plain, f"row {tree.id}", tolerance)
    found = f"{gap:.1e} from them and {own:.1e} from the model's own forward pass"
    log.info("packed rows equal completions alone: a row differs by %s (at most %g)", found, tolerance)


def check_longest_row(
    values_of: Callable[[TreeBatch], Tensor],
    trees: Sequence[PromptTree],
    settings: Sequence[str],
    *,
    low_precision: bool,
) -> None:
    """Raise CheckError if a long completion has other values in the model's own forward pass.

    `check_packing` takes a short row, on which a window of 4096 tokens has no effect. This check takes the longest
    completion of the run's largest tree, for models that may have a window.

    trees: all rows of the run. settings: what may limit the attention, such as `sliding_window=4096`, for the log.
    """
    tree = trees[int(tree_numbers(trees, "tokens").argmax())]
    tree = replace(tree, branches=(max(tree.branches, key=lambda branch: len(branch.ids)),))
    check_own_forward(values_of, tree, f"row {tree.id}", PACKING_TOLERANCE[low_precision])
    found = f"of {tree.tokens} tokens equals the model's own forward pass"
    log.info("the longest row %s (config.json has %s)", found, ", ".join(settings))


def check_own_forward(values_of: Callable[[TreeBatch], Tensor], tree: PromptTree, where: str, tolerance: float) -> None:
    """Raise CheckError if the first completion of `tree` has another value in the model's own forward pass.

    Less work than `check_packing`, for scoring. where: for the message. tolerance: from PACKING_TOLERANCE.
    """
    batch = collate([replace(tree, branches=tree.branches[:1])])
    _require_own(values_of(batch), values_of(replace(batch, layout=None)), where, tolerance)


def _require_own(values: Tensor, own: Tensor, where: str, tolerance: float) -> float:
    gap = _gap(values, own)
    if not gap <= tolerance:
        what = f"its values differ by {gap:.2g} from the model's own forward pass, expected at most {tolerance:g}"
        how = (
            "The architecture does something that packed trees do not compute: choose another model "
            "(docs/models.md), and report this one"
        )
        raise CheckError(where, what, how)
    return gap


def check_untrained(
    *,
    margin: float,
    loss: float,
    expected_loss: float,
    beta: float,
    means: bool,
    tokens: float,
    same_batches: bool,
    low_precision: bool,
) -> None:
    """Raise CheckError if policy and reference differ before the first update: the margin of every pair must be 0.

    margin: the mean absolute margin, in nats times beta. loss: the mean loss, for the message.
    means: whether log-probabilities are means over tokens, not sums. tokens: mean number of tokens of a completion.
    same_batches: whether the reference pass used the same batches as the first step.
    """
    nats = UNTRAINED_NATS
    if low_precision and not same_batches:
        nats = ROUNDING_NATS * (tokens**-0.5 if means else tokens**0.5)
    tolerance = beta * nats
    if not margin <= tolerance:
        expected = f"expected 0 (at most {tolerance:.2g}) and {expected_loss:.4f}"
        what = f"before training the margin is {margin:.4g} and the loss {loss:.4f}, {expected}"
        how = (
            "Policy and reference differ: check model.path and model.dtype, delete the reference cache, or set "
            "model.lora.dropout to 0 if this run continues an adapter"
        )
        raise CheckError("step 0", what, how)
    made = "the same batches" if same_batches else "other batches"
    log.info(
        "policy and reference agree: margin %.2g (at most %.2g; reference computed in %s), loss %.4f",
        margin,
        tolerance,
        made,
        loss,
    )


def _cut(tree: PromptTree) -> PromptTree:
    """The first tokens of a tree's prompt and of each branch. Values of a token do not depend on those after it."""
    branches = tuple(
        Segment(branch.ids[:MOST], branch.loss_mask[:MOST], branch.contrast_mask[:MOST]) for branch in tree.branches
    )
    return replace(tree, prompt=tree.prompt[:MOST], branches=branches)


def _gap(values: Tensor, expected: Tensor) -> float:
    return (values - expected).square().mean().sqrt().item()


def _marked(tree: PromptTree, branch: Segment, mask: Sequence[bool] | np.ndarray, protocol: ChatProtocol) -> str:
    """The prompt and a branch as text, with marks around the runs that the loss reads."""
    runs = (f"⟦{text}⟧" if read else text for text, read in _runs(branch, mask, protocol))
    prompt = protocol.tokenizer.decode([int(token) for token in tree.prompt])
    return "".join([prompt, *runs]).replace("\n", "\\n")


def _runs(branch: Segment, mask: Sequence[bool] | np.ndarray, protocol: ChatProtocol) -> list[tuple[str, bool]]:
    """The text of the branch, cut where the mask changes: (text, whether the loss reads it)."""
    found: list[tuple[str, bool]] = []
    run: list[int] = []
    for place, token in enumerate(branch.ids):
        run.append(int(token))
        if place + 1 == len(branch.ids) or mask[place + 1] != mask[place]:
            found.append((protocol.tokenizer.decode(run), bool(mask[place])))
            run = []
    return found
