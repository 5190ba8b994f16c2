"""What an answer of the Hugging Face Hub means for a user, as text. One rule for models, adapters and datasets.

Errors of huggingface_hub are recognized by the names of their classes and by the HTTP status, so that neither it nor
its HTTP library is imported here.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from align.errors import first_line

Kind = Literal["model", "dataset"]

NETWORK = frozenset({"huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})
"""Packages whose errors are about the network or the Hub."""

LOG_IN = "log in: hf auth login, or set HF_TOKEN"
_SUGGESTION_SECONDS = 5.0


class HubProblem(NamedTuple):
    """Why something could not be read from the Hub."""

    about: Literal["access", "name", "revision", "file", "network"]
    """What the user has to change. network: nothing in the config is wrong, the same command may work later."""
    what: str
    how: str


def hub_problem(
    error: BaseException, name: str, *, revision: str | None = None, kind: Kind = "model"
) -> HubProblem | None:
    """The meaning of an error that was raised while `name` was read from the Hub; None for an error of another kind.

    name: owner/name; empty if it is not known.
    """
    links = list(chain(error))
    for link in links:
        found = _meaning(link, name, revision, kind)
        if found is not None:
            return found
    names = {cls.__name__ for link in links for cls in type(link).__mro__}
    if "LocalEntryNotFoundError" in names:  # nothing says why, so the cache alone was asked
        return _offline(name, revision, kind) if _is_offline() else _unreachable(error, name, revision, kind)
    return None


def with_suggestion(problem: HubProblem, names: Sequence[str]) -> HubProblem:
    """The problem of a name that does not exist, with the existing names that may be meant."""
    if problem.about != "name" or not names:
        return problem
    how = f"Did you mean {' or '.join(names)}? If the name is right and the repository is private, {LOG_IN}"
    return problem._replace(how=how)


def similar_on_hub(name: str, kind: Kind = "model") -> list[str]:
    """Existing repositories whose name is close to owner/name: of the same owner, or of the same name elsewhere.

    Two requests of at most five seconds each. Empty if the Hub does not answer them.
    """
    try:
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers, get_session

        owner, _, own = name.partition("/")
        found: dict[str, None] = {}
        for query in ({"author": owner}, {"search": own}):
            answer = get_session().get(
                f"{constants.ENDPOINT}/api/{kind}s",
                params={**query, "limit": "500"},
                headers=build_hf_headers(),
                timeout=_SUGGESTION_SECONDS,
            )
            found.update(dict.fromkeys(str(each["id"]) for each in answer.json()))
            close = difflib.get_close_matches(name, found, n=2, cutoff=0.75)
            if close:
                return close
        return [each for each in found if each.partition("/")[2].lower() == own.lower()][:2]
    except Exception:  # a suggestion is a courtesy: without one the message is still complete
        return []


def page_of(name: str, kind: Kind = "model") -> str:
    """The address of a repository's page, at the Hub that HF_ENDPOINT names."""
    if not name:
        return "its page"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from. transformers raises its own OSError in the handler of the Hub's."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        handled = link.__context__ if isinstance(error, OSError) and not link.__suppress_context__ else None
        link = link.__cause__ or handled


def is_of_the_network(error: BaseException) -> bool:
    """Whether an error comes from the Hub, an HTTP library or a connection."""
    return is_of_a_library(error) or (isinstance(error, ConnectionError) and not isinstance(error, BrokenPipeError))


def is_of_a_library(error: BaseException) -> bool:
    """Whether the class of an error is of a package in `NETWORK`."""
    return type(error).__module__.partition(".")[0] in NETWORK


def _meaning(error: BaseException, name: str, revision: str | None, kind: Kind) -> HubProblem | None:
    names = {cls.__name__ for cls in type(error).__mro__}
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = _said(error, response)
    # The header of a request, which must be ASCII. Text that is printed in such a locale raises the same class.
    if isinstance(error, UnicodeEncodeError) and error.encoding == "ascii" and error.object.startswith("Bearer "):
        return HubProblem("access", "the access token holds characters that no token has", f"Again {LOG_IN}")
    if "GatedRepoError" in names:
        return _gated(name, kind, said, logged_in=status == 403)
    if "DisabledRepoError" in names:
        return HubProblem("access", f"the Hub has disabled the access to {_it(name, kind)}", f"Use another {kind}")
    if "RevisionNotFoundError" in names:
        what = f"{_it(name, kind)} has no revision {revision or 'main'} on the Hub"
        return HubProblem("revision", what, "Name a branch, tag or commit of it")
    if "RepositoryNotFoundError" in names:
        return _missing(name, kind)
    if "OfflineModeIsEnabled" in names:
        return _offline(name, revision, kind)
    if "HFValidationError" in names:
        what = f"{name or 'this'} is neither a path that exists nor owner/name on the Hub ({_cause(error)})"
        return HubProblem("name", what, "Correct the path or the name")
    if "EntryNotFoundError" in names and "LocalEntryNotFoundError" not in names:
        what = f"{_it(name, kind)} has no such file on the Hub ({_cause(error)})"
        return HubProblem("file", what, "Check the name of the file")
    if status is not None:
        return _by_status(status, name, kind, said)
    if is_of_the_network(error) and "LocalEntryNotFoundError" not in names:
        return _unreachable(error, name, revision, kind)
    return None


