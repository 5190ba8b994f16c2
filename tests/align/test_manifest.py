"""Manifests of data files and checkpoints: what they say, and each way in which a checkpoint can be broken."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from blake3 import blake3

import align
from align.errors import CheckpointError, RowError, UnreadableCheckpointError
from align.manifest import (
    SEAL,
    content_fingerprint,
    delete_listed_files,
    delete_what_is_left,
    input_fingerprint,
    is_whole,
    read_data_manifest,
    read_manifest,
    remove_manifest,
    verify_folder,
    versions,
    write_data_manifest,
    write_folder_manifest,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "inner" / "state.json").write_text("{}")
    files = [folder / "model.safetensors", folder / "inner" / "state.json"]
    write_folder_manifest(folder, files, {"stage": "sft", "step": 3})
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
    remove_manifest(checkpoint)
    remove_manifest(checkpoint)
    message = refused(checkpoint)
    assert message == "checkpoint: has no MANIFEST.json, so it was never finished. Run its stage again."


def test_a_truncated_file_is_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"weig")
    message = refused(checkpoint)
    assert message == "model.safetensors: has 4 bytes where MANIFEST.json says 7. Run its stage again."


def test_a_flipped_bit_is_found(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"weighus")
    message = refused(checkpoint)
    assert message == "model.safetensors: does not have the content that MANIFEST.json says. Run its stage again."


def test_a_missing_file_is_named(checkpoint: Path) -> None:
    (checkpoint / "inner" / "state.json").unlink()
    assert refused(checkpoint) == "inner/state.json: is listed in MANIFEST.json, but missing. Run its stage again."


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{\n "files": {',
        b'{\n "files": {}, "x": ' + b"[" * 100_000,
        b'{\n "files": {"a": 1}}',
        b'{\n "files": {"a": {"bytes": "7", "blake3": 0}}}',
        b'{\n "files": {"a": {"bytes": 7}}}',
        b'{\n "files": {"../a": {"bytes": 7, "blake3": ""}}}',
        b'{\n "files": {"/etc/passwd": {"bytes": 7, "blake3": ""}}}',
        b'{\n "files": {"a": {"bytes": ' + b"9" * 5000 + b', "blake3": ""}}}',
        b'{\n "format": 3,\n "files": {}}',
    ],
    ids=lambda content: content[:40].decode("latin-1"),
)
def test_a_manifest_that_is_none_is_refused_by_name(checkpoint: Path, content: bytes) -> None:
    (checkpoint / SEAL).write_bytes(content)
    assert refused(checkpoint).startswith("MANIFEST.json: cannot be read (")


def test_a_manifest_that_is_a_folder_or_huge_is_refused(checkpoint: Path) -> None:
    with (checkpoint / SEAL).open("r+b") as handle:
        handle.truncate(65 * 2**20)
    assert refused(checkpoint).startswith("MANIFEST.json: is larger than ")
    (checkpoint / SEAL).unlink()
    (checkpoint / SEAL).mkdir()
    assert refused(checkpoint).startswith("MANIFEST.json: cannot be read (")


@pytest.mark.slow
def test_no_bit_of_a_manifest_can_change_unnoticed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bit of it, one at a time, and every length. Read from memory: writing each variant would take too long."""
    written = (checkpoint / SEAL).read_bytes()
    content = bytearray(written)
    monkeypatch.setattr(Path, "read_bytes", lambda path: bytes(content))
    assert read_manifest(checkpoint)["step"] == 3
    for place in range(len(written)):
        for bit in range(8):
            content[place] ^= 1 << bit
            with pytest.raises(CheckpointError, match=r"MANIFEST\.json: cannot be read"):
                read_manifest(checkpoint)
            content[place] ^= 1 << bit
    assert content == written
    while content:
        content.pop()
        with pytest.raises(CheckpointError, match=r"MANIFEST\.json: cannot be read"):
            read_manifest(checkpoint)


def test_a_manifest_without_a_hash_of_itself_is_read_if_it_is_of_format_1(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / SEAL).read_text())
    assert list(manifest)[:3] == ["format", "blake3", "files"]
    old = {name: value for name, value in manifest.items() if name not in ("format", "blake3")}
    (checkpoint / SEAL).write_text(json.dumps(old, indent=1))
    assert verify_folder(checkpoint) == old
    (checkpoint / SEAL).write_text(json.dumps({"format": 2, **old}, indent=1))
    assert "the hash" in refused(checkpoint) or "does not begin" in refused(checkpoint)


