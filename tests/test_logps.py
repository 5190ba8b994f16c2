"""The tiled output head against plain logits and log-softmax."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import align.models.logps
from align.models.logps import LabelHead

ROWS, WORDS, SIZE = 37, 101, 24


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that do not divide rows or words, so that the last of each is cut."""
    monkeypatch.setattr(align.models.logps, "TILE", {"cpu": (8, 16), "cuda": (8, 16)})


def head() -> LabelHead:
    torch.manual_seed(0)
    made = nn.Linear(SIZE, WORDS, bias=False)
    made.__class__ = LabelHead
    return made


def states(rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = (3 * torch.randn(rows, SIZE, generator=generator)).requires_grad_()
    labels = torch.randint(WORDS, (rows,), generator=generator)
    return hidden, labels, torch.randn(rows, generator=generator)


def plain(weight: torch.Tensor, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (hidden @ weight.t()).log_softmax(-1)[torch.arange(len(labels)), labels]


def test_values_and_gradients_equal_plain_log_softmax() -> None:
    made, (hidden, labels, upstream) = head(), states()
    expected = plain(made.weight.double(), hidden.double(), labels)
    ours = made(hidden, labels)
    torch.testing.assert_close(ours, expected.float(), atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad(expected, [hidden, made.weight], upstream.double())
    for a, b in zip(torch.autograd.grad(ours, [hidden, made.weight], upstream), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_labels_that_repeat_add_up_in_the_weights_gradient() -> None:
    made, (hidden, _, upstream) = head(), states()
    labels = torch.full((ROWS,), 5)
    (ours,) = torch.autograd.grad(made(hidden, labels), [made.weight], upstream)
    (wanted,) = torch.autograd.grad(plain(made.weight, hidden, labels), [made.weight], upstream)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-4)


def test_logits_as_large_as_a_thousand_stay_finite() -> None:
    made, (hidden, labels, upstream) = head(), states()
    far = (hidden.detach() * 400).requires_grad_()
    torch.testing.assert_close(made(far, labels), plain(made.weight, far, labels), atol=1e-2, rtol=1e-5)
    assert torch.autograd.grad(made(far, labels), far, upstream)[0].isfinite().all()


def test_a_frozen_head_gets_no_gradient_and_hidden_gets_the_same() -> None:
    made, (hidden, labels, upstream) = head(), states()
    (trained,) = torch.autograd.grad(made(hidden, labels), [hidden], upstream)
    made.weight.requires_grad_(False)
    made(hidden, labels).backward(upstream)
    assert made.weight.grad is None
    torch.testing.assert_close(hidden.grad, trained)


def test_no_labels_give_an_empty_tensor_and_zero_gradients() -> None:
    made, (hidden, labels, _) = head(), states(0)
    made(hidden, labels).sum().backward()
    assert not made.weight.grad.any()


def test_sums_in_bfloat16_runs_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight's gradient from 4,096 equal rows: a bfloat16 sum of so many small parts would stop growing."""
    monkeypatch.setattr(align.models.logps, "TILE", {"cpu": (8, 128), "cuda": (8, 128)})
    made = head()
    hidden = torch.ones(4096, SIZE)
    labels = torch.zeros(4096, dtype=torch.long)
    (exact,) = torch.autograd.grad(made(hidden, labels).sum(), [made.weight])
    with torch.autocast("cpu", torch.bfloat16):
        logps = made(hidden, labels)
    (rough,) = torch.autograd.grad(logps.sum(), [made.weight])
    assert logps.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.02 * exact.abs().max().item(), rtol=0)


def test_logits_of_all_labels_never_exist(largest_tensor) -> None:
    made, (hidden, labels, upstream) = head(), states(600)
    with largest_tensor() as largest:
        made(hidden, labels).backward(upstream)
    assert largest.elements == max(600, WORDS) * SIZE, "hidden's own size, and not labels times words"
