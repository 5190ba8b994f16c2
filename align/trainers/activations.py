"""Memory of the activations of one packed row, measured without memory: on tensors that have shapes and no values.

The model's own code runs forward and backward over a row, with two layers. Storages that the passes make are counted
while they are alive. Every further layer leaves as much for the backward pass as the second one, and nothing else.

Weights, gradients of weights and optimizer states are not part of it: `align/trainers/footprint.py` adds them.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import align.models.logps as logps
import align.tree.attention as attention
from align.errors import ConfigError
from align.models.adapters import inject
from align.models.fitting import without_zero3
from align.models.logps import TreePolicy, TreeScorer
from align.settings import ModelConfig
from align.tree.encode import PromptTree, Segment
from align.tree.pack import TreeBatch, collate
from align.tree.sequence_parallel import Attention, SequenceGroup, whole_row

_LAYERS = 2


class Activations(NamedTuple):
    """Bytes of one packed row."""

    held: int
    """What the forward pass leaves for the backward pass."""
    peak: int
    """The most that is alive at any time, one gradient of a weight included."""


def activations(
    config: Any,
    model: ModelConfig,
    row: Sequence[PromptTree],
    *,
    scorer: bool = False,
    precision: str = "fp32",
    on_gpu: bool = True,
    training: bool = True,
    sequence_parallel: int = 1,
) -> Activations:
    """Of a forward and a backward pass over `row`; of a forward pass alone without `training`.

    config: the Hugging Face model's. precision: as for `TreeModel`. on_gpu: whether the kernels of a GPU are counted.
    sequence_parallel: this many processes share the row; of the one in which most labels are.
    """
    model, layers = _in_few_layers(model, config.num_hidden_layers)
    short = copy.deepcopy(config)
    short.num_hidden_layers = _LAYERS
    if getattr(short, "layer_types", None):
        short.layer_types = short.layer_types[:_LAYERS]
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    built = without_memory(short, model, scorer)
    with fake, _kernels(on_gpu):
        _without_values(built)
        tree_model = TreeScorer(built, precision) if scorer else TreePolicy(built, precision)
        batch = _faked(collate(row), fake)
        tree_model.train(training)
        tree_model.shared_by = _OneOf(sequence_parallel, 0) if sequence_parallel > 1 else None
        after_layers: list[int] = []
        with _Alive(tree_model) as alive, torch.set_grad_enabled(training):
            for layer in _layers_of(built):
                layer.register_forward_hook(lambda *_: after_layers.append(alive.now))
            values = tree_model(batch)
            held = alive.now
            first, second = after_layers
            if training:
                values.sum().backward()
    further = (second - first) * (layers - _LAYERS) if training else 0
    return Activations(held + further, alive.peak + further)


def _layers_of(model: Any) -> nn.ModuleList:
    """The decoder layers. Raises ConfigError for a model that has no such list of modules."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    found = next((each for each in lists if len(each) == _LAYERS), None)
    if found is None:
        what = f"{type(model).__name__} has no list of decoder layers, by which its memory is planned"
        raise ConfigError("model.path", what, "Plan it with the shape of a similar Llama model (shape=...)")
    return found


def _in_few_layers(model: ModelConfig, layers: int) -> tuple[ModelConfig, int]:
    """The settings for a model with a few layers, and how many layers of the whole one leave something for the backward
    pass: those from the first with an adapter on."""
    if model.lora is None or not (model.lora.first_layer or model.lora.layers_to_transform):
        return model, layers
    lowest = min(model.lora.layers_to_transform, default=model.lora.first_layer)
    everywhere = model.lora.model_copy(update={"first_layer": 0, "layers_to_transform": ()})
    return model.model_copy(update={"lora": everywhere}), layers - lowest


def typical_row(tokens: int, completions: int, completion_share: float) -> list[PromptTree]:
    """A packed row of exactly `tokens` tokens, of which about a share are completions: one tree, since the memory of
    activations does not depend on how a row is divided."""
    each = max(1, round(tokens * completion_share / completions))
    prompt = max(1, tokens - completions * each)
    return [PromptTree("typical", np.zeros(prompt, np.int32), tuple(_branch(each) for _ in range(completions)))]


def _branch(length: int) -> Segment:
    return Segment(np.zeros(length, np.int32), np.ones(length, bool), np.ones(length, bool))


