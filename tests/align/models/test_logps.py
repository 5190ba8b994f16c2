"""The tiled output head against plain logits and log-softmax."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import align.models.logps
from align.models.logps import LabelHead, ScoreHead, _LabelLogps, _tiles
from tests.accelerator import accelerator

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
    gradient = torch.autograd.grad(expected, [hidden, made.weight], upstream.double())
    for a, b in zip(torch.autograd.grad(ours, [hidden, made.weight], upstream), gradient, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_labels_that_repeat_add_up_in_the_weights_gradient() -> None:
    made, (hidden, _, upstream) = head(), states()
    labels = torch.full((ROWS,), 5)
    (ours,) = torch.autograd.grad(made(hidden, labels), [made.weight], upstream)
    (gradient,) = torch.autograd.grad(plain(made.weight, hidden, labels), [made.weight], upstream)
    torch.testing.assert_close(ours, gradient, atol=1e-5, rtol=1e-4)


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


@pytest.mark.slow
def test_sums_in_bfloat16_runs_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight's gradient from 4,096 equal rows: a bfloat16 sum of that many small parts would stop growing."""
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


@pytest.mark.slow
def test_logits_of_all_labels_never_exist(largest_tensor) -> None:
    made, (hidden, labels, upstream) = head(), states(600)
    with largest_tensor() as largest:
        made(hidden, labels).backward(upstream)
    assert largest.elements == max(600, WORDS) * SIZE, "hidden's own size, and not labels times words"


@pytest.mark.slow
@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_log_probabilities_of_a_real_model_in_bfloat16_are_at_most_zero_and_near_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the same bfloat16 states and weights in float64. Repeated text makes the model sure of many tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from align import assets

    monkeypatch.setattr(align.models.logps, "TILE", {"cpu": (128, 2048), "cuda": (128, 2048)})
    folder = assets.starting_checkpoint()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = "The capital of France is Paris, and the river Seine runs through it. I don't know who lives there. " * 9
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text).input_ids])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = model.model(input_ids=ids).last_hidden_state[0, :-1]
        labels = ids[0, 1:]
        logps = LabelHead.of(model)(states, labels)
    weight = model.lm_head.weight.detach()
    exact = plain(weight.bfloat16().double(), states.bfloat16().double(), labels)
    error, sure = (logps - exact).square(), exact > -0.1
    assert sure.sum() > 100
    assert logps.max() <= 0
    assert error.mean().sqrt() < 0.02
    assert error[sure].mean().sqrt() < 4e-3, "logits between 16 and 32 are multiples of 0.125 in bfloat16"


def test_on_a_gpu_bfloat16_log_probabilities_are_within_a_thousandth_of_float64() -> None:
    """Its matrix products give float32. On a CPU they give bfloat16, which the test of a real model bounds."""
    made, (hidden, labels, _) = head().bfloat16(), states()
    hidden = hidden.detach().bfloat16() * 4
    with torch.no_grad():
        exact = plain(made.weight.double(), hidden.double(), labels)
        with accelerator():
            logps = made.to("cuda")(hidden.to("cuda"), labels.to("cuda")).cpu()
    assert exact.min() < -20, "logits are large"
    assert logps.dtype == torch.float32
    assert logps.max() <= 0
    torch.testing.assert_close(logps.double(), exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_label_that_is_certain_has_log_probability_0_and_no_gradient(dtype: torch.dtype) -> None:
    """Values and gradients come from the same logits: else the gradient of a certain label would be rounding noise."""
    made, (hidden, _, upstream) = head(), states()
    far = (hidden.detach() * 30).requires_grad_()
    labels = (far @ made.weight.t()).argmax(1)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        logps = made(far, labels)
    exact = plain(made.weight.double(), far.double(), labels)
    certain = exact > -1e-6
    assert certain.sum() > 10
    assert logps.max() <= 0
    assert logps[certain].min() > -1e-5
    gradient = torch.autograd.grad(logps, far, upstream)[0]
    assert gradient[certain].abs().max() < 2e-2, "products of the gradient are rounded to bfloat16"


def test_scores_are_float32_products_whatever_the_weights_are() -> None:
    torch.manual_seed(0)
    made = nn.Module()
    made.score = nn.Linear(SIZE, 1, bias=False).bfloat16()
    ScoreHead.of(made)
    hidden = (10 * torch.randn(200, SIZE)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        scores = made.score(hidden)
    torch.testing.assert_close(scores, hidden.float() @ made.score.weight.float().t())
    assert (scores != scores.bfloat16().float()).float().mean() > 0.9, "few lie on the grid of bfloat16"
    scores.sum().backward()
    assert made.score.weight.grad is not None


def test_the_score_head_that_an_adapter_trains_is_computed_in_float32_too(tiny_checkpoint: Path) -> None:
    from align.models.loading import load_reward_model
    from align.settings import LoRAConfig, ModelConfig

    config = ModelConfig(path=tiny_checkpoint, dtype="bfloat16", lora=LoRAConfig(rank=2))
    score = load_reward_model(config, fresh_head=True).model.score
    heads = [module for module in score.modules() if isinstance(module, nn.Linear)]
    assert [type(module) for module in heads] == [ScoreHead, ScoreHead], "the base's and the trained copy"
    assert score(torch.randn(3, 64).bfloat16()).dtype == torch.float32


def test_the_tiles_that_the_comment_works_out_are_the_ones_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align.models.logps, "TILE", {"cpu": (2, 3), "cuda": (2, 3)})
    weight = torch.tensor([[1.0], [2], [1], [3], [1]]).log()
    hidden = torch.ones(3, 1)
    labels, chosen = torch.tensor([1, 4, 0]), torch.tensor([7.0, 8, 9])
    tiles = [
        (rows.start, part.start, logits.clone()) for rows, part, _, logits in _tiles(hidden, weight, labels, chosen)
    ]
    assert [(row, part) for row, part, _ in tiles] == [(0, 0), (2, 0), (0, 3), (2, 3)]
    plain = weight[:, 0].expand(3, 5).clone()
    plain[range(3), labels] = chosen
    for row, part, logits in tiles:
        torch.testing.assert_close(logits, plain[row : row + 2, part : part + 3])

    small = weight.clone().requires_grad_()
    states = hidden[:1].clone().requires_grad_()
    logp = _LabelLogps.apply(states, small, torch.tensor([3]), torch.float32)
    torch.testing.assert_close(logp.exp(), torch.tensor([3 / 8]))
    logp.sum().backward()  # with a hidden state of 1 the weight's gradient is the logits'
    torch.testing.assert_close(small.grad, torch.tensor([[-1.0], [-2], [-1], [5], [-1]]) / 8)
