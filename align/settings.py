"""The sections of a config that more than one recipe or stage reads, in one place.

They are apart from the code that reads them so that `--help` and a bad config are answered without importing torch.
A value that the paper on Llama 3 (arXiv:2407.21783) gives is the default, and the setting names the section. "Llama 2"
is arXiv:2307.09288. `--help` explains both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from align.config import Section
from align.config_values import usable_path
from align.optimizers import OPTIMIZERS, require_supported
from align.rows import STRONG_LEVELS, Level
from align.trackers import TrackerName, require_trackers

INPUT = "input"
OUTPUT = "output"

InputPath = Annotated[Path, INPUT]
"""A path that a stage reads: rounds take its content into the stage's key."""

OutputPath = Annotated[Path, OUTPUT]
"""A path that a stage makes: rounds leave it out of the stage's key."""


def _path_text(value: Any) -> Any:
    """A path as text, and a home folder written out; an address stays what it is."""
    if not isinstance(value, str | Path):
        return value
    return str(value) if "://" in str(value) else usable_path(str(value))


class RoundSelection(Section):
    """Which rounds of post-training rows are read of. Read by `align/records/selection.py`."""

    up_to: int = Field(ge=0)
    """Rows of this round and of all earlier ones. In a file of rounds: `"{round}"`."""
    latest: int | None = Field(None, gt=0)
    """Of these, rows of the last rounds only: with up_to 5, `latest: 2` reads rounds 4 and 5. None for all."""

    def __contains__(self, number: int) -> bool:
        return number <= self.up_to and (self.latest is None or number > self.up_to - self.latest)

    def __str__(self) -> str:
        """`up to 5`, `4 to 5` or `5`."""
        first = 0 if self.latest is None else max(0, self.up_to - self.latest + 1)
        if self.latest is None:
            return f"up to {self.up_to}"
        return f"{self.up_to}" if first == self.up_to else f"{first} to {self.up_to}"