def without_memory(config: Any, model: ModelConfig, scorer: bool) -> Any:
    """A model with this config as a recipe would train it, with its adapters, on the meta device."""
    dtype = torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
    kind: Any = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    config = copy.deepcopy(config)
    if scorer:
        config.num_labels = 1
    with without_zero3(), torch.device("meta"):
        built = kind.from_config(config, dtype=dtype, attn_implementation=attention.NAME)
        if model.lora is not None:
            inject(built, model.lora)
    built.config.use_cache = False
    if model.gradient_checkpointing:
        built.activation_checkpointing_enable({"use_reentrant": False})
    return built


def _without_values(model: nn.Module) -> None:
    """Give `model` tensors on the CPU that have no values, in place of those on the meta device, which autocast does
    not know. Gradients of weights are dropped as soon as they are there, as ZeRO-3 does."""
    made: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            if id(weight) not in made:
                made[id(weight)] = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), weight.requires_grad)
                if weight.requires_grad:
                    made[id(weight)].register_post_accumulate_grad_hook(_drop_gradient)
            module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _drop_gradient(weight: Tensor) -> None:
    weight.grad = None


def _faked(batch: TreeBatch, fake: FakeTensorMode) -> TreeBatch:
    values = {name: getattr(batch, name) for name in TreeBatch.__slots__}
    fakes: dict[str, Any] = {
        name: fake.from_tensor(value) for name, value in values.items() if isinstance(value, Tensor)
    }
    return replace(batch, **fakes)


class _Alive(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still alive."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {weight.untyped_storage()._cdata for weight in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def _kernels(on_gpu: bool) -> Iterator[None]:
    """In the block, tensors that are on the CPU take the paths for a GPU if asked, and the output head stops after two
    tiles of its logits."""
    all_tiles = logps._tiles
    replaced: dict[Any, dict[str, Any]] = {
        logps: {"_tiles": lambda *given: islice(all_tiles(*given), 2)}
    }  # all are alike
    if on_gpu:
        replaced[logps]["TILE"] = logps.TILE | {"cpu": logps.TILE["cuda"]}
        replaced[attention] = {
            "_on_cpu": lambda tensor: False,
            "scaled_dot_product_attention": lambda query, key, value, **_: _Flash.apply(query, key, value),
            "causal_lower_right": lambda *lengths: None,  # a tensor of its own kind, which has no fake form
        }
    before = {module: {name: getattr(module, name) for name in names} for module, names in replaced.items()}
    for module, names in replaced.items():
        vars(module).update(names)
    try:
        yield
    finally:
        for module, names in before.items():
            vars(module).update(names)


class _OneOf(SequenceGroup):
    """One process of a group, without the others: it makes the tensors of the exchange, and sends nothing."""

    def joined(self, tokens: int, places: Tensor, values_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        # As many places as a process can have: places have no values here.
        here = torch.arange(min(-(-tokens // self.size), len(places)))
        values = values_of(here, here)
        return values.new_zeros(len(places)).index_copy(0, here, values)

    def _exchange(self) -> Any:
        return self._alone

    def _alone(
        self, query: Tensor, key: Tensor, value: Tensor, _batch: int, _rotation: None, attention: Attention, tokens: int
    ) -> Tensor:
        q, k, v = (_Exchange.apply(each, (-1, each.shape[2] // self.size)) for each in (query, key, value))
        out = whole_row(q, k, v, attention, tokens)
        return cast(Tensor, _Exchange.apply(out, (query.shape[1], -1)))


class _Exchange(torch.autograd.Function):
    """DeepSpeed's `single_all_to_all`: a copy to send, what is received, and that in order. Nothing is kept.

    sizes: tokens and heads of the result; one of them may be -1.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, sizes: tuple[int, int]) -> Tensor:
        ctx.shape = given.shape
        sent = given.clone(memory_format=torch.contiguous_format)
        received = torch.empty_like(sent)
        return received.clone().view(given.shape[0], *sizes, given.shape[3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        sent = gradients[0].clone(memory_format=torch.contiguous_format)
        received = torch.empty_like(sent)
        return received.clone().view(ctx.shape), None


class _Flash(torch.autograd.Function):
    """scaled_dot_product_attention as flash kernels do it: the result and a log-sum-exp, and no matrix of weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
