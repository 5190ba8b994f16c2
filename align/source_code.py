"""The project's own source files that a stage runs, found by following imports without running anything.

Used in the keys of results, so that a result is made again when the code that makes it changes, and only then.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from align.files import fingerprint, fingerprint_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("align", "data_builders", "eval", "recipes")
_MODULE_NAME = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
_USED_BY = {"transformers.Trainer": "accelerate"}
"""What is imported of a library -> another library that does its work."""
_DATA_ENDINGS = (".json", ".jsonl", ".txt", ".yaml", ".yml")


class _Source(NamedTuple):
    """One file, read: a hash of its code, the project's files that it imports, and the libraries that it imports."""

    fingerprint: str
    imports: tuple[Path, ...] = ()
    libraries: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    """Folders of files that it reads, such as templates."""


def code_of(*starts: str | Path, without: Collection[str] = ()) -> dict[str, str]:
    """Relative path -> hash of each source file that `starts` need, themselves included, in sorted order.

    starts: dotted modules (`align.trainers.dpo`), or files (a recipe script). None given: every source file.
        A module that is not part of the project, such as one of a library or of a test, counts as no code.
    without: modules that some of this code imports and this result does not use, such as the backends that
        `sampling.backend` did not choose. Their imports are not followed. One that is among `starts` counts even so.

    Why imports are followed, instead of hashing all sources: `recipes/dpo.py` imports `align.trainers.dpo`, which
    imports `align.losses`; `data_builders/quality/mix.py` imports neither. After an edit of `align/losses.py`, DPO
    stages have another hash and run again, and the mix of SFT rows keeps its hash and its days of sampled rows. Imports
    inside functions count like those at the top. The hash is of the syntax tree: comments and line breaks are not part
    of it, docstrings are, since the schemas of tools are made from them.
    """
    return dict(sorted((_relative(file), source.fingerprint) for file, source in _followed(starts, without).items()))


def libraries_of(*starts: str | Path, without: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Relative path -> top-level modules of other projects that the file imports, for each file of `code_of`.

    Imports inside functions count, and so do modules named in a call of `align.optional.library`, and accelerate for
    the Trainer of transformers.
    """
    return {_relative(file): source.libraries for file, source in _followed(starts, without).items()}


def code_changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files whose code differs between two results of `code_of`, new and removed files included."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def code_fingerprint(*starts: str | Path) -> str:
    """One hash of `code_of(*starts)`."""
    return fingerprint_of(*(f"{name} {value}" for name, value in code_of(*starts).items()))


def _followed(starts: Collection[str | Path], without: Collection[str]) -> dict[Path, _Source]:
    """Every file that `starts` need."""
    unused = {file for module in without for file in _module_files(module) if file.name != "__init__.py"}
    files: list[Path] = []
    for start in starts:
        if isinstance(start, Path):
            files.append(start.resolve())
        else:
            files += _module_files(start)
    if not starts:
        files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    found: dict[Path, _Source] = {}
    while files:
        file = files.pop()
        if file in found:
            continue
        found[file] = _parsed(file, file.stat().st_mtime_ns)
        files += (file for file in found[file].imports if file not in unused)
        own = [file.with_suffix(ending) for ending in _DATA_ENDINGS]  # what a module reads under its own name
        for data in (*own, *(inner for folder in found[file].folders for inner in sorted(folder.iterdir()))):
            if data.is_file():
                found[data] = _Source(fingerprint(data))
    return found


def _relative(file: Path) -> str:
    """`align/losses.py`; a script outside the project (a recipe of a user) by its folder and name."""
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else f"{file.parent.name}/{file.name}"


@cache
def _parsed(file: Path, changed: int) -> _Source:
    """A file, read.

    changed: the file's modification time; it only keeps the cache from answering for an older content.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return _Source(fingerprint(file))  # it cannot run either; the stage itself says why
    names = list(_imported_names(tree))
    imported = dict.fromkeys(file for name in names for file in _module_files(name))
    used = (_USED_BY[name] for name in names if name in _USED_BY)
    others = {name.partition(".")[0] for name in (*names, *_optional_names(tree), *used)} - {
        *PACKAGES,
        *sys.stdlib_module_names,
    }
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    # A script that is started by path, such as the sandbox's worker, and folders without code, such as templates.
    workers = [file.with_name(text) for text in sorted(texts) if re.fullmatch(r"\w+\.py", text)]
    imports = (*imported, *(worker for worker in workers if worker.is_file()))
    folders = [each for each in sorted(file.parent.iterdir()) if each.name in texts and each.is_dir()]
    without_code = tuple(folder for folder in folders if not any(folder.glob("**/*.py")))
    return _Source(fingerprint_of(ast.dump(tree)), imports, tuple(sorted(others)), without_code)


def _optional_names(tree: ast.Module) -> Iterator[str]:
    """Modules that are imported by `library("vllm", ...)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "library" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _imported_names(tree: ast.Module) -> Iterator[str]:
    """Dotted names that a module imports. `from a import b` gives a and a.b, of which one may be no module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[
                0
            ]  # catalogs name modules as text: "data_builders.rehearsal.builder:RehearsalConfig"
            if _MODULE_NAME.fullmatch(name):
                yield name
            elif _MODULE_NAME.fullmatch(name.removesuffix(".")):  # f"data_builders.tool_use.domains.{name}"
                yield from (f"{name}{file.stem}" for file in sorted(ROOT.joinpath(*name.split(".")).glob("*.py")))


@cache
def _module_files(name: str) -> tuple[Path, ...]:
    """The files that importing a dotted module reads: its own and the `__init__.py` of the packages around it."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return ()
    found = []
    for length in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:length])
        found += [file for file in (base / "__init__.py", base.with_suffix(".py")) if file.is_file()]
    return tuple(found)
