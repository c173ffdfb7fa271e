"""What a health answer says of one service: its entries by id, natives before copies; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from adapters.common import assembly
from adapters.common.assembly import Ignored, Record
from adapters.consul.client import DATA
from bridge.adapter import Observed
from bridge.errors import Unavailable, Undecodable
from bridge.model import Mark, ServiceName
from mappings import consul
from mappings.consul import Where
from mappings.ledger import UNREADABLE


class Reading(NamedTuple):
    """How records are read: what unnamed ports speak, and which tagged address is taken."""

    protocol: str = ""
    tag: str = ""


class Version(NamedTuple):
    """Of one entry, for compare-and-set: where it is, and when it was last changed."""

    node: str
    service_id: str
    service: str
    modified: int


class Found(NamedTuple):
    """One record of a service. `place`: for people."""

    where: Where
    record: Record
    raw: bytes

    @property
    def version(self) -> Version:
        return Version(self.where.node, self.where.service_id, self.where.service, self.where.modified)

    @property
    def place(self) -> str:
        return f"{self.where.node}/{self.where.service_id}"


class Shelf(NamedTuple):
    """One service, by id. `lost`: a bridge's copies whose id a native has; `nameless`: records without any id."""

    entries: dict[str, Found]
    lost: dict[str, Found]
    nameless: dict[str, str]


def shelf(body: bytes, reading: Reading) -> Shelf:
    """Everything that an answer of the health endpoint says. Raises Unavailable: it is no list."""
    try:
        raws = DATA.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(f"Consul answered what is no list of services: {error}") from error
    found = Shelf({}, {}, {})
    copies: list[Found] = []
    for raw in map(bytes, raws):
        try:
            where = consul.locate(raw)
        except Undecodable as error:
            found.nameless[f"record {len(found.nameless)}"] = str(error)
            continue
        if where is None:
            continue
        one = Found(where, _record(where, raw, reading), raw)
        if where.copy:
            copies.append(one)
        else:
            found.entries[where.id] = one
    for one in sorted(copies, key=lambda one: one.where.node):
        taken = one.where.id in found.entries
        (found.lost if taken else found.entries)[one.where.id] = one
    return found


def observed(name: ServiceName, found: Shelf, ignored: Ignored, revision: int) -> Observed:
    """The same as a source tells it. What has no id at all may be any of those that were known."""
    for one in found.entries.values():
        if one.record.instance is None:
            ignored.put(one.place, one.record.why)
        else:
            ignored.drop(one.place)
    for place, why in found.nameless.items():
        ignored.put(f"{name} {place}", why)
    told = assembly.observed(name, {id: one.record for id, one in found.entries.items()}, revision)
    return msgspec.structs.replace(told, unreadable=told.unreadable | {"*"}) if found.nameless else told


def _record(where: Where, raw: bytes, reading: Reading) -> Record:
    mark: Mark | None = where.mark
    if where.ledgered and mark is None:
        return Record(None, None, UNREADABLE)
    return assembly.decoded(mark, consul.decode, raw, reading.protocol, reading.tag)


def fingerprint(found: Shelf) -> Mapping[str, int]:
    """What changes with every change of an entry: for whoever looks whether others wrote."""
    entries = [*found.entries.values(), *found.lost.values()]
    return {one.place: one.where.modified for one in entries}
