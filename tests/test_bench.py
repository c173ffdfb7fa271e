"""What the benchmarks make of their samples."""

from __future__ import annotations

import asyncio
import random
import struct
from statistics import median

import pytest

from tests.bench import cold, records
from tests.bench.counting import Calls, Piped, Session
from tests.bench.figures import P50, P99, Ratio, exponent, line, quantile, ratio
from tests.bench.sides import KINDS, jute, kind
from tests.bench.table import Row, lines
from tests.kit import natives
from tests.kit.waiting import until
from tests.servers.etcd import Etcd
from tests.servers.zookeeper import ZooKeeper


def blocks(factor: float, count: int = 40, seed: int = 1) -> list[tuple[list[float], list[float]]]:
    """Two arms on a machine that is disturbed now and then, the first slower by a factor."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        disturbed = 3.0 if rng.random() < 0.2 else 1.0
        ours, raw = ([disturbed * rng.lognormvariate(0, 0.3) for _ in range(50)] for _ in range(2))
        made.append(([factor * each for each in ours], raw))
    return made


def test_an_interval_holds_the_ratio_though_the_machine_was_disturbed() -> None:
    found = ratio(blocks(1.2))
    assert found.low < 1.2 < found.high
    assert found.high - found.low < 0.3


def test_equal_arms_have_a_ratio_of_one_within_their_interval() -> None:
    for statistic in (P50, P99):
        found = ratio(blocks(1.0, seed=7), statistic)
        assert found.low < 1.0 < found.high


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.0, 0.0)])
def test_a_quantile_is_a_sample_with_that_share_below_it(share: float, expected: float) -> None:
    assert quantile(share)([float(n) for n in reversed(range(100))]) == expected


def test_slope_intercept_and_growth_are_those_of_the_line() -> None:
    assert line([(0, 5), (10, 25), (20, 45)]) == pytest.approx((2, 5))
    assert exponent([(1e3, 7), (1e4, 7), (1e5, 7)]) == pytest.approx(0)
    assert exponent([(1e3, 1), (1e4, 10), (1e5, 100)]) == pytest.approx(1)


async def test_what_a_store_is_asked_is_counted_by_kind(etcd: Etcd, zookeeper: ZooKeeper) -> None:
    async with Calls(etcd.address) as calls, natives.Etcd(calls.address) as client, client.history() as seen:
        await client.put("/microservices/pay/i1", "x")
        await until(lambda: len(seen) == 1)
        await client.below()
        assert dict(calls.requests) == {"Range": 2, "Watch": 1, "Put": 1}
    async with Piped(zookeeper.address, Session) as proxy:
        session = await jute.Session.begun(proxy.address, 10)
        await session.ask(jute.create("/pay", b"x" * 100_000, jute.PERSISTENT))
        await asyncio.gather(*(session.ask(jute.exists("/pay")) for _ in range(3)))
        session.close()
        assert dict(proxy.requests) == {"connect": 1, "create": 1, "exists": 3}


def test_a_goal_is_held_against_the_worse_bound() -> None:
    slower = Row(name="x", unit="s", ours=2, raw=1, ratio=Ratio(1.4, 1.3, 1.6), limit=1.5)
    assert slower.judged == 1.6
    assert not slower.passed
    more = Row(name="x", unit="/s", ours=7, raw=10, ratio=Ratio(0.7, 0.5, 0.9), limit=0.6, at_least=True)
    assert more.judged == 0.5
    assert not more.passed
    assert Row(name="writes", unit="", ours=0, limit=0).passed


def test_a_missed_goal_is_printed() -> None:
    table = lines([Row(name="memory", unit="B", ours=1300.4, limit=1200).cells()])
    assert table[-1].split() == ["memory", "-", "1,300", "B", "-", "-", "<=", "1,200", "MISSED"]


@pytest.mark.parametrize("name", KINDS)
def test_the_mark_of_a_record_is_found_again_and_no_two_records_are_equal(name: str) -> None:
    side = kind(name).open("127.0.0.1:1", "/bench/")
    fleet = {records.path(number): side.value(number) for number in range(500)}
    assert len(fleet) == len(set(fleet.values())) == 500
    assert len({path.partition("/")[0] for path in fleet}) == 50
    assert records.mark(side.value(3, 12345)) == 12345
    assert median(len(value) for value in fleet.values()) > 200


def test_the_arms_of_a_cold_row_take_turns_after_a_raw_one_to_warm_up() -> None:
    orders = [cold.order(turn) for turn in range(-1, 6)]
    assert orders[0] == ("raw",)
    assert [order[0] for order in orders[1:]] == 2 * list(cold.ARMS)
    assert all(sorted(order) == sorted(cold.ARMS) for order in orders[1:])


def test_what_many_reads_found_is_told_apart_from_what_is_not_there() -> None:
    one, none, end = (
        struct.pack("!iBi", 4, False, 0),
        struct.pack("!iBii", -1, False, -101, -101),
        b"\xff\xff\xff\xff\1" + b"\xff" * 4,
    )
    stat = bytes(68)
    answer = one + jute.text("v") + stat + none + one + struct.pack("!i", -1) + stat + end
    assert jute.values(memoryview(answer)) == [b"v", None, b""]
    lists = struct.pack("!iBi", 8, False, 0) + struct.pack("!i", 2) + jute.text("a") + jute.text("b")
    assert jute.children(memoryview(lists + none + end)) == [["a", "b"], []]
