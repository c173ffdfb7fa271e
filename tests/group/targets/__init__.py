"""The destination of a group as its store tells of it, past our code: what was written, when, and who held what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple, Protocol

from tests.group.targets import consul, zookeeper
from tests.kit.natives import Etcd, Event
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd as EtcdServer
from tests.servers.server import Server
from tests.servers.zookeeper import ZooKeeper


class Events(Protocol):
    """All events so far. Keys are those of etcd, whatever the store: `PREFIX` and what follows, `LOCKS` and so on."""

    def __iter__(self) -> Iterator[Event]: ...

    async def caught_up(self) -> Any:
        """Returns when everything is there that had happened when this was called."""
        ...


class Target(Protocol):
    """A native client of the store."""

    async def records(self) -> Mapping[str, str]:
        """What stands there, as kratos would have it."""
        ...

    async def halves(self) -> list[str]:
        """What a torn write would leave."""
        ...


class Kind(NamedTuple):
    """`block`: of the registry in a file. `whole`: every state is told, so that no write can go unseen."""

    block: Callable[[Any], dict[str, Any]]
    seen: Callable[[Any], AbstractAsyncContextManager[tuple[Any, Any]]]
    whole: bool = True


@asynccontextmanager
async def _etcd(server: EtcdServer) -> AsyncIterator[tuple[Etcd, Events]]:
    async with Etcd(server.address) as native, native.history("/") as history:
        yield native, history


KINDS: dict[type[Server], Kind] = {
    EtcdServer: Kind(lambda it: {"kind": "etcd", "endpoints": [it.url], "layout": "kratos"}, _etcd),
    ZooKeeper: Kind(zookeeper.block, zookeeper.seen),
    Consul: Kind(consul.block, consul.seen, whole=False),
}

__all__ = ["KINDS", "Event", "Events", "Kind", "Target"]
