"""Adapters as peft makes and saves them, with noise in all that they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


def save_adapter(base: Path, folder: Path, tokenizer: Any, *, scale: float = 0.05, seed: int = 5, **lora: Any) -> Any:
    """Save an adapter of rank 4 over a base; returns peft's own model.

    scale: of the noise. lora: settings of peft's LoraConfig. With another `task_type` the base is a reward model.
    """
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | lora
    torch.manual_seed(seed)
    if settings["task_type"] == "CAUSAL_LM":
        model: Any = AutoModelForCausalLM.from_pretrained(base)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = get_peft_model(model, LoraConfig(**settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(scale * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
