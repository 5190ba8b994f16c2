"""The columns of one record: which hold a value, which were read, and what is said of the others.

Whoever reads a record takes its columns from a `Columns`, which notes their names. What is left over at the end is
harmless metadata (`HARMLESS`), a repeat of what was read, or a `RowError` with its name: nothing is lost silently.
Null means absent everywhere. What the columns mean is `align/formats/rows.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from align.errors import RowError
from align.rows import Level

Json = dict[str, Any]

SYSTEM = (
    *("system", "system_prompt", "system_message", "custom_system_prompt", "system_instruction"),
    *("system_instructions", "system_content", "sys_prompt", "developer", "developer_prompt"),
)
"""What a column with a system message of its own is called."""

PROMPTS = ("prompt", "instruction", "question", "query", "input")
"""What a column with the prompt is called, in the order in which they are tried."""

DIALOGS = ("messages", "conversations", "conversation")
"""What a column with a whole dialog is called."""

ANSWERS = ("completion", "response", "output", "answer")
"""What a column with the one answer to a prompt is called."""

RESPONSES = ("responses", "generations", "completions", "answers")
"""What a list of several responses to one prompt is called: by us, distilabel, UltraFeedback, Nectar."""

PAIRS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("preferred_output", "non_preferred_output"),
    ("preferred_completion", "non_preferred_completion"),
)
"""What the better and the worse response are called: by TRL and most others, Argilla, OpenAI."""

LABELS = ("label", "kto_tag")
"""What says whether a single completion is a good one: TRL's and LLaMA-Factory's KTO rows."""

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""HelpSteer's ratings of a single response, 0 to 4. `helpfulness` is the overall one."""

HARMLESS = frozenset(
    (
        # names and places of a record
        *("prompt_id", "conversation_id", "conv_id", "question_id", "example_id", "sample_id", "row_id", "record_id"),
        "made_from",
        *("message_tree_id", "parent_id", "uuid", "uid", "hash", "idx", "index", "__index_level_0__", "sha256"),
        *("min_similar_uuid", "title", "url", "license", "version", "timestamp", "created", "created_at", "updated_at"),
        # which set, part, subject and language it belongs to
        *("dataset", "dataset_name", "source_dataset", "subset", "split", "category", "categories", "subcategory"),
        *("domain", "topic", "topics", "tags", "type", "task", "tasks", "task_type", "task_name", "task_category"),
        *("other_task_category", "language", "lang", "intent", "knowledge", "difficulty", "skill", "style", "level_id"),
        *("prompt_source", "response_source", "response_0_source", "response_1_source", "original_question"),
        *("in_gsm8k_train", "custom_instruction", "skip_prompt_formatting", "views", "avatarUrl", "good_natured"),
        # who or what wrote it, and how
        *("model", "model_name", "generator", "generation_model", "generation_models", "annotator", "worker"),
        *("gen_input_configs", "pre_query_template", "pre_query", "generation_prompt", "raw_generation_responses"),
        *("task_category_generator", "difficulty_generator", "quality_generator", "instruct_reward_model"),
        *("distilabel_metadata", "distilabel_meta", "parallel_tool_calls", "inference_time"),
        # sizes
        *("turn", "num_turns", "num_responses", "num_tokens", "token_count", "tokens", "total_length", "length"),
        *("instruction_length", "response_length", "conversation_tokens", "chosen_length", "rejected_length"),
        *("chosen_tokens", "rejected_tokens", "repeat_count", "min_neighbor_distance"),
        # filters and remarks of those who made the set; none of them says which of two responses is better
        *("input_quality", "quality", "quality_explanation", "llama_guard_2", "toxic", "redacted", "moderation"),
        *("openai_moderation", "detoxify_moderation", "instruct_reward", "reward_model", "language_confidence"),
        *("status", "order", "labelling_model", "labelling_prompt", "raw_labelling_response", "rationale"),
        *("rationales", "original_chosen", "original_rejected", "original_response", "new_generations"),
        *("correct_answers", "incorrect_answers", "individual_preference", "preference_statement"),
        *("preference_elaboration", "three_most_similar_preferences", "all_preferences_unprocessed"),
        *("is_response_0_safe", "is_response_1_safe", "safer_response_id", "response_0_sha256", "response_1_sha256"),
        *("response_0_harm_category", "response_1_harm_category"),
        *("response_0_severity_level", "response_1_severity_level"),
    )
)
"""Columns of well-known public sets that say nothing a row keeps. docs/formats.md prints this table."""

