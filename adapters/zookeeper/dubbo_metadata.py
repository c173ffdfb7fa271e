"""Dubbo 3's metadata reports: one for each revision of an application, which names the ports that consumers call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec.structs import replace

from adapters.common.assembly import Record
from adapters.zookeeper.client import Client
from adapters.zookeeper.replies import values_of
from bridge.errors import Undecodable
from bridge.model import Health, Instance, ServiceName

ROOT = "/dubbo"
REPORTS = f"{ROOT}/metadata"
PACKET = 60  # reports read at once


class Reporting(Protocol):
    """The part of `mappings.dubbo3` that is about reports."""

    def report(self, name: ServiceName, instance: Instance) -> str | None: ...

    def reported(self, instance: Instance, report: bytes) -> Instance: ...


class Reports:
    """The reports that one watch has read. The report of a revision never changes, but may be added or removed."""

    def __init__(self, client: Client, mapping: Reporting) -> None:
        self._client = client
        self._mapping = mapping
        self._read: dict[str, bytes | None] = {}

    def clear(self) -> None:
        """Forgets all reports: any of them may have changed."""
        self._read.clear()

    def changed(self, path: str) -> ServiceName | None:
        """The application of a changed report, whose records must be resolved again; None: the path is no report."""
        if not path.startswith(f"{REPORTS}/"):
            return None
        self._read.pop(path, None)
        return ServiceName(path[len(REPORTS) + 1 :].partition("/")[0])

    async def resolve(self, name: ServiceName, records: Mapping[str, Record | None]) -> dict[str, Record | None]:
        """The records, with the ports of their reports."""
        paths = {id: self._path(name, record) for id, record in records.items()}
        missing = [path for path in dict.fromkeys(paths.values()) if path is not None and path not in self._read]
        for first in range(0, len(missing), PACKET):
            some = missing[first : first + PACKET]
            await self._client.connected()
            nodes = values_of(await self._client.reads(some))
            self._read.update(
                (path, node.value if node is not None else None) for path, node in zip(some, nodes, strict=True)
            )
        return {id: self._resolved(record, paths[id]) for id, record in records.items()}

    def _path(self, name: ServiceName, record: Record | None) -> str | None:
        below = None if record is None or record.instance is None else self._mapping.report(name, record.instance)
        return f"{ROOT}/{below}" if below is not None else None

    def _resolved(self, record: Record | None, path: str | None) -> Record | None:
        if record is None or record.instance is None or path is None:
            return record
        report = self._read[path]
        if report is None:  # as for consumers, for which it does not exist
            return replace(record, instance=replace(record.instance, health=Health.UNHEALTHY))
        try:
            return replace(record, instance=self._mapping.reported(record.instance, report))
        except Undecodable as error:
            return Record(None, record.mark, str(error))
