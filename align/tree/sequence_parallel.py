"""Sequence parallelism: several processes share one packed row, and each holds the activations of a part of its tokens.

Everything in a decoder except attention looks at one token at a time, so it can run on any part of a row. Around
attention the processes exchange: each gives away the heads of its own tokens, and receives all tokens for a share of
the heads. So the attention of packed trees sees whole rows, and is the same as in one process. Afterwards they exchange
back. Source: DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509; the exchange is DeepSpeed's own.

Example: a row of 5 tokens with 4 heads on 2 processes. The last place of process 1 is filled up:

                  layers, output head    attention
    process 0     tokens 0 1 2           tokens 0 to 4, heads 0 1
    process 1     tokens 3 4 -           tokens 0 to 4, heads 2 3

Every process has the whole batch, so each knows which values the others compute: `SequenceGroup.joined` gives all of
them to all. A trainer then computes the loss of the whole row in each process, whatever the loss is.

Dimension letters: S processes of a group, T tokens of the packed row, P = ceil(T / S) tokens of a process, H heads,
G key/value heads, D head size, N values that are read from the row.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from align.errors import ConfigError

KEY = "training.sequence_parallel"

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of a whole row: query [1, H, T, D], key and value [1, G, T, D], result [1, T, H, D]."""


class SequenceGroup:
    """The processes that share packed rows with this one.

    size: S. number: the place of this process among them, from 0. group: of torch.distributed.
    """

    def __init__(self, size: int, number: int, group: Any = None) -> None:
        self.size = size
        self.number = number
        self._group = group
        self._exchanged: Any = None

    @classmethod
    def of(cls, size: int, processes: int, process: int, timeout: timedelta) -> SequenceGroup | None:
        """The group of a process among all; None if processes do not share rows. Every process has to call it.

        Neighbors share a row, so that the exchange stays on one machine where it can.
        """
        if size == 1:
            return None
        own = None
        for first in range(0, processes, size):
            made = dist.new_group(list(range(first, first + size)), timeout=timeout)
            own = made if first <= process < first + size else own
        return cls(size, process % size, own)

    def cut(self, values: Tensor) -> Tensor:
        """This process's part of a row: values [1, T], result [1, P]. Filled up with 0."""
        part = self._part(values.shape[1])
        whole = pad(values, (0, part * self.size - values.shape[1]))
        return whole[:, self.number * part : (self.number + 1) * part]

    def attend(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor, tokens: int) -> Tensor:
        """Attention over the whole row by `attention`, with this process's share of the heads.

        Shapes: query [1, H, P, D]; key and value [1, G, P, D]; result [1, P, H, D]. tokens: T.
        Gradient: reaches query, key and value of all processes of the group.
        Edge: with fewer key/value heads than processes, each is given to S / G of them.
        Errors: ConfigError if the heads cannot be divided over the processes.
        """
        heads, groups = query.shape[1], key.shape[1]
        require_divided_heads(heads, groups, self.size)
        if groups < self.size:
            key, value = (each.repeat_interleave(self.size // groups, dim=1) for each in (key, value))
        query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotation leaves them in float32
        by_token = (each.transpose(1, 2) for each in (query, key, value))
        return cast(Tensor, self._exchange()(*by_token, 0, None, attention, tokens))

    def joined(self, tokens: int, places: Tensor, values_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Values that are read from a row, each computed by the process that has its token, in all processes.

        tokens: T. places: [N], where in the row each value is read.
        values_of: called once, also if no place is here, as ZeRO-3 requires. Given the places that are in this process,
            counted from its first token, [n], and which of the N these are, [n], it returns their values, [n].

        Shapes: result [N].
        Gradient: that of a sum over processes. If all of them have the same loss, and the objective is the mean of
            their losses, each value counts once.
        """
        part = self._part(tokens)
        first = self.number * part
        here = ((places >= first) & (places < first + part)).nonzero()[:, 0]
        values = values_of(places[here] - first, here)
        return self._summed(values.new_zeros(len(places)).index_copy(0, here, values))

    def _part(self, tokens: int) -> int:
        return -(-tokens // self.size)

    def _exchange(self) -> Any:
        """DeepSpeed's module: heads for tokens, `whole_row`, tokens for heads."""
        if self._exchanged is None:
            from deepspeed.sequence.layer import DistributedAttention

            self._exchanged = DistributedAttention(whole_row, self._group, scatter_idx=2, gather_idx=1)
        return self._exchanged

    def _summed(self, values: Tensor) -> Tensor:
        return cast(Tensor, _Sum.apply(values, self._group))


def require_groups(size: int, processes: int, *, zero3: bool) -> None:
    """Raise ConfigError if these processes cannot share packed rows, `size` of them each.

    zero3: whether they are started with DeepSpeed.
    """
    if size == 1:
        return
    if not zero3:
        what = f"is {size}, and the run is not started with DeepSpeed, whose exchange of tokens and heads it uses"
        raise ConfigError(KEY, what, "Launch with --config_file recipes/launch/zero3.yaml, or set it to 1")
    if processes % size:
        what = f"is {size}, and {processes} processes cannot be divided into groups of {size}"
        raise ConfigError(KEY, what, "Start a multiple of it (--num_processes), or set it to a divisor of their number")


def divided_heads(heads: int, key_value_heads: int) -> list[int]:
    """The numbers of processes, from 2 on, over which the attention heads of a model can be divided.

    Each process has as many heads as the others, and all key/value heads that these read.

    >>> divided_heads(32, 8)
    [2, 4, 8, 16, 32]
    >>> divided_heads(12, 4)
    [2, 4, 12]
    """
    return [
        size
        for size in range(2, heads + 1)
        if heads % size == 0 and (key_value_heads % size == 0 or size % key_value_heads == 0)
    ]


def require_divided_heads(heads: int, key_value_heads: int, size: int) -> None:
    """Raise ConfigError if the attention heads of a model cannot be divided over `size` processes."""
    possible = divided_heads(heads, key_value_heads)
    if size == 1 or size in possible:
        return
    what = (
        f"is {size}, and the model has {heads} attention heads and {key_value_heads} key/value heads: each process "
        "computes the attention of an equal share of them"
    )
    raise ConfigError(KEY, what, f"Set it to {' or '.join(map(str, possible)) or '1: nothing divides these heads'}")


def whole_row(query: Tensor, key: Tensor, value: Tensor, attention: Attention, tokens: int) -> Tensor:
    """Attention between the two exchanges. Shapes: [1, S * P, heads, D], and result. What is filled up is left out."""
    filled = query.shape[1] - tokens
    out = attention(*(each[:, :tokens].transpose(1, 2) for each in (query, key, value)))
    return pad(out, (0, 0, 0, 0, 0, filled))


class _Sum(torch.autograd.Function):
    """The sum of the tensors of all processes of a group, in each of them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
