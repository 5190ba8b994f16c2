"""Our settings mapped onto `transformers.TrainingArguments`. No other file knows both.

training.                 TrainingArguments
output_dir, seed, ...     the same names: learning_rate, weight_decay, max_grad_norm, adam_*, save_steps, report_to,
                          run_name
optimizer                 optim
project                   project, and environment variables (`align/trainers/trackers.py`)
log_steps                 logging_steps
batch_size                per_device_train_batch_size 1: an item of our data is a whole optimizer step, and
                          `align/tree/pack.py` makes it from batch_size rows
epochs, max_steps         num_train_epochs 1: the data is the plan of the whole run, so one pass over it
schedule, warmup_ratio,   lr_scheduler_type, which only trackers read; `align/trainers/schedules.py` computes rates
min_learning_rate_ratio
precision                 no argument: `TreeModel` runs its products in bfloat16 itself
sequence_parallel         no argument: `align/tree/sequence_parallel.py`
keep_checkpoints,         no argument: `align/trainers/checkpoints.py` deletes old ones, and
keep_optimizer            `align/trainers/steering.py` saves the last one
watchdog_minutes          ddp_timeout, which is longer: see `_collective_seconds`
save_dtype                no argument: `align/trainers/saving.py` converts the finished model
save_minutes              no argument: `align/trainers/steering.py`
threads, checks           no argument: they are used here and in `align/trainers/base.py`
"""

from __future__ import annotations

import math
import os
import sys
import warnings

import torch
from transformers import TrainingArguments

from align.effective_time import begin_clock
from align.errors import ConfigError
from align.models.quantization import require_quantized_training
from align.optimizers import require_usable
from align.reporting import logger
from align.settings import ModelConfig, TrainingConfig
from align.trainers.deepspeed_file import require_one_optimizer, require_rows_of_one_process, require_zero_3
from align.trainers.extensions import prepare_extension
from align.trainers.output import claim_output
from align.trainers.rendezvous import renew_store
from align.trainers.trackers import RunArguments, run_name
from align.tree.sequence_parallel import require_groups

log = logger(__name__)

_USUAL_TIMEOUT = 1800
"""Seconds; the default of transformers."""
_AFTER_THE_WATCHDOG = 300
"""Seconds."""
_SCHEDULES = {"cosine": "cosine_with_min_lr", "linear": "linear", "constant": "constant_with_warmup"}


def mapped(training: TrainingConfig, *, bf16_weights: bool) -> TrainingArguments:
    """The mapping alone. bf16_weights: whether DeepSpeed keeps float32 master weights of bfloat16 weights.

    Values that change a result are given here even if they are the defaults of transformers, which may change.
    """
    return RunArguments(
        output_dir=str(training.output_dir),
        seed=training.seed,
        use_cpu=not torch.cuda.is_available(),
        # An item of our data is an optimizer step, and the plan of the run is one pass over it.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        max_steps=-1,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        average_tokens_across_devices=False,
        optim=training.optimizer,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_epsilon=training.adam_epsilon,
        max_grad_norm=training.max_grad_norm,
        lr_scheduler_type=_SCHEDULES[training.schedule],  # for trackers: `TreeTrainer.create_scheduler` makes ours
        label_smoothing_factor=0.0,
        # Precision: `TreeModel` runs its products by training.precision
        bf16=bf16_weights,
        fp16=False,
        # Logs and checkpoints
        logging_strategy="steps",
        logging_steps=training.log_steps,
        logging_nan_inf_filter=False,
        report_to=list(training.report_to) or "none",
        run_name=run_name(training),
        **({"project": training.project} if training.project else {}),
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=None,
        save_only_model=False,
        load_best_model_at_end=False,
        push_to_hub=False,
        ddp_timeout=_collective_seconds(training),
        eval_strategy="no",
    )


def _collective_seconds(training: TrainingConfig) -> int:
    """The time-out of a collective operation: longer than the watchdog's, which writes the stacks of all processes.

    So a process may wait for one that writes a large model as long as `training.watchdog_minutes` allows.
    """
    return max(_USUAL_TIMEOUT, math.ceil(60 * (training.watchdog_minutes or 0)) + _AFTER_THE_WATCHDOG)


def training_arguments(training: TrainingConfig, model: ModelConfig) -> TrainingArguments:
    """The arguments of a trainer. Make them before the model: they shard its weights under ZeRO-3.

    Rank zero also claims the output folder here, before anything is loaded or written: see `claim_output`.
    Raises ConfigError for settings, launchers and machines on which the run could not work.
    """
    begin_clock(training.output_dir)  # the start-up of the run is measured from here at the latest
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
    if model.dtype == "bfloat16" and model.lora is None and training.save_dtype == "float32":
        what = "is float32, and the trained weights are bfloat16: the files would only be twice as large"
        raise ConfigError("training.save_dtype", what, "Set it to auto or bfloat16")
    require_rows_of_one_process(os.environ)
    if sharded:
        require_zero_3()
    if sharded and os.environ.get("DS_ACCELERATOR") == "cpu" and sys.platform == "linux":
        prepare_extension()
    require_usable(training.optimizer, gpu=torch.cuda.is_available(), sharded=sharded)
    if sharded:
        require_one_optimizer(training)
    claim_output(training.output_dir, model.path)
    renew_store()
    if "TORCHELASTIC_RUN_ID" in os.environ and "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" not in os.environ:
        log.info(
            "after Ctrl-C or SIGTERM the launcher leaves 30 s to save a checkpoint; for a large model, set the "
            "environment variable TORCH_ELASTIC_SHUTDOWN_TIMEOUT to more seconds before you start it"
        )
    arguments = mapped(training, bf16_weights=sharded and model.dtype == "bfloat16")
    require_groups(training.sequence_parallel, arguments.world_size, zero3=sharded)
    if model.quantization is not None:
        require_quantized_training(model)
    if arguments.n_gpu > 1:
        what = f"one process sees {arguments.n_gpu} GPUs, and transformers would copy the model to each"
        how = "Start it with accelerate launch --config_file recipes/launch/zero3.yaml, or set CUDA_VISIBLE_DEVICES=0"
        raise ConfigError("launch", what, how)
    return arguments
