"""What stands in a cluster for one service, and what some changes make of it; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from adapters.common.changes import judge
from adapters.kubernetes.packing import Packed, SetKey
from adapters.kubernetes.packing import Slice as Pack
from bridge.adapter import Change, Outcome
from bridge.errors import Conflict, IsthmusError, Rejected
from bridge.model import Instance, Mark, ServiceName
from mappings import kubernetes as layout
from mappings.common import slice_entry
from mappings.common.slice_entry import BRIDGE, Written
from mappings.kubernetes import Entry
from mappings.kubernetes.objects import Service, Slice, SlicePort


class Place(msgspec.Struct):
    """One service at the cluster. `target`: the name of its Service there, `service` None: there is none.

    `shown`: what readers find, by id, whoever wrote it. `slices`: all of them by name, as they stood when last read
    or written.
    """

    name: ServiceName
    namespace: str
    target: str
    service: Service | None
    slices: dict[str, Slice]
    shown: dict[str, Entry]
    _read: dict[str, tuple[Slice, dict[str, Written]]] = {}  # what is intact in them, until `forget`

    def intact(self, name: str) -> Mapping[str, Written]:
        """See `intact`; read once, until `forget`."""
        found = self.slices[name]
        known = self._read.get(name)
        if known is None or known[0] is not found:
            known = self._read[name] = found, intact(found)
        return known[1]

    def forget(self) -> None:
        """What was read of the slices is kept no longer: it is as much as they are."""
        self._read.clear()

    def of(self, bridge: str) -> dict[str, Slice]:
        """The slices that this bridge writes."""
        return {name: each for name, each in self.slices.items() if owner_of(each) == bridge}

    def ours(self, bridge: str) -> dict[str, tuple[str, Written]]:
        """The readable entries in the bridge's slices: the slice's name, and what stands there."""
        return self.ours_and_left(bridge)[0]

    def ours_and_left(self, bridge: str) -> tuple[dict[str, tuple[str, Written]], dict[str, Written]]:
        """The same, and what is left in a slice of entries that stand in another: their writer was killed on the way.

        Proxies call every endpoint of every slice, so that what is left is to be taken out; what is shown is not.
        """
        ours: dict[str, tuple[str, Written]] = {}
        left: dict[str, Written] = {}
        for name in self.of(bridge):
            for id, written in self.intact(name).items():
                if id not in ours:
                    ours[id] = name, written
                elif id in self.shown and self.shown[id].slice == name:
                    left[id], ours[id] = ours[id][1], (name, written)
                else:
                    left[id] = written
        return ours, left

    def strays(self, name: str) -> int:
        """How many endpoints of a bridge's slice are not what was written: somebody edited it."""
        return len(self.slices[name].endpoints or ()) - len(self.intact(name))

    def packs(self, names: Iterable[str]) -> list[Pack]:
        """Slices of a bridge as packing sees them."""
        found = []
        for name in names:
            each = self.slices[name]
            key = SetKey(each.address_type, each.ports or ())
            entries = {id: _packed(one, key) for id, one in self.intact(name).items()}
            found.append(Pack(name, key, entries))
        return found

    @property
    def is_there(self) -> bool:
        """Whether clients find what stands in the slices."""
        return self.service is not None


class Decision(msgspec.Struct):
    """What some changes of one service come to. `outcomes`: of those that were refused or need nothing.

    `put`: what entries become, by id, and `removed`, of this bridge's slices; `single`: entries that stay as they are,
    in one slice of theirs; `taken`: entries to be taken out of slices of other bridges, by slice. `versions`: of the
    changes that are made if that is written.
    """

    outcomes: list[Outcome]
    put: dict[str, Written]
    removed: set[str]
    single: dict[str, Written]
    taken: dict[str, set[str]]
    versions: dict[str, str | None]
    changes: list[Change]


def version(instance: Instance, mark: Mark | None) -> str:
    """Of one entry: changes with it and its mark alone, though a hundred share the resourceVersion of their slice."""
    # As tuples: whether a struct leaves out a default depends on which of two equal floats it holds.
    fields = msgspec.structs.astuple(instance), mark and msgspec.structs.astuple(mark)
    return hashlib.blake2b(msgspec.json.encode(fields, order="deterministic"), digest_size=12).hexdigest()


def owner_of(found: Slice) -> str:
    """The bridge that writes a slice, "" where none does."""
    return (found.metadata.annotations or {}).get(BRIDGE, "") if found.written else ""


def intact(found: Slice) -> dict[str, Written]:
    """The entries of a bridge's slice that are what was written, released ones too."""
    said = layout.written_in(found)
    if isinstance(said, str):
        return {}
    good = {entry.id for entry in layout.entries(found, said=said) if entry.instance is not None}
    endpoints = frozenset(found.endpoints or ())
    return {
        id: one
        for id, one in said.items()
        if isinstance(one, Written) and id in good and layout.endpoint_of(one.instance) in endpoints
    }


def packed(written: Written, service: Service | None) -> Packed:
    """An entry on its way into a slice of the Service."""
    instance = written.instance
    key = SetKey("IPv6" if ":" in instance.address else "IPv4", slice_ports(instance, service))
    return _packed(written, key)


