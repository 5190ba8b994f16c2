"""Forbidden addresses: how they are written, what a name means, and that the clients connect to what was checked."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import ValidationError

from align.addresses import Place, checked_addresses, connected, fault_of, place_of
from align.errors import ServerError
from align.generation.endpoints import Endpoint, Endpoints, Session, run_to_end
from align.settings import SamplingServerConfig
from align.tools.web import Service

FORBIDDEN = [
    # metadata services and other link-local addresses, in every spelling that some library reads
    "http://169.254.169.254/v1",
    "http://169.254.169.254./v1",
    "http://2852039166/v1",
    "http://0xa9fea9fe/v1",
    "http://0xA9.0xFE.0xA9.0xFE/v1",
    "http://0251.0376.0251.0376/v1",
    "http://025177524776/v1",
    "http://169.254.43518/v1",
    "http://169.16689662/v1",
    "http://169.254.169.0376/v1",
    "http://[fe80::1]/v1",
    "http://[fe80::1%25eth0]/v1",
    "http://[fe80::1%eth0]/v1",
    "http://[fd00:ec2::254]/v1",
    "http://[::ffff:169.254.169.254]/v1",
    "http://[::ffff:a9fe:a9fe]/v1",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]/v1",
    "http://[::a9fe:a9fe]/v1",
    "http://[64:ff9b::a9fe:a9fe]/v1",
    "http://[2002:a9fe:a9fe::]/v1",
    "http://[2001:0:0:0:0:0:5601:5601]/v1",
    "http://100.100.100.200/v1",
    "http://168.63.129.16/v1",
    "http://192.0.0.192/v1",
    "http://\uff11\uff16\uff19.254.169.254/v1",
    "http://169\u3002254\u3002169\u3002254/v1",
    "http://169%2e254%2e169%2e254/v1",
    # another spelling of this machine, and what is no machine
    "http://127.1:8000/v1",
    "http://2130706433:8000/v1",
    "http://0x7f.1:8000/v1",
    "http://0177.0.0.1:8000/v1",
    "http://[::ffff:127.0.0.1]:8000/v1",
    "http://0/v1",
    "http://0.0.0.0:8000/v1",
    "http://0.1.2.3/v1",
    "http://[::]:8000/v1",
    "http://224.0.0.1/v1",
    "http://255.255.255.255/v1",
    "http://240.0.0.1/v1",
    "http://[ff02::1]/v1",
    # two readings of one URL
    "http://user:password@localhost:8000/v1",
    "http://localhost@169.254.169.254/v1",
    "http://localhost:8000@169.254.169.254/v1",
    "http://localhost\\@169.254.169.254/v1",
    "http://localhost#@169.254.169.254/v1",
    "http://localhost?@169.254.169.254/v1",
    "http://local\thost:8000/v1",
    "http://localhost:8000/v1\r\nHost: other",
    "http://localhost :8000/v1",
    "http://local%68ost/v1",
    "http://-localhost/v1",
    "http://[localhost]/v1",
    # names that cannot be looked up: an empty label, one of 64 characters, and 255 characters in all
    "http://node..cluster/v1",
    "http://.cluster/v1",
    "http://node../v1",
    f"http://{'n' * 64}.cluster/v1",
    f"http://{'.'.join(['n' * 63] * 4)}/v1",
    # no place at all, and other schemes
    "http:///v1",
    "http://localhost:/v1",
    "http://localhost:0/v1",
    "http://localhost:65536/v1",
    "http://localhost:http/v1",
    "localhost:8000/v1",
    "//localhost:8000/v1",
    "ftp://localhost/v1",
    "file:///etc/passwd",
    "gopher://localhost:70/1",
    "unix:///run/server.sock",
    "javascript:alert(1)",
    "",
]
PERMITTED = {
    "http://localhost:8000/v1": Place("http", "localhost", 8000),
    "http://127.0.0.1:8000": Place("http", "127.0.0.1", 8000),
    "http://[::1]:8000/v1": Place("http", "::1", 8000),
    "http://10.1.2.3/v1": Place("http", "10.1.2.3", 80),
    "http://node_1.cluster:8000/v1": Place("http", "node_1.cluster", 8000),
    "https://api.example.com./v1": Place("https", "api.example.com.", 443),
    f"http://{'n' * 63}.{'.'.join('c' * 95)}/v1": Place("http", f"{'n' * 63}.{'.'.join('c' * 95)}", 80),
    "https://[2606:4700::1111]/v1": Place("https", "2606:4700::1111", 443),
    "http://8.8.8.8.example.com/v1": Place("http", "8.8.8.8.example.com", 80),
}


@pytest.mark.parametrize("url", FORBIDDEN)
def test_a_forbidden_form_is_refused_by_every_client_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|begins|contains) "):
        place_of(url)
    with pytest.raises(ValidationError, match="is not an address such as http://localhost:8000/v1: it "):
        SamplingServerConfig(base_urls=(url,))
    with pytest.raises(ValueError, match=r"^(has|begins|contains) "):
        Service("Service", url, "KEY", "Authorization")


@pytest.mark.parametrize("url", PERMITTED)
def test_what_a_url_leads_to(url: str) -> None:
    assert place_of(url) == PERMITTED[url]
    assert SamplingServerConfig(base_urls=(url,)).base_urls == (url,)


def test_every_spelling_of_an_address_that_the_c_library_reads_is_refused_or_the_plain_one() -> None:
    """inet_aton decides what a spelling means; no spelling but the plain one may pass as a name."""
    for address in ("169.254.169.254", "127.0.0.1", "10.0.0.1", "8.8.8.8"):
        whole = int(ip_address(address))
        last3, last2 = whole & 0xFFFFFF, whole & 0xFFFF
        first, second, *_ = address.split(".")
        spellings = [f(whole) for f in (str, hex, "0{:o}".format)]
        spellings += [f"{first}.{f(last3)}" for f in (str, hex, "0{:o}".format)]
        spellings += [f"{first}.{second}.{f(last2)}" for f in (str, hex, "0{:o}".format)]
        spellings += [
            ".".join(f(int(part)) for part in address.split(".")) for f in (hex, "{:#X}".format, "0{:o}".format)
        ]
        for spelling in spellings:
            assert socket.inet_aton(spelling) == ip_address(address).packed, spelling
            with pytest.raises(ValueError, match="unusual spelling"):
                place_of(f"http://{spelling}:8000/v1")


def test_which_addresses_are_refused() -> None:
    refused = ["169.254.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "100.100.100.200", "fe80::1", "fd00:ec2::254"]
    refused += ["::", "ff02::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"]
    permitted = ["127.0.0.1", "::1", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "8.8.8.8", "fd12::1"]
    assert [address for address in refused if not fault_of(ip_address(address))] == []
    assert [address for address in permitted if fault_of(ip_address(address))] == []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        status, headers = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        size = str(len(self.server.content))  # type: ignore[attr-defined]
        for name, value in {"Content-Length": size, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.content)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked, found.answer, found.content = [], (200, {}), b"{}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def sampling(url: str) -> Any:
    """The answer of a GET by the client of servers that sample."""

    async def check(session: Session, endpoint: Endpoint) -> None:
        await session.get(endpoint.root + "/v1/models")

    async def send(session: Session, endpoint: Endpoint, job: None) -> Any:
        return await session.get(endpoint.root + "/v1/models")

    settings = SamplingServerConfig(base_urls=(url,), retries=0, timeout_seconds=5)
    return Endpoints(settings, None, check).run(send, [None])


def tool(url: str) -> Any:
    """The answer of a GET by the client of tools."""
    return Service("Service", url, "SERVICE_KEY", "Authorization", timeout_seconds=5, tries=1).get({})


CLIENTS = pytest.mark.parametrize("client", [sampling, tool])


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "the-key-of-the-service")


def names(monkeypatch: pytest.MonkeyPatch, answers: list[list[str]]) -> list[str]:
    """Let the name server answer with these addresses, the last ones for ever. Returns the names that were asked."""
    asked: list[str] = []
    genuine = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **more: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        if text and text.endswith(".test"):
            found = answers[min(len(asked), len(answers) - 1)]
            asked.append(text)
            return [entry for address in found for entry in genuine(address, port, *arguments, **more)]
        return genuine(host, port, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@CLIENTS
@pytest.mark.parametrize(
    "found",
    [["169.254.169.254"], ["127.0.0.1", "169.254.169.254"], ["::ffff:169.254.169.254"], ["0.0.0.0"], ["fe80::1"]],
)
def test_a_name_that_means_a_forbidden_address_is_refused(
    client: Callable[[str], Any], found: list[str], server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, [found])
    with pytest.raises(ServerError, match=r"metadata\.test is .*\. Name the address of a server; no request was sent"):
        client(f"http://metadata.test:{server.server_port}")
    assert not server.asked  # type: ignore[attr-defined]


@CLIENTS
def test_the_connection_goes_to_the_address_that_was_checked(
    client: Callable[[str], Any], server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that gives another answer the second time changes nothing: it is not asked a second time."""
    asked = names(monkeypatch, [["127.0.0.1"], ["169.254.169.254"]])
    client(f"http://rebound.test:{server.server_port}")
    assert asked == ["rebound.test"]
    hosts = {host for _, host in server.asked}  # type: ignore[attr-defined]
    assert hosts == {f"rebound.test:{server.server_port}"}, "the server is asked by its name"


