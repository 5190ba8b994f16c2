"""A backend that generates with transformers in this process, on the accelerator if there is one.

A prompt is prefilled once for all its completions. Rows that end leave the batch and waiting prompts take their place
(continuous batching), so the batch stays full until no prompt waits. Each row samples from its own seeded generator by
inverse CDF, so its neighbours in the batch affect it only by the rounding of batched products.

Dimension letters in this file: N rows being decoded, V vocabulary, K likeliest tokens. The cache is aligned at its
right end: each row's tokens are its last columns, and `lengths_N` says how many. Two rows of 3 and 5 tokens:

    column       0  1  2  3  4
    row 0        .  .  a  b  c      lengths_N = [3, 5]; "." is masked out, and its contents do not matter
    row 1        v  w  x  y  z

The next token of each row is then written to column 5, at position 3 of row 0 and position 5 of row 1.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from blake3 import blake3
from transformers.cache_utils import Cache, DynamicLayer

from align.chat.protocol import ChatProtocol
from align.generation.backend import CheckedBackend, Completion
from align.generation.next_token import choose
from align.models.devices import cpu_threads, on_device, require_on_device
from align.models.exactness import batch_limit, local_settings, named, refusal, refuse_unsampled
from align.models.memory import memory_errors
from align.settings import SamplingConfig

PREFILL_TOKENS = 8192
"""Prompt tokens in one forward pass, padding included; a longer prompt goes alone."""

_CACHE_STEP = 64  # positions by which a full cache grows


class LocalBackend(CheckedBackend):
    """Completions from a causal language model of transformers.

    model: a causal language model whose cache is keys and values alone, such as Llama. Moved to the accelerator if
        there is one. ConfigError for a model that cannot be sampled exactly (`align/models/exactness.py`).
    protocol: gives the stop ids and the padding id.
    """

    def __init__(self, model: Any, protocol: ChatProtocol, sampling: SamplingConfig) -> None:
        refuse_unsampled(model)
        self.model = on_device(model).eval()
        self._limit = batch_limit(model)
        self.protocol = protocol
        self.sampling = sampling
        self._identity: dict[str, str] = {}
        self._require_space(f"the model has {self.max_model_len} positions")

    @property
    def identity(self) -> dict[str, str]:
        """See `Backend.identity`. batch_size and threads are left out: they change logits by rounding only.

        In bfloat16 this rounding changes some completions. Between batches of 1 and of 64, 8 of 48 greedy answers of a
        135M model differ; in float32, 0 of 160.
        """
        if not self._identity:
            sampling = {name: value for name, value in self.sampling.result_settings().items() if name != "dtype"}
            self._identity = self._identity_with(state_fingerprint(self.model), sampling)
        return self._identity

    @property
    def max_model_len(self) -> int:
        positions = int(self.model.config.max_position_embeddings)
        return positions if self._limit is None else min(positions, self._limit.tokens)

    @property
    def limit_cause(self) -> str:
        return "" if self._limit is None else f" ({self._limit.cause}: {self._limit.effect})"

    @torch.inference_mode()
    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None,
    ) -> list[list[Completion]]:
        require_on_device(self.model, "sampling")
        finished: list[list[Completion | None]] = [[None] * len(row_seeds) for row_seeds in seeds]
        waiting = self._groups(prompts, seeds, temperatures)
        batch = _Batch(self.model, self.protocol.pad_id, self.sampling)
        less = partial(self._less, prompts)
        with (
            cpu_threads(self.sampling.threads),
            memory_errors("sampling", lambda: "while completions were sampled", less),
        ):
            while waiting or batch.rows:
                admitted = self._admitted(waiting, self.sampling.batch_size - len(batch.rows))
                if admitted:
                    batch.admit(admitted)
                else:
                    batch.decode()
                for prompt, place, completion in batch.take_finished(self.protocol.stop_ids):
                    finished[prompt][place] = completion
        return [[completion for completion in group if completion is not None] for group in finished]

    def _less(self, prompts: Sequence[Sequence[int]]) -> str:
        """What would need less memory."""
        size, most = self.sampling.batch_size, self.sampling.max_completion_tokens
        how = f"Lower sampling.batch_size (now {size})" if size > 1 else "Leave out the longest prompts"
        longest = max(map(len, prompts))
        return f"{how} or sampling.max_completion_tokens (now {most}); the longest prompt has {longest} tokens"

    def _admitted(self, waiting: deque[_Group], free: int) -> list[_Group]:
        """Groups that enter now: none until a quarter of the batch is free, since each admission copies the cache."""
        admitted: list[_Group] = []
        if free * 4 >= self.sampling.batch_size:
            while waiting and len(waiting[0].places) <= free:
                free -= len(waiting[0].places)
                admitted.append(waiting.popleft())
        return admitted

    def _groups(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        temperatures: Sequence[Sequence[float]] | None,
    ) -> deque[_Group]:
        """Completions that share one prefill, longest prompts first, so that a prefill has little padding.

        A prompt with more completions than the batch size is split: 10 seeds at batch size 4 make groups of 4, 4 and 2.
        """
        size = self.sampling.batch_size
        groups = [
            _Group(
                number,
                list(prompt),
                tuple(range(first, min(first + size, len(row_seeds)))),
                row_seeds,
                None if temperatures is None else temperatures[number],
            )
            for number, (prompt, row_seeds) in enumerate(zip(prompts, seeds, strict=True))
            for first in range(0, len(row_seeds), size)
        ]
        return deque(sorted(groups, key=lambda group: -len(group.ids)))


def state_fingerprint(model: torch.nn.Module) -> str:
    """BLAKE3 of the weights as they are in memory: name, type, shape and bytes of each, in sorted order."""
    digest = blake3(max_threads=blake3.AUTO)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(slots=True)
class _Group:
    """Completions of one prompt that enter the batch together."""

    prompt: int
    ids: list[int]
    places: tuple[int, ...]
    seeds: Sequence[int]
    temperatures: Sequence[float] | None  # one for each seed; None: sampling.temperature


@dataclass(slots=True)
class _Row:
    """One completion being decoded."""

    prompt: int
    place: int
    ids: list[int]
    uniforms: torch.Tensor | None  # [max_completion_tokens], float64; token t uses entry t
    temperature: float | None  # None: sampling.temperature, in all rows of a batch or in none
    ended: bool = False


class _Layer(DynamicLayer):
    """Keys and values of one layer in buffers with room to grow: a step writes one column and copies nothing else."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_initialized = False
        self._buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            # A prefill. Its keys and values are kept as they are; buffers are made when its rows join the batch.
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        begin = self.keys.shape[2]
        end = begin + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self.hold([self.keys], [self.values])
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def hold(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Replace the contents by blocks of rows, each [n, heads, s, head width], aligned at their right ends.

        Blocks of 2 rows x 5 columns and 1 row x 3 columns become 3 rows x 5 columns; the third row begins with 2
        columns of zeros.
        """
        width = max(block.shape[2] for block in keys)
        rows = sum(block.shape[0] for block in keys)
        self._buffers = []
        for blocks in (keys, values):
            _, heads, _, head_width = blocks[0].shape
            buffer = blocks[0].new_empty((rows, heads, width + _CACHE_STEP, head_width))
            first = 0
            for block in blocks:
                held, padding = buffer[first : first + block.shape[0]], width - block.shape[2]
                held[:, :, :padding] = 0  # masked out, but a NaN there would still spread
                held[:, :, padding:width] = block
                first += block.shape[0]
            self._buffers.append(buffer)
        self.keys, self.values = (buffer[:, :, :width] for buffer in self._buffers)
        self.is_initialized = True


def cache_name(model: Any) -> str:
    """The argument of the model's forward pass that takes the cache: transformers renames `past_key_values` to `cache`,
    model by model from 5.24, and drops the old name in 5.40."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class _Batch:
    """The rows being decoded, their cache, and what was last computed for them."""

    def __init__(self, model: Any, pad_id: int, sampling: SamplingConfig) -> None:
        self.model, self.pad_id, self.sampling = model, pad_id, sampling
        self.rows: list[_Row] = []
        self.cache = Cache(layer_class_to_replicate=_Layer)
        self.cache_name = cache_name(model)
        config = model.config
        self._same_mask_in_all_layers = config._attn_implementation == "sdpa" and not local_settings(config)
        self.lengths_N = torch.zeros(0, dtype=torch.long, device=model.device)

    def admit(self, groups: list[_Group]) -> None:
        """Prefill the groups' prompts, sample each row's first token, and join the rows to the batch."""
        first = 0
        while first < len(groups):
            last = first + 1  # sorted by length, so the first one's length is the widest
            while last < len(groups) and (last + 1 - first) * len(groups[first].ids) <= PREFILL_TOKENS:
                last += 1
            self._prefill(groups[first:last])
            first = last

    def decode(self) -> None:
        """One token more for each row."""
        device = self.model.device
        width = self.cache.get_seq_length() + 1
        self.lengths_N += 1
        columns = torch.arange(width, device=device)
        logits_NV = self.model(
            input_ids=torch.tensor([[row.ids[-1]] for row in self.rows], device=device),
            attention_mask=self._mask(columns >= (width - self.lengths_N)[:, None]),
            position_ids=(self.lengths_N - 1)[:, None],
            use_cache=True,
            **{self.cache_name: self.cache},
        ).logits[:, -1]
        self._extend(self.rows, logits_NV)

    def _mask(self, seen_NW: torch.Tensor) -> torch.Tensor:
        """The mask of a step as the model takes it. seen_NW: which columns of the cache a row sees.

        transformers drops a mask that hides nothing, as it is when all rows have one length, and then asks PyTorch for
        grouped-query attention. On a CPU that takes 3 to 5 times as long as the form with a mask, which computes the
        query heads of one key head as if they were positions. A mask of four dimensions is never dropped. It is given
        to all layers, so a model that has layers with a window gets the usual mask.
        """
        if self._same_mask_in_all_layers and seen_NW.device.type == "cpu":
            return seen_NW[:, None, None, :]
        return seen_NW.long()

    def take_finished(self, stop_ids: Sequence[int]) -> list[tuple[int, int, Completion]]:
        """(prompt, place, completion) of rows that have just ended. Ended rows are removed when they are 1 in 8."""
        taken = []
        for row in self.rows:
            stopped = row.ids[-1] in stop_ids
            if not row.ended and (stopped or len(row.ids) == self.sampling.max_completion_tokens):
                row.ended = True
                taken.append((row.prompt, row.place, Completion(tuple(row.ids), stopped)))
        ended = sum(row.ended for row in self.rows)
        # Removing rows copies the cache, so a few ended rows stay in the batch for a while.
        if ended and ended * 8 >= len(self.rows):
            self._keep([place for place, row in enumerate(self.rows) if not row.ended])
        return taken

    def _prefill(self, groups: list[_Group]) -> None:
        device = self.model.device
        width = max(len(group.ids) for group in groups)
        padding = [width - len(group.ids) for group in groups]
        ids = [[self.pad_id] * pad + group.ids for pad, group in zip(padding, groups, strict=True)]
        columns = torch.arange(width, device=device) - torch.tensor(padding, device=device)[:, None]
        cache = Cache(layer_class_to_replicate=_Layer)
        logits = self.model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=(columns >= 0).long(),
            position_ids=columns.clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{self.cache_name: cache},
        ).logits[:, -1]
        if not cache.layers:
            why = "a decoding step would see one token only"
            raise refusal(self.model.config, named(self.model), "no cache of keys and values", why)
        new = [
            _Row(group.prompt, place, [], self._uniforms(group.seeds[place], temperature), temperature)
            for group in groups
            for place in group.places
            for temperature in [None if group.temperatures is None else group.temperatures[place]]
        ]
        repeats = torch.tensor([len(group.places) for group in groups], device=device)
        owners = torch.repeat_interleave(torch.arange(len(groups), device=device), repeats)
        self._extend(new, logits[owners])
        self._join(cache, owners)
        lengths = torch.tensor([len(group.ids) for group in groups], device=device)[owners]
        self.lengths_N = torch.cat([self.lengths_N, lengths])
        self.rows.extend(new)

    def _uniforms(self, seed: int, temperature: float | None) -> torch.Tensor | None:
        if (self.sampling.temperature if temperature is None else temperature) == 0:
            return None
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.sampling.max_completion_tokens, generator=generator, dtype=torch.float64)

    def _extend(self, rows: list[_Row], logits_NV: torch.Tensor) -> None:
        drawn = [0.0 if row.uniforms is None or row.ended else float(row.uniforms[len(row.ids)]) for row in rows]
        uniforms_N = torch.tensor(drawn, dtype=torch.float64, device=logits_NV.device)
        own = [row.temperature for row in rows if row.temperature is not None]
        temperatures_N = torch.tensor(own, dtype=torch.float32, device=logits_NV.device) if own else None
        for row, token in zip(rows, choose(logits_NV, uniforms_N, self.sampling, temperatures_N).tolist(), strict=True):
            if not row.ended:
                row.ids.append(token)

    def _join(self, new: Cache, owners: torch.Tensor) -> None:
        """Append rows of the cache `new` to the batch; `owners` are row numbers in `new`, which may repeat.

        Two prompts with 3 and 1 completions have the owners [0, 0, 0, 1]: each completion gets a copy of its prompt.
        """
        while len(self.cache.layers) < len(new.layers):
            self.cache.layers.append(_Layer())
        for layer, fresh in zip(self.cache.layers, new.layers, strict=True):
            old = ([layer.keys], [layer.values]) if self.rows else ([], [])
            layer.hold([*old[0], fresh.keys[owners]], [*old[1], fresh.values[owners]])

    def _keep(self, places: list[int]) -> None:
        """Remove all other rows, and the columns at the left that no remaining row uses."""
        self.rows = [self.rows[place] for place in places]
        if not places:
            self.cache = Cache(layer_class_to_replicate=_Layer)
            self.lengths_N = self.lengths_N[:0]
            return
        index = torch.tensor(places, device=self.lengths_N.device)
        self.lengths_N = self.lengths_N[index]
        width = int(self.lengths_N.max())
        for layer in self.cache.layers:
            layer.hold([layer.keys[:, :, -width:][index]], [layer.values[:, :, -width:][index]])
