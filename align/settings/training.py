"""Rows to train on, the optimizer and the training run, with validation."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from align.config import Section
from align.optimizers import OPTIMIZERS, require_supported
from align.rows import STRONG_LEVELS, Level
from align.settings.guards import GuardsConfig
from align.settings.paths import OutputPath
from align.settings.sources import InputSources, Reading
from align.trackers import TrackerName, require_trackers


class TreeDataConfig(Reading):
    """Rows to train on, and how they are packed into batches."""

    path: InputSources
    """Rows: a file, a Hub dataset, or a list of them; each may be a section {path, split, columns, weight, ...}."""
    token_budget: int = Field(4096, gt=0, le=100_000_000)
    """Tokens in one packed row, per process, or per group of processes that share rows (training.sequence_parallel).
    Memory grows with it; the results do not change. Use the largest value that fits into memory."""
    over_budget: Literal["drop", "alone", "error"] = "drop"
    """What to do with a row whose prompt and completions together have more than token_budget tokens. drop: it is
    dropped and counted. alone: it becomes a packed row of its own, larger than the budget. error: the run ends and
    names it. A row is never truncated."""
    max_prompt_tokens: int = Field(4096, gt=0, le=100_000_000)
    """A row with a longer prompt is dropped and counted."""
    max_completion_tokens: int = Field(2048, gt=0, le=100_000_000)
    """A row with a longer completion is dropped and counted. It is not truncated, because a completion without its end
    would teach the model not to stop."""
    limit: int | None = Field(None, gt=0)
    """Train on this many rows: a random choice, with a fixed seed, among all records before any is dropped. None for
    all."""
    eval_path: InputSources | None = None
    """Held-out rows for validation during training: the same kinds of sources and rows as data.path, read in the same
    way. Not trained on. See docs/validation.md."""
    eval_ratio: float | None = Field(None, gt=0, lt=1)
    """Hold out this ratio of the prompts of data.path for validation, by a hash of the first user message: all rows of
    one prompt are on the same side, and a prompt stays where it is when rows are added. Alternative to eval_path."""
    eval_limit: int | None = Field(None, gt=0)
    """Evaluate at most this many held-out rows: always the same ones, chosen by a hash. None for all. Rows that
    eval_ratio holds out are not trained on, whether they are evaluated or not."""
    encode_processes: int | None = Field(None, gt=0, le=4096)
    """Processes that turn rows into token ids, before the first step; the result is the same for any number. None: the
    CPUs that the first process may use, divided by the processes of the launcher on its machine, and fewer for few
    rows. `recipes/encode.py` does this before GPUs are held."""

    @property
    def has_eval_rows(self) -> bool:
        """Whether rows are held out for validation."""
        return self.eval_path is not None or self.eval_ratio is not None

    @model_validator(mode="after")
    def _one_source_of_eval_rows(self) -> Self:
        if self.eval_path is not None and self.eval_ratio is not None:
            raise ValueError("data.eval_path and data.eval_ratio are both set; held-out rows have one source")
        if self.eval_limit is not None and not self.has_eval_rows:
            raise ValueError("data.eval_limit is set, but there are no held-out rows: set eval_path or eval_ratio")
        return self


class PreferenceDataConfig(TreeDataConfig):
    """Preference rows to train on."""

    levels: tuple[Level, ...] = STRONG_LEVELS
    """Keep graded rows of these levels (Llama 3, section 4.2.1). Rows without a level are always kept."""


class TrainingConfig(Section):
    """The optimizer and the training run. `align/trainers/arguments.py` maps it onto transformers.TrainingArguments."""

    output_dir: OutputPath
    """Folder of the finished model, in Hugging Face format. During training it contains checkpoint-N/ folders."""
    learning_rate: float = Field(1e-5, gt=0, le=1)
    """Peak learning rate. Llama 3, sections 4.1.3 and 4.1.4: 1e-5 for SFT and DPO of the largest models."""
    batch_size: int = Field(64, gt=0, le=1_000_000)
    """Rows in one optimizer step, over all processes. How they are packed and spread does not change the result."""
    epochs: float = Field(1.0, gt=0, le=10_000)
    """Passes over the rows. Llama 2: 2 for SFT, 1 for the reward model."""
    max_steps: int | None = Field(None, gt=0, le=1_000_000_000)
    """Stop after this many optimizer steps, whatever epochs says."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warm-up: cosine to min_learning_rate_ratio, linear to 0, constant not at all.
    The end is reached just after the last step, so no step has the rate 0. See `align/trainers/schedules.py`."""
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    """Fraction of the steps in which the learning rate rises to its peak, rounded up to whole steps. Llama 2: 0.03."""
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1)
    """Learning rate at the end of the cosine schedule, as a fraction of the peak. Llama 2: 0.1."""
    optimizer: Literal[
        "adamw_torch_fused",
        "adamw_torch",
        "adafactor",
        "sgd",
        "adagrad",
        "rmsprop",
        "adamw_8bit",
        "adamw_bnb_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "lion_8bit",
        "lion_32bit",
        "paged_lion_8bit",
        "paged_lion_32bit",
        "ademamix",
        "ademamix_8bit",
        "paged_ademamix_32bit",
        "paged_ademamix_8bit",
        "rmsprop_bnb",
        "rmsprop_bnb_8bit",
        "rmsprop_bnb_32bit",
    ] = "adamw_torch_fused"
    """The optimizer, by its name in transformers. AdamW is that of Llama 2. adafactor and the 8-bit ones need less
    memory and disk space (docs/optimizers.md has a table). Those with 8bit, 32bit or bnb in their names and ademamix
    require bitsandbytes; paged ones require a GPU."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of the gradients, for Adam, Lion and AdEMAMix. Llama 2: 0.9."""
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the mean of the squared gradients, for Adam and AdEMAMix; for Lion of the stored mean. Llama 2: 0.95."""
    adam_epsilon: float = Field(1e-8, ge=0, le=1)
    """Added to the denominator of Adam's and AdEMAMix's update. 1e-8 is torch's default; Llama 2 used 1e-5."""
    weight_decay: float = Field(0.1, ge=0, le=10)
    """Weight decay. Llama 2: 0.1 with AdamW, which multiplies it by the learning rate and the weights; so do adafactor,
    Lion and AdEMAMix. sgd, adagrad and rmsprop add it to the gradient."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients with a larger norm are scaled to it. Llama 2: 1.0."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: matrix products in bfloat16 with float32 weights; losses and log-probabilities are computed in float32.
    auto: bf16 on a GPU that supports it, and on a CPU that has the instructions and is faster with them in a trial of
    half a second; else fp32. A run that is resumed keeps the precision that it began with."""
    sequence_parallel: int = Field(1, ge=1, le=1024)
    """This many neighboring processes share each packed row (sequence parallelism): each holds the activations of a
    part of its tokens, so rows can be that many times as long. Requires ZeRO-3, and a number that divides the processes
    and the attention heads. The results do not change. See docs/large-models.md."""
    save_steps: int = Field(100, gt=0, le=1_000_000_000)
    """Optimizer steps between two resumable checkpoints. A smaller number loses less work when a run is interrupted."""
    save_minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Also save a checkpoint after the step in which this many minutes since the last one have passed, on the clock of
    rank 0. With a large save_steps the time that saving takes is then bounded for models of any size. The result is the
    same; metrics.jsonl has a line for each such step."""
    keep_checkpoints: int = Field(2, ge=2)
    """How many verified checkpoints are kept during the run: at least two, in case one is damaged. Their optimizer
    states are deleted when the run is finished."""
    keep_optimizer: bool = False
    """Save a checkpoint after the last step, and keep its optimizer states when the run is finished, so that the run
    can be extended later with a larger `epochs` or `max_steps`. It has three times the size of the model in float32."""
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the finished model's files. auto: that of the trained weights, float32 in most runs. bfloat16 halves
    the size of such a model and rounds its weights. checkpoint-N folders are never rounded: a run that is resumed
    continues from exact weights."""
    log_steps: int = Field(1, gt=0, le=1_000_000_000)
    """Optimizer steps between two lines of metrics."""
    report_to: tuple[TrackerName, ...] = ()
    """Trackers in addition to metrics.jsonl, which is always written: one name or a list, of those that transformers
    knows. tensorboard, wandb, trackio and mlflow are extras: `pip install 'align-post-training[wandb]'`."""
    run_name: str | None = Field(None, min_length=1)
    """Name of the run in trackers. None: the last two parts of output_dir, such as `my/sft`."""
    project: str | None = Field(None, min_length=1)
    """Project of the run in trackers (the experiment in MLflow). None: the tracker's own environment variable, such as
    WANDB_PROJECT, or its default."""
    eval_steps: int | None = Field(None, gt=0, le=1_000_000_000)
    """Optimizer steps between two evaluations of the held-out rows (data.eval_path or data.eval_ratio); there is always
    one after the last step. None: at each checkpoint, every save_steps. A new best step is saved as a checkpoint even
    if save_steps does not name it, so a small value may write many checkpoints."""
    eval_on_start: bool = True
    """Evaluate the held-out rows before the first step, too: the values of the starting model."""
    metric_for_best_model: str = "loss"
    """Which held-out metric decides which step is the best, with or without `eval_` before it. SFT: loss. Reward model:
    loss, accuracy or margin. DPO: loss, dpo_loss, nll_loss, rewards/accuracies or rewards/margins. The checkpoint of
    the best step is kept."""
    load_best_model_at_end: bool = False
    """true: the finished model is that of the best step. false: it is that of the last step, and the checkpoint of the
    best step is kept next to it."""
    early_stopping_patience: int | None = Field(None, gt=0)
    """Stop after this many evaluations in a row without an improvement of metric_for_best_model. None: never."""
    early_stopping_threshold: float = Field(0.0, ge=0, allow_inf_nan=False)
    """An improvement over the best value so far counts for early_stopping_patience only if it is larger than this."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the data order and of everything else that is random."""
    threads: int | None = Field(None, gt=0)
    """CPU threads of each process. None leaves the choice to torch."""
    watchdog_minutes: float | None = Field(60, gt=0)
    """End the run if a process makes no progress for this long in a part of the start, a step, an evaluation or a save:
    the stack of every process is written to output_dir/stacks/, and the same command resumes. Set more than a save and
    more than verifying a checkpoint takes. None: a run that hangs waits for the time-out of its collective operations,
    or for ever."""
    slow_rank_factor: float = Field(1.5, gt=1)
    """Warn of a process whose own work in a step takes this many times as long as the median of all processes. Time in
    which it waits for the others does not count."""
    checks: bool = True
    """Before the first update check, in a few forward passes, that completions end with a trained terminator, that
    packed rows have the values of each completion alone and of the model's own forward pass, that scores are finite,
    and that DPO begins at margin 0. The run stops if a check fails. Checks do not change the result."""
    guards: GuardsConfig = GuardsConfig()
    """What is watched during training: faulty steps, probes for silent data corruption, alarms."""

    @field_validator("report_to")
    @classmethod
    def _trackers_are_installed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        require_trackers(names, "training.report_to")
        return names

    @field_validator("optimizer", mode="before")
    @classmethod
    def _optimizer_is_usable(cls, name: Any) -> Any:
        if isinstance(name, str):
            require_supported(name)
        return name

    @model_validator(mode="after")
    def _the_optimizer_reads_its_settings(self) -> Self:
        facts, fields = OPTIMIZERS[self.optimizer], type(self).model_fields
        unread = [*(() if facts.betas else ("adam_beta1", "adam_beta2")), *(() if facts.epsilon else ("adam_epsilon",))]
        for name in unread:
            value = getattr(self, name)
            if value != fields[name].default:
                raise ValueError(f"training.{name} is {value:g}, which the optimizer {self.optimizer} does not read")
        return self


