"""The local backend: greedy against transformers' own generate, samples against the softmax, batches against rows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from align.errors import ConfigError, RowError
from align.generation import local
from align.generation.backend import Completion
from align.generation.local import LocalBackend, state_fingerprint
from align.generation.next_token import choose
from align.settings import SamplingConfig

VOCABULARY = 97
STOP, PAD = 7, 0
PROTOCOL = SimpleNamespace(identity=("bare", "hermes"), stop_ids=(STOP,), pad_id=PAD)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two threads on products this small mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Two layers with grouped heads, weights large enough that its distributions are far from flat."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.4,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


def prompts(count: int, longest: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(8, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def backend(model: LlamaForCausalLM, **sampling: object) -> LocalBackend:
    settings = {"temperature": 1.0, "max_completion_tokens": 24, "batch_size": 8, "dtype": "float32", **sampling}
    return LocalBackend(model, PROTOCOL, SamplingConfig(**settings))  # type: ignore[arg-type]


def generated_alone(model: LlamaForCausalLM, prompt: list[int], most: int) -> Completion:
    """One prompt through transformers' own generate, greedily."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=most,
        eos_token_id=STOP,
        pad_token_id=PAD,
    )
    new = out[0, len(prompt) :].tolist()
    return Completion(tuple(new), new[-1] == STOP)


@pytest.mark.slow
def test_greedy_equals_generate_one_prompt_at_a_time(model: LlamaForCausalLM) -> None:
    asked = prompts(40)
    expected = [generated_alone(model, prompt, 24) for prompt in asked]
    assert {completion.finished for completion in expected} == {True, False}, "both endings must be seen"
    got = backend(model, temperature=0).complete(asked, [[0]] * len(asked))
    assert [group[0] for group in got] == expected


@pytest.mark.slow
def test_a_completion_is_the_same_alone_and_in_any_batch(model: LlamaForCausalLM) -> None:
    asked = prompts(6)
    seeds = [[100 * number + place for place in range(5)] for number in range(len(asked))]
    together = backend(model, batch_size=16).complete(asked, seeds)
    for batch_size in (1, 3, 64):
        assert backend(model, batch_size=batch_size).complete(asked, seeds) == together
    alone = backend(model)
    for number, place in itertools.product(range(len(asked)), range(5)):
        assert alone.complete([asked[number]], [[seeds[number][place]]]) == [[together[number][place]]]


@pytest.mark.slow
def test_each_row_is_sampled_at_its_own_temperature(model: LlamaForCausalLM) -> None:
    asked, temperatures = prompts(4), [0.0, 0.4, 0.7, 1.0, 1.6]
    seeds = [[100 * number + place for place in range(5)] for number in range(len(asked))]
    mixed = backend(model, top_p=0.9).complete(asked, seeds, [temperatures] * len(asked))
    for place, temperature in enumerate(temperatures):
        alone = backend(model, top_p=0.9, temperature=temperature).complete(asked, [[own[place]] for own in seeds])
        assert [group[place] for group in mixed] == [group[0] for group in alone]
    assert len({completion for group in mixed for completion in group}) == 20, "the temperatures must matter"


@pytest.mark.slow
def test_sharing_the_prefill_equals_separate_rows(model: LlamaForCausalLM) -> None:
    prompt = prompts(1)[0]
    shared = backend(model).complete([prompt], [list(range(20))])
    separate = backend(model).complete([prompt] * 20, [[seed] for seed in range(20)])
    assert shared[0] == [group[0] for group in separate]
    assert len(set(shared[0])) > 10, "other seeds must give other completions"


