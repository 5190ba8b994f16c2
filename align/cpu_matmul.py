"""Float32 matrix products on AMD processors by oneDNN in place of MKL, because MKL uses AVX-512 on Intel's only.

On x86, PyTorch multiplies float32 matrices by MKL, which computes with at most AVX2 on processors of other makers.
oneDNN, which PyTorch ships too and uses for bfloat16, looks at what the processor can do. On two cores of an AMD EPYC
with AVX-512, products of the shapes of a 135M model take half the time, forward and backward
(`python tests/bench/matmul.py`). Both compute in float32; results differ by rounding.
"""

from __future__ import annotations

import functools
import os
import warnings

import torch

from align.hardware import cpu_instructions, cpu_vendor

VARIABLE = "ALIGN_MATMUL"
"""Environment variable: `mkl` leaves PyTorch's default in place, `onednn` replaces it on any processor."""

_LEAST_WORK = 2**18
"""Products of fewer multiplications stay with PyTorch's default, where one more call in Python would cost more."""


@functools.cache
def use_onednn() -> bool:
    """Replace the CPU kernel of `aten::mm` for float32, if that is faster here. Returns whether it was replaced.

    All later products in this process take it: layers without a bias, and their gradients. The choice depends on the
    processor and `ALIGN_MATMUL` alone, so that every start on one machine computes the same bytes.
    """
    named = os.environ.get(VARIABLE, "")
    slow = cpu_vendor() == "AuthenticAMD" and "avx512f" in cpu_instructions()
    present = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not present or named == "mkl" or not (slow or named == "onednn"):
        return False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        _library().impl("mm", _mm, "CPU")
    return True


@functools.cache
def _library() -> torch.library.Library:
    """Kept for the life of the process: PyTorch's own kernel returns when this object is deleted."""
    return torch.library.Library("aten", "IMPL")


def _mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left [M, K] times right [K, N]: by oneDNN, or by PyTorch's default if the type or the size is not for oneDNN."""
    both = left.dtype == right.dtype == torch.float32 and left.shape[-1] == right.shape[0]
    if both and left.shape[0] * left.shape[-1] * right.shape[-1] >= _LEAST_WORK:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
        return product
    return torch.mm(left, right, out=left.new_empty((left.shape[0], right.shape[-1])))
