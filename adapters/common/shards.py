"""The locks of shards and the claims beside them, for one process at one seat: who waits, who holds, who hands over.

A store brings its steps, each of them one transaction (`Area`). What it tells of its locks (`Picture`) may be old: it
says when a step is worth trying, and never that a lock is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import msgspec

from adapters.common.seat import MovedSeat
from bridge.adapter import Note, Seat, Term
from bridge.errors import Conflict, Expired, IsthmusError, Rejected, Superseded, Unavailable
from bridge.shards import LONGEST_NOTE, ShardTerm, Standing

RELEASE_TIME = 2.0  # seconds; what cannot be given back in that time is given back once the store answers again
PAUSE = 0.2  # seconds after which the locks are read again when the store does not tell of them any more


class Said(NamedTuple):
    """What the key `shards` said when it was last seen, and its version, for a store that compares nothing else."""

    shards: int | None
    version: int


class Claim(NamedTuple):
    """A claim beside a lock. `life`: what it ends with. `version`: what a hand-over compares."""

    life: str
    who: str
    version: Any = None


class Lot(NamedTuple):
    """The lock of one shard and the claims beside it, oldest first. `life` "": nobody holds it.

    `version`: grows each time the lock changes hands, and is what a transaction compares.
    """

    life: str = ""
    who: str = ""
    version: int = 0
    claims: tuple[Claim, ...] = ()


class Picture(msgspec.Struct, frozen=True):
    """All locks of a seat as they stood at one time. `count`: into how many shards it is divided, None: it is not.

    `at`: the position of the store that it is no older than.
    """

    count: int | None
    lots: Mapping[int, Lot]
    at: int

    def lot(self, shard: int) -> Lot:
        """The lock of one shard, and the claims beside it."""
        return self.lots.get(shard, Lot())


class Life(Protocol):
    """What the locks and claims of this process end with: a lease or a session, kept up as long as any is needed."""

    @property
    def id(self) -> str: ...

    @property
    def over(self) -> bool: ...

    async def ended(self) -> None: ...


class Wish(msgspec.Struct, frozen=True):
    """What a process asks for. `claims`: with a claim beside the lock."""

    shard: int
    count: int
    who: str
    claims: bool


class Held(Term, Protocol):
    """The term of a shard, as this module needs it. `version`: see `Lot`; `at`: the position of a picture that has it.

    `claims`: waits for one.
    """

    taken_over: bool
    wish: Wish
    version: int
    claims: Callable[[], Awaitable[None]]

    @property
    def at(self) -> int: ...

    @property
    def over(self) -> bool: ...

    def lose(self) -> None: ...


class OfShard:
    """What the term of a shard has beside that of a whole: see `Held` and `ShardTerm`."""

    wish: Wish
    version: int
    claims: Callable[[], Awaitable[None]]

    @property
    def at(self) -> int:
        """Where versions are positions of the store."""
        return self.version

    async def claimed(self) -> None:
        """See `ShardTerm.claimed`."""
        await self.claims()


L = TypeVar("L", bound=Life)
T = TypeVar("T", bound=Held)


class Area(Protocol[L, T]):
    """The locks, claims and notes of the shards of one seat in one kind of store. All raise Unavailable or Denied."""

    async def divided(self) -> int | None: ...

    async def divide(self, count: int) -> None: ...

    async def unite(self) -> None: ...

    def alive(self) -> AbstractAsyncContextManager[L]:
        """A life of this process, kept up inside."""
        ...

    async def follow(self, hear: Callable[[Picture], None]) -> None:
        """Tells how the locks stand, and then each time that this may have changed; returns never, or raises."""
        ...

    async def look(self) -> Picture:
        """How the locks stand now, past every cache."""
        ...

    async def claim(self, life: L, wish: Wish) -> int:
        """Puts a claim, unless ours is there; the position from which on pictures have it."""
        ...

    async def take(self, life: L, wish: Wish) -> T | None:
        """Makes a free lock ours and removes our claim, where `Wish.count` holds; without a claim only where none is.

        The term if the lock is ours then, also by a hand-over; None: it is not.
        """
        ...

    async def give(self, term: T, claim: Claim) -> bool:
        """Removes the claim and makes the lock that claimant's, if both still stand; whether they did."""
        ...

    async def release(self, life: L, shard: int) -> None:
        """Removes the lock and the claim of this life, whichever there is."""
        ...

    async def notes(self) -> Mapping[int, Note]: ...

    async def note(self, content: bytes, before: Note | None, term: T) -> Note: ...


