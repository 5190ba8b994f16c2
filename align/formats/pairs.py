"""A better and a worse response to one prompt, as TRL, HH-RLHF, LLaMA-Factory, Argilla, OpenAI and others write them.

A pair is read with all that its record says of it: the level, an edited response, models, raters, round and batch, and
scores or a margin, which must agree with the choice. `align/formats/rows.py` makes rows of pairs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from align.errors import RowError, UnusableRow
from align.formats.columns import (
    MODEL_OF_A_SIDE,
    PAIRS,
    PROMPTS,
    RESPONSES,
    SYSTEM,
    Columns,
    level_of,
    names_of,
    number_of,
    numbers_of,
    score_names,
    shown,
    text_of,
)
from align.formats.dialogs import (
    alpaca_prompt,
    conversation_of,
    dialog_of,
    is_rendered,
    is_transcript,
    is_whole_dialog,
    prompt_of,
    rendered,
    transcript,
    with_system,
    without_system,
)
from align.records.selection import round_of
from align.rows import Level

Json = dict[str, Any]
Dialog = list[Json]

CONTRADICTED = "scores contradict the choice"
IDENTICAL = "identical completions"

_SPEAKER = re.compile(
    r"\s*[#<|\[*]*\s*(human|user|prompter|instruction|question|system|assistant|h|q)\s*[:>|\]*]", re.IGNORECASE
)
"""The beginning of a text that names its speaker: marks, the name, and a closing mark.

    "Human: ", "Q: ", "### Instruction:", "<|user|>", "[USER] ", "**System**"   match
    "Human rights are", "question everything"                                  do not: no closing mark follows the name
"""


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, the first of which is better, and what is known of them."""

    prompt: Dialog
    chosen: Dialog
    rejected: Dialog
    edited: Dialog | None
    level: Level | None
    models: tuple[str, ...]
    """Of chosen and rejected, or of edited, chosen and rejected; empty where unknown."""
    raters: tuple[str, ...]
    round: int | None
    batch: str
    gap: float | None
    """Score of chosen minus score of rejected, in the record's own units; None without scores."""
    unusable: UnusableRow | None
    """Why this pair prefers nothing, where it does not."""

    def known(self, count: int) -> Json:
        """What a PreferenceRow of `count` completions keeps of this."""
        models = self.models if len(self.models) in (0, count) else ("", *self.models)
        found: Json = {"level": self.level, "models": list(models), "raters": list(self.raters)}
        found |= {"round": self.round, "batch": self.batch}
        return {key: value for key, value in found.items() if value not in (None, "", [])}


def pair_names(columns: Columns) -> tuple[str, str] | None:
    """The columns of the better and the worse response."""
    return next((names for names in PAIRS if columns.has(*names)), None)


def pair_of(columns: Columns) -> Pair:
    """The pair that a record holds. Its columns count as read. Raises RowError naming place and column."""
    better, worse = pair_names(columns) or ("messages", "rejected_response")
    calls: dict[str, str] = {}
    prompt = _prompt_of_a_pair(columns, calls, (better, worse))
    if prompt and prompt[-1]["role"] == "assistant":
        what = "ends with an assistant message; a prompt ends where the assistant is to go on"
        raise RowError(columns.place("prompt"), what, "Leave the last answer out")
    known = ranked_of(columns, 2, models=False)
    gap, said = _gap(columns, better, worse)
    models = _models(columns)
    edited = columns.take("edited")
    chosen, rejected = _sides(columns, prompt, better, worse, calls)
    if not prompt or chosen[0]["role"] in ("system", "user"):
        shared, chosen, rejected = _split_shared(chosen, rejected, columns, better, worse)
        prompt = _joined(prompt, shared, columns, better)
    for name, completion in ((better, chosen), (worse, rejected)):
        if any(message["role"] in ("system", "user") for message in completion):
            raise RowError(
                columns.place(name),
                "holds a system or user message that the other completion has not",
                "Pair two completions of one prompt",
            )
    edit = None if edited is None else dialog_of(edited, columns.place("edited"), dict(calls), "assistant")
    return Pair(
        prompt=with_system(prompt, columns),
        chosen=chosen,
        rejected=rejected,
        edited=edit,
        level=known.get("level"),
        models=models,
        raters=tuple(known.get("raters", ())),
        round=known.get("round"),
        batch=known.get("batch", ""),
        gap=gap,
        unusable=_unusable(columns, better, chosen == rejected, gap, said),
    )


