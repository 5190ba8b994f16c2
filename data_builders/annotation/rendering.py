r"""Render Markdown, code and formulas as HTML that cannot act: no script, link, image, form or style is left of it.

Texts of models and raters are data that has not been checked, so three lines of defense follow each other:

1. markdown-it reads Markdown without raw HTML, links, images and entities: these stay the text that was written, so a
   rater sees an address and not a link.
2. latex2mathml converts formulas, and nh3 (ammonia, an HTML parser with an allow list) keeps the tags of `_TAGS` alone.
   latex2mathml is the reason for a sanitizer: it turns \href{javascript:...}{x} into an attribute.
3. The page's Content-Security-Policy (`guard.py`) permits no inline script or style and no foreign address.

    render("**4** is $2^2$")    <p><strong>4</strong> is <math><msup>...</msup></math></p>
    render("<b>4</b>")          <p>&lt;b&gt;4&lt;/b&gt;</p>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from html import escape
from typing import Any

import nh3
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin

MOST_CHARACTERS = 20_000
"""Longer texts are shown as they are written, so that no text keeps the server busy."""
_MOST_FORMULA_CHARACTERS = 1_000

_TEXT = "p br hr h1 h2 h3 h4 h5 h6 strong em s blockquote ul ol li pre code table thead tbody tr th td"
_FORMULAS = (
    "math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd "
    "menclose mpadded mphantom mmultiscripts mprescripts none"
)
_TAGS = {*_TEXT.split(), *_FORMULAS.split()}
_ATTRIBUTES = {"ol": {"start"}, "math": {"display"}, "mo": {"stretchy", "fence"}, "mfrac": {"linethickness"}}
_DROPPED_WITH_CONTENT = {"script", "style"}


@lru_cache(maxsize=512)
def render(text: str) -> str | None:
    """The HTML of a Markdown text; None if the text is too long or cannot be read, and is to be shown as it is.

    Formulas are written as $...$, $$...$$, \\(...\\) or \\[...\\], and become MathML. A formula that cannot be read is
    shown as code.
    """
    if len(text) > MOST_CHARACTERS:
        return None
    try:
        html: str = _markdown().render(text)
    except RecursionError:
        return None
    return sanitized(html)


def sanitized(html: str) -> str:
    """The HTML with the allowed tags and attributes only. The text of other tags is kept, except of scripts and
    styles."""
    return nh3.clean(
        html,
        tags=_TAGS,
        clean_content_tags=_DROPPED_WITH_CONTENT,
        attributes=_ATTRIBUTES,
        url_schemes=set(),
        link_rel=None,
    )


@cache
def _markdown() -> MarkdownIt:
    # breaks: a single line break of a model is meant, although Markdown joins the lines.
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    # `reference` would hide a line such as [a]: http://..., and `entity` would show &lt; as another character.
    markdown.disable(["link", "image", "autolink", "reference", "entity", "html_inline", "html_block"])
    # Without spaces and digits at the dollars: "$5 and $6" is no formula.
    dollarmath_plugin(markdown, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    texmath_plugin(markdown, "brackets")
    for name in ("math_inline", "math_single"):
        markdown.add_render_rule(name, _inline_formula)
    for name in ("math_block", "math_block_eqno", "math_inline_double"):
        markdown.add_render_rule(name, _block_formula)
    return markdown


def _inline_formula(_: Any, tokens: Sequence[Token], place: int, options: Any, env: Mapping[str, Any]) -> str:
    return _formula(tokens[place].content, "inline")


def _block_formula(_: Any, tokens: Sequence[Token], place: int, options: Any, env: Mapping[str, Any]) -> str:
    return _formula(tokens[place].content, "block")


def _formula(latex: str, display: str) -> str:
    source = f"<code>{escape(latex)}</code>"
    if len(latex) > _MOST_FORMULA_CHARACTERS:
        return source
    try:
        # latex2mathml writes what is inside \text{...} without escaping it, so no < may reach it.
        return str(convert(latex.replace("<", r"\lt ").replace(">", r"\gt "), display=display))
    except Exception:  # the converter's errors have no common class; a formula that it cannot read stays LaTeX
        return source
