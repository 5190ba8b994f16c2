"""The registered attention functions against one dense mask over the whole row, worked out token by token."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.flex_attention import WrappedFlexAttention

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
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("sizes", [(300, 200), (20, 15)], ids=["large and small", "small"])
def test_the_way_of_other_devices_equals_the_cpus(
    groups: int, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU takes public calls of PyTorch alone; they run on a CPU too."""
    made = row(5, 4, groups, *sizes, trees=8)
    masks = [block.mask is not None for block in made.layout.blocks]
    assert any(masks)
    assert all(masks) == (sizes[0] == 20)
    upstream = torch.randn(made.tensors[0].transpose(1, 2).shape, generator=torch.Generator().manual_seed(0))

    def outcome() -> list[torch.Tensor]:
        out = tree_attention(None, *made.tensors, None, scaling=0.2, tree=made.layout)[0]
        return [out, *torch.autograd.grad(out, made.tensors, upstream)]

    ours = outcome()
    monkeypatch.setattr("align.tree.attention._on_cpu", lambda tensor: False)
    for a, b in zip(ours, outcome(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_batch_of_small_trees_that_the_comment_draws_is_the_one_that_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(align.tree.attention, "BLOCK", 3)
    layout = TreeLayout.of([(0, 1, ((1, 2),)), (2, 4, ((4, 6),)), (6, 7, ((7, 8), (8, 9)))])
    found = layout.small_trees(torch.device("cpu"))
    places, size = found.places.view(2, -1), 8
    assert places[:, :3].tolist() == [[0, 1, 0], [6, 7, 8]]
    assert not places[:, 3:].any(), "filled up with the token of place 0"
    drawn = torch.tensor([0, 1, 6, 7, 8, 9, 3, 4, 5])
    assert found.order.tolist() == (drawn + (size - 3) * (drawn >= 3) + (size - 3) * (drawn >= 6)).tolist()
    assert found.mask[0, 0, :3].int().tolist() == [[1] + [0] * 7, [1, 1] + [0] * 6, [1] + [0] * 7]
    assert found.mask[1, 0, :3].int().tolist() == [[1] + [0] * 7, [1, 1] + [0] * 6, [1, 0, 1] + [0] * 5]


class CountedFlex:
    """FlexAttention as dynamo traces it, computed by eager PyTorch in place of generated code."""

    def __init__(self) -> None:
        self.compiles = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: object) -> Callable:
        self.compiles += 1
        return graph.forward


@pytest.fixture
def flex(monkeypatch: pytest.MonkeyPatch) -> CountedFlex:
    """In training. PyTorch has a backward pass for a CPU too, but refuses it, since it makes the whole mask."""
    counted = CountedFlex()
    torch._dynamo.reset()
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
    monkeypatch.setattr(WrappedFlexAttention, "_instance", None)  # transformers keeps one, with what it has compiled
    monkeypatch.setattr(WrappedFlexAttention, "_is_flex_compiled", True)
    monkeypatch.setattr(WrappedFlexAttention, "training", True, raising=False)
    compiled = torch.compile(flex_attention, backend=counted)
    monkeypatch.setattr(WrappedFlexAttention, "_compiled_flex_attention", staticmethod(compiled))
    return counted


TRAINED = SimpleNamespace(training=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed, heads, groups", [(1, 4, 4), (2, 4, 2), (3, 9, 3)])
def test_flex_attention_equals_a_dense_mask_in_values_and_gradients(
    seed: int, heads: int, groups: int, flex: CountedFlex
) -> None:
    made = row(seed, heads, groups)
    ours, theirs = flex_tree_attention(TRAINED, *made.tensors, None, scaling=0.2, tree=made.layout)[0], dense(made)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    upstream = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(0))
    for a, b in zip(
        torch.autograd.grad(ours, made.tensors, upstream),
        torch.autograd.grad(theirs, made.tensors, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert flex.compiles == 1


@pytest.mark.slow
def test_flex_attention_as_it_is_compiled_for_a_cpu_equals_a_dense_mask() -> None:
    made = row(1)
    with torch.no_grad():
        tensors = [tensor.detach() for tensor in made.tensors]
        ours, _ = flex_tree_attention(SimpleNamespace(training=False), *tensors, None, scaling=0.2, tree=made.layout)
        torch.testing.assert_close(ours, dense(made), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_flex_attention_is_compiled_three_times_at_most_whatever_the_rows_are(flex: CountedFlex) -> None:
    for seed in range(30):
        made = row(seed, heads=2, groups=1, prompts=60, branches=90, trees=1 + seed % 5)
        flex_tree_attention(TRAINED, *made.tensors, None, scaling=0.2, tree=made.layout)
    assert 1 <= flex.compiles <= 3


def test_under_autocast_flex_attention_runs_in_the_type_of_the_values(flex: CountedFlex) -> None:
    """A rotation leaves queries and keys in float32, and FlexAttention takes one type only."""
    made = row(1, prompts=20, branches=10)
    query, key, value = (tensor.detach() for tensor in made.tensors)
    out, _ = flex_tree_attention(TRAINED, query, key, value.bfloat16(), None, scaling=0.2, tree=made.layout)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), dense(made), atol=0.02, rtol=0.02)


def blocks(numbers: torch.Tensor, indices: torch.Tensor) -> list[list[int]]:
    """Which blocks each query block reads."""
    return [
        sorted(places[:number]) for number, places in zip(numbers[0, 0].tolist(), indices[0, 0].tolist(), strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("prompts, branches", [(10, 500), (600, 300), (500, 128), (30, 20)])
def test_full_and_partial_blocks_are_those_that_torch_finds_by_looking_at_every_pair(
    prompts: int, branches: int
) -> None:
    read_whole = 0
    for seed in range(2):
        made = row(seed, prompts=prompts, branches=branches, trees=2 + seed)
        mask, length = made.layout.flex_mask(torch.device("cpu")), len(made.visible)
        places = torch.arange(length)
        assert torch.equal(mask.mask_mod(None, None, places[:, None], places[None, :]), made.visible)
        expected = create_block_mask(mask.mask_mod, None, None, length, length, device="cpu")
        assert blocks(mask.kv_num_blocks, mask.kv_indices) == blocks(expected.kv_num_blocks, expected.kv_indices)
        full = blocks(mask.full_kv_num_blocks, mask.full_kv_indices)
        assert full == blocks(expected.full_kv_num_blocks, expected.full_kv_indices)
        read_whole += sum(map(len, full))
    assert read_whole > 8 or branches < 100, "rows without full blocks prove little"


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
    mask = layout.flex_mask(torch.device("cpu"))
    assert mask.kv_num_blocks.tolist() == [[[1, 1, 1, 1]]]
    assert mask.kv_indices[0, 0, 3].tolist() == [3, 0, 1, 2]
    assert mask.full_kv_num_blocks.tolist() == [[[0, 1, 2, 1]]]
    assert mask.full_kv_indices[0, 0, 3].tolist() == [0, 1, 2, 3]
