"""A model and how it is loaded: checkpoint, chat protocol, adapters; and the environment of its tools."""

from __future__ import annotations

import re
from datetime import date
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from align.config import Section
from align.settings.paths import InputPath


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
    for each prompt and each branch; works on CPU and GPU. flex: one FlexAttention call per layer; requires a GPU,
    where `make gpu` says which of the two is faster."""
    lora: LoRAConfig | None = None
    """Train low-rank adapters. None trains all weights."""
    quantization: Literal["nf4"] | None = None
    """nf4: the frozen weights are stored in 4 bits (QLoRA, arXiv:2305.14314). Training then requires `model.lora`.
    Requires bitsandbytes."""

    def libraries(self) -> dict[str, str]:
        return {} if self.quantization is None else {"bitsandbytes": "qlora"}

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
