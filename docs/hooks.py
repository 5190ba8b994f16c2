"""Hooks of the documentation site (mkdocs.yml): pages that are generated from the code when the site is built.

They are not files of the repository, so they cannot be out of date: `configuration.md` lists every setting of every
recipe, `messages.md` every message of an error, and `api/` has one page for each package of `align`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # mkdocs restores the path after it has loaded this file

import messages  # noqa: E402 (docs/messages.py, found by the path above)
import reference  # noqa: E402


def on_config(config: Any) -> Any:
    """Add the pages of the API to the navigation. The recipes are imported later, so the checkout stays on the path."""
    sys.path.insert(0, str(ROOT))
    titles = {name: reference.api_title(text) for name, text in reference.api_pages(ROOT).items()}
    config["nav"].append({"API": [{title: name} for name, title in titles.items()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the site."""
    from mkdocs.structure.files import File

    pages = {"configuration.md": reference.configuration_page(), "messages.md": messages.messages_page(ROOT)}
    for name, text in {**pages, **reference.api_pages(ROOT)}.items():
        files.append(File.generated(config, name, content=text))
    return files
