"""A judge that scores with a reward model: all completions of a prompt in one tree, many trees in one packed row.

The prompt is computed once for all its completions. Each completion attends to the prompt and to itself only, so its
score equals that of the completion alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch

from align.chat.protocol import ChatProtocol
from align.errors import CheckpointError
from align.generation.local import state_fingerprint
from align.judges.judge import ScoreRequest
from align.models.devices import on_device, require_on_device
from align.models.loading import load_reward_model, load_tokenizer_for
from align.models.logps import TreePolicy, TreeScorer
from align.models.memory import memory_errors
from align.rows import Messages
from align.settings import ModelConfig
from align.trainers.checks import PACKING_TOLERANCE, check_own_forward
from align.tree.encode import Ask, PromptTree, encode_completions
from align.tree.pack import bins_under_budget, collate


class RewardModelJudge:
    """Scores of a reward model, in log-odds: at a difference of 1.0, the better completion wins with 73%.

    model: moved to the accelerator if there is one, in the dtype that it was loaded in.
    token_budget: tokens in one forward pass. A larger tree is split into trees with fewer completions. A prompt with
        one completion that exceeds the budget is computed by itself.
    """

    def __init__(self, model: TreeScorer, protocol: ChatProtocol, token_budget: int) -> None:
        on_device(model.model)
        self.model = model.eval()
        self.protocol = protocol
        self.token_budget = token_budget
        self._identity: dict[str, str] = {}
        self._proved = False

    @classmethod
    def from_settings(cls, config: ModelConfig, token_budget: int) -> Self:
        """The judge of a `reward_model` section."""
        _, protocol = load_tokenizer_for(config)
        return cls(load_reward_model(config), protocol, token_budget)

    @property
    def identity(self) -> dict[str, str]:
        """See `Judge.identity`. token_budget is left out: it changes scores by rounding only."""
        if not self._identity:
            self._identity = {
                "reward_model": state_fingerprint(self.model),
                "protocol": " ".join(map(str, self.protocol.identity)),
            }
        return self._identity

    def score(self, prompt: Messages, completions: Sequence[Messages], tools: str = "") -> list[float]:
        """See `Judge.score`."""
        return self.score_many([ScoreRequest(prompt, completions, tools)])[0]

    @torch.inference_mode()
    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """See `Judge.score_many`. Raises CheckpointError if a score is not a finite number."""
        asks = [Ask(str(number), *request) for number, request in enumerate(requests) if request.completions]
        found: list[list[float]] = [[] for _ in requests]
        wholes = encode_completions(asks, self.protocol)
        for whole, scores in zip(wholes, self.score_trees(wholes), strict=True):
            found[int(whole.id)] = scores
        return found

    @torch.inference_mode()
    def score_trees(self, wholes: Sequence[PromptTree]) -> list[list[float]]:
        """One score for each branch of each tree, in their order. Raises CheckpointError as `score_many` does."""
        require_on_device(self.model, "scoring")
        trees: list[PromptTree] = []
        owners: list[int] = []
        for owner, whole in enumerate(wholes):
            for tree in self._split(whole):
                trees.append(tree)
                owners.append(owner)
        scores: list[list[float]] = [[] for _ in trees]
        device = next(self.model.parameters()).device
        for places in bins_under_budget([tree.tokens for tree in trees], self.token_budget):
            with memory_errors("scoring", lambda: "while completions were scored", lambda: self._less(trees)):
                flat = self.model(collate([trees[place] for place in places]).to(device)).tolist()
            self._check(flat, [trees[place] for place in places])
            if not self._proved:
                self._prove(min((trees[place] for place in places), key=lambda tree: tree.tokens), device)
            for place in places:
                count = len(trees[place].branches)
                scores[place], flat = flat[:count], flat[count:]
        found: list[list[float]] = [[] for _ in wholes]
        for owner, part in zip(owners, scores, strict=True):
            found[owner].extend(part)
        return found

    def _less(self, trees: Sequence[PromptTree]) -> str:
        """What would need less memory."""
        longest = max(tree.tokens for tree in trees)
        now = f"token_budget (now {self.token_budget}; the longest prompt with its completions has {longest} tokens)"
        return f"Lower {now}, or load the model in bfloat16 (its dtype)"

    def _prove(self, tree: PromptTree, device: torch.device) -> None:
        """Check, once for each judge and on one short row, that scores equal those of the model's own forward pass."""
        tolerance = PACKING_TOLERANCE[self.model.low_precision]
        if isinstance(self.model, TreePolicy):  # a sum over n tokens has about sqrt(n) times the rounding of one
            tolerance *= max(len(tree.branches[0].ids), 1) ** 0.5
        check_own_forward(lambda batch: self.model(batch.to(device)), tree, self.model.model.name_or_path, tolerance)
        self._proved = True

    def _check(self, scores: Sequence[float], trees: Sequence[PromptTree]) -> None:
        places = [(tree, number) for tree in trees for number in range(len(tree.branches))]
        for score, (tree, number) in zip(scores, places, strict=True):
            if not math.isfinite(score):
                what = f"gave the score {score} to a completion of {len(tree.branches[number].ids)} tokens"
                how = "Its weights are not finite, or overflow in this dtype: load another checkpoint, or use float32"
                raise CheckpointError(self.model.model.name_or_path, what, how)

    def _split(self, tree: PromptTree) -> list[PromptTree]:
        """Trees within the budget that have the branches of `tree`, in their order.

        A prompt of 10 tokens with branches of 5, 5 and 5 tokens, at a budget of 20, gives two trees: branches 0 and 1
        (10 + 5 + 5 = 20), and branch 2 with the prompt again.
        """
        parts: list[PromptTree] = []
        for branch in tree.branches:
            last = parts[-1] if parts else None
            if last is not None and last.tokens + len(branch.ids) <= self.token_budget:
                parts[-1] = PromptTree(tree.id, tree.prompt, (*last.branches, branch))
            else:
                parts.append(PromptTree(tree.id, tree.prompt, (branch,)))
        return parts
