"""What every seat that can be divided promises: one writer a shard, claims, hand-over, notes, and the key `shards`."""

from __future__ import annotations

import asyncio
import copy
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from adapters.common.shards import Wish
from bridge.adapter import Registry, Term, Tracer
from bridge.errors import Conflict, Rejected, Superseded, Unavailable
from bridge.shards import Shards, ShardTerm, Standing
from tests.conformance.lab import (
    BRIDGE,
    OTHER,
    PAY,
    ShardsLab,
    at,
    create,
    instance,
    need,
    patience,
    until,
)
from tests.kit.holding import holding

PART = "shards"

COUNT = 3
TTL = 10.0  # seconds that a lock outlives its process in any store; Consul's sessions may last for twice as long
ANSWERS = 40  # of a server: whoever asked before these has long looked at it
RACES = 40


class Member:
    """One process of a bridge, as far as it writes shards."""

    def __init__(self, who: str, registry: Registry, bridge: str) -> None:
        self.who = who
        self.registry = registry
        self.sink: Any = registry.sink(bridge)
        seat = registry.seat(bridge, registry.name)
        assert isinstance(seat, Shards)
        self.seat: Shards = seat

    def take(self, shard: int, *, claim: bool = True, count: int = COUNT) -> Any:
        return self.seat.take(shard, count, self.who, claim=claim)

    async def write(self, number: int, term: Term) -> None:
        """Writes one entry; raises what that came to."""
        (outcome,) = await self.sink.apply([create(PAY, instance(number))], term)
        if outcome.error:
            raise outcome.error

    async def standing(self, shard: int) -> Standing:
        return (await self.seat.standing()).get(shard, Standing())


@asynccontextmanager
async def member(lab: ShardsLab, who: str, bridge: str = BRIDGE) -> AsyncIterator[Member]:
    """Another process of that bridge, with connections of its own."""
    async with lab.registry() as registry:
        yield Member(who, registry, bridge)


@pytest_asyncio.fixture
async def one(lab: ShardsLab) -> AsyncIterator[Member]:
    """A member of a group, of a destination that is divided."""
    async with member(lab, "one") as found:
        await found.seat.divide(COUNT)
        yield found


@pytest_asyncio.fixture
async def two(lab: ShardsLab, one: Member) -> AsyncIterator[Member]:
    async with member(lab, "two") as found:
        yield found


class Taking:
    """A process that asks for a shard in a task of its own."""

    def __init__(self, who: Member, shard: int, *, claim: bool = True) -> None:
        self.term: ShardTerm | None = None
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._take(who, shard, claim))
        self._has = asyncio.Event()

    async def _take(self, who: Member, shard: int, claim: bool) -> None:
        async with who.take(shard, claim=claim) as self.term:
            self._has.set()
            await self._leave.wait()

    async def has(self) -> ShardTerm:
        """Its term, once it has the lock."""
        got = asyncio.ensure_future(self._has.wait())
        async with asyncio.timeout(patience()):
            await asyncio.wait({got, self._task}, return_when=asyncio.FIRST_COMPLETED)
        got.cancel()
        if self.term is None:
            await self._task
        assert self.term is not None
        return self.term

    async def end(self) -> None:
        self._leave.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def taking(who: Member, shard: int, *, claim: bool = True) -> AsyncIterator[Taking]:
    found = Taking(who, shard, claim=claim)
    try:
        yield found
    finally:
        await found.end()


async def claims(who: Member, shard: int, *names: str) -> None:
    """Waits until these claim a shard, in this order."""

    async def do() -> bool:
        return (await who.standing(shard)).claims == names

    await until(do, f"claims of {names}")


def asleep(term: Any) -> Any:
    """The term as a process has it that was stopped: it knows nothing of what came after."""
    twin = copy.copy(term)
    for name, value in vars(term).items():
        if isinstance(value, asyncio.Event):
            setattr(twin, name, asyncio.Event())
    return twin


