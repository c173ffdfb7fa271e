"""The sink: reads what is below the root, and writes in transactions that check the lock and all they replace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import cast

from kazoo.exceptions import NodeExistsError

from adapters.common import assembly
from adapters.common.changes import Outcomes, turn
from adapters.common.term import writing
from adapters.zookeeper import acl, identity, wire
from adapters.zookeeper.client import Client
from adapters.zookeeper.drift import Drift
from adapters.zookeeper.lock import ZooKeeperTerm
from adapters.zookeeper.replies import Answer, Disconnected
from adapters.zookeeper.tree import Folder, Pair, Tree
from adapters.zookeeper.txn import (
    Rights,
    Step,
    Version,
    done,
    failed,
    in_portions,
    kept,
    moved,
    over,
    stands,
    step,
    superseded,
    version,
)
from adapters.zookeeper.wire import Acl, Create, Node, SetData
from bridge.adapter import Change, Entry, Held, Outcome, Term
from bridge.errors import Conflict, Expired, IsthmusError, Rejected, Superseded, Unavailable, Undecodable
from bridge.model import Instance, ServiceName
from mappings import curator, ledger
from mappings.common import curator_record

# The classes of others' payloads under a name, each with the keys whose values are texts.
Classes = dict[ServiceName, dict[str | None, frozenset[str]]]

SHARED = "an entry dies with one session, and a shard goes from one process to another: a group's entries are lasting"
LEASED = b"leased"  # in the node above the locks: some entries die with the writer's session


class ZooKeeperSink:
    """One layout below one root, written by the bridge with one id."""

    def __init__(self, client: Client, tree: Tree, bridge: str, payload: str | None = None) -> None:
        self.traits = tree.mapping.TRAITS
        self._client = client
        self._tree = tree
        self._bridge = bridge
        self._lock = tree.own.lock(bridge)
        self._rights = Rights((), ())
        self._leased = 0  # the session whose end removes our leased entries
        self._standing: set[str] = set()  # folders of entries and of ledger nodes that are known to exist
        self._payload = payload
        self._classes: Classes = {}
        self._drift = Drift(tree)

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """See `Sink.canonical`: what the layout can carry. Rejected where others' records rule it out."""
        theirs = self._classes.get(name, {})
        if self._tree.mapping.NAME == curator.NAME:
            instance = _dressed(instance, self._payload, theirs)
        form = self._tree.mapping.canonical(name, instance, self._tree.protocol)
        if theirs:
            ours = curator_record.payload_class(self._tree.mapping.encode(name, form)[1])
            _judge(f"{self._tree.root}/{self._tree.folder_of(name)}", ours, theirs)
        return form

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """Everything under those names. An undecodable record is shown as a native's without an address."""
        await self._client.connected()
        listing = asyncio.ensure_future(identity.listing(self._client, self._tree))
        services: dict[ServiceName, dict[str, Entry]] = {}
        loose: dict[ServiceName, dict[str, Version]] = {}
        classes: Classes = {} if names is None else {name: {} for name in names}
        if names is None:
            folders = self._tree.everything()
        else:
            folders = self._tree.folders(dict.fromkeys(self._tree.folder_of(name) for name in names))
        try:
            async with aclosing(folders):
                async for folder in folders:
                    self._learn(folder)
                    if folder.denied:
                        services.setdefault(self._tree.name_at(folder.path), {}).update(_unlisted(folder))
                    for key, pair in folder.pairs.items():
                        place = self._tree.mapping.locate(key)
                        if place is not None and (names is None or place[0] in names):
                            self._sort(key, *place, pair, services, loose)
                            self._classify(place[0], pair, classes)
            self._classes = classes if names is None else self._classes | classes
            return Held((await listing).identity, services, loose)
        except Expired as error:
            raise Unavailable(f"the list was cut short: {error}") from None
        finally:
            listing.cancel()
            await asyncio.gather(listing, return_exceptions=True)

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """See `Sink.apply`: a transaction holds many changes, and several transactions are in flight."""
        term = writing(ZooKeeperTerm, self._bridge, term)
        outcomes = Outcomes(changes)
        steps: list[Step] = []
        for change in sorted(changes, key=turn):
            try:
                if change.ttl is not None and not term.leases:
                    raise Rejected(SHARED)
                steps.append(self._step(change))
            except IsthmusError as error:
                outcomes.fail(change, error)
        try:
            if any(each.change.ttl is not None for each in steps):
                await self._lease()
            sound: list[Step] = []
            for each, fine in zip(steps, await self._stand(steps), strict=True):
                if fine:
                    sound.append(each)
                else:
                    outcomes.put(failed(each, Conflict("it is not what it was")))
            adds = [each for each in sound if each.change.after is not None]
            for some in (adds, sound[len(adds) :]):
                outcomes.put(*await self._make(term, some))
        except Expired as error:
            raise Superseded(f"the lock of {self._bridge} went with the session: {error}") from None
        except IsthmusError as error:
            if isinstance(error, Superseded):
                raise
            outcomes.fail_others(error)
        return outcomes.in_order()

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """See `Sink.drift`. The empty set when the watch has begun, and again after each gap."""
        stop = self._client.listen(self._drift)
        self._drift.stale = True
        try:
            while True:
                with contextlib.suppress(Disconnected):
                    if self._drift.stale:
                        await self._client.connected()
                        self._drift.begin()
                        await self._client.watch(self._tree.root, self._tree.ledger)
                        yield frozenset()
                    await self._drift.wait()
                    await self._client.exists(self._tree.root)  # all events of a transaction arrive before this answer
                    if names := self._drift.take():
                        yield names
        finally:
            stop()

    async def prepare(self) -> list[Acl]:
        """Called before the lock is acquired: creates the roots. Returns the ACL of nodes below `/isthmus`."""
        for path in (self._tree.root, self._tree.ledger):
            await acl.ensure(self._client, path)
        entries, proofs = [await acl.inherited(self._client, path) for path in (self._tree.root, self._tree.ledger)]
        self._rights = Rights(entries, proofs)
        await identity.give(self._client, proofs)
        return proofs

    async def inherit(self, term: ZooKeeperTerm) -> None:
        """Called with the lock: moves entries that would die with an earlier writer's session to ours."""
        if await self._client.get(self._lock) != LEASED:
            return
        await self._lease()
        session = self._client.session
        steps: list[Step] = []
        async with aclosing(self._tree.everything()) as folders:
            async for folder in folders:
                for key, pair in folder.pairs.items():
                    place = self._tree.mapping.locate(key)
                    old = version(key, pair)
                    mine = pair.ours and self._is_ours(pair.proof)
                    if place is None or old is None or old.owner in (0, session) or not mine:
                        continue
                    ops = moved(self._tree, key, old, pair, self._rights, session)
                    steps.append(Step(Change(*place), key, ops, None))
        await self._make(term, steps)

    # Reading.

    def _learn(self, folder: Folder) -> None:
        """Notes which folders exist, for later writes."""
        for is_there, root in zip(folder.stands, (self._tree.root, self._tree.ledger), strict=True):
            path = f"{root}/{folder.path}"
            while path != root:
                (self._standing.add if is_there else self._standing.discard)(path)
                path = path.rpartition("/")[0]

    def _classify(self, name: ServiceName, pair: Pair, classes: Classes) -> None:
        """Notes the classes of others' payloads, for later writes."""
        entry, proof = pair.entry, pair.proof
        if self._tree.layout.shared and entry is not None and not self._is_ours(proof):
            with contextlib.suppress(Undecodable):
                said, texts = curator_record.payload(entry.value)
                known = classes.setdefault(name, {})
                known[said] = known.get(said, frozenset()) | texts

    def _sort(
        self,
        key: str,
        name: ServiceName,
        id: str,
        pair: Pair,
        services: dict[ServiceName, dict[str, Entry]],
        loose: dict[ServiceName, dict[str, Version]],
    ) -> None:
        entry, proof = pair.entry, pair.proof
        if entry is not None or pair.denied:
            record = self._tree.record(key, name, id, pair)
            services.setdefault(name, {})[id] = assembly.entry(id, record, version(key, pair), ledgered=pair.ours)
        if proof is not None and not pair.ours and self._is_ours(proof):
            loose.setdefault(name, {})[id] = Version(kept(key), proof.mzxid, -1, proof.version)

    def _is_ours(self, proof: Node | None) -> bool:
        mark = ledger.decode(proof.value) if proof is not None else None
        return mark is not None and mark.owner == self._bridge

    # Writing.

    def _step(self, change: Change) -> Step:
        made = step(self._tree, self._bridge, change, self._rights, self._client.session)
        theirs = self._classes.get(change.service)
        if theirs and change.after is not None:
            value = next(op.value for op in made.ops if isinstance(op, SetData))
            _judge(
                f"{self._tree.root}/{self._tree.folder_of(change.service)}", curator_record.payload_class(value), theirs
            )
        return made

    async def _stand(self, steps: Sequence[Step]) -> list[bool]:
        """Whether the entry that each step replaces or removes is still there."""
        pairs, _ = await self._tree.pairs([each.key for each in steps if each.change.before is not None])
        return [each.change.before is None or stands(each, pairs[each.key]) for each in steps]

    async def _make(self, term: ZooKeeperTerm, steps: Sequence[Step]) -> list[Outcome]:
        """Sends steps. Where one change makes a transaction fail, all of them are sent once more, each by itself."""
        outcomes: list[Outcome] = []
        again: list[Step] = []
        for some, result in await self._send(term, list(in_portions(steps)), folders=True):
            if isinstance(result, int):
                outcomes += [done(each, result) for each in some]
            elif isinstance(result, IsthmusError):
                outcomes += [failed(each, result) for each in some]
            else:
                again += some
        if again:
            self._standing.difference_update(path for each in again for path, _ in self._folders(each))
            refused = await self._restore(term, again)
            pairs, _ = await self._tree.pairs([each.key for each in again])
            alone: list[Step] = []
            for each in again:
                error = next((refused[path] for path, _ in self._folders(each) if path in refused), None)
                if error is None:
                    alone.append(over(each, pairs[each.key], self._tree.ledger))
                else:
                    outcomes.append(failed(each, error))
            for (each,), result in await self._send(term, [[each] for each in alone], folders=False):
                outcomes.append(done(each, result) if isinstance(result, int) else failed(each, result))
        return outcomes

    async def _send(
        self, term: ZooKeeperTerm, groups: Sequence[Sequence[Step]], *, folders: bool
    ) -> list[tuple[Sequence[Step], int | Exception]]:
        """One transaction for each group, all under way at once and made in this order: its number, or the error.

        Raises Superseded where the lock is gone.
        """
        sent: list[tuple[Sequence[Step], list[str], asyncio.Future[Answer]]] = []
        for group in groups:
            made = [self._folder(path, flags) for path, flags in self._missing(group)] if folders else []
            events = [op.path for each in group for op in each.ops]
            self._drift.expect(events)
            packed = self._client.pack([*term.fence, *made, *(op for each in group for op in each.ops)])
            sent.append((group, events, self._client.multi(packed)))
        try:
            answers = await asyncio.gather(*(answer for _, _, answer in sent), return_exceptions=True)
        finally:
            for _, events, _ in sent:
                self._drift.forget(events)
        return [(group, self._result(term, answer)) for (group, _, _), answer in zip(sent, answers, strict=True)]

    def _result(self, term: ZooKeeperTerm, answer: Answer | BaseException) -> int | Exception:
        if isinstance(answer, Answer):
            if not answer.value:
                return answer.zxid
            (failure,) = answer.value
            if not superseded(term.fence, failure):
                return cast(Exception, failure.error)
            term.lose()
            raise Superseded(f"the lock of {self._bridge} is not ours any more")
        if isinstance(answer, Expired):
            raise Superseded(f"the lock of {self._bridge} went with the session: {answer}")
        if isinstance(answer, Exception):
            return answer
        raise answer

    def _folders(self, one: Step) -> list[tuple[str, int]]:
        """The nodes that a new entry and its ledger node need, topmost first, with the operations that create them."""
        if one.after is None or (one.change.before is not None and one.change.before.version.proof >= 0):
            return []
        steps = one.key.split("/")[:-1]
        below = ["/".join(steps[: n + 1]) for n in range(len(steps))]
        entries = [(f"{self._tree.root}/{path}", self._tree.layout.folder) for path in below]
        return entries + [(f"{self._tree.ledger}/{path}", wire.CONTAINER) for path in below]

    def _missing(self, group: Sequence[Step]) -> list[tuple[str, int]]:
        """Creations of folders that are not known to exist; from now on they are, for transactions are ordered."""
        missing = [(path, flags) for each in group for path, flags in self._folders(each) if path not in self._standing]
        self._standing.update(path for path, _ in missing)
        return list(dict.fromkeys(missing))

    def _folder(self, path: str, flags: int) -> Create:
        ours = path.startswith(f"{self._tree.ledger}/")
        return Create(path, b"", self._rights.proofs if ours else self._rights.entries, flags)

    async def _restore(self, term: ZooKeeperTerm, steps: Sequence[Step]) -> dict[str, Exception]:
        """Creates the folders of new entries, each by itself: some may exist, and empty containers are removed.

        Returns those that cannot be created, with the reason.
        """
        missing = self._missing(steps)
        answers = [self._client.multi(self._client.pack([*term.fence, self._folder(*folder)])) for folder in missing]
        refused: dict[str, Exception] = {}
        for (path, _), answer in zip(missing, await asyncio.gather(*answers, return_exceptions=True), strict=True):
            result = self._result(term, answer)
            if not isinstance(result, int | NodeExistsError):
                self._standing.discard(path)
                refused[path] = result
        return refused

    async def _lease(self) -> None:
        """Has this session, with which leased entries die, outlive this process, and marks it as such."""
        await self._client.connected()
        if self._leased != self._client.session:
            self._leased = self._client.session
            self._client.carry()
            await self._client.set(self._lock, LEASED)


