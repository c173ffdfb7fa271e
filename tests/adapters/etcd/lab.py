"""What the etcd tests do behind a bridge's back: natives that register and go, and the administrator."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

from adapters import etcd as adapter
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import GRANT, RANGE, REVOKE, TXN, Client
from adapters.etcd.keys import Range, Space
from adapters.etcd.readers import Counters
from adapters.etcd.times import TIMES, Times
from bridge.adapter import Change, Entry, Listing, Observed, Outcome, Synced
from bridge.model import Instance, Mark, Port, ServiceName
from mappings import kratos
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.etcd import Etcd

USER = ServiceName("user")


def key(id: str, service: str = "user") -> str:
    return f"/microservices/{service}/{id}"


def record(id: str, address: str = "10.0.0.7", service: str = "user") -> str:
    """What kratos writes."""
    return f'{{"id":"{id}","name":"{service}","version":"","metadata":null,"endpoints":["grpc://{address}:8080"]}}'


def instance(id: str, address: str = "10.0.0.1", **fields: Any) -> Instance:
    return Instance(id, address, (Port(8080, "grpc", "grpc"),), **fields)


def mark(id: str, owner: str = "b1", service: ServiceName = USER) -> Mark:
    return Mark(owner, "link", ("consul:dc1",), "", service, id)


def create(id: str, owner: str = "b1", service: ServiceName = USER, ttl: int | None = None, **fields: Any) -> Change:
    made = instance(id, **fields)
    return Change(service, id, after=made, mark=mark(id, owner, service), ttl=ttl)


def remove(id: str, before: Entry, service: ServiceName = USER) -> Change:
    return Change(service, id, before=before)


def replace(id: str, before: Entry, service: ServiceName = USER, ttl: int | None = None, **fields: Any) -> Change:
    return Change(service, id, before=before, after=instance(id, **fields), mark=before.mark or mark(id), ttl=ttl)


def kind(error: Exception | None) -> type | None:
    """The class of `bridge.errors` that everyone else reacts to."""
    return next((each for each in type(error).__mro__ if each.__module__ == "bridge.errors"), None)


def errors(outcomes: Iterable[Outcome]) -> list[type | None]:
    return [kind(outcome.error) for outcome in outcomes]


def entry(outcome: Outcome) -> Entry:
    """What `held` will say of what was just written."""
    assert outcome.error is None
    assert outcome.change.after is not None
    return Entry(outcome.change.after, outcome.change.mark, outcome.version)


def registry(server: Etcd, times: Times = TIMES, **config: Any) -> adapter.Etcd:
    settings = {"endpoints": [server.url], "layout": "kratos"} | config
    return adapter.create("lab", adapter.Config(**settings), None, times)


def narrow(server: Etcd) -> adapter.Etcd:
    """A registry whose client takes no message beyond 64 KiB."""
    client, space = Client([server.url], largest=64 << 10), Space(kratos, kratos.PREFIX, kratos.PROTOCOL)
    return adapter.Etcd("lab", client, space, Counters([server.url], None))


def sink_of(registry: adapter.Etcd, bridge: str = "b1") -> Seated:
    return Seated(registry, bridge)


class Natives:
    """Those who know nothing of ledgers: they put under a lease, and delete."""

    def __init__(self, server: Etcd) -> None:
        self.client = Client([server.url])

    async def __aenter__(self) -> Natives:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def lease(self, ttl: int = 600) -> int:
        return (await self.client.call(GRANT, pb.LeaseGrantRequest(ttl=ttl))).id

    async def revoke(self, lease: int) -> None:
        await self.client.call(REVOKE, pb.LeaseRevokeRequest(id=lease))

    async def put(self, *pairs: tuple[str, str], lease: int = 0) -> int:
        """One transaction; the revision."""
        puts = [pb.PutRequest(key=key.encode(), value=value.encode(), lease=lease) for key, value in pairs]
        request = pb.TxnRequest(success=[pb.RequestOp(request_put=put) for put in puts])
        return (await self.client.call(TXN, request)).header.revision

    async def delete(self, *keys: str) -> None:
        gone = [pb.DeleteRangeRequest(key=key.encode()) for key in keys]
        request = pb.TxnRequest(success=[pb.RequestOp(request_delete_range=each) for each in gone])
        await self.client.call(TXN, request)

    async def delete_below(self, prefix: str) -> None:
        """Everything with that prefix, in one revision."""
        area = Range.below(prefix.encode())
        gone = pb.DeleteRangeRequest(key=area.start, range_end=area.end)
        await self.client.call(TXN, pb.TxnRequest(success=[pb.RequestOp(request_delete_range=gone)]), 60.0)

    async def get(self, prefix: str) -> dict[str, str]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = await self.client.call(RANGE, pb.RangeRequest(key=prefix.encode(), range_end=end.encode()))
        return {kv.key.decode(): kv.value.decode() for kv in found.kvs}


async def admin(server: Etcd, path: str, token: str = "", **body: Any) -> dict[str, Any]:
    """One request to the JSON gateway, for what the bridge itself never asks: `auth/enable`, `kv/compaction` ..."""

    def post() -> dict[str, Any]:
        headers = {"Authorization": token} if token else {}
        request = urllib.request.Request(
            f"{server.url}/v3/{path}", json.dumps(body).encode(), headers=headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    return await asyncio.to_thread(post)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def below(prefix: str) -> dict[str, str]:
    """A range of the JSON gateway."""
    return {"key": b64(prefix), "range_end": b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


class Watcher:
    """Runs a source's watch and keeps all that it says, and how it ended."""

    def __init__(self, watch: AsyncIterator[Listing | Observed | Synced]) -> None:
        self.said: list[Listing | Observed | Synced] = []
        self.error: Exception | None = None
        self._watch = watch
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watcher:
        self._task = asyncio.create_task(self._run())
        await until(lambda: self.synced or self.error)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def synced(self) -> bool:
        return any(isinstance(word, Synced) for word in self.said)

    @property
    def observed(self) -> list[Observed]:
        return [word for word in self.said if isinstance(word, Observed)]

    def now(self, name: ServiceName = USER) -> Observed | None:
        """The last word on a service."""
        return next((each for each in reversed(self.observed) if each.service.name == name), None)

    def addresses(self, name: ServiceName = USER) -> dict[str, str]:
        last = self.now(name)
        return {id: instance.address for id, instance in last.service.instances.items()} if last else {}

    async def _run(self) -> None:
        try:
            async with aclosing(self._watch) as words:  # type: ignore[type-var]
                async for word in words:
                    self.said.append(word)
        except Exception as error:
            self.error = error
