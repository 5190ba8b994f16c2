"""What the disk, the Hub and the memory can do to a run is one message; a fault of the code is not hidden."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Annotated

import pytest
import torch
from huggingface_hub import errors as hub
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer, models

from align.config import Recipe, main
from align.errors import CheckpointError
from align.failures import explained
from align.settings import INPUT, OUTPUT


def explanation(error: BaseException) -> str:
    found = explained(error)
    assert found is not None
    return str(found)


def raised(run) -> BaseException:  # type: ignore[no-untyped-def]
    try:
        run()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_our_own_errors_are_their_message() -> None:
    error = CheckpointError("a", "b", "c")
    assert explained(error) is error


@pytest.mark.parametrize(
    "error",
    [AssertionError("x"), TypeError("x"), KeyError("x"), AttributeError("x"), ValueError("x"), RuntimeError("x")],
)
def test_faults_of_the_code_are_not_explained(error: Exception) -> None:
    assert explained(error) is None
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert explained(error) is None, "whatever was handled before"


def test_every_way_in_which_a_file_fails_names_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in (
        (tmp_path / "none", "does not exist"),
        (file / "below", "a part of this path is a file"),
        (tmp_path, "is a folder, and a file is expected"),
        (tmp_path / (300 * "a"), "the name is too long"),
        (tmp_path / "loop", "symbolic links lead in a circle"),
    ):
        message = explanation(raised(path.read_text))
        assert message.startswith(f"{path}: ")
        assert words in message
    message = explanation(raised(lambda: file.mkdir()))
    assert message.startswith(f"{file}: exists already")


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "input/output error"),
        (errno.EMFILE, "too many files are open"),
        (errno.ESTALE, "network file system"),
        (errno.ENOTEMPTY, "Directory not empty"),
    ],
)
def test_the_systems_errors_say_what_to_do(number: int, words: str) -> None:
    message = explanation(OSError(number, os.strerror(number), "/out/model", None, "/out/other"))
    assert message.startswith("/out/model -> /out/other: ")
    assert words in message
    assert explanation(OSError(number, os.strerror(number))).startswith("files: ")


def test_a_full_disk_is_one_message_while_weights_are_saved() -> None:
    """/dev/full answers every write with ENOSPC."""
    message = explanation(raised(lambda: Path("/dev/full").write_text("x" * 100_000)))
    assert "the disk is full. Free some space" in message
    message = explanation(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert message.startswith("a checkpoint: the disk is full")
    tokenizer = Tokenizer(models.BPE())
    message = explanation(raised(lambda: tokenizer.save("/dev/full")))
    assert message.startswith("a checkpoint: the disk is full"), "a bare Exception of tokenizers"


def test_a_damaged_safetensors_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\xff" * 100)
    message = explanation(raised(lambda: safe_open(file, "pt")))
    assert "a .safetensors file cannot be read or written" in message


def test_memory_of_any_kind_says_what_to_lower() -> None:
    for error in (
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee the docs"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ):
        assert "Lower data.token_budget or sampling.batch_size" in explanation(error)


def test_a_broken_pipe_is_not_the_hubs() -> None:
    assert "Hub" not in explanation(BrokenPipeError(errno.EPIPE, "Broken pipe"))


def test_too_deep_or_not_utf_8_is_reported() -> None:
    deep = raised(lambda: json.loads("[" * 1_000_000))
    assert isinstance(deep, RecursionError)
    assert "is nested too deep" in explanation(deep)
    assert "is not UTF-8" in explanation(raised(lambda: b"\xff".decode()))
    assert "is not UTF-8" in explanation(raised(lambda: "\ud83d".encode()))


def test_a_database_is_reported(tmp_path: Path) -> None:
    message = explanation(raised(lambda: sqlite3.connect(tmp_path / "no" / "such" / "x.sqlite")))
    assert message.startswith("a database: unable to open database file")


def test_text_that_the_locale_cannot_write_is_not_the_hubs() -> None:
    """Only a header of a request is about the token: the class is that of every text that is not ASCII."""
    for text, encoding in (
        ("\u27e6", "ascii"),
        ("loss \u27e6 3", "ascii"),
        ("\u27e6", "latin-1"),
        ("\u27e6", "cp1252"),
    ):
        message = explanation(raised(lambda text=text, encoding=encoding: text.encode(encoding)))
        assert message.startswith("a text: the encoding ")
        assert "has no '\\u27e6'. Set PYTHONUTF8=1" in message
    assert "the access token holds characters" in explanation(raised(lambda: "Bearer hf_\u27e6".encode("ascii")))


def test_a_connection_is_the_hubs_only_if_its_libraries_or_a_name_say_so() -> None:
    for error in (
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        ConnectionRefusedError("refused"),
        ConnectionError("the process group is gone"),
    ):
        message = explanation(error)
        assert message.startswith("network: a connection has failed (")
        assert "Hub" not in message
        assert str(explained(error, ["me/model"])).startswith("me/model: the Hub cannot be reached")
        of_the_hub = HTTP.ConnectError("Connection failed")
        of_the_hub.__cause__ = error
        assert "the Hub cannot be reached" in explanation(of_the_hub)


HTTP = sys.modules[hub.HTTPError.__module__.partition(".")[0]]  # httpx, or the library that has taken its place


def response(status: int):  # type: ignore[no-untyped-def]
    address = "https://huggingface.co/api/models/meta-llama/Llama-3.1-8B"
    return HTTP.Response(status, request=HTTP.Request("GET", address))


GATED = (
    "403 Client Error.\n\nCannot access gated repo for url https://huggingface.co/meta-llama/Llama-3.1-8B/resolve/main"
)


@pytest.mark.parametrize(
    "error, words",
    [
        (
            hub.GatedRepoError(GATED, response=response(403)),
            "meta-llama/Llama-3.1-8B: meta-llama/Llama-3.1-8B is gated on the Hub, and the account of your token has "
            "no access to it. Accept its licence on https://huggingface.co/meta-llama/Llama-3.1-8B with that account",
        ),
        (
            hub.RepositoryNotFoundError("404", response=response(404)),
            "the Hub has no model of this name",
        ),
        (hub.RevisionNotFoundError("404", response=response(404)), "the model has no revision main on the Hub"),
        (hub.EntryNotFoundError("no config.json"), "has no such file on the Hub (no config.json)"),
        (hub.LocalEntryNotFoundError("Cannot find the files"), "cannot be reached"),
        (
            hub.OfflineModeIsEnabled("Cannot reach https://huggingface.co/a/b: offline mode"),
            "a/b: HF_HUB_OFFLINE is set, and the local cache has no complete copy of a/b",
        ),
        (hub.HFValidationError("Repo id must be in the form 'repo_name': 'a/b/c'"), "is neither a path that exists"),
        (hub.HfHubHTTPError("500 Server Error", response=response(500)), "the Hub failed to answer (status 500)"),
        (HTTP.ConnectError("Name or service not known"), "Hugging Face Hub: the Hub cannot be reached"),
        (HTTP.ReadTimeout("timed out"), "cannot be reached"),
    ],
)
def test_the_hubs_errors_say_what_to_do(error: Exception, words: str) -> None:
    assert words in explanation(error)
    wrapped = OSError("You are trying to access a gated repo.\nMake sure to have access to it.")
    wrapped.__cause__ = error
    assert words in explanation(wrapped), "as transformers raises it again"


def test_a_name_that_the_hubs_error_leaves_out_comes_from_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Toy(Recipe):
        model: Annotated[Path, INPUT]
        output: Annotated[Path, OUTPUT]

    def fail(config: Toy) -> None:
        try:
            raise hub.LocalEntryNotFoundError("Cannot find the requested files in the disk cache")
        except hub.LocalEntryNotFoundError as error:  # as transformers does
            raise OSError("We couldn't connect to 'https://huggingface.co/docs/transformers/installation'") from error

    config = tmp_path / "toy.yaml"
    config.write_text("model: no-owner/Llama-3.1-8B\noutput: runs/x\n")
    with pytest.raises(SystemExit) as left:
        main(Toy, fail, [str(config)])
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("no-owner/Llama-3.1-8B: the Hub cannot be reached")
