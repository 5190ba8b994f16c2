"""Puts a folder on the Hub so that no reader sees a part of it: a branch, a comparison of all hashes, then a tag.

    1. The files are uploaded to a branch, such as round-2, in as many commits as huggingface_hub makes of them.
    2. Each file on the Hub is compared with the local one by its hash.
    3. The commit that was compared gets a tag, such as round-2-1f3c9a2b, which ends with a hash of the content.
    4. If asked, main gets the files of that commit in a single commit.

Every step reads what the Hub has, does what is missing, and reads again. So a push that was killed is resumed by the
same call, a repeated one changes nothing, and an answer that was lost or is out of date is only a reason to try again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from align.errors import PublishError, first_line
from align.reporting import logger

log = logger(__name__)

TRIES = 6
FIRST_WAIT_SECONDS = 2.0
"""Doubles with each try: about a minute in all. An answer that names a longer time is obeyed."""
LONGEST_WAIT_SECONDS = 300.0
"""The most that is waited because an answer asks for it."""
ANSWER_SECONDS = 120.0
"""The longest silence of the Hub inside one request. huggingface_hub itself sets no limit and would wait forever."""

_HOPELESS = frozenset({400, 401, 402, 403, 410, 413, 422})
"""Answers that another try does not change."""
_READ_BYTES = 2**20

T = TypeVar("T")


class Target(NamedTuple):
    """Where a folder goes."""

    repo: str
    """owner/name."""
    branch: str
    tag: str = ""
    """Empty: the branch's name and eight digits of a hash of the content."""
    kind: Literal["model", "dataset"] = "model"
    private: bool = True
    update_main: bool = False


class Pushed(NamedTuple):
    """A push that is complete."""

    commit: str
    tag: str


class _Differences(NamedTuple):
    """What a revision lacks to be the local folder."""

    changed: tuple[str, ...]
    """Files with other content, or that are missing there."""
    stale: tuple[str, ...]
    """Files of an earlier push that the folder does not have, such as a third shard of weights."""

    def __bool__(self) -> bool:  # a tuple of two empty tuples is true
        return bool(self.changed or self.stale)


class _NotYet(Exception):
    """The Hub does not show what was sent, so the step is tried again."""


def push_folder(api: Any, folder: Path, target: Target, message: str, *, is_ours: Callable[[str], bool]) -> Pushed:
    """Put the files of a flat folder on the Hub, complete or not at all.

    api: a `huggingface_hub.HfApi`. message: of the commits.
    is_ours: whether a file of this name comes from a push like this one. Such files are deleted from the branch, and
        from main if it is updated, if the folder does not have them; all other files stay.
    Raises PublishError for what another try does not change, and when the tries are used up.
    """
    _limit_waiting()
    push = _Push(api, folder, target, message, is_ours)
    push.tried(push.create_repo)
    tag = target.tag or f"{target.branch}-{push.content_hash()[:8]}"
    commit = push.tried(lambda: push.find_tag(tag))
    if commit is None:
        push.tried(push.create_branch)
        commit = push.tried(push.upload)
        push.tried(lambda: push.create_tag(tag, commit))
    if target.update_main:
        push.tried(lambda: push.move_main(commit))
    return Pushed(commit, tag)


