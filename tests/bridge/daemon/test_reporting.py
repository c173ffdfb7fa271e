"""What the daemons of a bridge tell each other of requests, by notes that both read."""

from __future__ import annotations

import time

import pytest

from adapters.memory.seat import MemoryNotes
from adapters.memory.server import Store
from bridge.daemon.reporting import Reporting
from bridge.migration import parity, quiet, reports
from bridge.migration.intent import Requests

DAY = 86_400.0


def reached(host: str, at: float) -> parity.Report:
    return parity.Report(link="mesh", from_=host, at=at, answered=("192.0.2.1:80",))


def listened(at: float) -> quiet.Listening:
    watched = quiet.Watch(address="192.0.2.1", port=80, since=at)
    return quiet.Listening(of="pay from", host="a", at=at, watched=(watched,))


@pytest.fixture
def notes() -> MemoryNotes:
    return MemoryNotes(Store("store"), "b1")


async def test_who_does_not_move_the_steps_is_told_what_was_measured(notes: MemoryNotes) -> None:
    leader, other = Reporting(), Reporting()
    leader.measured = {"pay/api": Requests(share=25.0, at=1.0), "pay/gone": Requests(share=1.0)}
    leader.forget({"pay/api"})
    await leader.look(notes, leads=True)
    await other.look(notes, leads=False)
    assert other.measured == {"pay/api": Requests(share=25.0, at=1.0)}


async def test_a_newer_report_of_a_host_takes_the_place_of_its_older_one(notes: MemoryNotes) -> None:
    one, other, now = Reporting(), Reporting(), time.time()
    assert await one.keep(notes, [reached("a", now - 60), listened(now)]) == ""
    assert await one.keep(notes, [reached("a", now), reached("b", now)]) == ""
    await other.look(notes, leads=False)
    assert sorted(other.known.reached, key=lambda one: one.from_) == [reached("a", now), reached("b", now)]
    assert other.known.listening == (listened(now),)


async def test_a_report_counts_for_a_day_and_is_removed_then(notes: MemoryNotes) -> None:
    one = Reporting()
    assert "more than a day old" in await one.keep(notes, [reached("a", time.time() - DAY - 1)])
    await notes.write(reports.key(reached("a", 0.0)), b'{"link": "mesh", "from": "a", "at": 0}', None)
    await one.look(notes, leads=False)
    assert one.known == reports.Reports() and await notes.below(reports.BELOW) == {}


async def test_a_report_that_cannot_be_kept_is_refused(notes: MemoryNotes) -> None:
    one, now = Reporting(), time.time()
    long = parity.Report(link="mesh", from_="a", at=now, answered=tuple(f"192.0.2.1:{at}" for at in range(10_000)))
    assert "--limit" in await one.keep(notes, [long])
    many = [reached(f"host-{at}", now) for at in range(reports.MOST + 1)]
    assert f"more than {reports.MOST}" in await one.keep(notes, many)
    assert one.known == reports.Reports()


def test_a_report_of_either_kind_is_told_by_what_it_has() -> None:
    row = b'{"address": "192.0.2.1", "port": 80, "service": "pay", "reason": "refused"}'
    found = reports.decoded(b'{"link": "mesh", "from": "a", "at": 1, "unreached": [' + row + b"]}")
    assert isinstance(found, parity.Report) and found.unreached == ({"address": "192.0.2.1", "port": 80},)
    for text in (b"[]", b"no JSON", b'{"watched": 3}', b"{}"):
        with pytest.raises(ValueError, match=r"JSON|array|field"):
            reports.decoded(text)
