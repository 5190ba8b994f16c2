"""The sections of a config that more than one recipe or stage reads, in one place.

They are apart from the code that reads them so that `--help` and a bad config are answered without importing torch.
A value that the Llama 3 paper gives is the default, and says so (P = arXiv:2407.21783, L2 = Llama 2, arXiv:2307.09288).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from align.config import Section
from align.config_values import usable_path
from align.errors import ConfigError
from align.optional import install, is_installed
from align.rows import STRONG_LEVELS, Level

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


class Source(Section):
    """Where records are read from: files, a folder of `datasets.save_to_disk`, or a dataset on the Hub.

    Read by `align/records/`. A path alone may be written as text; the other settings need this section.
    """

    path: Annotated[str, BeforeValidator(_path_text), INPUT] = Field(min_length=1)
    """A file (JSONL, JSON array, CSV, TSV, Parquet; each text form also as .gz), a pattern such as rows/*.jsonl, a
    folder, owner/name of a dataset on the Hub, or hf://datasets/owner/name/file. See docs/formats.md."""
    split: str | None = None
    """Which split of a folder or Hub dataset. None where there is only one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    name: str | None = None
    """Configuration of a Hub dataset, such as `main`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name of a column -> its name in the records, such as {prompt: question}."""
    ignore_columns: tuple[str, ...] = ()
    """Columns of the records to leave out."""
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
"""One place that records are read from: a path, or a section with split, columns and so on."""

InputSources = Annotated[
    Annotated[InputPath, Tag("<path>")]
    | Annotated[Source, Tag("<section>")]
    | Annotated[tuple[InputSource, ...], AfterValidator(_not_empty), Tag("<list>")],
    Discriminator(_form_of_source),
]
"""One source of records, or a list of them."""


class BadRows(Section):
    """What happens to records that cannot be used. A part of every config that reads records."""

    bad_rows: Literal["stop", "drop"] = "stop"
    """stop: a record that cannot be read ends the run, with file, line, field and reason. drop: it is dropped, and
    counted by its reason."""


class Reading(BadRows):
    """What happens to records that become rows. A part of every config that reads rows."""

    duplicates: Literal["drop", "keep", "error"] = "drop"
    """Exact repeats of a row. drop: counted and dropped. keep: kept, under ids of their own. error: the run ends."""
    ignore_columns: tuple[str, ...] = ()
    """Columns to leave out, of the records of every source. Any other column that is neither read nor known to be
    harmless (docs/formats.md) makes its record a bad row."""


class LoRAConfig(Section):
    """Low-rank adapters, trained in place of the weights (LoRA, arXiv:2106.09685). Read by `align/models/adapters.py`.

    What it leaves behind is an adapter folder as peft writes it; `recipes/merge.py` makes a whole model of it.
    """

    rank: int = Field(16, gt=0, le=65_536)
    """Rank of each adapter. A linear layer of m inputs and n outputs trains rank * (m + n) numbers."""
    alpha: int = Field(32, gt=0, le=1_000_000)
    """What the adapter adds is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped while training. DPO that trains an adapter on requires 0: its
    proof at step 0 compares policy and reference."""
    targets: Literal["all-linear"] | tuple[str, ...] = Field("all-linear", min_length=1)
    """all-linear: every linear layer of the trunk (QLoRA, arXiv:2305.14314, section 4); or the layers' names, such as
    [q_proj, v_proj]. Never the output head; a reward model's score head is trained whole."""
    first_layer: int = Field(0, ge=0)
    """Adapters are added to this decoder layer and to those above it; the layers below stay as they are."""


class ModelConfig(Section):
    """A checkpoint folder or Hub name, and how to load it."""

    path: InputPath
    """A Hugging Face folder, or a name on the Hub. Local folders are used as they are. A peft adapter folder is
    loaded over the base that it names: with lora its adapter is trained on, without it is merged in memory."""
    revision: str | None = None
    """A branch, tag or commit of a Hub name; None for its main branch. A commit always gives the same weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the weights are held in. auto: float32 for a model that is trained (they are the master weights, whatever
    training.precision says); for one that samples or scores bfloat16 if this machine computes with it and is faster
    with it, else float32 (`align/precision.py`)."""
    chat: Literal["auto", "chatml", "llama3"] = "auto"
    """The chat protocol. auto goes by the tokenizer's control tokens, and refuses a checkpoint whose own chat template
    writes dialogs in another way; a protocol named here replaces such a template."""
    call_syntax: Literal["hermes", "json", "function_tag", "python_list"] | None = None
    """How tool calls are written. Where none is named: as the checkpoint's template says if a training here has saved
    it, else the protocol's own way: chatml hermes, llama3 json."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more time."""
    attention: Literal["segments", "flex"] = "segments"
    """How packed trees attend; the values are the same. segments: PyTorch's attention, prompt by prompt and branch by
    branch, on CPU and GPU. flex: one FlexAttention call per layer; faster, requires a GPU."""
    lora: LoRAConfig | None = None
    """None trains every weight."""
    quantization: Literal["nf4"] | None = None
    """nf4: the frozen weights are held in 4 bits (QLoRA, arXiv:2305.14314). Training requires lora;
    both require bitsandbytes."""


class EnvironmentConfig(Section):
    """The system lines and results of a dialog with tools. Read by `align/chat/system_prompt.py`."""

    ipython: bool = True
    """Write `Environment: ipython`: the code interpreter and the built-in tools are on (Llama 3)."""
    built_in: tuple[Literal["brave_search", "wolfram_alpha"], ...] = ()
    """The built-in tools that the `Tools:` line names; the code interpreter is never listed."""
    knowledge_cutoff: str | None = Field(None, pattern=r"^[^\r\n]+$")
    """Such as `December 2023`; no line where none is given."""
    today: str | None = Field(None, pattern=r"^[^\r\n]+$")
    """Such as `21 September 2024`; no line where none is given. Never the clock's date."""
    instructions: str = ""
    """What follows the lines."""
    max_result_characters: int = Field(8000, ge=100)
    """A longer tool result is cut in its middle, with a mark that says by how much."""

    @model_validator(mode="after")
    def _tools_need_the_environment(self) -> Self:
        if self.built_in and not self.ipython:
            raise ValueError("built_in tools are named, and ipython, which turns them on, is false")
        return self


class TreeDataConfig(Reading):
    """Rows to train on, and how they become packed rows."""

    path: InputSources
    """Rows: a file, a Hub dataset, or a list of them; each may be a section {path, split, columns, weight, ...}."""
    token_budget: int = Field(4096, gt=0, le=100_000_000)
    """Tokens in one packed row, per process. Memory grows with it; results do not change."""
    over_budget: Literal["drop", "alone", "error"] = "drop"
    """A row whose prompt and completions together are larger than token_budget is dropped and counted, makes a packed
    row of its own that is larger than the budget, or ends the run with its name. It is never cut."""
    max_prompt_tokens: int = Field(4096, gt=0, le=100_000_000)
    """A row with a longer prompt is dropped, and counted."""
    max_completion_tokens: int = Field(2048, gt=0, le=100_000_000)
    """A row with a longer completion is dropped, and counted. Never cut: one without its end teaches not to stop."""
    limit: int | None = Field(None, gt=0)
    """Train on this many rows, a seeded choice among all records before any is dropped; None for all."""


class PreferenceDataConfig(TreeDataConfig):
    """Preference rows to train on."""

    levels: tuple[Level, ...] = STRONG_LEVELS
    """Graded rows are kept at these levels (P 4.2.1); rows without a level are kept."""


class TrainingConfig(Section):
    """The optimizer and the run. `align/trainers/arguments.py` maps it onto transformers.TrainingArguments."""

    output_dir: OutputPath
    """The folder of the finished model, in plain Hugging Face format; of checkpoint-N/ folders while it trains."""
    learning_rate: float = Field(1e-5, gt=0, le=1)
    """Peak. P 4.1.3 and 4.1.4: 1e-5 for SFT and DPO of the largest models."""
    batch_size: int = Field(64, gt=0, le=1_000_000)
    """Rows in one optimizer step, over all processes. How they are packed and spread does not change the result."""
    epochs: float = Field(1.0, gt=0, le=10_000)
    """Passes over the rows. L2: 2 for SFT, 1 for the reward model."""
    max_steps: int | None = Field(None, gt=0, le=1_000_000_000)
    """Stop after this many optimizer steps, whatever epochs says."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warm-up: cosine to min_learning_rate_ratio, linear to 0, constant not at all.
    The end is reached just after the last step, so no step has the rate 0. See `align/trainers/schedules.py`."""
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    """Ratio of warm-up steps, in which the learning rate rises, to all steps; rounded up to whole steps. L2: 0.03."""
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1)
    """Ratio of the learning rate at the end of cosine to the peak. L2: 0.1."""
    weight_decay: float = Field(0.1, ge=0, le=10)
    """AdamW's. L2: 0.1."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients with a larger norm are scaled to it. L2: 1.0."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: matrix products in bfloat16 over float32 weights; losses and log-probabilities stay float32. auto: bf16 on
    a GPU that supports it, and on a CPU that has the instructions and is faster with them in a trial of half a second;
    else fp32. A run that is continued keeps what it began with."""
    save_steps: int = Field(100, gt=0, le=1_000_000_000)
    """Optimizer steps between two resumable checkpoints. A smaller number loses less work when a run is interrupted."""
    keep_checkpoints: int = Field(2, ge=2)
    """How many verified checkpoints stay on disk while the run goes: two, so that one may turn out damaged. Their
    optimizer states are deleted when it is finished."""
    log_steps: int = Field(1, gt=0, le=1_000_000_000)
    """Optimizer steps between two lines of metrics."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers in addition to metrics.jsonl, which is always written: one name or a list. Each is an extra of the same
    name: `pip install 'align-post-training[tensorboard]'`."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Data order and everything else that is random."""
    threads: int | None = Field(None, gt=0)
    """CPU threads of each process; None leaves torch's choice."""
    checks: bool = True
    """Before the first update check, in a few forward passes, that completions end with a trained terminator, that
    packed rows have the values of each completion alone and of the model's own forward pass, that scores are finite,
    and that DPO begins at margin 0. The run stops if a check fails. Checks do not change the result."""

    @field_validator("report_to")
    @classmethod
    def _trackers_are_installed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not is_installed(name):
                raise ConfigError("training.report_to", f"the tracker {name} is not installed", install(name))
        return names


class SFTConfig(Section):
    """Supervised fine-tuning. Read by `align/trainers/sft.py`."""

    train_on: Literal["final", "all"] = "final"
    """final: the messages after the last user message are the target (P table 7); all: every assistant message is."""


class RewardConfig(Section):
    """The reward model's objective. Read by `align/trainers/reward.py`. The paper has neither option (P 4.1.2)."""

    centering: float = Field(0.0, ge=0)
    """Weight of (r_better + r_worse)**2, which draws scores to 0 on the mean; 0 for none. Eisenstein et al. 2023
    (arXiv:2312.09244); 0.01 is the usual start."""
    margins: dict[Level, float] = Field(default_factory=dict)
    """Level -> by how many log-odds chosen should beat rejected, such as {significantly better: 1, better: 0.67} (L2
    eq. 2 and table 27, up to 1 or up to 3). An edited completion is asked to beat the rejected one by it too; by
    how much it should beat the chosen one is not graded. Levels without an entry, and rows without a level, ask for
    0."""

    @field_validator("margins")
    @classmethod
    def _margins_are_not_negative(cls, margins: dict[Level, float]) -> dict[Level, float]:
        for level, margin in margins.items():
            if not 0 <= margin < float("inf"):
                raise ValueError(f"the margin of {level!r} must be 0 or above, got {margin}")
        return margins


class DPOConfig(Section):
    """The objective on pairs: DPO as the paper has it, or one of its kin. Read by `align/trainers/dpo.py`."""

    loss: Literal["sigmoid", "ipo", "length_normalized", "simpo"] = "sigmoid"
    """sigmoid: DPO (P 4.1.4). ipo: a squared distance to 1 / (2 beta) nats, on summed logps as its paper writes it.
    length_normalized: DPO on per-token means, of policy and reference (Tulu 3). simpo: on the policy's means, with no
    reference and no reference pass."""
    beta: float = Field(0.1, gt=0)
    """Weight of the pull towards the reference, per nat. Larger keeps the policy closer. P 4.1.4: 0.1. Other losses
    have other scales: length_normalized 5 (Tulu 3, arXiv:2411.15124), simpo 2.0 to 2.5 (arXiv:2405.14734), ipo the
    tau of its paper (arXiv:2310.12036)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of the pairs taken to be labelled the wrong way round (Mitchell's conservative DPO). Read by the losses
    sigmoid and length_normalized."""
    simpo_gamma: float | None = Field(None, ge=0)
    """Margin, in log-odds, from which a pair is taken as won. Required by simpo, whose paper has 0.3 to 1.6; read
    by no other loss."""
    nll_coefficient: float = Field(0.2, ge=0)
    """Weight of the negative log-likelihood of the chosen completion. P 4.1.4: 0.2."""
    nll_normalization: Literal["sequence_mean", "token_mean", "sequence_sum"] = "sequence_mean"
    """sequence_mean: each completion's mean over its tokens, then the mean over pairs (the paper does not say which);
    token_mean: over all the batch's tokens at once; sequence_sum: each completion's sum, then the mean over pairs."""
    mask_format_tokens: bool = True
    """Leave header and terminator tokens out of the contrast, in chosen and rejected (P 4.1.4). The NLL keeps the
    terminator either way."""
    reference_cache: Path | None = None
    """Folder of the reference's log-probabilities, with a folder for each key (weights, precision, rows, masks); None
    for `<output_dir>/reference`. Runs that share it, such as a sweep over beta, take the reference pass once."""
    reference_shard_steps: int = Field(20, gt=0)
    """Optimizer steps' worth of rows in one file of the cache. A crash in the reference pass loses at most one of them
    for each process."""

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


class SamplingConfig(Section):
    """How completions are sampled."""

    temperature: float = Field(1.0, ge=0, le=100)
    """0 takes the likeliest token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the likeliest tokens that make up this share."""
    max_completion_tokens: int = Field(256, gt=0, le=100_000_000)
    """Completions are stopped here, and marked unfinished."""
    batch_size: int = Field(64, gt=0, le=1_000_000)
    """Completions decoded side by side."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the generator's weights are held in. auto as in training.precision: bfloat16 where it is faster."""
    threads: int | None = Field(None, gt=0)
    """CPU threads; None leaves torch's choice."""


class HubConfig(Section):
    """Where a checkpoint goes on the Hugging Face Hub. The token comes from the environment (HF_TOKEN) only."""

    repo: str = Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    """owner/name."""
    push: bool = False
    """False prints what would go."""
    private: bool = True
    """Whether a repository that is made for this is private."""


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
