"""Tokenizers, policies, reward models and generators, out of a Hugging Face folder or the Hub.

Weights are read from safetensors only, and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
from transformers.utils.logging import disable_progress_bar

import align.tree.attention
from align.chat import load_protocol
from align.chat.calls import CallSyntax
from align.chat.protocol import ChatProtocol
from align.errors import ConfigError
from align.models.logps import TreePolicy, TreeScorer
from align.settings import ModelConfig


def load_tokenizer(
    path: str | Path, chat: str = "auto", call_syntax: CallSyntax | None = None
) -> tuple[Any, ChatProtocol]:
    """The tokenizer, and the chat protocol over it; the protocol's template becomes the tokenizer's own."""
    tokenizer = AutoTokenizer.from_pretrained(_known(path), trust_remote_code=False)
    protocol = load_protocol(tokenizer, chat, call_syntax)
    tokenizer.chat_template = protocol.chat_template
    return tokenizer, protocol


def load_policy(config: ModelConfig, precision: str = "fp32") -> TreePolicy:
    """A causal language model that reads packed trees."""
    model = AutoModelForCausalLM.from_pretrained(_known(config.path), **_arguments(config))
    _prepare(model, config)
    return TreePolicy(model, precision)


def load_reward_model(config: ModelConfig, precision: str = "fp32", seed: int = 0) -> TreeScorer:
    """A reward model: the trunk with a scalar head in the place of the language model's.

    From a reward checkpoint the head is loaded; from a pre-trained one it starts as seeded noise.
    """
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(_known(config.path), num_labels=1, **_arguments(config))
    _prepare(model, config)
    return TreeScorer(model, precision)


def load_generator(path: str | Path, dtype: str = "bfloat16") -> Any:
    """A plain causal language model for sampling: in evaluation mode, on the GPU where there is one."""
    model = AutoModelForCausalLM.from_pretrained(
        _known(path),
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _arguments(config: ModelConfig) -> dict[str, Any]:
    return {
        "dtype": getattr(torch, config.dtype),
        "attn_implementation": align.tree.attention.NAME,
        "use_safetensors": True,
        "trust_remote_code": False,
    }


def _prepare(model: Any, config: ModelConfig) -> None:
    model.config.use_cache = False
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})


def _known(path: str | Path) -> str:
    """A folder that exists, or what may be a Hub name (`owner/name`)."""
    disable_progress_bar()  # a bar for each file read would bury our own lines
    text = str(path)
    if not Path(text).is_dir() and (text.count("/") != 1 or text.startswith((".", "/"))):
        how = "Name a checkpoint folder that exists, or owner/name on the Hub"
        raise ConfigError("model.path", f"there is no folder {text}", how)
    if Path(text).is_dir() and not (Path(text) / "config.json").exists():
        raise ConfigError("model.path", f"{text} holds no config.json", "Name a Hugging Face checkpoint folder")
    return text