async def test_shards_have_writers_side_by_side(lab: ShardsLab, one: Member, two: Member) -> None:
    async with one.take(0) as first, two.take(1) as second, one.take(2) as third:
        for number, (who, term) in enumerate(((one, first), (two, second), (one, third)), 1):
            await who.write(number, term)
            assert not term.taken_over
            assert term.until > asyncio.get_running_loop().time()
        assert await one.seat.standing() == {0: Standing("one"), 1: Standing("two"), 2: Standing("one")}
        assert (await one.registry.reach()).writers == frozenset({BRIDGE})
    assert await lab.truth(PAY) == at(instance(1), instance(2), instance(3))
    for term in (first, second, third):
        assert term.until <= asyncio.get_running_loop().time()
        with pytest.raises(Superseded):
            await one.write(4, term)
    assert await one.seat.standing() == {}


async def test_a_shard_has_one_writer_and_who_claims_it_is_known(one: Member, two: Member) -> None:
    async with one.take(1) as term, taking(two, 1) as waiting:
        await claims(one, 1, "two")
        async with asyncio.timeout(patience()):
            await term.claimed()
        assert waiting.term is None
        assert await one.standing(1) == Standing("one", ("two",))


async def test_a_lock_that_is_handed_over_is_the_claimants_at_once(lab: ShardsLab, one: Member, two: Member) -> None:
    async with one.take(1) as term, taking(two, 1) as waiting:
        async with asyncio.timeout(patience()):
            await term.claimed()
        await one.write(1, term)
        assert await one.seat.hand_over(term)
        assert await one.standing(1) == Standing("two")
        following = await waiting.has()
        assert following.taken_over
        await two.write(2, following)
        async with asyncio.timeout(patience()):
            await term.ended()
        with pytest.raises(Superseded):
            await one.seat.hand_over(term)
    assert await lab.truth(PAY) == at(instance(1), instance(2))


async def test_who_handed_over_in_its_sleep_can_write_nothing_more(lab: ShardsLab, one: Member, two: Member) -> None:
    need(lab, "fence")
    async with one.take(1) as term, taking(two, 1) as waiting:
        woken = asleep(term)
        async with asyncio.timeout(patience()):
            await term.claimed()
        assert await one.seat.hand_over(term)
        following = await waiting.has()
        with pytest.raises(Superseded):
            await one.write(1, woken)
        with pytest.raises(Superseded):
            await one.seat.note(b"two", None, term=woken)
        await two.write(2, following)
    assert await lab.truth(PAY) == at(instance(2))


async def test_who_handed_over_in_its_sleep_leaves_no_note_of_its_shard(one: Member, two: Member) -> None:
    async with one.take(1) as term, taking(two, 1) as waiting:
        woken = asleep(term)
        note = await one.seat.note_shard(b"one", None, term=term)
        async with asyncio.timeout(patience()):
            await term.claimed()
        assert await one.seat.hand_over(term)
        with pytest.raises(Superseded):
            await one.seat.area.note(b"late", note, woken)  # type: ignore[attr-defined]
        following = await waiting.has()
        newer = await two.seat.note_shard(b"two", note, term=following)
        assert await one.seat.shard_notes() == {1: newer}


async def test_the_oldest_claim_has_the_lock_and_the_others_stay(lab: ShardsLab, one: Member, two: Member) -> None:
    async with member(lab, "three") as three, one.take(1) as term, taking(two, 1) as second:
        await claims(one, 1, "two")
        async with taking(three, 1) as third:
            await claims(one, 1, "two", "three")
            assert await one.seat.hand_over(term)
            following = await second.has()
            assert await one.standing(1) == Standing("two", ("three",))
            async with asyncio.timeout(patience()):
                await following.claimed()
            assert await two.seat.hand_over(following)
            await third.has()


async def test_nothing_is_handed_over_where_nobody_claims(one: Member, two: Member) -> None:
    async with one.take(1) as term:
        assert not await one.seat.hand_over(term)
        async with taking(two, 1) as waiting:
            await claims(one, 1, "two")
        assert waiting.term is None
        await claims(one, 1)
        assert not await one.seat.hand_over(term)
        await one.write(1, term)


