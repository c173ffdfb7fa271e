"""The shards of one destination that this process writes, as a member of a group (ADR 41).

The group says who should write a shard, the lock of the shard says who may. What follows for each shard is decided by
`bridge.group.steps`; here it is asked, awaited and done.
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

AGAIN = 0.5  # seconds until the store, or the stream, is asked again after an error
LOOK = 0.05  # seconds between two looks at what nobody tells: scopes that are listed, writes that end
EVERY = 1.0  # seconds after which each shard is looked at again, whatever was told
PROBE = 5.0  # seconds between two looks at whether the store of the locks answers
UNREACHED = 30.0  # seconds without an answer of it after which this member leaves the group


class Sharing(NamedTuple):
    """What a destination with several writers is made of.

    `group`: the name of its group, at the engine of the stream. `who`: this process, for people. `read(shards)`: these
    shards of the stream are needed here. `listed(scope)`: whether that scope, by its name at the stream, is listed and
    followed here, or no link reads it.
    """

    seat: Shards
    stream: Divided
    group: str
    who: str
    read: Callable[[frozenset[int]], None]
    listed: Callable[[str], bool]


class Shard:
    """One shard, as this member knows it. `asks`: how its lock is asked for, in which assignment; None: it is not.

    `term`: its lock is ours. `taken_up`: whoever plans knows that. `handing`: it is being handed over.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.term: ShardTerm | None = None
        self.taken_up = False
        self.handing = False
        self.claimed = False
        self.whole = 0  # the assignment since which the picture was complete
        self.asks: tuple[Step, int] | None = None
        self.trouble = ""  # what went wrong last
        self.waits = False  # for removals, as it was seen last
        self.cares: float | None = None  # since when it is ours, and nothing may be removed
        self.over = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[None]] = {}


