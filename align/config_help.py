"""The text of `--help`: every setting with its type, default and meaning, and the papers that the text cites.

It knows pydantic models and nothing of YAML or command lines, which are in `align/config.py`.
"""

from __future__ import annotations

import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from align.config_values import held_by, holder_of, kinds_of

WIDTH = 120

PAPERS = {
    r"\bLlama 3(?!\.\d)\b": "Llama 3: The Llama 3 Herd of Models. Llama Team, 2024. arXiv:2407.21783.",
    r"\bLlama 2\b": ("Llama 2: Open Foundation and Fine-Tuned Chat Models. Touvron et al., 2023. arXiv:2307.09288."),
    r"2106\.09685|\bLoRA\b": "LoRA: Low-Rank Adaptation of Large Language Models. Hu et al., 2021. arXiv:2106.09685.",
    r"2305\.14314|\bQLoRA\b": "QLoRA: Efficient Finetuning of Quantized LLMs. Dettmers et al., 2023. arXiv:2305.14314.",
    r"2402\.09353|\bDoRA\b": "DoRA: Weight-Decomposed Low-Rank Adaptation. Liu et al., 2024. arXiv:2402.09353.",
    r"2203\.05482": (
        "Model soups: Averaging Weights of Multiple Fine-Tuned Models Improves Accuracy without Increasing Inference "
        "Time. Wortsman et al., 2022. arXiv:2203.05482."
    ),
    r"2312\.03732|\brsLoRA\b": (
        "rsLoRA: A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA. Kalajdzievski, 2023. arXiv:2312.03732."
    ),
    r"2305\.18290|\bRafailov\b|\bDPO\b": (
        "DPO: Direct Preference Optimization: Your Language Model is Secretly a Reward Model. Rafailov et al., 2023. "
        "arXiv:2305.18290."
    ),
    r"2310\.12036|\bipo\b|\bIPO\b": (
        "IPO: A General Theoretical Paradigm to Understand Learning from Human Preferences. Azar et al., 2023. "
        "arXiv:2310.12036."
    ),
    r"2411\.15124|\bTulu 3\b": (
        "Tulu 3: Pushing Frontiers in Open Language Model Post-Training. Lambert et al., 2024. arXiv:2411.15124."
    ),
    r"2405\.14734|\bsimpo\b|\bSimPO\b": (
        "SimPO: Simple Preference Optimization with a Reference-Free Reward. Meng et al., 2024. arXiv:2405.14734."
    ),
    r"\bMitchell\b": "Mitchell: A Note on DPO with Noisy Preferences and Relationship to IPO. Eric Mitchell, 2023.",
    r"2312\.09244|\bEisenstein\b": (
        "Eisenstein: Helping or Herding? Reward Model Ensembles Mitigate but do not Eliminate Reward Hacking. "
        "Eisenstein et al., 2023. arXiv:2312.09244."
    ),
    r"2305\.16264": "Scaling Data-Constrained Language Models. Muennighoff et al., 2023. arXiv:2305.16264.",
    r"2308\.07074|\bInsTag\b": (
        "InsTag: Instruction Tagging for Analyzing Supervised Fine-tuning of Large Language Models. Lu et al., 2023. "
        "arXiv:2308.07074."
    ),
    r"2308\.01825|\bYuan\b": (
        "Yuan: Scaling Relationship on Learning Mathematical Reasoning with Large Language Models. Yuan et al., 2023. "
        "arXiv:2308.01825."
    ),
    r"\bBFCL\b": "BFCL: The Berkeley Function Calling Leaderboard. Patil et al., 2025. gorilla.cs.berkeley.edu.",
    r"\bNQ-open\b": (
        "NQ-open: Natural Questions (Kwiatkowski et al., 2019), the questions with short answers. Lee et al., 2019. "
        "arXiv:1906.00300."
    ),
}
"""How a citation looks in the text of a setting (a regular expression) -> the line that explains it."""


class Setting(NamedTuple):
    """One setting as `--help` and the configuration reference show it."""

    key: str
    """Dotted; `<name>` and `<number>` stand for the keys of a mapping and the places of a list."""
    type: str
    required: bool
    default: str
    """As a YAML file would have it; empty if the setting is required."""
    text: str
    """Its documentation."""

    def lines(self) -> list[str]:
        """The setting as `--help` prints it."""
        head = f"{self.key} ({self.type}, {'required' if self.required else f'default {self.default}'})"
        text = [line.strip() for line in self.text.strip().splitlines()]
        return [
            *textwrap.wrap(head, WIDTH, initial_indent="  ", subsequent_indent="      ", break_long_words=False),
            *(f"      {line}" for line in text),
        ]


def settings_of(section: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Every setting of a section and of the sections inside it, in the order of their definition."""
    for name, field in section.model_fields.items():
        kinds = kinds_of(field.annotation)
        holder = holder_of(kinds)
        # a path or a section with a path in it is one setting, whose type names the section's keys
        is_plain = Path in kinds or (holder is not None and Path in kinds_of(held_by(holder)))
        inner = None if is_plain else model_in(kinds)
        if inner is not None:
            yield from settings_of(inner, f"{prefix}{name}.")
            continue
        inner = model_in(kinds_of(held_by(holder))) if holder and not is_plain else None
        if inner is not None:
            each = "<name>" if typing.get_origin(holder) is dict else "<number>"
            yield from settings_of(inner, f"{prefix}{name}.{each}.")
            continue
        default = "" if field.is_required() else as_yaml(field.get_default(call_default_factory=True))
        kind = type_name(field.annotation)
        yield Setting(f"{prefix}{name}", kind, field.is_required(), default, field.description or "")


def model_in(kinds: list[Any]) -> type[BaseModel] | None:
    """The pydantic model among the kinds of an annotation, as `kinds_of` gives them."""
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def papers_cited(text: str) -> list[str]:
    """One line for each paper that `text` cites, in the order of PAPERS.

    For example "Start from 0.1 (Llama 3, section 4.1.4)." gives the line of The Llama 3 Herd of Models.
    """
    return [paper for pattern, paper in PAPERS.items() if re.search(pattern, text)]


def type_name(annotation: Any) -> str:
    """The type of a setting in the words of a config file: `float`, `auto | fp32 | bf16`, `list[path]`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(type_name, arguments)))
    if origin is typing.Literal:
        return " | ".join(map(as_yaml, arguments))
    if origin in (tuple, list):
        return f"list[{', '.join(type_name(argument) for argument in arguments if argument is not ...)}]"
    if origin is dict:
        return f"mapping[{type_name(arguments[0])}: {type_name(arguments[1])}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        names = list(annotation.model_fields)
        return f"{{{', '.join(names if len(names) <= 3 else [*names[:2], '...'])}}}"
    words = {type(None): "null", str: "text", Path: "path"}
    return words.get(annotation) or str(getattr(annotation, "__name__", annotation))


def as_yaml(value: Any) -> str:
    """A default as a YAML file would have it: `null`, `true`, `[a, b]`; an empty text as ''."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{as_yaml(key)}: {as_yaml(item)}' for key, item in value.items())}}}"
    if value is None or isinstance(value, bool):
        return str({None: "null", True: "true", False: "false"}[value])
    is_plain = not isinstance(value, str) or (value and value == value.strip() and "\n" not in value)
    return str(value) if is_plain else repr(value)