async def test_a_claim_of_who_died_is_not_handed_to(lab: ShardsLab, one: Member, two: Member) -> None:
    async with one.take(1) as term, taking(two, 1):
        await claims(one, 1, "two")
        await lab.end(BRIDGE, "two")
        await claims(one, 1)
        assert not await one.seat.hand_over(term)
        await one.write(1, term)


async def test_a_free_lock_goes_to_who_claims_before_who_waits(lab: ShardsLab, one: Member, two: Member) -> None:
    async with AsyncExitStack() as stack:
        held = await stack.enter_async_context(taking(one, 1))
        await held.has()
        three = await stack.enter_async_context(member(lab, "three"))
        waits = await stack.enter_async_context(taking(three, 1, claim=False))
        for _ in range(ANSWERS):
            await three.seat.divided()
        claim = await stack.enter_async_context(taking(two, 1))
        await claims(one, 1, "two")
        await held.end()
        await claim.has()
        assert waits.term is None
        assert await one.standing(1) == Standing("two")
        await claim.end()
        term = await waits.has()
        assert term.taken_over
        await three.write(1, term)


async def test_who_waits_without_a_claim_is_not_handed_to(one: Member, two: Member) -> None:
    async with one.take(1) as term, taking(two, 1, claim=False) as waiting:
        for _ in range(ANSWERS):
            await two.seat.divided()
        assert not await one.seat.hand_over(term)
        assert waiting.term is None
        assert await one.standing(1) == Standing("one")


async def test_a_process_without_its_life_has_no_shard(lab: ShardsLab, one: Member, two: Member) -> None:
    async with one.take(0) as first, one.take(1) as second:
        woken = asleep(first)
        await lab.end(BRIDGE, "one")
        async with asyncio.timeout(TTL), taking(two, 0) as waiting:
            await waiting.has()
            await first.ended()
            await second.ended()
        with pytest.raises(Superseded):
            await one.write(1, woken if "fence" in lab.can else first)
    async with asyncio.timeout(TTL), one.take(0) as again:
        await one.write(2, again)
    assert await lab.truth(PAY) == at(instance(2))


async def test_who_is_ousted_writes_nothing_more_and_others_take_over(lab: ShardsLab, one: Member, two: Member) -> None:
    if not two.seat.ousts:
        pytest.skip("what a dead process holds ends soon enough by itself")
    async with one.take(1) as term, taking(two, 1) as waiting:
        woken = asleep(term)
        await claims(one, 1, "two")
        await two.seat.oust(1, "another")
        assert await one.standing(1) == Standing("one", ("two",))
        await two.seat.oust(1, "one")
        following = await waiting.has()
        assert following.taken_over
        with pytest.raises(Superseded):
            await one.write(1, woken)
        await two.write(2, following)
        async with asyncio.timeout(patience()):
            await term.ended()
    assert await lab.truth(PAY) == at(instance(2))


class Step(NamedTuple):
    """One process at the steps of a store, which believes what is not so any more: what it sees may be old."""

    area: Any
    life: Any
    who: str

    async def take(self, *, claims: bool = True, count: int = COUNT) -> Any:
        return await self.area.take(self.life, Wish(1, count, self.who, claims))

    async def claim(self) -> None:
        await self.area.claim(self.life, Wish(1, COUNT, self.who, True))

    async def release(self) -> None:
        await self.area.release(self.life, 1)


@asynccontextmanager
async def step(who: Member) -> AsyncIterator[Step]:
    area: Any = who.seat.area  # type: ignore[attr-defined]
    async with area.alive() as life:
        yield Step(area, life, who.who)


