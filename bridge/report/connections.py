"""Who is connected to ports of this machine, by the kernel's table of connections (proc(5), /proc/net/tcp and tcp6)."""

from __future__ import annotations

import enum
import socket
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

from bridge.errors import Unavailable
from bridge.link import glob
from bridge.migration.quiet import PEERS, Address, Listening, Watch
from bridge.report.targets import Targets

TABLES = ("tcp", "tcp6")


class Tcp(enum.IntEnum):
    """The states of a socket, as Linux numbers them (tcp_states.h)."""

    ESTABLISHED = 1
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


CONNECTED = frozenset(Tcp) - {Tcp.LISTEN}  # whose other end is there, or just was


class Row(NamedTuple):
    """One socket of the table."""

    here: Address
    peer: Address
    state: int


def table(ports: Collection[int], folder: Path = Path("/proc/net")) -> list[Row]:
    """The sockets at these ports in this network namespace. Raises Unavailable where there is no such table."""
    try:
        texts = [(folder / name).read_text() for name in TABLES if (folder / name).exists()]
    except OSError as error:
        raise Unavailable(f"{folder}: the table of connections cannot be read: {error.strerror}") from None
    if not texts:
        raise Unavailable(f"{folder}: has no table of connections: this needs Linux")
    return [row for text in texts for row in rows(text, ports)]


def rows(text: str, ports: Collection[int]) -> Iterator[Row]:
    """The sockets of one table at these ports; its first line has the names of the columns."""
    for line in text.splitlines()[1:]:
        _, here, peer, state, *_ = line.split(maxsplit=4)
        if int(here.rpartition(":")[2], 16) in ports:
            yield Row(_address(here), _address(peer), int(state, 16))


def _address(text: str) -> Address:
    """An address in words of 32 bits in the byte order of the machine, a colon, a port; both in hexadecimal digits."""
    digits, _, port = text.partition(":")
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return str(_plain(ip_address(packed))), int(port, 16)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """A socket for both families shows IPv4 addresses as mapped ones (RFC 4291, 2.5.5.2)."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def mine(addresses: Iterable[str]) -> dict[str, frozenset[str]]:
    """Of these names and addresses those of this machine, each with the addresses that it has here."""
    found: dict[str, frozenset[str]] = {}
    for one in addresses:
        try:
            resolved = {str(known[4][0]) for known in socket.getaddrinfo(one, None, type=socket.SOCK_STREAM)}
        except OSError:
            continue
        if here := frozenset(address for address in resolved if _binds(address)):
            found[one] = here
    return found


def _binds(address: str) -> bool:
    """Nothing but an address of this machine can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.bind((address, 0))
    except OSError:
        return False
    return True


def look(
    targets: Targets, here: Mapping[str, frozenset[str]], some: Collection[Row], ignored: tuple[str, ...], now: float
) -> Listening:
    """One look at the targets of this machine that somebody listens at. `here`: as `mine` says."""
    listening = {row.here for row in some if row.state == Tcp.LISTEN}
    peers: dict[Address, set[str]] = {}
    for row in some:
        if row.state in CONNECTED and not any(glob(pattern, row.peer[0]) for pattern in ignored):
            peers.setdefault(row.here, set()).add(row.peer[0])
    watched = []
    for name, port in sorted({(one.address, one.port) for one in targets.targets if one.address in here}):
        if any((address, port) in listening for address in (*here[name], "0.0.0.0", "::")):  # noqa: S104  nothing binds
            seen = sorted(set[str]().union(*(peers.get((address, port), ()) for address in here[name])))
            last = now if seen else None
            watched.append(Watch(address=name, port=port, since=now, last=last, peers=tuple(seen[:PEERS])))
    host = socket.gethostname()
    return Listening(of=targets.link, host=host, at=now, watched=tuple(watched), ignored=ignored)
