"""Which network addresses our clients connect to: how a URL is written, and what the name in it means.

Servers of models run on this machine, in a private network or on the internet, so all three are permitted. Refused are
the places where no such server is, but credentials of the machine may be: link-local addresses, among them the metadata
services of clouds, and what is no single machine's address. Three examples:

    http://node1:8000/v1          permitted if the name means permitted addresses only
    http://169.254.169.254/v1     refused: link-local
    http://2852039166/v1          refused: another spelling of the same address

A name is looked up once for a connection, and the connection goes to an address that was checked. If the HTTP library
looked it up again, a name server could give another answer then ("DNS rebinding").
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from align.errors import ServerError

PORTS = {"http": 80, "https": 443}
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        # Alibaba, Azure, Oracle, Amazon and Google; those of most clouds are link-local
        ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    )
)
_IPV4_INSIDE = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
"""IPv6 addresses that end in the IPv4 address that they mean: NAT64, and the "compatible" form."""
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")
"""Hosts that C libraries read as an IPv4 address, by their last part: 127.1, 0x7f000001, 0177.0.0.1."""


class Place(NamedTuple):
    """What a URL leads to."""

    scheme: str
    host: str
    """A name, or an address without brackets."""
    port: int


def place_of(url: str) -> Place:
    """Scheme, host and port of an http or https URL. Raises ValueError, saying what is wrong with it.

    Only the plain spelling is read, so that this function and the HTTP library cannot understand a URL in two ways.
    """
    if re.search(r"[^\x21-\x7e]|[\\<>\"^`{|}]", url):
        raise ValueError("has a character that no address has; write a name in its ASCII form")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("has a host in brackets that is no IPv6 address") from None
    if parts.scheme not in PORTS:
        raise ValueError("begins with neither http:// nor https://")
    if "@" in parts.netloc:
        raise ValueError("contains a user name or a password; a key belongs in an environment variable")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ValueError("has a part after ? or #")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("has a port that is no number from 1 to 65535") from None
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("has a port that is no number from 1 to 65535")
    if parts.netloc.startswith("[") or _NUMBER.fullmatch(host):
        _check_literal(host)
    elif not _NAME.fullmatch(host):
        raise ValueError("has no host name" if not host else f"has the host {host!r}, which is no name")
    elif len(name := host.removesuffix(".")) > 253 or not all(0 < len(label) <= 63 for label in name.split(".")):
        raise ValueError("has a host name that is too long (253 characters, 63 between two dots), or two dots in a row")
    return Place(parts.scheme, host, port or PORTS[parts.scheme])


async def checked_addresses(place: Place, *, has_key: bool) -> list[str]:
    """The addresses that a place's name means now. Raises as `connected`."""
    found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return _checked(found, place, has_key=has_key)


def connected(place: Place, timeout: float | None, *, has_key: bool) -> socket.socket:
    """A connection to one of the addresses that a place's name means now.

    has_key: a key will be sent, which crosses the internet by https only.
    Raises ServerError if one of the addresses is refused, and OSError as `socket.create_connection` does.
    """
    error: OSError = OSError(f"{place.host} has no address")
    for address in _checked(
        socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM), place, has_key=has_key
    ):
        try:
            return socket.create_connection((address, place.port), timeout)
        except OSError as refused:
            error = refused
    raise error


def fault_of(address: IPv4Address | IPv6Address) -> str:
    """Why an address is refused; empty if it is permitted."""
    inner = _ipv4_in(address)
    if inner is not None:
        return fault_of(inner)
    if address in _METADATA:
        return "the address of a cloud's metadata service"
    if address.is_link_local:
        return "a link-local address, such as that of a cloud's metadata service"
    if address.is_loopback:
        return ""
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return "no address of a single machine"
    return "no address of a single machine" if int(address) >> 24 == 0 and address.version == 4 else ""


def _checked(found: Iterable[tuple[Any, ...]], place: Place, *, has_key: bool) -> list[str]:
    texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in texts:
        address = ipaddress.ip_address(text)
        where = f"{place.scheme}://{place.host}:{place.port}"
        if fault := fault_of(address):
            what = f"{place.host} is {text}, {fault}" if text != place.host else f"is {fault}"
            raise ServerError(where, what, "Name the address of a server; no request was sent")
        if has_key and place.scheme == "http" and address.is_global:
            what = f"{text} is on the internet, and http would send the key unencrypted"
            raise ServerError(where, what, "Use https, or reach the server by a tunnel (ssh -L) and name localhost")
    return texts


def _check_literal(host: str) -> None:
    """Raise ValueError unless a host is an address in its only plain spelling, and a permitted one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"has the host {host!r}, which is an address in an unusual spelling") from None
    if _ipv4_in(address) is not None or getattr(address, "scope_id", None) is not None:
        raise ValueError(f"has the host {host!r}, which is an address in an unusual spelling")
    if fault := fault_of(address):
        raise ValueError(f"has the host {host}, {fault}")


def _ipv4_in(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address means: ::ffff:127.0.0.1, 2002:7f00:1::, 64:ff9b::7f00:1, ::7f00:1."""
    if address.version == 4:
        return None
    assert isinstance(address, IPv6Address)
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is None and int(address) > 1 and any(address in network for network in _IPV4_INSIDE):
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    return inner