def test_a_file_that_a_library_kept_to_its_owner_gets_the_usual_permissions(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").chmod(0o600)
    (checkpoint / "plain").touch()
    write_folder_manifest(checkpoint, [checkpoint / "model.safetensors"])
    modes = [(checkpoint / name).stat().st_mode for name in ("model.safetensors", "plain", SEAL)]
    assert modes == [modes[0]] * 3


def test_files_can_be_deleted_from_a_sealed_folder(checkpoint: Path) -> None:
    before = verify_folder(checkpoint)
    delete_listed_files(checkpoint, ["inner/state.json"], {"reduced": True})
    after = verify_folder(checkpoint)
    assert after["files"] == {"model.safetensors": before["files"]["model.safetensors"]}
    assert (after["step"], after["reduced"]) == (3, True)
    assert not (checkpoint / "inner" / "state.json").exists()


def test_a_kill_while_files_are_deleted_leaves_a_whole_folder_and_the_rest_can_be_deleted(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest was deleted first, and the next start of a run deleted the folder, which had none."""

    def killed(path: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_listed_files(checkpoint, ["inner/state.json"], {"reduced": True})
    assert (checkpoint / "inner" / "state.json").exists()
    manifest = verify_folder(checkpoint)
    assert manifest["deleted"] == ["inner/state.json"]
    assert manifest["reduced"] is True
    outside = checkpoint.parent / "mine.txt"
    outside.write_text("not ours")
    delete_what_is_left(checkpoint, {**manifest, "deleted": ["../mine.txt", str(outside), "inner/state.json"]})
    assert not (checkpoint / "inner" / "state.json").exists()
    assert outside.exists()


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[]"])
def test_a_data_manifest_that_cannot_be_read_is_a_row_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl.manifest.json").write_bytes(content)
    with pytest.raises(RowError, match=r"rows\.jsonl\.manifest\.json: .*Build rows\.jsonl again"):
        read_data_manifest(tmp_path / "rows.jsonl")


def test_an_input_that_is_a_checkpoint_counts_by_its_manifest_and_a_hub_name_by_its_commit(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert input_fingerprint(checkpoint) == blake3((checkpoint / SEAL).read_bytes()).hexdigest()
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--me--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert input_fingerprint("me/tiny") == f"commit {commit}"
    for missing in ("me/other", "no/such/folder", tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="is neither a file or folder nor a name in the Hub's cache"):
            input_fingerprint(missing)


def test_versions_name_what_moves_numbers() -> None:
    found = versions()
    assert found["align"] == align.__version__
    assert found["torch"] == importlib.metadata.version("torch")
    assert "python" in found
    json.dumps(found)


# What cannot be read now may be whole


@pytest.mark.parametrize("name", ["model.safetensors", "inner/state.json", SEAL])
def test_a_file_that_the_system_does_not_let_us_read_is_not_called_damaged(checkpoint: Path, name: str) -> None:
    """A link to itself takes the place of a disk that fails, as root may read whatever permissions say."""
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to(checkpoint / name)
    expected = f"{name}: cannot be read .Too many levels of symbolic links.. Make it readable .permissions, disk., or"
    for read in (verify_folder, content_fingerprint):
        with pytest.raises(UnreadableCheckpointError, match=expected):
            read(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", SEAL])
def test_a_link_to_storage_that_is_not_mounted_is_not_called_missing(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to("/mnt/away/file")
    with pytest.raises(UnreadableCheckpointError, match=f"{name}: is a link to /mnt/away/file, which does not exist"):
        verify_folder(checkpoint)


def test_a_folder_in_place_of_a_file_is_damage(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError) as caught:
        verify_folder(checkpoint)
    assert not isinstance(caught.value, UnreadableCheckpointError)


def test_a_manifest_of_a_later_format_is_known_by_the_hash_of_its_text(checkpoint: Path) -> None:
    """A flipped bit that makes a 3 of the 2 is damage; a whole manifest of format 3 was written by a newer version."""
    text = (checkpoint / SEAL).read_text()
    (checkpoint / SEAL).write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(CheckpointError, match="its text is not what was written") as caught:
        read_manifest(checkpoint)
    assert not isinstance(caught.value, UnreadableCheckpointError)
    digest = text.split('"blake3": "')[1][:64]
    unsigned = text.replace('"format": 2', '"format": 3').replace(digest, "0" * 64)
    (checkpoint / SEAL).write_text(unsigned.replace("0" * 64, blake3(unsigned.encode()).hexdigest()))
    with pytest.raises(UnreadableCheckpointError, match="is of format 3, and this version"):
        read_manifest(checkpoint)
