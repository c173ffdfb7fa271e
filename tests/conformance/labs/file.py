"""The laboratory of a folder of files: natives are people with an editor that moves files into place."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from adapters.file import Config, create
from bridge.adapter import Registry
from bridge.model import Instance, ServiceName
from tests.conformance.lab import EVERY_PART, Can, Form, Kind, Lab, as_it_is


class FileLab:
    """`folder` is the registry; what people wrote is kept here, too, as the text of a record by id."""

    can: frozenset[Can] = frozenset({"change", "write", "spoil", "cut", "steal", "loose"})

    def __init__(self, folder: Path) -> None:
        self.form: Form = as_it_is
        self.folder = folder
        self._records: dict[ServiceName, dict[str, str]] = {}

    def lender(self) -> Registry | None:
        return None

    def registry(self) -> Registry:
        return create("lab", Config(path=str(self.folder)), None)

    async def register(self, service: ServiceName, instance: Instance) -> None:
        port = f"{{number: {instance.ports[0].number}, name: grpc, protocol: grpc}}"
        lines = [f"id: {instance.id}", f"address: {instance.address}", f"ports: [{port}]"]
        lines += ["metadata:", *(f"  {key}: '{value}'" for key, value in instance.metadata.items())]
        self._records.setdefault(service, {})[instance.id] = "\n    ".join(lines[: None if instance.metadata else 3])
        self._save(service)

    async def deregister(self, service: ServiceName, id: str) -> None:
        del self._records[service][id]
        self._save(service)

    async def spoil(self, service: ServiceName, id: str) -> None:
        self._records[service][id] = f"id: {id}\n    adress: 192.0.2.1"
        self._save(service)

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        found: dict[str, tuple[str, int]] = {}
        for path in sorted(self.folder.glob(f"{service.name}.*"), key=lambda path: (path.name.count("."), path.name)):
            for record in yaml.safe_load(path.read_text())["instances"]:
                if "address" in record:
                    found.setdefault(record["id"], (record["address"], _port(record)))
        return found

    async def place(self) -> object:
        return {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")}

    async def erase(self, service: ServiceName, id: str) -> None:
        raise NotImplementedError  # the mark is in the record and goes with it

    async def cut(self) -> None:
        os.rename(self.folder, f"{self.folder}.away")

    async def heal(self) -> None:
        os.rename(f"{self.folder}.away", self.folder)

    async def steal(self, bridge: str) -> None:
        (self.folder / ".isthmus" / f"lock.{bridge}").unlink()

    async def expire(self, bridge: str) -> None:
        raise NotImplementedError  # files outlive their writer

    def _save(self, service: ServiceName) -> None:
        path = self.folder / f"{service.name}.yaml"
        records = self._records[service]
        if records:
            draft = self.folder / ".draft"
            draft.write_text("# by hand\ninstances:\n" + "".join(f"  - {text}\n" for text in records.values()))
            draft.replace(path)
        else:
            path.unlink()


def _port(record: dict[str, Any]) -> int:
    number = record["ports"][0]["number"]
    assert isinstance(number, int)
    return number


@asynccontextmanager
async def _open(server: object, folder: Path) -> AsyncIterator[Lab]:
    services = folder / "services"
    services.mkdir()
    yield FileLab(services)


KINDS = {"file": Kind(None, _open, EVERY_PART - {"leases"})}
