"""Writes some shards of one destination, as a member of a group (ADR 41).

The group assigns each shard to a member; the lock of the shard decides who may write it. `bridge.group.steps` decides
what to do about each shard; this module does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bridge.adapter import Change, Entry, Term
from bridge.destination.apply import Batch
from bridge.destination.events import Events, Happened
from bridge.destination.leading import NO_TURNS, Parts, Share, Turns
from bridge.destination.reserves import Reserves
from bridge.destination.waiting import first
from bridge.destination.writer import Peers, Role, Writer
from bridge.errors import IsthmusError, Superseded
from bridge.group.sharding import Sharding
from bridge.group.steps import Facts, Step, step
from bridge.model import ServiceName
from bridge.shards import Divided, Membership, Shards, ShardTerm

log = logging.getLogger("isthmus.group")

AGAIN = 0.5  # seconds until the store, or the stream, is tried again after an error
LOOK = 0.05  # seconds between two checks whether scopes are listed, of which there is no notification
LOOKS = 0.25  # seconds between two checks for claims that get no answer
EVERY = 1.0  # seconds after which each shard is checked again, also without a notification
PROBE = 5.0  # seconds between two checks whether the store of the locks answers
PATIENCE = 1.5  # seconds that a claim stands before this member asks whether the holder is a member at all
UNREACHED = 30.0  # seconds without an answer from it after which this member leaves the group


class Sharing(NamedTuple):
    """What a destination with several writers needs. `seat`: its locks. `stream`: what it is written from.

    `group`: the name of its group, at the engine of the stream. `who`: the name of this process, for people.
    `read(shards)` has these shards of the stream read, and no others. `listed(scope)`: whether that scope, by its name
    at the stream, is listed and followed here, or is read by no link. `fenced`: each write compares the lock, since the
    seat is the destination's own.
    """

    seat: Shards
    stream: Divided
    group: str
    who: str
    read: Callable[[frozenset[int]], None]
    listed: Callable[[str], bool]
    fenced: bool


class Shard:
    """One shard, as this member knows it. `term`: our term, while its lock is ours, else None.

    `taken_up`: the planner knows that the lock is ours. `handing`: the shard is being handed over. `claimed`: another
    member has a claim on it. `asks`: how, and in which assignment, this member waits for the lock; None: it does not.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.term: ShardTerm | None = None
        self.taken_up = False
        self.handing = False
        self.claimed = False
        self.whole = 0  # the assignment in which it was read to its end
        self.asks: tuple[Step, int] | None = None
        self.since = 0.0  # when it was asked for so
        self.trouble = ""  # the last error
        self.waits = False  # whether removals had to wait at the last check
        self.cares: float | None = None  # since when this member is only its caretaker
        self.over = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[None]] = {}


