"""The web server of the raters' page: what it answers, and where it listens.

Every request of the page is a POST with the rater's name in it, so two raters, or two tabs, share nothing that could be
mixed up. Each answer to one that changes something comes after the database has it on the disk.
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

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from align.errors import AlignError, ConfigError
from data_builders.annotation.settings import ServerConfig
from data_builders.annotation.store import Store
from data_builders.annotation.view import place_of, shown, turned, with_last_text

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse

    from data_builders.annotation.guard import Guard
except ImportError as error:
    how = 'pip install -e ".[annotate]"'
    raise ConfigError(error.name or "fastapi", "is wanted for the raters' page, and not here", how) from None

if TYPE_CHECKING:
    from data_builders.annotation.answers import Answers

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
    """What every request says."""

    model_config = ConfigDict(extra="forbid")
    rater: Annotated[str, Field(max_length=60), AfterValidator(_one_line)]


class OfTurn(Visit):
    turn: Id


class Judging(OfTurn):
    judgement: Id
    """Made by the page, so that a request sent again is known."""
    grade: int = Field(ge=-4, le=4)
    """4: left is significantly better, -4: right."""
    edited: Text | None = None
    """The better answer, rewritten; its last message where it has several."""


class Undoing(Visit):
    judgement: Id


class GoingOn(OfTurn):
    message: Text


class Refining(OfTurn):
    side: Literal["left", "right"]
    text: Text
    feedback: Text


def app(store: Store, answers: Answers | None = None) -> FastAPI:
    """The page and its requests, without the guard that stands before them."""
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
            failure = answers.want(turn) if store.goes_on and answers is not None else "no models are loaded"
        return shown(store, rater, turn, failure) | {"refines": answers is not None}

    def known(rater: str) -> str:
        names = store.config.raters
        if names and rater not in names:
            raise ConfigError("name", f"{rater} is not among the raters", "Type it as the operator wrote it")
        return rater

    @api.post("/api/state")
    def show(visit: Visit) -> dict[str, Any]:
        return state(known(visit.rater))

    @api.post("/api/judge")
    def judge(said: Judging) -> dict[str, Any]:
        rater = known(said.rater)
        turn = store.turn(rater, said.turn)
        grade = turned(turn, said.grade)
        edited = None
        if said.edited is not None and grade != 0 and turn.responses is not None:
            better = turn.responses[turn.better(grade)]
            if said.edited != better[-1].content:
                edited = with_last_text(better, said.edited)
        store.judge(rater, turn.id, said.judgement, grade, edited)
        if answers is not None:
            answers.look_ahead()
        return state(rater)

    @api.post("/api/undo")
    def undo(wanted: Undoing) -> dict[str, Any]:
        store.undo(known(wanted.rater), wanted.judgement)
        return state(wanted.rater)

    @api.post("/api/go_on")
    def go_on(wanted: GoingOn) -> dict[str, Any]:
        store.go_on(known(wanted.rater), wanted.turn, wanted.message)
        return state(wanted.rater)

    @api.post("/api/leave")
    def leave(wanted: OfTurn) -> dict[str, Any]:
        store.leave(known(wanted.rater), wanted.turn)
        return state(wanted.rater)

    @api.post("/api/refine")
    async def refine(wanted: Refining) -> dict[str, str]:
        turn = await asyncio.to_thread(store.turn, known(wanted.rater), wanted.turn)
        if answers is None or turn.responses is None:
            raise ConfigError("refine", "wants a model, and none is loaded", "Edit the answer by hand")
        future = answers.refine(turn, place_of(turn, wanted.side), wanted.text, wanted.feedback)
        return {"text": (await asyncio.wrap_future(future))[-1].content}

    for path, name in {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}.items():
        api.add_api_route(path, _sender(_FOLDER / name))
    return api


def _sender(file: Path) -> Any:
    def send() -> FileResponse:
        return FileResponse(file)

    return send


class Server:
    """An address that is taken as soon as this is made, served by `run` until it is interrupted or `stop` is called."""

    def __init__(self, config: ServerConfig) -> None:
        try:
            family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
            self._socket = socket.create_server((config.host, config.port), family=family)
        except OSError as error:
            where = f"server.host, server.port: {config.host}:{config.port}"
            how = "Name another port, or 0 for one that is free"
            raise ConfigError(where, f"cannot be listened on ({error.strerror or error})", how) from None
        self.port: int = self._socket.getsockname()[1]
        self._host = config.host
        self.token = None if config.is_loopback else _token()
        self._serving: uvicorn.Server | None = None

    @property
    def address(self) -> str:
        """What raters open. With a token in it, it is for them alone."""
        name = f"[{self._host}]" if ":" in self._host else self._host
        if self._host in ("0.0.0.0", "::"):
            name = socket.gethostname()
        return f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def run(self, store: Store, answers: Answers | None = None) -> None:
        """Serve until the process is interrupted."""
        settings = uvicorn.Config(
            Guard(app(store, answers), self.token, self.port),
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,  # a visit's address holds the token
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        print(f"rate here     {self.address}\nto end        Ctrl-C; the same command goes on", flush=True)
        self._serving = uvicorn.Server(settings)
        with closing(store), suppress(KeyboardInterrupt):
            self._serving.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run` in another thread, after the requests that are being answered."""
        if self._serving is not None:
            self._serving.should_exit = True


def _token() -> str:
    given = os.environ.get(TOKEN_VARIABLE)
    if given is None:
        return secrets.token_urlsafe(24)
    if not re.fullmatch(r"[\w-]{16,}", given, re.ASCII):
        raise ConfigError(TOKEN_VARIABLE, "must be 16 or more letters, digits, - and _", "Leave it out for a made one")
    return given
