"""What a process does with locks of shards where the store is in its way: shown by the one in memory."""

from __future__ import annotations

import asyncio

import pytest

from adapters.common.shards import Claim, Lot, Wish, may_try
from adapters.memory.seat import MemorySeat
from adapters.memory.server import Store
from bridge.errors import Conflict, Superseded, Unavailable
from bridge.shards import Standing
from tests.kit.waiting import until

SEAT = "bridge"
COUNT = 4


@pytest.fixture
def store() -> Store:
    made = Store()
    made.divide(SEAT, COUNT)
    return made


def seat(store: Store) -> MemorySeat:
    """As a process of its own has it."""
    return MemorySeat(store, SEAT)


def standing(store: Store) -> dict[int, Standing]:
    """Past every adapter."""
    lots = store.lots.picture(SEAT).lots
    return {shard: Standing(lot.who, tuple(one.who for one in lot.claims)) for shard, lot in lots.items()}


async def so(store: Store, wanted: dict[int, Standing]) -> None:
    """Waits until that is how the locks stand."""

    async def look() -> bool:
        return standing(store) == wanted

    await until(look, f"{wanted}")


async def waits(seat: MemorySeat) -> None:
    """Process "two" waits for shard 0 with a claim, and lets it go at once when it has it."""
    async with seat.take(0, COUNT, "two", claim=True):
        pass


@pytest.mark.parametrize(
    ("lot", "claims", "tries"),
    [
        (Lot(), True, True),
        (Lot(), False, True),
        (Lot("me", version=1), True, True),  # handed over
        (Lot("me", version=1, claims=(Claim("other", "two"),)), False, True),
        (Lot("other", version=1), True, False),
        (Lot(claims=(Claim("other", "two"),)), True, True),
        (Lot(claims=(Claim("other", "two"),)), False, False),  # those who claim come first
    ],
)
def test_a_lock_is_tried_where_it_may_be_ours(lot: Lot, claims: bool, tries: bool) -> None:
    assert may_try(lot, "me", Wish(0, COUNT, "one", claims)) is tries


async def test_what_could_not_be_given_back_is_given_back_later(store: Store) -> None:
    """Another shard goes on: what its lock ends with is kept up, and the other one's would be kept with it."""
    one = seat(store)
    async with one.take(0, COUNT, "one", claim=True):
        async with one.take(1, COUNT, "one", claim=True):
            store.fail_with(Unavailable("cut"))
        assert standing(store) == {0: Standing("one"), 1: Standing("one")}
        store.heal()
        store.lots.divide(SEAT, COUNT)  # a change that is told of
        await so(store, {0: Standing("one")})


async def test_a_store_that_does_not_answer_ends_the_wait_and_not_a_term(store: Store) -> None:
    one, two = seat(store), seat(store)
    async with one.take(0, COUNT, "one", claim=True) as term:
        waiting = asyncio.create_task(waits(two))
        await so(store, {0: Standing("one", ("two",))})
        store.fail_with(Unavailable("cut"))
        store.lots.divide(SEAT, COUNT)  # who follows asks, and is refused
        with pytest.raises(Unavailable, match="cut"):
            await waiting
        assert not term.over
        store.heal()
        await so(store, {0: Standing("one")})
        assert not await one.hand_over(term)


async def test_one_process_asks_for_a_shard_once_at_a_time(store: Store) -> None:
    one, terms = seat(store), []

    async def write() -> None:
        async with one.take(0, COUNT, "one", claim=True) as term:
            terms.append(term)
            assert [each for each in terms if not each.over] == [term]

    await asyncio.gather(write(), write(), write())
    assert len({term.version for term in terms}) == 3


async def test_all_shards_of_a_process_end_with_its_life_and_it_begins_anew(store: Store) -> None:
    one = seat(store)
    async with one.take(0, COUNT, "one", claim=True) as first, one.take(1, COUNT, "one", claim=True) as second:
        (life,) = store.lots.lives()
        store.lots.end(life)
        await first.ended()
        await second.ended()
        with pytest.raises(Superseded):
            await one.hand_over(first)
        async with one.take(2, COUNT, "one", claim=True) as third:
            assert standing(store) == {2: Standing("one")}
            assert not third.over
            with pytest.raises(Superseded):
                await one.note_shard(b"", None, term=second)
    assert store.lots.lives() == []


async def test_who_claims_in_vain_leaves_nothing(store: Store) -> None:
    one, two = seat(store), seat(store)
    async with one.take(0, COUNT, "one", claim=True):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waits(two), 0.2)
        assert standing(store) == {0: Standing("one")}
        assert len(store.lots.lives()) == 1


async def test_a_division_by_another_number_ends_the_wait(store: Store) -> None:
    one, two = seat(store), seat(store)
    async with one.take(0, COUNT, "one", claim=True) as term:
        waiting = asyncio.create_task(waits(two))
        await so(store, {0: Standing("one", ("two",))})
        del store.lots.counts[SEAT]
        store.lots.divide(SEAT, COUNT + 1)
        with pytest.raises(Conflict, match="shards"):
            await waiting
        await term.ended()
