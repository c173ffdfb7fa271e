"""What stands in a cluster's mesh for one service, and what some changes make of it; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from adapters.common.changes import LOOK_AGAIN, compare, judge
from adapters.kubernetes.bodies import encoded
from adapters.kubernetes.client import Resource
from adapters.kubernetes.place import version
from bridge.adapter import Change, Entry, Outcome
from bridge.errors import Conflict, IsthmusError, Rejected
from bridge.model import Instance, ServiceName
from mappings import istio as mapping
from mappings import kubernetes as layout
from mappings.common import slice_entry
from mappings.common.slice_entry import BRIDGE, WRITER, Written
from mappings.istio import ServiceEntry, WorkloadEntry
from mappings.kubernetes.objects import Meta, Service

GROUP = "apis/networking.istio.io/v1"
ENTRIES = Resource(GROUP, "serviceentries")
WORKLOADS = Resource(GROUP, "workloadentries")
RULES = Resource(GROUP, "destinationrules")


class Where(NamedTuple):
    """Of one service: the host that is its own, and the namespaces of its ServiceEntry and of the Service beside."""

    name: ServiceName
    host: str
    mesh: str
    beside: str


class Standing(msgspec.Struct):
    """One service in the mesh. `entry`: the ServiceEntry with its name. `workloads`: ours and other bridges', by name.

    `service`: the Service whose pods stand beside the WorkloadEntries, None: there is none to attach to.
    """

    where: Where
    entry: ServiceEntry | None
    workloads: dict[str, WorkloadEntry]
    service: Service | None = None

    @property
    def occupied(self) -> str:
        """Why its ServiceEntry is not written, "" if it is: nothing of it is ours."""
        if self.entry is not None and mapping.name_of(self.entry.metadata) != self.where.name:
            return f"{self.where.mesh}/{self.where.host} is a ServiceEntry that no bridge wrote for {self.where.name}"
        return ""

    def in_entry(self) -> dict[str, Written]:
        """The entries of the ServiceEntry, those released among them; of one that somebody edited, none is marked."""
        if self.entry is None or self.occupied:
            return {}
        found = readable(self.entry.metadata)
        if mapping.intact(self.entry, found):
            return found
        return {id: Written(each.instance) for id, each in found.items()}

    def in_workloads(self) -> dict[str, tuple[str, Written]]:
        """The entries that are WorkloadEntries, with the object's name."""
        found = {}
        for name, each in self.workloads.items():
            for id, written in readable(each.metadata).items():
                same = each.spec.address == written.instance.address
                found[id] = name, written if same else Written(written.instance)
        return found

    def shown(self) -> dict[str, Written]:
        """All of them by id."""
        return {**{id: written for id, (_, written) in self.in_workloads().items()}, **self.in_entry()}

    def held(self) -> dict[str, Entry]:
        """See `Sink.held`."""
        return {
            id: Entry(each.instance, each.mark, version(each.instance, each.mark)) for id, each in self.shown().items()
        }


class Decision(msgspec.Struct):
    """What some changes of one service come to. `outcomes`: of those that were refused or need nothing."""

    outcomes: list[Outcome] = []
    put: dict[str, Written] = {}
    removed: set[str] = set()
    made: list[Outcome] = []


def readable(meta: Meta) -> dict[str, Written]:
    """The entries that an object's annotation says, without those that cannot be read."""
    said = mapping.written_in(meta)
    return {} if isinstance(said, str) else {id: one for id, one in said.items() if isinstance(one, Written)}


def decide(standing: Standing, changes: Sequence[Change], bridge: str) -> Decision:
    """What to write for the changes of one service, each judged by itself."""
    found, shown = Decision(), standing.shown()
    for change in changes:
        try:
            judge(bridge, change)
            _decide(found, shown, change)
        except IsthmusError as error:
            found.outcomes.append(Outcome(change, error=error))
    _refuse(found, shown)
    return found


def _decide(found: Decision, shown: Mapping[str, Written], change: Change) -> None:
    stands = shown.get(change.id)
    if change.after is not None and change.ttl is not None:
        raise Rejected("what stands in Kubernetes outlives whoever wrote it: make the link lasting")
    if change.after is None and not change.forget and stands is None:
        found.outcomes.append(Outcome(change))
        return
    compare(change, None if stands is None else (version(stands.instance, stands.mark), stands.mark))
    if change.forget:
        if stands is None or stands.mark is None:
            raise Conflict(f"{change.service}/{change.id}: nothing there is ours")
        found.put[change.id] = Written(stands.instance)
        found.made.append(Outcome(change))
    elif change.after is None:
        found.removed.add(change.id)
        found.made.append(Outcome(change))
    else:
        after = msgspec.structs.replace(slice_entry.canonical(change.service, change.after), native={})
        found.put[change.id] = Written(after, change.mark)
        found.made.append(Outcome(change, version(after, change.mark)))


