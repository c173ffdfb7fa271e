"""A poll that becomes a watch: everything once, then only what differs, and never more than the last answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest

from adapters.common.polling import Answer, Polling
from bridge.adapter import Listing, Observed, Synced
from bridge.errors import Expired, Unavailable
from bridge.model import Instance, Service, ServiceName

PAY, USER = ServiceName("pay"), ServiceName("user")
Word = Listing | Observed | Synced


def answer(revision: int, identity: str = "store", **services: str) -> Answer:
    """Services by name, each with one instance at that address, or none."""
    observed = {
        ServiceName(name): Observed(
            Service(ServiceName(name), {"i1": Instance("i1", address)} if address else {}), revision=revision
        )
        for name, address in services.items()
    }
    return Answer(Listing(identity, revision=revision), observed)


class Store:
    """Answers one by one; the last one is followed by silence, or by an error."""

    def __init__(self, *answers: Answer, error: Exception | None = None) -> None:
        self.left = list(answers)
        self.asked = asyncio.Event()  # all answers were given
        self._error = error

    async def poll(self) -> Answer:
        if self.left:
            return self.left.pop(0)
        self.asked.set()
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()
        raise AssertionError


def watch(store: Store) -> tuple[Polling, aclosing[AsyncGenerator[Word]]]:
    polling = Polling(store.poll, 0.0, random.Random(1))
    return polling, aclosing(cast(AsyncGenerator[Word], polling.watch()))


async def told(watching: aclosing[AsyncGenerator[Word]], words: list[Word]) -> None:
    async with watching as told:
        async for word in told:
            words.append(word)


def said(words: list[Word]) -> list[object]:
    return [
        (str(word.service.name), *(each.address for each in word.service.instances.values()))
        if isinstance(word, Observed)
        else type(word).__name__
        for word in words
    ]


async def test_everything_is_told_once_then_only_what_differs() -> None:
    store = Store(answer(1, pay="192.0.2.1", user="192.0.2.2", empty=""))
    _, watching = watch(store)
    async with watching as words:
        first = [await anext(words) for _ in range(4)]
        assert said(first) == ["Listing", ("pay", "192.0.2.1"), ("user", "192.0.2.2"), "Synced"]
        store.left = [answer(2, pay="192.0.2.1", user="192.0.2.3")]
        assert said([await anext(words)]) == [("user", "192.0.2.3")]


async def test_a_service_that_is_missing_or_empty_is_told_as_gone_once() -> None:
    store = Store(answer(1, pay="192.0.2.1", user="192.0.2.2"), answer(2, user=""), error=Unavailable("down"))
    _, watching = watch(store)
    words: list[Word] = []
    with pytest.raises(Unavailable, match="down"):
        await told(watching, words)
    assert sorted(map(str, said(words[4:]))) == ["('pay',)", "('user',)"]


async def test_a_failure_comes_after_the_last_answer() -> None:
    store = Store(answer(1), answer(2, pay="192.0.2.1"), error=Unavailable("down"))
    _, watching = watch(store)
    async with watching as words:
        assert said([await anext(words) for _ in range(2)]) == ["Listing", "Synced"]
        waiting = asyncio.ensure_future(anext(words))
        assert said([await waiting]) == [("pay", "192.0.2.1")]
        with pytest.raises(Unavailable):
            await anext(words)


async def test_a_slow_consumer_skips_what_was_overtaken_and_is_behind_meanwhile() -> None:
    store = Store(answer(1), *(answer(n, pay=f"192.0.2.{n}") for n in range(2, 9)))
    polling, watching = watch(store)
    async with watching as words:
        for _ in range(2):
            await anext(words)
        assert polling.behind is None
        assert said([await anext(words)])[0]  # the polls have begun; nobody takes the others
        await store.asked.wait()
        assert polling.behind is not None
        assert said([await anext(words)]) == [("pay", "192.0.2.8")]
        assert polling.behind is None


@pytest.mark.parametrize("later", [answer(2, "other", pay="192.0.2.1"), answer(1, pay="192.0.2.1")])
async def test_another_life_of_the_store_ends_the_watch_before_it_is_told(later: Answer) -> None:
    store = Store(answer(2, user="192.0.2.2"), later)
    _, watching = watch(store)
    words: list[Word] = []
    with pytest.raises(Expired):
        await told(watching, words)
    assert said(words) == ["Listing", ("user", "192.0.2.2"), "Synced"]


async def test_nothing_is_told_where_the_first_poll_fails() -> None:
    _, watching = watch(Store(error=Unavailable("down")))
    async with watching as words:
        with pytest.raises(Unavailable):
            await anext(words)
