"""Addresses and ports as the conventions write them: `host:port` texts to and from the model's bare form."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import lru_cache

from bridge.errors import Rejected
from bridge.model import Instance, Port

# A last label of digits alone is a mistyped IPv4 address, never a name (WHATWG URL, "ends in a number").
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*(?![0-9]+\.?\Z)"
                   r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.?").fullmatch  # fmt: skip

_ZONE = re.compile(r"[A-Za-z0-9_.~-]{1,64}").fullmatch


def host(text: str) -> str:
    """A bare canonical IP address (RFC 5952; mapped IPv4 as IPv4) or the host name as it is.

    A zone (`fe80::1%eth0`) stays: without it nobody could dial the address, with it those on the same link can.

    Takes IPv6 with and without brackets. Raises ValueError, whose text says what is wrong.
    """
    return text if is_ipv4(text) or _NAME(text) else _ipv6(text)


def is_ipv4(text: str) -> bool:
    """Whether a text is a canonical IPv4 address."""
    if not text[:1].isdecimal():
        return False
    try:
        socket.inet_pton(socket.AF_INET, text)  # which takes four numbers without leading zeros, and nothing else
    except (OSError, ValueError):
        return False
    return True


@lru_cache(maxsize=4096)
def _ipv6(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    number, percent, zone = bare.partition("%")
    try:
        address = ipaddress.IPv6Address(number)
    except ValueError:
        raise ValueError(f"{text!r} is neither an IP address nor a host name") from None
    if percent and not _ZONE(zone):
        raise ValueError(f"{text!r} has a zone that is no name of a network interface")
    return str(address.ipv4_mapped or f"{address}{percent}{zone}")


def is_ip(address: str) -> bool:
    """Whether an address of the model is a bare IP address: neither a host name nor one with a zone."""
    if is_ipv4(address):
        return True
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return "%" not in address


def split(text: str) -> tuple[str, int]:
    """`host:port` as host (see `host`) and number.

    Raises ValueError: no port, port 0, IPv6 without brackets, a Unix socket.
    """
    if not text:
        raise ValueError("it names no address")
    name, colon, number = text.rpartition(":")
    if "/" in text:
        raise ValueError(f"a Unix socket or a path, not host and port: {text!r}")
    if not colon or text.endswith("]"):
        raise ValueError(f"no port in {text!r}")
    if ":" in name and not name.startswith("["):
        raise ValueError(f"IPv6 without brackets is ambiguous: {text!r}")
    return host(name), port_number(number)


def port_number(text: str) -> int:
    """The number, 1 to 65535, as Go and Java read it: ASCII digits. Raises ValueError."""
    number = int(text) if len(text) <= 5 and text.isascii() and text.isdigit() else 0
    if not 0 < number < 65536:
        raise ValueError(f"{text!r} is no port (1 to 65535)")
    return number


def join(address: str, number: int) -> str:
    """`host:port`, IPv6 in brackets."""
    return f"[{address}]:{number}" if ":" in address else f"{address}:{number}"


@lru_cache(maxsize=4096)
def port(number: int, protocol: str, tls: bool = False, name: str | None = None) -> Port:
    """A port, shared by all that are equal; a convention without port names calls it by its protocol."""
    return Port(number, protocol if name is None else name, protocol, tls)


def address_of(instance: Instance) -> str:
    """The address to write. Raises Rejected where nothing could dial it."""
    try:
        return host(instance.address)
    except ValueError as error:
        raise Rejected(f"address: {error}") from None


def one_port(instance: Instance) -> Port:
    """The port, for a convention that holds just one. Raises Rejected where there is none, or a choice to make."""
    if len(instance.ports) != 1:
        if not instance.ports:
            raise Rejected("no port")
        raise ambiguous(instance.ports)
    return dialable(instance.ports[0])


def ambiguous(ports: Iterable[Port]) -> Rejected:
    """The refusal to choose one of several ports."""
    shown = ", ".join(f"{port.name or port.protocol or 'unnamed'} {port.number}" for port in ports)
    return Rejected(f"ambiguous port: {shown}: say which with `port:` on the link")


def dialable(port: Port) -> Port:
    """The same port; raises Rejected where its number is none."""
    if not 0 < port.number < 65536:
        raise Rejected(f"{port.number} is no port (1 to 65535)")
    return port
