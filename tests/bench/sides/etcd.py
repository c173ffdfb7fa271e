"""etcd in the layout of go-kratos: the bare stubs of grpc.aio with the messages that the bridge's own client sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import msgspec

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import GRANT, RANGE, TXN, WATCH, Method
from adapters.etcd.keys import Range
from adapters.etcd.times import TIMES
from tests.bench import records
from tests.bench.records import Native
from tests.bench.sides import Record
from tests.servers.etcd import Etcd as Server

PUT = Method("/etcdserverpb.KV/Put", pb.PutRequest, pb.PutResponse)
OPTIONS = (("grpc.max_receive_message_length", 64 << 20),)
PAGE = 10_000  # keys: the quickest way to read a hundred thousand
TTL = 3600  # seconds: no lease of a native ends while something is measured
LINK: dict[str, Any] = {}
LOCK_TTL = TIMES.lock
NOTE = ""


class Kratos(msgspec.Struct):
    """A record, decoded into types."""

    id: str
    name: str
    version: str
    metadata: dict[str, str] | None
    endpoints: list[str]


_KRATOS = msgspec.json.Decoder(Kratos)


def server(folder: Path, name: str, arms: int = 1) -> Server:
    # As it is shipped: what it has acknowledged is on the disk. The tests do without.
    return Server(folder, name=name, flags=["--unsafe-no-fsync=false", "--quota-backend-bytes=8589934592"])


def open(address: str, prefix: str) -> Etcd:
    return Etcd(address, prefix)


def block(address: str, prefix: str) -> dict[str, Any]:
    return {"kind": "etcd", "endpoints": [f"http://{address}"], "layout": "kratos", "prefix": prefix}


class Etcd:
    """See `tests.bench.sides.Side`."""

    shape = Kratos
    takes_bytes = True

    def __init__(self, address: str, prefix: str) -> None:
        self._address = address
        self._prefix = prefix
        self._head = len(prefix)
        self._area = Range.below(prefix.encode())
        self._lease = 0

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._address, OPTIONS)
        self._put, self._range, self._txn, self._grant = (self._unary(each) for each in (PUT, RANGE, TXN, GRANT))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close(None)

    def _unary(self, method: Method[Any, Any]) -> Any:
        return self._channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)

    def value(self, number: int, mark: int = 0) -> bytes:
        return self.encode(records.native(number, mark))

    def decode(self, path: str, value: bytes) -> Native:
        found = _KRATOS.decode(value)
        host = found.endpoints[0].partition("://")[2].rpartition(":")[0]
        return Native(found.name, found.id, host, found.version, found.metadata or {})

    def encode(self, native: Native) -> bytes:
        record = {
            "id": native.id,
            "name": native.service,
            "version": native.version,
            "metadata": native.metadata,
            "endpoints": [f"grpc://{native.host}:9000", f"http://{native.host}:8000"],
        }
        return msgspec.json.encode(record)

    async def register(self, lot: Sequence[Record]) -> None:
        if not self._lease:
            self._lease = (await self._grant(pb.LeaseGrantRequest(ttl=TTL))).id
        await self._write(lot, self._lease)

    async def deregister(self, paths: Sequence[str]) -> None:
        gone = [pb.DeleteRangeRequest(key=self._key(path)) for path in paths]
        await self._txn(pb.TxnRequest(success=[pb.RequestOp(request_delete_range=each) for each in gone]))

    async def put(self, path: str, value: bytes) -> None:
        await self._put(pb.PutRequest(key=self._key(path), value=value))

    async def put_many(self, lot: Sequence[Record]) -> None:
        await self._write(lot, 0)

    async def _write(self, lot: Sequence[Record], lease: int) -> None:
        puts = [pb.PutRequest(key=self._key(path), value=value, lease=lease) for path, value in lot]
        if len(puts) == 1:
            await self._put(puts[0])
        else:
            await self._txn(pb.TxnRequest(success=[pb.RequestOp(request_put=put) for put in puts]))

    async def read(self) -> AsyncIterator[Sequence[Record]]:
        start, revision, more = self._area.start, 0, True
        while more:
            request = pb.RangeRequest(key=start, range_end=self._area.end, limit=PAGE, revision=revision)
            page = await self._range(request)
            revision, more = page.header.revision, page.more
            if page.kvs:
                start = page.kvs[-1].key + b"\0"
            yield [(kv.key[self._head :].decode(), kv.value) for kv in page.kvs]

    async def follow(self) -> AsyncIterator[Sequence[tuple[str, bytes | None]]]:
        call: Any = self._channel.stream_stream(WATCH.path, WATCH.request.SerializeToString, WATCH.response.FromString)
        stream = call()
        try:
            create = pb.WatchCreateRequest(key=self._area.start, range_end=self._area.end)
            await stream.write(pb.WatchRequest(create_request=create))
            async for response in stream:
                yield [
                    (
                        records.short(event.kv.key[self._head :].decode()),
                        None if event.type == pb.Event.DELETE else event.kv.value,
                    )
                    for event in response.events
                ]
        finally:
            stream.cancel()

    async def writes(self) -> int:
        revision: int = (await self._range(pb.RangeRequest(key=b"\0", keys_only=True))).header.revision
        return revision

    def _key(self, path: str) -> bytes:
        return (self._prefix + path).encode()
