"""The server backend against a real tiny model behind HTTP: the same ids as the local backend, whatever fails between.

The servers are `tests/completion_server.py`, in threads of this process, and llama.cpp's, in a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.chat.protocol import ChatProtocol
from align.errors import ConfigError, RowError, ServerError
from align.generation import endpoints
from align.generation.backend import Backend, Completion
from align.generation.engine import EngineCache, GenerationEngine
from align.generation.local import LocalBackend
from align.generation.server import ServerBackend
from align.jsonl import read_rows, write_rows
from align.models import loading
from align.optional import is_installed
from align.rows import Candidate, Message, PromptRow, SFTRow
from align.sampling.candidates import candidate_seed
from align.sampling.temperatures import TemperatureRange
from align.settings import ModelConfig, SamplingConfig, SamplingServerConfig
from tests.completion_server import CompletionServer, Fault, answered, dropped, overloaded, slow
from tests.fakes import FakeBackend
from tests.llama_cpp import write_gguf

MOST = 12
"""Tokens of a completion."""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(endpoints, "LONGEST_WAIT", 0.05)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(scope="module")
def protocol(tiny_checkpoint: Path) -> ChatProtocol:
    return loading.load_tokenizer(tiny_checkpoint)[1]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, protocol: ChatProtocol) -> Any:
    """A tiny Llama of noise that often says its stop token."""
    made = loading.load_generator(tiny_checkpoint, "float32")
    made.get_input_embeddings().weight.data[protocol.terminators[0]] *= 20  # tied to the output
    return made


@pytest.fixture(scope="module")
def local(model: Any, protocol: ChatProtocol) -> Callable[..., LocalBackend]:
    """Local backends over the tiny model: `local(temperature=0.7)`."""

    @cache
    def backend(temperature: float = 1.0, max_completion_tokens: int = MOST) -> LocalBackend:
        settings = {"temperature": temperature, "max_completion_tokens": max_completion_tokens, "dtype": "float32"}
        return LocalBackend(model, protocol, SamplingConfig(**settings, threads=1))

    return backend


@pytest.fixture
def serve(local: Callable[..., Backend], protocol: ChatProtocol) -> Iterator[Callable[..., CompletionServer]]:
    """Start a server: `serve(name="tiny")`. All end with the test."""
    started = []

    def start(backend: Callable[..., Backend] = local, **settings: Any) -> CompletionServer:
        started.append(CompletionServer(backend, protocol.tokenizer, **settings))
        return started[-1]

    yield start
    for server in started:
        server.die()


@pytest.fixture
def backend(tiny_checkpoint: Path, protocol: ChatProtocol) -> Callable[..., ServerBackend]:
    """`backend([server], concurrency=4)`: a backend that asks these servers."""

    def made(
        servers: list[CompletionServer], temperature: float = 1.0, path: Path = tiny_checkpoint, **settings: Any
    ) -> ServerBackend:
        return ServerBackend(path, protocol, sampling([server.url for server in servers], temperature, **settings))

    return made


def sampling(urls: list[str], temperature: float = 1.0, **settings: Any) -> SamplingConfig:
    server = {"base_urls": tuple(urls), **settings}
    return SamplingConfig(backend="server", server=server, temperature=temperature, max_completion_tokens=MOST)


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(3, 400) for _ in range(rng.randint(1, 30))] for _ in range(count)]


@pytest.mark.slow
def test_completions_have_the_ids_of_the_model_behind_the_server(
    local: Callable[..., LocalBackend], serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend]
) -> None:
    server = serve()
    asked, seeds = prompts(10), [[number, 2**31 + 100 + number, 77] for number in range(10)]
    found = backend([server]).complete(asked, seeds)
    # 31 bits of a seed are sent
    assert found == local().complete(asked, [[first, second - 2**31, 77] for first, second, _ in seeds])
    assert {completion.finished for group in found for completion in group} == {True, False}
    stops = local().protocol.stop_ids
    assert all((completion.ids[-1] in stops) == completion.finished for group in found for completion in group)
    assert len(server.bodies) == 30
    sent = server.bodies[0]
    assert (sent["model"], sent["n"], sent["max_tokens"], sent["top_p"]) == ("tiny", 1, MOST, 1.0)
    assert set(sent["stop_token_ids"]) == set(stops)
    # What a server would else take from generation_config.json, or from its own defaults
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (-1, 0.0, 1.0)
    server.bodies.clear()
    greedy = backend([server], temperature=0.0).complete(asked, seeds)
    assert greedy == local(temperature=0.0).complete(asked, seeds)
    assert len(server.bodies) == 10, "at temperature 0 all seeds of a prompt have one completion"
    mixed = backend([server]).complete(asked[:2], [[1, 1], [2, 2]], [[0.0, 0.7], [0.7, 0.0]])
    assert mixed[0][0] == greedy[0][0]
    assert mixed[1] == [local(temperature=0.7).complete([asked[1]], [[2]])[0][0], greedy[1][0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults, settings",
    [
        ([overloaded(), overloaded(status=500), overloaded(status=429)], {}),
        ([dropped, dropped], {}),
        ([slow(6.0)], {"timeout_seconds": 3.0}),
        ([answered("<html>"), answered({"choices": []}), answered({"error": "x"})], {}),
        ([answered({"choices": [{"finish_reason": "abort", "token_ids": [5]}]})], {}),
    ],
    ids=["overloaded", "dropped", "slow", "no completion", "aborted"],
)
def test_a_request_that_fails_is_sent_again(
    faults: list[Fault],
    settings: dict[str, Any],
    local: Callable[..., LocalBackend],
    serve: Callable[..., CompletionServer],
    backend: Callable[..., ServerBackend],
) -> None:
    server = serve()
    server.faults.extend(faults)
    asked = prompts(3)
    assert backend([server], **settings).complete(asked, [[1], [2], [3]]) == local().complete(asked, [[1], [2], [3]])
    assert len(server.bodies) == 3 + len(faults)


@pytest.mark.slow
def test_a_server_gets_nothing_for_as_long_as_it_asks(
    serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend]
) -> None:
    server = serve()
    server.faults.append(overloaded("0.4"))
    asking = backend([server], concurrency=1)
    began = time.monotonic()
    asking.complete(prompts(2), [[1], [2]])
    assert 0.4 <= time.monotonic() - began < 5


def test_requests_are_made_where_an_event_loop_runs_too() -> None:
    """In a notebook, where `asyncio.run` alone refuses."""

    async def asked() -> int:
        return 7

    async def notebook() -> int:
        return endpoints.run_to_end(asked())

    assert asyncio.run(notebook()) == endpoints.run_to_end(asked()) == 7


def test_the_two_forms_of_retry_after() -> None:
    def wait(**headers: str) -> float | None:
        return endpoints._retry_after(SimpleNamespace(headers=headers))  # type: ignore[arg-type]

    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    found = wait(**{"Retry-After": later})
    assert found is not None
    assert 58 <= found <= 61
    assert [wait(**{"Retry-After": text}) for text in ("3", "99999", "-1", "soon")] == [3.0, 600.0, 0.0, None]
    assert wait() is None


@pytest.mark.slow
def test_requests_go_to_the_server_with_the_fewest_open_ones(
    serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend]
) -> None:
    servers = [serve(), serve(), serve()]
    for server, seconds in zip(servers, (0.02, 0.02, 0.3), strict=True):
        server.always = said_after(seconds)
    backend(servers, concurrency=4).complete(prompts(48), [[1]] * 48)
    counts = [len(server.bodies) for server in servers]
    assert sum(counts) == 48
    assert max(server.most_open for server in servers) == 4
    assert min(counts[:2]) > 2 * counts[2], counts


def said_after(seconds: float) -> Fault:
    def wait(handler: Any) -> bool:
        time.sleep(seconds)
        return answered({"choices": [{"finish_reason": "length", "token_ids": [5]}]})(handler)

    return wait


@pytest.mark.slow
def test_the_loss_of_a_server_is_survived_and_it_is_used_again_when_it_is_back(
    local: Callable[..., LocalBackend],
    serve: Callable[..., CompletionServer],
    backend: Callable[..., ServerBackend],
    caplog: pytest.LogCaptureFixture,
) -> None:
    dying, other = serve(), serve()
    asking = backend([dying, other], concurrency=4)

    def killed_at_the_fourth(handler: Any) -> bool:
        """With other requests open."""
        if len(dying.bodies) == 4:
            dying.die()
        return len(dying.bodies) > 4 or bool(time.sleep(0.02))

    dying.always = killed_at_the_fourth
    asked, seeds = prompts(16), [[number] for number in range(16)]
    expected = local().complete(asked, seeds)
    with caplog.at_level(logging.WARNING):
        assert asking.complete(asked, seeds) == expected
    assert 4 <= len(dying.bodies) <= 4 + 4
    assert "it gets no request for" in caplog.text
    other.always = slow(0.05)  # so that a request may find the dead server many times before the other one is free
    assert asking.complete(asked, seeds) == expected
    other.always = None
    back = serve(port=dying.server_address[1])
    time.sleep(0.06)
    assert asking.complete(asked, seeds) == expected
    assert back.bodies, "the server that is back gets requests"


@pytest.mark.slow
def test_a_server_that_comes_back_with_another_model_is_refused(
    serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend]
) -> None:
    server, other = serve(), serve()
    asking = backend([server, other])
    server.die()
    asking.complete(prompts(4), [[1]] * 4)
    serve(port=server.server_address[1]).models[0]["root"] = "another-llama"
    time.sleep(0.06)
    with pytest.raises(ServerError, match=r'"another-llama".* another server has .*"tiny-llama"'):
        asking.complete(prompts(4), [[1]] * 4)


@pytest.mark.slow
def test_servers_that_all_fail_end_the_run_with_their_names_and_the_fault(
    serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend]
) -> None:
    servers = [serve(), serve()]
    asking = backend(servers, retries=3)
    for server in servers:
        server.always = overloaded()
    with pytest.raises(ServerError) as caught:
        asking.complete(prompts(20), [[1]] * 20)
    assert "answered 503 (too many requests)" in str(caught.value)
    assert len(servers[0].bodies) + len(servers[1].bodies) <= 2 * 20 + 8, "requests that wait are not sent"
    for server in servers:
        server.die()
    urls = " and ".join(server.url.removesuffix("/v1") for server in servers)
    with pytest.raises(ServerError, match=f"no answer from {urls}, 2 times in a row; .*ConnectError"):
        backend(servers, retries=1)


@pytest.mark.parametrize("fault", ["ConnectError", "ConnectTimeout"])
def test_the_next_address_of_a_name_is_asked_when_one_cannot_be_reached(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpx2 = pytest.importorskip("httpx2")

    async def addresses(place: Any, *, has_key: bool) -> list[str]:
        return ["192.0.2.1", "192.0.2.2"]

    def answer(request: Any) -> Any:
        if request.url.host == "192.0.2.1":
            raise getattr(httpx2, fault)("away")
        return httpx2.Response(200, json={"from": request.url.host})

    async def ask() -> Any:
        servers = endpoints.Endpoints(SamplingServerConfig(base_urls=("http://sampler:8000/v1",)), None, unchecked)
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
            return await endpoints.Session(servers, client).get("http://sampler:8000/v1/models")

    async def unchecked(session: Any, endpoint: Any) -> None: ...

    monkeypatch.setattr(endpoints, "checked_addresses", addresses)
    assert asyncio.run(ask()) == {"from": "192.0.2.2"}


@pytest.mark.slow
def test_a_server_that_is_not_there_yet_is_left_for_later(
    serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend], caplog: pytest.LogCaptureFixture
) -> None:
    server, late = serve(), serve()
    late.die()
    with caplog.at_level(logging.WARNING):
        asking = backend([late, server])
    assert f"{late.url.removesuffix('/v1')} cannot be used yet" in caplog.text
    asking.complete(prompts(2), [[1], [1]])
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "change, settings, error, message",
    [
        ({"id": "b"}, {"model": "a"}, ServerError, r"has no model 'a'; it serves 'b'.*Set sampling\.server\.model"),
        ({"max_model_len": None}, {}, ConfigError, r"sampling\.server\.max_model_len: required, but missing"),
        ({"max_model_len": 12}, {}, ConfigError, r"max_completion_tokens: 12 leaves no space .* context of 12 tokens"),
        ({}, {"api_key_variable": "NO_SUCH_KEY"}, ConfigError, r"the environment variable NO_SUCH_KEY is not set"),
    ],
    ids=["model", "no length", "no space", "no key"],
)
def test_a_server_that_does_not_fit_is_refused_at_the_start(
    change: dict[str, Any],
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
    serve: Callable[..., CompletionServer],
    backend: Callable[..., ServerBackend],
) -> None:
    server = serve()
    server.models[0] |= change
    with pytest.raises(error, match=message):
        backend([server], **settings)


def test_another_tokenizer_is_refused(
    serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend], llama3_tokenizer: Any
) -> None:
    server = serve()
    server.tokenizer = llama3_tokenizer
    with pytest.raises(ServerError, match=r"tokenizer differs from that of .*Set model\.path to the checkpoint"):
        backend([server])


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_sent(
    serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend]
) -> None:
    server = serve()
    asking = backend([server])
    assert asking.max_prompt_tokens == 512 - MOST
    with pytest.raises(RowError, match=r"prompt 1: has 501 tokens; at most 500 leave space"):
        asking.complete([[5], [5] * 501], [[1], [1]])
    with pytest.raises(RowError, match=r"prompt 0: has no tokens"):
        asking.complete([[]], [[1]])
    assert server.bodies == []
    assert backend([server], max_model_len=100).max_prompt_tokens == 100 - MOST


@pytest.mark.parametrize(
    "fault, message",
    [
        (
            overloaded(status=401),
            r"answered 401 \(too many requests\)\. Check the API key in the environment variable KEY",
        ),
        (overloaded(status=400), r"answered 400 .*Check that the server takes this request"),
        (
            answered({"choices": [{"finish_reason": "stop", "token_ids": [5]}], "usage": {"prompt_tokens": 3}}),
            r"the server read a prompt of 3 tokens, and 2 were sent",
        ),
    ],
    ids=["key", "request", "prompt"],
)
def test_an_answer_that_stays_the_same_is_an_error_at_once(
    fault: Fault,
    message: str,
    serve: Callable[..., CompletionServer],
    backend: Callable[..., ServerBackend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY", "secret")
    server = serve()
    server.faults.append(fault)
    with pytest.raises(ServerError, match=message):
        backend([server], api_key_variable="KEY").complete([[5, 6]], [[1]])
    assert len(server.bodies) == 1
    assert server.sent_headers[0]["Authorization"] == "Bearer secret"


def test_text_without_ids_is_encoded_again_and_must_decode_to_itself(
    serve: Callable[..., CompletionServer],
    backend: Callable[..., ServerBackend],
    protocol: ChatProtocol,
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = {1: "It is Rome.", 2: "The river Seine runs thr...", 3: "東"}
    replies = FakeBackend(protocol)
    replies.reply = lambda text, place: said[replies.seeds[-1][0]]
    server = serve(lambda **settings: replies, ids=False)
    asking = backend([server])
    ours = [protocol.tokenizer.encode(said[seed], add_special_tokens=False) for seed in (1, 2, 3)]
    end = protocol.terminators[0]
    with caplog.at_level(logging.WARNING):
        assert asking.complete([[5], [6], [7]], [[1], [2], [3]]) == [
            [Completion((*ours[0], end), True)],
            [Completion(tuple(ours[1]), False)],
            [Completion((*ours[2], end), True)],
        ]
    assert caplog.text.count("return text without token ids") == 1
    said[1] = "a \ufffd b"
    with pytest.raises(ServerError, match=r"a completion's text cannot be encoded again: 'a \ufffd b'"):
        asking.complete([[5]], [[1]])
    said[2] = "cut in a character \ufffd..."
    server.faults.append(answered({"choices": [{"finish_reason": "length", "text": "cut in a character \ufffd"}]}))
    [[cut]] = asking.complete([[5]], [[2]])
    assert protocol.tokenizer.decode(cut.ids) == "cut in a character "


def test_where_a_completion_ends(
    serve: Callable[..., CompletionServer], backend: Callable[..., ServerBackend], protocol: ChatProtocol
) -> None:
    server = serve()
    asking = backend([server])
    end, other = protocol.stop_ids[:2]

    def made(reason: str, ids: list[int], stop: int | None = None) -> Completion:
        choice = {"finish_reason": reason, "token_ids": ids, "stop_reason": stop}
        server.faults.append(answered({"choices": [choice]}))
        [[completion]] = asking.complete([[5]], [[1]])
        return completion

    assert made("stop", [9, 8, end], end) == Completion((9, 8, end), True)
    assert made("stop", [9, 8, other]) == Completion((9, 8, other), True)
    assert made("stop", [9, 8], other) == Completion((9, 8, other), True), "the stop token was left out"
    assert made("length", [9, end, 8, 7]) == Completion((9, end), True), "the server ignored stop_token_ids"
    assert made("length", [9, 8]) == Completion((9, 8), False)
    assert made("stop", [9, 8]) == Completion((9, 8), False), "it ended at a token that is no stop token of ours"


@pytest.mark.slow
def test_an_engine_asks_the_servers_and_its_identity_leaves_out_which(
    tiny_checkpoint: Path, serve: Callable[..., CompletionServer], local: Callable[..., LocalBackend]
) -> None:
    first, second = serve(), serve()
    model = ModelConfig(path=tiny_checkpoint)
    engine = GenerationEngine.from_settings(model, sampling([first.url]))
    ids = engine.prompt_ids((Message(role="user", content="What is the capital of Italy?"),))
    assert engine.generate([ids], [[5]]) == local().complete([ids], [[5]])
    assert engine.code_modules[0] == "align.generation.server"
    assert set(engine.unused_code) == {"align.generation.local", "align.generation.vllm"}
    others = [first.url.removesuffix("/v1"), second.url]
    same = EngineCache().engine(tiny_checkpoint, "auto", sampling(others, concurrency=3, timeout_seconds=5.0))
    assert same.identity == engine.identity
    assert GenerationEngine.from_settings(model, sampling([first.url], 0.7)).identity != engine.identity
    first.models[0] |= {"root": "trained-further", "created": 7}
    changed = GenerationEngine.from_settings(model, sampling([first.url])).identity
    assert {name for name in changed if changed[name] != engine.identity[name]} == {"model"}


@pytest.fixture
def llama_cpp(model: Any, protocol: ChatProtocol, tmp_path: Path) -> Iterator[list[tuple[str, Any]]]:
    """Two llama.cpp servers of the tiny model, as addresses and processes."""
    import socket

    if not is_installed("xllamacpp"):
        pytest.skip("xllamacpp is not installed")
    file = tmp_path / "tiny.gguf"
    write_gguf(model, protocol.tokenizer, file)
    started = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "tests/llama_cpp.py", str(file), str(port)]
        with (tmp_path / f"{port}.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        started.append((f"http://127.0.0.1:{port}/v1", process))
    yield started
    for _, process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_llama_cpp_samples_what_the_local_backend_does_and_the_loss_of_a_process_is_survived(
    llama_cpp: list[tuple[str, Any]],
    tiny_checkpoint: Path,
    protocol: ChatProtocol,
    local: Callable[..., LocalBackend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoints, "LONGEST_WAIT", 0.5)  # for servers that start
    asked, seeds = prompts(24), [[1]] * 24
    asking = ServerBackend(tiny_checkpoint, protocol, sampling([url for url, _ in llama_cpp], 0.0, retries=30))
    assert asking.max_prompt_tokens == 512 - 1 - MOST
    assert asking.complete(asked, seeds) == local(temperature=0.0).complete(asked, seeds)
    sampled = ServerBackend(tiny_checkpoint, protocol, sampling([llama_cpp[0][0]], 1.0))
    several = sampled.complete(asked[:4], [[1, 2, 3, 4]] * 4)
    assert sampled.complete(asked[:4], [[1, 2, 3, 4]] * 4) == several
    assert len({completion for group in several for completion in group}) > 12
    assert {completion.finished for group in several for completion in group} == {True, False}
    threading.Timer(0.02, llama_cpp[1][1].kill).start()
    many = prompts(60)
    assert asking.complete(many, [[1]] * 60) == local(temperature=0.0).complete(many, [[1]] * 60)
    assert llama_cpp[1][1].wait() != 0


@pytest.mark.slow
def test_rejection_sampling_over_a_server_keeps_what_the_model_behind_it_samples(
    tiny_checkpoint: Path,
    tiny_reward_checkpoint: Path,
    local: Callable[..., LocalBackend],
    serve: Callable[..., CompletionServer],
    protocol: ChatProtocol,
    tmp_path: Path,
) -> None:
    from recipes.rejection_sample import RejectionSampleRecipe, run

    server = serve()
    server.faults.append(overloaded())
    asked = [Message(role="user", content=f"What is {n} + {n}?") for n in range(3)]
    rows = [PromptRow(id=str(n), source="sums", prompt=(message,)) for n, message in enumerate(asked)]
    write_rows(tmp_path / "prompts.jsonl", rows)
    recipe = RejectionSampleRecipe(
        model=ModelConfig(path=tiny_checkpoint),
        reward_model=ModelConfig(path=tiny_reward_checkpoint),
        prompts=tmp_path / "prompts.jsonl",
        k=3,
        sampling=sampling([server.url]),
        temperatures=(TemperatureRange(lowest=0.5, highest=1.5),),
        steering={"sums": "Be brief."},
        pairs={"min_gap": 0.0},
        unit_size=2,
        output_dir=tmp_path / "out",
    )
    found = read_rows(run(recipe) / "candidates.jsonl", Candidate)
    steer = Message(role="system", content="Be brief.")
    expected = []
    for row in rows:
        prompt = protocol.encode((steer, *row.prompt), open_assistant=True).ids
        for index, temperature in enumerate((0.5, 1.0, 1.5)):
            seed = candidate_seed(0, row.id, index) % 2**31  # 31 bits are sent
            [[completion]] = local(temperature=temperature).complete([prompt], [[seed]])
            expected.append((row.id, row.prompt, temperature, protocol.parse(completion.ids), completion.finished))
    assert [(one.prompt_id, one.prompt, one.temperature, *one.completion, one.finished) for one in found] == expected
    assert all(one.score is not None for one in found)
    best = read_rows(tmp_path / "out" / "sft.jsonl", SFTRow)
    usable = [one for one in found if one.finished and one.completion[0].content.strip()]
    assert len(best) == len({one.prompt_id for one in usable}) > 0
    for row in best:
        scores = {one.score: one.completion for one in usable if one.prompt == row.messages[:-1]}
        assert row.messages[-1:] == scores[max(scores)]
    count = len(server.bodies)
    assert count >= 9
    run(recipe)
    assert len(server.bodies) == count, "finished units are not sampled again"
