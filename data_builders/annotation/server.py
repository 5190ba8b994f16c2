"""The web server of the annotation page.

Every request of the page is a POST with the rater's name, so there is no session that two raters or two tabs could mix
up. A request that changes something is answered only after the change is on disk.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import unicodedata
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from align.errors import AlignError, ConfigError, RowError
from align.rows import Messages, tools_of
from align.tools.interpreter import INTERPRETER
from data_builders.annotation.settings import ServerConfig
from data_builders.annotation.store import Store, Turn

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse

    from data_builders.annotation.connections import LimitedConnection
    from data_builders.annotation.guard import Guard
    from data_builders.annotation.view import (
        calls_of,
        calls_text,
        flip_grade,
        rater_state,
        response_index,
        with_last_text,
    )
except ImportError as error:
    how = 'pip install -e ".[annotate]"'
    raise ConfigError(error.name or "fastapi", "is not installed, but the annotation page requires it", how) from None

if TYPE_CHECKING:
    from data_builders.annotation.answers import Answers
    from data_builders.annotation.tool_turns import ToolTurns

TOKEN_VARIABLE = "ANNOTATE_TOKEN"
_FOLDER = Path(__file__).parent
_MOST_CHARACTERS = 200_000


def _one_line(name: str) -> str:
    name = unicodedata.normalize("NFC", " ".join(name.split()))
    if not name or not name.isprintable():
        raise ValueError("a name is 1 to 60 printable characters")
    return name


def _some(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


Id = Annotated[str, Field(pattern=r"^[0-9a-zA-Z-]{8,64}$")]
Text = Annotated[str, Field(max_length=_MOST_CHARACTERS), AfterValidator(_some)]


class Visit(BaseModel):
    """The fields of every request."""

    model_config = ConfigDict(extra="forbid")
    rater: Annotated[str, Field(max_length=60), AfterValidator(_one_line)]


class OfTurn(Visit):
    turn: Id


class Judging(OfTurn):
    judgement: Id
    """An id made by the page, by which a request that is sent again is recognized."""
    grade: int = Field(ge=-4, le=4)
    """From 4 (left is significantly better) to -4 (right is significantly better)."""
    edited_calls: Annotated[str, Field(max_length=_MOST_CHARACTERS)] | None = None
    """The calls of the better answer's last message as the rater has changed them, in the form of `calls_text`."""
    edited: Annotated[str, Field(max_length=_MOST_CHARACTERS)] | None = None
    """The rater's improved version of the better answer (of its last message, if it has several)."""

    @field_validator("edited")
    @classmethod
    def _an_edited_message_says_something(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and not (info.data.get("edited_calls") or "").strip():
            _some(text)
        return text


class Undoing(Visit):
    judgement: Id


class GoingOn(OfTurn):
    message: Text


class Refining(OfTurn):
    side: Literal["left", "right"]
    text: Text
    feedback: Text


def app(store: Store, answers: Answers | None = None, tools: ToolTurns | None = None) -> FastAPI:
    """Make the web app: the page and its requests, without access control (see `Guard`)."""
    api = FastAPI(openapi_url=None)

    @api.exception_handler(AlignError)
    def refused(_: Request, error: AlignError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 409)

    @api.exception_handler(RequestValidationError)
    def misread(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg'].removeprefix('Value error, ')}"}, 422)

    def state(rater: str) -> dict[str, Any]:
        turn = store.current(rater)
        failure = None
        if turn is not None and turn.responses is None:
            failure = (
                answers.request_answers(turn) if store.multi_turn and answers is not None else "no models are loaded"
            )
        elif turn is not None and tools is not None and store.awaits_tools(turn):
            failure = tools.request(turn)
        return rater_state(store, rater, turn, failure) | {"refines": answers is not None}

    def known(rater: str) -> str:
        names = store.config.raters
        if names and rater not in names:
            raise ConfigError("name", f"{rater} is not one of the raters", "Write it exactly as the operator did")
        return rater

    @api.post("/api/state")
    def show(visit: Visit) -> dict[str, Any]:
        return state(known(visit.rater))

    @api.post("/api/judge")
    def judge(request: Judging) -> dict[str, Any]:
        rater = known(request.rater)
        turn = store.turn(rater, request.turn)
        grade = flip_grade(turn, request.grade)
        edited = None
        if grade != 0 and turn.responses is not None:
            edited = _edited(turn, turn.responses[turn.better(grade)], request)
        store.judge(rater, turn.id, request.judgement, grade, edited)
        if answers is not None:
            answers.look_ahead()
        return state(rater)

    @api.post("/api/undo")
    def undo(request: Undoing) -> dict[str, Any]:
        store.undo(known(request.rater), request.judgement)
        return state(request.rater)

    @api.post("/api/go_on")
    def go_on(request: GoingOn) -> dict[str, Any]:
        store.go_on(known(request.rater), request.turn, request.message)
        return state(request.rater)

    @api.post("/api/leave")
    def leave(request: OfTurn) -> dict[str, Any]:
        store.leave(known(request.rater), request.turn)
        return state(request.rater)

    @api.post("/api/refine")
    async def refine(request: Refining) -> dict[str, str]:
        turn = await asyncio.to_thread(store.turn, known(request.rater), request.turn)
        if answers is None or turn.responses is None:
            raise ConfigError("refine", "requires a model, but none is loaded", "Edit the answer by hand")
        future = answers.refine(turn, response_index(turn, request.side), request.text, request.feedback)
        return {"text": (await asyncio.wrap_future(future))[-1].content}

    for path, name in {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}.items():
        api.add_api_route(path, _sender(_FOLDER / name))
    return api


def _edited(turn: Turn, better: Messages, request: Judging) -> Messages | None:
    """Return the better response as the rater has edited it; None if it is unchanged."""
    last = better[-1]
    text = last.content if request.edited is None else request.edited
    calls = last.tool_calls
    if request.edited_calls is not None and request.edited_calls.strip() != calls_text(last).strip():
        calls = calls_of(request.edited_calls)
        known = [tool.name for tool in tools_of(turn.tools)]
        unknown = [call.name for call in calls if call.name not in (*known, INTERPRETER)]
        if known and unknown:
            raise RowError("calls", f"name {unknown[0]}, which is not offered", f"Offered are: {', '.join(known)}")
    if not text.strip() and not calls:
        raise RowError("edited", "has neither text nor calls", "Write one of them, or restore the original answer")
    return None if (text, calls) == (last.content, last.tool_calls) else with_last_text(better, text, calls)


def _sender(file: Path) -> Any:
    def send() -> FileResponse:
        return FileResponse(file)

    return send


class Server:
    """The server. The address is reserved by the constructor, and served by `run` until Ctrl-C or a call of `stop`."""

    def __init__(self, config: ServerConfig) -> None:
        try:
            family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
            self._socket = socket.create_server((config.host, config.port), family=family)
        except OSError as error:
            where = f"server.host, server.port: {config.host}:{config.port}"
            how = "Use another port, or 0 for any free port"
            raise ConfigError(where, f"cannot listen on this address ({error.strerror or error})", how) from None
        self.port: int = self._socket.getsockname()[1]
        self._host = config.host
        self.token = None if config.is_loopback else _token()
        self._serving: uvicorn.Server | None = None
        self._is_stopped = False

    @property
    def address(self) -> str:
        """The address that raters open. If it contains the token, keep it secret."""
        name = f"[{self._host}]" if ":" in self._host else self._host
        if self._host in ("0.0.0.0", "::"):  # nosec B104  # only compared; such a page requires a token
            name = socket.gethostname()
        return f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return 0 if self._serving is None else len(self._serving.server_state.connections)

    def run(
        self,
        store: Store,
        answers: Answers | None = None,
        tools: ToolTurns | None = None,
        announce: bool = True,
    ) -> None:
        """Serve until the process is interrupted, or `stop` is called. Closes the store.

        announce: print the address, which may contain the token.
        """
        settings = uvicorn.Config(
            Guard(app(store, answers, tools), self.token, self.port),
            http=LimitedConnection,
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,  # the address of a visit contains the token
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        if announce:
            print(f"annotation page   {self.address}")
            print("stop              Ctrl-C (the same command continues)", flush=True)
        self._serving = uvicorn.Server(settings)
        self._serving.should_exit = self._is_stopped
        with closing(store), suppress(KeyboardInterrupt):
            self._serving.run(sockets=[self._socket])

    def stop(self) -> None:
        """Make `run` return in its thread, after the requests that are being answered."""
        self._is_stopped = True
        if self._serving is not None:
            self._serving.should_exit = True


def _token() -> str:
    given = os.environ.get(TOKEN_VARIABLE)
    if given is None:
        return secrets.token_urlsafe(24)
    if not re.fullmatch(r"[\w-]{16,}", given, re.ASCII):
        what = "must have 16 or more characters: letters, digits, - and _"
        raise ConfigError(TOKEN_VARIABLE, what, "Or remove it, and a token is generated")
    return given
