"""Which addresses only their own host, or its own link, can dial: pure, by the ranges that the standards reserve."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

# RFC 6890, RFC 4291: range, and what an operator should know of an address in it.
_RANGES = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in (
        ("0.0.0.0/8", "stands for every address of its own host"),
        ("::/128", "stands for every address of its own host"),
        ("127.0.0.0/8", "is the loopback of whoever dials it"),
        ("::1/128", "is the loopback of whoever dials it"),
        ("169.254.0.0/16", "is link-local: only hosts of its own network segment reach it"),
        ("fe80::/10", "is link-local: only hosts of its own network segment reach it"),
        ("224.0.0.0/4", "is a multicast address"),
        ("ff00::/8", "is a multicast address"),
        ("255.255.255.255/32", "is the broadcast address"),
    )
)


# The first number of an IPv4 address in one of them: nearly every address is told apart by it, which is quick.
_FIRST = frozenset(map(str, (0, 127, 169, 255, *range(224, 240))))


def unroutable(address: str) -> str:
    """Why nobody on another host can dial an address, "" where nothing speaks against it; host names may be any."""
    first, dot, _ = address.partition(".")
    if dot and first not in _FIRST and first.isdecimal():
        return ""
    return _why(address)


@lru_cache(maxsize=65536)
def _why(address: str) -> str:
    if address.rstrip(".").lower() == "localhost" or address.rstrip(".").lower().endswith(".localhost"):
        return f"{address} is the loopback of whoever dials it (RFC 6761)"
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    return next((f"{address} {why}" for network, why in _RANGES if found in network), "")
