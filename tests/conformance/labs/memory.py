"""The laboratory in memory, with health and without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from adapters.memory import Config, Memory
from adapters.memory.server import Store
from bridge.adapter import Registry
from bridge.errors import Unavailable
from bridge.model import Instance, ServiceName
from tests.conformance.lab import EVERY_PART, Can, Form, Kind, Lab, Part, as_it_is, at


class MemoryLab:
    """Pokes the store itself."""

    can: frozenset[Can] = frozenset(
        {"change", "write", "spoil", "cut", "erase", "steal", "lease", "adopt", "loose", "fence", "order"}
    )

    def __init__(self, config: Config) -> None:
        self.form: Form = as_it_is
        self.store = Store()
        self._config = config
        self._lender = Store("lender")

    def lender(self) -> Registry | None:
        return None if self._config.seat else Memory("lender", self._lender)

    def registry(self) -> Registry:
        return Memory("lab", self.store, config=self._config)

    async def register(self, service: ServiceName, instance: Instance) -> None:
        self.store.register(service, instance)

    async def deregister(self, service: ServiceName, id: str) -> None:
        self.store.deregister(service, id)

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        return at(*self.store.instances(service).values())

    async def place(self) -> object:
        return self.store.save()

    async def spoil(self, service: ServiceName, id: str) -> None:
        self.store.spoil(service, id)

    async def erase(self, service: ServiceName, id: str) -> None:
        self.store.deregister(service, id)

    async def cut(self) -> None:
        self.store.fail_with(Unavailable("cut"))

    async def heal(self) -> None:
        self.store.heal()

    async def steal(self, bridge: str) -> None:
        self.store.take_lock(bridge)

    def block(self) -> tuple[str, Mapping[str, Any]]:
        return "", {}

    async def end(self, bridge: str, who: str) -> None:
        for lot in self.store.lots.picture(bridge).lots.values():
            lives = [(lot.who, lot.life), *((one.who, one.life) for one in lot.claims)]
            for life in [life for name, life in lives if name == who]:
                self.store.lots.end(life)

    async def say(self, bridge: str, count: int | None) -> None:
        self.store.lots.counts.pop(bridge)
        if count is not None:
            self.store.lots.divide(bridge, count)

    async def expire(self, bridge: str) -> None:
        self.store.expire(bridge)


def _kind(config: Config) -> Kind:
    @asynccontextmanager
    async def open(server: object, folder: Path) -> AsyncIterator[Lab]:
        yield MemoryLab(config)

    seated: frozenset[Part] = EVERY_PART | {"shards"} if config.fence else EVERY_PART
    return Kind(None, open, seated if config.seat else frozenset({"sink"}))


KINDS = {
    "memory": _kind(Config()),
    "memory-poor": _kind(Config(health=False, ports=1)),
    "memory-polled": _kind(Config(polls=True, shared=True, fence=False)),
    "memory-borrowed": _kind(Config(seat=False, natives=False)),
}
