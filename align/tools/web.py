"""Requests to a web service: time-outs, retries, 429, and a key that appears in no message.

The key travels in a header, never in the address. Redirects are not followed, proxies of the environment are not used,
and a connection goes to an address that was checked (`align/addresses.py`).
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.message import Message
from functools import cache
from http.client import HTTPException

from align.addresses import Place, connected, place_of
from align.errors import ConfigError
from align.tools.results import ToolFailure

MAX_ANSWER_BYTES = 4 << 20


class _StayHere(urllib.request.HTTPRedirectHandler):
    """urllib would carry the headers, key and all, to another host."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = connected(Place("http", self.host, self.port), self.timeout, has_key=True)


class _TLSConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        plain = connected(Place("https", self.host, self.port), self.timeout, has_key=True)
        self.sock = _certificates().wrap_socket(plain, server_hostname=self.host)


class _CheckedHandler(urllib.request.AbstractHTTPHandler):
    """http and https by the connections above."""

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TLSConnection, request)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


def _opener() -> urllib.request.OpenerDirector:
    """`build_opener` would add handlers of files, FTP and the environment's proxies."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _CheckedHandler,
        _StayHere,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


_OPENER = _opener()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Service:
    """A web service that is asked by GET, with its key from the environment."""

    name: str
    """For messages."""
    address: str
    key_variable: str
    """Which environment variable holds the key."""
    key_header: str
    key_prefix: str = ""
    """Text before the key in the header, such as `Bearer `."""
    timeout_seconds: float = 20.0
    """For one try: to connect, and between two pieces of the answer."""
    tries: int = 3
    first_pause_seconds: float = 1.0
    """Before the second try; doubled for each further one. The service's Retry-After goes before it."""
    longest_pause_seconds: float = 30.0
    """A service that asks for more is not waited for."""

    def __post_init__(self) -> None:
        place_of(self.address)

    def check_key(self) -> None:
        """Raise where the environment holds no key: before the first call, not in the middle of a run."""
        if not os.environ.get(self.key_variable, "").strip():
            raise ConfigError(
                self.key_variable,
                f"{self.name} requires a key, and the environment has none",
                f"Set {self.key_variable}, or choose the embedded engine",
            )

    def get(self, parameters: dict[str, str], accepted: tuple[int, ...] = ()) -> Answer:
        """The service's answer; statuses in `accepted` are answers too.

        Tried again: no connection, a time-out, 429 and 5xx. Raises ToolFailure when the tries are used up, and
        ConfigError where the key is refused.
        """
        self.check_key()
        failure = ToolFailure("network", f"{self.name} was not asked")
        for attempt in range(self.tries):
            pause = min(self.first_pause_seconds * 2**attempt, self.longest_pause_seconds)
            try:
                return self._ask(parameters)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code in accepted:
                        return Answer(error.code, _text(error.read(MAX_ANSWER_BYTES), error.headers))
                if error.code in (401, 403):
                    raise ConfigError(
                        self.key_variable,
                        f"{self.name} refused the key (HTTP {error.code})",
                        "See that it is right, and good for this service",
                    ) from None
                kind = "rate-limit" if error.code == 429 else "network"
                failure = ToolFailure(kind, f"{self.name} answered HTTP {error.code}")
                if error.code != 429 and error.code < 500:
                    break
                asked = error.headers.get("Retry-After", "")
                pause = float(asked) if asked.isdigit() else pause
                if pause > self.longest_pause_seconds:
                    break
            except TimeoutError:
                failure = ToolFailure("time-out", f"{self.name} did not answer in {self.timeout_seconds:g} seconds")
            except (OSError, HTTPException) as error:
                reason = getattr(error, "reason", error)
                late = isinstance(reason, TimeoutError)
                # The class alone: a message may quote the request.
                failure = ToolFailure(
                    "time-out" if late else "network", f"{self.name} could not be reached ({type(reason).__name__})"
                )
            if attempt + 1 < self.tries:
                time.sleep(pause)
        raise failure

    def _ask(self, parameters: dict[str, str]) -> Answer:
        key = os.environ[self.key_variable].strip()
        request = urllib.request.Request(f"{self.address}?{urllib.parse.urlencode(parameters)}")
        request.add_header("Accept", "application/json, text/plain")
        request.add_unredirected_header(self.key_header, self.key_prefix + key)
        with _OPENER.open(request, timeout=self.timeout_seconds) as response:
            return Answer(response.status, _text(response.read(MAX_ANSWER_BYTES), response.headers))


def _text(body: bytes, headers: Message) -> str:
    return body.decode(headers.get_content_charset() or "utf-8", "replace")
