"""One writer at a time, fenced by the store; and the leases of entries that do not outlive their bridge."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from adapters.etcd.keys import is_ours
from adapters.etcd.times import TIMES, Times
from bridge.errors import Superseded
from bridge.model import ServiceName
from tests.adapters.etcd.lab import (
    USER,
    Natives,
    admin,
    create,
    entry,
    errors,
    key,
    mark,
    record,
    registry,
    remove,
    replace,
)
from tests.conftest import StartEtcd
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.etcd import Etcd, cluster

LOCK = "/isthmus/lock/b1/kratos:%2Fmicroservices%2F"


async def test_two_writers_of_one_bridge_id_are_never_at_work_at_once(etcd: Etcd, natives: Natives) -> None:
    writing = 0

    async def contend() -> None:
        nonlocal writing
        async with registry(etcd) as opened, Seated(opened, "b1").writer():
            writing += 1
            assert writing == 1
            assert set(json.loads((await natives.get(LOCK))[LOCK])) == {"host", "pid", "since"}
            writing -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(contend())
    assert await natives.get("/isthmus/lock/") == {}


async def test_a_standby_takes_over_at_once_when_the_writer_leaves(etcd: Etcd) -> None:
    async with registry(etcd) as first, registry(etcd) as second:
        standing_by = Seated(second, "b1")
        async with asyncio.timeout(TIMES.lock / 2):
            async with Seated(first, "b1").writer():
                waiting = asyncio.create_task(standing_by.writer().__aenter__())
                await asyncio.sleep(0)
                assert not waiting.done()
            await waiting


async def test_bridges_and_destinations_do_not_stand_in_each_others_way(etcd: Etcd) -> None:
    async with (
        registry(etcd) as one,
        registry(etcd, layout="grpc") as two,
        Seated(one, "b1").writer(),
        Seated(one, "b2").writer(),
        Seated(two, "b1").writer(),
    ):
        pass


async def test_nothing_is_written_without_the_lock(etcd: Etcd, natives: Natives) -> None:
    async with registry(etcd) as opened:
        sink = Seated(opened, "b1")
        with pytest.raises(Superseded):
            await sink.apply([create("i1")])
        async with sink.writer():
            pass
        with pytest.raises(Superseded):
            await sink.apply([create("i1")])
    assert await natives.get("/microservices/") == {}


async def test_a_writer_paused_beyond_its_lease_writes_nothing_when_it_wakes(etcd: Etcd, natives: Natives) -> None:
    """Its process does not know yet that the lock is another's: the store does."""
    async with registry(etcd) as first, registry(etcd) as second:
        paused, other = Seated(first, "b1"), Seated(second, "b1")
        async with paused.writer() as term:
            (made,) = await paused.apply([create("i1")])
            await natives.delete(LOCK)  # as its expiry would
            async with other.writer():
                assert not term.lost.is_set()
                await other.apply([create("i2")])
                before = await natives.get("/")
                for changes in (
                    [create("i3")],
                    [replace("i1", entry(made), address="10.0.0.9")],
                    [remove("i1", entry(made))],
                    [create(f"x{n}", service=ServiceName(f"s{n}")) for n in range(200)],
                ):
                    with pytest.raises(Superseded):
                        await paused.apply(changes)
                assert await natives.get("/") == before


async def test_a_term_ends_with_the_locks_lease(etcd: Etcd, natives: Natives) -> None:
    async with registry(etcd, Times(lock=3)) as opened:
        sink = Seated(opened, "b1")
        async with sink.writer() as term:
            leases = (await admin(etcd, "lease/leases"))["leases"]
            for lease in leases:
                await natives.revoke(int(lease["ID"]))
            async with asyncio.timeout(20):
                await term.ended()
            with pytest.raises(Superseded):
                await sink.apply([create("i1")])


@pytest.mark.parametrize("damage", ["freeze", "kill"])
async def test_a_term_ends_when_the_lease_may_have_ended_for_all_we_know(etcd_server: StartEtcd, damage: str) -> None:
    server = await etcd_server()
    async with registry(server, Times(lock=3)) as opened, Seated(opened, "b1").writer() as term:
        begun = asyncio.get_running_loop().time()
        if damage == "freeze":
            server.freeze()
        else:
            await server.kill()
        await term.ended()
        assert asyncio.get_running_loop().time() - begun < 3.5, "another may be the writer by now"
        if damage == "freeze":
            server.thaw()