class Source(Section):
    """Where records are read from: files, a folder of `datasets.save_to_disk`, or a dataset on the Hub.

    Read by `align/records/`. A path alone may be written as text; the other settings need this section.
    """

    path: Annotated[str, BeforeValidator(_path_text), INPUT] = Field(min_length=1)
    """A file (JSONL, JSON array, CSV, TSV, Parquet; each text form also as .gz), a pattern such as rows/*.jsonl, a
    folder, owner/name of a dataset on the Hub, or hf://datasets/owner/name/file. See docs/formats.md."""
    split: str | None = None
    """Which split of a folder or Hub dataset, such as `train`. Required if there is more than one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    name: str | None = None
    """Configuration of a Hub dataset, such as `main`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Renames columns: this project's name -> the name in the records, such as {prompt: question}."""
    ignore_columns: tuple[str, ...] = ()
    """Columns of the records to ignore."""
    rounds: RoundSelection | None = None
    """Read only rows of these rounds, by their column `round`; a row without one is a bad row. What else the files hold
    does not count: a stage of a finished round is not run again when rows of a later round are appended. None for all
    rows."""
    batches: tuple[str, ...] = ()
    """Read only rows of these batches, by their column `batch`; a row without one is a bad row. Empty for all rows."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """How often each row is used: 2 repeats every row, 0.5 keeps a seeded half, 1.5 repeats a seeded half."""

    @model_validator(mode="before")
    @classmethod
    def _a_path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        theirs = list(self.columns.values())
        for name in theirs:
            if theirs.count(name) > 1:
                raise ValueError(f"columns names the column {name!r} twice")
            if name in self.ignore_columns:
                raise ValueError(f"the column {name!r} is both in columns and in ignore_columns")
        return self

    @property
    def is_selective(self) -> bool:
        """Whether only some of the records are read: those of certain rounds or batches."""
        return self.rounds is not None or bool(self.batches)


def _form_of_source(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "<list>"
    # pathlib would turn hf://datasets into hf:/datasets
    return "<section>" if isinstance(value, dict | Source) or "://" in str(value) else "<path>"


def _not_empty(sources: tuple[Any, ...]) -> tuple[Any, ...]:
    if not sources:
        raise ValueError("names no file; give at least one")
    return sources


InputSource = Annotated[
    Annotated[InputPath, Tag("<path>")] | Annotated[Source, Tag("<section>")],
    Discriminator(lambda value: "<path>" if (form := _form_of_source(value)) == "<list>" else form),
]
"""One source of records: a path, or a section with split, columns and other settings."""

InputSources = Annotated[
    Annotated[InputPath, Tag("<path>")]
    | Annotated[Source, Tag("<section>")]
    | Annotated[tuple[InputSource, ...], AfterValidator(_not_empty), Tag("<list>")],
    Discriminator(_form_of_source),
]
"""One source of records, or a list of them."""


class BadRows(Section):
    """What to do with records that cannot be used. Included in every config that reads records."""

    bad_rows: Literal["stop", "drop"] = "stop"
    """stop: a record that cannot be read ends the run with an error that names file, line, field and reason. drop: it
    is dropped and counted by its reason. Start with stop, to learn what is wrong with the data."""


class Reading(BadRows):
    """What to do with records that become rows. Included in every config that reads rows."""

    duplicates: Literal["drop", "keep", "error"] = "drop"
    """Exact repeats of a row. drop: they are dropped and counted. keep: they are kept, each with an id of its own.
    error: the run ends."""
    ignore_columns: tuple[str, ...] = ()
    """Columns to ignore in the records of every source. Any other column that is neither read nor known to be
    harmless (docs/formats.md) makes its record a bad row."""


class LoRAConfig(Section):
    """Low-rank adapters, trained in place of the weights (LoRA, arXiv:2106.09685). Read by `align/models/adapters.py`.

    The result is an adapter folder in peft's format; `recipes/merge.py` merges it into a complete model.
    """

    rank: int = Field(16, gt=0, le=65_536)
    """Rank of each adapter. For a linear layer with m inputs and n outputs, rank * (m + n) parameters are trained."""
    alpha: int = Field(32, gt=0, le=1_000_000)
    """The adapter's output is multiplied by alpha / rank. Usually once or twice the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability on an adapter's inputs during training. Use 0 when DPO continues training an existing
    adapter: with dropout, policy and reference would differ at step 0 and the sanity check would fail."""
    use_rslora: bool = False
    """Multiply the adapter's output by alpha / sqrt(rank) in place of alpha / rank, so that large ranks train as fast
    as small ones (rsLoRA, arXiv:2312.03732)."""
    use_dora: bool = False
    """Also train the magnitude of each output of a layer, apart from its direction (DoRA, arXiv:2402.09353). It is
    slower: each forward pass computes the norms of the adapted weights."""
    targets: Literal["all-linear"] | str | tuple[str, ...] = Field("all-linear", min_length=1)
    """Which layers get adapters, as peft's target_modules. all-linear: every linear layer except the output head
    (QLoRA, arXiv:2305.14314, section 4). A list of names, or of their endings: [q_proj, v_proj]. A regular expression
    that matches the whole name: `model\\.layers\\.[0-3]\\..*_proj`. The score head of a reward model is always trained
    in full."""
    exclude_modules: str | tuple[str, ...] = ()
    """Layers of `targets` that get no adapter: names or endings of them, or a regular expression."""
    layers_to_transform: tuple[int, ...] = ()
    """Decoder layers with adapters, counted from 0. Empty for all of them, or for those from `first_layer` on."""
    first_layer: int = Field(0, ge=0)
    """First decoder layer with adapters. Layers below it are not changed."""

    @field_validator("targets", "exclude_modules")
    @classmethod
    def _names_or_a_pattern(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) or value == "all-linear":
            return value
        if re.fullmatch(r"[\w.-]*", value):  # `q_proj` is a name; as an expression it would have to be the whole name
            return (value,) if value else ()
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression ({error})") from None
        return value

    @field_validator("layers_to_transform")
    @classmethod
    def _layers_are_counted_from_0(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if any(layer < 0 for layer in layers) or len(set(layers)) < len(layers):
            raise ValueError(f"names layers by their numbers from 0 on, each once, got {list(layers)}")
        return tuple(sorted(layers))

    @model_validator(mode="after")
    def _layers_are_chosen_once(self) -> Self:
        if self.first_layer and self.layers_to_transform:
            raise ValueError("first_layer and layers_to_transform both choose decoder layers; give one of them")
        by_number = "layers_to_transform" if self.layers_to_transform else "first_layer"
        if isinstance(self.targets, str) and self.targets != "all-linear" and getattr(self, by_number):
            raise ValueError(
                f"targets is a regular expression, which names the decoder layers itself; drop {by_number}"
            )
        return self


ChatName = Literal["auto", "native", "chatml", "llama3"]
"""Names of `align.chat.load_protocol`."""


class ModelConfig(Section):
    """A checkpoint folder or Hub name, and how to load it."""

    path: InputPath
    """A Hugging Face checkpoint folder, or a name on the Hub. A peft adapter folder is loaded together with the base
    model that it names: with `lora` set, training continues on its adapter; without, it is merged in memory."""
    revision: str | None = None
    """A branch, tag or commit of a Hub name; None for its main branch. A commit always gives the same weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of the weights. auto: float32 for a model that is trained, because these are the master weights
    whatever training.precision says; for a model that samples or scores, bfloat16 if this machine supports it and is
    faster with it, else float32 (`align/precision.py`)."""
    chat: ChatName = "auto"
    """The chat protocol. native: the tokenizer's own chat template, which is saved unchanged with the checkpoint; what
    it does to a message that is trained on is checked for each row (docs/chat_templates.md). chatml, llama3: a protocol
    of this project, which replaces the template; default system messages and dates of the old one are dropped. auto:
    native for a checkpoint that was trained with it; else chatml or llama3 by the tokenizer's control tokens, and a
    checkpoint whose own template writes other control tokens or role names is refused."""
    chat_template_kwargs: dict[str, bool | int | str] = Field(default_factory=dict)
    """Variables for the template of `chat: native`, such as {enable_thinking: false} for Qwen3. They are recorded in
    the checkpoint's tokenizer_config.json, and replace those of the same names that it records already; servers must be
    given the same ones."""
    chat_date: str | None = Field(None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    """The date, such as 2024-07-26, that the template of `chat: native` writes in place of today's. Required if it
    asks for the current date (Llama 3.2): the clock's date is never used."""
    call_syntax: Literal["hermes", "json", "function_tag", "python_list"] | None = None
    """How tool calls are written. None: the syntax of the checkpoint's template if it was saved by this project, or if
    chat is native; else the protocol's default, which is hermes for chatml and json for llama3."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass instead of storing its activations: less memory, about a third more
    time."""
    attention: Literal["segments", "flex"] = "segments"
    """How attention over packed trees is computed; the results are the same. segments: one call of PyTorch's attention
    for each prompt and each branch; works on CPU and GPU. flex: one FlexAttention call per layer; faster, requires a
    GPU."""
    lora: LoRAConfig | None = None
    """Train low-rank adapters. None trains all weights."""
    quantization: Literal["nf4"] | None = None
    """nf4: the frozen weights are stored in 4 bits (QLoRA, arXiv:2305.14314). Training then requires `model.lora`.
    Requires bitsandbytes."""

    @model_validator(mode="after")
    def _template_settings_are_read(self) -> Self:
        if self.chat in ("chatml", "llama3") and (self.chat_template_kwargs or self.chat_date):
            name = "chat_template_kwargs" if self.chat_template_kwargs else "chat_date"
            raise ValueError(f"{name} is for chat: native, and chat is {self.chat}")
        if self.chat_date is not None:
            try:
                date.fromisoformat(self.chat_date)
            except ValueError as error:
                raise ValueError(f"chat_date {self.chat_date} is no date: {error}") from None
        return self


