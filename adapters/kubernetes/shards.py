"""The locks of shards in Kubernetes: a Lease each, and one for each process, which it renews and puts its claims at.

A lock is held as long as the Lease of its process is there: who has seen that one silent for its whole time deletes it,
by its resourceVersion, so that it cannot be renewed any more. The server has no transaction over two objects: a claim
that is withdrawn just then has the lock for a moment, and its process gives it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from math import inf

import msgspec

from adapters.common.shards import Claim, Lot, OfShard, Picture, Wish, count_of
from adapters.common.term import LeasedTerm
from adapters.kubernetes.lease import (
    KIND,
    LOCK_TTL,
    MEMBER,
    PART,
    PATIENCE,
    POLL,
    SHARDS,
    Fence,
    Lease,
    LeaseTerm,
    Lock,
    kept,
    taken,
    time_of,
)
from adapters.kubernetes.notes import note_of, noted
from adapters.kubernetes.watching import Changed, Everything
from bridge.adapter import Note
from bridge.errors import Conflict, IsthmusError
from mappings.common.slice_entry import digest
from mappings.kubernetes import revision

CLAIMS = "isthmus.io/claims"  # an annotation of a process's Lease: what it claims, since when and as whom
WHO = "isthmus.io/who"  # an annotation of a shard's Lease: the holder's name for people
CLOSING = "0"  # what SHARDS says while it is looked whether anybody holds a shard: nobody takes one
LOOK = 1.0  # seconds between looks whether a process is silent for too long


class _Wanted(msgspec.Struct, frozen=True):
    """A claim, as it stands in CLAIMS by the number of its shard."""

    since: str
    who: str


_CLAIMS = msgspec.json.Decoder(dict[int, _Wanted])


class LeaseLife(LeasedTerm[str]):
    """The Lease that the locks and claims of this process end with."""

    def __init__(self, lease: Lease, since: float) -> None:
        super().__init__(lease.metadata.name, since, LOCK_TTL)
        self.lease = lease
        self.claims: dict[int, _Wanted] = {}
        self.turn = asyncio.Lock()  # one change of the Lease at a time

    @property
    def id(self) -> str:
        """The name of that Lease."""
        return self.fence


class LeaseShardTerm(OfShard, LeaseTerm):
    """The time during which the lock of a shard is ours, at the latest until our own Lease may have been deleted."""

    def __init__(self, fence: Fence, life: LeaseLife, wish: Wish, at: int) -> None:
        super().__init__(fence, 0)
        self.wish = wish
        self.version = fence.transitions
        self._at = at
        self._life = life

    @property
    def at(self) -> int:
        """The revision at which it was seen to be ours."""
        return self._at

    @property
    def until(self) -> float:
        """See `Term.until`."""
        return -inf if self.over else self._life.until


class _Silence:
    """For how long each of some Leases has not been renewed, by our own clock alone."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Lease, float]] = {}
        self._renewed: set[str] = set()

    def heard(self, lease: Lease) -> None:
        """As it is now."""
        name = lease.metadata.name
        before, since = self._seen.get(name, (None, 0.0))
        if before is None or before.spec.renew_time != lease.spec.renew_time:
            since = asyncio.get_running_loop().time()
        if before is not None and before.spec.renew_time != lease.spec.renew_time:
            self._renewed.add(name)
        self._seen[name] = lease, since

    def forget(self, name: str) -> None:
        """It is gone."""
        self._seen.pop(name, None)

    def is_renewed(self, name: str) -> bool:
        """Whether that has been seen."""
        return name in self._renewed

    def ended(self) -> list[Lease]:
        """Those that were silent for their whole time."""
        now = asyncio.get_running_loop().time()
        return [one for one, since in self._seen.values() if now - since >= one.spec.lease_duration_seconds]


