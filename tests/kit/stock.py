"""What the stock clients of every layout write for one instance, byte by byte and without our mappings.

Source: the golden records in `tests/mappings/golden`, which were taken from the clients themselves.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote_plus

SPRING = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance"
DUBBO = "org.apache.dubbo.registry.zookeeper.ZookeeperInstance"
MAP = "java.util.LinkedHashMap"
_PARTS = [("scheme", True), ("://", False), ("address", True), (":", False), ("port", True)]
SPRING_URI = {"parts": [{"value": value, "variable": variable} for value, variable in _PARTS]}

LAYOUTS = ("grpc", "kratos", "kitex", "go-zero", "go-micro", "curator", "spring", "dubbo2", "dubbo3")
IN_ZOOKEEPER = frozenset({"curator", "spring", "dubbo2", "dubbo3"})
# A record of these is never written over: its key says all that it says.
UNCHANGING = frozenset({"go-zero", "dubbo2"})
# Whose clients can say that an instance is to be called no more, though it is there.
DRAINING = frozenset({"curator", "spring", "dubbo2"})


class Native(NamedTuple):
    """What the owner of an instance says of it; layouts without a place for something leave it out.

    `weight` is relative to the layout's default. `draining`: it is to be called no more; see `DRAINING`.
    """

    id: str
    address: str
    port: int
    metadata: Mapping[str, str] = {}  # never changed
    version: str = ""
    weight: int = 1
    draining: bool = False


class Record(NamedTuple):
    """Where a client puts it, below the layout's root and without a slash in front, and what."""

    key: str
    value: bytes


def record(layout: str, service: str, native: Native) -> Record:
    """The record of one instance."""
    return _RECORDS[layout](service, native)


def _grpc(service: str, native: Native) -> Record:
    said = {"Op": 0, "Addr": _host_port(native), "Metadata": dict(native.metadata) or None}
    return Record(f"{service}/{native.id}", _go(said))


def _kratos(service: str, native: Native) -> Record:
    said = {
        "id": native.id,
        "name": service,
        "version": native.version,
        "metadata": dict(native.metadata) or None,
        "endpoints": [f"grpc://{_host_port(native)}"],
    }
    return Record(f"{service}/{native.id}", _go(said))


def _kitex(service: str, native: Native) -> Record:
    said = {
        "network": "tcp",
        "address": _host_port(native),
        "weight": 10 * native.weight,
        "tags": dict(native.metadata) or None,
    }
    return Record(f"{service}/{_host_port(native)}", _go(said))


def _go_zero(service: str, native: Native) -> Record:
    """The number is the lease's, which is another one for every registration."""
    lease = 7_587_870_000_000_000_000 + zlib.crc32(repr(native).encode())
    return Record(f"{service}/{lease}", _host_port(native).encode())


def _go_micro(service: str, native: Native) -> Record:
    node = {
        "metadata": {**native.metadata, "protocol": "grpc"},
        "id": native.id,
        "address": _host_port(native),
    }
    said = {"name": service, "version": native.version, "metadata": None, "endpoints": [], "nodes": [node]}
    return Record(f"{service}/{native.id}", _go(said))


def _curator(service: str, native: Native) -> Record:
    return _java(service, native, curator_payload(native.metadata))


def _spring(service: str, native: Native) -> Record:
    status = "OUT_OF_SERVICE" if native.draining else "UP"
    payload = spring_payload(service, {**native.metadata, "instance_status": status})
    return _java(service, native, payload, SPRING_URI)


def _dubbo3(service: str, native: Native) -> Record:
    metadata = {
        **native.metadata,
        "dubbo.endpoints": json.dumps([{"port": native.port, "protocol": "dubbo"}], separators=(",", ":")),
        "dubbo.metadata.revision": "b4f27b558981f49620aa66425ccfa688",
        "dubbo.metadata.storage-type": "local",
        "weight": str(100 * native.weight),
    }
    id = _host_port(native)
    return _java(service, native._replace(id=id), {"@class": DUBBO, "id": id, "name": service, "metadata": metadata})


def curator_payload(metadata: Mapping[str, str]) -> object:
    """The payload of a Curator record whose payload class is a map; None where there is no metadata."""
    return {"@class": MAP, **metadata} if metadata else None


def spring_payload(service: str, metadata: Mapping[str, str]) -> object:
    """The payload of a Spring Cloud record."""
    return {"@class": SPRING, "id": service, "name": service, "metadata": dict(metadata)}


def curator_record(service: str, native: Native, payload: object, uri: object = None) -> str:
    """The record of Curator's service discovery, which Spring Cloud and Dubbo 3 write with payloads of their own."""
    whole = {
        "name": service,
        "id": native.id,
        "address": native.address,
        "port": native.port,
        "sslPort": None,
        "payload": payload,
        "registrationTimeUTC": 1795442249952,
        "serviceType": "DYNAMIC",
        "uriSpec": uri,
    }
    if native.draining and uri is None:
        whole["enabled"] = False
    return json.dumps(whole, separators=(",", ":"))


def _java(service: str, native: Native, payload: object, uri: object = None) -> Record:
    return Record(f"{service}/{native.id}", curator_record(service, native, payload, uri).encode())


def _dubbo2(service: str, native: Native) -> Record:
    parameters = {"anyhost": "true", "application": "pay", "interface": service, "methods": "pay", **native.metadata}
    if native.version:
        parameters["version"] = native.version
    if native.weight != 1:
        parameters["weight"] = str(100 * native.weight)
    if native.draining:
        parameters["disabled"] = "true"
    query = "&".join(f"{key}={value}" for key, value in parameters.items())
    url = f"dubbo://{_host_port(native)}/{service}?{query}&timestamp=1795443133856"
    return Record(f"{service}/providers/{quote_plus(url, safe='*')}", b"")


def _host_port(native: Native) -> str:
    address = f"[{native.address}]" if ":" in native.address else native.address
    return f"{address}:{native.port}"


def _go(said: object) -> bytes:
    """As Go's encoding/json does for what needs no escapes."""
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()


_RECORDS: dict[str, Callable[[str, Native], Record]] = {
    "grpc": _grpc,
    "kratos": _kratos,
    "kitex": _kitex,
    "go-zero": _go_zero,
    "go-micro": _go_micro,
    "curator": _curator,
    "spring": _spring,
    "dubbo2": _dubbo2,
    "dubbo3": _dubbo3,
}