@CLIENTS
def test_the_next_address_of_a_name_is_tried(
    client: Callable[[str], Any], server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, [["127.0.0.2", "127.0.0.1"]])  # nothing listens at the first one
    client(f"http://two.test:{server.server_port}")
    assert server.asked  # type: ignore[attr-defined]


@CLIENTS
def test_proxies_of_the_environment_are_not_used(
    client: Callable[[str], Any], server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client(f"http://127.0.0.1:{server.server_port}")
    assert server.asked  # type: ignore[attr-defined]


@CLIENTS
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(client: Callable[[str], Any], status: int, server: ThreadingHTTPServer) -> None:
    target = f"http://localhost:{server.server_port}/elsewhere"
    server.answer = status, {"Location": target}  # type: ignore[attr-defined]
    with pytest.raises(Exception, match=rf"answered (HTTP )?{status}"):
        client(f"http://127.0.0.1:{server.server_port}")
    assert not any("elsewhere" in path for path, _ in server.asked)  # type: ignore[attr-defined]


def test_an_answer_that_fills_the_memory_is_given_up(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.generation.endpoints.MAX_ANSWER_BYTES", 1 << 20)
    server.answer, server.content = (200, {"Content-Encoding": "gzip"}), gzip.compress(bytes(2 << 20))  # type: ignore[attr-defined]
    with pytest.raises(ServerError, match="the answer is larger than 1048576 bytes"):
        sampling(f"http://127.0.0.1:{server.server_port}")


def test_a_key_crosses_the_internet_by_https_only(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [["8.8.8.8"]])
    with pytest.raises(ServerError, match=r"8\.8\.8\.8 is on the internet, and http would send the key unencrypted"):
        connected(Place("http", "public.test", 80), 1, has_key=True)

    async def found(place: Place, has_key: bool) -> list[str]:
        return await checked_addresses(place, has_key=has_key)

    assert run_to_end(found(Place("https", "public.test", 443), True)) == ["8.8.8.8"]
    assert run_to_end(found(Place("http", "public.test", 80), False)) == ["8.8.8.8"]
