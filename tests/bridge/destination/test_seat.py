"""A destination that cannot lock: with the seat that another registry lends, and without any."""

from __future__ import annotations

import asyncio

import pytest

from adapters.memory import Config, Memory
from adapters.memory.server import LENT
from adapters.memory.server import Store as Server
from bridge.adapter import Change
from bridge.errors import Superseded, Unavailable
from bridge.model import Mark
from tests.bridge.core import Core
from tests.kit.builders import PAY, instance, link
from tests.kit.waiting import until

LOCK = f"bridge{LENT}target"  # at the lender


def core(source: Server, target: Server, lender: Server | None = None) -> Core:
    servers = {"source": source, "target": target}
    if lender is None:
        return Core(servers, [link()], seatless=["target"])
    return Core({**servers, "lender": lender}, [link()], seatless=["target"], lender="lender")


async def test_a_destination_that_cannot_lock_is_written_under_a_borrowed_lock() -> None:
    source, target, lender = Server("a"), Server("b"), Server("c")
    source.register(PAY, instance("i1"))
    async with core(source, target, lender).running() as running:
        await running.idle()
        assert target.instances(PAY) == source.instances(PAY)
        assert not target.writers()
        assert not lender.writers()  # nobody writes there


async def test_while_the_lender_is_out_of_reach_nothing_is_written() -> None:
    source, target, lender = Server("a"), Server("b"), Server("c")
    source.register(PAY, instance("i1"))
    lender.fail_with(Unavailable("the lender is down"))
    async with core(source, target, lender).running() as running:
        reconciler = running.reconcilers["target"]
        await until(lambda: bool(reconciler.destination.plans))
        await until(lambda: reconciler.reason == "lock: the lender is down")
        assert reconciler.role == "standby"
        assert target.writes == 0
        lender.heal()
        await running.idle()
        assert target.instances(PAY) == source.instances(PAY)
        assert reconciler.reason == ""


async def test_one_daemon_of_two_writes_under_a_borrowed_lock() -> None:
    source, target, lender = Server("a"), Server("b"), Server("c")
    source.register(PAY, instance("i1"))
    async with core(source, target, lender).running() as first, core(source, target, lender).running() as second:
        both = (first.reconcilers["target"], second.reconcilers["target"])
        await until(lambda: sorted(one.role for one in both) == ["standby", "writer"])
        before = next(one for one in both if one.role == "standby")
        lender.take_lock(LOCK)
        await until(lambda: before.role == "writer")
        source.register(PAY, instance("i2"))
        await until(lambda: target.instances(PAY) == source.instances(PAY))
        assert target.writes == 2


async def test_a_term_that_is_over_writes_nothing_where_nothing_compares_it() -> None:
    target, lender = Server("b"), Server("c")
    sink = Memory("target", target, config=Config(seat=False)).sink("bridge")
    seat = Memory("lender", lender).seat("bridge", "target")
    assert seat is not None
    create = Change(PAY, "i1", None, instance("i1"), Mark("bridge", "link", ("a",), "", PAY, "i1"))
    async with seat.writer() as term:
        lender.take_lock(LOCK)
        with pytest.raises(Superseded):
            await sink.apply([create], term)
    assert target.writes == 0


async def test_a_destination_without_any_seat_is_written_without_a_lock() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    async with core(source, target).running() as running:
        await running.idle()
        assert running.reconcilers["target"].role == "writer"
        assert target.instances(PAY) == source.instances(PAY)
        assert not target.writers()


async def test_who_leaves_waits_for_what_it_has_sent() -> None:
    source, target, lender = Server("a"), Server("b"), Server("c")
    async with core(source, target, lender).running() as running:
        await running.idle()
        reconciler = running.reconcilers["target"]
        target.silence()
        source.register(PAY, instance("i1"))
        await until(lambda: not reconciler.idle, "it is being written")
        leaving = asyncio.create_task(reconciler.leave(0.0))
        source.register(PAY, instance("i2"))
        await until(lambda: not reconciler.loops, "nothing more is planned")
        assert not leaving.done()
        target.heal()
        await leaving
        assert running.record.count("add") == target.writes == 1, "what was made is said, and nothing more is sent"