@pytest.mark.slow
def test_rows_of_one_length_take_the_quick_form_of_attention(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a step with a mask is several times as fast as one with `enable_gqa`, even if the mask hides nothing."""
    steps = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def recorded(query: torch.Tensor, key: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if key.shape[2] > 40:  # not the prefill
            steps.append((query.shape[1] == key.shape[1], kwargs["attn_mask"] is not None))
        return attend(query, key, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    backend(model).complete([list(range(10, 50))], [list(range(8))])
    assert set(steps) == {(True, True)}


@pytest.mark.slow
def test_a_prompt_is_prefilled_once_for_all_its_completions(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    forward = model.forward

    def counted(*args: object, **kwargs: object) -> object:
        shapes.append(tuple(kwargs["input_ids"].shape))  # type: ignore[attr-defined]
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    backend(model, batch_size=64).complete([list(range(10, 50))], [list(range(32))])
    assert shapes[0] == (1, 40)
    assert all(shape[1] == 1 for shape in shapes[1:])


@pytest.mark.slow
def test_the_batch_shrinks_and_decoding_stops_when_all_rows_have_ended(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    forward = model.forward

    def counted(*args: object, **kwargs: object) -> object:
        rows.append(kwargs["input_ids"].shape[0])  # type: ignore[attr-defined]
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    found = backend(model, batch_size=64, max_completion_tokens=200).complete(prompts(32, longest=8), [[0]] * 32)
    longest = max(len(group[0].ids) for group in found)
    assert len(rows) == longest, "one prefill and one step for each further token of the longest completion"
    assert rows[-1] < 32
    used = sum(len(group[0].ids) for group in found)
    assert sum(rows) < 1.3 * used, "ended rows ride along only briefly"


@pytest.mark.slow
def test_wide_prefills_are_cut_and_change_nothing(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prompts(20)
    whole = backend(model, batch_size=32).complete(asked, [[3, 4]] * 20)
    monkeypatch.setattr(local, "PREFILL_TOKENS", 50)
    monkeypatch.setattr(local, "_CACHE_STEP", 2)
    assert backend(model, batch_size=32).complete(asked, [[3, 4]] * 20) == whole


def chi_square(counts: torch.Tensor, shares: torch.Tensor) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom, cells expecting under 5 thrown together."""
    expected = shares * counts.sum()
    common = expected >= 5
    pairs = [(float(c), float(e)) for c, e in zip(counts[common], expected[common], strict=True)]
    rest = float(expected[~common].sum())
    if rest > 0:
        pairs.append((float(counts[~common].sum()), rest))
    return sum((c - e) ** 2 / e for c, e in pairs if e > 0), len(pairs) - 1


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_sampled_shares_match_the_softmax(model: LlamaForCausalLM, temperature: float) -> None:
    prompt, draws = prompts(1)[0], 4000
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double()
    weights = torch.exp((logits - logits.max()) / temperature)
    sampler = backend(model, temperature=temperature, max_completion_tokens=1, batch_size=500)
    first = [completion.ids[0] for completion in sampler.complete([prompt], [list(range(draws))])[0]]
    counts = torch.bincount(torch.tensor(first), minlength=VOCABULARY).double()
    statistic, freedom = chi_square(counts, weights / weights.sum())
    assert freedom >= 5
    # Mean `freedom`, variance twice that: four standard deviations above the mean is under one in ten thousand here.
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.slow
def test_the_second_token_is_not_drawn_with_the_first_ones_luck(model: LlamaForCausalLM) -> None:
    prompt = prompts(1)[0]
    sampler = backend(model, max_completion_tokens=2, batch_size=500)
    pairs = [completion.ids for completion in sampler.complete([prompt], [list(range(4000))])[0]]
    first = torch.bincount(torch.tensor([ids[0] for ids in pairs])).argmax().item()
    assert first != STOP
    with torch.no_grad():
        shares = model(torch.tensor([[*prompt, first]])).logits[0, -1].double().softmax(-1)
    seconds = torch.tensor([ids[1] for ids in pairs if ids[0] == first])
    statistic, freedom = chi_square(torch.bincount(seconds, minlength=VOCABULARY).double(), shares)
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float) -> None:
    torch.manual_seed(3)
    logits = torch.randn(6, 2000) * 3
    sampling = SamplingConfig(top_p=top_p)
    uniforms = torch.linspace(0, 1 - 1e-9, 1001, dtype=torch.float64)
    for row in logits[:2]:
        shares = row.double().softmax(-1)
        kept, mass = set(), 0.0
        for token in shares.argsort(descending=True).tolist():
            if mass >= top_p:
                break
            kept.add(token)
            mass += float(shares[token])
        drawn = choose(row.repeat(len(uniforms), 1), uniforms, sampling)
        assert set(drawn.tolist()) <= kept
        likely = {token for token in kept if shares[token] / mass > 1 / 250}
        assert likely <= set(drawn.tolist())


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999999])
def test_a_nucleus_of_any_size_gives_the_token_of_a_sorted_vocabulary(top_p: float) -> None:
    """Rows from peaked, with nuclei of one token, to flat, with nuclei of nearly all 5,000: 64 and 512 do not reach."""
    torch.manual_seed(0)
    logits = torch.randn(40, 5000) * torch.linspace(0.01, 12, 40)[:, None]
    uniforms = torch.rand(40, dtype=torch.float64)
    drawn = choose(logits, uniforms, SamplingConfig(top_p=top_p))
    for row, uniform, token in zip(logits, uniforms.tolist(), drawn.tolist(), strict=True):
        shares = torch.softmax(row, -1)
        ranked = shares.argsort(descending=True).tolist()
        mass = [0.0, *shares[ranked].double().cumsum(0).tolist()]
        kept = [token for token, before in zip(ranked, mass, strict=False) if before < top_p]
        cdf = [0.0, *shares[sorted(kept)].double().cumsum(0).tolist()]
        place = sum(value <= uniform * cdf[-1] for value in cdf[1:])
        assert token == sorted(kept)[place]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_share_is_never_drawn(uniform: float) -> None:
    logits = torch.full((1, 9), -float("inf"))
    logits[0, [2, 6]] = torch.tensor([0.3, 1.7])
    drawn = choose(logits, torch.tensor([uniform], dtype=torch.float64), SamplingConfig())
    assert drawn.item() in (2, 6)


