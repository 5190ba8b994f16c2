"""The page of the documentation that lists the messages of errors, collected from the source code.

    python docs/messages.py                        # print it as Markdown

An error of `align/errors.py` is made of three texts: where, what and how. This file finds every place that makes one,
reads the texts there, and writes `...` for what is only known when the error occurs:

    what = f"has {size} bytes where {SEAL} says {expected}"
    raise CheckpointError(file, what, _AGAIN)      ->  has ... bytes where ... says ... | Run its stage again
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("align", "data_builders", "eval", "recipes")
LEFT_OPEN = "..."
_TITLES = {"align": "the library", "data_builders": "builders", "eval": "evaluations", "recipes": "recipes"}


class Message(NamedTuple):
    """One place in the code that makes an error."""

    kind: str
    """The class, such as `RowError`."""
    file: str
    line: int
    what: str
    how: str


def messages(root: Path = ROOT) -> list[Message]:
    """Every place that makes an AlignError, in the order of files and lines."""
    trees = {
        str(file.relative_to(root)): ast.parse(file.read_text(encoding="utf-8"))
        for package in PACKAGES
        for file in sorted((root / package).rglob("*.py"))
    }
    kinds = _kinds(trees.values())
    found = []
    for file, tree in trees.items():
        constants = _assigned(tree.body)
        for scope in _scopes(tree):
            known = constants | _assigned(ast.walk(scope))
            for node in _own_nodes(scope):
                if isinstance(node, ast.Call) and (name := _name(node.func)) in kinds:
                    what, how = _texts(node, known)
                    found.append(Message(kinds[name], file, node.lineno, what, how))
    return sorted(found, key=lambda message: (message.file, message.line))


def messages_page(root: Path = ROOT) -> str:
    """All messages as Markdown: a table for each class, with a line for each text."""
    found = messages(root)
    out = [
        "# Messages",
        "",
        "This page is generated from the code when the site is built. An error reads `where: message. fix.`: *where* "
        f"is a file, a line, a setting or a field of a row, and `{LEFT_OPEN}` is in place of what is only known when "
        "the error occurs. The most frequent ones are explained in [Troubleshooting](troubleshooting.md). A wrong "
        "value of a setting is a `ConfigError` too, with the meaning of the [setting](configuration.md).",
        "",
    ]
    for kind in sorted({message.kind for message in found}):
        out += [f"## {kind}", ""]
        for package in PACKAGES:
            here = [m for m in found if m.kind == kind and m.file.split("/")[0] == package]
            mine = {(m.what, m.how): m for m in here if {m.what, m.how} != {LEFT_OPEN}}
            if mine:
                out += [f"### {kind} of {_TITLES[package]}", "", "| message | fix | in |", "| --- | --- | --- |"]
                out += [f"| {_cell(m.what)} | {_cell(m.how)} | `{m.file}` |" for m in mine.values()]
                out.append("")
    return "\n".join(out)


def _kinds(trees: Iterable[ast.Module]) -> dict[str, str]:
    """Name of AlignError and of each subclass -> the class that users see: the nearest one that is not private."""
    bases = {
        node.name: {_name(base) for base in node.bases}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    kinds = {"AlignError": "AlignError"}
    while more := {name: of & kinds.keys() for name, of in bases.items() if of & kinds.keys() and name not in kinds}:
        kinds |= {name: kinds[min(of)] if name.startswith("_") else name for name, of in more.items()}
    return kinds


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and every function in it."""
    yield tree
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """What is in a scope, without what is in functions inside of it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _own_nodes(child)


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[tuple[int, ast.expr]]]:
    """Name -> line and value of each assignment of it."""
    found: dict[str, list[tuple[int, ast.expr]]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=False))
            for target, value in pairs:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append((node.lineno, value))
    return found


def _texts(call: ast.Call, known: Mapping[str, list[tuple[int, ast.expr]]]) -> tuple[str, str]:
    """What and how of a call of an error's class: its second and third argument."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    positional = dict(enumerate(call.args))
    if any(isinstance(value, ast.Starred) for value in call.args[:2]):
        return LEFT_OPEN, LEFT_OPEN  # a helper made the texts
    texts = []
    for place, name in ((1, "what"), (2, "how")):
        value = positional.get(place, given.get(name))
        texts.append(LEFT_OPEN if value is None else _text(value, known, call.lineno))
    return texts[0], texts[1]


def _text(value: ast.expr, known: Mapping[str, list[tuple[int, ast.expr]]], line: int, depth: int = 0) -> str:
    """The text of an expression, with `...` for parts that only a run knows."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if isinstance(value, ast.JoinedStr):
        return "".join(_text(part, known, line, depth) for part in value.values)
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return _text(value.left, known, line, depth) + _text(value.right, known, line, depth)
    if isinstance(value, ast.IfExp):
        return f"{_text(value.body, known, line, depth)} / {_text(value.orelse, known, line, depth)}"
    if isinstance(value, ast.Name) and depth < 3:
        before = [assigned for at, assigned in known.get(value.id, []) if at <= line]
        if before:
            return _text(before[-1], known, line, depth + 1)
    return LEFT_OPEN


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _cell(text: str) -> str:
    """Text in a cell of a table, in which nothing is markup."""
    text = re.sub(r"(\.\.\.)( / \.\.\.)+", r"\1", " ".join(text.split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return re.sub(r"([*_\[\]`$~])", r"\\\1", text) or LEFT_OPEN


if __name__ == "__main__":
    print(messages_page())
