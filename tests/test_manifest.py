"""Manifests of data files and checkpoints: what they say, and each way in which a checkpoint can be broken."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from blake3 import blake3

import align
from align.errors import CheckpointError
from align.manifest import (
    SEAL,
    is_whole,
    read_data_manifest,
    seal_folder,
    unseal_folder,
    verify_folder,
    versions,
    write_data_manifest,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "inner" / "state.json").write_text("{}")
    files = [folder / "model.safetensors", folder / "inner" / "state.json"]
    seal_folder(folder, files, {"stage": "sft", "step": 3})
    return folder


def test_a_data_manifest_says_how_the_file_was_made(tmp_path: Path) -> None:
    source, rows = tmp_path / "source.json", tmp_path / "rows.jsonl"
    source.write_text("raw")
    rows.write_text("{}\n")
    counts = {"rows": 1, "dropped": {"duplicate": 2}}
    path = write_data_manifest(rows, config={"seed": 0}, inputs=[source], counts=counts, notes={"mix": {"a": 1}})
    assert path == tmp_path / "rows.jsonl.manifest.json"
    found = read_data_manifest(rows)
    assert found["file"] == "rows.jsonl"
    assert found["blake3"] == blake3(b"{}\n").hexdigest()
    assert found["inputs"] == {str(source): blake3(b"raw").hexdigest()}
    assert found["counts"] == counts
    assert found["config"] == {"seed": 0}
    assert found["mix"] == {"a": 1}
    assert found["made_by"] == versions()


def test_rows_that_a_user_brought_have_no_manifest(tmp_path: Path) -> None:
    assert read_data_manifest(tmp_path / "mine.jsonl") == {}


def test_a_whole_checkpoint_passes_and_gives_its_manifest(checkpoint: Path) -> None:
    manifest = verify_folder(checkpoint)
    assert manifest["stage"] == "sft"
    assert manifest["step"] == 3
    weights = {"bytes": 7, "blake3": blake3(b"weights").hexdigest()}
    assert manifest["files"]["model.safetensors"] == weights
    assert set(manifest["files"]) == {"model.safetensors", "inner/state.json"}
    (checkpoint / "metrics.jsonl").write_text("a file that is not listed")
    assert is_whole(checkpoint)


def refused(checkpoint: Path) -> str:
    assert not is_whole(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        verify_folder(checkpoint)
    return str(caught.value).replace(f"{checkpoint}/", "").replace(str(checkpoint), "checkpoint")


def test_without_a_manifest_it_is_no_checkpoint(checkpoint: Path) -> None:
    unseal_folder(checkpoint)
    unseal_folder(checkpoint)
    told = refused(checkpoint)
    assert told == "checkpoint: has no MANIFEST.json, so it was never finished. Run its stage again."


def test_a_truncated_file_is_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"weig")
    told = refused(checkpoint)
    assert told == "model.safetensors: has 4 bytes where MANIFEST.json says 7. Run its stage again."


def test_a_flipped_bit_is_found(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"weighus")
    told = refused(checkpoint)
    assert told == "model.safetensors: does not have the content that MANIFEST.json says. Run its stage again."


def test_a_missing_file_is_named(checkpoint: Path) -> None:
    (checkpoint / "inner" / "state.json").unlink()
    assert refused(checkpoint) == "inner/state.json: is listed in MANIFEST.json and not there. Run its stage again."


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_manifest_that_is_none_is_told(checkpoint: Path, text: str) -> None:
    (checkpoint / SEAL).write_text(text)
    assert refused(checkpoint).startswith("MANIFEST.json: cannot be read (")


def test_versions_name_what_moves_numbers() -> None:
    found = versions()
    assert found["align"] == align.__version__
    assert found["torch"] == importlib.metadata.version("torch")
    assert "python" in found
    json.dumps(found)
