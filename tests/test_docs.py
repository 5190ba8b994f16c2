"""The documentation: links lead somewhere, the site's navigation has every page, the reference has every setting.

`make docs` builds the site, and checks anchors and links between pages as well.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from align.config import help_text

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
GENERATED = {"configuration.md", "messages.md"}


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        module = loaded("reference")
        module.recipes()
    finally:
        sys.path.remove(str(ROOT))
    return module


@pytest.fixture(scope="module")
def messages() -> ModuleType:
    return loaded("messages")


@pytest.fixture(scope="module")
def page(reference: ModuleType) -> str:
    """The configuration reference."""
    return reference.configuration_page()


def in_navigation(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    assert not isinstance(inner, int)
    return [page for each in inner for page in in_navigation(each)]  # type: ignore[attr-defined]


def test_links_of_readme_and_docs_lead_to_files() -> None:
    found = 0
    for page in PAGES:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path = target.partition("#")[0]
            if not path or "://" in path or target.startswith("mailto:"):
                continue
            found += 1
            is_generated = page.parent == DOCS and path in GENERATED
            assert is_generated or (page.parent / path).exists(), f"{page.relative_to(ROOT)} links to {target}"
    assert found > 20


def test_the_navigation_has_every_page_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | GENERATED
    assert sorted(in_navigation(site["nav"])) == sorted(pages)


@pytest.mark.slow
def test_the_configuration_reference_has_every_setting_of_every_help(reference: ModuleType, page: str) -> None:
    recipes = reference.recipes()
    assert recipes.keys() == {script.stem for script in (ROOT / "recipes").glob("[a-z]*.py")}
    for name, recipe in recipes.items():
        texts = [help_text(recipe, name, topic) for topic in ("", *recipe.catalogue())]
        settings = re.findall(r"^  ([\w.<>]+) \(", "\n".join(texts), re.MULTILINE)
        assert settings
        missing = [setting for setting in settings if f"| `{setting.rpartition('.')[2]}` |" not in page]
        assert not missing, name


@pytest.mark.slow
def test_links_inside_the_configuration_reference_lead_to_its_sections(page: str) -> None:
    anchors = re.findall(r"\{ #([\w.-]+) \}", page)
    assert len(anchors) == len(set(anchors)) > 40
    assert set(re.findall(r"\]\(#([\w.-]+)\)", page)) <= set(anchors)


@pytest.mark.slow
def test_the_api_has_a_page_for_every_package_of_align(reference: ModuleType) -> None:
    pages = reference.api_pages()
    packages = {path.parent.name for path in (ROOT / "align").glob("*/__init__.py")}
    assert pages.keys() == {"api/align.md", *(f"api/align.{name}.md" for name in packages)}
    assert "::: align.losses" in pages["api/align.md"]
    assert "::: align.tree.pack" in pages["api/align.tree.md"]


@pytest.mark.slow
def test_messages_of_the_troubleshooting_page_are_in_the_code() -> None:
    """Each part of a message between `...` is in a string of the code."""
    strings = set()
    for folder in ("align", "recipes"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    strings.add(node.value)
    code = "\n".join(strings)
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    assert len(messages) > 30
    missing = [part for message in messages for part in message.split("...") if part.strip() not in code]
    assert not missing


@pytest.mark.slow
def test_the_page_of_messages_has_those_that_real_errors_have(messages: ModuleType, tmp_path: Path) -> None:
    from align.assets import asset_named
    from align.errors import AlignError
    from align.manifest import read_manifest
    from align.records.text import object_in
    from align.strict_yaml import parse_yaml

    found = messages.messages()
    assert len(found) > 600
    assert sum(message.what == "..." for message in found) < len(found) / 10
    mistakes = [
        lambda: asset_named("x"),
        lambda: object_in(b"[1]", "a.jsonl:1"),
        lambda: object_in(b"{", "a.jsonl:1"),
        lambda: read_manifest(tmp_path),
        lambda: parse_yaml("a: *b", "f.yaml"),
        lambda: parse_yaml("a: 1\na: 2", "f.yaml"),
    ]
    for mistake in mistakes:
        with pytest.raises(AlignError) as caught:
            mistake()
        error = caught.value
        fitting = [
            message
            for message in found
            if message.kind == type(error).__name__ and message.what != "..."
            and fits(error.what, message.what) and fits(error.how.rstrip("."), message.how)
        ]  # fmt: skip
        assert fitting, error


def fits(text: str, pattern: str) -> bool:
    """Whether a text is what a pattern says, with something in the place of each `...`."""
    either = [".*".join(map(re.escape, each.split("..."))) for each in pattern.split(" / ")]
    return any(re.fullmatch(each, text, re.DOTALL) for each in either)


@pytest.mark.slow
def test_every_class_of_errors_is_on_the_page_of_messages_and_in_troubleshooting(messages: ModuleType) -> None:
    import align.errors

    kinds = {
        name
        for name, kind in vars(align.errors).items()
        if isinstance(kind, type) and issubclass(kind, align.errors.AlignError)
    }
    page = messages.messages_page()
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) >= kinds
    explained = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert {name for name in kinds if f"`{name}`" in explained} == kinds - {"UnusableRow"}, "it is no end of a run"
    cells = [re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| ")]
    assert {len(row) for row in cells} == {5}, "no text has broken a table"
