"""The sink: what stands in etcd, and changes made in transactions that compare the lock and all that they replace."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import datetime

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.client import GRANT, RANGE, READ, TXN, UNARY_TIME, Client, LeaseExists, LeaseGone, TooLarge, reading
from adapters.etcd.keys import LEDGER, Range, Space, is_ours, lease_of
from adapters.etcd.ledger import Word
from adapters.etcd.lock import EtcdTerm, kept_alive, locked
from adapters.etcd.txn import GONE, Step, is_held, looks, noting, portions, step, stood, transaction
from adapters.etcd.watching import Batch, Watching
from bridge.adapter import Change, Entry, Held, Note, Outcome
from bridge.errors import Conflict, Denied, Expired, IsthmusError, Rejected, Superseded, Unavailable
from bridge.model import Instance, Mark, ServiceName

FLIGHTS = 8  # transactions under way at once
NAMES = 30  # services in one read
BACKLOG = 64  # responses that the watch is ahead of whoever asks for the drift
REMEMBERED = 65_536  # revisions of our own transactions, for the watch that looks for those of others
UNKNOWN = Mark(owner="", link="", path=(), scope="", service=ServiceName(""), instance="")  # of an unreadable word


class EtcdSink:
    """One layout below one prefix, written by the bridge with one id."""

    def __init__(self, client: Client, space: Space, bridge: str, now: Callable[[], datetime]) -> None:
        self.traits = space.layout.TRAITS
        self._client = client
        self._space = space
        self._bridge = bridge
        self._now = now
        self._term: EtcdTerm | None = None
        self._leases: dict[int, asyncio.Task[None]] = {}  # kept alive while we are the writer
        self._written: OrderedDict[int, None] = OrderedDict()  # revisions of our transactions, oldest first
        self._flying: set[asyncio.Future[None]] = set()

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """See `Sink.canonical`: what the layout can carry."""
        return self._space.layout.canonical(name, instance, self._space.protocol)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """Everything under those names; what nobody can decode stands there as a native's without an address."""
        wanted = frozenset(names or ())
        try:
            words, entries, header = await (
                self._pages([self._space.ledger], self._space.entries) if names is None else self._services(wanted)
            )
        except Expired as error:  # compacted while it was listed
            raise Unavailable(f"the list was cut short: {error}") from None
        services: dict[ServiceName, dict[str, Entry]] = {}
        for kv in entries:
            key = kv.key
            place = self._space.locate(key)
            if place is None or (names is not None and place[0] not in wanted):
                continue
            name, id = place
            word = words.pop(key, None)
            if word is not None and word.revision != kv.mod_revision:
                words[key] = word  # a native wrote over it: loose
                word = None
            mark = None if word is None else word.mark or UNKNOWN
            services.setdefault(name, {})[id] = Entry(self._decoded(name, id, kv.value), mark, kv.mod_revision)
            if mark is not None and mark.owner == self._bridge and is_ours(kv.lease):
                self._keep(kv.lease)
        loose: dict[ServiceName, dict[str, int]] = {}
        for key, word in words.items():
            place = self._space.locate(key)
            if place is not None and word.mark is not None and word.mark.owner == self._bridge:
                loose.setdefault(place[0], {})[place[1]] = word.revision
        return Held(self._space.identity(header.cluster_id), services, loose)

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """See `Sink.apply`: many changes share a transaction, some transactions are under way at once."""
        term = self._writing()
        outcomes: dict[int, Outcome] = {}
        creates: list[Step] = []
        replacements: list[Step] = []
        removals: list[Step] = []
        for change in changes:
            try:
                lease = 0 if change.ttl is None or change.after is None else await self._lease(term, change.ttl)
                made = step(self._space, self._bridge, change, lease)
            except IsthmusError as error:
                outcomes[id(change)] = Outcome(change, error=error)
            else:
                (removals if change.after is None else replacements if change.before else creates).append(made)
        # Creates first, then replacements: nobody finds a service empty on the way (Slack, 2020-05-12).
        for steps in (creates + replacements, removals):
            for outcome in await self._all(term, steps):
                outcomes[id(outcome.change)] = outcome
        return [outcomes[id(change)] for change in changes]

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """See `Sink.drift`; the empty set once, when it listens: what happened before then nobody knows."""
        header = (await self._client.call(RANGE, pb.RangeRequest(key=LEDGER, keys_only=True))).header
        inbox: asyncio.Queue[Batch | Exception | None] = asyncio.Queue()
        room = asyncio.Semaphore(BACKLOG)
        watching = Watching(self._client, dict.fromkeys(self._space.entries, header.revision), header.cluster_id)

        async def hand_over(batch: Batch) -> None:
            await room.acquire()
            inbox.put_nowait(batch)

        async def watch() -> None:
            try:
                await watching.run(lambda: inbox.put_nowait(None), hand_over)
            except Exception as error:
                inbox.put_nowait(error)

        task = asyncio.create_task(watch())
        try:
            while True:
                items = [await inbox.get()]
                while not inbox.empty():
                    items.append(inbox.get_nowait())
                names: set[ServiceName] = set()
                for item in items:
                    if isinstance(item, Exception):
                        raise item
                    if isinstance(item, Batch):
                        room.release()
                        names |= await self._others(item)
                if None in items:
                    yield frozenset()
                elif names:
                    yield frozenset(names)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[EtcdTerm]:
        """Waits for the lock of this bridge id; inside, `apply` writes, and our leases are kept alive."""
        async with locked(self._client, self._space.lock(self._bridge), self._now) as term:
            self._term = term
            try:
                yield term
            finally:
                self._term = None
                leases, self._leases = [*self._leases.values()], {}
                for keeping in leases:
                    keeping.cancel()
                await asyncio.gather(*leases, return_exceptions=True)

    async def recall(self) -> Note | None:
        """The note of this bridge, with its revision."""
        found = await self._client.call(RANGE, pb.RangeRequest(key=self._space.note(self._bridge)))
        return Note(found.kvs[0].value, found.kvs[0].mod_revision) if found.kvs else None

    async def note(self, content: bytes, before: Note | None, *, writer: bool) -> Note:
        """See `Sink.note`."""
        fence = self._writing().fence if writer else None
        revision = before.version if before is not None else GONE
        answer = await self._client.call(TXN, noting(self._space.note(self._bridge), content, revision, fence))
        if answer.succeeded:
            return Note(content, answer.header.revision)
        if fence is not None and not is_held(fence, await self._client.call(READ, looks(fence, ()))):
            raise Superseded(f"the lock of {self._bridge} is not ours any more")
        raise Conflict(f"the note of {self._bridge} is not what it was")

    # Reading.

    async def _pages(
        self, words: Sequence[Range], entries: Sequence[Range]
    ) -> tuple[dict[bytes, Word], list[pb.KeyValue], pb.Header]:
        said: dict[bytes, Word] = {}
        found: list[pb.KeyValue] = []
        header = pb.Header()
        async with contextlib.aclosing(self._client.pages([*words, *entries])) as pages:
            async for area, page in pages:
                header = page.header
                if area in words:
                    self._note(said, page)
                else:
                    found.extend(page.kvs)
        return said, found, header

    async def _services(self, names: Collection[ServiceName]) -> tuple[dict[bytes, Word], list[pb.KeyValue], pb.Header]:
        words: dict[bytes, Word] = {}
        entries: list[pb.KeyValue] = []
        header = pb.Header()
        ordered = sorted(names)
        for first in range(0, max(1, len(ordered)), NAMES):
            some = ordered[first : first + NAMES]
            folders = [self._space.folder(name) for name in some]
            ledgers = [self._space.words(name) for name in some]
            try:
                answer = await self._client.call(READ, reading([*folders, *ledgers]))
            except TooLarge:
                said, found, header = await self._pages(ledgers, folders)
                words |= said
                entries += found
                continue
            header = answer.header
            for response in answer.responses[: len(some)]:
                entries.extend(response.response_range.kvs)
            for response in answer.responses[len(some) :]:
                self._note(words, response.response_range)
        return words, entries, header

    def _note(self, words: dict[bytes, Word], page: pb.RangeResponse) -> None:
        for kv in page.kvs:
            key = ledger.data_of(kv.key)
            if self._space.has(key):
                words[key] = ledger.word_of(kv)

    def _decoded(self, name: ServiceName, id: str, value: bytes) -> Instance:
        try:
            return self._space.layout.decode(name, id, value, self._space.protocol)
        except Exception:  # Undecodable, or a mapping's bug: it stands there all the same
            return Instance(id, "")

    # Writing.

    def _writing(self) -> EtcdTerm:
        if self._term is None or self._term.lost.is_set():
            raise Superseded(f"the lock of {self._bridge} is not ours")
        return self._term

    async def _all(self, term: EtcdTerm, steps: list[Step]) -> list[Outcome]:
        flown = list(portions(steps))
        if len(flown) <= 1:  # the usual batch needs no task
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
        """One transaction; where one change spoils it, the others are tried once more, each by itself."""
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
        for each, fine in zip(steps, stood(steps, found), strict=True):
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
        """The services of those events that are not our own doing."""
        foreign = [event.kv for event in batch.events if event.kv.mod_revision not in self._written]
        if foreign and self._flying:
            # One of them may be the transaction whose answer is not in yet.
            await asyncio.wait(tuple(self._flying))
            foreign = [kv for kv in foreign if kv.mod_revision not in self._written]
        places = [self._space.locate(kv.key) for kv in foreign]
        return {place[0] for place in places if place is not None}

    # Leases.

    async def _lease(self, term: EtcdTerm, ttl: int) -> int:
        """The lease of entries with this lifetime, granted where it does not exist; raises Unavailable, Denied."""
        lease = lease_of(self._bridge, self._space.identity(term.fence.cluster), ttl)
        if lease not in self._leases:
            with contextlib.suppress(LeaseExists):  # from before a restart
                await self._client.call(GRANT, pb.LeaseGrantRequest(ttl=ttl, id=lease))
            self._keep(lease)
        return lease

    def _keep(self, lease: int) -> None:
        """Renews a lease as long as we are the writer; one that an earlier process left us, too."""
        if self._term is None or lease in self._leases:
            return

        async def keep() -> None:
            await kept_alive(self._client, lease, UNARY_TIME, lambda _: None)
            self._leases.pop(lease, None)  # expired: `drift` tells what went with it, and the next write grants it anew

        self._leases[lease] = asyncio.create_task(keep())