class EnvironmentConfig(Section):
    """The system prompt and the tool results of a dialog with tools. Read by `align/chat/system_prompt.py`."""

    ipython: bool = True
    """Write the line `Environment: ipython`, which enables Llama 3's code interpreter and built-in tools. Set it to
    false for chatml."""
    built_in: tuple[Literal["brave_search", "wolfram_alpha"], ...] = ()
    """The built-in tools in the `Tools:` line. The code interpreter is never listed there."""
    knowledge_cutoff: str | None = Field(None, pattern=r"^[^\r\n]+$")
    """Such as `December 2023`. None writes no line."""
    today: str | None = Field(None, pattern=r"^[^\r\n]+$")
    """Such as `21 September 2024`. None writes no line; the clock's date is never used."""
    instructions: str = ""
    """Text after these lines."""
    max_result_characters: int = Field(8000, ge=100)
    """Longest tool result, in characters. The middle of a longer one is replaced by a note on how much was cut."""

    @model_validator(mode="after")
    def _tools_need_the_environment(self) -> Self:
        if self.built_in and not self.ipython:
            raise ValueError("built_in tools are named, and ipython, which turns them on, is false")
        return self


class TreeDataConfig(Reading):
    """Rows to train on, and how they are packed into batches."""

    path: InputSources
    """Rows: a file, a Hub dataset, or a list of them; each may be a section {path, split, columns, weight, ...}."""
    token_budget: int = Field(4096, gt=0, le=100_000_000)
    """Tokens in one packed row, per process. Memory grows with it; the results do not change. Use the largest value
    that fits into memory."""
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
    save_steps: int = Field(100, gt=0, le=1_000_000_000)
    """Optimizer steps between two resumable checkpoints. A smaller number loses less work when a run is interrupted."""
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
    checks: bool = True
    """Before the first update check, in a few forward passes, that completions end with a trained terminator, that
    packed rows have the values of each completion alone and of the model's own forward pass, that scores are finite,
    and that DPO begins at margin 0. The run stops if a check fails. Checks do not change the result."""

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


