"""HTTP connections that cannot be held open without asking for anything ("slow loris").

uvicorn has no time limit for the headers of a request. A client that opens connections and sends a header line now and
then would keep them, until there is none left for raters. Here

- the headers of a request must be complete `HEADER_SECONDS` after the connection was opened, or after the first byte
  of a further request on it;
- there are `MOST_CONNECTIONS` at most. When another one is opened, the oldest one that waits for headers is closed, of
  the address that has most such connections. A connection whose request is being answered is never closed for another.

Example with room for three: 10.0.0.9 has opened two connections and sent nothing, 10.0.0.5 is loading the page. A
fourth one, from 10.0.0.6, is accepted, and the first one of 10.0.0.9 is closed.

The time limit for the body of a request is in `guard.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
WRITE_SECONDS = 30.0
MOST_CONNECTIONS = 256
_order = itertools.count()


class LimitedConnection(H11Protocol):
    """uvicorn's HTTP connection with the limits above. All of it runs in the server's event loop."""

    header_seconds = HEADER_SECONDS
    write_seconds = WRITE_SECONDS
    most_connections = MOST_CONNECTIONS

    _deadline: asyncio.TimerHandle | None = None
    _write_deadline: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the headers of a request are still to come."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_deadline()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_waiting:
            self._end_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        self._end_write_deadline()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_write_deadline()
        super().resume_writing()

    def _make_room(self) -> None:
        # Closed connections stay in the set until the loop's next round; several may be opened in one round.
        there = [
            found
            for found in self.connections
            if isinstance(found, LimitedConnection) and not found.transport.is_closing()
        ]
        if len(there) <= self.most_connections:
            return
        waiting = [found for found in there if found.is_waiting and found is not self]
        if not waiting:
            self.transport.abort()  # all others are being answered
            return
        held = Counter(_address(found) for found in waiting)
        most = max(held.values())
        crowd = [found for found in waiting if held[_address(found)] == most]
        min(crowd, key=lambda found: found.waiting_since).transport.abort()

    def _start_deadline(self) -> None:
        self.waiting_since = next(_order)  # a number, because a loop's clock may be the same for many connections
        self._deadline = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None


def _address(connection: LimitedConnection) -> str:
    return connection.client[0] if connection.client else ""