async def test_no_step_is_made_by_what_was_so_before(lab: ShardsLab, one: Member, two: Member) -> None:
    async with step(one) as first, step(two) as second:
        for each in (first, second):
            await each.area.look()  # what it believes from now on
        assert await first.take(count=COUNT + 1) is None
        term = await first.take()
        assert await second.take() is None, "it is held"
        assert await one.standing(1) == Standing("one")
        await second.claim()
        (claim,) = (await second.area.look()).lot(1).claims
        await second.release()
        assert not await first.area.give(term, claim), "the claim was withdrawn"
        assert await one.standing(1) == Standing("one")
        await second.claim()
        (claim,) = (await second.area.look()).lot(1).claims
        assert await first.area.give(term, claim)
        await first.claim()
        (other,) = (await second.area.look()).lot(1).claims
        assert not await first.area.give(term, other), "it is held by another"
        await first.release()
        assert await one.standing(1) == Standing("two")
        term.lose()


async def test_a_free_lock_that_is_claimed_is_not_taken_without_a_claim(
    lab: ShardsLab, one: Member, two: Member
) -> None:
    need(lab, "order")
    async with step(one) as first, step(two) as second:
        for each in (first, second):
            await each.area.look()
        held = await first.take()
        await second.claim()
        await first.release()
        assert await first.take(claims=False) is None
        assert await two.standing(1) != Standing()
        held.lose()


async def test_a_term_that_is_over_hands_nothing_over(lab: ShardsLab, one: Member, two: Member) -> None:
    async with step(one) as first, step(two) as second:
        for each in (first, second):
            await each.area.look()
        over = await first.take()
        term = over
        for giver, taker in ((first, second), (second, first)):
            await taker.claim()
            (claim,) = (await giver.area.look()).lot(1).claims
            assert await giver.area.give(term, claim)
            term = await taker.take()
        assert await one.standing(1) == Standing("one"), "it is the first one's again, by another term"
        await second.claim()
        (claim,) = (await first.area.look()).lot(1).claims
        assert not await first.area.give(over, claim)
        assert await one.standing(1) == Standing("one", ("two",))
        for each in (over, term):
            each.lose()


async def test_who_takes_without_a_claim_leaves_none_where_another_was_faster(
    lab: ShardsLab, one: Member, two: Member
) -> None:
    async with step(one) as first, step(two) as second:
        await first.area.look()
        for number in range(RACES):
            taking = asyncio.create_task(first.take(claims=False))
            for _ in range(number % 4):  # the other one comes at another time in each round
                await second.area.look()
            await second.claim()
            term = await taking
            lot = (await second.area.look()).lot(1)
            assert first.life.id not in [claim.life for claim in lot.claims]
            if term is not None:
                assert lot.life == first.life.id
                term.lose()
            for each in (first, second):
                await each.release()


async def test_a_note_of_a_shard_is_its_writers_alone(lab: ShardsLab, one: Member, two: Member) -> None:
    async with one.take(0) as first, two.take(1) as second, member(lab, "other", OTHER) as other:
        assert await one.seat.shard_notes() == {}
        mine = await one.seat.note_shard(b"zero" * 4096, None, term=first)
        theirs = await two.seat.note_shard(b"one", None, term=second)
        assert await one.seat.shard_notes() == {0: mine, 1: theirs}
        with pytest.raises(Conflict):
            await one.seat.note_shard(b"new", None, term=first)
        with pytest.raises(Superseded):
            await two.seat.note_shard(b"new", mine, term=first)
        with pytest.raises(Rejected):
            await one.seat.note_shard(b"x" * (16 * 1024 + 1), mine, term=first)
        assert await one.seat.recall() is None
        assert await other.seat.shard_notes() == {}
        newer = await one.seat.note_shard(b"new", mine, term=first)
        with pytest.raises(Conflict):
            await one.seat.note_shard(b"old", mine, term=first)
    with pytest.raises(Superseded):
        await one.seat.note_shard(b"late", newer, term=first)
    assert await two.seat.shard_notes() == {0: newer, 1: theirs}


async def test_the_note_of_the_whole_is_written_under_any_shard(one: Member, two: Member) -> None:
    async with one.take(0) as first, two.take(1) as second:
        note = await one.seat.note(b"one", None, term=first)
        assert (await two.seat.note(b"two", note, term=second)).content == b"two"


