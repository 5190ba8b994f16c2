"""Generation and scoring, in tokens and completions a second, next to plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from align.generation.local import LocalBackend
from align.judges.reward_model import RewardModelJudge
from align.settings import SamplingConfig
from tests.gpu import shapes
from tests.gpu.measure import Check

PROTOCOL: Any = SimpleNamespace(identity=("ids",), stop_ids=(), pad_id=shapes.PAD)
"""Prompts are token ids already, and no token ends a completion, so that all have the same length."""

TOKEN_BUDGET = 16_384


def cases(check: Check) -> dict[str, Callable[[], dict[str, Any]]]:
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in check.sizes.llamas:
        found[f"generation, {name}"] = lambda n=name: generation(check, n)  # type: ignore[misc]
        found[f"scoring, {name}"] = lambda n=name: scoring(check, n)  # type: ignore[misc]
    return found


def generation(check: Check, name: str) -> dict[str, Any]:
    """Several completions of each prompt: our backend, and `generate` with num_return_sequences."""
    sizes = check.sizes
    model = shapes.llama(name, check.dtype, check.device, attention="sdpa").eval()
    trees = shapes.pairs(sizes.prompts, sizes.prompt, 1, model.config.vocab_size)
    prompts = [tree.prompt.tolist() for tree in trees]
    seeds = [list(range(sizes.candidates))] * len(prompts)
    rows = sizes.prompts * sizes.candidates
    sampling = SamplingConfig(
        temperature=1.0,
        max_completion_tokens=sizes.new_tokens,
        batch_size=rows,
        dtype=str(check.dtype).partition(".")[2],
    )
    backend = LocalBackend(model, PROTOCOL, sampling)
    longest = max(map(len, prompts))
    ids = torch.tensor([[shapes.PAD] * (longest - len(prompt)) + prompt for prompt in prompts], device=check.device)

    @torch.inference_mode()
    def theirs() -> None:
        model.generate(
            input_ids=ids,
            attention_mask=(ids != shapes.PAD).long(),
            do_sample=True,
            num_return_sequences=sizes.candidates,
            min_new_tokens=sizes.new_tokens,
            max_new_tokens=sizes.new_tokens,
            pad_token_id=shapes.PAD,
        )

    arms = {
        "local backend": check.timed(lambda: backend.complete(prompts, seeds), repeats=1),
        "generate": check.timed_peer(theirs, repeats=1),
    }
    for arm in arms.values():
        if "seconds" in arm:
            arm["tokens_per_second"] = rows * sizes.new_tokens / arm["seconds"]
    return {"prompts": len(prompts), "completions": rows, "new_tokens": sizes.new_tokens, "arms": arms}


def scoring(check: Check, name: str) -> dict[str, Any]:
    """A reward for each of several completions of a prompt: our judge, and a row for each completion."""
    sizes = check.sizes
    vocabulary = shapes.LLAMAS[name]["vocab_size"]
    trees = shapes.pairs(sizes.prompts, sizes.prompt, sizes.completion, vocabulary, branches=sizes.candidates)
    model = shapes.llama(name, check.dtype, check.device, attention=shapes.ATTENTION["segments"], scorer=True)
    judge = RewardModelJudge(shapes.tree_model(model, scorer=True).eval(), PROTOCOL, TOKEN_BUDGET)  # type: ignore[arg-type]
    rows = shapes.llama(name, check.dtype, check.device, attention="sdpa", scorer=True).eval()

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        found = []
        for tree in trees:
            ids, mask, _ = shapes.padded([tree], check.device)
            found.append(rows(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float())
        return torch.cat(found)

    ours = torch.tensor([score for scores in judge.score_trees(trees) for score in scores])
    arms = {
        "judge": check.timed(lambda: judge.score_trees(trees)),
        "padded rows": check.timed(theirs),
    }
    count = len(trees) * sizes.candidates
    for arm in arms.values():
        arm["completions_per_second"] = count / arm["seconds"]
    apart = (ours - theirs().cpu()).abs().max().item()
    bound = 1e-4 if check.dtype == torch.float32 else 0.1
    if not apart <= bound:
        raise AssertionError(f"scores differ by {apart:.2g}, expected at most {bound}")
    return {"completions": count, "difference": apart, "arms": arms}