class SFTConfig(Section):
    """Supervised fine-tuning. Read by `align/trainers/sft.py`."""

    train_on: Literal["final", "all"] = "final"
    """Which messages are trained on. final: those after the last user message (Llama 3, table 7). all: every message of
    the assistant."""


class RewardConfig(Section):
    """The reward model's objective. Read by `align/trainers/reward.py`. Llama 3 has neither option (section 4.1.2)."""

    centering: float = Field(0.0, ge=0)
    """Weight of (r_better + r_worse)**2, which moves the mean score towards 0. 0 disables it; 0.01 is a usual start
    (Eisenstein et al. 2023, arXiv:2312.09244)."""
    margins: dict[Level, float] = Field(default_factory=dict)
    """Level -> target margin in log-odds between chosen and rejected, such as {significantly better: 1, better: 0.67}
    (Llama 2, equation 2 and table 27, up to 1 or up to 3). It is also the target margin between an edited and the
    rejected completion; between an edited and the chosen one there is none. Levels without an entry, and rows without a
    level, have the target 0."""

    @field_validator("margins")
    @classmethod
    def _margins_are_not_negative(cls, margins: dict[Level, float]) -> dict[Level, float]:
        for level, margin in margins.items():
            if not 0 <= margin < float("inf"):
                raise ValueError(f"the margin of {level!r} must be 0 or above, got {margin}")
        return margins


