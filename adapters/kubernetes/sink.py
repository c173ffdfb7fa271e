"""The destination side of a cluster: a Service without a selector, and slices that hold the entries.

While drift is followed the working copy has the slices as they were read or written last, and loses what others change:
without it each service is read before it is written. Every write names what it replaces (uid and resourceVersion).
What no write can compare is a native's slice beside ours: the watch tells of one that appears in the moment of a write.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from adapters.common.assembly import Ignored, Record, entry
from adapters.common.changes import LOOK_AGAIN, Outcomes
from adapters.common.seat import in_force
from adapters.kubernetes import bodies, identity, packing, portions
from adapters.kubernetes.advice import Scaled, advice, scaled_in
from adapters.kubernetes.attach import Fit, Share, after, fitted, share_of, too_much
from adapters.kubernetes.client import SERVICES, SLICES, Client
from adapters.kubernetes.drift import drift
from adapters.kubernetes.lease import Leases
from adapters.kubernetes.left import Left
from adapters.kubernetes.packing import Rewrite
from adapters.kubernetes.packing import Slice as Pack
from adapters.kubernetes.place import (
    Decision,
    Place,
    decide,
    intact,
    is_written,
    original_name,
    packed,
    target,
    targets,
    version,
)
from adapters.kubernetes.working_copy import Copy, View
from adapters.kubernetes.writing import Echoes, NoNamespace, Pen
from bridge.adapter import Advice, Change, Entry, Held, Outcome, Term
from bridge.errors import Conflict, Denied, IsthmusError, Rejected, Superseded
from bridge.model import Instance, ServiceName, Traits
from mappings import kubernetes as layout
from mappings.common import slice_entry
from mappings.kubernetes import objects
from mappings.kubernetes.objects import Service, Slice

AT_ONCE = 16  # services that are written at the same time: an apiserver queues 50 requests of a user


class Rules(NamedTuple):
    """What the file says of writing. `namespaces`: () is all."""

    namespaces: tuple[str, ...] = ()
    create_namespaces: bool = False
    attach: bool = False
    max_attached_share: float = 0.5


class KubernetesSink:
    """The Services and slices of one bridge in a cluster."""

    def __init__(
        self,
        client: Client,
        view: View,
        leases: Leases,
        traits: Traits,
        rules: Rules,
        bridge: str,
        kept: Path | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`kept`: the file of what left, see `Left`. `wall` gives seconds since the epoch, `clock` monotonic ones."""
        self._clock = clock
        self.traits = traits
        self._client = client
        self._view = view
        self._leases = leases
        self._rules = rules
        self._bridge = bridge
        self._places: dict[ServiceName, Place] = {}
        self._fits: dict[ServiceName, Fit] = {}
        self._left = Left(wall, kept)
        self._followed = False  # whether a watch tells what others change of these
        self._turns: defaultdict[ServiceName, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._echoes = Echoes()
        self._numbers = itertools.count(1)

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """As `slice_entry.canonical` has it; Rejected also in a namespace that the file leaves out."""
        namespace = self._view.namespace(name)
        if self._rules.namespaces and namespace not in self._rules.namespaces:
            raise Rejected(f"the namespace {namespace} is not among `namespaces`")
        return slice_entry.canonical(name, instance)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """See `Sink.held`. Where a Service was pruned nobody finds its slices: our entries in them do not stand."""
        who = await identity.of(self._client)
        found = await portions.read(names, self._read, self._read_all)
        services: dict[ServiceName, dict[str, Entry]] = {}
        loose: dict[ServiceName, dict[str, str]] = {}
        for name, place in found.items():
            self._places[name] = place
            self._room(name, place)
            shown, lost = self._held(place)
            place.forget()
            if shown:
                services[name] = shown
            if lost:
                loose[name] = lost
        return Held(who, services, loose)

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """See `Sink.apply`: one write for each slice that changes; with several services all adds come first."""
        if term is None:
            raise Superseded(f"the lock of {self._bridge} is not ours")
        in_force(term)
        pen = Pen(self._client, self._leases, self._bridge, term, self._echoes, self._numbers)
        outcomes = Outcomes(changes)
        several = len({change.service for change in changes}) > 1
        phases: dict[bool, dict[ServiceName, list[Change]]] = {False: {}, True: {}}
        for change in changes:
            phases[several and change.after is None].setdefault(change.service, []).append(change)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(name: ServiceName, some: list[Change]) -> None:
            async with room, self._turns[name]:
                outcomes.put(*await self._apply(pen, name, some))
                if (place := self._places.get(name)) is not None:
                    place.forget()

        try:
            for phase in (False, True):
                async with asyncio.TaskGroup() as group:
                    for name, some in phases[phase].items():
                        group.create_task(one(name, some))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return outcomes.in_order()

    async def advise(self, changes: Mapping[ServiceName, Sequence[Change]]) -> list[Advice]:
        """See `bridge.adapter.Adviser`: of Services with pods of their own."""
        found: list[Advice] = []
        scaled: dict[str, list[Scaled] | Denied] = {}
        for name, some in changes.items():
            place = await self._read(name)
            share, pods = self._room(name, place)
            if share is None or place.service is None:
                continue
            if place.namespace not in scaled:
                try:
                    scaled[place.namespace] = await scaled_in(self._client, place.namespace)
                except Denied as error:
                    scaled[place.namespace] = error
            waiting = too_much(place, share, pods, some, self._rules.max_attached_share)
            made = _without(some, waiting)
            found += advice(name, place.service, after(share, made), len(waiting), scaled[place.namespace])
        return found

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """See `Sink.drift`."""
        try:
            async with aclosing(drift(self._client, self._view, self._rules.namespaces, self._echoes)) as words:
                async for names in words:
                    if not names:
                        self._places.clear()
                        self._followed = True
                    for name in names:
                        self._places.pop(name, None)
                    yield names
        finally:
            self._followed = False

    async def close(self) -> None:
        """Returns when what is to be kept is."""
        await self._left.close()

    def _held(self, place: Place) -> tuple[dict[str, Entry], dict[str, str]]:
        ours, left = place.ours_and_left(self._bridge)
        shown: dict[str, Entry] = {}
        for id, one in place.shown.items():
            is_ours = id in ours and ours[id][0] == one.slice
            if is_ours and not place.is_there:
                continue
            found = None if one.instance is None else version(one.instance, one.mark)
            shown[id] = entry(id, Record(one.instance, one.mark), found, ledgered=False)
        loose = {
            id: version(written.instance, written.mark)
            for id, (name, written) in ours.items()
            if written.mark is not None and id in place.shown and place.shown[id].slice != name
        }
        loose |= {id: version(written.instance, written.mark) for id, written in left.items()}
        return shown, loose

    async def _apply(self, pen: Pen, name: ServiceName, changes: Sequence[Change]) -> list[Outcome]:
        """The changes of one service. Raises Superseded."""
        try:
            if not self._followed or (place := self._places.get(name)) is None:
                place = self._places[name] = await self._read(name)
            share, pods = self._room(name, place)
            held_back = self._left.too_early(place, changes)
            held_back += too_much(place, share, pods, _without(changes, held_back), self._rules.max_attached_share)
            rest = _without(changes, held_back)
            decision = decide(place, rest, self._bridge)
            await self._write(pen, place, decision)
        except Superseded:
            raise
        except IsthmusError as error:
            self._places.pop(name, None)
            if isinstance(error, Rejected) and error.again is None and len(changes) > 1:
                # The server refused all of them for one: each by itself, so that its siblings are written.
                return [one for change in changes for one in await self._apply(pen, name, [change])]
            return [Outcome(change, error=error) for change in changes]
        made = [Outcome(change, decision.versions[change.id]) for change in decision.changes]
        return [*held_back, *decision.outcomes, *made]

    def _room(self, name: ServiceName, place: Place) -> tuple[Share | None, int]:
        """What is attached to a Service beside its pods, None: nothing may be; and the pods that the room is for."""
        share = share_of(place) if self._rules.attach else None
        if share is None:
            self._fits.pop(name, None)
            return None, 0
        fit = self._fits[name] = fitted(self._fits.get(name), share.pods, self._clock())
        return share, min(share.pods, fit.pods)

    async def _write(self, pen: Pen, place: Place, decision: Decision) -> None:
        """Makes it so: the Service before its slices, slices that gain before others, the Service's end last."""
        if not decision.changes:
            return
        if decision.put:
            await self._prepare(pen, place, decision)
        single = {id: each for id, each in decision.single.items() if id not in decision.removed}
        entries = [packed(each, place.service) for each in {**single, **decision.put}.values()]
        standing = place.packs(place.of(self._bridge))
        base = f"{place.target}-{slice_entry.digest(self._bridge, 4)}"
        rewrites = packing.repack(base, standing, entries, decision.removed, place.slices)
        try:
            for rewrite in [*rewrites, *_taken_out(place, decision)]:
                await self._rewrite(pen, place, rewrite)
            await self._retire(pen, place)
        finally:
            self._show(place)

    async def _prepare(self, pen: Pen, place: Place, decision: Decision) -> None:
        """Makes sure that there is a Service to add to. Raises Rejected where its owner did not ask for that."""
        service = place.service
        if service is not None and original_name(service) != place.name.name:
            said = f"the Service {place.namespace}/{place.target} stands for {original_name(service)}"
            raise Rejected(said, LOOK_AGAIN)
        if service is not None and service.spec.selector and not self._rules.attach:
            said = f"the Service {place.namespace}/{place.target} has a selector of its own: `attach: true` adds to it"
            raise Rejected(said, LOOK_AGAIN)
        if service is not None and not is_written(service):
            return
        keys = [packed(each, service).key for each in decision.put.values()]
        ports = bodies.service_ports(service, keys)
        if service is not None and {each.name for each in ports} == {each.name for each in service.spec.ports or ()}:
            return
        try:
            place.service = await pen.put_service(place, ports)
        except NoNamespace:
            if not self._rules.create_namespaces:
                raise
            await pen.create_namespace(place.namespace)
            place.service = await pen.put_service(place, ports)

    async def _rewrite(self, pen: Pen, place: Place, rewrite: Rewrite) -> None:
        name = rewrite.after.name
        if rewrite.after.entries:
            place.slices[name] = await pen.put_slice(place, rewrite.after)
        elif name in place.slices:
            await pen.delete(SLICES, place.slices[name].metadata)
            del place.slices[name]

    async def _retire(self, pen: Pen, place: Place) -> None:
        """Our Service goes with the last slice of anybody's; who noted something on it meanwhile does not keep it."""
        if place.slices:
            return
        for again in (False, True):
            if again:
                place.service = (await self._read(place.name)).service
            service = place.service
            if service is None or maker_of(service) != self._bridge:
                return
            with contextlib.suppress(Conflict):
                await pen.delete(SERVICES, service.metadata)
                place.service = None

    def _show(self, place: Place) -> None:
        """What readers find after a write."""
        copy = Copy(self._view, Ignored())
        for each in place.slices.values():
            copy.put(each, False)
        place.shown = copy.entries(place.name, place.service)

    async def _read(self, name: ServiceName) -> Place:
        """One service as it stands now."""
        namespace, wanted = self._view.namespace(name), targets(name.name)
        label = f"{objects.SERVICE_NAME} in ({','.join(wanted)})"
        slices, services = await asyncio.gather(
            self._client.listed(SLICES.path(namespace), Slice, {"labelSelector": label}),
            self._services(namespace, wanted),
        )
        return self._place(name, services, slices)

    async def _services(self, namespace: str, names: Iterable[str]) -> dict[str, Service]:
        """By a list of one, which needs no right that a reader has not."""
        found: dict[str, Service] = {}
        for name in names:
            query = {"fieldSelector": f"metadata.name={name}"}
            for service in await self._client.listed(SERVICES.path(namespace), Service, query):
                found[service.metadata.name] = service
        return found

    async def standing(self, name: ServiceName) -> Place:
        """One service as it stands now, for what is written beside it. Raises Unavailable or Denied."""
        return await self._read(name)

    @property
    def left(self) -> Left:
        """What left the slices of Services that something is attached to."""
        return self._left

    async def released(self) -> list[str]:
        """The slices of this bridge in which nothing is marked any more."""
        return [
            f"{place.namespace}/{name}"
            for place in (await self._read_all()).values()
            for name, each in place.of(self._bridge).items()
            if not any(one.mark for one in intact(each).values())
        ]

    async def _read_all(self) -> dict[ServiceName, Place]:
        """Every service of every namespace that the file names, in two lists each."""
        found: dict[ServiceName, Place] = {}
        for scope in self._rules.namespaces or ("",):
            services = await self._client.listed(SERVICES.path(scope), Service)
            slices = await self._client.listed(SLICES.path(scope), Slice)
            by_name: defaultdict[ServiceName, list[Slice]] = defaultdict(list)
            for each in slices:
                if each.service:
                    by_name[self._view.name(each.metadata.namespace, layout.service_name(each))].append(each)
            known: defaultdict[str, dict[str, Service]] = defaultdict(dict)
            for service in services:
                known[service.metadata.namespace][service.metadata.name] = service
            found |= {name: self._place(name, known[self._view.namespace(name)], of) for name, of in by_name.items()}
        return found

    def _place(self, name: ServiceName, services: dict[str, Service], slices: Iterable[Slice]) -> Place:
        mine = [each for each in slices if layout.service_name(each) == name.name]
        chosen = target(name.name, services, mine)
        service = services.get(chosen)
        if service is not None and original_name(service) != name.name and chosen != name.name:
            service = None
        place = Place(
            name, self._view.namespace(name), chosen, service, {each.metadata.name: each for each in mine}, {}
        )
        self._show(place)
        if self._rules.attach:
            self._left.look(place)
        return place


def maker_of(service: Service) -> str:
    """The bridge that made a Service, "" where none did."""
    return (service.metadata.annotations or {}).get(slice_entry.BRIDGE, "")


def _without(changes: Sequence[Change], outcomes: Sequence[Outcome]) -> list[Change]:
    """The changes of which there is no outcome yet."""
    return [change for change in changes if all(change is not one.change for one in outcomes)]


def _taken_out(place: Place, decision: Decision) -> list[Rewrite]:
    """Slices of other bridges without the entries that were adopted: they stand in ours by then."""
    found = []
    for before in place.packs(name for name in place.slices if name in decision.taken):
        rest = {id: each for id, each in before.entries.items() if id not in decision.taken[before.name]}
        found.append(Rewrite(before, Pack(before.name, before.key, rest)))
    return found