class _Presence(Generic[L, T]):
    """This process at the shards of a seat: one life and one look at the locks, for all of them that it asks for."""

    def __init__(self, area: Area[L, T], life: L) -> None:
        self.life = life
        self.picture: Picture | None = None
        self.news = asyncio.Event()  # set, and replaced, when anything of this is new
        self.terms: dict[int, T] = {}
        self.users = 0
        self.closing = contextlib.AsyncExitStack()
        self.wanted: set[int] = set()
        self._area = area
        self._wishes: dict[int, asyncio.Lock] = {}
        self._turns: dict[int, asyncio.Lock] = {}  # one way at a time: what is given back is not what is just taken
        self._returns: set[asyncio.Task[None]] = set()
        self._failure: IsthmusError | None = None

    @property
    def trouble(self) -> IsthmusError | None:
        """Why nothing can be waited for; what is held goes on as long as the life does."""
        if self.life.over:
            return Unavailable("the store was not reached for so long that the locks of this process ended")
        return self._failure

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Inside, the picture is kept up, and terms end with the life."""
        tasks = [asyncio.create_task(work()) for work in (self._follow, self._live)]
        try:
            yield
        finally:
            for task in (*tasks, *self._returns):
                task.cancel()
            await asyncio.gather(*tasks, *self._returns, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def wanting(self, shard: int) -> AsyncIterator[None]:
        """Inside, this process wants that shard; what it has of it is given back at the end. One wish at a time."""
        async with self._wishes.setdefault(shard, asyncio.Lock()):
            async with self._turn(shard):
                self.wanted.add(shard)
            try:
                yield
            finally:
                self.wanted.discard(shard)
                await self._give_back(shard)

    async def claimed(self, shard: int) -> None:
        """Returns when another life has a claim there."""
        while self.picture is None or not _others(self.picture.lot(shard), self.life.id):
            await self.news.wait()

    def _turn(self, shard: int) -> asyncio.Lock:
        return self._turns.setdefault(shard, asyncio.Lock())

    async def _give_back(self, shard: int) -> None:
        async with self._turn(shard):
            if shard in self.wanted or self.life.over:
                return
            with contextlib.suppress(IsthmusError, TimeoutError):
                async with asyncio.timeout(RELEASE_TIME):
                    await self._area.release(self.life, shard)

    async def _follow(self) -> None:
        while True:
            try:
                await self._area.follow(self._hear)
            except Expired:
                pass
            except IsthmusError as error:
                self._fail(error)
            except Exception as bug:  # else who waits would wait for ever
                self._fail(Unavailable(f"the locks of shards cannot be followed: {bug!r}"))
            await asyncio.sleep(PAUSE)

    def _fail(self, error: IsthmusError) -> None:
        self._failure = error
        self._stir()

    async def _live(self) -> None:
        await self.life.ended()
        for term in self.terms.values():
            term.lose()
        self._stir()

    def _hear(self, picture: Picture) -> None:
        self.picture, self._failure = picture, None
        for shard, term in self.terms.items():
            stands = picture.lot(shard).version == term.version and picture.count == term.wish.count
            if picture.at >= term.at and not stands:
                term.lose()
        for shard, lot in picture.lots.items():
            ours = lot.life == self.life.id or _claims(lot, self.life.id)
            if ours and shard not in self.wanted and not self._turn(shard).locked():
                task = asyncio.create_task(self._give_back(shard))  # the store did not answer when that was tried
                self._returns.add(task)
                task.add_done_callback(self._returns.discard)
        self._stir()

    def _stir(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class DividedSeat(Generic[L, T]):
    """The side of a seat that makes it `bridge.shards.Shards`, over what its store can do."""

    ousts = False

    def __init__(self, area: Area[L, T], *, leases: bool = True) -> None:
        self.area = area
        self.leases = leases
        self._presence: _Presence[L, T] | None = None
        self._entering = asyncio.Lock()

    async def divided(self) -> int | None:
        """See `Shards.divided`."""
        return await self.area.divided()

    async def divide(self, count: int) -> None:
        """See `Shards.divide`."""
        await self.area.divide(count)

    async def unite(self) -> None:
        """See `Shards.unite`."""
        await self.area.unite()

    @contextlib.asynccontextmanager
    async def take(self, shard: int, count: int, who: str, *, claim: bool) -> AsyncIterator[T]:
        """See `Shards.take`."""
        wish = Wish(shard, count, who, claim)
        async with self._present() as here, here.wanting(shard):
            term = here.terms[shard] = await self._acquired(here, wish)
            term.claims = lambda: here.claimed(shard)
            try:
                yield term
            finally:
                term.lose()
                del here.terms[shard]

    async def hand_over(self, term: ShardTerm) -> bool:
        """See `Shards.hand_over`."""
        ours = self._ours(term)
        while True:
            lot = (await self.area.look()).lot(ours.wish.shard)
            if ours.over or lot.version != ours.version:
                ours.lose()
                raise Superseded(f"the lock of shard {ours.wish.shard} is not ours any more")
            others = _others(lot, lot.life)
            if not others:
                return False
            if await self.area.give(ours, others[0]):
                ours.lose()
                return True

    async def oust(self, shard: int, who: str) -> None:
        """See `Shards.oust`: what a dead process holds ends by itself, and soon enough."""

    async def standing(self) -> dict[int, Standing]:
        """See `Shards.standing`."""
        lots = (await self.area.look()).lots
        return {shard: Standing(lot.who, tuple(one.who for one in lot.claims)) for shard, lot in lots.items()}

    async def shard_notes(self) -> Mapping[int, Note]:
        """See `Shards.shard_notes`."""
        return await self.area.notes()

    async def note_shard(self, content: bytes, before: Note | None, *, term: ShardTerm) -> Note:
        """See `Shards.note_shard`."""
        if len(content) > LONGEST_NOTE:
            raise Rejected(f"a note of {len(content):,} bytes: {LONGEST_NOTE:,} is the most that a shard's may have")
        return await self.area.note(content, before, self._ours(term))

    def _ours(self, term: ShardTerm) -> T:
        """The term, while it is this process's, of this seat. Raises Superseded."""
        terms = self._presence.terms.values() if self._presence is not None else ()
        found = [one for one in terms if cast(object, one) is term and not one.over]
        if not found:
            raise Superseded("the lock of that shard is not ours")
        return found[0]

    @contextlib.asynccontextmanager
    async def _present(self) -> AsyncIterator[_Presence[L, T]]:
        """The presence of this process, begun by the first who needs it and ended by the last."""
        async with self._entering:
            if self._presence is None or self._presence.life.over:
                self._presence = await self._begun()
            here = self._presence
            here.users += 1
        try:
            yield here
        finally:
            here.users -= 1
            if not here.users:
                if self._presence is here:
                    self._presence = None
                await here.closing.aclose()

    async def _begun(self) -> _Presence[L, T]:
        async with contextlib.AsyncExitStack() as stack:
            here = _Presence(self.area, await stack.enter_async_context(self.area.alive()))
            await stack.enter_async_context(here.running())
            here.closing = stack.pop_all()
        return here

    async def _acquired(self, here: _Presence[L, T], wish: Wish) -> T:
        """Waits until the lock is ours."""
        waited, claimed_at = False, -1
        while True:
            news, picture = here.news, here.picture
            if (trouble := here.trouble) is not None:
                raise trouble.with_traceback(None)
            if picture is not None:
                _agree(picture, wish)
                lot = picture.lot(wish.shard)
                waited |= lot.life not in ("", here.life.id)
                if may_try(lot, here.life.id, wish):
                    if (term := await self.area.take(here.life, wish)) is not None:
                        term.taken_over = waited
                        return term
                    waited = True
                elif wish.claims and picture.at >= claimed_at and not _claims(lot, here.life.id):
                    claimed_at = await self.area.claim(here.life, wish)
            await news.wait()


