"""Checkpoint folders and rows with manifests, as stages write them, and the card of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from align.jsonl import write_rows
from align.manifest import verify_folder, write_data_manifest, write_folder_manifest
from align.publish.facts import card_facts
from align.publish.model_card import model_card
from align.rows import Message, SFTRow
from align.settings import HubConfig


def made(folder: Path, notes: dict[str, Any], config: str = '{"model_type": "qwen2"}', **files: str) -> Path:
    """A sealed checkpoint folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"weights")
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    write_folder_manifest(folder, list(folder.iterdir()), notes)
    return folder


def rows_of(path: Path, *sources: str, counted: bool = True) -> Path:
    """A file of SFT rows, one of each source, with its manifest or without."""
    said = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
    write_rows(path, [SFTRow(id=f"r{n}", source=source, messages=said) for n, source in enumerate(sources)])
    if counted:
        write_data_manifest(path, config={}, counts={"rows": len(sources), "sources": dict.fromkeys(sources, 1)})
    return path


def trained(folder: Path, start: Path | str, data: Path | str, stage: str = "sft", **files: str) -> Path:
    config = {"model": {"path": str(start)}, "data": {"path": str(data)}, "training": {"learning_rate": 1e-5}}
    return made(folder, {"stage": stage, "steps": 9, "processes": 1, "config": config}, **files)


def card_of(folder: Path, **stated: Any) -> tuple[dict[str, Any], str]:
    """Front matter and text of a checkpoint's card."""
    manifest = verify_folder(folder)
    beyond = {name: stated.pop(name) for name in ("data", "evaluations", "command") if name in stated}
    hub = HubConfig(repo="me/model", **stated)
    card = model_card(manifest, card_facts(folder, manifest, hub, **beyond))
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body
