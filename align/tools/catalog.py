"""Which tools there are, by name, and a registry of them from a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from align.config import Section
from align.errors import ConfigError
from align.settings import InputPath
from align.tools.calculator import EmbeddedCalculator, WolframAlpha, calculator_tool
from align.tools.reader import file_reader
from align.tools.registry import MAX_RESULT_CHARACTERS, Registry, Tool, load_functions
from align.tools.search import BraveSearch, FolderSearch, search_tool

EngineName = Literal["embedded", "api"]


class ToolsConfig(Section):
    """The tools that are offered. The interpreter belongs to one dialog: `registry.extended(interpreter_tool(...))`."""

    built_in: tuple[Literal["brave_search", "wolfram_alpha", "read_file"], ...] = ()
    """Built-in tools, by the names that Llama 3.1 knows where it knows them."""
    documents: InputPath | None = None
    """Folder that the embedded search looks through."""
    files: InputPath | None = None
    """Folder whose files read_file reads."""
    search: EngineName = "embedded"
    """embedded: BM25 over `documents`; api: Brave, with the key in BRAVE_API_KEY."""
    search_count: int = Field(3, gt=0, le=20)
    """Hits in one answer."""
    calculator: EngineName = "embedded"
    """embedded: sympy and pint; api: Wolfram Alpha, with the key in WOLFRAM_APP_ID."""
    functions: tuple[InputPath, ...] = ()
    """Python files; each public function in them is a tool. They run in this process, without a sandbox."""
    max_result_characters: int = Field(MAX_RESULT_CHARACTERS, gt=0)
    """A longer result is cut, and says so."""

    def libraries(self) -> dict[str, str]:
        embedded = {
            "brave_search": ("bm25s",),
            "wolfram_alpha": ("sympy", "pint"),
            "read_file": ("pypdf", "docx", "openpyxl", "pptx", "bs4"),
        }
        needed = ["docstring_parser", "jsonschema", *(module for name in self.built_in for module in embedded[name])]
        return dict.fromkeys(needed, "tools")


def _search(config: ToolsConfig) -> Tool:
    engine = BraveSearch() if config.search == "api" else FolderSearch(_folder(config.documents, "documents"))
    return search_tool(engine, config.search_count)


def _calculator(config: ToolsConfig) -> Tool:
    return calculator_tool(WolframAlpha() if config.calculator == "api" else EmbeddedCalculator())


def _files(config: ToolsConfig) -> Tool:
    return file_reader(_folder(config.files, "files"))


BUILT_IN: dict[str, Callable[[ToolsConfig], Tool]] = {
    "brave_search": _search,
    "wolfram_alpha": _calculator,
    "read_file": _files,
}


def make_registry(config: ToolsConfig) -> Registry:
    """The built-in tools, then the user's functions. Raises AlignError for what is missing, before any call."""
    tools = [BUILT_IN[name](config) for name in config.built_in]
    tools += [tool for path in config.functions for tool in load_functions(path)]
    return Registry(tools, max_result_characters=config.max_result_characters)


def _folder(folder: Path | None, key: str) -> Path:
    if folder is None or not folder.is_dir():
        raise ConfigError(f"tools.{key}", f"expected a folder, found {folder}", "Name the folder")
    return folder