class Group:
    """What this process writes as one of several members; see `bridge.destination.leading.Leading`.

    `still(term)` returns when no write under that term is under way. `began(shard)` is called where another process
    may have written it until now, and `woken()` when whoever plans is to look at `turns`.
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
        still: Callable[[Term], Awaitable[None]],
        woken: Callable[[], None],
    ) -> None:
        self.seat = sharing.seat
        self.peers = peers
        self.fault = ""  # why this process is no member, "" if it is
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
        self._still = still
        self._woken = woken
        self._turn = asyncio.Event()  # is set, and another one made, with each change of anything here
        self._leaving = False
        self._begun: dict[int, bool] = {}  # and whether another process may have written it until now
        self._ended: set[int] = set()
        self._unread: set[int] = set()
        self._read: frozenset[int] = frozenset()
        self._round = 0  # how often this process became a member

    # -- what may be written -----------------------------------------------------------------------------------------

    @property
    def term(self) -> Term | None:
        """None: nobody writes all of it."""
        return None

    @property
    def writes(self) -> bool:
        """Whether any shard is written here."""
        return any(one.term is not None for one in self.shards.values())

    @property
    def group(self) -> str:
        """The name of the group, at the engine of the stream."""
        return self._sharing.group

    @property
    def who(self) -> str:
        """This process, as members and locks name it."""
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
        """The locks that are ours, by shard."""
        return {number: one.term for number, one in self.shards.items() if one.term is not None}

    def shard_of(self, name: ServiceName) -> int:
        """See `Leading.shard_of`."""
        return self._sharding.of(name)

    def parts(self, names: Sequence[ServiceName]) -> Parts:
        """See `Leading.parts`: those of the shards that are written here."""
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

    def minds(self, name: ServiceName) -> bool:
        """See `Leading.minds`: of the shards that are written here, or are to be."""
        return self._sharding.of(name) in self._read

    def elsewhere(self, name: ServiceName, entries: Mapping[str, Entry]) -> int | None:
        """See `Leading.elsewhere`: what stands in several shards is to be known wherever one of them is."""
        shards = self._sharding.all(name, entries)
        return shards[0] if self._read.isdisjoint(shards) else None

    def notices(self, name: ServiceName) -> bool:
        """See `Leading.notices`: each member counts its own shards."""
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
            self._reserves.taken(shard)

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
        """Never returns. Raises Unavailable or Denied, before anything is written."""
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
        finally:
            self.membership = None
            self.shards = {}
            self._tell_read()

    async def leave(self, patience: float) -> None:
        """See `Leading.leave`: a caretaker until each shard is claimed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                is_alone = await self._is_alone()
                self._leaving = True
                self._changed()
                while self.writes and not is_alone:
                    await self._turn.wait()

    async def _is_alone(self) -> bool:
        """Whether nobody is there to take over, as far as the group can say."""
        try:
            members = await self.membership.members() if self.membership is not None else ()
        except IsthmusError:
            return False
        return all(one.who == self._sharing.who for one in members)

    def _changed(self) -> None:
        """Something here is otherwise than before: every shard is looked at."""
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    async def _divided(self) -> None:
        """Returns when the destination is divided as the stream is."""
        while self.fault_of(await self.seat.divided()):
            await asyncio.sleep(EVERY)

    def fault_of(self, count: int | None) -> str:
        """Why a destination that is divided so cannot be written here, "" if it can; it is kept to be shown."""
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
        """A member of the group, for as long as the store of the locks can be reached: else others take over."""
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
            await asyncio.sleep(0)  # it listens
            self._changed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await change

    async def _unreached(self) -> None:
        """Returns when the store has not answered for too long."""
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
        """Whether the store answers, and says that it is divided as the stream is."""
        try:
            async with asyncio.timeout(PROBE):
                return not self.fault_of(await self.seat.divided())
        except (IsthmusError, TimeoutError):
            return False

    # -- each shard --------------------------------------------------------------------------------------------------

    async def _conduct(self) -> None:
        """Never returns: one loop a shard that is, or was, this member's."""
        while True:
            turn = self._turn
            for number in self._should():
                if number not in self.shards:
                    one = self.shards[number] = Shard(number)
                    self._tasks.create_task(self._follow(one))
            self._tell_read()
            await turn.wait()

    def _should(self) -> frozenset[int]:
        member = self.membership
        return member.should if member is not None and not self._leaving else frozenset()

    def _tell_read(self) -> None:
        """Has those shards read that are written here, or are to be."""
        needed = self._should() | {number for number, one in self.shards.items() if one.term or one.asks}
        if needed != self._read:
            self._read = needed
            self._sharing.read(needed)

    def _assignment(self, one: Shard) -> int:
        """In which assignment a shard is; the numbers of two memberships are never the same."""
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
        """Never returns: does what each change of anything asks for."""
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
                self._resume(one)  # what was to be removed meanwhile is planned now
            one.waits = waits
            await actions[now](one, now)
            await turn.wait()

    def _run(self, one: Shard, what: str, work: Any) -> None:
        """Starts a task of a shard, unless it runs."""
        task = one.tasks.get(what)
        if task is not None and not task.done():
            work.close()
            return
        one.tasks[what] = self._tasks.create_task(work)

    async def _keep(self, one: Shard, now: Step) -> None:
        """Whoever plans asks `waits_in`; nothing is to be done about the lock."""

    async def _ask(self, one: Shard, now: Step) -> None:
        """Asks for the lock, with a claim or without; what was asked otherwise is withdrawn first."""
        if one.asks is not None and one.asks[0] is now:
            return
        await self._withdraw(one, now)
        if one.term is None and step(self._facts(one)) is now:
            one.asks = (now, self._assignment(one))
            self._run(one, "lock", self._tenure(one, claim=now is Step.CLAIM))

    async def _withdraw(self, one: Shard, now: Step) -> None:
        task = one.tasks.get("lock")
        if one.asks is not None and one.term is None and task is not None:
            task.cancel()
            await asyncio.wait((task,))
        if one.term is None:
            one.asks = None
            self._tell_read()

    async def _tenure(self, one: Shard, *, claim: bool) -> None:
        """Waits for the lock of a shard, and has it until it is lost, handed over or let go."""
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
        """Said once, however often it is tried."""
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
        self._woken()
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
        self._woken()

    async def _watch_claims(self, one: Shard, term: ShardTerm) -> None:
        """Returns when somebody claims the shard, and says so."""
        while one.term is term:
            try:
                await first(term.claimed(), term.ended())
                one.claimed = one.term is term
                break
            except IsthmusError:
                await asyncio.sleep(AGAIN)
        self._changed()

    async def _hand_over(self, one: Shard, now: Step) -> None:
        """Ends what is under way, and gives the lock to the claim."""
        term = one.term
        assert term is not None
        one.handing = True
        try:
            await self._still(term)
            await self._reserves.leave(one.number)
            if await self.seat.hand_over(term):
                one.over.set()
                return
            one.claimed = False  # whoever claimed it does not any more
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
        """It stays ours; nothing of it was planned meanwhile."""
        one.handing = False
        self._begun[one.number] = False
        self._woken()

    async def _complete(self, one: Shard) -> None:
        """Returns when all that the stream has of a shard was read since it was assigned; only then it is claimed."""
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
