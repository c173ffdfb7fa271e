"""The kinds of registries that are measured, as natives and raw loops use them: a pair is a source's and a target's."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, cast

from tests.bench.records import Native

Record = tuple[str, bytes]  # the path below the prefix, `service/id`, and what stands there


class Side(Protocol):
    """One server, spoken to with as little as possible: no retries, no ownership, nothing kept. Open it to use it."""

    shape: type  # what a record is decoded into, where it is
    takes_bytes: bool  # whether anything can be written there as it is

    async def __aenter__(self) -> Side: ...

    async def __aexit__(self, *exc: object) -> None: ...

    def encode(self, native: Native) -> bytes:
        """The record of an instance that is registered elsewhere."""
        ...

    def decode(self, path: str, value: bytes) -> Native:
        """The instance that a native's record is of."""
        ...

    def value(self, number: int, mark: int = 0) -> bytes:
        """The record of the n-th instance, in which `mark` can be found again by `tests.bench.records`."""
        ...

    async def register(self, lot: Sequence[Record]) -> None:
        """Natives write these, all at once, the way stock clients do: under a lease."""
        ...

    async def deregister(self, paths: Sequence[str]) -> None:
        """Natives take these away."""
        ...

    async def put(self, path: str, value: bytes) -> None:
        """A raw loop writes one record."""
        ...

    async def put_many(self, lot: Sequence[Record]) -> None:
        """A raw loop writes records that are not there yet, in one transaction."""
        ...

    def read(self) -> AsyncIterator[Sequence[Record]]:
        """All that stands there, in lots."""
        ...

    def follow(self) -> AsyncIterator[Sequence[tuple[str, bytes | None]]]:
        """What changes from now on; the first lot is empty and says that nothing will be missed. None: gone."""
        ...

    async def writes(self) -> int:
        """How many atomic writes the server has ever made, whoever asked for them."""
        ...


class Server(Protocol):
    """One real server for a benchmark; see `tests.servers`."""

    address: str

    async def stop(self) -> None: ...

    async def start(self) -> None: ...


class Kind(Protocol):
    """What a module of this package has.

    `LINK`: what a link to it must say. `LOCK_TTL`: seconds for which a writer that is dead keeps its lock there, 0: it
    has no lock, and the source lends one. `NOTE`: what our safety costs there that a raw loop does without.
    """

    LINK: dict[str, Any]
    LOCK_TTL: float
    NOTE: str

    def server(self, folder: Path, name: str, arms: int) -> AbstractAsyncContextManager[Server]:
        """A real server with an empty store; where it has no places within it, one for each of so many arms."""
        ...

    def open(self, address: str, prefix: str) -> Side:
        """What stands below a prefix of it."""
        ...

    def block(self, address: str, prefix: str) -> dict[str, Any]:
        """The same place in the daemon's configuration."""
        ...


KINDS = {name: f"tests.bench.sides.{name}" for name in ("etcd", "zookeeper", "consul", "eureka", "kubernetes")}
TARGETS = {name: f"tests.bench.sides.{name}" for name in ("kafka", "xds")}  # written, without natives


def kind(name: str) -> Kind:
    """The module of that kind of registry."""
    return cast(Kind, importlib.import_module((KINDS | TARGETS)[name]))