def test_a_prompt_without_room_is_refused_with_its_length(model: LlamaForCausalLM) -> None:
    with pytest.raises(RowError, match=r"prompt 1: has 233 tokens; at most 232 leave space .*max_completion_tokens\.$"):
        backend(model).complete([[9], [9] * 233], [[0], [0]])
    with pytest.raises(RowError, match="prompt 0: has no tokens"):
        backend(model).complete([[]], [[0]])
    backend(model).complete([[9] * 232], [[0]])
    with pytest.raises(
        ConfigError,
        match=r"max_completion_tokens: 256 leaves no space for a prompt: the model has 256 positions\. Lower it\.",
    ):
        backend(model, max_completion_tokens=256)


def test_identity_follows_weights_and_sampling_and_not_the_batch(model: LlamaForCausalLM) -> None:
    same = backend(model, batch_size=2).identity
    assert backend(model, batch_size=9).identity == same
    assert backend(model, temperature=0.5).identity != same
    before = state_fingerprint(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
        assert state_fingerprint(model) != before
        model.lm_head.weight[0, 0] -= 1


def test_sampling_leaves_the_number_of_threads_as_it_was(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process computes next must not depend on whether it has sampled before: a resumed run may not have to."""
    used: list[int] = []
    monkeypatch.setattr(model, "forward", noting(used, model.forward))
    before = torch.get_num_threads()
    sampling = backend(model, threads=before + 2)
    assert torch.get_num_threads() == before
    sampling.complete(prompts(3), [[1], [2], [3]])
    assert set(used) == {before + 2}
    assert torch.get_num_threads() == before


def noting(used: list[int], forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, which also adds torch's number of threads to `used`."""

    @functools.wraps(forward)
    def noted(*args: Any, **kwargs: Any) -> Any:
        used.append(torch.get_num_threads())
        return forward(*args, **kwargs)

    return noted
