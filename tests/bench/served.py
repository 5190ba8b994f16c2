"""How much of a server's own throughput the backend `server` reaches: the same requests by it, and by a bare script.

    python tests/bench/served.py http://localhost:8000/v1 MODEL            # MODEL: the folder or Hub name of model.path
    python tests/bench/served.py --llama-cpp MODEL                         # starts llama.cpp's server for this model

The bare script opens one connection for each request, all at the same time, sends bytes that were made before, and
does not read what the answers say. Both send the same prompts and seeds, and take turns after one round that is not
counted, so that both find the same prompts in the server's cache. The fastest rounds are compared, since other programs
of the machine slow down single rounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[2]))

from align.generation.server import ServerBackend, _job
from align.models.loading import load_generator, load_tokenizer
from align.settings import SamplingConfig
from tests.llama_cpp import write_gguf


def bare(url: str, bodies: list[bytes]) -> None:
    """Send all at once, each from a thread and a connection of its own."""
    address = urlsplit(url)
    together = threading.Barrier(len(bodies))

    def send(body: bytes) -> None:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=3600)
        together.wait()
        connection.request("POST", address.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        connection.close()

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def llama_cpp(model: str, slots: int) -> Iterator[str]:
    """The address of a llama.cpp server that runs as long as the block."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, _ = load_tokenizer(model)
        write_gguf(load_generator(model, "float32"), tokenizer, Path(folder, "model.gguf"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "tests/llama_cpp.py", f"{folder}/model.gguf", str(port), str(slots)]
        with Path(folder, "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def measure(url: str, arguments: argparse.Namespace) -> None:
    _, protocol = load_tokenizer(arguments.model)
    server = {"base_urls": (url,), "concurrency": arguments.requests, "retries": 30}
    sampling = SamplingConfig(backend="server", server=server, max_completion_tokens=arguments.tokens)  # type: ignore[arg-type]
    backend = ServerBackend(Path(arguments.model), protocol, sampling)
    rng = random.Random(0)
    words = range(100, min(len(protocol.tokenizer), 10_000))
    prompts = [[rng.choice(words) for _ in range(arguments.prompt)] for _ in range(arguments.requests)]
    seeds = [[number] for number in range(arguments.requests)]
    bodies = [
        json.dumps(backend._request(_job(prompt, own[0], 1.0))).encode()
        for prompt, own in zip(prompts, seeds, strict=True)
    ]
    address = url.removesuffix("/v1") + ("/completion" if backend._served.is_llama_cpp else "/v1/completions")  # type: ignore[union-attr]
    tokens = sum(len(completion.ids) for [completion] in backend.complete(prompts, seeds))
    script, ours = [], []
    for _ in range(arguments.rounds):
        script.append(seconds_of(lambda: bare(address, bodies)))
        ours.append(seconds_of(lambda: backend.complete(prompts, seeds)))
        print(f"tokens/s: {tokens / script[-1]:8.1f} bare {tokens / ours[-1]:8.1f} server backend", flush=True)
    of_the_fastest, of_medians = min(script) / min(ours), statistics.median(script) / statistics.median(ours)
    print(f"{arguments.requests} requests at once, {tokens} tokens, {arguments.rounds} rounds each:")
    print(f"{of_the_fastest:.1%} of the bare script by the fastest rounds, {of_medians:.1%} by the medians")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("url", nargs="?", help="the address of a running server")
    parser.add_argument("model", help="the folder or Hub name of the model that it serves")
    parser.add_argument("--llama-cpp", action="store_true", help="start llama.cpp's server in place of a running one")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a completion")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.llama_cpp:
        with llama_cpp(given.model, given.requests) as started:
            measure(started, given)
    else:
        measure(given.url or parser.error("an address, or --llama-cpp"), given)