def ranked_of(columns: Columns, count: int, models: bool = True) -> Json:
    """What a record says of a comparison in addition to prompt and completions, in the order of PreferenceRow's fields.

    models: read the column `models` too, with a name for each completion.
    """
    found: Json = {}
    level = level_of(columns.take("level"), columns.where, f"{columns.prefix}level")
    if level is not None:
        found["level"] = level
    if models and columns.values.get("models"):
        found["models"] = columns.take("models")
    raters = columns.take("raters")
    rater = columns.take("rater")
    if raters is None and rater is not None:
        raters = [text_of(rater, columns.where, f"{columns.prefix}rater")]
    if raters:
        found["raters"] = raters
    number = round_of(columns.take("round"), columns.where, f"{columns.prefix}round")
    if number is not None:
        found["round"] = number
    batch = text_of(columns.take("batch"), columns.where, f"{columns.prefix}batch")
    if batch:
        found["batch"] = batch
    return found


def _prompt_of_a_pair(columns: Columns, calls: dict[str, str], names: tuple[str, str]) -> Dialog:
    """The prompt from a column of its own; empty where the completions hold it."""
    if names == ("messages", "rejected_response"):
        dialog = dialog_of(columns.take("messages"), columns.place("messages"), calls)
        return dialog[: _answer_of(dialog, columns)]
    if isinstance(columns.values.get("input"), dict):
        return _openai_prompt(columns, calls)
    if columns.values.get("conversations"):
        return conversation_of(columns.take("conversations"), columns.place("conversations"), calls)
    key = columns.first(PROMPTS)
    if key == "instruction":
        return alpaca_prompt(columns)
    if key is not None and not _is_blank(columns.values[key]):
        return prompt_of(columns.take(key), columns.place(key), calls)
    if is_whole_dialog(columns.values[names[0]]):
        return []
    for name in ("messages", "context"):  # messages without an answer, as HelpSteer3 has its prompts
        if isinstance(columns.values.get(name), list) and columns.values[name]:
            dialog = dialog_of(columns.take(name), columns.place(name), calls)
            return dialog[: _answer_of(dialog, columns)] if dialog[-1]["role"] == "assistant" else dialog
    return []


def _answer_of(dialog: Dialog, columns: Columns) -> int:
    """Where the answer of a dialog begins: after its last user message, or system message without one."""
    asked = [turn for turn, message in enumerate(dialog) if message["role"] in ("system", "user")]
    if not asked or dialog[-1]["role"] != "assistant":
        how = "Give the whole dialog with the better answer at its end"
        raise RowError(columns.place("messages"), "does not end with an answer to a prompt", how)
    return asked[-1] + 1


def _openai_prompt(columns: Columns, calls: dict[str, str]) -> Dialog:
    """OpenAI's preference files: `input` holds the messages and the functions."""
    given = columns.nested(columns.take("input"), "input")
    if "messages" not in given:
        found = ", ".join(sorted(given.values)) or "nothing"
        raise RowError(columns.place("input"), f"expected messages, found {found}", "Give input.messages")
    if "tools" in given:
        columns.values.setdefault("tools", given.take("tools"))
    dialog = with_system(dialog_of(given.take("messages"), given.place("messages"), calls), given)
    given.refuse_unread(("messages", "tools"))
    return dialog


def _sides(columns: Columns, prompt: Dialog, better: str, worse: str, calls: dict[str, str]) -> tuple[Dialog, Dialog]:
    if better == "messages":
        dialog = dialog_of(columns.values["messages"], columns.place("messages"))
        refused = dialog_of(columns.take(worse), columns.place(worse), dict(calls), "assistant")
        return dialog[len(prompt) :], refused
    chosen, rejected = columns.take(better), columns.take(worse)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if is_transcript(chosen) and (not prompt or is_transcript(rejected)):
            return transcript(chosen, columns.place(better)), transcript(rejected, columns.place(worse))
        if not prompt and is_transcript(rejected):
            return transcript(chosen, columns.place(better)), []
        if not prompt:
            return _shared_strings(chosen, rejected, columns, better, worse)
    first = dialog_of(chosen, columns.place(better), dict(calls), "assistant")
    return first, dialog_of(rejected, columns.place(worse), dict(calls), "assistant")