class Group:
    """What this process writes as one of several members; see `bridge.destination.leading.Leading`.

    `answered(term)` returns when no write under that term is under way. `wake()` is called when the planner has to look
    at `turns`.
    """

    before: Writer | None = None
    is_following = False
    another_writes = False

    def __init__(
        self,
        destination: str,
        sharing: Sharing,
        sharding: Sharding,
        peers: Peers | None,
        events: Events,
        clock: Callable[[], float],
        reserves: Reserves,
        *,
        answered: Callable[[Term], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self.seat = sharing.seat
        self.peers = peers
        self.fault = ""  # why this process is not a member, "" if it is
        self.undivided = False
        self.role = Role.STARTING
        self.shards: dict[int, Shard] = {}
        self.membership: Membership | None = None
        self._destination = destination
        self._sharing = sharing
        self._sharding = sharding
        self._events = events
        self._clock = clock
        self._reserves = reserves
        self._answered = answered
        self._wake = wake
        self._turn = asyncio.Event()  # each change here sets it, and replaces it by another one
        self._leaving = False
        self._begun: dict[int, bool] = {}  # whether another process may have written the shard until now
        self._ended: set[int] = set()
        self._unread: set[int] = set()
        self._read: frozenset[int] = frozenset()
        self._round = 0  # how often this process became a member

    # -- what may be written -----------------------------------------------------------------------------------------

    @property
    def term(self) -> Term | None:
        """See `Leading.term`: None, since no process writes all of it."""
        return None

    @property
    def writes(self) -> bool:
        """See `Leading.writes`: whether it writes any shard."""
        return any(one.term is not None for one in self.shards.values())

    @property
    def group(self) -> str:
        """The name of the group, at the engine of the stream."""
        return self._sharing.group

    @property
    def who(self) -> str:
        """The name of this process, in the group and in the locks."""
        return self._sharing.who

    @property
    def share(self) -> Share:
        """See `Leading.share`."""
        writes = frozenset(number for number, one in self.shards.items() if one.term is not None)
        asks = {number: one.asks[0] for number, one in self.shards.items() if one.asks is not None and not one.term}
        return Share(
            of=self._sharing.stream.shards,
            writes=writes,
            should=self._should(),
            cares=frozenset(number for number in writes if self.waits_in(number)),
            claims=frozenset(number for number, how in asks.items() if how is Step.CLAIM),
            waits=frozenset(number for number, how in asks.items() if how is Step.TAKE),
            fault=self.fault or (self.membership.fault if self.membership is not None else ""),
            undivided=self.undivided,
            cared=max(
                (self._clock() - one.cares for one in self.shards.values() if one.cares is not None), default=0.0
            ),
        )

    @property
    def terms(self) -> dict[int, ShardTerm]:
        """Our terms, by shard."""
        return {number: one.term for number, one in self.shards.items() if one.term is not None}

    def shard_of(self, name: ServiceName) -> int:
        """See `Leading.shard_of`."""
        return self._sharding.of(name)

    def parts(self, names: Sequence[ServiceName]) -> Parts:
        """See `Leading.parts`: this process plans what it writes."""
        mine: dict[int, list[ServiceName]] = {}
        others: list[ServiceName] = []
        for name in names:
            shard = self._sharding.of(name)
            if self.writes_in(shard):
                mine.setdefault(shard, []).append(name)
            else:
                others.append(name)
        return Parts(mine, others)

    def term_in(self, shard: int) -> Term | None:
        """See `Leading.term_in`."""
        one = self.shards.get(shard)
        return one.term if one is not None and one.taken_up else None

    def writes_in(self, shard: int) -> bool:
        """See `Leading.writes_in`."""
        one = self.shards.get(shard)
        return one is not None and one.taken_up and one.term is not None and not one.handing

    def waits_in(self, shard: int) -> str:
        """See `Leading.waits_in`: a caretaker removes nothing."""
        member = self.membership
        if member is None or self._leaving or shard not in member.should:
            return f"shard {shard} is for another member of the group to write, and nobody has claimed it yet"
        if member.away:
            return "the group has not been heard for a session"
        one = self.shards.get(shard)
        is_whole = one is not None and one.whole == self._assignment(one)
        return "" if is_whole else f"shard {shard} has not been read to its end since it was assigned"

    def writes_at(self, name: ServiceName) -> bool:
        """See `Leading.writes_at`."""
        return self.writes_in(self._sharding.of(name))

    def follows(self, name: ServiceName) -> bool:
        """See `Leading.follows`: services of shards that this process writes, or is about to write."""
        return self._sharding.of(name) in self._read

    def elsewhere(self, name: ServiceName, entries: Mapping[str, Entry]) -> int | None:
        """See `Leading.elsewhere`. Entries of several shards have to be known to the writer of each of them."""
        shards = self._sharding.all(name, entries)
        return shards[0] if self._read.isdisjoint(shards) else None

    def notices(self, name: ServiceName) -> bool:
        """See `Leading.notices`: each member counts in its own shards, once it has read them."""
        shard = self._sharding.of(name)
        return shard not in self._unread and self.writes_in(shard)

    def turns(self) -> Turns:
        """See `Leading.turns`."""
        if not (self._begun or self._ended):
            return NO_TURNS
        stale = (number for number, is_stale in self._begun.items() if is_stale)
        found = Turns(frozenset(self._begun), frozenset(self._ended), frozenset(stale))
        self._begun.clear()
        self._ended.clear()
        for number in found.begun:
            self._reserves.recall(number)
            self.shards[number].taken_up = self.shards[number].term is not None
        self._unread |= found.begun
        return found

    def unread(self) -> frozenset[int]:
        """See `Leading.unread`."""
        return frozenset(self._unread)

    def was_read(self, shards: frozenset[int], *, whole: bool) -> None:
        """See `Leading.was_read`."""
        for shard in self._unread & shards:
            self._unread.discard(shard)
            self._reserves.was_read(shard)

    async def reserved(self, batch: Batch) -> list[Change]:
        """See `Leading.reserved`."""
        return await self._reserves.allowed(batch)

    def supersede(self, term: Term | None) -> None:
        """See `Leading.supersede`."""
        for one in self.shards.values():
            if one.term is term and term is not None:
                one.over.set()

    def observe(self) -> None:
        """See `Leading.observe`."""
        self.role = Role.OBSERVING

    # -- being a member ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """See `Leading.run`. Never returns; raises Unavailable or Denied before anything is written."""
        self.role, self._leaving = Role.STANDBY, False
        try:
            await self._divided()
            if self.peers is not None:
                await self.peers.inherit()
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._be_member())
                tasks.create_task(self._conduct())
                tasks.create_task(self._reserves.run())
                if self.seat.ousts and self._sharing.fenced:
                    tasks.create_task(self._look_after_claims())
        finally:
            self.membership = None
            self.shards = {}
            self._have_read()

    async def leave(self, patience: float) -> None:
        """See `Leading.leave`: this member stays the caretaker of each shard until another one claims it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                is_alone = await self._is_alone()
                self._leaving = True
                self._changed()
                while self.writes and not is_alone:
                    await self._turn.wait()

    async def _is_alone(self) -> bool:
        """Whether there is no other member to take over, as far as the group knows."""
        try:
            members = await self.membership.members() if self.membership is not None else ()
        except IsthmusError:
            return False
        return all(one.who == self._sharing.who for one in members)

    def _changed(self) -> None:
        """Something here has changed: every shard is checked again."""
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    async def _divided(self) -> None:
        """Returns once the destination is divided into the same number of shards as the stream."""
        while self.fault_of(await self.seat.divided()):
            await asyncio.sleep(EVERY)

    def fault_of(self, count: int | None) -> str:
        """Why a destination of that many shards cannot be written here, "" if it can. Keeps the reason in `fault`."""
        shards = self._sharing.stream.shards
        self.undivided = count != shards
        if count is None:
            self.fault = f"{self._destination} is not divided, so its members cannot share it"
        elif count != shards:
            self.fault = f"{self._destination} is divided into {count} shards, the stream into {shards}"
        else:
            self.fault = ""
        return self.fault

    async def _be_member(self) -> None:
        """Never returns. Is a member of the group, but not while the store of the locks is out of reach."""
        while True:
            self._round += 1
            member = self.membership = self._sharing.stream.membership(self._sharing.group, self._sharing.who)
            try:
                await first(member.run(), self._hear(member), self._until_leaving(), self._unreached())
            except IsthmusError as error:
                self.fault = str(error)
                log.warning("no member destination=%s reason=%r", self._destination, self.fault)
                await asyncio.sleep(AGAIN)
            finally:
                self._changed()
            if self._leaving:
                await asyncio.Event().wait()
            await self._reached()

    async def _until_leaving(self) -> None:
        while not self._leaving:
            await self._turn.wait()

    async def _hear(self, member: Membership) -> None:
        while True:
            change = asyncio.ensure_future(member.changed())
            await asyncio.sleep(0)  # lets it begin to listen, so that no change is missed
            self._changed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await change

    async def _unreached(self) -> None:
        """Returns when the store of the locks has not answered for `UNREACHED`."""
        answered = self._clock()
        while self._clock() - answered < UNREACHED:
            await asyncio.sleep(PROBE)
            if await self._answers():
                answered = self._clock()
        self.fault = "the store of the locks does not answer: the group gives its shards to others"
        log.warning("left destination=%s group=%s reason=%r", self._destination, self._sharing.group, self.fault)

    async def _reached(self) -> None:
        while not await self._answers():
            await asyncio.sleep(PROBE)

    async def _answers(self) -> bool:
        """Whether the store answers, and the destination is divided into the same number of shards as the stream."""
        try:
            async with asyncio.timeout(PROBE):
                return not self.fault_of(await self.seat.divided())
        except (IsthmusError, TimeoutError):
            return False

    # -- each shard --------------------------------------------------------------------------------------------------

    async def _conduct(self) -> None:
        """Never returns. Starts one loop for each shard that this member is assigned."""
        while True:
            turn = self._turn
            for number in self._should():
                if number not in self.shards:
                    one = self.shards[number] = Shard(number)
                    self._tasks.create_task(self._follow(one))
            self._have_read()
            await turn.wait()

    def _should(self) -> frozenset[int]:
        member = self.membership
        return member.should if member is not None and not self._leaving else frozenset()

    def _have_read(self) -> None:
        """Has those shards read that this member writes, or is about to write."""
        needed = self._should() | {number for number, one in self.shards.items() if one.term or one.asks}
        if needed != self._read:
            self._read = needed
            self._sharing.read(needed)

    def _assignment(self, one: Shard) -> int:
        """The number of the current assignment of a shard; two memberships never have the same numbers."""
        return self._round << 32 | (self.membership.assignment(one.number) if self.membership is not None else 0)

    def _facts(self, one: Shard) -> Facts:
        now = self._assignment(one)
        return Facts(
            should=one.number in self._should(),
            away=self.membership is None or self.membership.away,
            holds=one.term is not None,
            claimed=one.claimed,
            whole=one.whole == now,
            late=one.asks is not None and one.asks[1] != now,
        )

    async def _follow(self, one: Shard) -> None:
        """Never returns. After each change, does what `step` decides for this shard."""
        actions = {
            Step.CLAIM: self._ask,
            Step.TAKE: self._ask,
            Step.WITHDRAW: self._withdraw,
            Step.KEEP: self._keep,
            Step.CARE: self._keep,
            Step.HAND_OVER: self._hand_over,
        }
        while True:
            turn = self._turn
            facts = self._facts(one)
            if facts.should and not facts.whole:
                self._run(one, "picture", self._complete(one))
            now = step(facts)
            one.cares = (one.cares or self._clock()) if now in (Step.CARE, Step.HAND_OVER) else None
            waits = bool(self.waits_in(one.number))
            if one.waits and not waits and one.term is not None:
                self._resume(one)  # removals that waited are planned now
            one.waits = waits
            await actions[now](one, now)
            await turn.wait()

    def _run(self, one: Shard, what: str, work: Any) -> None:
        """Starts a task for a shard, unless it already runs."""
        task = one.tasks.get(what)
        if task is not None and not task.done():
            work.close()
            return
        one.tasks[what] = self._tasks.create_task(work)

    async def _keep(self, one: Shard, now: Step) -> None:
        """Nothing is to be done about the lock. Whether removals are allowed, the planner learns from `waits_in`."""

    async def _ask(self, one: Shard, now: Step) -> None:
        """Waits for the lock, with a claim or without. A wait of the other kind is ended first."""
        if one.asks is not None and one.asks[0] is now:
            return
        await self._withdraw(one, now)
        if one.term is None and step(self._facts(one)) is now:
            one.asks, one.since = (now, self._assignment(one)), self._clock()
            self._run(one, "lock", self._tenure(one, claim=now is Step.CLAIM))

    async def _withdraw(self, one: Shard, now: Step) -> None:
        task = one.tasks.get("lock")
        if one.asks is not None and one.term is None and task is not None:
            task.cancel()
            await asyncio.wait((task,))
        if one.term is None:
            one.asks = None
            self._have_read()

    async def _tenure(self, one: Shard, *, claim: bool) -> None:
        """Waits for the lock of a shard, and keeps it until it is lost or handed over."""
        sharing = self._sharing
        try:
            async with self.seat.take(one.number, sharing.stream.shards, sharing.who, claim=claim) as term:
                await self._reserves.enter(one.number)
                self._begin(one, term)
                try:
                    await first(term.ended(), one.over.wait())
                finally:
                    self._end(one)
        except IsthmusError as error:
            self._trouble(one, "without a lock", error)
            await asyncio.sleep(AGAIN)
        finally:
            one.asks = None
            self._changed()

    def _trouble(self, one: Shard, what: str, error: Exception) -> None:
        """Logs an error once, however often it repeats."""
        if one.trouble != str(error):
            one.trouble = str(error)
            log.warning("%s destination=%s shard=%d reason=%r", what, self._destination, one.number, one.trouble)

    def _begin(self, one: Shard, term: ShardTerm) -> None:
        one.term, one.over, one.claimed, one.trouble = term, asyncio.Event(), False, ""
        self._begun[one.number] = term.taken_over
        self._ended.discard(one.number)
        self._run(one, "claims", self._watch_claims(one, term))
        self.role = Role.WRITER
        log.info("writes destination=%s shard=%d", self._destination, one.number)
        self._events.tell(Happened("writer", {"destination": self._destination, "shard": one.number}))
        self._wake()
        self._changed()

    def _end(self, one: Shard) -> None:
        one.term, one.taken_up, one.claimed, one.handing = None, False, False, False
        self._begun.pop(one.number, None)
        self._reserves.forget(one.number)
        self._unread.discard(one.number)
        self._ended.add(one.number)
        self.role = Role.WRITER if self.writes else Role.STANDBY
        log.info("ends destination=%s shard=%d", self._destination, one.number)
        self._events.tell(Happened("standby", {"destination": self._destination, "shard": one.number}))
        self._wake()

    async def _watch_claims(self, one: Shard, term: ShardTerm) -> None:
        """Returns when another member claims the shard, and records that."""
        while one.term is term:
            try:
                await first(term.claimed(), term.ended())
                one.claimed = one.term is term
                break
            except IsthmusError:
                await asyncio.sleep(AGAIN)
        self._changed()

    async def _hand_over(self, one: Shard, now: Step) -> None:
        """Waits for the writes that are under way, and hands the lock over to the oldest claim."""
        term = one.term
        assert term is not None
        if one.over.is_set():
            return  # it is given already, and the task that held it has yet to end
        one.handing = True
        try:
            await self._answered(term)
            await self._reserves.leave(one.number)
            if await self.seat.hand_over(term):
                one.over.set()
                return
            one.claimed = False  # the claim was withdrawn
            self._run(one, "claims", self._watch_claims(one, term))
            self._resume(one)
        except Superseded:
            one.over.set()
        except IsthmusError as error:
            self._trouble(one, "not handed over", error)
            self._resume(one)
            await asyncio.sleep(AGAIN)
            self._changed()

    def _resume(self, one: Shard) -> None:
        """The shard stays ours: has everything planned that was not planned meanwhile."""
        one.handing = False
        self._begun[one.number] = False
        self._wake()

    async def _look_after_claims(self) -> None:
        """Never returns: takes over from who answers no claim and is no member any more.

        Who is alive answers a claim at once, whether the group knows it or not.
        """
        while True:
            await asyncio.sleep(LOOKS)
            late = [number for number, one in self.shards.items() if self._waits_for_long(one)]
            if not late or self.membership is None or self.membership.away:
                continue
            with contextlib.suppress(IsthmusError):  # asked again a moment later
                members = {one.who for one in await self.membership.members()}
                standing = await self.seat.standing()
                holders = {number: standing[number].holder for number in late if number in standing}
                gone = {number: who for number, who in holders.items() if who and who not in members}
                for number, who in gone.items() if self._sharing.who in members else ():
                    log.warning("ousts destination=%s shard=%d who=%s", self._destination, number, who)
                    await self.seat.oust(number, who)

    def _waits_for_long(self, one: Shard) -> bool:
        is_claimed = one.asks is not None and one.asks[0] is Step.CLAIM
        return is_claimed and one.term is None and self._clock() - one.since > PATIENCE

    async def _complete(self, one: Shard) -> None:
        """Returns once the shard was read to its end since it was assigned. Only then this member may claim it."""
        now = self._assignment(one)
        while one.whole != now and one.number in self._should():
            try:
                scopes = await self._sharing.stream.caught_up(one.number)
                while not all(map(self._sharing.listed, scopes)):
                    await asyncio.sleep(LOOK)
                if self._assignment(one) == now:
                    one.whole = now
            except IsthmusError as error:
                self._trouble(one, "unread", error)
                await asyncio.sleep(AGAIN)
            now = self._assignment(one)
        self._changed()