def slice_ports(instance: Instance, service: Service | None) -> tuple[SlicePort, ...]:
    """The ports of an instance, by the names that an existing Service with a selector has for them.

    A proxy joins a Service's port and a slice's by their names: an own name would lead nowhere.
    """
    ports = layout.ports_of(instance.ports)
    theirs = (service.spec.ports or ()) if service is not None and not is_written(service) else ()
    if len(ports) == len(theirs) == 1:
        return (msgspec.structs.replace(ports[0], name=theirs[0].name or ""),)
    names = {each.port: each.name or "" for each in theirs}
    known = {each.name for each in theirs}
    return tuple(
        each if each.name in known else msgspec.structs.replace(each, name=names.get(each.port or 0, each.name))
        for each in ports
    )


def is_written(service: Service) -> bool:
    """Whether a bridge made this Service."""
    return BRIDGE in (service.metadata.annotations or {})


def original_name(service: Service) -> str:
    """The name in the model of what a Service stands for."""
    notes = service.metadata.annotations or {}
    return notes.get(layout.ORIGINAL_NAME, service.metadata.name) if BRIDGE in notes else service.metadata.name


def targets(name: str) -> tuple[str, ...]:
    """The names that a service's Service may have, the first one unless that is another service's."""
    if slice_entry.is_dns_name(name):
        return (name,)
    return slice_entry.dns_name(name), slice_entry.dns_name(name, taken=True)


def target(name: str, services: Mapping[str, Service], slices: Iterable[Slice]) -> str:
    """The name of its Service: where it stands already, else the first that is free."""
    for each in targets(name):
        if any(found.service == each and layout.service_name(found) == name for found in slices):
            return each
    for each in targets(name):
        if each not in services or original_name(services[each]) == name:
            return each
    return targets(name)[-1]


def decide(place: Place, changes: Sequence[Change], bridge: str) -> Decision:
    """What to write for the changes of one service, each judged by itself."""
    found = Decision([], {}, set(), {}, {}, {}, [])
    ours = place.ours(bridge)
    for change in changes:
        try:
            if _is_left(place, change, bridge):
                found.single[change.id] = ours[change.id][1]
                found.changes.append(change)
                found.versions[change.id] = None
            else:
                _decide(found, place, ours, change, bridge)
        except IsthmusError as error:
            found.outcomes.append(Outcome(change, error=error))
    return found


def _is_left(place: Place, change: Change, bridge: str) -> bool:
    """Whether a change forgets what is left of an entry beside it."""
    if not change.forget or change.before is None or change.before.mark is not None:
        return False
    left = place.ours_and_left(bridge)[1].get(change.id)
    return left is not None and _as_it_was(left, change)


def _decide(
    found: Decision, place: Place, ours: Mapping[str, tuple[str, Written]], change: Change, bridge: str
) -> None:
    judge(bridge, change)
    if change.forget:
        _forget(found, place, ours, change)
        return
    after = None if change.after is None else slice_entry.canonical(change.service, change.after)
    if after is not None and change.ttl is not None:
        raise Rejected("what stands in Kubernetes outlives whoever wrote it: make the link lasting")
    stands, own = place.shown.get(change.id), ours.get(change.id)
    is_shown = own is not None and stands is not None and stands.slice == own[0]
    if change.before is None:
        # Where the Service was pruned, nobody finds what is left of ours: it is written anew.
        if (stands is not None or own is not None) and (place.is_there or not is_shown):
            raise Conflict(f"{place.namespace}/{place.target}: {change.id} stands there")
    elif change.adopt and stands is not None and not is_shown:
        _take(found, place, change, stands)
    elif not is_shown or own is None or not (own[1].mark or change.adopt) or not _as_it_was(own[1], change):
        if after is None and stands is None and own is None:
            found.outcomes.append(Outcome(change))
            return
        raise Conflict(f"{place.namespace}/{place.target}: {change.id} is not what it was")
    found.changes.append(change)
    if after is None:
        found.removed.add(change.id)
        found.versions[change.id] = None
        return
    found.put[change.id] = Written(after, change.mark)
    found.versions[change.id] = version(after, change.mark)


def _forget(found: Decision, place: Place, ours: Mapping[str, tuple[str, Written]], change: Change) -> None:
    stands, own = place.shown.get(change.id), ours.get(change.id)
    is_shown = own is not None and stands is not None and stands.slice == own[0]
    release = change.before is not None and change.before.mark is not None
    if own is None or not own[1].mark or not _as_it_was(own[1], change) or is_shown != release:
        raise Conflict(f"{place.namespace}/{place.target}: {change.id} is not what it was")
    found.changes.append(change)
    found.versions[change.id] = None
    if release:
        found.put[change.id] = Written(own[1].instance)  # without a mark it is nobody's, though it is in our slice
    else:
        found.removed.add(change.id)


def _take(found: Decision, place: Place, change: Change, stands: Entry) -> None:
    theirs = place.slices[stands.slice]
    if not owner_of(theirs):
        raise Rejected(f"{place.namespace}/{stands.slice} is not written by a bridge, and no field of it is touched")
    before = change.before
    if stands.instance is None or before is None or version(stands.instance, stands.mark) != before.version:
        raise Conflict(f"{place.namespace}/{stands.slice}: {change.id} is not what it was")
    found.taken.setdefault(stands.slice, set()).add(change.id)


def _as_it_was(own: Written, change: Change) -> bool:
    return change.before is not None and version(own.instance, own.mark) == change.before.version


def _packed(written: Written, key: SetKey) -> Packed:
    instance = written.instance
    return Packed(instance.id, key, slice_entry.encode_one(written), layout.endpoint_of(instance))
