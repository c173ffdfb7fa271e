"""A bridge whose old side is native in the registry that it moves in, with a lever on each native."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from adapters.etcd import Config, create
from tests.dataplanes.estate import Inventory
from tests.kit import eureka as clients
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.migration.estate import GUARD, row
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka

VMS = [f"192.0.2.{number}" for number in range(1, 5)]
PODS = [f"198.51.100.{number}" for number in range(1, 5)]
OUT, UP = ("OUT_OF_SERVICE", "OUT_OF_SERVICE"), ("UP", "UNKNOWN")


class Estate:
    """A bridge whose old side is native at `legacy`; `other` has the natives, too, and is to keep them."""

    def __init__(self, folder: Path, etcd: Etcd, legacy: Mapping[str, Any], service: str, edge: int = 0) -> None:
        self.pods = Inventory(folder / "pods")
        store = {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos", "prefix": "/seat/"}
        self._etcd = etcd
        self._folder = folder
        self._edge = edge
        self._service = service
        self._registries = {"legacy": dict(legacy), "pods": self.pods.block, "core": store}
        if edge:
            self._registries["other"] = {"kind": "traefik", "listen": f"127.0.0.1:{edge}"}

    def bridge(self, name: str = "bridge", *, move: Mapping[str, Any] | None = None, **registries: Any) -> Bridge:
        """A daemon; `move`: keys of the migration's block, `registries` in the place of others."""
        said: dict[str, Any] = {"policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
        links = [{"from": ["pods"], "to": "legacy", **said}]
        links += [{"from": ["legacy"], "to": "other", **said}] if self._edge else []
        made = Bridge(self._folder, {**self._registries, **registries}, links, name=name, seat="core")
        block = {"name": "pay", "services": ["*"], "from": ["legacy"], "to": ["pods"], "at": ["legacy"], "settle": 0}
        gates = {"hold_for": "0s", "approve": [], "parity": "warn"}
        elsewhere = ["other"] if self._edge else []
        steers = {"steps": [50, 100], "natives": "steer", "gates": gates}
        made.migrations = [{**block, "elsewhere": elsewhere, **steers, **(move or {})}]
        made.write()
        return made

    async def ready(self, bridge: Bridge) -> None:
        """Until both sides are heard and the move can be begun."""

        async def heard() -> bool:
            found = await row(bridge, self.move)
            return bool(found) and await bridge.rests()

        await until(heard, "everything is read")

    @property
    def move(self) -> str:
        """What commands call it."""
        return f"pay/{self._service}"

    def elsewhere(self) -> set[str]:
        """The natives that are served where no migration takes them away."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._edge}/traefik", timeout=10) as answer:
            text = json.dumps(json.load(answer))
        return {one for one in VMS if one in text}

    async def kept(self) -> dict[str, Any]:
        """What is noted of levers at the seat."""
        block = {"endpoints": [self._etcd.url], "layout": "kratos", "prefix": "/seat/"}
        async with create("reader", msgspec.convert(block, Config), None) as registry:
            return dict(await registry.notes("b1").below("steered/"))


class Machines:
    """The natives of a Eureka that stay as long as a test does. `addresses`: by id."""

    def __init__(self, eureka: Eureka, addresses: list[str], port: int = 8080) -> None:
        self.client = clients.Native(eureka)
        self.addresses = {f"vm{number}:pay:{port}": address for number, address in enumerate(addresses, 1)}
        self._port = port

    async def register(self, *some: str) -> None:
        """These, or all of them."""
        lease = {"renewalIntervalInSecs": 30, "durationInSecs": 900}
        port = {"$": self._port, "@enabled": "true"}
        for id in some or self.addresses:
            await self.client.register("pay", id, self.addresses[id], leaseInfo=lease, port=port)

    async def stand(self) -> dict[str, tuple[str, str]]:
        """Each one's status, and what overrides it."""
        found = {id: await self.client.get("pay", id) for id in self.addresses}
        return {id: (one["status"], one["overriddenStatus"]) for id, one in found.items()}
