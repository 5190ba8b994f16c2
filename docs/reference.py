"""The pages of the documentation that are generated from the code: the configuration reference and the API.

    python docs/reference.py configuration          # print the configuration reference as Markdown

A setting is documented where it is declared: the type, the default and the text under the field of a pydantic model.
This file only prints them. It imports the recipes, which import neither torch nor transformers.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from align.config import Recipe, Section

ROOT = Path(__file__).parents[1]
CITATIONS = "Llama 3 is The Llama 3 Herd of Models (arXiv:2407.21783), and Llama 2 is arXiv:2307.09288"


def recipes() -> dict[str, type[Recipe]]:
    """Every recipe script by its name, with its config class."""
    found: dict[str, type[Recipe]] = {}
    for script in sorted((ROOT / "recipes").glob("[a-z]*.py")):
        module = importlib.import_module(f"recipes.{script.stem}")
        for kind in vars(module).values():
            is_config = inspect.isclass(kind) and issubclass(kind, Recipe) and kind.__module__ == module.__name__
            if is_config and any(base in (Recipe, Section) or issubclass(base, Recipe) for base in kind.__bases__):
                found[script.stem] = kind
    return found


def configuration_page() -> str:
    """Every setting of every recipe, as Markdown: first the recipes, then the sections that they share."""
    out = [
        "# Configuration reference",
        "",
        "This page is generated from the code when the site is built. `python recipes/NAME.py --help` prints the same "
        "settings in a terminal. How a config file is written, and how a setting is changed on the command line, is on "
        f"the page [Configs and the command line](configs.md). In the texts below {CITATIONS}.",
        "",
        "## Recipes",
        "",
    ]
    sections: dict[str, type[Section]] = {}
    for name, kind in recipes().items():
        out += [f"### {name}", "", f"`recipes/{name}.py`: {_text(kind)}", "", *_table(kind)]
        for section in _sections_of(kind):
            sections.setdefault(section.__qualname__ + section.__module__, section)
    out += ["## Sections", ""]
    for section in sorted(sections.values(), key=lambda section: _anchor(section)):
        out += [f"### {section.__name__} {{ #{_anchor(section)} }}", "", _text(section), "", *_table(section)]
    return "\n".join(out) + "\n"


def _text(kind: type[Section]) -> str:
    """The docstring of a config class in one paragraph."""
    return _plain(kind.__doc__ or "")


def _first_sentence(annotation: Any) -> str:
    """What a section is for, where the setting itself has no text."""
    section = next(_sections_of(annotation), None)
    return (section.__doc__ or "").strip().partition(". ")[0].partition("\n\n")[0].rstrip(".") + "." if section else ""


def _plain(text: str) -> str:
    """Text in one line; `<` outside of code would begin an HTML tag."""
    parts = re.split("(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def _limits(metadata: list[Any]) -> list[str]:
    """The range of a number, such as `above 0` and `at most 1`."""
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}
    found = [(words[key], getattr(item, key)) for item in metadata for key in words if hasattr(item, key)]
    return [f"{word} {value}" for word, value in found]


def _anchor(kind: type[Section]) -> str:
    """A unique anchor: two classes in different modules may have one name."""
    return f"{kind.__name__}-{kind.__module__.rpartition('.')[2]}".lower()


def _fields(kind: type[Section]) -> dict[str, FieldInfo]:
    """The settings of a section by name, with every section of a recipe that has a catalogue of them."""
    fields = dict(kind.model_fields)
    for name in _catalogue(kind):
        fields[name] = kind.for_values({name: {}}).model_fields[name]  # type: ignore[attr-defined]
    return fields


def _catalogue(kind: type[Section]) -> dict[str, str]:
    return kind.catalogue() if issubclass(kind, Recipe) else {}


def _table(kind: type[Section]) -> list[str]:
    fields, catalogue = _fields(kind), _catalogue(kind)
    if not fields:
        return []
    out = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        kind_and_range = " ".join([_type(field.annotation), *_limits(field.metadata)])
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        default = "none" if name in catalogue else default
        meaning = catalogue.get(name) or field.description or _first_sentence(field.annotation)
        cells = [f"`{name}`", kind_and_range, default, _plain(meaning)]
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*out, ""]


def _default(value: Any) -> str:
    """A default as YAML would have it."""
    if isinstance(value, Section):
        return "its defaults"
    words: dict[Any, str] = {None: "null", True: "true", False: "false", (): "[]", "": '""'}
    if value is None or (isinstance(value, bool | str | tuple) and value in words):
        return f"`{words[value]}`"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {item}' for key, item in value.items())}}}`"
    return f"`{value}`"


def _type(annotation: Any) -> str:
    """A type in words, with a link where it is a section."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(kind) for kind in inner))
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (tuple, list):
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"mapping of {_type(inner[0])} to {_type(inner[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return f"[{annotation.__name__}](#{_anchor(annotation)})"
    names = {str: "text", int: "integer", float: "number", bool: "boolean", Path: "path", types.NoneType: "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _sections_of(annotation: Any) -> Iterator[type[Section]]:
    """The section classes below a type, each with those below it."""
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        if not issubclass(annotation, Recipe):
            yield annotation
        for field in _fields(annotation).values():
            yield from _sections_of(field.annotation)
    for inner in typing.get_args(annotation):
        yield from _sections_of(inner)


def api_pages(root: Path = ROOT) -> dict[str, str]:
    """One page for the modules of `align`, and one for each of its packages; name of the page to its text."""
    package = root / "align"
    pages = {"api/align.md": _api_page("align", sorted(package.glob("[a-z]*.py")), root)}
    for folder in sorted(path.parent for path in package.glob("*/__init__.py")):
        files = [folder / "__init__.py", *sorted(folder.rglob("[a-z]*.py"))]
        name = f"align.{folder.name}"
        pages[f"api/{name}.md"] = _api_page(name, files, root)
    return pages


def api_title(page: str) -> str:
    """The title of a page of the API."""
    return page.partition("\n")[0].lstrip("# ")


def _api_page(name: str, files: list[Path], root: Path) -> str:
    out = [f"# {name}", ""]
    for file in files:
        if not _has_public_names(file):
            continue
        module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        options = ["    options:", "      show_root_heading: false", "      show_root_toc_entry: false"]
        out += [f"## {module}", "", f"::: {module}", *options, ""]
    return "\n".join(out)


def _has_public_names(file: Path) -> bool:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and not re.match("_", node.name) for node in body)


if __name__ == "__main__":
    if sys.argv[1:] != ["configuration"]:
        raise SystemExit("usage: python docs/reference.py configuration")
    print(configuration_page())
