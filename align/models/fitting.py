"""Check that the tensors of a checkpoint are those that its config describes: names, shapes, finite values.

transformers fills what is missing with noise and passes over what is unexpected; here either is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers.integrations.deepspeed as deepspeed_integration
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from align.cpu_matmul import use_onednn
from align.errors import AlignError, CheckpointError, first_line
from align.failures import is_out_of_memory
from align.models.checkpoints import CONFIG, HEAD, Checkpoint, require_known_architecture

_COMPUTED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids")
"""Endings of buffers that old checkpoints hold and that a model computes itself."""
_OF_A_BUILD = ("Error building extension", "Ninja is required to load C++ extensions", "Unable to JIT load")
"""How errors of torch and DeepSpeed begin where an extension in C++ cannot be compiled."""


def require_fit(checkpoint: Checkpoint, *, scorer: bool, fresh_head: bool = False) -> bool:
    """Raise CheckpointError if the checkpoint is not a whole model of the kind that is asked for.

    scorer: a reward model; otherwise a causal language model.
    fresh_head: whether a language model may be opened as a reward model, whose head is then noise. Only training a
        reward model, or an adapter that brings its head, allows that.

    Returns whether the head is fresh. The model is built without memory (on the meta device), so that this costs
    milliseconds whatever its size.
    """
    config = model_config(checkpoint)
    has_head = HEAD in checkpoint.tensors
    classifier = next((name for name in config.architectures or () if not _is_language_model(name)), None)
    _refuse_other_kind(checkpoint, config, classifier, scorer=scorer, has_head=has_head, fresh_head=fresh_head)
    fresh = scorer and fresh_head and not has_head and classifier is None
    missing, unexpected, mismatched = _compared(checkpoint, scorer)
    if fresh:
        missing.discard(HEAD)
        unexpected.discard("lm_head.weight")  # the language model's head, in whose place the score head goes
    unexpected = {name for name in unexpected if not name.endswith(_COMPUTED)}
    kind = "reward model" if scorer else "language model"
    if mismatched:
        name, found, expected = min(mismatched)
        what = f"tensor {name} has the shape {list(found)}, expected {list(expected)} by {CONFIG}{_more(mismatched)}"
        how = "Copy weights and config.json of one and the same model"
    elif missing:
        of = ", ".join(sorted(unexpected)[:3])
        instead = f"; it holds {of} instead" if unexpected else ""
        what = f"the {kind} of {CONFIG} has a tensor {min(missing)} that is in no file{_more(missing)}{instead}"
        how = "Copy the checkpoint again"
    elif unexpected:
        what = f"holds the tensor {min(unexpected)}, which the {kind} of {CONFIG} does not have{_more(unexpected)}"
        how = "Name a checkpoint of this kind of model, whose config.json describes all of its tensors"
    else:
        _refuse_untied(checkpoint, config)
        return fresh
    raise CheckpointError(checkpoint.name, what, how)


def model_config(checkpoint: Checkpoint) -> Any:
    """transformers' config of a checkpoint. Raises CheckpointError if it cannot be built."""
    require_known_architecture(checkpoint.folder)
    with as_checkpoint_error(checkpoint, "describes no model that transformers can build"):
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)  # nosec B615  # a folder


def require_finite(model: nn.Module, name: str) -> None:
    """Raise CheckpointError naming the first weight that holds NaN or infinity. One pass, no copy of a weight."""
    for key, values in model.state_dict().items():
        if isinstance(values, torch.Tensor) and not is_finite(values):
            raise _not_finite(name, key)


