"""Requests to one or several HTTP servers that can each do the same work: which one gets a request, and retries.

A request goes to the server with the fewest open requests. A server that fails (lost connection, timeout, an answer
408, 425, 429 or 5xx) gets nothing for a while, 0.5, 1, 2, 4 seconds and so on up to 30, or as long as its Retry-After
says, and its requests go to the others. After this time it gets one request; if it answers, it is used as before.
Example with two servers A and B, where A is killed at 10.0 s:

    10.0 s  A's open requests fail; they are sent to B          A: 1 failure, waits until 10.5 s
    10.5 s  one request is sent to A and fails                  A: 2 failures, waits until 11.5 s
    11.5 s  A was started again; it is checked and answers      A: 0 failures, gets as many requests as B

It ends with an error if one request has failed `retries` + 1 times at servers that answer others, or if every server
has failed so often in a row.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from align.addresses import Place, checked_addresses, place_of
from align.errors import ServerError, UnreachableServerError, first_line
from align.reporting import logger
from align.settings import SamplingServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from ssl import SSLContext

    from httpx2 import AsyncClient, Response

log = logger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds that a server gets no request after a failure
MAX_ANSWER_BYTES = 64 << 20
_CONNECT_SECONDS = 10.0
_RETRIED = {408, 425, 429}  # and 5xx

J = TypeVar("J")
R = TypeVar("R")
T = TypeVar("T")


class Fault(Exception):
    """A request that failed and may succeed when it is sent again.

    wait: the seconds that the server asks to wait, if it does.
    """

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.what, self.wait = what, wait


@dataclass(slots=True)
class Endpoint:
    """One server."""

    root: str
    """Its address without /v1."""
    open: int = 0
    """Requests without an answer."""
    failures: int = 0
    """Failures in a row."""
    ready_at: float = 0.0
    """When it may get a request again, on the monotonic clock."""
    is_checked: bool = False
    """Whether it was checked since it last failed."""


class Endpoints:
    """The servers of a section `sampling.server`.

    check: asked before a server's first request, and again after each of its failures, since another model may be
        served at its address by then.
    """

    def __init__(
        self,
        settings: SamplingServerConfig,
        api_key: str | None,
        check: Callable[[Session, Endpoint], Awaitable[None]],
    ) -> None:
        self.settings, self._api_key, self.check = settings, api_key, check
        self._certificates: SSLContext | None = None
        self.addresses: dict[Place, str] = {}
        """The address of each place that is connected to, since it was last checked."""
        self.all = [Endpoint(url.rstrip("/").removesuffix("/v1")) for url in settings.base_urls]

    @property
    def has_key(self) -> bool:
        return self._api_key is not None

    def run(self, send: Callable[[Session, Endpoint, J], Awaitable[R]], jobs: Sequence[J]) -> list[R]:
        """The result of each job, in their order. `send` does one job at the server it is given; it may be called
        again for the same job after a Fault.

        Raises ServerError if a job fails too often, and what `send` and `check` raise, after all other requests were
        cancelled.
        """
        return run_to_end(self._run(send, jobs))

    def check_all(self) -> None:
        """Check every server. Those that cannot be reached are left for later, if at least one can."""
        run_to_end(self._check_all())

    async def _run(self, send: Callable[[Session, Endpoint, J], Awaitable[R]], jobs: Sequence[J]) -> list[R]:
        results: list[R | None] = [None] * len(jobs)
        waiting = iter(range(len(jobs)))
        async with self._session() as session:

            async def work() -> None:
                for number in waiting:
                    results[number] = await session.send(send, jobs[number])

            workers = min(len(jobs), self.settings.concurrency * len(self.all))
            await _together([work() for _ in range(workers)])
        return results  # type: ignore[return-value]

    async def _check_all(self) -> None:
        async with self._session() as session:
            faults = await _together([session.checked(endpoint) for endpoint in self.all])
            if None not in faults:  # no server can be reached: wait for the first one
                await session.send(_nothing, None)
        for endpoint, fault in zip(self.all, faults, strict=True):
            if fault is not None and not endpoint.is_checked:
                log.warning("%s cannot be used yet (%s); the other servers take its requests", endpoint.root, fault)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        import httpx2

        headers = {} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"}
        # Servers close connections that are idle for 5 seconds (uvicorn); ours end before.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)
        seconds = self.settings.timeout_seconds
        timeout = httpx2.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
        if self._certificates is None and any(endpoint.root.startswith("https") for endpoint in self.all):
            self._certificates = httpx2.create_ssl_context()  # takes 0.05 s
        verify = self._certificates or False  # False where no address is https
        # trust_env: no proxy and no password of the environment; redirects are not followed by default.
        async with httpx2.AsyncClient(
            headers=headers, limits=limits, timeout=timeout, verify=verify, trust_env=False
        ) as client:
            yield Session(self, client)


class Session:
    """The open connections of one call of `Endpoints.run`."""

    def __init__(self, endpoints: Endpoints, client: AsyncClient) -> None:
        self._endpoints, self._client = endpoints, client
        self._settings = endpoints.settings
        self._changed = asyncio.Condition()

    async def get(self, url: str) -> Any:
        """The JSON answer of a GET. Raises as `post`."""
        return await self._json("GET", url, None)

    async def post(self, url: str, body: dict[str, Any]) -> Any:
        """The JSON answer of a POST. Raises Fault where sending it again may help, ServerError where it does not."""
        return await self._json("POST", url, body)

    async def send(self, send: Callable[[Session, Endpoint, J], Awaitable[R]], job: J) -> R:
        """The result of one job, at whichever server answers first with one."""
        faults = 0
        while True:
            endpoint = await self._taken()
            failures = endpoint.failures
            try:
                if not endpoint.is_checked:
                    await self._endpoints.check(self, endpoint)
                    endpoint.is_checked = True
                result = await send(self, endpoint, job)
            except Fault as fault:
                # At a server that has failed before, the server is to blame and not the request. While the others are
                # busy for long, one request may find the same server down again and again.
                faults += failures == 0
                if endpoint.failures == failures:  # requests that fail together are one failure
                    self._failed(endpoint, fault)
                if faults > self._settings.retries or self._all_failed():
                    raise self._gave_up(endpoint, fault, faults) from None
            else:
                if endpoint.failures:
                    log.info("%s answers again", endpoint.root)
                endpoint.failures = 0
                return result
            finally:
                endpoint.open -= 1
                async with self._changed:
                    self._changed.notify_all()

    async def checked(self, endpoint: Endpoint) -> str | None:
        """Check a server. The text of the fault if it cannot be reached, else None."""
        try:
            await self._endpoints.check(self, endpoint)
        except Fault as fault:
            self._failed(endpoint, fault)
            return fault.what
        endpoint.is_checked = True
        return None

    async def _taken(self) -> Endpoint:
        """The server that gets the next request, waiting until one may. A server that has failed gets one at a time."""
        most = self._settings.concurrency
        async with self._changed:
            while True:
                now = time.monotonic()
                free = [
                    endpoint
                    for endpoint in self._endpoints.all
                    if endpoint.ready_at <= now and endpoint.open < (1 if endpoint.failures else most)
                ]
                if free:
                    endpoint = min(free, key=lambda endpoint: endpoint.open)
                    endpoint.open += 1
                    return endpoint
                later = [endpoint.ready_at - now for endpoint in self._endpoints.all if endpoint.ready_at > now]
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(later, default=None)):
                        await self._changed.wait()

    def _failed(self, endpoint: Endpoint, fault: Fault) -> None:
        self._endpoints.addresses.pop(place_of(endpoint.root), None)
        endpoint.failures += 1
        endpoint.is_checked = False
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (endpoint.failures - 1)) if fault.wait is None else fault.wait
        endpoint.ready_at = time.monotonic() + wait
        level = logging.WARNING if endpoint.failures == 1 else logging.INFO
        log.log(level, "%s: %s; it gets no request for %.1f s", endpoint.root, fault.what, wait)

    def _all_failed(self) -> bool:
        return all(endpoint.failures > self._settings.retries for endpoint in self._endpoints.all)

    def _gave_up(self, endpoint: Endpoint, fault: Fault, faults: int) -> ServerError:
        if self._all_failed():
            named = " and ".join(endpoint.root for endpoint in self._endpoints.all)
            what = f"no answer from {named}, {self._settings.retries + 1} times in a row; the last fault: {fault.what}"
        else:
            what = f"one request failed {faults} times; the last fault, at {endpoint.root}: {fault.what}"
        how = "Check that the servers run at these addresses; what was sampled so far is kept. See docs/backends.md"
        return UnreachableServerError("sampling.server.base_urls", what, how)

    async def _json(self, method: str, url: str, body: dict[str, Any] | None) -> Any:
        import httpx2

        seconds = self._settings.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                response = await self._response(method, url, body)
        except (TimeoutError, httpx2.ReadTimeout):
            raise Fault(f"no answer within {seconds:g} s") from None
        except (httpx2.RequestError, socket.gaierror) as error:
            raise Fault(f"the connection failed ({type(error).__name__}: {first_line(error)})") from None
        if response.status_code in _RETRIED or response.status_code >= 500:
            raise Fault(f"answered {response.status_code} ({_message(response)})", _retry_after(response))
        if response.status_code != 200:
            raise _refusal(url, response, self._settings)
        try:
            return response.json()
        except ValueError:
            raise Fault(f"the answer is not JSON ({first_line(ValueError(response.text))})") from None

    async def _response(self, method: str, url: str, body: dict[str, Any] | None) -> Response:
        """Ask the address that was checked for the URL's host; the HTTP library looks no name up."""
        import httpx2

        place, parts, addresses = place_of(url), urlsplit(url), self._endpoints.addresses
        known = addresses.get(place)
        candidates = [known] if known else await checked_addresses(place, has_key=self._endpoints.has_key)
        for number, address in enumerate(candidates, 1):
            at = f"[{address}]" if ":" in address else address
            asking = self._client.stream(
                method,
                parts._replace(netloc=f"{at}:{place.port}").geturl(),
                json=body,
                headers={"Host": parts.netloc},
                extensions={"sni_hostname": place.host},
            )
            try:
                async with asking as response:
                    addresses[place] = address
                    return await _read(response)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if number == len(candidates):
                    raise
        raise AssertionError("a name that means something has an address")


