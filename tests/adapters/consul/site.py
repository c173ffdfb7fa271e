"""A daemon between a folder, Consul and another folder: what stands where."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.servers.consul import Consul

QUICK = {"confirm_event": "1s", "confirm_absence": "1s"}


class Site(NamedTuple):
    """People's `inventory` goes into Consul, and Consul's datacenters into `mirror`."""

    inventory: Folder
    mirror: Path
    bridge: Bridge

    def mirrored(self, service: str = "pay") -> set[str]:
        """The addresses in the mirror."""
        return {
            part
            for path in self.mirror.glob(f"{service}.*isthmus.yaml")
            for part in path.read_text().split('"')
            if part.startswith("192.0.2.")
        }


def site(folder: Path, server: Consul, *names: str, **link: Any) -> Site:
    inventory, mirror = Folder(folder / "inventory"), folder / "mirror"
    mirror.mkdir()
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "core": {"kind": "consul", "address": server.url, "datacenters": [*(names or ("dc1",))], "wait": 2},
        "mirror": {"kind": "file", "path": str(mirror)},
    }
    common = {"policy": "sync", "services": {"include": ["pay*"]}, "guard": QUICK}
    links = [{"from": "inventory", "to": "core", **common, **link}, {"from": "core", "to": "mirror", **common}]
    return Site(inventory, mirror, Bridge(folder, registries, links))


async def copies(server: Consul, service: str = "pay") -> dict[str, str]:
    """What the bridge has in Consul: the status of its check by address, critical where any is."""
    found = await server.call("GET", f"/v1/health/service/{service}")
    ours = [one for one in found if one["Node"]["Node"].startswith("isthmus-b1-")]
    return {one["Service"]["Address"]: min(check["Status"] for check in one["Checks"]) for one in ours}


def stand(server: Consul, expected: dict[str, str], service: str = "pay") -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await copies(server, service) == expected

    return check