def _shared_strings(chosen: str, rejected: str, columns: Columns, better: str, worse: str) -> tuple[Dialog, Dialog]:
    """Two texts whose common beginning is the prompt, as TRL's implicit prompt has it.

    Never where another column may hold the prompt: "What is 6 times 7?" in a column that nothing reads, with "The
    answer is 42." and "The answer is 41.", would train on the prompt "The answer is 4".
    """
    for name, value in columns.values.items():
        if name in (better, worse, "id", "source", "tools", "functions", *SYSTEM) or name in columns.read:
            continue
        if isinstance(value, str) and value.strip():
            what = f"is a text that is not read, next to {better} and {worse} without a prompt; it may be the prompt"
            how = "Rename or map the column that holds the prompt to `prompt`, or list this one in ignore_columns"
            raise RowError(columns.place(name), what, how)
    shared = _shared_text(chosen, rejected)
    if not shared.strip():
        raise RowError(columns.place(better), f"shares no beginning with {worse}", "Add the column `prompt`")
    if is_rendered(shared) or re.search(r"^### Instruction:.*^### Response:", shared, re.DOTALL | re.MULTILINE):
        raise rendered(shared, columns.place(better))
    if _SPEAKER.match(shared):
        what = f"looks like a whole dialog in one text, {shown(shared)}, in a form that is not known here"
        how = "Write a list of messages, or turns that begin with \\n\\nHuman: and \\n\\nAssistant:"
        raise RowError(columns.place(better), what, how)
    prompt = {"role": "user", "content": shared}
    ends = (chosen[len(shared) :], rejected[len(shared) :])
    first, second = ([prompt, {"role": "assistant", "content": end}] for end in ends)
    return first, second


