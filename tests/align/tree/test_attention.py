"""The registered attention functions against one dense mask over the whole row, worked out token by token."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import align.tree.attention
from align.errors import ConfigError
from align.models.loading import load_policy
from align.settings import ModelConfig
from align.tree.attention import BLOCK, TreeLayout, flex_tree_attention, tree_attention
from align.tree.encode import PromptTree, Segment

HEADS = [(4, 4), (4, 2), (6, 2), (9, 3)]


class Row(SimpleNamespace):
    """A packed row: `layout`, `visible` [T, T], and queries, keys, values."""


def row(seed: int, heads: int = 4, groups: int = 2, prompts: int = 300, branches: int = 200, trees: int = 4) -> Row:
    rng = random.Random(seed)
    spans, owner, prompt_of = [], [], []
    for _ in range(trees):
        start = len(owner)
        end = start + rng.randint(1, prompts)
        owner += [(start, end)] * (end - start)
        prompt_of += [(start, end)] * (end - start)
        ends = []
        for _ in range(rng.randint(1, 4)):
            first = len(owner)
            last = first + rng.randint(1, branches)
            owner += [(first, last)] * (last - first)
            prompt_of += [(start, end)] * (last - first)
            ends.append((first, last))
        spans.append((start, end, tuple(ends)))
    length = len(owner)
    visible = torch.zeros(length, length, dtype=torch.bool)
    for query in range(length):
        for start, end in (prompt_of[query], owner[query]):
            visible[query, start : min(end, query + 1)] = True
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(1, n, length, 32, generator=generator, requires_grad=True) for n in (heads, groups, groups)]
    return Row(layout=TreeLayout.of(spans), visible=visible, tensors=tensors, grouped=heads != groups)


def dense(made: Row) -> torch.Tensor:
    out = scaled_dot_product_attention(*made.tensors, attn_mask=made.visible, scale=0.2, enable_gqa=made.grouped)
    return out.transpose(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("heads, groups", HEADS)
@pytest.mark.parametrize("sizes", [(300, 200), (20, 15), (40, 400)], ids=["large", "small", "long branches"])
def test_segments_equal_a_dense_mask_in_values_and_gradients(heads: int, groups: int, sizes: tuple[int, int]) -> None:
    made = row(heads, heads, groups, *sizes, trees=6)
    assert len(made.layout.blocks) > 1
    ours, theirs = tree_attention(None, *made.tensors, None, scaling=0.2, tree=made.layout)[0], dense(made)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(0))
    for a, b in zip(
        torch.autograd.grad(ours, made.tensors, upstream),
        torch.autograd.grad(theirs, made.tensors, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_way_of_other_devices_equals_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes public calls of PyTorch alone; they run on a CPU too."""
    made = row(5)
    upstream = torch.randn(made.tensors[0].transpose(1, 2).shape, generator=torch.Generator().manual_seed(0))

    def outcome() -> list[torch.Tensor]:
        out = tree_attention(None, *made.tensors, None, scaling=0.2, tree=made.layout)[0]
        return [out, *torch.autograd.grad(out, made.tensors, upstream)]

    ours = outcome()
    monkeypatch.setattr("align.tree.attention._on_cpu", lambda tensor: False)
    for a, b in zip(ours, outcome(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed, heads, groups", [(1, 4, 4), (2, 4, 2), (3, 9, 3)])
def test_flex_attention_equals_a_dense_mask_forward(seed: int, heads: int, groups: int) -> None:
    """Values only: FlexAttention has no backward pass on a CPU."""
    made = row(seed, heads, groups)
    with torch.no_grad():
        tensors = [tensor.detach() for tensor in made.tensors]
        ours, _ = flex_tree_attention(SimpleNamespace(training=False), *tensors, None, scaling=0.2, tree=made.layout)
        torch.testing.assert_close(ours, dense(made), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_flex_mask_keeps_few_blocks_and_hides_every_block_without_a_visible_pair() -> None:
    made = row(7, prompts=600, branches=500, trees=5)
    mask = made.layout.flex_mask(torch.device("cpu"))
    kept = mask.to_dense()[0, 0].bool()
    length, count = len(made.visible), len(kept)
    padded = torch.zeros(count * 128, count * 128, dtype=torch.bool)
    padded[:length, :length] = made.visible
    needed = padded.view(count, 128, count, 128).any(3).any(1)
    assert not (needed & ~kept).any(), "a block that is needed is hidden"
    assert kept.sum() <= needed.sum() + 2 * count
    places = torch.arange(length)
    rule = mask.mask_mod(None, None, places[:, None], places[None, :])
    assert torch.equal(rule, made.visible)


@pytest.mark.slow
def test_no_mask_grows_with_the_row(largest_tensor) -> None:
    """Two prompts of 2,500 tokens with three branches of 400: nothing larger than queries, keys and values is made."""
    length = 0
    spans = []
    for _ in range(2):
        ends = [(length + 2500 + 400 * n, length + 2900 + 400 * n) for n in range(3)]
        spans.append((length, length + 2500, tuple(ends)))
        length = ends[-1][1]
    tensors = [torch.randn(1, 2, length, 16, requires_grad=True) for _ in range(3)]
    with largest_tensor() as made:
        layout = TreeLayout.of(spans)
        tree_attention(None, *tensors, None, scaling=0.2, tree=layout)[0].sum().backward()
        layout.flex_mask(torch.device("cpu"))
    assert BLOCK * BLOCK <= made.elements <= 2 * length * 16


def test_flex_is_refused_where_it_cannot_train(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.attention: flex requires a GPU.*Set model\.attention: segments"):
        load_policy(ModelConfig(path=tiny_checkpoint, attention="flex"))


def test_the_mask_at_the_top_of_the_file_is_the_one_that_is_made() -> None:
    drawn = ["x....", "xx...", "xxx..", "xx.x.", "xx.xx"]
    block = align.tree.attention._block([(0, 2, ((2, 3), (3, 5)))])
    assert block.mask is not None
    assert ["".join("x" if seen else "." for seen in row) for row in block.mask.tolist()] == drawn
    one, two = (np.zeros(length, np.int32) for length in (1, 2))
    tree = PromptTree("t", two, (Segment(one, one > 0, one > 0), Segment(two, two > 0, two > 0)))
    assert tree.attended == sum(row.count("x") for row in drawn) == 13


def test_the_joined_attention_that_the_comment_works_out_is_the_one_that_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All scores 0, and each key's place as its value: a query gets the mean of the places that it sees."""
    monkeypatch.setattr(align.tree.attention, "BLOCK", 4)  # so that nine tokens are a large tree
    layout = TreeLayout.of([(0, 3, ((3, 5), (5, 7), (7, 9)))])
    assert layout.blocks[0].mask is None
    values = torch.arange(9.0).view(1, 1, 9, 1).expand(1, 1, 9, 4).contiguous()
    zeros = torch.zeros(1, 1, 9, 4)
    got, _ = align.tree.attention.tree_attention(torch.nn.Module(), zeros, zeros, values, None, tree=layout)
    seen = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    seen += [[0, 1, 2, 5], [0, 1, 2, 5, 6], [0, 1, 2, 7], [0, 1, 2, 7, 8]]
    means = torch.tensor([sum(places) / len(places) for places in seen])
    torch.testing.assert_close(got[0, :, 0, 0], means)
    assert means[5] == 2


def test_the_block_mask_that_the_comment_draws_is_the_one_that_is_made() -> None:
    layout = TreeLayout.of([(0, 128, ((128, 384), (384, 512)))])
    mask = align.tree.attention._flex_mask(layout, torch.device("cpu"))
    assert mask.kv_num_blocks.tolist() == [[[1, 2, 3, 2]]]
    assert mask.kv_indices[0, 0, 3].tolist() == [0, 3, 1, 2]