_OTHER_NAMES = (
    *("id", "source", "tools", "functions", "function", "ground_truth", "chat", "history", "context", "margin"),
    *("level", "models", "raters", "rater", "round", "batch", "edited", "scores", "ratings", "rating", "ranks"),
)

LEVELS: tuple[Level, ...] = get_args(Level)

_SCORE_OF_A_SIDE = re.compile(
    r"(?P<side>chosen|rejected)[_-](?:avg[_-]|overall[_-])?(?:score|rating|reward)"
    r"|(?:avg[_-]|overall[_-])?(?:score|rating|reward)[_-](?P<other>chosen|rejected)"
)
"""The column of one side's score. Either the side comes first, in the group `side`, or last, in `other`:

    chosen_score, chosen-rating, rejected_avg_rating, chosen_overall_reward     side
    score_chosen, rating_rejected, avg_rating_chosen                            other
"""


MODEL_OF_A_SIDE = re.compile(r"(chosen|rejected)[_-]model|model[_-](chosen|rejected)")


class Columns:
    """The columns of one record that hold a value, and the names of those that were read."""

    __slots__ = ("given", "ignored", "prefix", "read", "values", "where")

    def __init__(self, record: Mapping[str, Any], where: str, ignore: Collection[str] = (), prefix: str = "") -> None:
        """
        where: `file:line`, for errors.
        ignore: columns that are passed over unread, because the user said so.
        prefix: before a column's name in errors, such as `completions[0].`.
        """
        self.values: Json = {name: value for name, value in record.items() if value is not None and name not in ignore}
        self.given = record.keys()
        """Every name, those with null too: an entry of ratings says with `chosen: null` that there is a tie."""
        self.where = where
        self.ignored = ignore
        self.prefix = prefix
        self.read: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def has(self, *names: str) -> bool:
        return all(name in self.values for name in names)

    def first(self, names: Iterable[str]) -> str | None:
        """The first of these columns that holds something, or at least is not null."""
        given = [name for name in names if name in self.values]
        return next((name for name in given if not _is_empty(self.values[name])), given[0] if given else None)

    def take(self, name: str) -> Any:
        """The value of a column, or None; it counts as read."""
        self.read.add(name)
        return self.values.get(name)

    def place(self, name: str) -> str:
        """`file:line: column`, for errors."""
        return f"{self.where}: {self.prefix}{name}"

    def nested(self, value: Mapping[str, Any], name: str) -> Columns:
        """The columns of an object in this record, such as one response of several."""
        return Columns(value, self.where, self.ignored, f"{self.prefix}{name}.")

    def unread(self) -> Iterator[str]:
        """The columns that hold something, are not harmless, and were not read."""
        for name, value in self.values.items():
            if name in self.read or name in HARMLESS or _is_empty(value):
                continue
            if name == "turns" and isinstance(value, int):
                continue  # how many turns a prompt has (Nectar); a list of turns is a dialog, and is not harmless
            yield name

    def note_repeats(self, texts: Collection[str]) -> None:
        """Columns that repeat one of these texts word for word count as read, such as `prompt` next to `messages`."""
        said = {text.strip() for text in texts}
        for name in list(self.unread()):
            value = self.values[name]
            if isinstance(value, str) and value.strip() in said:
                self.read.add(name)

    def refuse_unread(self, known: Collection[str] = ()) -> None:
        """Raise RowError for the first column that would be lost.

        known: further names that are read in this place, for "Did you mean".
        """
        names = list(self.unread())
        if not names:
            return
        name, *others = names
        more = f" (so would {', '.join(others[:5])}{', ...' if len(others) > 5 else ''})" if others else ""
        raise RowError(
            self.place(name),
            f"is not a column that is read in this form, and would be lost{more}",
            f"{_meant(name, known)}Rename it, map it to a column that is read with `columns`, or list it in "
            "`ignore_columns`: see docs/formats.md",
        )


def names_of_sides(columns: Columns) -> list[str]:
    """The columns that say something of chosen or of rejected: scores and models."""
    return [name for name in columns.values if _SCORE_OF_A_SIDE.fullmatch(name) or MODEL_OF_A_SIDE.fullmatch(name)]


