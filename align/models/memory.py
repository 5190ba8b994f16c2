"""Running out of memory while a model is loaded, sampled, trained or asked for scores: one message for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from align.errors import AlignError, OutOfMemoryError, first_line
from align.failures import is_out_of_memory
from align.models.checkpoints import Checkpoint


@contextmanager
def memory_errors(where: str, during: Callable[[], str], how: Callable[[], str]) -> Iterator[None]:
    """In the block, running out of memory becomes an OutOfMemoryError at `where`.

    during, how: called after the error: what was being done, such as "while completions were sampled", and what to
        change.
    """
    try:
        yield
    except AlignError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(where, f"out of memory {during()} ({first_line(error)})", how()) from None


def while_loading(checkpoint: Checkpoint, dtype: torch.dtype, how: str) -> AbstractContextManager[None]:
    """`memory_errors` for the weights of a checkpoint in a type."""
    numbers = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    size = f"{numbers * dtype.itemsize / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}"
    during = f"while its {numbers / 1e6:,.1f}M parameters were loaded, {size}"
    return memory_errors(checkpoint.name, lambda: during, lambda: how)
