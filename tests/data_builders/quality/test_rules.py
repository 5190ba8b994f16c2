"""Each cleaning rule finds what it is for, and leaves what only looks like it."""

from __future__ import annotations

import pytest

from align.rows import Message, PreferenceRow, SFTRow, ToolCall
from data_builders.quality.rules import fault
from data_builders.quality.settings import RulesConfig
from tests.data_builders.quality.made_rows import dialog

GOOD = "The answer is that it depends on the weather, and on how much time there is before the train leaves."

PLANTED = {
    "17 emojis": ("Tell me.", "Sure " + "😀" * 17, "too many emojis"),
    "an emoji in each sentence": (
        "Tell me.",
        "Yes 🎉 of 🚀 course 🔥 we ✨ do 💯 this 👍.",
        "too many emojis",
    ),
    "six exclamation marks": ("Tell me.", "I apologize!!!!!!", "too many exclamation marks"),
    "one for each word": ("Tell me.", "Wow! Great! Super! Nice! Yes! Go!", "too many exclamation marks"),
    "nothing": ("Tell me.", "  ", "empty answer"),
    "no prompt": (" \n", GOOD, "empty prompt"),
    "dots": ("Tell me.", "...", "empty answer"),
    "a placeholder": ("Tell me.", "N/A", "empty answer"),
    "null": ("Tell me.", "null", "empty answer"),
    "an open code block": ("Code?", "Here it is:\n```python\nx = 1\n", "broken Markdown"),
    "open bold text": ("Tell me.", f"**Note: this is it. {GOOD}", "broken Markdown"),
    "an open link": ("Tell me.", "See [the page](https://example.com/a for more of it.", "broken Markdown"),
    "cut at a comma": ("Tell me.", GOOD + " There are three kinds of them, red,", "truncated answer"),
    "cut at a word": ("Tell me.", GOOD + " There are three kinds of the", "truncated answer"),
    "cut at a word in German": ("Sag es.", "Es gibt drei Arten von Vögeln, die hier leben und", "truncated answer"),
    "the user goes on": ("Tell me.", f"{GOOD}\nUser: And then?\nAssistant: Then we go.", "another role in the answer"),
    "an instruction format": ("Tell me.", f"### Response:\n{GOOD}", "another role in the answer"),
    "Llama's control token": ("Tell me.", f"{GOOD}<|eot_id|>", "control tokens in a text"),
    "ChatML in the prompt": ("<|im_start|>user\nTell me.", GOOD, "control tokens in a text"),
    "Llama 2's markup": ("Tell me.", f"[INST] {GOOD}", "control tokens in a text"),
    "a chat window": ("Tell me.", f"{GOOD}\n\nRegenerate response", "boilerplate"),
    "a web page": ("Tell me.", f"{GOOD} Click here to subscribe.", "boilerplate"),
    "a loop": ("Tell me.", "We go to the station now.\n" * 5, "repeated lines or sentences"),
    "a loop in one line": ("Tell me.", f"{GOOD} " + "We go to the station now. " * 5, "repeated lines or sentences"),
}
BOILERPLATE = (
    *("Regenerate response", "ChatGPT can make mistakes", "Copy code", "Sent from my iPhone", "Lorem ipsum dolor"),
    *("click here to subscribe", "Click here to read", "CLICK HERE TO continue", "Subscribe to our newsletter"),
    *("Accept all cookies", "All rights reserved.", "Share this:", "Skip to content", "skip to main content"),
    *("This website uses cookies", "JavaScript is disabled", "Leave a comment below"),
)
FINE = {
    "plain": ("Tell me.", GOOD),
    "one emoji": ("Tell me.", f"{GOOD} 🎉"),
    "a long text with some emojis": (
        "Tell me.",
        " ".join(f"{n} is it. {GOOD[:-1]} {n}." for n in range(30)) + " 🎉" * 10,
    ),
    "some exclamation marks": ("Tell me.", f"Great! {GOOD} Have fun!"),
    "factorials in code": ("Code?", "```c\nif (!a && !b && !c && !d && !e) { return !f; }\n```"),
    "a number": ("2 + 2?", "4"),
    "a minus": ("Sign?", "-"),
    "a check mark": ("Done?", "✓"),
    "none of a choice": ("Answer A, B or none.", "None"),
    "a closed code block": ("Code?", "```python\nx = 2 ** 3\n```"),
    "powers": ("Power?", "It is 2**10 = 1024, which is what was asked for here."),
    "a list": ("List.", "Three kinds:\n- red\n- green\n- and blue"),
    "a name at the end": ("Who?", "The one who did this in the end was of course Vitamin A"),
    "a dialog as asked": ("Write a dialog.\nUser: hi", "User: hi\nAssistant: hello, and how are you?"),
    "generics": ("Code?", "`List<s>` is a type, and so is `<|>`; both are fine to use here."),
    "an equal sign table": ("Table?", "| a | b |\n|---|---|\n| 1 | 2 |"),
    "a sentence that occurs thrice": ("Tell me.", f"{GOOD} " * 3),
    "short lines that repeat": ("Poem?", "la la la\n" * 6),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_found(name: str) -> None:
    prompt, answer, reason = PLANTED[name]
    drop = fault(dialog("a", prompt, answer), RulesConfig())
    assert drop is not None
    assert drop.reason == reason


@pytest.mark.parametrize("name", FINE)
def test_what_only_looks_like_a_defect_is_kept(name: str) -> None:
    assert fault(dialog("a", *FINE[name]), RulesConfig()) is None


def test_a_rule_that_is_not_named_does_not_apply() -> None:
    row = dialog("a", *PLANTED["17 emojis"][:2])
    assert fault(row, RulesConfig(rules=("empty", "exclamation"))) is None
    assert fault(row, RulesConfig(emojis=17)) is None


def test_calls_without_text_are_no_empty_answers() -> None:
    call = Message(role="assistant", tool_calls=(ToolCall(name="f"),))
    assert (
        fault(SFTRow(id="a", source="s", messages=(Message(role="user", content="Go."), call)), RulesConfig()) is None
    )


def test_rejected_answers_and_untrained_messages_may_be_bad() -> None:
    user, good, bad = (
        Message(role=role, content=text) for role, text in (("user", "Go."), ("assistant", GOOD), ("assistant", "..."))
    )
    pair = PreferenceRow(id="a", source="s", prompt=(user,), completions=((good,), (bad,)))
    assert fault(pair, RulesConfig()) is None
    failed = bad.model_copy(update={"trained": False})
    assert fault(SFTRow(id="a", source="s", messages=(user, failed, user, good)), RulesConfig()) is None
    turned = pair.model_copy(update={"completions": ((bad,), (good,))})
    found = fault(turned, RulesConfig())
    assert found is not None
    assert found.reason == "empty answer"


@pytest.mark.parametrize("phrase", BOILERPLATE)
def test_every_remains_of_a_page_are_found(phrase: str) -> None:
    row = dialog("a", "Tell me.", f"{GOOD}\n{phrase}")
    assert (drop := fault(row, RulesConfig())) is not None
    assert (drop.reason, drop.detail) == ("boilerplate", phrase)


def test_the_end_of_a_long_line_is_looked_at() -> None:
    long = "".join(f"We go to station {n} and then we wait there for a while. " for n in range(200))
    for end in ("We met him because", "We saw him, of", "We saw him (", "We saw him -"):
        drop = fault(dialog("a", "Tell me.", long + end), RulesConfig())
        assert drop is not None
        assert drop.reason == "truncated answer"
    assert fault(dialog("a", "Tell me.", long + "We like lathe"), RulesConfig()) is None
