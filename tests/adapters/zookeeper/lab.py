"""The laboratory of ZooKeeper: natives write through kazoo what the stock clients of a layout write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote

from adapters import zookeeper as adapter
from adapters.zookeeper import Config
from adapters.zookeeper.times import TIMES, Times
from bridge.model import Instance, ServiceName
from tests.kit import stock


def registry_of(state: Path | None = None, times: Times = TIMES, **config: Any) -> adapter.ZooKeeper:
    """A registry of Curator's layout, unless told otherwise; the caller enters it, or only leaves it."""
    settings: dict[str, Any] = {"layout": "curator", "protocol": "grpc"} | config
    return adapter.create("lab", Config(**settings), state, times)


def curator(service: ServiceName, instance: Instance) -> str:
    """What Curator writes for a map of metadata."""
    return record(service, instance, stock.curator_payload(instance.metadata))


def spring(service: ServiceName, instance: Instance) -> str:
    """What Spring Cloud writes."""
    return record(service, instance, stock.spring_payload(service.name, instance.metadata), stock.SPRING_URI)


def record(service: ServiceName, instance: Instance, payload: object, uri: object = None) -> str:
    """A record of Curator's service discovery."""
    native = stock.Native(instance.id, instance.address, instance.ports[0].number)
    return stock.curator_record(service.name, native, payload, uri)


RECORDS: dict[str, Callable[[ServiceName, Instance], str]] = {"curator": curator, "spring": spring}


def provider(interface: str, address: str, port: int = 20880, **parameters: str) -> str:
    """The name of the node that a Dubbo provider creates."""
    query = "&".join(f"{key}={value}" for key, value in {"interface": interface, **parameters}.items())
    return quote_plus(f"dubbo://{address}:{port}/{interface}?{query}", safe="*")


def plain(segment: str) -> str:
    """A Dubbo URL as people read it."""
    return unquote(segment)
