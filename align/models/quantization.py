"""Weights in 4 bits, through the optional library bitsandbytes, which no other file imports."""

from __future__ import annotations

import torch
from transformers import BitsAndBytesConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import is_bitsandbytes_available

from align.errors import ConfigError
from align.optional import install
from align.settings import ModelConfig

KEY = "model.quantization"


def require_quantized_training(config: ModelConfig) -> None:
    """Raise ConfigError if 4-bit weights cannot be trained over. Called before any row or model is read.

    peft's documentation describes QLoRA under ZeRO-3. It is refused here: these trainers were never tested with it.
    """
    if config.lora is None:
        how = "Add model.lora, which trains adapters over them, or remove model.quantization"
        raise ConfigError(KEY, "4-bit weights cannot be trained themselves", how)
    if is_deepspeed_zero3_enabled():
        what = "4-bit weights are not sharded by ZeRO-3: each process holds the whole model"
        how = "Launch without DeepSpeed (accelerate launch --multi_gpu), or remove model.quantization"
        raise ConfigError(KEY, what, how)
    _require_bitsandbytes()


def quantization_config(config: ModelConfig) -> BitsAndBytesConfig | None:
    """What transformers loads by: NF4 with doubly quantized constants (arXiv:2305.14314, section 3), products in
    `config.dtype`. None without `model.quantization`. Raises ConfigError if bitsandbytes does not run.
    """
    if config.quantization is None:
        return None
    _require_bitsandbytes()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, "float32" if config.dtype == "auto" else config.dtype),
    )


def bitsandbytes_is_missing() -> str:
    """Why bitsandbytes does not run here; empty if it does."""
    if not is_bitsandbytes_available():
        return "bitsandbytes is not installed here, or is too old"
    from transformers.integrations.bitsandbytes import validate_bnb_backend_availability

    try:
        validate_bnb_backend_availability(raise_exception=True)
    except (RuntimeError, ImportError) as error:
        return f"bitsandbytes does not run here ({error})"
    return ""


def _require_bitsandbytes() -> None:
    missing = bitsandbytes_is_missing()
    if missing:
        how = f"{install('qlora')}, on a machine that bitsandbytes supports, or remove model.quantization"
        raise ConfigError(KEY, f"4-bit weights require bitsandbytes: {missing}", how)
