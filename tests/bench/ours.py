"""Our arms: the only file of the benchmark that uses align's engine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from limits import TreeShape
from shapes import Message, Row
from torch import Tensor

from align.files import whole_file
from align.losses import dpo_loss, nll_loss, reward_loss, sum_by_sequence
from align.models.loading import load_policy, load_reward_model, load_tokenizer
from align.models.logps import LabelHead, TreePolicy, TreeScorer
from align.rows import Message as RowMessage
from align.rows import PreferenceRow, SFTRow
from align.settings import ModelConfig, PreferenceDataConfig, TrainingConfig, TreeDataConfig
from align.trainers import data
from align.tree.encode import PromptTree, Segment, encode_preferences, encode_sft
from align.tree.pack import TreeBatch, collate

BETA = 0.1
NO_LIMIT: dict[str, Any] = {
    "path": Path("unread.jsonl"),
    "token_budget": 2**24,
    "max_prompt_tokens": 2**24,
    "max_completion_tokens": 2**24,
}


def protocol_of(folder: Path) -> Any:
    """The chat protocol of a checkpoint."""
    return load_tokenizer(folder)[1]


def preference_trees(rows: Iterable[PreferenceRow], protocol: Any, *, pairs: bool = True) -> Iterator[PromptTree]:
    return encode_preferences(rows, protocol, PreferenceDataConfig(**NO_LIMIT), pairs=pairs, dropped=Counter())


def sft_trees(rows: Iterable[SFTRow], protocol: Any) -> Iterator[PromptTree]:
    return encode_sft(rows, protocol, TreeDataConfig(**NO_LIMIT), "final", Counter())


def preference_row(row: Row) -> PreferenceRow:
    completions = tuple(_messages(completion) for completion in row.completions)
    return PreferenceRow(id=row.id, source="benchmark", prompt=_messages(row.prompt), completions=completions)


def sft_row(row: Row) -> SFTRow:
    messages = (*_messages(row.prompt), *_messages(row.completions[0]))
    return SFTRow(id=row.id, source="benchmark", messages=messages)


def _messages(messages: Sequence[Message]) -> tuple[RowMessage, ...]:
    return tuple(RowMessage(role=message["role"], content=message["content"]) for message in messages)  # type: ignore[arg-type]


def shape_of(tree: PromptTree) -> TreeShape:
    lengths = tuple(len(branch.ids) for branch in tree.branches)
    return TreeShape(len(tree.prompt), lengths, tree.labels)


def made_tree(number: int, prompt: int, completions: Sequence[int]) -> PromptTree:
    """A tree of that many prompt and completion tokens, of any ids, every completion token a label."""

    def ids(length: int, start: int) -> np.ndarray:
        return ((100 + 7 * number + start + 31 * np.arange(length)) % 40_000).astype(np.int32)

    branches = (
        Segment(ids(length, 2 + place), np.ones(length, bool), np.ones(length, bool))
        for place, length in enumerate(completions)
    )
    return PromptTree(f"tree-{number}", ids(prompt, 1), tuple(branches))


def policy(folder: Path, precision: str) -> TreePolicy:
    return load_policy(ModelConfig(path=folder), precision).train()


def scorer(folder: Path, precision: str) -> TreeScorer:
    return load_reward_model(ModelConfig(path=folder), precision, fresh_head=True).train()


# Steps: from token ids to gradients. Packing is part of them, as TRL's collation is of its.


def branch_logps(model: TreePolicy, batch: TreeBatch) -> Tensor:
    """Summed log-probabilities of each tree's completions, [trees, branches]."""
    sums = sum_by_sequence(model(batch), batch.label_counts)
    return sums.view(len(batch.tree_ids), -1)


@torch.no_grad()
def reference_logps(model: TreePolicy, trees: Sequence[PromptTree]) -> Tensor:
    """[trees, 2], from one forward pass that shares each prompt."""
    return branch_logps(model, collate(trees))


def dpo_step(model: TreePolicy, trees: Sequence[PromptTree], reference: Tensor) -> Tensor:
    logps = branch_logps(model, collate(trees))
    loss = dpo_loss(logps[:, 0], logps[:, 1], reference[:, 0], reference[:, 1], beta=BETA).loss.mean()
    loss.backward()
    return loss.detach()


def sft_step(model: TreePolicy, trees: Sequence[PromptTree]) -> Tensor:
    batch = collate(trees)
    sums = nll_loss(model(batch), batch.label_counts, normalization="token_mean")
    loss = sums.sum() / batch.label_counts.sum()
    loss.backward()
    return loss.detach()


def reward_step(model: TreeScorer, trees: Sequence[PromptTree]) -> Tensor:
    """Every better completion against every worse one of its prompt."""
    scores = model(collate(trees)).view(len(trees), -1)
    pairs = list(combinations(range(scores.shape[1]), 2))
    better, worse = (scores[:, [pair[side] for pair in pairs]].reshape(-1) for side in (0, 1))
    loss = reward_loss(better, worse).loss.mean()
    loss.backward()
    return loss.detach()


@torch.inference_mode()
def score(model: TreeScorer, tree: PromptTree) -> Tensor:
    """A score for each completion."""
    return model(collate([tree]))


# The output head alone


def head_nll(words: int, width: int) -> partial[Tensor]:
    """Mean negative log-probability of labels [N] from states [N, E], by our head (the partial's argument)."""
    head = torch.nn.Linear(width, words, bias=False)
    head.__class__ = LabelHead
    return partial(_mean_nll, head)


def _mean_nll(head: LabelHead, states: Tensor, labels: Tensor) -> Tensor:
    return -head(states, labels).mean()


# Preparation: JSONL to token ids


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """One row a line, in the form that TRL and we both read."""
    with whole_file(path) as handle:
        for row in rows:
            chosen, rejected = row.completions
            record = {"id": row.id, "prompt": row.prompt, "chosen": chosen, "rejected": rejected}
            handle.write(json.dumps(record) + "\n")


def prepare(path: Path, protocol: Any) -> int:
    """Read a JSONL of preference rows and store its trees as a training run does; returns how many came out."""
    with TemporaryDirectory(dir=path.parent) as folder:
        settings = PreferenceDataConfig(**{**NO_LIMIT, "path": path})
        return len(data.preference_trees(settings, TrainingConfig(output_dir=Path(folder)), protocol, pairs=True))