def _by_status(status: int, name: str, kind: Kind, said: str) -> HubProblem:
    if status == 401 and "invalid credentials" in said.lower():
        return HubProblem("access", "the Hub does not accept the access token of this machine", f"Again {LOG_IN}")
    if status in (401, 404):  # to somebody who is not logged in, the Hub answers 401 for a name that does not exist
        return _missing(name, kind)
    if status == 403:
        what = f"the Hub refuses {_it(name, kind)} to the account of this token ({said or status})"
        return HubProblem("access", what, f"Check the permissions of the token, or {LOG_IN}")
    if status == 429:
        what = f"the Hub has received too many requests from here (status {status})"
        return HubProblem("network", what, f"Wait some minutes and start again; for a higher limit, {LOG_IN}")
    if status >= 500:
        what = f"the Hub failed to answer (status {status})"
        return HubProblem("network", what, f"Start again later, or name a local folder with the {kind}")
    return HubProblem("network", f"the Hub answered with status {status} ({said or 'without a reason'})", "Try again")


def _gated(name: str, kind: Kind, said: str, *, logged_in: bool) -> HubProblem:
    it, page = _it(name, kind), page_of(name, kind)
    if "awaiting" in said.lower():
        what = f"{it} is gated on the Hub, and your request for access is awaiting a review by its authors"
        return HubProblem("access", what, f"Wait for their answer, which {page} shows")
    if logged_in:
        what = f"{it} is gated on the Hub, and the account of your token has no access to it"
        how = (
            f"Accept its licence on {page} with that account (a fine-grained token also needs the permission to read "
            f"gated repositories); for another account, {LOG_IN}"
        )
        return HubProblem("access", what, how)
    what = f"{it} is gated on the Hub, and you are not logged in"
    return HubProblem("access", what, f"Accept its licence on {page}, then {LOG_IN}")


def _missing(name: str, kind: Kind) -> HubProblem:
    what = f"there is no {kind} {name} on the Hub, or it is private" if name else f"the Hub has no {kind} of this name"
    return HubProblem("name", what, f"Check the name; for a private repository, {LOG_IN}")


def _offline(name: str, revision: str | None, kind: Kind) -> HubProblem:
    what = f"HF_HUB_OFFLINE is set, and the local cache has no complete copy of {_it(name, kind)}{_at(revision)}"
    how = f"Unset HF_HUB_OFFLINE to download it, or name a local folder with the {kind}"
    return HubProblem("network", what, how)


def _unreachable(error: BaseException, name: str, revision: str | None, kind: Kind) -> HubProblem:
    it = f"{_it(name, kind)}{_at(revision)}"
    what = f"the Hub cannot be reached ({_cause(error)}), and the local cache has no complete copy of {it}"
    of_datasets = " --repo-type dataset" if kind == "dataset" else ""
    command = f"hf download {name or 'owner/name'}{of_datasets} --local-dir FOLDER"
    how = (
        f"Check the network, the proxy and HF_ENDPOINT, or download it on another machine ({command}) and name that "
        "folder; with HF_HUB_OFFLINE=1 only the cache is read"
    )
    return HubProblem("network", what, how)


def _at(revision: str | None) -> str:
    return f" at revision {revision}" if revision else ""


def _it(name: str, kind: Kind) -> str:
    return name or f"the {kind}"


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _said(error: BaseException, response: Any) -> str:
    """The server's own words."""
    header = response.headers.get("X-Error-Message") if response is not None else None
    return str(getattr(error, "server_message", None) or header or "")


def _cause(error: BaseException) -> str:
    """The first line of the innermost error, which names the cause."""
    *_, last = chain(error)
    return first_line(last)
