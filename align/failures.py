"""Turns failures of the environment (a full disk, no access, no memory, no network) into one message for the user, in
place of a traceback.

Errors that only a fault in the code explains (AssertionError, TypeError, KeyError, ...) are not translated: their
traceback is the message. Classes of heavy libraries are recognised by name, so that nothing is imported here.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator, Sequence

from align.errors import AlignError

CONTINUE = "then start the same command again: it continues from what is saved"

_BY_NUMBER = {
    errno.ENOSPC: ("the disk is full", f"Free some space or choose another folder, {CONTINUE}"),
    errno.EDQUOT: ("your disk quota is used up", f"Free some space or choose another folder, {CONTINUE}"),
    errno.EACCES: ("permission denied", "Choose a folder that you may write to, or change its permissions"),
    errno.EPERM: ("not permitted", "Choose a folder that you may write to, or change its permissions"),
    errno.EROFS: ("the file system is read-only", "Choose a folder on a disk that can be written"),
    errno.ENOENT: ("does not exist", "Check the path in the config"),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "Choose another path"),
    errno.EISDIR: ("is a folder, and a file is expected", "Name a file"),
    errno.EEXIST: ("exists already, as another kind of file", "Choose another path, or move it away"),
    errno.ENAMETOOLONG: ("the name is too long for this file system", "Choose a shorter path"),
    errno.ELOOP: ("symbolic links lead in a circle", "Choose another path"),
    errno.EIO: ("the disk reports an input/output error", "Check the disk; files on it may be damaged"),
    errno.ESTALE: ("the network file system has lost this file", f"Check the mount, {CONTINUE}"),
    errno.EMFILE: ("too many files are open", "Raise the limit (ulimit -n 65536)"),
    errno.ENFILE: ("too many files are open on this machine", "Wait, or end other programs"),
    errno.ENOMEM: ("there is not enough memory", "Lower data.token_budget or sampling.batch_size"),
    errno.EADDRINUSE: ("the address is in use by another program", "Choose another port"),
}
_NETWORK = {"huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|not enough memory", re.IGNORECASE)
_DISK_FULL = re.compile(r"no space left|disk is full|os error 28\b", re.IGNORECASE)
# The repository that an error of the Hub names, in an address or in quotes:
#   "404 ... url: https://huggingface.co/api/models/me/model/revision/main"   me/model
#   "https://huggingface.co/docs/hub"                                        nothing: a page of the documentation
#   "Cannot find 'me/model'"                                                 me/model
_REPOSITORY = re.compile(
    r"huggingface\.co/(?!docs/|settings/)(?:api/)?(?:models/|datasets/)?([\w.-]+/[\w.-]+)|['\"]([\w.-]+/[\w.-]+)['\"]"
)


def explained(error: BaseException, hub_names: Sequence[str] = ()) -> AlignError | None:
    """`error` as a message of where, what and how; None for one that is, or may be, a fault of the code.

    hub_names: what the config reads from the Hub, for errors of the Hub that name nothing.
    """
    if isinstance(error, AlignError):
        return error
    if isinstance(error, OSError | ValueError | RuntimeError) or _library(error) in _NETWORK:
        chain = list(_chain(error))
        for link in chain:
            if _library(link) == "huggingface_hub":
                return _of_the_hub(link, "\n".join(map(str, [link, *chain])), ", ".join(hub_names))
        for link in chain:
            if _library(link) in _NETWORK or isinstance(link, ConnectionError):
                return _unreachable(link, ", ".join(hub_names))
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names or _is_torch_memory(error):
        how = "Lower data.token_budget or sampling.batch_size, or set model.gradient_checkpointing: true"
        return AlignError("memory", f"there is not enough: {_first_line(error) or 'MemoryError'}", how)
    if "SafetensorError" in names:
        if _DISK_FULL.search(str(error)):
            return AlignError("a checkpoint", *_BY_NUMBER[errno.ENOSPC])
        what = f"a .safetensors file cannot be read or written ({_first_line(error)})"
        return AlignError("a checkpoint", what, "Check the disk and the file; download or make the checkpoint again")
    if isinstance(error, sqlite3.Error):
        return AlignError("a database", _first_line(error), "Check the disk, the path and who else has it open")
    if isinstance(error, RecursionError):
        return AlignError("a value", "is nested too deep to be read", "Look for thousands of brackets in the input")
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        return AlignError("a text", f"is not UTF-8 ({_first_line(error)})", "Save the file that was read last as UTF-8")
    if isinstance(error, OSError):
        return _of_the_system(error)
    return None


def _of_the_system(error: OSError) -> AlignError:
    where = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    if error.errno in _BY_NUMBER:
        return AlignError(where or "files", *_BY_NUMBER[error.errno])
    if error.errno is not None:
        return AlignError(where or "files", f"{error.strerror}", "Check the path, the disk and the permissions")
    # transformers raises OSError with a text alone: "... is not a local folder and is not a valid model identifier"
    return AlignError(
        where or "a checkpoint", _first_line(error), "Check model.path: a folder, or owner/name on the Hub"
    )


def _of_the_hub(error: BaseException, texts: str, names: str) -> AlignError:
    """texts: what it and the errors raised from it say; one of them may name the repository."""
    found = _REPOSITORY.search(texts)
    name = (found[1] or found[2]) if found else names
    where = name or "Hugging Face Hub"
    kinds = {cls.__name__ for cls in type(error).__mro__}
    if "GatedRepoError" in kinds:
        page = f"https://huggingface.co/{name}" if name else "its page"
        what = "access to this repository has to be granted, and this token has none"
        return AlignError(where, what, f"Accept its terms at {page}, and set HF_TOKEN to a token of that account")
    if "RepositoryNotFoundError" in kinds:
        what = "the Hub has no such repository, or it is private"
        return AlignError(where, what, "Check the name; for a private one set HF_TOKEN")
    if "RevisionNotFoundError" in kinds:
        return AlignError(where, "the Hub has no such revision of it", "Check the branch, tag or commit")
    if "LocalEntryNotFoundError" in kinds or "OfflineModeIsEnabled" in kinds:
        return _unreachable(error, where)
    if "EntryNotFoundError" in kinds:
        return AlignError(
            where, f"lacks a file that is read ({_first_line(error)})", "Check that it holds a whole model"
        )
    if "HFValidationError" in kinds:
        what = f"is neither a folder that exists nor owner/name on the Hub ({_first_line(error)})"
        return AlignError(where, what, "Check the path")
    return AlignError(where, _first_line(error), "Check the name, the token (HF_TOKEN) and the network")


def _unreachable(error: BaseException, where: str) -> AlignError:
    what = f"the Hub cannot be reached, and what is needed is not in the local cache ({_first_line(error)})"
    how = "Check the network, or download it elsewhere (hf download NAME) and name the local folder"
    return AlignError(where or "Hugging Face Hub", what, how)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from. transformers raises its own OSError in the handler of the Hub's."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        handled = link.__context__ if isinstance(error, OSError) and not link.__suppress_context__ else None
        link = link.__cause__ or handled


def _library(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _is_torch_memory(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