EVAL_METRICS = {
    "sft": {"loss": False},
    "reward": {"loss": False, "accuracy": True, "margin": True},
    "dpo": {"loss": False, "dpo_loss": False, "nll_loss": False, "rewards/accuracies": True, "rewards/margins": True},
}
"""Stage -> metric that training.metric_for_best_model may name -> whether a larger value is better."""


def check_validation(stage: str, data: TreeDataConfig, training: TrainingConfig) -> None:
    """Raise ValueError for settings of validation that contradict each other or that nothing would read."""
    read_with_eval_rows = ("eval_steps", "metric_for_best_model", "load_best_model_at_end", "early_stopping_patience")
    for name in read_with_eval_rows:
        if not data.has_eval_rows and getattr(training, name) != TrainingConfig.model_fields[name].default:
            raise ValueError(
                f"training.{name} requires held-out rows, but there are none: set data.eval_path or data.eval_ratio"
            )
    if training.early_stopping_threshold and training.early_stopping_patience is None:
        raise ValueError(
            "training.early_stopping_threshold requires training.early_stopping_patience, which is missing"
        )
    metric = training.metric_for_best_model.removeprefix("eval_")
    if metric not in EVAL_METRICS[stage]:
        raise ValueError(
            f"training.metric_for_best_model is {training.metric_for_best_model!r}; "
            f"for this recipe it must be one of {', '.join(EVAL_METRICS[stage])}"
        )