def may_try(lot: Lot, life: str, wish: Wish) -> bool:
    """Whether the lock was handed over to this life, or is free: those who claim come first."""
    return lot.life == life or (not lot.life and (wish.claims or not lot.claims))


def _others(lot: Lot, life: str) -> list[Claim]:
    return [one for one in lot.claims if one.life != life]


def _claims(lot: Lot, life: str) -> bool:
    return any(one.life == life for one in lot.claims)


def _agree(picture: Picture, wish: Wish) -> None:
    if picture.count != wish.count:
        said = f"says {picture.count}" if picture.count is not None else "is not there"
        raise Conflict(f"the key `shards` {said}, and {wish.count} are meant")


class DividedPlace(Seat, Protocol[L, T]):
    """A seat that is also `Shards`."""

    area: Area[L, T]
    leases: bool


class MovedDividedSeat(MovedSeat, DividedSeat[L, T]):
    """A `MovedSeat` of a seat that can be divided; there never were notes of shards at the old place."""

    def __init__(self, seat: DividedPlace[L, T], old: Seat) -> None:
        MovedSeat.__init__(self, seat, old)
        DividedSeat.__init__(self, seat.area, leases=seat.leases)


class _Said(msgspec.Struct, frozen=True):
    """What stands in a lock or a claim of a shard, for people."""

    who: str = "?"  # where another version wrote it
    since: str = ""


def said(who: str, now: datetime) -> bytes:
    """What to put into a lock or a claim."""
    return msgspec.json.encode(_Said(who, now.isoformat()))


def who_of(value: bytes) -> str:
    """Who put a lock or a claim there."""
    try:
        return msgspec.json.decode(value, type=_Said).who
    except msgspec.DecodeError:
        return _Said().who


def count_of(value: bytes) -> int:
    """What the key `shards` says. Raises Unavailable where that is no count."""
    if not (value.isdigit() and int(value)):
        raise Unavailable(f"the key `shards` says {value.decode(errors='replace')[:40]!r}, which is no count")
    return int(value)
