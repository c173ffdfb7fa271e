"""What a registry of a test is, and the corners of etcd, ZooKeeper and the disk that are one each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from adapters.etcd import etcd_pb2 as pb
from adapters.file.folder import OURS
from bridge.adapter import Registry
from bridge.config.kinds import adapter
from bridge.model import Service, ServiceName
from tests.conformance.lab import source_of
from tests.kit import natives, stock
from tests.kit.stock import Native

Stands = Mapping[str, tuple[bytes, object]]  # by key: the value, and what changes with every write of it


class Store(Protocol):
    """A real server, or a folder, as natives use it."""

    async def put(self, key: str, value: bytes) -> None: ...

    async def delete(self, key: str) -> None: ...

    async def stands(self, root: str) -> Stands:
        """All that there is below a root."""
        ...


class EtcdStore:
    """One etcd. Everything natives register is under a lease, as with the stock clients."""

    def __init__(self, client: natives.Etcd, address: str) -> None:
        self.address = address
        self._client = client
        self._lease = 0

    async def put(self, key: str, value: bytes) -> None:
        self._lease = self._lease or await self._client.lease()
        request = pb.PutRequest(key=key.encode(), value=value, lease=self._lease)
        await self._client.call("put", request)

    async def delete(self, key: str) -> None:
        await self._client.call("delete", pb.DeleteRangeRequest(key=key.encode()))

    async def stands(self, root: str) -> Stands:
        return {kv.key.decode(): (kv.value, kv.mod_revision) for kv in await self._client.below(root)}


class ZooKeeperStore:
    """One ZooKeeper. Natives' nodes are ephemeral."""

    def __init__(self, client: KazooClient, address: str) -> None:
        self.address = address
        self._client = client

    async def put(self, key: str, value: bytes) -> None:
        await asyncio.to_thread(self._put, key, value)

    async def delete(self, key: str) -> None:
        with contextlib.suppress(NoNodeError):
            await asyncio.to_thread(self._client.delete, key)

    async def stands(self, root: str) -> Stands:
        return await asyncio.to_thread(self._below, root)

    def _put(self, key: str, value: bytes) -> None:
        if self._client.exists(key):
            self._client.set(key, value)
        else:
            self._client.create(key, value, ephemeral=True, makepath=True)

    def _below(self, path: str) -> dict[str, tuple[bytes, object]]:
        try:
            value, stat = self._client.get(path)
            found = {path: (value, stat.mzxid)} if stat.numChildren == 0 else {}
            for child in self._client.get_children(path):
                found |= self._below(f"{path}/{child}")
        except NoNodeError:
            return {}
        return found


class Place(Protocol):
    """One registry of a test, with natives in it."""

    layout: str

    @property
    def block(self) -> dict[str, Any]:
        """Its block of the configuration."""
        ...

    async def put(self, service: str, native: Native) -> None:
        """Registers an instance, or changes it."""
        ...

    async def remove(self, service: str, id: str) -> None: ...

    async def untouched(self) -> bool:
        """Whether all that natives wrote stands as they wrote it, and was not written since."""
        ...

    async def position(self) -> object:
        """Equal as long as nobody wrote an entry or a ledger entry."""
        ...


class Corner:
    """A layout below a root of its own in a store that is shared."""

    def __init__(self, layout: str, store: EtcdStore | ZooKeeperStore, name: str) -> None:
        self.layout = layout
        self._store = store
        # Dubbo's root has the form of a path in any case; kitex's prefix begins without a slash.
        self._root = f"/{name}" if isinstance(store, ZooKeeperStore) else f"{'' if layout == 'kitex' else '/'}{name}/"
        self._keys: dict[tuple[str, str], str] = {}
        self._written: dict[str, tuple[bytes, object]] = {}

    @property
    def block(self) -> dict[str, Any]:
        if isinstance(self._store, EtcdStore):
            url = f"http://{self._store.address}"
            return {"kind": "etcd", "endpoints": [url], "layout": self.layout, "prefix": self._root}
        more = {"payload": "map"} if self.layout == "curator" else {}
        return {"kind": "zookeeper", "hosts": [self._store.address], "layout": self.layout, "root": self._root, **more}

    async def put(self, service: str, native: Native) -> None:
        key, value = stock.record(self.layout, service, native)
        key = f"{self._root.removesuffix('/')}/{key}"
        old = self._keys.get((service, native.id))
        self._keys[service, native.id] = key
        await self._store.put(key, value)
        self._written[key] = (await self._store.stands(key))[key]
        if old is not None and old != key:
            del self._written[old]
            await self._store.delete(old)

    async def remove(self, service: str, id: str) -> None:
        key = self._keys.pop((service, id))
        del self._written[key]
        await self._store.delete(key)

    async def untouched(self) -> bool:
        stands = await self._store.stands(self._root)
        return all(stands.get(key) == written for key, written in self._written.items())

    async def position(self) -> object:
        return [await self._store.stands(root) for root in (self._root, self._ledger)]

    @property
    def _ledger(self) -> str:
        return f"/isthmus/ledger{'/' if isinstance(self._store, EtcdStore) else ''}{self._root}"


class Folder:
    """A folder of files: people write theirs, bridges write others."""

    layout = "file"

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._path = path
        self._services: dict[str, dict[str, dict[str, Any]]] = {}

    @property
    def block(self) -> dict[str, Any]:
        return {"kind": "file", "path": str(self._path)}

    async def put(self, service: str, native: Native) -> None:
        self._services.setdefault(service, {})[native.id] = {
            "id": native.id,
            "address": native.address,
            "ports": [{"number": native.port, "name": "main", "protocol": "dubbo"}],
            "health": "DRAINING" if native.draining else "HEALTHY",
            "weight": native.weight,
            "locality": {"region": "eu", "zone": native.metadata.get("zone", "eu-1")},
            "version": native.version,
            "tags": ["blue"],
            "metadata": dict(native.metadata),
        }
        self._write(service)

    async def remove(self, service: str, id: str) -> None:
        del self._services[service][id]
        self._write(service)

    async def untouched(self) -> bool:
        return all(self._file(service).read_bytes() == self._text(service) for service in self._services)

    async def position(self) -> object:
        """Beside the services, in a folder of their own, are locks and what daemons note for each other."""
        files = [path for path in self._path.rglob("*") if path.is_file() and path.parent.name != OURS]
        return {path: path.stat().st_mtime_ns for path in files}

    def _file(self, service: str) -> Path:
        return self._path / f"{service}.yaml"

    def _text(self, service: str) -> bytes:
        return msgspec.json.encode({"instances": list(self._services[service].values())})

    def _write(self, service: str) -> None:
        draft = self._path / f".{service}.draft"
        draft.write_bytes(self._text(service))
        draft.rename(self._file(service))


class Reader(NamedTuple):
    """Our own eyes on one registry, in no bridge's way."""

    registry: Registry
    identity: str

    async def read(self, service: str) -> Service:
        """What stands there now, in the common model."""
        return (await (await source_of(self.registry)).read(ServiceName(service))).service


@asynccontextmanager
async def reading(place: Place) -> AsyncIterator[Reader]:
    """Opens a registry to look at it."""
    options = {key: value for key, value in place.block.items() if key != "kind"}
    module = adapter(place.block["kind"])
    async with module.create("reader", msgspec.convert(options, module.Config), None) as registry:
        yield Reader(registry, (await registry.reach()).identity)