def _refuse(found: Decision, shown: Mapping[str, Written]) -> None:
    """Takes out what would make an entry that its readers refuse: too long, or with one address and port twice."""
    changing = found.removed | found.put.keys()
    taken = {at: id for id, one in shown.items() if id not in changing for at in one.instance.sockets()}
    count, made = sum(id not in found.removed for id in shown), []
    for outcome in found.made:
        change = outcome.change
        if change.after is None:
            made.append(outcome)
            continue
        sockets = found.put[change.id].instance.sockets()
        twice = next((taken[at] for at in sockets if at in taken), None)
        if twice is None and (change.id in shown or count < mapping.MOST_ENDPOINTS):
            count += change.id not in shown
            taken |= dict.fromkeys(sockets, change.id)
            made.append(outcome)
            continue
        reason = f"a ServiceEntry has at most {mapping.MOST_ENDPOINTS} endpoints: split the service"
        if twice is not None:
            reason = f"{twice} is at {change.after.address} with the same port: gRPC clients refuse one address twice"
        del found.put[change.id]
        found.outcomes.append(Outcome(change, error=Rejected(reason, LOOK_AGAIN)))
    found.made = made


# -- bodies --


def entry_body(standing: Standing, owner: str, wrote: str, entries: Mapping[str, Written]) -> bytes:
    """A whole ServiceEntry, in the place of the one that stands. Raises Rejected."""
    where, before = standing.where, standing.entry
    made = mapping.spec(where.host, {id: each.instance for id, each in entries.items()}, before)
    meta = _meta(where, where.host, where.mesh, owner, wrote, before.metadata if before is not None else None)
    meta["annotations"] |= mapping.encoded(entries)
    return _body("ServiceEntry", meta, made)


def workload_name(where: Where, id: str) -> str:
    """The name of an instance's WorkloadEntry."""
    return f"{where.name.name}-{slice_entry.digest(f'{where.name}/{id}', 6)}"


def workload_body(standing: Standing, owner: str, wrote: str, written: Written) -> bytes:
    """The WorkloadEntry of an instance; without a status it gets no traffic where it asks for health checks."""
    where, instance = standing.where, written.instance
    assert standing.service is not None
    name = workload_name(where, instance.id)
    before = standing.workloads.get(name)
    meta = _meta(where, name, where.beside, owner, wrote, before.metadata if before is not None else None)
    meta["annotations"] |= mapping.encoded({instance.id: written})
    if not mapping.gets_traffic(instance):
        meta["annotations"][mapping.HEALTH_CHECKS] = "true"
    return _body("WorkloadEntry", meta, mapping.workload(instance, standing.service, ports_beside(standing, instance)))


def rule_body(where: Where, owner: str, wrote: str) -> bytes:
    """The DestinationRule of a host."""
    return _body("DestinationRule", _meta(where, where.host, where.mesh, owner, wrote, None), mapping.rule(where.host))


def ports_beside(standing: Standing, instance: Instance) -> dict[str, int]:
    """The instance's ports by the names that the Service has for them. Raises Rejected where it lacks one of them.

    Of a WorkloadEntry that does not say a port, istiod takes the pods' number.
    """
    theirs = (standing.service.spec.ports or ()) if standing.service is not None else ()
    if len(instance.ports) == len(theirs) == 1:
        return {theirs[0].name or "default": instance.ports[0].number}
    made = {each.name or "": each.port or 0 for each in layout.ports_of(instance.ports)}
    if missing := [each.name for each in theirs if (each.name or "") not in made]:
        raise Rejected(f"it has no port {missing[0]!r}, which {standing.where.name.name} has beside it", LOOK_AGAIN)
    return {each.name or "": made[each.name or ""] for each in theirs}


def _meta(where: Where, name: str, namespace: str, owner: str, wrote: str, before: Meta | None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "namespace": namespace}
    if before is not None:
        # Together they say "this object, or fail"; see `bodies.slice_body`.
        meta |= {"uid": before.uid, "resourceVersion": before.resource_version}
    meta["labels"] = {mapping.SERVICE: mapping.label(where.name)}
    meta["annotations"] = {BRIDGE: owner, WRITER: wrote, layout.ORIGINAL_NAME: str(where.name)}
    return meta


def _body(kind: str, meta: Mapping[str, Any], spec: object) -> bytes:
    said = msgspec.to_builtins(spec)
    return encoded({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": said})
