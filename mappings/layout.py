"""What a layout is: how one family of clients writes its entries, as a module of this package says it."""

from __future__ import annotations

from typing import Protocol

from bridge.model import Instance, ServiceName, Traits


class Layout(Protocol):
    """A module. A key is an entry's path below PREFIX; PROTOCOL is what unnamed ports speak unless the file says."""

    NAME: str
    PREFIX: str
    PROTOCOL: str
    TRAITS: Traits

    def locate(self, key: str) -> tuple[ServiceName, str] | None:
        """The service and the entry's id; None: not of this layout."""
        ...

    def decode(self, name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
        """The instance that a record stands for; raises Undecodable."""
        ...

    def encode(self, name: ServiceName, instance: Instance) -> tuple[str, bytes]:
        """Key and record; raises Rejected where readers could not live with it."""
        ...

    def canonical(self, name: ServiceName, instance: Instance, protocol: str) -> Instance:
        """What will be read of the instance once it is written: the very same object where nothing is lost."""
        ...


class Znodes(Layout, Protocol):
    """A layout of ZooKeeper's. IN_NAME: a node's name is the record, which `decode` takes as the value."""

    IN_NAME: bool
