"""The destination side of a mesh: one ServiceEntry a host in one namespace, or WorkloadEntries beside a Service's pods.

Each service is read before it is written, and every write names what it replaces (uid and resourceVersion). A host that
a ServiceEntry of somebody else's has already is not written: in one namespace istiod would mix the two, and of two
namespaces it takes one and drops the other without a word.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from adapters.common.changes import LOOK_AGAIN, Outcomes
from adapters.common.seat import in_force
from adapters.kubernetes import identity, portions
from adapters.kubernetes.attach import Share, share_of, too_much
from adapters.kubernetes.client import Client
from adapters.kubernetes.following import Kind, following
from adapters.kubernetes.istio import rules
from adapters.kubernetes.istio.standing import (
    ENTRIES,
    WORKLOADS,
    Decision,
    Standing,
    Where,
    decide,
    entry_body,
    readable,
    rule_body,
    workload_body,
    workload_name,
)
from adapters.kubernetes.lease import Leases
from adapters.kubernetes.place import Place
from adapters.kubernetes.sink import AT_ONCE, KubernetesSink, Rules
from adapters.kubernetes.watching import Changed, Everything
from adapters.kubernetes.working_copy import View
from adapters.kubernetes.writing import Echoes, Pen
from bridge.adapter import Advice, Change, Held, Outcome, Raw, Term
from bridge.errors import Denied, IsthmusError, Rejected, Superseded
from bridge.model import Instance, ServiceName
from mappings import istio as mapping
from mappings.common.naming import Naming
from mappings.common.slice_entry import BRIDGE, WRITER, Written, is_dns_name
from mappings.istio import ServiceEntry, WorkloadEntry
from mappings.kubernetes.objects import Meta

T = TypeVar("T", bound=msgspec.Struct)


class IstioSink:
    """What one bridge has in a mesh. `pods`: the sink of the same cluster's Services, which says what is beside."""

    def __init__(
        self,
        client: Client,
        view: View,
        leases: Leases,
        names: Naming,
        file: Rules,
        bridge: str,
        *,
        destination_rules: bool = False,
    ) -> None:
        self.traits = mapping.traits(names)
        self._client = client
        self._view = view
        self._leases = leases
        self._names = names
        self._rules = file
        self._bridge = bridge
        self._writes_rules = destination_rules
        self._pods = KubernetesSink(client, view, leases, self.traits, file, bridge)
        self._hosts: dict[str, ServiceName] = {}  # of what was read or written here
        self._foreign: dict[str, dict[str, str]] = {}  # ServiceEntries of no bridge's: the place of each, by host
        self._followed = False
        self._turns: defaultdict[ServiceName, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._echoes = Echoes()
        self._numbers = itertools.count(1)

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """As `mappings.istio.canonical` has it."""
        return mapping.canonical(self._names, name, instance)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """See `Sink.held`: what bridges wrote; a host that somebody else has is refused when it is written."""
        who = await identity.of(self._client)
        wanted = None if names is None else [name for name in names if self._is_host(name)]
        found = await portions.read(wanted, self._read, self._read_all)
        return Held(who, {name: shown for name, standing in found.items() if (shown := standing.held())})

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """See `Sink.apply`: one write for each ServiceEntry; with several services, what only loses comes last."""
        if term is None:
            raise Superseded(f"the lock of {self._bridge} is not ours")
        in_force(term)
        pen = Pen(self._client, self._leases, self._bridge, term, self._echoes, self._numbers)
        outcomes = Outcomes(changes)
        services: defaultdict[ServiceName, list[Change]] = defaultdict(list)
        for change in changes:
            services[change.service].append(change)
        try:
            await self._look()
            for last in (False, True):
                group = {
                    name: some for name, some in services.items() if all(each.after is None for each in some) is last
                }
                for some in await self._together(pen, group):
                    outcomes.put(*some)
        except Superseded:
            raise
        except IsthmusError as error:
            outcomes.fail_others(error)
        return outcomes.in_order()

    async def _together(self, pen: Pen, services: Mapping[ServiceName, list[Change]]) -> list[list[Outcome]]:
        """The changes of several services, some at a time. Raises Superseded."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(name: ServiceName, some: list[Change]) -> list[Outcome]:
            async with room, self._turns[name]:
                return await self._apply(pen, name, some)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(name, some)) for name, some in services.items()]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [task.result() for task in tasks]

    async def advise(self, changes: Mapping[ServiceName, Sequence[Change]]) -> list[Advice]:
        """See `Adviser`: which DestinationRule a host lacks whose endpoints are to get different shares."""
        found = [] if self._writes_rules else await rules.listed(self._client, self._scopes())
        said = []
        for name, some in changes.items():
            if not self._is_host(name):
                continue
            standing = await self._read(name)
            after = {id: each.instance for id, each in standing.in_entry().items()}
            for change in some:
                after.pop(change.id, None)
                if change.after is not None:
                    after[change.id] = change.after
            if not self._writes_rules:
                said += rules.advice(name, standing.where, after.values(), found)
        return said

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """See `Sink.drift`."""
        kinds = [Kind(ENTRIES, scope, ServiceEntry) for scope in self._scopes()]
        if self._rules.attach:
            beside = self._rules.namespaces or ("",)
            kinds += [Kind(WORKLOADS, scope, WorkloadEntry, mapping.SERVICE) for scope in beside]
        try:
            async with following(self._client, kinds, random.Random()) as watches:
                self._foreign.clear()
                while True:
                    touched: set[ServiceName] = set()
                    for each in await watches.take():
                        touched |= self._told(each)
                    if self._followed and touched:
                        yield frozenset(touched)
                    elif watches.is_listed and not self._followed:
                        self._followed = True
                        yield frozenset()
        finally:
            self._followed = False

    async def hosts(self) -> dict[str, ServiceName]:
        """The hosts that this bridge writes."""
        return {
            each.where.host: name
            for name, each in (await self._read_all()).items()
            if any(one.mark is not None and one.mark.owner == self._bridge for one in each.in_entry().values())
        }

    async def released(self) -> list[str]:
        """The objects of this bridge in which nothing is marked any more."""
        found: list[str] = []
        for each in (await self._read_all()).values():
            objects: dict[str, ServiceEntry | WorkloadEntry] = {
                f"{each.where.beside}/{name}": one for name, one in each.workloads.items()
            }
            if each.entry is not None:
                objects[f"{each.where.mesh}/{each.where.host}"] = each.entry
            for place, one in objects.items():
                is_ours = _owner(one.metadata) == self._bridge
                if is_ours and not any(written.mark for written in readable(one.metadata).values()):
                    found.append(place)
        return found

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`: each object with every entry that it has."""
        if not self._is_host(name):
            return []
        standing = await self._read(name)
        objects: list[ServiceEntry | WorkloadEntry] = [*standing.workloads.values()]
        objects += [standing.entry] if standing.entry is not None else []
        return [
            Raw(f"{each.metadata.namespace}/{each.metadata.name}", msgspec.json.encode(each).decode(), "*")
            for each in objects
        ]

    # -- what stands there --

    def _where(self, name: ServiceName) -> Where:
        host = mapping.host(self._names, name)
        self._hosts[host] = name
        return Where(name, host, self._view.default, self._view.namespace(name))

    def _is_host(self, name: ServiceName) -> bool:
        try:
            return bool(self._where(name))
        except Rejected:
            return False

    def _scopes(self) -> tuple[str, ...]:
        """The namespaces whose ServiceEntries are looked at: others may have a host of ours."""
        given = self._rules.namespaces
        return tuple(dict.fromkeys((self._view.default, *given))) if given else ("",)

    async def _read(self, name: ServiceName) -> Standing:
        """One service as it stands now. Raises Rejected where its name is no host's."""
        where = self._where(name)
        entry = await self._client.get(ENTRIES.path(where.mesh, where.host), ServiceEntry)
        standing = Standing(where, entry, {})
        if self._rules.attach:
            query = {"labelSelector": f"{mapping.SERVICE}={mapping.label(name)}"}
            found = await self._objects(WORKLOADS.path(where.beside), WorkloadEntry, query)
            standing.workloads = {each.metadata.name: each for each in found}
        return standing

    async def _read_all(self) -> dict[ServiceName, Standing]:
        found: dict[ServiceName, Standing] = {}
        query = {"labelSelector": mapping.SERVICE}
        for entry in await self._objects(ENTRIES.path(self._view.default), ServiceEntry, query):
            name = mapping.name_of(entry.metadata)
            if name is not None and self._is_host(name) and self._where(name).host == entry.metadata.name:
                found[name] = Standing(self._where(name), entry, {})
        for scope in (self._rules.namespaces or ("",)) if self._rules.attach else ():
            for each in await self._objects(WORKLOADS.path(scope), WorkloadEntry, query):
                name = mapping.name_of(each.metadata)
                if name is not None and self._is_host(name):
                    standing = found.setdefault(name, Standing(self._where(name), None, {}))
                    standing.workloads[each.metadata.name] = each
        return found

    async def _objects(self, path: str, kind: type[T], query: Mapping[str, str] | None = None) -> list[T]:
        """Raises Denied where the cluster has none of Istio's definitions: what is there is not known."""
        try:
            return await self._client.listed(path, kind, query)
        except Rejected as error:
            raise Denied(f"the cluster has no Istio: {error}") from error

    async def _look(self) -> None:
        """Who else has which host, where no watch tells of it."""
        if self._followed:
            return
        self._foreign.clear()
        for scope in self._scopes():
            for each in await self._objects(ENTRIES.path(scope), ServiceEntry):
                self._note(each, deleted=False)

    def _note(self, entry: ServiceEntry, *, deleted: bool) -> set[ServiceName]:
        """Who has which host; the services that it is about."""
        meta, found = entry.metadata, set[ServiceName]()
        place, name = f"{meta.namespace}/{meta.name}", mapping.name_of(entry.metadata)
        ours = name is not None and meta.namespace == self._view.default
        if ours and name is not None:
            found.add(name)
        hosts = () if deleted or ours else entry.spec.hosts
        for host, places in self._foreign.items():
            if places.pop(place, None) is not None and host in self._hosts:
                found.add(self._hosts[host])
        for host in hosts:
            self._foreign.setdefault(host, {})[place] = place
            found |= {self._hosts[host]} if host in self._hosts else set()
        return found

    def _told(self, what: Everything | Changed) -> set[ServiceName]:
        """What a watch tells: the services that somebody else changed."""
        if isinstance(what, Everything):
            for each in what.objects:
                if isinstance(each, ServiceEntry):
                    self._note(each, deleted=False)
            return set()
        found = what.object
        if found is None:
            return set()
        touched = self._note(found, deleted=what.deleted) if isinstance(found, ServiceEntry) else set()
        if isinstance(found, WorkloadEntry) and (name := mapping.name_of(found.metadata)) is not None:
            touched = {name}
        meta = found.metadata
        said = f"deleted {meta.uid}" if what.deleted else (meta.annotations or {}).get(WRITER, "")
        return set() if self._echoes.is_ours(said) else touched

    # -- what is written --

    async def _apply(self, pen: Pen, name: ServiceName, changes: Sequence[Change]) -> list[Outcome]:
        """The changes of one service. Raises Superseded."""
        try:
            standing = await self._read(name)
            held_back = await self._beside(standing, changes)
            rest = [each for each in changes if all(each is not one.change for one in held_back)]
            decision = decide(standing, rest, self._bridge)
            await self._write(pen, standing, decision)
        except Superseded:
            raise
        except IsthmusError as error:
            if isinstance(error, Rejected) and error.again is None and len(changes) > 1:
                # Refused for one of them: each by itself, so that its siblings are written.
                return [one for change in changes for one in await self._apply(pen, name, [change])]
            return [Outcome(change, error=error) for change in changes]
        return [*held_back, *decision.outcomes, *decision.made]

    async def _beside(self, standing: Standing, changes: Sequence[Change]) -> list[Outcome]:
        """Finds the Service to attach to, and refuses what there is no room for beside its pods."""
        name = standing.where.name
        if not self._rules.attach or not is_dns_name(name.name):
            return []
        place: Place = await self._pods.standing(name)
        share = share_of(place)
        if share is None:
            return []
        standing.service = place.service
        serving = [id for id, (_, one) in standing.in_workloads().items() if mapping.gets_traffic(one.instance)]
        beside = Share(share.pods + len(share.attached), frozenset(serving))
        refused = self._pods.left.too_early(place, changes)
        rest = [each for each in changes if all(each is not one.change for one in refused)]
        return refused + too_much(place, beside, beside.pods, rest, self._rules.max_attached_share)

    async def _write(self, pen: Pen, standing: Standing, decision: Decision) -> None:
        """Makes it so: what gains before what loses, where an instance stands in the other form than it would now."""
        if not decision.made:
            return
        to_workloads = decision.put if standing.service is not None else {}
        to_entry = {} if standing.service is not None else decision.put
        for written in to_workloads.values():
            await self._put_workload(pen, standing, written)
        before = standing.in_entry()
        after = {**{id: each for id, each in before.items() if id not in decision.removed}, **to_entry}
        after = {id: each for id, each in after.items() if id not in to_workloads}
        if after != before:
            await self._put_entry(pen, standing, after)
        workloads = standing.in_workloads()
        for id in decision.removed | to_entry.keys():
            if id in workloads:
                await pen.delete(WORKLOADS, standing.workloads[workloads[id][0]].metadata)

    async def _put_entry(self, pen: Pen, standing: Standing, after: Mapping[str, Written]) -> None:
        where, entry = standing.where, standing.entry
        others = {**self._foreign.get(where.host, {})}
        if standing.occupied or others:
            places = ", ".join(sorted(others)) or f"{where.mesh}/{where.host}"
            raise Rejected(f"{places} has the host {where.host} already, and no bridge wrote it for this", LOOK_AGAIN)
        if entry is not None and not mapping.intact(entry, standing.in_entry()):
            said = f"{where.mesh}/{where.host}: somebody edited the ServiceEntry, and nothing is forced: "
            raise Rejected(said + "delete it, and it is written anew", LOOK_AGAIN)
        if not after:
            if entry is not None:
                await pen.delete(ENTRIES, entry.metadata)
            await rules.withdraw(self._client, pen, where)
            return
        if self._writes_rules:
            await rules.state(self._client, pen, where, partial(rule_body, where, self._bridge))
        owner = _owner(entry.metadata) if entry is not None else self._bridge
        body = partial(_entry_body, standing, owner, after)
        before = entry.metadata if entry is not None else None
        await pen.put(ENTRIES, where.mesh, where.host, before, body, ServiceEntry)

    async def _put_workload(self, pen: Pen, standing: Standing, written: Written) -> None:
        where = standing.where
        name = workload_name(where, written.instance.id)
        known = standing.workloads.get(name)
        owner = _owner(known.metadata) if known is not None else self._bridge
        body = partial(_workload_body, standing, owner, written)
        before = known.metadata if known is not None else None
        await pen.put(WORKLOADS, where.beside, name, before, body, WorkloadEntry)


def _entry_body(standing: Standing, owner: str, after: Mapping[str, Written], wrote: str) -> bytes:
    return entry_body(standing, owner, wrote, after)


def _workload_body(standing: Standing, owner: str, written: Written, wrote: str) -> bytes:
    return workload_body(standing, owner, wrote, written)


def _owner(meta: Meta) -> str:
    return (meta.annotations or {}).get(BRIDGE, "")