async def test_a_destination_is_divided_and_united(lab: ShardsLab) -> None:
    async with member(lab, "one") as one, member(lab, "other", OTHER) as other:
        assert await one.seat.divided() is None
        for _ in range(2):
            await one.seat.divide(COUNT)
        with pytest.raises(Conflict):
            await one.seat.divide(COUNT + 1)
        assert await one.seat.divided() == COUNT
        assert await other.seat.divided() is None
        async with one.take(0) as term:
            await one.seat.note_shard(b"zero", None, term=term)
            with pytest.raises(Conflict):
                await one.seat.unite()
        await one.seat.unite()
        assert await one.seat.divided() is None
        assert await one.seat.shard_notes() == {}
        assert isinstance(one.registry, Tracer)
        kept = {trace.kind for trace in await one.registry.traces(BRIDGE)} - {"identity", "folder", "node", "lock"}
        assert kept <= {"namespace"}
        async with asyncio.timeout(patience()), one.seat.writer():
            await one.seat.divided()


async def test_the_whole_and_shards_are_never_written_at_once(lab: ShardsLab) -> None:
    async with member(lab, "one") as one, member(lab, "two") as two, asyncio.timeout(4 * patience()):
        async with one.seat.writer():
            with pytest.raises(Conflict):
                await two.seat.divide(COUNT)
            with pytest.raises(Conflict):
                async with two.take(0):
                    pass
        await two.seat.divide(COUNT)
        with pytest.raises(Unavailable, match="shards"):
            async with one.seat.writer():
                pass
        async with two.take(0):
            with pytest.raises(Unavailable, match="shards"):
                async with one.seat.writer():
                    pass


async def test_who_means_another_number_of_shards_has_none(one: Member) -> None:
    with pytest.raises(Conflict, match="shards"):
        async with asyncio.timeout(patience()), one.take(0, count=COUNT + 1):
            pass


@pytest.mark.parametrize("count", [COUNT + 1, None])
async def test_nothing_is_written_once_there_are_other_shards(lab: ShardsLab, one: Member, count: int | None) -> None:
    async with one.take(0) as term:
        woken = asleep(term)
        await one.write(1, term)
        await lab.say(BRIDGE, count)
        if "fence" in lab.can:
            with pytest.raises(Superseded):
                await one.write(2, woken)
        async with asyncio.timeout(patience()):
            await term.ended()
        with pytest.raises(Superseded):
            await one.write(2, term)
        with pytest.raises(Conflict):
            async with one.take(1):
                pass
    assert await lab.truth(PAY) == at(instance(1))


async def test_a_killed_process_leaves_its_shard_to_others_in_time(lab: ShardsLab, one: Member) -> None:
    kind, block = lab.block()
    if not kind:
        pytest.skip("there are no processes in one memory")
    async with holding(kind, block, one.registry.name, BRIDGE, 1, COUNT, "killed") as process:
        assert await one.standing(1) == Standing("killed")
        async with taking(one, 1) as waiting:
            await claims(one, 1, "one")
            process.send_signal(signal.SIGKILL)
            async with asyncio.timeout(2 * TTL + patience()):
                term = await asyncio.wait_for(asyncio.shield(_had(waiting)), None)
            assert term.taken_over
            await one.write(1, term)


async def _had(waiting: Taking) -> ShardTerm:
    while waiting.term is None:
        try:
            return await waiting.has()
        except TimeoutError:
            continue
    return waiting.term


async def test_what_is_left_of_shards_is_told_and_goes_with_them(lab: ShardsLab, one: Member, two: Member) -> None:
    assert isinstance(one.registry, Tracer)
    async with one.take(0) as term, taking(two, 0):
        await one.seat.note_shard(b"zero", None, term=term)
        await claims(one, 0, "two")
        found = [trace for trace in await one.registry.traces(BRIDGE) if trace.kind == "shards"]
        assert len(found) >= 2, "at least the key and a note"
        assert not any(trace.needed for trace in found)
    await one.seat.unite()
    async with asyncio.timeout(patience()), one.seat.writer() as whole:
        await one.seat.leave(whole)
    kept = await one.registry.traces(BRIDGE)
    assert [trace for trace in kept if trace.kind != "namespace"] == []