class DPOConfig(Section):
    """The objective on pairs: DPO as in the Llama 3 paper, or a variant. Read by `align/trainers/dpo.py`."""

    loss: Literal["sigmoid", "ipo", "length_normalized", "simpo"] = "sigmoid"
    """sigmoid: DPO, as in Llama 3. ipo: a squared distance to 1 / (2 beta) nats, on summed logps as its paper writes
    it. length_normalized: DPO on per-token means, of policy and reference (Tulu 3). simpo: on the policy's means, with
    no reference and no reference pass."""
    beta: float = Field(0.1, gt=0)
    """Strength of the constraint to the reference, per nat. A larger value keeps the policy closer. Llama 3, section
    4.1.4: 0.1. Other losses have other scales: length_normalized 5 (Tulu 3, arXiv:2411.15124), simpo 2.0 to 2.5
    (arXiv:2405.14734), ipo the tau of its paper (arXiv:2310.12036)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Assumed fraction of pairs whose label is reversed (Mitchell's conservative DPO). Used by the losses sigmoid and
    length_normalized."""
    simpo_gamma: float | None = Field(None, ge=0)
    """Target margin of simpo, in log-odds. Required by simpo, whose paper uses 0.3 to 1.6; no other loss uses it."""
    nll_coefficient: float = Field(0.2, ge=0)
    """Weight of the negative log-likelihood of the chosen completion. Llama 3, section 4.1.4: 0.2."""
    nll_normalization: Literal["sequence_mean", "token_mean", "sequence_sum"] = "sequence_mean"
    """How the NLL is averaged. sequence_mean: the mean over each completion's tokens, then the mean over pairs (the
    paper does not specify it). token_mean: the mean over all tokens of the batch. sequence_sum: the sum over each
    completion's tokens, then the mean over pairs."""
    mask_format_tokens: bool = True
    """Leave header and terminator tokens out of the DPO loss, in chosen and rejected (Llama 3, section 4.1.4). The NLL
    always includes the terminator."""
    reference_cache: Path | None = None
    """Folder for the reference's log-probabilities, with one subfolder for each combination of weights, precision,
    rows and masks. None: `<output_dir>/reference`. Runs that share a folder, such as a sweep over beta, compute them
    once."""
    reference_shard_steps: int = Field(20, gt=0)
    """Optimizer steps whose rows one file of the cache contains. A crash in the reference pass loses at most one file
    per process."""

    @model_validator(mode="after")
    def _every_value_is_read(self) -> Self:
        if self.label_smoothing and self.loss not in ("sigmoid", "length_normalized"):
            raise ValueError(f"dpo.label_smoothing is {self.label_smoothing}, which the loss {self.loss} does not read")
        if self.loss == "simpo" and self.simpo_gamma is None:
            raise ValueError("the loss simpo requires dpo.simpo_gamma, which is missing; half of beta is a start")
        if self.loss != "simpo" and self.simpo_gamma is not None:
            raise ValueError(f"dpo.simpo_gamma is {self.simpo_gamma}, which the loss {self.loss} does not read")
        if self.loss == "simpo" and self.reference_cache is not None:
            raise ValueError("dpo.reference_cache is given, and the loss simpo has no reference")
        return self


class SamplingServerConfig(Section):
    """The servers that sample for `backend: server`. Read by `align/generation/server.py`; see docs/backends.md.

    `model` and the weights behind it decide what is sampled. The other settings, except for `max_model_len`, may differ
    between two starts of one run.
    """

    base_urls: tuple[str, ...] = Field(min_length=1)
    """Addresses of one or several servers with the OpenAI completions interface, such as http://node1:8000/v1. All must
    serve the same model; each request goes to the server with the fewest open requests."""
    model: str | None = Field(None, min_length=1)
    """The model's name at the servers. None: the name in model.path if a server has it, else the only one it has."""
    concurrency: int = Field(64, gt=0, le=100_000)
    """Requests that are open at the same time at each server. Use what the server runs in one batch (vLLM:
    max_num_seqs; llama.cpp: parallel)."""
    timeout_seconds: float = Field(600.0, gt=0)
    """A request without an answer after this time is sent again, to another server if there is one."""
    retries: int = Field(8, ge=0, le=1000)
    """How often a request is sent again after a lost connection, a timeout, or an answer 408, 425, 429 or 5xx. Waits
    grow from 0.5 to 30 seconds, or are what the server asks for. With the default a server may be away for about 90
    seconds."""
    max_model_len: int | None = Field(None, gt=0)
    """The longest prompt with its completion, in tokens. None: what the servers report (vLLM, llama.cpp)."""
    api_key_variable: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Name of the environment variable that contains the API key. None: no key is sent. The key itself is never part
    of a config."""

    @field_validator("base_urls")
    @classmethod
    def _addresses_are_complete(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url):
                raise ValueError(f"{url!r} is not an address such as http://localhost:8000/v1")
        roots = [url.rstrip("/").removesuffix("/v1") for url in urls]
        for url, root in zip(urls, roots, strict=True):
            if roots.count(root) > 1:
                raise ValueError(f"base_urls names {url} twice")
        return urls


class VLLMConfig(Section):
    """How vLLM runs for `backend: vllm`. Read by `align/generation/vllm.py`; see docs/backends.md.

    `sampling.dtype` is the type of the weights, and `sampling.batch_size` the most completions that are decoded at the
    same time.
    """

    tensor_parallel_size: int = Field(1, gt=0, le=1024)
    """GPUs over which the weights are spread. Process r of a launcher takes the r-th group of this many GPUs."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """The part of a GPU's memory that vLLM takes, for weights and cache. Lower it if other processes use the GPU."""
    max_model_len: int | None = Field(None, gt=0)
    """The longest prompt with its completion, in tokens. None: that of the model, which may need more memory for the
    cache than there is."""
    enforce_eager: bool = False
    """true: no CUDA graphs and no compilation. vLLM then starts faster, and samples more slowly."""