async def _read(response: Response) -> Response:
    """An answer with its content. Raises Fault after MAX_ANSWER_BYTES, so that no server can fill the memory."""
    import httpx2

    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise Fault(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    encoded = ("content-encoding", "content-length", "transfer-encoding")  # the content is decoded
    headers = [(name, value) for name, value in response.headers.items() if name not in encoded]
    return httpx2.Response(response.status_code, headers=headers, content=bytes(content))


async def _nothing(session: Session, endpoint: Endpoint, job: None) -> None:
    """A job that is done when a server can be reached."""


async def _together(works: Sequence[Awaitable[R]]) -> list[R]:
    """The results of all. The first error cancels the others and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _retry_after(response: Response) -> float | None:
    """The seconds of a header such as `Retry-After: 5` or `Retry-After: Sun, 29 Nov 2026 02:00:00 GMT`."""
    text = response.headers.get("Retry-After", "").strip()
    try:
        wait = float(text)
    except ValueError:
        try:
            wait = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(wait, 0.0), 600.0)


def _message(response: Response) -> str:
    """What an error answer says: the message of its JSON, or its first line."""
    try:
        body = response.json()
    except ValueError:
        return first_line(ValueError(response.text or response.reason_phrase))
    error = body.get("error", body) if isinstance(body, dict) else body
    said = error.get("message") or error.get("detail") or error if isinstance(error, dict) else error
    return first_line(ValueError(str(said)))


def _refusal(url: str, response: Response, settings: SamplingServerConfig) -> ServerError:
    """The error of an answer that stays the same however often a request is sent."""
    if response.status_code in (401, 403):
        how = (
            "Set sampling.server.api_key_variable to the name of an environment variable that contains a valid API key"
        )
        if settings.api_key_variable is not None:
            how = f"Check the API key in the environment variable {settings.api_key_variable}"
    elif response.status_code == 404:
        how = "Check sampling.server.base_urls and sampling.server.model; a server without this path cannot be used"
    else:
        how = "Check that the server takes this request; docs/backends.md lists what is sent"
    return ServerError(url, f"the server answered {response.status_code} ({_message(response)})", how)


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where an event loop is running in this thread already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