def require_finite_files(checkpoint: Checkpoint) -> None:
    """The same from the files, for weights packed or sharded in memory. Only the first process of a machine reads."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for key in checkpoint.tensors:
            if not is_finite(read_tensor(checkpoint, key)):
                raise _not_finite(checkpoint.name, key)


def _not_finite(name: str, key: str) -> CheckpointError:
    what = f"tensor {key} holds values that are not finite (NaN or infinity)"
    return CheckpointError(name, what, "Use an earlier checkpoint of the run that wrote it, or copy it again")


def is_finite(values: torch.Tensor) -> bool:
    """Whether all values are finite: the sum of their squares is finite in float32.

    True for integers and for an empty tensor. A weight of 3e38 is finite and its square is not; no product with it
    would be. Training seals by the same rule, so that what it saves can be loaded.
    """
    if not values.is_floating_point() or values.numel() == 0 or values.is_meta:
        return True
    values = values.detach()
    low, high = map(float, torch.aminmax(values))  # NaN anywhere makes both NaN
    if max(low * low, high * high) * values.numel() < torch.finfo(torch.float32).max:
        return True  # what nearly every tensor comes to, in a tenth of the time that the norm takes in bfloat16
    return bool(torch.isfinite(torch.linalg.vector_norm(values, dtype=torch.float32)))


def quietly_loaded(kind: Any, checkpoint: Checkpoint, **arguments: Any) -> Any:
    """`kind.from_pretrained` of a checkpoint that fits, without transformers' own report of what is fresh or unused.

    Weights are read from safetensors only, and no code that comes with the checkpoint is run.
    """
    use_onednn()
    with as_checkpoint_error(checkpoint, "cannot be loaded"), _without_reports():
        model = kind.from_pretrained(checkpoint.folder, use_safetensors=True, trust_remote_code=False, **arguments)
    return model


def _is_language_model(architecture: str) -> bool:
    return not architecture.endswith(("Classification", "RewardModel", "ValueModel", "QuestionAnswering"))


def _refuse_other_kind(
    checkpoint: Checkpoint, config: Any, classifier: str | None, *, scorer: bool, has_head: bool, fresh_head: bool
) -> None:
    if not scorer and (classifier or has_head):
        what = f"is a reward model or another classifier ({classifier or HEAD}), not a language model"
        raise CheckpointError(checkpoint.name, what, "Name the policy's folder")
    if not scorer:
        return
    if classifier is not None and config.num_labels != 1:
        what = f"is a classifier of {config.num_labels} labels ({classifier}); a reward model has 1"
        raise CheckpointError(checkpoint.name, what, "Name a reward model's folder")
    if not has_head and (classifier is not None or not fresh_head):
        heads = sorted(n for n in checkpoint.tensors if not n.startswith("model.") and n != "lm_head.weight")
        instead = f"; it holds {', '.join(heads[:3])} instead" if heads else ""
        what = f"has no reward head: the tensor {HEAD} is in no file{instead}"
        how = "Name a reward model's folder, as recipes/reward.py leaves it; scores of a fresh head would be noise"
        raise CheckpointError(checkpoint.name, what, how)


def _compared(checkpoint: Checkpoint, scorer: bool) -> tuple[set[str], set[str], set[tuple[str, Any, Any]]]:
    """Names that are missing, names that are unexpected, and (name, shape found, shape expected)."""
    kind, more = (AutoModelForSequenceClassification, {"num_labels": 1}) if scorer else (AutoModelForCausalLM, {})
    problem = "describes no model that transformers can build"
    with as_checkpoint_error(checkpoint, problem), _without_reports(), without_zero3():
        _, report = kind.from_pretrained(
            checkpoint.folder,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused by name
            use_safetensors=True,
            trust_remote_code=False,
            **more,
        )
    if report["error_msgs"]:
        raise CheckpointError(checkpoint.name, f"cannot be loaded: {report['error_msgs'][0]}", "Copy it again")
    return set(report["missing_keys"]), set(report["unexpected_keys"]), set(report["mismatched_keys"])


def _refuse_untied(checkpoint: Checkpoint, config: Any) -> None:
    """Refuse an output head of its own where the config says that it is the embedding: one of them would be lost."""
    ends = ("embed_tokens.weight", "lm_head.weight")
    pair = [next((n for n in checkpoint.tensors if n.endswith(end)), None) for end in ends]
    if not getattr(config.get_text_config(), "tie_word_embeddings", False) or None in pair:
        return
    first, second = (read_tensor(checkpoint, str(name)) for name in pair)
    if not torch.equal(first, second):
        what = f"says tie_word_embeddings, and the tensors {pair[0]} and {pair[1]} differ"
        how = "Set tie_word_embeddings: false if the head was trained, or delete the head's tensor"
        raise CheckpointError(checkpoint.folder / CONFIG, what, how)


def read_tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    with safe_open(checkpoint.tensors[name].file, "pt") as handle:
        value: torch.Tensor = handle.get_tensor(name)
        return value


def _more(found: set[Any]) -> str:
    return f" ({len(found)} such tensors)" if len(found) > 1 else ""


@contextmanager
def as_checkpoint_error(checkpoint: Checkpoint, problem: str) -> Iterator[None]:
    """In the block, any error of transformers about a config or file becomes a CheckpointError with `problem`.

    Running out of memory, and what DeepSpeed compiles while it shards, are about the machine and stay what they are.
    """
    try:
        yield
    except AlignError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or str(error).startswith(_OF_A_BUILD):
            raise
        what = f"{problem} ({type(error).__name__}: {first_line(error, 300)})"
        how = f"Compare {CONFIG} with that of the original model; its model_type is {checkpoint.config['model_type']}"
        raise CheckpointError(checkpoint.folder / CONFIG, what, how) from error


@contextmanager
def _without_reports() -> Iterator[None]:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@contextmanager
def without_zero3() -> Iterator[None]:
    """In the block, ZeRO-3 is off: transformers cannot build a model without weights while it shards."""
    reference = deepspeed_integration._hf_deepspeed_config_weak_ref
    held = reference() if reference is not None else None
    if held is not None:
        deepspeed_integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if held is not None:
            deepspeed_integration.set_hf_deepspeed_config(held)