def score_names(columns: Columns) -> list[tuple[str, str]]:
    """The names of the columns with a score of chosen and of rejected, as pairs."""
    found: dict[str, dict[str, str]] = {}
    for name in columns.values:
        match = _SCORE_OF_A_SIDE.fullmatch(name)
        if match:
            side = match["side"] or match["other"]
            found.setdefault(name.replace(side, ""), {})[side] = name
    whole = [(pair["chosen"], pair["rejected"]) for pair in found.values() if len(pair) == 2]
    half = next((pair for pair in found.values() if len(pair) == 1), None)
    if half is not None and not whole:
        ((side, name),) = half.items()
        other = "rejected" if side == "chosen" else "chosen"
        # distilabel's `chosen_score` has no counterpart and repeats one of `rating`.
        if "rating" not in columns and "ratings" not in columns:
            raise RowError(columns.place(name), f"is given without a score of {other}", "Give both scores, or none")
    return whole


def source_of(columns: Columns) -> str:
    """The record's own name of where it came from; empty where it has none. Raises RowError."""
    value = columns.take("source")
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "+".join(value)  # Nectar names each set that a prompt came from
    return text_of(value, columns.where, f"{columns.prefix}source")


def number_of(value: Any, where: str, field: str) -> float:
    """A finite number, or a text of one: UltraFeedback writes its scores as text. Raises RowError."""
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number):
                return number
    except (ValueError, OverflowError):
        pass  # reported below
    raise RowError(f"{where}: {field}", f"expected a number, found {shown(value)}", "Write a finite number")


def numbers_of(value: Any, where: str, field: str, count: int) -> list[float]:
    """A finite number for each of `count` responses. Raises RowError."""
    if not isinstance(value, list) or len(value) != count:
        how = "Give one for each response"
        raise RowError(f"{where}: {field}", f"expected {count} numbers, found {shown(value)}", how)
    return [number_of(number, where, f"{field}[{place}]") for place, number in enumerate(value)]


def truth_of(value: Any, where: str, field: str) -> bool:
    """True or false, also as 1 or 0, or as a text of these, which a cell of CSV is. Raises RowError."""
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    found = known.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None
    if found is None:
        how = "Write true or false, or rename a column of another meaning"
        raise RowError(f"{where}: {field}", f"expected true or false, found {shown(value)}", how)
    return found


def names_of(value: Any, where: str, field: str, count: int) -> tuple[str, ...]:
    """A name for each of `count` responses. Raises RowError."""
    if not isinstance(value, list) or len(value) != count or not all(isinstance(name, str) for name in value):
        how = "Name one for each response"
        raise RowError(f"{where}: {field}", f"expected {count} names, found {shown(value)}", how)
    return tuple(value)


def text_of(value: Any, where: str, field: str) -> str:
    """A text, or a whole number as one; empty for nothing. Raises RowError."""
    if value is None:
        return ""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise RowError(f"{where}: {field}", f"expected text, found {shown(value)}", "Write it as text")
    return str(value)


def level_of(value: Any, where: str, field: str) -> Level | None:
    """One of the four levels, however it is spaced and capitalized; None for nothing. Raises RowError."""
    if value is None or value == "":
        return None
    named: dict[str, Level] = {level: level for level in LEVELS}
    level = named.get(" ".join(re.split(r"[\s_-]+", value.strip().lower()))) if isinstance(value, str) else None
    if level is None:
        how = f"Known are: {', '.join(LEVELS)}"
        raise RowError(f"{where}: {field}", f"expected a level, found {shown(value)}", how)
    return level


def shown(value: Any) -> str:
    """The beginning of a value, for errors."""
    return "nothing" if value is None else repr(value)[:80]


def first_given(record: Any, names: Sequence[str]) -> str | None:
    """The first of these names that the record has a value for."""
    return next((name for name in names if record.get(name) is not None), None)


def _is_empty(value: Any) -> bool:
    return (isinstance(value, str) and not value.strip()) or (isinstance(value, list | dict) and not value)


def _meant(name: str, known: Collection[str]) -> str:
    """`Did you mean tools? ` where a name is close to one that is read."""
    names = {*SYSTEM, *PROMPTS, *DIALOGS, *ANSWERS, *RESPONSES, *LABELS, *_OTHER_NAMES, *known}
    names.update(side for pair in PAIRS for side in pair)
    by_key = {_key(one): one for one in sorted(names, reverse=True)}
    close = get_close_matches(_key(name), by_key, 1, 0.75)
    meant = by_key[close[0]] if close else None
    return f"Did you mean {meant}? " if meant is not None and meant != name else ""


def _key(name: str) -> str:
    """A name without case and separators: `systemPrompt` and `system-prompt` are `systemprompt`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
