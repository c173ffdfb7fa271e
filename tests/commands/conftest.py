"""Two folders and a bridge between them: most commands need no server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit.natives import Folder
from tests.kit.running import Bridge


class Pair(NamedTuple):
    """`inventory` is read, `cluster` is written, by a bridge that does not run yet."""

    inventory: Folder
    cluster: Folder
    bridge: Bridge

    def copied(self) -> bool:
        """Whether the cluster has all that the link takes."""
        wanted = {
            service: {str(one["address"]) for one in instances.values()}
            for service, instances in self.inventory.services.items()
            if service.startswith("pay-")
        }
        return self.copies() == wanted

    def copies(self) -> dict[str, set[str]]:
        """The addresses that stand in the cluster's files, by file."""
        return {
            path.name.split(".")[0]: set(re_addresses(path.read_text()))
            for path in self.cluster.path.glob("*.isthmus.yaml")
        }


def re_addresses(text: str) -> Iterator[str]:
    """Every "192.0.2.x" in a text."""
    for part in text.split('"'):
        if part.startswith("192.0.2."):
            yield part


@pytest.fixture
async def pair(folder: Path) -> AsyncIterator[Pair]:
    """pay-api with three instances, pay-db with two, and a shop that the link does not take."""
    inventory, cluster = Folder(folder / "inventory"), Folder(folder / "cluster")
    inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
    inventory.set("pay-db", d1="192.0.2.21", d2="192.0.2.22")
    inventory.set("shop", s1="192.0.2.31")
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "cluster": {"kind": "file", "path": str(cluster.path)},
    }
    link = {
        "from": "inventory",
        "to": "cluster",
        "policy": "sync",
        "services": {"include": ["pay-*"]},
        "guard": {"confirm_event": "1s", "confirm_absence": "1s"},
    }
    bridge = Bridge(folder, registries, [link])
    try:
        yield Pair(inventory, cluster, bridge)
    finally:
        await bridge.__aexit__(None)
