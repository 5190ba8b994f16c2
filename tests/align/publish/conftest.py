"""A Hub on this machine that takes uploads, and a client of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.fake_hub import TOKEN
from tests.writable_hub import Client, WritableHub, served


@pytest.fixture(scope="module")
def server() -> Iterator[WritableHub]:
    with served(TOKEN) as hub:
        yield hub


@pytest.fixture
def hub(server: WritableHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    """An empty Hub, reached without Xet storage, whose protocol needs a server of its own."""
    server.repos, server.objects, server.faults, server.requests = {}, {}, [], []
    default = huggingface_hub.utils._http.default_client_factory
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    huggingface_hub.set_client_factory(default)
    yield server
    huggingface_hub.set_client_factory(default)


@pytest.fixture
def api(hub: WritableHub) -> Client:
    client = Client(endpoint=hub.endpoint, token=TOKEN)
    client.hub = hub
    return client


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited
