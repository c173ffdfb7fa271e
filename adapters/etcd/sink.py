"""The sink: reads what etcd holds, and writes in transactions that compare the lock and all that they replace."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Sequence

import msgspec

from adapters.common import assembly
from adapters.common.assembly import Record
from adapters.common.changes import Outcomes, turn
from adapters.common.inbox import Inbox
from adapters.common.term import writing
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.client import GRANT, RANGE, READ, TXN, UNARY_TIME, Client, LeaseExists, LeaseGone, TooLarge, reading
from adapters.etcd.keys import LEDGER, Range, Space, is_ours, lease_of
from adapters.etcd.ledger import Proof
from adapters.etcd.lock import EtcdTerm, kept_alive
from adapters.etcd.txn import Step, in_portions, is_held, looks, step, stood, transaction
from adapters.etcd.watching import Batch, Watching
from bridge.adapter import Change, Entry, Held, Outcome, Term
from bridge.errors import Conflict, Denied, Expired, IsthmusError, Rejected, Superseded, Unavailable
from bridge.model import Instance, Mark, ServiceName
from mappings import pairs

FLIGHTS = 8  # transactions under way at once
NAMES = 30  # services in one read
BACKLOG = 64  # responses of the watch that wait for the consumer of the drift
REMEMBERED = 65_536  # revisions of our own transactions, by which the watch tells those of others apart


class EtcdSink:
    """One layout below one prefix, written by the bridge with one id."""

    def __init__(self, client: Client, space: Space, bridge: str) -> None:
        self.traits = space.layout.TRAITS
        self._client = client
        self._space = space
        self._bridge = bridge
        self._writes = False
        self._leases: dict[int, asyncio.Task[None]] = {}  # kept alive while we are the writer
        self._written: OrderedDict[int, None] = OrderedDict()  # revisions of our transactions, oldest first
        self._flying: set[asyncio.Future[None]] = set()
        self._theirs: dict[ServiceName, frozenset[str]] = {}  # by name, the other layouts that have records there

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """See `Sink.canonical`: what the layout can carry. Rejected where others' records rule it out."""
        self._judge(name)
        return self._space.layout.canonical(name, instance, self._space.protocol)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """Everything under those names. An undecodable record is shown as a native's without an address."""
        wanted = frozenset(names or ())
        try:
            proofs, entries, header = await (
                self._pages([self._space.ledger], self._space.entries) if names is None else self._services(wanted)
            )
        except Expired as error:  # compacted during the list
            raise Unavailable(f"the list was cut short: {error}") from None
        services: dict[ServiceName, dict[str, Entry]] = {}
        theirs: dict[ServiceName, frozenset[str]] = dict.fromkeys(wanted, frozenset())
        for kv in entries:
            place = self._space.locate(kv.key)
            if place is None or (names is not None and place[0] not in wanted):
                continue
            name, id = place
            proof = proofs.pop(kv.key, None)
            if proof is not None and proof.revision != kv.mod_revision:
                proofs[kv.key] = proof  # a native has overwritten the entry: its ledger entry is loose
                proof = None
            record, another = self._read(name, id, kv, proof.mark if proof is not None else None)
            if another:
                theirs[name] = theirs.get(name, frozenset()) | {another}
            services.setdefault(name, {})[id] = assembly.entry(id, record, kv.mod_revision, ledgered=proof is not None)
            if record.mark is not None and record.mark.owner == self._bridge and is_ours(kv.lease):
                self._keep(kv.lease)
        self._theirs = {name: one for name, one in {**({} if names is None else self._theirs), **theirs}.items() if one}
        loose: dict[ServiceName, dict[str, int]] = {}
        for key, proof in proofs.items():
            place = self._space.locate(key)
            if place is not None and proof.mark is not None and proof.mark.owner == self._bridge:
                loose.setdefault(place[0], {})[place[1]] = proof.revision
        return Held(self._space.identity(header.cluster_id), services, loose)

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """See `Sink.apply`: a transaction holds many changes, and several transactions are in flight."""
        term = writing(EtcdTerm, self._bridge, term)
        outcomes = Outcomes(changes)
        steps: list[Step] = []
        for change in sorted(changes, key=turn):
            try:
                if change.after is not None:
                    self._judge(change.service)
                lease = 0 if change.ttl is None or change.after is None else await self._lease(term, change.ttl)
                steps.append(step(self._space, self._bridge, change, lease))
            except IsthmusError as error:
                outcomes.fail(change, error)
        adds = [each for each in steps if each.change.after is not None]
        for some in (adds, steps[len(adds) :]):
            outcomes.put(*await self._all(term, some))
        return outcomes.in_order()

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """See `Sink.drift`. The empty set once, when the watch has begun: earlier changes are unknown."""
        header = (await self._client.call(RANGE, pb.RangeRequest(key=LEDGER, keys_only=True))).header
        inbox: Inbox[Batch | None] = Inbox(BACKLOG)
        watching = Watching(self._client, dict.fromkeys(self._space.entries, header.revision), header.cluster_id)
        task = inbox.run(lambda: watching.run(lambda: inbox.post(None), inbox.put))
        try:
            while True:
                items, failure = await inbox.take()
                names: set[ServiceName] = set()
                for item in items:
                    if item is not None:
                        names |= await self._others(item)
                if failure is not None:
                    raise failure
                if None in items:
                    yield frozenset()
                elif names:
                    yield frozenset(names)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        """Keeps the leases of our entries alive inside, which is while we are the writer."""
        self._writes = True
        try:
            yield
        finally:
            self._writes = False
            leases, self._leases = [*self._leases.values()], {}
            for keeping in leases:
                keeping.cancel()
            await asyncio.gather(*leases, return_exceptions=True)

    # Reading.

    async def _pages(
        self, proofs: Sequence[Range], entries: Sequence[Range]
    ) -> tuple[dict[bytes, Proof], list[pb.KeyValue], pb.Header]:
        said: dict[bytes, Proof] = {}
        found: list[pb.KeyValue] = []
        header = pb.Header()
        async with contextlib.aclosing(self._client.pages([*proofs, *entries])) as pages:
            async for area, page in pages:
                header = page.header
                if area in proofs:
                    self._note(said, page)
                else:
                    found.extend(page.kvs)
        return said, found, header

    async def _services(
        self, names: Collection[ServiceName]
    ) -> tuple[dict[bytes, Proof], list[pb.KeyValue], pb.Header]:
        proofs: dict[bytes, Proof] = {}
        entries: list[pb.KeyValue] = []
        header = pb.Header()
        ordered = sorted(names)
        for first in range(0, max(1, len(ordered)), NAMES):
            some = ordered[first : first + NAMES]
            folders = [self._space.folder(name) for name in some]
            ledgers = [self._space.proofs(name) for name in some]
            try:
                answer = await self._client.call(READ, reading([*folders, *ledgers]))
            except TooLarge:
                said, found, header = await self._pages(ledgers, folders)
                proofs |= said
                entries += found
                continue
            header = answer.header
            for response in answer.responses[: len(some)]:
                entries.extend(response.response_range.kvs)
            for response in answer.responses[len(some) :]:
                self._note(proofs, response.response_range)
        return proofs, entries, header

    def _read(self, name: ServiceName, id: str, kv: pb.KeyValue, mark: Mark | None) -> tuple[Record, str]:
        """The decoded record, and the name of the other layout that it is of ("": of ours).

        A record of another layout that another registry of this bridge wrote is not changed by this destination.
        """
        layout, protocol = self._space.layout, self._space.protocol
        record = assembly.decoded(mark, layout.decode, name, id, kv.value, protocol)
        another = pairs.recognized(kv.value) if record.instance is None else ""
        if not another or another == layout.NAME:
            return record, ""
        return msgspec.structs.replace(record, mark=None), another

    def _judge(self, name: ServiceName) -> None:
        """Raises Rejected where a record of ours and one of another layout would break each other's readers.

        Readers of a name read all keys below it, so the records of names above this one count, too.
        """
        if not self._theirs:
            return
        layout, (text, namespace) = self._space.layout.NAME, name
        while text:
            for other in sorted(self._theirs.get(ServiceName(text, namespace), ())):
                if why := pairs.apart(layout, other):
                    raise Rejected(f"{self._space.prefix}{text}/ holds a record of layout {other}, and {why}")
            text = text.rpartition("/")[0]

    def _note(self, proofs: dict[bytes, Proof], page: pb.RangeResponse) -> None:
        for kv in page.kvs:
            key = ledger.data_of(kv.key)
            if self._space.has(key):
                proofs[key] = ledger.proof_of(kv)

    # Writing.

    async def _all(self, term: EtcdTerm, steps: list[Step]) -> list[Outcome]:
        flown = list(in_portions(steps))
        if len(flown) <= 1:  # the usual batch is one portion and needs no task
            return await self._commit(term, steps) if steps else []
        flights = asyncio.Semaphore(FLIGHTS)
        superseded: list[Superseded] = []

        async def fly(portion: list[Step]) -> list[Outcome]:
            async with flights:
                try:
                    return [] if superseded else await self._commit(term, portion)
                except Superseded as error:
                    superseded.append(error)
                    return []

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fly(portion)) for portion in flown]
        if superseded:
            raise superseded[0]
        return [outcome for task in tasks for outcome in task.result()]

    async def _commit(self, term: EtcdTerm, steps: list[Step]) -> list[Outcome]:
        """Sends one transaction. Where one change made it fail, the others are sent once more, each by itself."""
        try:
            answer = await self._send(transaction(term.fence, steps))
            if not answer.succeeded:
                found = await self._client.call(READ, looks(term.fence, steps))
        except LeaseGone as error:
            for lease in {each.lease for each in steps if each.lease}:
                if keeping := self._leases.pop(lease, None):
                    keeping.cancel()
            return [Outcome(each.change, error=Unavailable(str(error))) for each in steps]
        except (Rejected, Denied) as error:
            if len(steps) == 1:
                return [Outcome(steps[0].change, error=error)]
            return [outcome for each in steps for outcome in await self._commit(term, [each])]
        except IsthmusError as error:
            return [Outcome(each.change, error=error) for each in steps]
        if answer.succeeded:
            revision = answer.header.revision
            return [Outcome(each.change, revision if each.value is not None else None) for each in steps]
        if not is_held(term.fence, found):
            raise Superseded(f"the lock of {self._bridge} is not ours any more")
        outcomes: list[Outcome] = []
        for each, fine in zip(steps, stood(term.fence, steps, found), strict=True):
            if fine and len(steps) > 1:
                outcomes += await self._commit(term, [each])
            else:
                change = each.change
                outcomes.append(Outcome(change, error=Conflict(f"{change.service}/{change.id}: it is not what it was")))
        return outcomes

    async def _send(self, request: pb.TxnRequest) -> pb.TxnResponse:
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flying.add(landed)
        try:
            answer = await self._client.call(TXN, request)
            if answer.succeeded:
                self._written[answer.header.revision] = None
                if len(self._written) > REMEMBERED:
                    self._written.popitem(last=False)
            return answer
        finally:
            self._flying.discard(landed)
            landed.set_result(None)

    async def _others(self, batch: Batch) -> set[ServiceName]:
        """The services of the events that our own transactions did not cause."""
        foreign = [event.kv for event in batch.events if event.kv.mod_revision not in self._written]
        if foreign and self._flying:
            # One of them may be our transaction whose answer has not arrived yet.
            await asyncio.wait(tuple(self._flying))
            foreign = [kv for kv in foreign if kv.mod_revision not in self._written]
        places = [self._space.locate(kv.key) for kv in foreign]
        return {place[0] for place in places if place is not None}

    # Leases.

    async def _lease(self, term: EtcdTerm, ttl: int) -> int:
        """The lease of entries with this lifetime, granted where there is none. Raises Unavailable, Denied."""
        lease = lease_of(self._bridge, self._space.identity(term.fence.cluster), ttl)
        if lease not in self._leases:
            with contextlib.suppress(LeaseExists):  # granted before a restart
                await self._client.call(GRANT, pb.LeaseGrantRequest(ttl=ttl, id=lease))
            self._keep(lease)
        return lease

    def _keep(self, lease: int) -> None:
        """Renews a lease as long as we are the writer, also one that an earlier process granted."""
        if not self._writes or lease in self._leases:
            return

        async def keep() -> None:
            await kept_alive(self._client, lease, UNARY_TIME, lambda _: None)
            self._leases.pop(
                lease, None
            )  # expired: `drift` reports the entries that went with it, and the next write grants it anew

        self._leases[lease] = asyncio.create_task(keep())
