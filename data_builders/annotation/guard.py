"""Access control of the annotation page: this machine only on a loopback address, visitors with the token elsewhere.

A page of another site can make a browser send requests to this server (cross-site request forgery). Such requests have
the Origin of the other site. If the other site's name was changed to resolve to this address (DNS rebinding), they have
its Host. Both are refused.

The guard also reads the body of a request before the app sees it, with a limit of size and time; the limits of
connections are in `connections.py`.
"""

from __future__ import annotations

import asyncio
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 2**20
BODY_SECONDS = 20.0
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware that refuses requests without access, and adds security headers to responses.

    token: required in a cookie, which a visit with `?token=` sets. None for a page on a loopback address.
    port: part of the cookie's name, because browsers share cookies between the ports of a host.
    """

    body_seconds = BODY_SECONDS

    def __init__(self, app: ASGIApp, token: str | None, port: int) -> None:
        self._app, self._token, self._cookie = app, token, f"annotate-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_SECURITY_HEADERS)
            await send(message)

        assert scope["type"] == "http", "the server has no lifespan and no web sockets"
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        try:
            async with asyncio.timeout(self.body_seconds):
                body = await _body(receive)
        except TimeoutError:
            slow = PlainTextResponse(f"The request was not complete after {self.body_seconds:g} s.", 408)
            slow.headers["Connection"] = "close"
            await slow(scope, receive, send_guarded)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response to a request that is refused, or None if the request may pass."""
        host = headers.get("host", "")
        if self._token is None and _name(host) not in LOOPBACK_NAMES:
            return PlainTextResponse("This page is available on this machine only, at http://localhost.", 421)
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("Requests from pages of other sites are refused.", 403)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return PlainTextResponse(f"The request is too large: at most {MAX_BODY_BYTES} bytes are allowed.", 413)
        return None if self._token is None else self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and any(key == "token" and self._is_token(value) for key, value in query):
            kept = urlencode([(key, value) for key, value in query if key != "token"])
            response = RedirectResponse(f"/?{kept}" if kept else "/", 303)
            # Lax, not strict: with strict, the browser would not send the cookie when the rater opens the link from an
            # e-mail. Forged POST requests are refused by their Origin.
            response.set_cookie(self._cookie, self._token or "", httponly=True, samesite="lax", max_age=30 * 86400)
            return response
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            cookie = None
        if cookie is not None and self._is_token(cookie.value):
            return None
        return PlainTextResponse("Open the link with ?token=... that you received from the operator.", 401)

    def _is_token(self, found: str) -> bool:
        return secrets.compare_digest(found.encode(), (self._token or "").encode())


async def _body(receive: Receive) -> bytes | None:
    """Read the whole body of a request; None if the client has gone. Its size was checked by the header."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first, and then what the client does."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _name(host: str) -> str | None:
    """Return the name of the host without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
