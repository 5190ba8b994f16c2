"""Markdown and formulas as the raters' page shows them: what is shown, and that nothing of a model's text can act."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

pytest.importorskip("nh3", reason="the annotation page requires pip install -e '.[annotate]'")

from data_builders.annotation.rendering import MOST_CHARACTERS, render, sanitized
from tests.data_builders.annotation.attacks import ATTACKS, HTML_ATTACKS

NAMES = (
    "p br hr h1 h2 h3 h4 h5 h6 strong em s blockquote ul ol li pre code table thead tbody tr th td math mrow mi mn mo "
    "ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd"
)
HARMLESS = set(NAMES.split())
"""Elements that load nothing, start nothing and lead nowhere, by the HTML and MathML standards."""


class Found(HTMLParser):
    """The elements, attributes and text of an HTML text, read by another parser than the sanitizer's."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(text: str) -> Found:
    html = render(text)
    assert html is not None
    return Found(html)


def test_there_are_attacks_of_many_kinds() -> None:
    assert len(ATTACKS) == len(set(ATTACKS)) >= 40
    assert len(HTML_ATTACKS) >= 25


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_an_attack_is_left_that_can_act(attack: str) -> None:
    for text in (attack, f"Some **text**.\n\n{attack}\n", f"- a list\n  {attack}", f"| a |\n|---|\n| {attack} |"):
        found = shown(text)
        assert set(found.tags) <= HARMLESS, text
        assert {name for name, _ in found.attributes} <= {"start", "display", "stretchy", "fence", "linethickness"}
        assert not any(":" in (value or "") for _, value in found.attributes), "no address"


@pytest.mark.parametrize("attack", HTML_ATTACKS)
def test_a_rater_sees_html_as_it_was_written(attack: str) -> None:
    """An attack that disappeared would let a rater approve a text that is trained on with the attack in it."""
    assert shown(f"See: {attack}").text.split() == f"See: {attack}".split()


@pytest.mark.parametrize("attack", HTML_ATTACKS)
def test_the_sanitizer_alone_is_enough_where_html_reaches_it(attack: str) -> None:
    """latex2mathml writes some texts of a formula into its result as they are."""
    for html in (attack, f"<math><mtext>{attack}</mtext></math>", f"<table><td>{attack}"):
        assert set(Found(sanitized(html)).tags) <= HARMLESS


def test_markdown_is_shown_as_commonmark_has_it() -> None:
    assert render("# A\n\n1. *b*\n2. **c** `d`\n\n> e") == (
        "<h1>A</h1>\n<ol>\n<li><em>b</em></li>\n<li><strong>c</strong> <code>d</code></li>\n</ol>\n"
        "<blockquote>\n<p>e</p>\n</blockquote>\n"
    )
    assert render("```python\nif a < b:\n    pass\n```") == "<pre><code>if a &lt; b:\n    pass\n</code></pre>\n"
    assert shown("|a|b|\n|-|-|\n|1|2|").tags.count("td") == 2
    assert render("one\ntwo") == "<p>one<br>\ntwo</p>\n", "a line break stays one"


@pytest.mark.parametrize("text", [
    "[a](http://b.example)", "![a](http://b.example/c.png)", "<http://b.example>", '[a]: http://b.example "c"',
    "[a][b]\n\n[b]: http://c.example", "&lt;b&gt; &copy;", "It costs $5 and $6.", "a_b_c 2 * 3 * 4", "\x01 [ ( ] )",
])  # fmt: skip
def test_what_is_not_formatting_stays_as_it_was_written(text: str) -> None:
    assert shown(text).text.split() == text.split()


@pytest.mark.parametrize("text, display", [
    (r"$\frac{a}{b}$", "inline"), (r"\(\frac{a}{b}\)", "inline"), (r"$$\frac{a}{b}$$", "block"),
    ("\\[\n\\frac{a}{b}\n\\]", "block"),
])  # fmt: skip
def test_formulas_become_mathml(text: str, display: str) -> None:
    found = shown(text)
    assert [tag for tag in found.tags if tag not in ("p", "mrow")] == ["math", "mfrac", "mi", "mi"]
    assert found.attributes == [("display", display)]
    assert "".join(found.text.split()) == "ab"


@pytest.mark.parametrize("latex", [r"\frac{", "a_{", r"\left( x", "x^" * 600, "{" * 450])
def test_a_formula_that_cannot_be_read_stays_latex(latex: str) -> None:
    found = shown(f"So ${latex}$ holds")
    assert latex in found.text
    assert "math" not in found.tags


def test_less_than_in_a_formula_is_a_sign_and_no_tag() -> None:
    assert "".join(shown("$a<b>c$").text.split()) == "a<b>c"


def test_a_text_that_is_too_long_is_shown_as_it_is() -> None:
    assert render("a" * MOST_CHARACTERS) is not None
    assert render("a" * (MOST_CHARACTERS + 1)) is None