def _split_shared(
    chosen: Dialog, rejected: Dialog, columns: Columns, better: str, worse: str
) -> tuple[Dialog, Dialog, Dialog]:
    """The prompt that two dialogs share, and what follows it in each: from where they part, back to an assistant."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and not chosen[shared]["role"] == rejected[shared]["role"] == "assistant":
        shared -= 1
    if not shared:
        raise RowError(columns.place(better), f"shares no prompt with {worse}", "Add the column `prompt`")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _joined(prompt: Dialog, shared: Dialog, columns: Columns, better: str) -> Dialog:
    """The prompt of a column and the one that both dialogs begin with, which must say the same as far as both go.

    A prompt [u2] and dialogs [u1, a1, u2, ...] give [u1, a1, u2]; a prompt [u1, a1, u2] and dialogs [u2, ...] too.
    """
    asked, begun = without_system(prompt), without_system(shared)
    if not asked:
        asked = begun
    systems = [dialog[0]["content"] for dialog in (prompt, shared) if dialog and dialog[0]["role"] == "system"]
    if len(systems) == 2 and systems[0].strip() != systems[1].strip():
        what = f"has the system message {shown(systems[1])}, and the prompt {shown(systems[0])}"
        raise RowError(columns.place(better), what, "Keep one of the two")
    contents = [message["content"] for message in begun]
    if begun[-len(asked) :] == asked or (len(asked) == 1 and asked[0]["content"] in contents):
        whole = begun
    elif asked[-len(begun) :] == begun:
        whole = asked
    else:
        raise RowError(
            columns.place(better),
            f"holds a dialog that does not contain the prompt {asked[-1]['content'][:80]!r}",
            "Give the completion alone, or a dialog that begins with the prompt",
        )
    return [{"role": "system", "content": systems[0]}, *whole] if systems else whole


def _shared_text(chosen: str, rejected: str) -> str:
    """What two texts have in common at the start; a space at the seam goes with the completions, as TRL has it."""
    length = 0
    while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
        length += 1
    return chosen[:length].removesuffix(" ")


def _models(columns: Columns) -> tuple[str, ...]:
    if columns.values.get("models"):
        listed = columns.take("models")
        count = 3 if "edited" in columns and isinstance(listed, list) and len(listed) == 3 else 2
        return names_of(listed, columns.where, f"{columns.prefix}models", count)
    found = {"chosen": "", "rejected": ""}
    for name in columns.values:
        match = MODEL_OF_A_SIDE.fullmatch(name)
        if match:
            found[match[1] or match[2]] = text_of(columns.take(name), columns.where, f"{columns.prefix}{name}")
    return tuple(found.values()) if any(found.values()) else ()


def _gap(columns: Columns, better: str, worse: str) -> tuple[float | None, str]:
    """(score of chosen minus score of rejected, the columns that say so). Every score that is given must be finite."""
    where, prefix = columns.where, columns.prefix
    gaps: list[tuple[float, str]] = []
    for names in score_names(columns):
        first, second = (number_of(columns.take(name), where, f"{prefix}{name}") for name in names)
        gaps.append((first - second, f"{names[0]} {first:g}, {names[1]} {second:g}"))
    for name in ("rating", "ratings", "scores"):
        value = columns.values.get(name)
        if isinstance(value, list) and not any(isinstance(one, dict) for one in value):
            numbers = _of_sides(columns, name, better, worse)
            gaps.append((numbers[0] - numbers[1], f"{name} {numbers[0]:g} and {numbers[1]:g}"))
            columns.read.update(name for name in columns.values if name in ("chosen_score", "rejected_score"))
    if "margin" in columns:
        margin = number_of(columns.take("margin"), where, f"{prefix}margin")
        gaps.append((margin, f"margin {margin:g}"))
    columns.read.update(name for name in RESPONSES if columns.values.get(name) and name in columns.read)
    if not gaps:
        return None, ""
    worst = min(gaps, key=lambda gap: gap[0])
    return worst if worst[0] < 0 else gaps[0]


def _of_sides(columns: Columns, name: str, better: str, worse: str) -> tuple[float, float]:
    """The two numbers of a list that belong to chosen and rejected.

    With `generations`, as distilabel has them, the numbers are in their order, and are found by the texts; alone, they
    are those of chosen and of rejected.
    """
    listed = next((key for key in RESPONSES if isinstance(columns.values.get(key), list)), None)
    value = columns.take(name)
    if listed is None:
        first, second = numbers_of(value, columns.where, f"{columns.prefix}{name}", 2)
        return first, second
    texts = [_said(one) for one in columns.take(listed)]
    numbers = numbers_of(value, columns.where, f"{columns.prefix}{name}", len(texts))
    found = []
    for side in (better, worse):
        text = _said(columns.values[side])
        if text not in texts:
            what = f"is none of {listed}, whose scores are in {name}"
            raise RowError(columns.place(side), what, f"Leave {listed} and {name} out, or give the score of each side")
        found.append(numbers[texts.index(text)])
    return found[0], found[1]


def _said(value: Any) -> str:
    """The answer's text, from a text or messages."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = next((value[key] for key in ("content", "value", "text", "response") if value.get(key)), "")
    return str(value).strip()


def _unusable(columns: Columns, better: str, same: bool, gap: float | None, said: str) -> UnusableRow | None:
    status = columns.values.get("status")
    if gap is not None and gap < 0:
        what = f"was chosen, and its scores say that it is the worse one ({said})"
        return UnusableRow(columns.place(better), what, "Drop the pair, or correct its scores", CONTRADICTED)
    if gap == 0 or (isinstance(status, str) and status.lower() == "tie"):
        what = f"is a tie: neither response is better ({said or 'status tie'})"
        return UnusableRow(columns.place(better), what, "Drop the pair", "tie")
    if same:
        what = "is the same as the rejected completion, word for word"
        return UnusableRow(columns.place(better), what, "Drop the pair", IDENTICAL)
    return None


def _is_blank(value: Any) -> bool:
    return value == [] or (isinstance(value, str) and not value.strip())
