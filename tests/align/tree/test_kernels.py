"""What packed rows and decoding steps ask of PyTorch's attention on a GPU: no plan of cuDNN, and few launches.

Without a GPU: the calls are recorded, on tensors of the meta device, which have sizes and strides but no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.bias import CausalBias
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM

import align.tree.attention
from align.models.logps import TreePolicy
from align.settings import SamplingConfig
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan, collate
from tests.accelerator import accelerator
from tests.trees import tiny_llama, tree_of

Key = tuple[Any, ...]


class PlanKeys(TorchFunctionMode):
    """The key of cuDNN's plan for each attention call that cuDNN may compute: sizes and strides of all arguments.

    cuDNN builds a plan for each key that it has not seen, and keeps it. Source: `MHAParams` in PyTorch's
    ATen/native/cudnn/MHA.cpp.

    computed: whether the calls are computed too, and not only recorded.
    """

    def __init__(self, *, computed: bool) -> None:
        super().__init__()
        self.computed = computed
        self.keys: list[Key] = []
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.calls += 1
            mask = kwargs.get("attn_mask")
            # A CausalBias calls flash attention itself.
            if torch.backends.cuda.cudnn_sdp_enabled() and not isinstance(mask, CausalBias):
                tensors = [tensor for tensor in (*args, mask) if isinstance(tensor, torch.Tensor)]
                shapes = tuple((tuple(tensor.shape), tensor.stride()) for tensor in tensors)
                self.keys.append((*shapes, kwargs.get("is_causal"), kwargs.get("enable_gqa")))
            if not self.computed:
                return torch.empty_like(args[0])
        return func(*args, **kwargs)

    def never_seen(self, start: int = 0) -> int:
        """How many keys from a place on are not among the keys before them."""
        return len(set(self.keys) - set(self.keys[:start]))


@pytest.fixture
def preferred() -> Iterator[None]:
    """cuDNN as torch has it from the start: allowed."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def pairs(count: int, prompt: int, completion: int, seed: int = 0) -> list[PromptTree]:
    """Pairs with lengths between half and one and a half times these."""
    rng = np.random.default_rng(seed)

    def length(mean: int) -> int:
        return int(rng.integers(mean // 2, 3 * mean // 2 + 1))

    return [tree_of(str(n), length(prompt), length(completion), length(completion)) for n in range(count)]


def attend(trees: list[PromptTree]) -> None:
    """The attention of one packed row, on tensors as a model's projections leave them."""
    layout = collate(trees).layout
    assert layout is not None
    tokens = sum(tree.tokens for tree in trees)
    projected = (torch.empty(1, tokens, heads, 8, device="meta").transpose(1, 2) for heads in (4, 2, 2))
    align.tree.attention.tree_attention(torch.nn.Module(), *projected, None, tree=layout)


def planned_rows(rows: int) -> Iterator[list[PromptTree]]:
    trees = pairs(600, 120, 71)
    sizes = [tree.tokens for tree in trees]
    plan = RunPlan(sizes, batch_size=64, token_budget=4096, epochs=2, max_steps=None, seed=0)
    bins = (members for step in range(len(plan)) for members in plan[step].bins)
    for _ in range(rows):
        yield [trees[member] for member in next(bins)]


@pytest.mark.slow
def test_packed_rows_ask_cudnn_for_no_plan_where_they_would_ask_for_a_new_one_in_most_calls(
    preferred: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PlanKeys(computed=False) as without_care:
        for place, row in enumerate(planned_rows(50)):
            half = len(without_care.keys) if place == 25 else 0
            attend(row)
    assert without_care.never_seen() > 200
    assert without_care.never_seen(half) > 100, "the cache is not warm in the second half either"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    TreePolicy(tiny_llama(LlamaForCausalLM))
    with PlanKeys(computed=False) as found:
        for row in planned_rows(50):
            attend(row)
    assert found.calls == without_care.calls > 500
    assert found.never_seen() == 0


@pytest.mark.slow
def test_decoding_steps_ask_cudnn_for_no_plan_where_they_would_ask_for_one_each(
    preferred: None, tiny_checkpoint: Path
) -> None:
    from align.generation.engine import GenerationEngine
    from align.settings import ModelConfig

    sampling = SamplingConfig(temperature=0, max_completion_tokens=30, dtype="float32", batch_size=4)
    with accelerator():
        engine = GenerationEngine.from_settings(ModelConfig(path=tiny_checkpoint), sampling)
        engine.protocol.stop_ids = ()
        with PlanKeys(computed=True) as found:
            engine.generate([[5, 6], [7]], [[0], [1]])
        torch.backends.cuda.enable_cudnn_sdp(True)
        with PlanKeys(computed=True) as without_care:
            engine.generate([[5, 6], [7]], [[0], [1]])
    assert without_care.never_seen() >= 29, "the cache of keys and values grows in each step"
    assert found.calls == without_care.calls > 29
    assert found.never_seen() == 0


class Launches(TorchDispatchMode):
    """Counts the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("trees, prompt, completion, most", [(15, 475, 284, 315), (136, 20, 16, 110)])
def test_a_layer_dispatches_few_operations(
    trees: int, prompt: int, completion: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a forward pass. An attention call counts as one operation, as with a kernel of a GPU."""
    monkeypatch.setattr(
        align.tree.attention, "scaled_dot_product_attention", lambda query, *others, **named: torch.empty_like(query)
    )
    monkeypatch.setattr(align.tree.attention, "causal_lower_right", lambda *sizes: None)  # raises under a mode
    batch = collate(pairs(trees, prompt, completion)).to("meta")
    if any(block.mask is not None for block in batch.layout.blocks):
        batch.layout.small_trees(torch.device("meta"))  # made once for all layers
    counts = []
    for layers in (1, 2):
        model = TreePolicy(tiny_llama(LlamaForCausalLM, num_hidden_layers=layers).to("meta", torch.bfloat16))
        with Launches() as launches, torch.no_grad():
            model.hidden_states(batch)
        counts.append(launches.count)
    assert 50 < counts[1] - counts[0] <= most
