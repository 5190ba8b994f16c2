"""Our settings mapped onto transformers.TrainingArguments: the one file that knows both."""

from __future__ import annotations

import os
import sys
import warnings

import torch
from transformers import TrainingArguments

from align.errors import ConfigError
from align.models.quantization import require_quantized_training
from align.reporting import logger
from align.settings import ModelConfig, TrainingConfig
from align.trainers.extensions import prepare_extension
from align.trainers.output import claim_output

log = logger(__name__)

_SCHEDULES = {"cosine": "cosine_with_min_lr", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(training: TrainingConfig, model: ModelConfig) -> TrainingArguments:
    """Arguments for a trainer. Make them before any model: under ZeRO-3 they have the weights sharded while they load.

    Rank zero also claims the output folder here, before anything is loaded or written: see `claim_output`.

    An "item" of our data is a whole optimizer step, so transformers sees batches of one without accumulation; packing,
    micro-steps and the loss's denominator are `align/trainers/base.py`'s.
    """
    if training.threads:
        torch.set_num_threads(training.threads)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed calls collectives by names that torch is about to rename, and says so at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    sharded = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    if model.dtype == "bfloat16" and not sharded and model.lora is None:  # adapters are float32 over frozen weights
        what = "bfloat16 weights would lose small updates: nothing here keeps float32 master weights"
        how = "Set model.dtype: float32 with training.precision: bf16, or launch with a DeepSpeed file"
        raise ConfigError("model.dtype", what, how)
    if sharded and os.environ.get("DS_ACCELERATOR") == "cpu" and sys.platform == "linux":
        prepare_extension()
    claim_output(training.output_dir, model.path)
    if "TORCHELASTIC_RUN_ID" in os.environ and "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" not in os.environ:
        log.info(
            "after Ctrl-C or SIGTERM the launcher leaves 30 s to save a checkpoint; for a large model, set the "
            "environment variable TORCH_ELASTIC_SHUTDOWN_TIMEOUT to more seconds before you start it"
        )
    arguments = TrainingArguments(
        output_dir=str(training.output_dir),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        learning_rate=training.learning_rate,
        lr_scheduler_type=_SCHEDULES[training.schedule],  # for trackers: `TreeTrainer.create_scheduler` makes ours
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        adam_beta2=0.95,
        optim="adamw_torch_fused",
        bf16=sharded and model.dtype == "bfloat16",  # else `TreeModel` runs it by training.precision
        use_cpu=not torch.cuda.is_available(),
        seed=training.seed,
        logging_strategy="steps",
        logging_steps=training.log_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=None,
        eval_strategy="no",
        report_to=list(training.report_to) or "none",
        remove_unused_columns=False,
        disable_tqdm=True,
        average_tokens_across_devices=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    if model.quantization is not None:
        require_quantized_training(model)
    if arguments.n_gpu > 1:
        what = f"one process sees {arguments.n_gpu} GPUs, and transformers would copy the model to each"
        how = "Start it with accelerate launch --config_file recipes/launch/zero3.yaml, or set CUDA_VISIBLE_DEVICES=0"
        raise ConfigError("launch", what, how)
    return arguments