@pytest.mark.parametrize("damage", ["freeze", "kill"])
async def test_the_lock_outlives_the_loss_of_the_member_that_it_is_kept_alive_through(
    tmp_path_factory: pytest.TempPathFactory, damage: str
) -> None:
    times = Times(lock=4)
    async with cluster(tmp_path_factory.mktemp("cluster")) as members:
        urls = [member.url for member in members]
        async with registry(members[0], times, endpoints=urls) as opened:
            sink = Seated(opened, "b1")
            async with sink.writer() as term:
                await sink.apply([create("i1")])
                if damage == "freeze":
                    members[0].freeze()
                else:
                    await members[0].kill()
                loop = asyncio.get_running_loop()
                begun = loop.time()
                while loop.time() < begun + times.lock + 1:
                    assert not term.lost.is_set()
                    await asyncio.sleep(0.1)
                assert errors(await sink.apply([create("i2")])) == [None]


async def remaining(server: Etcd, lease: int) -> int:
    """Seconds that a lease has left; 0 where there is none."""
    return int((await admin(server, "lease/timetolive", ID=str(lease))).get("TTL", "0"))


async def leases_of(server: Etcd) -> list[int]:
    found = (await admin(server, "lease/leases")).get("leases", [])
    return [int(each["ID"]) for each in found if is_ours(int(each["ID"]))]


async def test_leased_entries_are_kept_alive_by_the_next_process_of_their_bridge(etcd: Etcd, natives: Natives) -> None:
    others = await leases_of(etcd)
    async with registry(etcd) as opened:
        sink = Seated(opened, "b1")
        async with sink.writer():
            outcomes = await sink.apply([create("i1", ttl=6), create("i2", ttl=6), create("i3", ttl=7), create("i4")])
            assert errors(outcomes) == [None] * 4
    leases = [lease for lease in await leases_of(etcd) if lease not in others]
    assert len(leases) == 2, "one lease for each lifetime"
    assert len(await natives.get("/microservices/")) == 4, "an orderly end leaves the entries to their leases"
    async with registry(etcd) as opened:
        sink = Seated(opened, "b1")
        async with sink.writer():
            held = await sink.held()
            assert len(held.services[USER]) == 4
            for lease in leases:
                least = await remaining(etcd, lease)
                deadline = asyncio.get_running_loop().time() + 20
                while (now := await remaining(etcd, lease)) <= least:  # it is renewed
                    assert asyncio.get_running_loop().time() < deadline
                    least = min(least, now)
                    assert least, "it expired"
                    await asyncio.sleep(0.05)
            assert errors(await sink.apply([create("i5", ttl=6)])) == [None]
            assert sorted(await leases_of(etcd)) == sorted(leases + others)


async def test_what_goes_with_a_lease_is_drift_and_can_be_written_again(etcd: Etcd, natives: Natives) -> None:
    async with registry(etcd) as opened:
        sink = Seated(opened, "b1")
        async with sink.writer(), aclosing(sink.drift()) as drift:  # type: ignore[type-var]
            assert await anext(drift) == frozenset()
            assert errors(await sink.apply([create("i1", ttl=60)])) == [None]
            for lease in await leases_of(etcd):
                await natives.revoke(lease)
            assert await anext(drift) == {USER}
            held = await sink.held([USER])
            assert held.services == {}
            assert held.loose == {}
            outcomes = await sink.apply([create("i1", ttl=60)])
            if outcomes[0].error:  # the loss of the lease was found by this write
                outcomes = await sink.apply([create("i1", ttl=60)])
            assert errors(outcomes) == [None]


async def test_drift_is_what_others_do_and_never_what_we_do(natives: Natives, etcd: Etcd) -> None:
    async with registry(etcd) as opened:
        sink = Seated(opened, "b1")
        seen: list[frozenset[ServiceName]] = []

        async def follow() -> None:
            async with aclosing(sink.drift()) as drift:  # type: ignore[type-var]
                async for names in drift:
                    seen.append(names)

        following = asyncio.create_task(follow())
        try:
            await until(lambda: seen)
            async with sink.writer():
                outcomes = await sink.apply([create(f"i{n}", service=ServiceName(f"s{n % 5}")) for n in range(300)])
                removals = [
                    remove(outcome.change.id, entry(outcome), outcome.change.service) for outcome in outcomes[:200]
                ]
                assert set(errors(await sink.apply(removals))) == {None}
                await natives.put((key("i299", "s4"), record("i299", service="s4")))
                await natives.delete(key("i298", "s3"))
                async with registry(etcd) as other:
                    another = Seated(other, "b2")
                    async with another.writer():
                        await another.apply([create("last", owner="b2", service=ServiceName("last"))])
            await until(lambda: frozenset({ServiceName("last")}) in seen)
            assert seen[0] == frozenset()
            assert frozenset().union(*seen) == {ServiceName("s4"), ServiceName("s3"), ServiceName("last")}
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_marks_name_their_owner_whoever_reads_them(etcd: Etcd) -> None:
    async with registry(etcd) as one, registry(etcd) as two:
        sink = Seated(one, "b1")
        async with sink.writer():
            await sink.apply([create("i1")])
        held = await Seated(two, "b2").held()
        assert held.services[USER]["i1"].mark == mark("i1", "b1")
