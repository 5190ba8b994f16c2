"""What is wrong with a config, as a message: the place, what was expected and found, and how to fix it.

pydantic reports a mistake by its own code and location. Here it becomes a `ConfigError` with file, line and dotted key,
and a suggestion: the nearest setting for an unknown key, the default or the documentation for a bad value.
"""

from __future__ import annotations

import difflib
import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from align.config_help import as_yaml, model_in, settings_of
from align.config_values import held_by, holder_of, kinds_of
from align.errors import AlignError, ConfigError
from align.strict_yaml import Key, parse_value

_EXPECTED = {  # pydantic's name of a mistake -> what its setting must be
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of `key: value`",
    "model_type": "a section of `key: value` lines",
    "path_type": "a path",
    "finite_number": "a finite number",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def mistake(place: Place, path: Path, where: dict[Key, str], detail: Any) -> ConfigError:
    """The message for one mistake.

    path: the config file. where: key -> "file:line" or "command line". detail: an entry of pydantic's `errors()`.
    """
    key = place.key
    dotted = ".".join(map(str, key))
    at = str(next((where[key[:n]] for n in range(len(key), 0, -1) if key[:n] in where), path))
    at += f": {dotted}" if dotted else ""  # a recipe that checks itself as a whole points at no key
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return ConfigError(at, "is not a setting", _nearest(place))
    if kind == "missing":
        how = f"Add it: {place.text}" if place.text else "Add it to the file"
        return ConfigError(at, "required, but missing", how)
    is_empty = place.default in (None, (), {}, "")
    how = (place.text or "See --help") if is_empty else f"Start from {as_yaml(place.default)}"
    if kind == "value_error":
        error = context.get("error", detail.get("msg"))
        if isinstance(error, AlignError):  # a check that knows how to fix what it found
            return ConfigError(at, error.what, error.how)
        return ConfigError(at, str(error), how)
    given = detail.get("input")
    if kind == "kind":
        expected = f"be {detail['expected']}"
        if isinstance(given, str) and type(parse_value(given, "")) in (int, float, bool):
            how = "Write it without quotes"
    elif kind in _EXPECTED:
        expected = f"be {_EXPECTED[kind]}"
        if kind == "model_type":
            how = _of_section(place, given)
        if kind in ("tuple_type", "list_type") and isinstance(given, dict):
            how = f"Write it as a list: {dotted}=[...], or with a dash before each entry"
        if kind == "string_type" and isinstance(given, int | float):  # such as a commit of digits alone
            how = "Write it in quotes"
    else:  # pydantic says "Input should be greater than 0" or "String should match pattern ..."
        expected = detail["msg"].partition(" should ")[2].split(", unable")[0] or "be of another kind"
        expected = expected.replace("greater than", "above").replace("less than", "below")
        choices = re.findall(r"'([^']+)'", str(context.get("expected", ""))) if kind == "literal_error" else []
        close = difflib.get_close_matches(str(given), choices, n=1, cutoff=0.6)
        how = f"Did you mean {close[0]}?" if close else how
    return ConfigError(at, f"must {expected}, got {_shown(given)}", how)


def _of_section(place: Place, given: Any) -> str:
    """How to write a section that was given as a single value: usually the value of its one required setting."""
    if given is None:
        return "Write its settings under it, or remove the line"
    section = model_in(kinds_of(place.field.annotation)) if place.field is not None else None
    if section is None:
        return "See --help"
    dotted = ".".join(map(str, place.key))
    fields = section.model_fields
    required = [name for name, field in fields.items() if field.is_required()]
    required = required or [
        name for name in ("path", "questions", "files") if name in fields and isinstance(given, str)
    ]
    if required and isinstance(given, str):
        return f"Did you mean {dotted}.{required[0]}={given}?"
    if required:
        return f"Its settings are written below it, such as {dotted}.{required[0]}"
    name = next(iter(fields))
    return f"Write its settings, such as {dotted}.{name}, or {dotted}={{}} for all of its defaults"


def _shown(value: Any) -> str:
    """A value as a config would have it: true and null rather than True and None; long ones cut."""
    names: dict[Any, str] = {True: "true", False: "false", None: "null"}
    text = names[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_MOST_SUGGESTED = 3

_NAMES_ELSEWHERE = {  # of transformers, TRL and peft -> ours
    "model_name_or_path": "path",
    "torch_dtype": "dtype",
    "attn_implementation": "attention",
    "load_in_4bit": "quantization",
    "r": "rank",
    "lora_r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "dora": "use_dora",
    "rslora": "use_rslora",
    "lr": "learning_rate",
    "lr_scheduler_type": "schedule",
    "min_lr_rate": "min_learning_rate_ratio",
    "warmup_share": "warmup_ratio",
    "min_learning_rate_share": "min_learning_rate_ratio",
    "proofs": "checks",
    "num_train_epochs": "epochs",
    "train_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "bf16": "precision",
    "fp16": "precision",
    "save_total_limit": "keep_checkpoints",
    "logging_steps": "log_steps",
    "max_length": "token_budget",
    "max_seq_length": "token_budget",
    "max_new_tokens": "max_completion_tokens",
}


def _nearest(place: Place) -> str:
    """What an unknown key may mean: a setting with a similar name in its section, or its name in another section.

    For example, learning_rate alone means training.learning_rate, and --lr as well.
    """
    prefix = "".join(f"{part}." for part in place.key[:-1])
    last = str(place.key[-1])
    known = sorted(place.section.model_fields) if place.section else []
    ours = _NAMES_ELSEWHERE.get(last)
    if ours in known:
        return f"Did you mean {prefix}{ours}?"
    everywhere = [setting.key for setting in settings_of(place.recipe)]
    for name in (last, ours):  # a name that is exactly that of a setting elsewhere says more than a similar one here
        same = [key for key in everywhere if name is not None and key.rpartition(".")[2] == name and "<" not in key]
        if same and len(same) <= (1 if prefix else _MOST_SUGGESTED):
            return f"Did you mean {' or '.join(same)}?"
    close = difflib.get_close_matches(last.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {prefix}{close[0]}?"
    return f"Known here: {', '.join(known) or 'nothing'}"


class Place(typing.NamedTuple):
    """Where in a recipe a mistake is."""

    key: Key
    recipe: type[BaseModel]
    section: type[BaseModel] | None
    """The section that holds the last part of the key."""
    field: Any
    """The pydantic field that the key names; None for an unknown one."""

    @property
    def text(self) -> str:
        return " ".join((self.field.description or "").split()).rstrip(".") if self.field else ""

    @property
    def default(self) -> Any:
        if self.field is None or self.field.is_required():
            return None
        default = self.field.get_default(call_default_factory=True)
        return None if isinstance(default, BaseModel) else default


_BRANCHES = ("<path>", "<section>", "<list>")  # of the tagged unions in align/settings/sources.py


def place_of(recipe: type[BaseModel], loc: Key, kind: str = "") -> Place:
    """pydantic's location of a mistake as a dotted key has it: without the names of a union's branches."""
    key: list[str | int] = []
    kinds: list[Any] = [recipe]
    section, field = None, None
    for number, part in enumerate(loc):
        if part in _BRANCHES and not (kind == "extra_forbidden" and number == len(loc) - 1):  # that is a user's key
            continue
        here = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        holder = holder_of(kinds)
        if here is not None and (part in here.model_fields or number == len(loc) - 1):
            section, field = here, here.model_fields.get(str(part))
            kinds = kinds_of(field.annotation) if field else []
        elif holder is not None and isinstance(part, int) != (typing.get_origin(holder) is dict):
            kinds = kinds_of(held_by(holder))
        else:
            continue
        key.append(part)
    return Place(tuple(key), recipe, section, field)