class _Push:
    """One push: the steps, each of which may be repeated."""

    def __init__(self, api: Any, folder: Path, target: Target, message: str, is_ours: Callable[[str], bool]) -> None:
        self.api, self.folder, self.target, self.message, self.is_ours = api, folder, target, message, is_ours
        self.files = {file.name: file for file in sorted(folder.iterdir())}
        self.sha256 = {name: _sha256(file) for name, file in self.files.items()}
        self.where = {"repo_id": target.repo, "repo_type": target.kind}

    def content_hash(self) -> str:
        lines = "".join(f"{digest}  {name}\n" for name, digest in self.sha256.items())
        return hashlib.sha256(lines.encode()).hexdigest()

    def create_repo(self) -> None:
        self.api.create_repo(**self.where, private=self.target.private, exist_ok=True)

    def create_branch(self) -> None:
        if self.target.branch not in self._branches():
            self.api.create_branch(**self.where, branch=self.target.branch, exist_ok=True)

    def find_tag(self, tag: str) -> str | None:
        """The commit of a tag with these files; None if there is no tag of this name.

        Raises PublishError if it exists with other files: a tag that others may use is never moved.
        """
        commit = self._tags().get(tag)
        if commit is None:
            return None
        differences = self._differences(commit)
        if differences:
            what = f"has the tag {tag} already, for other content ({_named(differences)})"
            raise PublishError(self.target.repo, what, "Choose another hub.tag, or leave it out")
        log.info("%s has these files already, as %s", self.target.repo, tag)
        return commit

    def upload(self) -> str:
        """The commit of the branch that has exactly these files, uploaded as far as they are not there."""
        branch = self.target.branch
        head, differences = self._state_of(branch)
        if not differences:
            return head
        self.api.upload_folder(
            **self.where,
            folder_path=str(self.folder),
            allow_patterns=list(self.files),  # whole names: a pattern would reach into folders
            delete_patterns=list(differences.stale) or None,
            revision=branch,
            commit_message=self.message,
        )
        head, differences = self._state_of(branch)
        if differences:
            raise _NotYet(f"{_named(differences)} on the branch {branch} differs from the local file")
        return head

    def create_tag(self, tag: str, commit: str) -> None:
        self.api.create_tag(**self.where, tag=tag, revision=commit, tag_message=self.message, exist_ok=True)
        found = self._tags().get(tag)
        if found != commit:
            raise _NotYet(f"the tag {tag} is {'missing' if found is None else 'at another commit'}")

    def move_main(self, commit: str) -> None:
        """Let main have the files of a commit, in one commit: weights are copied on the Hub, and not sent again."""
        from huggingface_hub import CommitOperationCopy, CommitOperationDelete

        head, differences = self._state_of("main")
        if not differences:
            return
        copies = [CommitOperationCopy(name, name, src_revision=commit) for name in differences.changed]
        deletions = [CommitOperationDelete(name) for name in differences.stale]
        self.api.create_commit(
            **self.where,
            operations=[*copies, *deletions],
            commit_message=self.message,
            revision="main",
            parent_commit=head,  # refused, and tried again, if main has moved in between
        )
        _, differences = self._state_of("main")
        if differences:
            raise _NotYet(f"{_named(differences)} on main differs from the local file")

    def tried(self, step: Callable[[], T]) -> T:
        """What the step returns, after as many tries as it takes. Raises PublishError when they are used up."""
        repo, seconds = self.target.repo, FIRST_WAIT_SECONDS
        for number in range(1, TRIES + 1):
            try:
                return step()
            except PublishError:
                raise
            except Exception as error:
                if isinstance(error, TypeError | AttributeError | NameError | AssertionError):
                    raise  # a fault of the code: its traceback is the message
                reason = self._reason(error)
                how = _advice(error, repo)
                if how or number == TRIES:
                    how = how or "Try again once the Hub is in reach; what is uploaded is not sent again"
                    # The cause is left out: its text and its request could hold the token.
                    raise PublishError(repo, f"the Hub did not accept it ({reason})", how) from None
                pause = max(seconds, _asked_to_wait(error))
                log.warning("%s: try %d of %d failed (%s); again in %.0f s", repo, number, TRIES, reason, pause)
                time.sleep(pause)
                seconds *= 2
        raise AssertionError("the last try returns or raises")

    def _reason(self, error: Exception) -> str:
        text = str(error)
        token = getattr(self.api, "token", None)
        if isinstance(token, str) and token:
            text = text.replace(token, "<token>")  # before the text is cut
        line = first_line(Exception(text))
        return line if isinstance(error, _NotYet) else f"{type(error).__name__}: {line}"

    def _branches(self) -> dict[str, str]:
        return _commits(self.api.list_repo_refs(**self.where).branches)

    def _tags(self) -> dict[str, str]:
        return _commits(self.api.list_repo_refs(**self.where).tags)

    def _state_of(self, branch: str) -> tuple[str, _Differences]:
        head = self._branches().get(branch)
        if head is None:
            raise _NotYet(f"the branch {branch} is missing")
        return head, self._differences(head)

    def _differences(self, commit: str) -> _Differences:
        entries = self.api.list_repo_tree(**self.where, revision=commit)
        there = {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}  # folders have none
        changed = [name for name in self.files if name not in there or not self._is_same(name, there[name])]
        stale = [name for name in there if name not in self.files and self.is_ours(name)]
        return _Differences(tuple(changed), tuple(stale))

    def _is_same(self, name: str, entry: Any) -> bool:
        """Whether a file of the Hub has the content of the local one: by SHA-256 in LFS or Xet storage, otherwise by
        git's own hash of a blob."""
        if entry.lfs is not None:
            return bool(entry.lfs.sha256 == self.sha256[name])
        content = self.files[name].read_bytes() if entry.size == self.files[name].stat().st_size else b""
        blob = b"blob %d\0" % len(content) + content
        return bool(entry.blob_id == hashlib.sha1(blob, usedforsecurity=False).hexdigest())


def _commits(refs: Iterable[Any]) -> dict[str, str]:
    return {ref.name: ref.target_commit for ref in refs}


def _named(differences: _Differences) -> str:
    first, *more = (*differences.changed, *differences.stale)
    return f"{first} and {len(more)} more" if more else first


def _advice(error: Exception, repo: str) -> str:
    """What the user has to change; empty for an error after which another try may succeed."""
    names = {cls.__name__ for cls in type(error).__mro__}
    status = _status(error)
    if "OfflineModeIsEnabled" in names:
        return "Unset HF_HUB_OFFLINE"
    if status == 401:
        return "Check HF_TOKEN and hub.repo: the token is not valid"
    if status in (402, 403):
        return f"Check HF_TOKEN and hub.repo: the token must be one that may write to {repo}"
    if status in _HOPELESS or "RepositoryNotFoundError" in names:
        return "Check HF_TOKEN and hub.repo"
    if isinstance(error, OSError) and error.filename:
        return "Check that the file can be read"
    return ""


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _asked_to_wait(error: Exception) -> float:
    """The seconds in the header Retry-After of a refusal, at most LONGEST_WAIT_SECONDS; 0 without one."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", None) or {}
    seconds = str(headers.get("Retry-After", "")).strip()
    return min(float(seconds), LONGEST_WAIT_SECONDS) if seconds.isdecimal() else 0.0


def _limit_waiting() -> None:
    """Let requests of huggingface_hub end after ANSWER_SECONDS of silence. A client that a user has set stays."""
    from huggingface_hub import get_session, set_client_factory

    session = get_session()
    if session.timeout.read is not None:
        return
    client, hooks, seconds = type(session), session.event_hooks, ANSWER_SECONDS
    set_client_factory(lambda: client(event_hooks=hooks, follow_redirects=True, timeout=seconds))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as handle:
        while chunk := handle.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