def _unlisted(folder: Folder) -> dict[str, Entry]:
    """Entries in a folder that we may not list: they count as others', by id where there is a ledger node."""
    marked = {id: assembly.entry(id, None, None, ledgered=True) for id in folder.proofs}
    return {assembly.EVERY: assembly.entry(assembly.EVERY, None, None, ledgered=False), **marked}


def _dressed(instance: Instance, payload: str | None, theirs: Mapping[str | None, frozenset[str]]) -> Instance:
    """With the payload of the configuration; else as Curator wrote it; else with that of others' records."""
    if payload is not None:
        return curator.dressed(instance, {"none": None, "map": curator_record.MAP}.get(payload, payload))
    if curator.NAME in instance.native or theirs.keys() & {curator_record.SPRING, curator_record.DUBBO}:
        return instance
    classes = [said for said in theirs if said is not None]
    if len(classes) != 1:
        return curator.dressed(instance, None)
    (said,) = classes
    return curator.dressed(instance, said, None if said == curator_record.MAP else theirs[said])


def _judge(folder: str, ours: str | None, theirs: Collection[str | None]) -> None:
    """Raises Rejected where readers of others' records would fail over ours, or the other way round.

    Readers of one class fail over any other class, and Dubbo's also over a record without a payload.
    """
    for other in theirs:
        if ours != other and (curator_record.DUBBO in (ours, other) or None not in (ours, other)):
            raise Rejected(f"{folder} holds payload class {other or 'none'}, and this record has {ours or 'none'}")
