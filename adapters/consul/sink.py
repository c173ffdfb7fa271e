"""The sink: copies on nodes of the bridge's own, in transactions that compare the lock and what they replace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

from adapters.common import assembly
from adapters.common.changes import Outcomes, judge, turn
from adapters.common.term import writing
from adapters.consul import records, txn
from adapters.consul.client import Client, instances_of
from adapters.consul.drift import Drift
from adapters.consul.identity import identity
from adapters.consul.lock import ConsulTerm
from adapters.consul.nodes import Nodes
from adapters.consul.records import Found, Reading, Shelf, Version
from adapters.consul.txn import Refusal, Step
from bridge.adapter import Change, Entry, Held, Outcome, Term
from bridge.errors import Conflict, Denied, IsthmusError, Rejected, Superseded, Unavailable
from bridge.model import Instance, ServiceName, Traits
from mappings import consul

READS_AT_ONCE = 16
SERVICES = "/v1/catalog/services"


class ConsulSink:
    """One datacenter, written by the bridge with one id."""

    traits: Traits = consul.TRAITS

    def __init__(self, client: Client, dc: str, reading: Reading, bridge: str, wait: float) -> None:
        self._client = client
        self._dc = dc
        self._reading = reading
        self._bridge = bridge
        self._nodes = Nodes(client, dc, bridge)
        self._turn = asyncio.Lock()  # one batch at a time: what it reads must hold until it is written
        self._drift = Drift(client, dc, self._read, wait)

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """See `Sink.canonical`: all of the model, but for the kinds of native records."""
        return consul.canonical(name, instance)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """Everything under those names; what nobody can decode is a native's without an address."""
        who = await identity(self._client, self._dc)
        if names is None:
            listed = (await self._client.get(SERVICES, self._dc)).json(dict[str, list[str]])
            names = [ServiceName(name) for name in _folded(listed)]
        shelves = await self._shelves(names)
        self._drift.knows(shelves)
        services: dict[ServiceName, dict[str, Entry]] = {}
        loose: dict[ServiceName, dict[str, Version]] = {}
        for name, shelf in shelves.items():
            entries = {id: _entry(id, one) for id, one in shelf.entries.items()}
            entries |= {id: Entry(Instance(id, "")) for id in shelf.nameless}
            if entries:
                services[name] = entries
            if lost := {id: one.version for id, one in shelf.lost.items() if self._is_ours(one)}:
                loose[name] = lost
        return Held(who, services, loose)

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """See `Sink.apply`: up to some forty changes share a transaction, and one of them spoils no other."""
        writer = writing(ConsulTerm, self._bridge, term)
        outcomes = Outcomes(changes)
        async with self._turn:
            self._nodes.of(writer)
            try:
                shelves = await self._shelves({change.service for change in changes if self._needs_a_look(change)})
            except IsthmusError as error:
                outcomes.fail_others(error)
                return outcomes.in_order()
            steps: list[Step] = []
            for change in sorted(changes, key=turn):
                try:
                    steps.append(await self._step(writer, change, shelves.get(change.service)))
                except Superseded:
                    raise
                except IsthmusError as error:
                    outcomes.fail(change, error)
            adds = [each for each in steps if each.change.after is not None]
            for some in (adds, steps[len(adds) :]):
                for portion in txn.portions(some):
                    with self._drift.writing({each.change.service for each in portion}):
                        made = await self._commit(writer, portion)
                    outcomes.put(*made)
                    self._free_again(portion, made)
        return outcomes.in_order()

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """See `Sink.drift`."""
        async for names in self._drift.listen():
            yield names

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, name: ServiceName) -> Shelf:
        reply = await self._client.get(instances_of(name.name), self._dc)
        return records.shelf(reply.body, self._reading)

    async def _shelves(self, names: Iterable[ServiceName]) -> dict[ServiceName, Shelf]:
        # What cannot be asked for is refused when it is written.
        wanted = [name for name in dict.fromkeys(names) if not name.namespace and name.name not in ("", ".", "..")]
        found: dict[ServiceName, Shelf] = {}
        for first in range(0, len(wanted), READS_AT_ONCE):
            some = wanted[first : first + READS_AT_ONCE]
            found |= zip(some, await asyncio.gather(*map(self._read, some)), strict=True)
        return found

    def _is_ours(self, one: Found) -> bool:
        mark = one.where.mark
        return mark is not None and mark.owner == self._bridge

    def _needs_a_look(self, change: Change) -> bool:
        """Whether it must be seen first what else has that id: natives have `DATACENTER/NODE/ID`, copies have any."""
        return change.before is None or change.forget or change.adopt or change.id.startswith(f"{self._dc}/")

    # -- writing -----------------------------------------------------------------------------------------------------

    async def _step(self, term: ConsulTerm, change: Change, shelf: Shelf | None) -> Step:
        judge(self._bridge, change)
        what = f"{change.service}/{change.id}"
        before = change.before
        if before is None:
            if shelf is not None and (change.id in shelf.entries or change.id in shelf.lost):
                raise Conflict(f"{what}: something has that id already")
            return await self._placed(term, lambda node: txn.create(change, node))
        stood = before.version
        if not isinstance(stood, Version):
            raise Conflict(f"{what}: there is no telling which record is meant")
        if change.forget and before.mark is None:
            if shelf is None or change.id not in shelf.lost or shelf.lost[change.id].version != stood:
                raise Conflict(f"{what}: no copy of ours is under an id of a native's")
            return txn.remove(change, stood)
        if shelf is not None and not change.adopt and change.id in shelf.lost:
            raise Conflict(f"{what}: a native has that id now")
        if change.forget:
            return txn.release(change, stood)
        if change.after is None:
            return txn.remove(change, stood)
        return await self._written_over(term, change, stood)

    async def _written_over(self, term: ConsulTerm, change: Change, stood: Version) -> Step:
        owner = consul.owner_of(stood.node)
        if owner == self._bridge:
            return txn.replace(change, stood)
        if owner is None:
            raise Rejected(f"{stood.node} has an agent, which would put back what was taken over")
        return await self._placed(term, lambda node: txn.move(change, stood, node))

    async def _placed(self, term: ConsulTerm, make: Callable[[str], Step]) -> Step:
        """A step on a node with room, which stays free where there is nothing to write. Raises Rejected."""
        node = await self._nodes.free(term)
        try:
            return make(node)
        except IsthmusError:
            self._nodes.give_back(node)
            raise

    async def _commit(self, term: ConsulTerm, steps: list[Step]) -> list[Outcome]:
        """One transaction; where some changes spoil it, the others are made without them."""
        fence = txn.fence_of(term)
        try:
            results = await txn.submit(self._client, self._dc, txn.operations(fence, steps))
        except Refusal as refusal:
            if refusal.superseded(fence):
                raise Superseded(f"the lock of {self._bridge} is not ours any more") from None
            return await self._without(term, steps, refusal, len(fence))
        except (Rejected, Denied) as error:
            if len(steps) == 1:
                return [Outcome(steps[0].change, error=error)]
            return [outcome for each in steps for outcome in await self._commit(term, [each])]
        except IsthmusError as error:
            return [Outcome(each.change, error=error) for each in steps]
        return self._made(steps, results[len(fence) :])

    async def _without(self, term: ConsulTerm, steps: list[Step], refusal: Refusal, at: int) -> list[Outcome]:
        """`at`: how many operations come before those of the steps."""
        failed: list[Outcome] = []
        good: list[Step] = []
        for each in steps:
            texts = [refusal.errors[number] for number in range(at, at + len(each.ops)) if number in refusal.errors]
            at += len(each.ops)
            if texts:
                error = txn.why(texts[0])
                if isinstance(error, Unavailable):
                    self._nodes.forget()
                failed.append(Outcome(each.change, error=error))
            else:
                good.append(each)
        if not failed:  # it is not known which one it was
            text = str(refusal)
            return [
                Outcome(each.change, error=Unavailable(f"Consul refused the transaction: {text}")) for each in steps
            ]
        return failed + (await self._commit(term, good) if good else [])

    def _free_again(self, steps: list[Step], made: list[Outcome]) -> None:
        """The places of entries that were not written."""
        failed = {id(outcome.change) for outcome in made if outcome.error is not None}
        for each in steps:
            if each.places and id(each.change) in failed:
                self._nodes.give_back(each.node)

    def _made(self, steps: list[Step], results: list[dict[str, object]]) -> list[Outcome]:
        """`results`: of all operations in their order, but for deletions, which have none."""
        outcomes: list[Outcome] = []
        rest = iter(results)
        for each in steps:
            own = [next(rest) for op in each.ops if not _deletes(op)]
            version = txn.version(each, own)
            if all(map(_deletes, each.ops)):
                self._nodes.give_back(each.node)
            self._drift.wrote(each.change.service, each, version)
            outcomes.append(Outcome(each.change, version))
        return outcomes


def _deletes(op: dict[str, dict[str, object]]) -> bool:
    return any(str(what["Verb"]).startswith("delete") for what in op.values())


def _entry(id: str, one: Found) -> Entry:
    return assembly.entry(id, one.record, one.version, ledgered=one.where.ledgered)


def _folded(names: Iterable[str]) -> list[str]:
    """One spelling of each name: Consul answers for all of them by any."""
    return list({name.lower(): name for name in sorted(names, reverse=True) if name.lower() != "consul"}.values())
