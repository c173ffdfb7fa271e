"""Where things are in etcd's keyspace: a layout's entries, the ledger beside them, the locks; names only, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from adapters.common import places
from bridge.model import ServiceName
from mappings.layout import Layout

ROOT = f"{places.ROOT}/"
LEDGER = f"{places.LEDGER}/".encode()

# Keys of other software and of the other layouts. `/registry/` is Kubernetes.
FOREIGN = ("/dubbo/", "/micro/registry/", "/microservices/", "/registry/", "/services/", "kitex/registry-etcd/", ROOT)

# The first 16 bits of every lease that a bridge puts entries under ("is"); etcd draws its own at random, and every
# stock client lets it: a leased entry without them is a native's.
OUR_LEASES = 0x6973


class Range(NamedTuple):
    """Keys from `start` up to `end`, without `end`; an end of one zero byte: all that follow."""

    start: bytes
    end: bytes

    @classmethod
    def below(cls, prefix: bytes) -> Range:
        """Every key that begins with these bytes."""
        return cls(prefix or b"\0", _after(prefix))


def _after(prefix: bytes) -> bytes:
    """The first key that no longer begins with the prefix."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"


def without(area: Range, excluded: Iterable[bytes]) -> Iterator[Range]:
    """The parts of a range that remain when the keys below some prefixes are taken out."""
    start = area.start
    for prefix in sorted(excluded):
        if start < prefix:
            yield Range(start, prefix)
        start = max(start, _after(prefix))
    yield Range(start, area.end)


class Space:
    """One layout below one prefix: which keys are its entries, and where the ledger entry of each is."""

    def __init__(self, layout: Layout, prefix: str, protocol: str) -> None:
        self.layout = layout
        self.prefix = prefix
        self.protocol = protocol
        self.own = places.Own(layout.NAME, prefix)
        self._head = len(prefix)
        self._start = prefix.encode()
        self._excluded = tuple(other.encode() for other in FOREIGN if other.startswith(prefix) and other != prefix)
        whole = Range.below(self._start)
        self.entries = tuple(without(whole, self._excluded))
        # One range for the ledger, though it may also hold what is excluded: that is little, and is skipped by `has`.
        self.ledger = Range.below(LEDGER + self._start)

    def identity(self, cluster: int) -> str:
        """The identity of the registry: the same for every bridge that reads this layout of this cluster."""
        return f"etcd:{cluster:x}:{self.layout.NAME}:{self.prefix}"

    def has(self, key: bytes) -> bool:
        """Whether a key lies in `entries`."""
        return key.startswith(self._start) and not key.startswith(self._excluded)

    def locate(self, key: bytes) -> tuple[ServiceName, str] | None:
        """The service and the id that a key of `entries` stands for; None: not of this layout."""
        try:
            return self.layout.locate(key.decode()[self._head :])
        except UnicodeDecodeError:
            return None

    def key(self, name: ServiceName, id: str) -> bytes:
        """The key of one entry: every layout has `service/id`."""
        return f"{self.prefix}{name.name}/{id}".encode()

    def folder(self, name: ServiceName) -> Range:
        """The range with the entries of one service. Entries of others may be among them: `locate` tells them apart."""
        return Range.below(self.key(name, ""))

    def proofs(self, name: ServiceName) -> Range:
        """The range with the ledger entries of one service, likewise."""
        return Range.below(LEDGER + self.key(name, ""))


def is_ours(lease: int) -> bool:
    """Whether a lease may be one that a bridge granted."""
    return lease >> 48 == OUR_LEASES


def lease_of(bridge: str, identity: str, ttl: int) -> int:
    """The lease of a bridge's entries with one lifetime: it depends on nothing else, so it is found after a restart."""
    digest = hashlib.blake2b(f"{bridge}\0{identity}\0{ttl}".encode(), digest_size=6).digest()
    return OUR_LEASES << 48 | int.from_bytes(digest, "big")
