"""What a bridge keeps in a cluster beside its entries: the Lease with its note, namespaces, released slices."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from adapters.kubernetes.client import NAMESPACES, Client
from adapters.kubernetes.lease import KIND, NOTE, NOTED, SHARDS, Leases
from bridge.adapter import Trace
from bridge.errors import Denied
from mappings.common.slice_entry import BRIDGE

RELEASED = "its entries were released, and are nobody's: to delete it would remove them"
NAMESPACE = "it goes with all that is in it: `kubectl delete namespace`, if nobody else uses it"
LENT = "it is of a destination that has no lock of its own: leave that first"


class Released(Protocol):
    """A sink that knows which objects it wrote have nothing of a bridge's in them any more."""

    async def released(self) -> list[str]:
        """Namespace and name of each."""
        ...


class _Namespace(msgspec.Struct, frozen=True):
    metadata: dict[str, Any] = {}


async def traces(client: Client, leases: Leases, sink: Released, bridge: str) -> list[Trace]:
    """See `Tracer`."""
    found: list[Trace] = []
    for lease in await leases.listed():
        notes, kind = lease.metadata.annotations, lease.metadata.labels[KIND]
        if notes.get(BRIDGE) != bridge:
            continue
        if kind == NOTED:
            found.append(Trace("note", f"{leases.namespace}/{lease.metadata.name}"))
            continue
        place, needed = f"{leases.namespace}/{lease.metadata.name}", LENT if kind.startswith("lent") else ""
        if kind not in ("own", "lent"):  # of a shard, or of a process that asks for some
            found.append(Trace("shards", place, needed))
            continue
        found.append(Trace("lock", place, needed))
        found += [Trace("note", place, needed)] if NOTE in notes else []
        found += [Trace("shards", place, needed)] if SHARDS in notes else []
    found += [Trace("entries", place, RELEASED) for place in await sink.released()]
    try:
        namespaces: list[Any] = await client.listed(NAMESPACES.path(), _Namespace)
    except Denied:  # who may create namespaces may list them
        namespaces = []
    for one in namespaces:
        if (one.metadata.get("annotations") or {}).get(BRIDGE) == bridge:
            found.append(Trace("namespace", one.metadata["name"], NAMESPACE))
    return found