class SamplingConfig(Section):
    """How completions are sampled."""

    backend: Literal["local", "vllm", "server"] = "local"
    """What samples. local: transformers, in this process. vllm: vLLM, in this process; requires the extra `vllm`.
    server: one or several running servers with the OpenAI completions interface (vLLM, SGLang, llama.cpp), named in
    `server`. See docs/backends.md."""
    server: SamplingServerConfig | None = None
    """The servers of `backend: server`."""
    vllm: VLLMConfig | None = None
    """How vLLM runs, for `backend: vllm`. None: the defaults of this section."""

    temperature: float = Field(1.0, ge=0, le=100)
    """Sampling temperature. 0 is greedy decoding: the most likely token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: sample among the most likely tokens whose probabilities add up to this. 1 for all."""
    max_completion_tokens: int = Field(256, gt=0, le=100_000_000)
    """A completion ends after this many tokens, and is then marked as unfinished."""
    batch_size: int = Field(64, gt=0, le=1_000_000)
    """Completions that are decoded at the same time. Memory grows with it. Servers decide themselves; see
    server.concurrency."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of the generator's weights. auto: bfloat16 where it is faster, as for training.precision. A server
    decides itself."""
    threads: int | None = Field(None, gt=0)
    """CPU threads of this process. None leaves the choice to torch."""

    @model_validator(mode="after")
    def _the_backend_reads_its_settings(self) -> Self:
        if self.backend == "server" and self.server is None:
            raise ValueError("the backend server requires the section sampling.server, which is missing")
        if self.backend != "server" and self.server is not None:
            raise ValueError(f"sampling.server is given, which the backend {self.backend} does not read")
        if self.backend != "vllm" and self.vllm is not None:
            raise ValueError(f"sampling.vllm is given, which the backend {self.backend} does not read")
        # A server reads neither dtype, which rounds set in every section, nor batch_size, so that a config for another
        # backend needs one change only.
        if self.threads is not None and self.backend != "local":
            raise ValueError(f"sampling.threads is {self.threads}, which the backend {self.backend} does not read")
        return self

    def result_settings(self) -> dict[str, Any]:
        """The settings that completions depend on, for keys of results.

        Settings that change the speed only are left out. Those of the local backend are without `backend`, so that
        results that were made before there were other backends keep their keys.
        """
        left_out = {"batch_size", "threads", "server", "vllm"}
        left_out |= {"backend"} if self.backend == "local" else {"dtype"} if self.backend == "server" else set()
        values = self.model_dump(mode="json", exclude=left_out)
        if self.server is not None:
            values["server"] = self.server.model_dump(include={"model", "max_model_len"})
        if self.vllm is not None and self.vllm.max_model_len is not None:
            values["max_model_len"] = self.vllm.max_model_len
        return values


