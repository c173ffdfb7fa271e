"""Lines of the journal as events for other tools: their versioned names, and one shape for all; pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from bridge.adapter import Event
from bridge.model import Instance, Mark, ServiceName
from bridge.state.record import Record

PREFIX = "io.isthmus."

# What the log says of a line, by the line's kind. Of "observed" see `type_of`; a kind that is not here is `noted`.
TYPES = {
    "add": "entry.written.v1",
    "update": "entry.written.v1",
    "remove": "entry.removed.v1",
    "forget": "entry.released.v1",
    "hold": "removal.held.v1",
    "release": "removal.settled.v1",
    "approve": "removal.approved.v1",
    "override": "override.set.v1",
    "drain": "override.set.v1",
    "unset": "override.ended.v1",
    "freeze": "link.frozen.v1",
    "unfreeze": "link.unfrozen.v1",
    "thaw": "link.unfrozen.v1",
    "park": "instance.parked.v1",
    "shadow": "instance.shadowed.v1",
    "config": "configuration.taken.v1",
    "misfile": "configuration.refused.v1",
    "start": "daemon.started.v1",
    "stop": "daemon.stopped.v1",
    "writer": "writer.began.v1",
    "standby": "writer.ended.v1",
    "taken": "entry.taken.v1",
    "expect": "loss.expected.v1",
    "purge": "entries.purged.v1",
    "handover": "entries.handed_over.v1",
    "appeared": "service.appeared.v1",
    "vanished": "service.vanished.v1",
    "lost": "scope.lost.v1",
    "synced": "scope.synced.v1",
    "stale": "scope.stale.v1",
    "doubted": "scope.doubted.v1",
    "believed": "registry.believed.v1",
    "accept": "registry.believed.v1",
    "resynced": "scope.resynced.v1",
    "gap": "log.gap.v1",
}
OBSERVED = ("instance.registered.v1", "instance.changed.v1", "instance.deregistered.v1")
NOTED = "noted.v1"
BESIDE = ("resynced", "gap")  # said where there is no such line, with the number of one beside


class Origin(msgspec.Struct, frozen=True):
    """A scope of a registry, by the registry's identity."""

    identity: str
    scope: str


class Happening(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The data of every event. What does not apply is left out.

    `kind`: the line's kind in the journal of the daemon at `daemon` (host and state folder), `number` its number there.
    Of what a registry said: `registry` is its name in the file, `changed` the fields that differ between `before` and
    `after`, `revision` the store's position. Of what was done about it: `destination` and `link`, `cause` (why
    something goes), `by` (an operator), `reason`; `mark`: the way of the entry; `serving`: how many of the service
    served before and after. Of a removal: `rule` is the guard's limit with its figures, `freed` what let it go, `hold`
    the set that was approved. Of a start and a new file: `file` is its hash, `version` that of isthmus.
    `would`: a link that observes did not do it. `reduced`: why `before` and `after` are left out, where they were too
    large for the log; the journal of the daemon has them.
    """

    kind: str
    daemon: str
    number: int
    service: str = ""
    instance: str = ""
    registry: str = ""
    origin: Origin | None = None
    destination: str = ""
    link: str = ""
    cause: str = ""
    by: str = ""
    reason: str = ""
    before: Instance | None = None
    after: Instance | None = None
    changed: tuple[str, ...] = ()
    revision: int = 0
    would: bool = False
    mark: Mark | None = None
    serving: tuple[int, int] = (0, 0)
    rule: str = ""
    freed: str = ""
    hold: str = ""
    file: str = ""
    version: str = ""
    reduced: str = ""


def type_of(record: Record) -> str:
    """The versioned name of what a line says."""
    if record.kind == "observed":
        index = 0 if record.before is None else 2 if record.after is None else 1
        return PREFIX + OBSERVED[index]
    return PREFIX + TYPES.get(record.kind, NOTED)


def event_of(record: Record, daemon: str) -> Event:
    """One line of the journal of that daemon, as an event."""
    service = ServiceName.parse(record.service) if record.service else None
    subject = f"{record.service}/{record.instance}" if record.instance else record.service
    return Event(
        type=type_of(record),
        about=record.registry or record.destination or record.link,
        subject=subject,
        service=service,
        seconds=record.at,
        id=_id(record, daemon),
        data=msgspec.json.encode(_happening(record, daemon)),
        trace=record.trace,
    )


def reduced(event: Event, why: str) -> Event:
    """The same event without what makes it large, and the reason; the very same where there is nothing to leave out."""
    told = msgspec.json.decode(event.data, type=Happening)
    if told.before is None and told.after is None:
        return event
    pointer = msgspec.structs.replace(told, before=None, after=None, reduced=why)
    return msgspec.structs.replace(event, data=msgspec.json.encode(pointer))


def _happening(record: Record, daemon: str) -> Happening:
    origin = Origin(*record.scope) if any(record.scope) else None
    same: dict[str, Any] = {
        name: getattr(record, name)
        for name in Happening.__struct_fields__
        if name not in ("daemon", "number", "origin", "reduced")
    }
    return Happening(**same, daemon=daemon, number=record.seq, origin=origin)


def _id(record: Record, daemon: str) -> str:
    """The same for the same event: what a registry said is the same whoever heard it, all else is of one daemon."""
    if record.kind == "observed":
        said = (type_of(record), record.scope, record.service, record.instance, record.revision)
        parts: tuple[Any, ...] = (*said, record.before, record.after)
        if not record.revision:  # of a store without positions, the same may happen again
            parts = (*parts, daemon, record.seq)
    elif record.kind in BESIDE:
        parts = (daemon, record.kind, record.scope, record.seq)
    else:
        parts = (daemon, record.seq)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def record_of(event: Event) -> tuple[Record, str]:
    """The line that an event tells, and the daemon that wrote it; raises ValueError where it tells none."""
    said = msgspec.json.decode(event.data, type=Happening)
    nothing = Happening(kind="", daemon="", number=0)
    names = [name for name in Happening.__struct_fields__ if name not in ("daemon", "number", "origin")]
    same: dict[str, Any] = {
        name: value for name in names if (value := getattr(said, name)) != getattr(nothing, name) or name == "kind"
    }
    if said.origin is not None:
        same["scope"] = (said.origin.identity, said.origin.scope)
    return Record(at=event.seconds, seq=said.number, **same), said.daemon
