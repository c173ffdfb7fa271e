"""Entries of Consul's health endpoint, as far as they are read; the names of fields are Consul's."""

from __future__ import annotations

from typing import Any

import msgspec


class Node(msgspec.Struct, gc=False):
    """A node, as a health endpoint shows it beside a service."""

    Node: str = ""
    Address: str = ""
    Datacenter: str = ""
    TaggedAddresses: dict[str, str] | None = None


class Tagged(msgspec.Struct, gc=False):
    """One tagged address of a service."""

    Address: str = ""
    Port: int = 0


class Weights(msgspec.Struct, gc=False):
    """A service's weights; that of warning is not read."""

    Passing: int = 1


class Locality(msgspec.Struct, gc=False):
    """Where a service says that it runs."""

    Region: str = ""
    Zone: str = ""


class NamedPort(msgspec.Struct, gc=False):
    """One of several ports."""

    Name: str = ""
    Port: int = 0
    Default: bool = False


class Service(msgspec.Struct, gc=False):
    """A service as it is registered."""

    ID: str
    Service: str
    Kind: str = ""
    Tags: list[str] | None = None
    Address: str = ""
    TaggedAddresses: dict[str, Tagged] | None = None
    Meta: dict[str, str] | None = None
    Port: int = 0
    Ports: list[NamedPort] | None = None
    Weights: Weights | None = None
    Locality: Locality | None = None
    PeerName: str = ""


class Check(msgspec.Struct, gc=False):
    """One check, of the node or of a service."""

    CheckID: str = ""
    Status: str = ""
    ServiceID: str = ""


class Record(msgspec.Struct, gc=False):
    """One entry of `/v1/health/service`."""

    Node: Node
    Service: Service
    Checks: list[Check] | None = None


class NodeKey(msgspec.Struct, gc=False):
    """Of a node, what tells whose it is."""

    Node: str = ""
    Datacenter: str = ""


class ServiceKey(msgspec.Struct, gc=False):
    """Of a service, what tells which instance it is."""

    ID: str
    Service: str
    Kind: str = ""
    PeerName: str = ""
    Meta: dict[str, Any] | None = None
    ModifyIndex: int = 0


class Key(msgspec.Struct, gc=False):
    """An entry, as far as is needed to find who wrote it."""

    Node: NodeKey
    Service: ServiceKey


RECORD = msgspec.json.Decoder(Record)
KEY = msgspec.json.Decoder(Key)