class HubConfig(Section):
    """Where a checkpoint or data set goes on the Hugging Face Hub, and what its card cannot know.

    The token comes from the environment (HF_TOKEN) only.
    """

    repo: str = Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    """The repository, as owner/name."""
    push: bool = False
    """false: print which files would be uploaded. true: upload them."""
    private: bool = True
    """Whether the repository is private if it has to be created."""
    branch: str = Field("", pattern=r"^(\w[\w.-]*)?$")
    """The branch of the repository that is uploaded to. Empty: `round-2` for what is in a folder of this name,
    otherwise the stage, such as `dpo`; `data` for rows."""
    tag: str = Field("", pattern=r"^(\w[\w.-]*)?$")
    """The tag of the complete upload, such as `v1.0`; an existing one is never moved. Empty: the branch and eight
    digits of a hash of the content, such as `round-2-1f3c9a2b`."""
    update_main: bool = False
    """true: main gets the same files, in one commit, when the tag is made. false: main stays as it is."""
    base_model: str = Field("", pattern=r"^$|^[\w.-]+/[\w.-]+$")
    """The Hub name of the model that training began from. Empty: found by following the checkpoint's manifest."""
    license: str = ""
    """The Hub's identifier of the licence, such as apache-2.0 or llama3.1. Empty: the strictest licence of base model
    and data; `other` if several apply, `unknown` if one is not known. A licence that is more permissive than that of
    the base model or the data is refused."""
    languages: tuple[str, ...] = ()
    """Languages of the data, as ISO 639 codes such as en."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Source of rows -> the Hub's identifier of its licence, for your own data."""

    @field_validator("branch")
    @classmethod
    def _main_is_not_uploaded_to(cls, value: str) -> str:
        if value == "main":
            raise ValueError("is main, which gets complete uploads only; leave branch out and set update_main: true")
        return value


BACKENDS: tuple[str, ...] = get_args(SamplingConfig.model_fields["backend"].annotation)


def backend_module(name: str) -> str:
    """The module of a backend: local -> align.generation.local."""
    # In parts, because code_of follows the names of modules that a file holds as text.
    return ".".join(("align", "generation", name))


def unused_backends(*values: Any) -> tuple[str, ...]:
    """The modules of the backends that no SamplingConfig in `values` chooses, for `code_of(without=...)`.

    values: sections, and tuples, lists and mappings of them, looked through to any depth. The local backend always
        counts as used, since it is what code without settings for sampling runs.
    """
    used = {"local", *_chosen_backends(values)}
    return tuple(backend_module(name) for name in BACKENDS if name not in used)


def _chosen_backends(value: Any) -> Iterator[str]:
    if isinstance(value, SamplingConfig):
        yield value.backend
    elif isinstance(value, Section):
        for name in type(value).model_fields:
            yield from _chosen_backends(getattr(value, name))
    elif isinstance(value, dict):
        yield from _chosen_backends(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _chosen_backends(item)


def paths_of(config: Section, kind: str) -> dict[str, Path]:
    """Dotted key -> path of every setting marked as INPUT or OUTPUT, through sections, tuples and dicts.

    An address such as hf://datasets/owner/name is left out: it is no path, and counts as the setting that it is.
    """
    found: dict[str, Path] = {}
    for name, field in type(config).model_fields.items():
        marked = kind in field.metadata or f"'{kind}'" in str(field.annotation)
        _collect_paths(getattr(config, name), name, kind, marked, found)
    return found


def _collect_paths(value: Any, key: str, kind: str, marked: bool, found: dict[str, Path]) -> None:
    if isinstance(value, Section):
        found.update({f"{key}.{inner}": path for inner, path in paths_of(value, kind).items()})
    elif isinstance(value, Path) and marked:
        found[key] = value
    elif isinstance(value, str) and marked and "://" not in value:
        found[key] = Path(value)
    elif isinstance(value, tuple | list):
        for place, item in enumerate(value):
            _collect_paths(item, f"{key}.{place}", kind, marked, found)
    elif isinstance(value, dict):
        for inner, item in value.items():
            _collect_paths(item, f"{key}.{inner}", kind, marked, found)
