"""The scan for secrets before anything is published. What a secret looks like is in `align/secret_forms.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from align.errors import PublishError
from align.secret_forms import secrets_in, secrets_of_environment

_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "merges.txt"})
_HEADER_BYTES = 100 * 2**20
_BLOCK_BYTES = 4 * 2**20


def refuse_secrets(files: Iterable[Path]) -> None:
    """Raise PublishError when a file holds what looks like a secret, or one that the environment holds.

    Of a safetensors file the metadata is read, of a tokenizer model nothing.
    """
    values = secrets_of_environment()
    for file in files:
        # A vocabulary holds every common word, and words are no secrets there.
        sought = {what: value for what, value in values.items() if not value.isalpha()}
        for text in _texts_of(file):
            if found := secrets_in(text, sought if file.name in _VOCABULARIES else values):
                how = "Remove it from the file (and from the settings it came from), and revoke it if others saw it"
                raise PublishError(file.name, f"holds {found[0]}, which must not be published", how)


def _texts_of(file: Path) -> Iterator[bytes]:
    """What is read of a file: rows some lines at a time, so that a large file does not have to fit into memory."""
    if file.suffix == ".jsonl":
        with file.open("rb") as rows:
            while lines := rows.readlines(_BLOCK_BYTES):
                yield b"".join(lines)
    elif file.suffix == ".safetensors":
        yield _metadata_of(file)
    elif file.suffix != ".model":
        yield file.read_bytes()


def _metadata_of(file: Path) -> bytes:
    with file.open("rb") as handle:  # 8 bytes of length, then that much JSON
        length = int.from_bytes(handle.read(8), "little")
        header = handle.read(min(length, _HEADER_BYTES))
    try:
        return json.dumps(json.loads(header).get("__metadata__", {}), ensure_ascii=False).encode()
    except (ValueError, AttributeError, RecursionError):
        return b""
