"""How far a step is from the least work it could be, and from the speed of the machine's own matrix products.

    work ratio     minimal FLOPs / executed FLOPs: the same on every machine
    machine ratio  executed FLOPs per second / the best matrix product of the model's shapes, in the same run

Their product is the share of the possible speed. Dimension letters: N weights of the trunk's linear layers, V
vocabulary, E hidden size, L layers, H query heads, D head size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, mm_flop, sdpa_backward_flop_count

aten = torch.ops.aten


class TreeShape(NamedTuple):
    """Tokens of a prompt, of each completion, and how many completion tokens are labels."""

    prompt: int
    completions: tuple[int, ...]
    labels: int

    @property
    def tokens(self) -> int:
        return self.prompt + sum(self.completions)

    @property
    def attended(self) -> int:
        """(query, key) pairs: the prompt causally, each completion the prompt and itself causally."""
        own = sum(length * self.prompt + length * (length + 1) // 2 for length in self.completions)
        return self.prompt * (self.prompt + 1) // 2 + own


def minimal_flops(model: Any, trees: Sequence[TreeShape], *, training: bool = True, head: bool = True) -> int:
    """The least floating-point operations with which these trees can be trained on, or scored, exactly.

        trunk      6 N per token of the trees, each prompt counted once
        head       6 V E per label
        attention  12 L H D per attended (query, key) pair

    Forward alone is a third of each. Embeddings, norms, activations, the softmax and the optimizer are not matrix
    products and count nothing; neither does keeping the inputs of the backward pass. That the last layer could leave
    out tokens that nothing reads is not counted either, so no exact implementation without that trick exceeds 1.

    model: a transformers Llama. head: whether labels are scored over the vocabulary (a reward model's head is free).
    """
    config = model.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    trunk = sum(module.weight.numel() for module in model.base_model.modules() if isinstance(module, nn.Linear))
    forward = 2 * trunk * sum(tree.tokens for tree in trees)
    if head:
        forward += 2 * config.vocab_size * config.hidden_size * sum(tree.labels for tree in trees)
    forward += 4 * config.num_hidden_layers * heads * size * sum(tree.attended for tree in trees)
    return forward * (3 if training else 1)


class FlopCounter(FlopCounterMode):
    """torch's counter of matrix products, with what it leaves out on a CPU: fused attention, and products in place.

    A causal call of the fused kernel skips the blocks of keys after its block of queries; that is counted as it runs.
    """

    def __init__(self) -> None:
        mapping: dict[Any, Callable[..., int]] = {
            aten.addmm_: _added(mm_flop),
            aten.baddbmm_: _added(bmm_flop),
            aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        }
        super().__init__(display=False, custom_mapping=mapping)


def count_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products that `step` runs, backward passes and recomputation included."""
    with FlopCounter() as counter:
        step()
    return counter.get_total_flops()


def shares(executed: int, seconds: Sequence[float], least: Sequence[int], peak: float) -> dict[str, Any]:
    """Both ratios of one arm, from each step's seconds and minimal FLOPs.

    executed: FLOPs of the first step, counted; its work ratio represents the others, whose padding differs a little.
    peak: FLOPs per second of the best matrix product.
    """
    possible = median(flops / taken / peak for flops, taken in zip(least, seconds, strict=True))
    work = least[0] / executed
    return {
        "executed_flops": executed,
        "work_ratio": work,
        "machine_ratio": possible / work,
        "share_of_the_possible": possible,
    }


def matmul_peak(model: Any, tokens: int, dtype: torch.dtype, *, seconds: float = 0.3) -> float:
    """FLOPs per second of the best of the model's own matrix products, [tokens, in] x [in, out]."""
    shapes = {tuple(module.weight.shape) for module in model.modules() if isinstance(module, nn.Linear)}
    best = 0.0
    for out, width in sorted(shapes):
        if out < 64:
            continue  # a reward model's scalar head
        states, weight = torch.randn(tokens, width, dtype=dtype), torch.randn(out, width, dtype=dtype)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            torch.nn.functional.linear(states, weight)
            best = max(best, 2 * tokens * out * width / (time.perf_counter() - start))
    return best


def _added(product: Callable[..., int]) -> Callable[..., int]:
    """The count of a product that is added to its first argument in place."""

    def flops(_total, first, second, *args, out_val=None, **kwargs) -> int:
        return product(first, second, out_val=out_val)

    flops._get_raw = True  # type: ignore[attr-defined]
    return flops


def _attention_forward(query, key, value, *args, is_causal: bool = False, out_shape=None, **kwargs) -> int:
    causal = is_causal or (len(args) > 1 and bool(args[1]))  # (query, key, value, dropout_p, is_causal)
    batch, heads, queries, width = query
    return 2 * batch * heads * _attended(queries, key[2], causal) * (width + value[3])


def _attention_backward(grad, query, key, value, *args, is_causal: bool = False, out_shape=None, **kwargs) -> int:
    causal = is_causal or (len(args) > 3 and bool(args[3]))  # (.., out, logsumexp, dropout_p, is_causal)
    queries, keys = query[2], key[2]
    full = sdpa_backward_flop_count(grad, query, (*query[:2], *key[2:]), (*query[:2], *value[2:]))
    return full * _attended(queries, keys, causal) // (queries * keys)


def _attended(queries: int, keys: int, causal: bool) -> int:
    """(query, key) pairs that the CPU kernel computes: a block of 32, 64 or 256 queries looks up to the block's end."""
    if not causal:
        return queries * keys
    block = 256 if queries >= 768 else 64 if queries >= 192 else 32
    starts = range(0, queries, block)
    return sum(min(block, queries - start) * min(start + block, keys) for start in starts)
