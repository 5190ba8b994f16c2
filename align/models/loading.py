"""Load tokenizers, policies, reward models and generators from a Hugging Face folder or the Hub.

Where the folder is an adapter's, its base is loaded and `align/models/adapters.py` puts the adapter to it. What is
loaded is what the files hold: `align/models/checkpoints.py` opens them, and `align/models/fitting.py` refuses weights
that are missing, unexpected or not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.logging import disable_progress_bar

import align.tree.attention
from align.chat import adopt_template, load_protocol
from align.chat.calls import CallSyntax
from align.chat.protocol import ChatProtocol
from align.errors import AlignError, CheckpointError, ConfigError, first_line
from align.models.adapters import attach, attached
from align.models.bases import require_same_base
from align.models.checkpoints import (
    CONFIG,
    HEAD,
    Adapter,
    Checkpoint,
    base_of,
    has_tokenizer,
    located,
    no_tokenizer,
    open_adapter,
    open_checkpoint,
    read_json,
)
from align.models.devices import on_device
from align.models.exactness import own_implementation
from align.models.fitting import quietly_loaded, require_finite, require_finite_files, require_fit
from align.models.logps import TreePolicy, TreeScorer
from align.models.memory import while_loading
from align.models.quantization import quantization_config
from align.models.serving import generation_stop_ids
from align.models.support import require_supported
from align.precision import resolved_dtype, resolved_precision
from align.reporting import logger
from align.settings import ModelConfig

log = logger(__name__)


def load_tokenizer(
    path: str | Path,
    chat: str = "auto",
    call_syntax: CallSyntax | None = None,
    revision: str | None = None,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    today: str | None = None,
) -> tuple[Any, ChatProtocol]:
    """The tokenizer, and the chat protocol over it; the protocol's template becomes the tokenizer's own.

    template_kwargs, today: `chat_template_kwargs` and `chat_date` of `ModelConfig`.
    Raises CheckpointError if there is none, or where it has ids that the model has no embedding for, and ConfigError as
    `load_protocol` does.
    """
    disable_progress_bar()  # a bar for each file read would bury our own lines
    folder = located(path, revision)
    base = base_of(folder)
    whole = folder if base is None else located(base.name, base.revision, key=base.key)
    source = folder if has_tokenizer(folder) else whole  # adapters made elsewhere often come without
    if not has_tokenizer(source):
        raise no_tokenizer(source)
    tokenizer = _tokenizer_of(source)
    _refuse_larger_vocabulary(tokenizer, source, whole)
    stop_ids = [*generation_stop_ids(folder), *generation_stop_ids(whole)]
    protocol = load_protocol(
        tokenizer, chat, call_syntax, template_kwargs=template_kwargs, today=today, stop_ids=stop_ids
    )
    adopt_template(tokenizer, protocol)
    return tokenizer, protocol


def load_tokenizer_for(config: ModelConfig) -> tuple[Any, ChatProtocol]:
    """`load_tokenizer` with the settings of a `model` section."""
    return load_tokenizer(
        config.path,
        config.chat,
        config.call_syntax,
        config.revision,
        template_kwargs=config.chat_template_kwargs,
        today=config.chat_date,
    )


def plain_tokenizer(path: str | Path, revision: str | None = None, *, key: str = "model.path") -> Any:
    """A tokenizer to count tokens with or for an encoder: of a checkpoint, or of a folder with a tokenizer alone.

    Raises CheckpointError if there is none that can be read, and as `located` does.
    """
    disable_progress_bar()
    folder = Path(path) if has_tokenizer(Path(path)) else located(path, revision, key=key)
    if not has_tokenizer(folder):
        raise no_tokenizer(folder)
    return _tokenizer_of(folder)


def load_encoder(path: str | Path, revision: str | None = None, *, key: str = "model.path") -> tuple[Any, Any]:
    """A tokenizer, and a model in float32 on `device()` in evaluation mode, whose last hidden states are read.

    Raises CheckpointError if its weights are missing, damaged or not finite; a pooler, which is not read, may be
    missing.
    """
    disable_progress_bar()
    checkpoint = open_checkpoint(path, revision, key=key)
    model, report = quietly_loaded(AutoModel, checkpoint, dtype=torch.float32, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        what = f"the encoder of {CONFIG} has a tensor {missing[0]} that is in no file"
        raise CheckpointError(checkpoint.name, what, "Copy the checkpoint again")
    require_finite(model, checkpoint.name)
    return plain_tokenizer(checkpoint.folder), on_device(model).eval()


def load_policy(config: ModelConfig, precision: str = "fp32", seed: int = 0) -> TreePolicy:
    """A causal language model that reads packed trees. seed: for the fresh half of an adapter."""
    return TreePolicy(_loaded(config, seed, scorer=False), resolved_precision(precision))


def load_reward_model(
    config: ModelConfig, precision: str = "fp32", seed: int = 0, *, fresh_head: bool = False
) -> TreeScorer:
    """A reward model: the trunk with a scalar head in the place of the language model's.

    fresh_head: whether a language model is given a head of seeded noise, which only training it may do; otherwise it
        is refused. The head of a reward checkpoint is loaded in either case.
    """
    return TreeScorer(_loaded(config, seed, scorer=True, fresh_head=fresh_head), resolved_precision(precision))


def load_generator(path: str | Path, dtype: str = "auto", revision: str | None = None) -> Any:
    """A plain causal language model for sampling: in evaluation mode, on the GPU if there is one."""
    own = own_implementation(require_supported(path, "generation", revision))
    adapter, checkpoint = _opened(path, revision, scorer=False)
    held_in = getattr(torch, resolved_dtype(dtype))
    how = "Set sampling.dtype=bfloat16, or use" if held_in == torch.float32 else "Use"
    with while_loading(checkpoint, held_in, f"{how} a smaller model or a device with more memory"):
        model = quietly_loaded(AutoModelForCausalLM, checkpoint, dtype=held_in, attn_implementation=own)
        require_finite(model, checkpoint.name)
        if adapter is not None:
            model = attached(model, adapter.folder, merge=True)
        return on_device(model).eval()


def _opened(
    path: str | Path, revision: str | None, *, scorer: bool, fresh_head: bool = False, quantized: bool = False
) -> tuple[Adapter | None, Checkpoint]:
    """The adapter, if there is one, and the whole model under it, which fits the kind that is asked for."""
    disable_progress_bar()
    adapter = open_adapter(path, revision)
    if adapter is None:
        checkpoint = open_checkpoint(path, revision, quantized=quantized)
        if require_fit(checkpoint, scorer=scorer, fresh_head=fresh_head):
            log.info("%s is a language model: its reward head is fresh, and trained from noise", path)
        return None, checkpoint
    checkpoint = open_checkpoint(adapter.base.name, adapter.base.revision, quantized=quantized, key=adapter.base.key)
    require_same_base(adapter, checkpoint)
    if adapter.has_head and not scorer:
        what = f"is the adapter of a reward model (it holds {HEAD}), not of a language model"
        raise CheckpointError(adapter.name, what, "Name the policy's folder")
    if scorer and not (adapter.has_head or fresh_head or HEAD in checkpoint.tensors):
        what = f"has no reward head: neither the adapter nor its base {checkpoint.name} holds the tensor {HEAD}"
        how = "Name a reward model's folder, as recipes/reward.py leaves it; scores of a fresh head would be noise"
        raise CheckpointError(adapter.name, what, how)
    if require_fit(checkpoint, scorer=scorer, fresh_head=fresh_head or adapter.has_head) and not adapter.has_head:
        log.info("%s is a language model: its reward head is fresh, and trained from noise", path)
    return adapter, checkpoint


def _loaded(config: ModelConfig, seed: int, *, scorer: bool, fresh_head: bool = False) -> Any:
    """A whole model, or a base and its adapter, made ready to train or to score as the config says."""
    arguments = _arguments(config)
    quantized = config.quantization is not None
    require_supported(config.path, "scoring", config.revision, scorer=scorer)
    adapter, checkpoint = _opened(
        config.path, config.revision, scorer=scorer, fresh_head=fresh_head, quantized=quantized
    )
    set_seed(seed)
    kind: Any = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    with while_loading(checkpoint, arguments["dtype"], _smaller(config)):
        model = quietly_loaded(kind, checkpoint, **arguments, **({"num_labels": 1} if scorer else {}))
    if quantized or is_deepspeed_zero3_enabled():  # in memory the values are packed, or spread over processes
        require_finite_files(checkpoint)
    else:
        require_finite(model, checkpoint.name)
    if config.lora is not None:
        begun, revision = (None, config.revision) if adapter is None else (adapter.folder, adapter.base.revision)
        attach(model, config.lora, checkpoint, begun, base_revision=revision)
    elif adapter is not None:
        model = attached(model, adapter.folder, merge=not quantized)
    model.config.use_cache = False
    model.name_or_path = str(config.path)  # an adapter's own folder, and not its base's
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def _smaller(config: ModelConfig) -> str:
    """What would need less memory for the weights themselves."""
    if is_deepspeed_zero3_enabled():
        return "Start more processes, or use a smaller model"
    spread = "spread the weights over GPUs: accelerate launch --config_file recipes/launch/zero3.yaml"
    if config.lora is None:
        return f"Train an adapter over weights in 4 bits (model.lora={{}} model.quantization=nf4), or {spread}"
    if config.quantization is None:
        return f"Store the frozen weights in 4 bits (model.quantization=nf4), or {spread}"
    return f"Use a smaller model, or {spread}"


def _arguments(config: ModelConfig) -> dict[str, Any]:
    return {
        "dtype": getattr(torch, "float32" if config.dtype == "auto" else config.dtype),
        "attn_implementation": attention_of(config),
        **({} if config.quantization is None else {"quantization_config": quantization_config(config)}),
    }


def attention_of(config: ModelConfig) -> str:
    """The attention of packed trees, by its name in transformers. Raises ConfigError if this machine cannot run it."""
    if config.attention == "segments":
        return align.tree.attention.NAME
    if not torch.cuda.is_available():
        what = "flex requires a GPU: FlexAttention has no backward pass on a CPU"
        raise ConfigError("model.attention", what, "Set model.attention: segments")
    return align.tree.attention.FLEX_NAME


# The tokenizer


def _tokenizer_of(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # nosec B615  # a folder
    except AlignError:
        raise
    except Exception as error:  # of many kinds: the files of a tokenizer are read by several libraries
        what = f"holds a tokenizer that cannot be read ({type(error).__name__}: {first_line(error, 300)})"
        how = "Copy the tokenizer's files again out of the model that it was made from"
        raise CheckpointError(folder, what, how) from error


def _refuse_larger_vocabulary(tokenizer: Any, source: Path, whole: Path) -> None:
    config = read_json(whole / CONFIG)  # a tokenizer needs no more of it than the size
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    largest, token = max((number, token) for token, number in tokenizer.get_vocab().items())
    if isinstance(size, int) and largest >= size:
        what = f"has a tokenizer whose token {token!r} has the id {largest}; the model embeds the ids 0 to {size - 1}"
        raise CheckpointError(source, what, "Use the tokenizer that the model was trained with")
