"""Float32 products by oneDNN: equal to double precision in every layout, and used where the processor calls for it."""

from __future__ import annotations

import pytest
import torch

from align import cpu_matmul

SHAPES = [(64, 576, 192), (1, 576, 1536), (300, 70, 80), (513, 129, 65), (2, 3, 4), (0, 5, 3), (3, 0, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("left_is_transposed", [False, True])
@pytest.mark.parametrize("right_is_transposed", [False, True])
def test_a_product_is_that_of_double_precision(
    shape: tuple[int, int, int], left_is_transposed: bool, right_is_transposed: bool
) -> None:
    """A layer multiplies by a transposed weight; its gradients multiply by the weight, and by transposed states."""
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    left = torch.randn((inner, rows) if left_is_transposed else (rows, inner), generator=generator)
    right = torch.randn((columns, inner) if right_is_transposed else (inner, columns), generator=generator)
    left, right = left.t() if left_is_transposed else left, right.t() if right_is_transposed else right
    product = cpu_matmul._mm(left, right)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), left.double() @ right.double(), rtol=1e-5, atol=1e-5 * max(1, inner))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int32, torch.complex64])
def test_other_types_are_left_to_pytorch(dtype: torch.dtype) -> None:
    left, right = torch.arange(80 * 70).reshape(80, 70).to(dtype), torch.arange(70 * 90).reshape(70, 90).to(dtype)
    assert torch.equal(cpu_matmul._mm(left, right), torch.mm(left, right))


@pytest.mark.parametrize("left, right", [((3, 4), (5, 6)), ((300, 400), (500, 600))])
def test_shapes_that_do_not_fit_are_refused_as_by_pytorch(left: tuple[int, int], right: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        cpu_matmul._mm(torch.zeros(left), torch.zeros(right))


@pytest.mark.parametrize(
    "vendor, instructions, named, replaced",
    [
        ("AuthenticAMD", ("avx2", "avx512f"), None, True),
        ("AuthenticAMD", ("avx2",), None, False),
        ("GenuineIntel", ("avx2", "avx512f"), None, False),
        ("", ("asimd",), None, False),
        ("AuthenticAMD", ("avx2", "avx512f"), "mkl", False),
        ("GenuineIntel", ("avx2",), "onednn", True),
    ],
)
def test_it_is_used_where_mkl_leaves_instructions_out_or_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, vendor: str, instructions: tuple[str, ...], named: str | None, replaced: bool
) -> None:
    kernels = []

    class Registered:  # PyTorch's registry is the whole process's: a test must not change it
        def impl(self, *arguments: object, **_: object) -> None:
            kernels.append(arguments)

    monkeypatch.setattr(cpu_matmul, "_library", Registered)
    monkeypatch.setattr(cpu_matmul, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(cpu_matmul, "cpu_instructions", lambda: instructions)
    monkeypatch.delenv(cpu_matmul.VARIABLE, raising=False)
    if named is not None:
        monkeypatch.setenv(cpu_matmul.VARIABLE, named)
    assert cpu_matmul.use_onednn.__wrapped__() is replaced
    assert kernels == ([("mm", cpu_matmul._mm, "CPU")] if replaced else [])