class LeaseArea:
    """The shards of one seat, by Lease; see `adapters.common.shards.Area`."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._leases = lock.leases
        self._seat = digest(lock.name, 8)

    async def divided(self) -> int | None:
        """See `Shards.divided`."""
        return _count(await self._leases.get(self._lock.name))

    async def divide(self, count: int) -> None:
        """See `Shards.divide`. Who holds the whole renews its Lease while we look."""
        silence = _Silence()
        while True:
            whole = await self._leases.get(self._lock.name)
            if (stands := _count(whole)) == count:
                return
            if stands is not None:
                raise Conflict(f"the Lease {self._lock.name} says {stands} shards")
            if whole is not None and whole.spec.holder_identity:
                silence.heard(whole)
                if silence.is_renewed(self._lock.name):
                    raise Conflict(f"a process holds the lock of the whole (Lease {self._lock.name})")
            if whole is None or not whole.spec.holder_identity or silence.ended():
                with contextlib.suppress(Conflict):
                    await self._say(whole, str(count))
            else:
                await asyncio.sleep(POLL)

    async def unite(self) -> None:
        """See `Shards.unite`. Says that nobody may take a shard, looks whether anybody has, and only then unites.

        A process that died is waited for, for as long as its Lease lasts.
        """
        whole = await self._leases.get(self._lock.name)
        before = whole.metadata.annotations.get(SHARDS) if whole is not None else None
        if whole is None or before is None:
            return
        await self._say(whole, CLOSING)
        try:
            await self._emptied()
        except BaseException:
            await self._say(await self._leases.get(self._lock.name), before)
            raise
        for lease in (await self._leases.of_seat(self._seat)).objects:
            if lease.metadata.labels[KIND] in PART.values():
                await self._leases.delete(lease)
        await self._say(await self._leases.get(self._lock.name), None)

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[LeaseLife]:
        """A Lease of our own, renewed inside."""
        lock, since = self._lock, asyncio.get_running_loop().time()
        name = f"{lock.name}.member-{secrets.token_hex(8)}"
        spec = taken(f"{socket.gethostname()}-{os.getpid()}", 1, lock.now())
        life = LeaseLife(await self._leases.create(name, MEMBER[lock.kind], lock.bridge, spec, self._seat), since)
        keeping = asyncio.create_task(kept(life, since, partial(self._renewed, life)))
        try:
            yield life
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            with contextlib.suppress(IsthmusError, TimeoutError):  # else others delete it, once it was silent
                async with asyncio.timeout(PATIENCE):
                    await self._leases.delete(await self._leases.get(name) or life.lease)

    async def follow(self, hear: Callable[[Picture], None]) -> None:
        """By a watch of all Leases; whose process is silent for too long is deleted."""
        found: dict[str, Lease] = {}
        silence = _Silence()

        async def told(word: Everything | Changed) -> None:
            if isinstance(word, Everything):
                found.update((one.metadata.name, one) for one in word.objects)
            elif word.object is not None and word.deleted:
                found.pop(word.object.metadata.name, None)
                silence.forget(word.object.metadata.name)
            elif word.object is not None:
                found[word.object.metadata.name] = word.object
            for one in found.values():
                if _is_member(one):
                    silence.heard(one)
            hear(self._picture(found.values(), revision(word.revision)))

        watching = asyncio.create_task(self._look_after(silence))
        try:
            await self._leases.follow(self._seat, told)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def look(self) -> Picture:
        """By a list that is read from the store."""
        found = await self._leases.of_seat(self._seat)
        return self._picture(found.objects, revision(found.revision))

    async def claim(self, life: LeaseLife, wish: Wish) -> int:
        """At our own Lease."""
        return await self._claiming(life, life.claims | {wish.shard: _Wanted(time_of(self._lock.now()), wish.who)})

    async def take(self, life: LeaseLife, wish: Wish) -> LeaseShardTerm | None:
        """Puts our name at the Lease, by its resourceVersion; then looks whether there still are as many shards.

        Whether nobody claims, cannot be compared: who claims just then has to wait for this lock.
        """
        try:
            lease = await self._taken(life, wish)
        except Conflict:
            return None
        if lease is None:
            return None
        if _count(await self._leases.get(self._lock.name)) != wish.count:
            await self.release(life, wish.shard)
            return None
        if wish.shard in life.claims:
            await self._claiming(life, {shard: one for shard, one in life.claims.items() if shard != wish.shard})
        fence = Fence(lease.metadata.name, life.id, lease.spec.lease_transitions)
        return LeaseShardTerm(fence, life, wish, revision(lease.metadata.resource_version))

    async def give(self, term: LeaseShardTerm, claim: Claim) -> bool:
        """Puts the claimant's name at the Lease, by its resourceVersion, if its claim stands."""
        lease = await self._leases.get(term.fence.lease)
        member = await self._leases.get(claim.life)
        if lease is None or member is None or term.wish.shard not in _claims(member):
            return False
        if (lease.spec.holder_identity, lease.spec.lease_transitions) != term.fence[1:]:
            return False
        try:
            await self._named(lease, claim.life, claim.who)
        except Conflict:
            return False
        return True

    async def release(self, life: LeaseLife, shard: int) -> None:
        """Takes our name from the Lease, and our claim from our own."""
        lease = await self._leases.get(self._name(shard))
        if lease is not None and lease.spec.holder_identity == life.id:
            await self._leases.patch(lease, {"holderIdentity": ""})
        if shard in life.claims:
            await self._claiming(life, {each: one for each, one in life.claims.items() if each != shard})

    async def notes(self) -> dict[int, Note]:
        """By a list that is read from the store."""
        parts = ((_shard(one), note_of(one)) for one in (await self._leases.of_seat(self._seat)).objects)
        return {shard: note for shard, note in parts if shard is not None and note is not None}

    async def note(self, content: bytes, before: Note | None, term: LeaseShardTerm) -> Note:
        """At the Lease of the shard: its holder is compared in the same write."""
        return await noted(self._lock, term.fence.lease, content, before, term)

    async def _say(self, whole: Lease | None, count: str | None) -> None:
        """Writes into how many shards the destination is divided. Raises Conflict."""
        lock = self._lock
        if whole is not None:
            await self._leases.patch(whole, annotations={SHARDS: count}, seat=self._seat)
        elif count is not None:
            await self._leases.create(lock.name, lock.kind, lock.bridge, {}, self._seat, **{SHARDS: count})

    async def _emptied(self) -> None:
        """Returns when nobody has a shard. Raises Conflict where a process that is alive has, or claims one."""
        silence = _Silence()
        while lots := self._picture(found := (await self._leases.of_seat(self._seat)).objects, 0).lots:
            lives = {life for lot in lots.values() for life in (lot.life, *(one.life for one in lot.claims))}
            for one in filter(_is_member, found):
                silence.heard(one)
            if any(silence.is_renewed(life) for life in lives):
                raise Conflict("a process holds the lock of a shard, or claims it")
            await self._end(silence)
            await asyncio.sleep(POLL)

    async def _look_after(self, silence: _Silence) -> None:
        while True:
            await asyncio.sleep(LOOK)
            await self._end(silence)

    async def _end(self, silence: _Silence) -> None:
        for lease in silence.ended():
            with contextlib.suppress(IsthmusError, TimeoutError):  # Conflict: it was renewed just now
                await self._leases.delete(lease)

    async def _renewed(self, life: LeaseLife) -> bool:
        """For `kept`. Raises Conflict where our Lease is gone: others have seen it silent for its whole time."""
        await self._changed(life, {})
        return True

    async def _claiming(self, life: LeaseLife, claims: Mapping[int, _Wanted]) -> int:
        """Says what we claim; the revision from which on that stands."""
        text = msgspec.json.encode({str(shard): one for shard, one in claims.items()}).decode()
        lease = await self._changed(life, {CLAIMS: text})
        life.claims = dict(claims)
        return revision(lease.metadata.resource_version)

    async def _changed(self, life: LeaseLife, annotations: Mapping[str, str | None]) -> Lease:
        """Changes our Lease, and renews it so. Raises Conflict where it is gone."""
        spec = {"renewTime": time_of(self._lock.now())}
        async with life.turn:
            try:
                life.lease = await self._leases.patch(life.lease, spec, annotations)
            except Conflict:  # an answer was lost, or it was deleted
                if (found := await self._leases.get(life.id)) is None:
                    raise
                life.lease = await self._leases.patch(found, spec, annotations)
        return life.lease

    async def _taken(self, life: LeaseLife, wish: Wish) -> Lease | None:
        """The Lease of a shard once our name is there, None: another's is, and lives. Raises Conflict."""
        lock, name = self._lock, self._name(wish.shard)
        lease = await self._leases.get(name)
        if lease is None:
            spec, kind = taken(life.id, 1, lock.now()), PART[lock.kind]
            return await self._leases.create(name, kind, lock.bridge, spec, self._seat, **{WHO: wish.who})
        holder = lease.spec.holder_identity
        if holder == life.id:
            return lease
        if holder and await self._leases.get(holder) is not None:
            return None
        return await self._named(lease, life.id, wish.who)

    async def _named(self, lease: Lease, life: str, who: str) -> Lease:
        spec = taken(life, lease.spec.lease_transitions + 1, self._lock.now())
        return await self._leases.patch(lease, spec, {WHO: who})

    def _picture(self, leases: Iterable[Lease], at: int) -> Picture:
        found = {one.metadata.name: one for one in leases}
        claims: dict[int, list[tuple[str, Claim]]] = {}
        for name, one in found.items():
            for shard, wanted in _claims(one).items():
                claims.setdefault(shard, []).append((wanted.since, Claim(name, wanted.who)))
        lots = {shard: Lot(claims=tuple(one for _, one in sorted(some))) for shard, some in claims.items()}
        for one in found.values():
            number, holder = _shard(one), one.spec.holder_identity
            if number is not None and holder in found:
                others = tuple(each for each in lots.get(number, Lot()).claims if each.life != holder)
                who = one.metadata.annotations.get(WHO, "?")
                lots[number] = Lot(holder, who, one.spec.lease_transitions, others)
        return Picture(_count(found.get(self._lock.name)), lots, at)

    def _name(self, shard: int) -> str:
        return f"{self._lock.name}.shard-{shard}"


def _count(whole: Lease | None) -> int | None:
    text = whole.metadata.annotations.get(SHARDS) if whole is not None else None
    return count_of(text.encode()) if text is not None and text != CLOSING else None


def _is_member(lease: Lease) -> bool:
    return lease.metadata.labels.get(KIND) in MEMBER.values()


def _claims(lease: Lease) -> dict[int, _Wanted]:
    text = lease.metadata.annotations.get(CLAIMS) if _is_member(lease) else None
    try:
        return _CLAIMS.decode(text) if text is not None else {}
    except msgspec.DecodeError:
        return {}


def _shard(lease: Lease) -> int | None:
    """The number of the shard that a Lease is of, None: of none."""
    number = lease.metadata.name.rpartition(".shard-")[2]
    return int(number) if lease.metadata.labels.get(KIND) in PART.values() and number.isdigit() else None
