"""Last known good: what comes back from the disk is what was seen, whatever happened to the file and the disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.adapter import Listing, Observed, Synced
from bridge.model import Health, Instance, Mark, Port, Service, ServiceName
from bridge.sources.store import Store
from bridge.sources.view import View
from bridge.state import known_lines
from bridge.state import last_known as module
from bridge.state.last_known import Known
from bridge.state.log_file import SMALL
from tests.kit.disks import fill, hung, remount, tiny


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def instance(key: str, weight: float = 1.0) -> Instance:
    return Instance(key, "192.0.2.1", (Port(80, "http", "http"),), Health.HEALTHY, weight, metadata={"team": "pay"})


def service(name: str, *keys: str, weight: float = 1.0, marked: bool = False) -> Service:
    full = ServiceName.parse(name)
    marks = {key: Mark("other", "l", ("file", "etcd"), "", full, key) for key in keys} if marked else {}
    return Service(full, {key: instance(key, weight) for key in keys}, marks)


class Bench:
    """A store whose views are kept in a folder."""

    def __init__(self, folder: Path | None, small: int = SMALL) -> None:
        self.clock = Clock()
        self.known = Known(folder, self.clock, small)
        self.store = Store(self.clock, recorder=self.known)
        self.view = self.opened("core")

    def opened(self, registry: str, scope: str = "", revision: int = 5) -> View:
        view = self.store.view(registry, scope)
        view.begin(Listing(f"id-of-{registry}{scope}", "first", revision))
        view.sync(Synced(revision))
        return view

    def see(self, *services: Service) -> None:
        for one in services:
            self.view.observe(Observed(one))

    async def again(self, folder: Path) -> dict[ServiceName, Service]:
        """What another process finds."""
        await self.known.writing.flush()
        return reread(folder)


def reread(folder: Path, registry: str = "core") -> dict[ServiceName, Service]:
    found = Known(folder, Clock()).load([registry])
    return found[0].services if found else {}


async def test_what_was_seen_comes_back_with_who_was_heard_and_when(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.see(service("pay", "a", "b"), service("ns:pay", "c", marked=True))
    west = bench.opened("core", "west", 77)
    west.observe(Observed(service("web", "w")))
    bench.clock.now = 1234.0
    await bench.known.writing.flush()
    first, second = Known(tmp_path, Clock()).load(["core", "never-seen"])
    assert (first.registry, first.scope, first.identity) == ("core", "", "id-of-core")
    assert (first.incarnation, first.revision, first.at) == ("first", 5, 1234.0)
    assert first.services == bench.view.services
    assert (second.scope, second.revision, second.services) == ("west", 77, west.services)


async def test_increments_over_the_base_give_the_newest_state(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.see(service("pay", "a", "b", marked=True), service("web", "w"), service("old", "o"))
    await bench.known.writing.flush()
    base = (tmp_path / "core.log").read_bytes()
    bench.see(service("pay", "b", "c", weight=2.0), service("old"), service("new", "n"))
    assert await bench.again(tmp_path) == bench.view.services
    assert (tmp_path / "core.log").read_bytes().startswith(base)
    assert not reread(tmp_path)[ServiceName("pay")].marks
    bench.see(service("pay"), service("web"), service("new"), service("old", "o2"))
    assert await bench.again(tmp_path) == {ServiceName("old"): service("old", "o2")}


async def test_a_restart_goes_on_with_the_file_that_it_found(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.see(service("pay", "a"), service("web", "w"))
    await bench.known.writing.flush()
    second = Bench.__new__(Bench)
    second.clock = Clock()
    second.known = Known(tmp_path, second.clock)
    second.store = Store(second.clock, recorder=second.known)
    (was,) = second.known.load(["core"])
    second.view = second.store.view("core", "")
    second.view.restore(was.identity, was.incarnation, was.revision, was.services)
    second.opened("core")
    second.see(service("pay", "a", "b"))
    assert await second.again(tmp_path) == {ServiceName("pay"): service("pay", "a", "b")}


async def test_a_scope_that_is_dark_is_carried_into_the_next_base(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.opened("core", "dark").observe(Observed(service("web", "w")))
    bench.see(service("pay", "a"))
    await bench.known.writing.flush()
    after = Bench.__new__(Bench)
    after.clock = Clock()
    after.known = Known(tmp_path, after.clock, small=0)
    after.known.load(["core"])
    after.store = Store(after.clock, recorder=after.known)
    after.view = after.opened("core")
    for count in range(20):
        after.see(service("pay", f"a{count}"))
        await after.known.writing.flush()
    found = {one.scope: one.services for one in Known(tmp_path, Clock()).load(["core"])}
    assert found == {"": {ServiceName("pay"): service("pay", "a19")}, "dark": {ServiceName("web"): service("web", "w")}}


async def test_a_file_torn_at_any_byte_gives_the_state_before_the_tear(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    states: list[dict[ServiceName, Service]] = [{}]
    for step in range(4):
        bench.see(service("pay", *(f"i{number}" for number in range(step + 1))), service(f"s{step}", "x"))
        states.append(await bench.again(tmp_path))
    path = tmp_path / "core.log"
    content = path.read_bytes()
    last = -1
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        found = reread(tmp_path)
        place = states.index(found) if found in states else -1
        assert place >= last, f"an older or unknown state after {size} bytes: {found}"
        last = place
    assert last == 4


@pytest.mark.parametrize("damage", [b"\0", b"\n", b"x", b'"'])
async def test_a_damaged_byte_ends_the_file_there_and_the_next_write_heals_it(tmp_path: Path, damage: bytes) -> None:
    bench = Bench(tmp_path)
    good = []
    for step in range(3):
        bench.see(service(f"s{step}", "x"))
        good.append(await bench.again(tmp_path))
    path = tmp_path / "core.log"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        if content[place : place + 1] == damage:
            continue
        path.write_bytes(content[:place] + damage + content[place + 1 :])
        after = Known(tmp_path, Clock())
        found = after.load(["core"])
        assert not found or found[0].services in ({}, *good[:-1]) or place > len(content) - 120
        assert after.damaged
        store = Store(Clock(), recorder=after)
        view = store.view("core", "")
        view.begin(Listing("id-of-core", "first", 5))
        view.observe(Observed(service("healed", "h")))
        view.sync(Synced(5))
        await after.writing.flush()
        healed = Known(tmp_path, Clock())
        assert healed.load(["core"])[0].services[ServiceName("healed")] == service("healed", "h")
        assert not healed.damaged, place


async def test_the_file_stays_small_however_often_one_instance_changes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, small=4096)
    bench.see(*(service(f"s{number}", "a", "b") for number in range(20)))
    for turn in range(300):
        bench.see(service("s0", "a", "b", weight=float(turn)))
        await bench.known.writing.flush()
    assert (tmp_path / "core.log").stat().st_size < 4 * len(
        msgspec.json.encode(bench.view.services[ServiceName("s0")])
    ) * 20
    assert reread(tmp_path) == bench.view.services
    assert [path.name for path in tmp_path.iterdir()] == ["core.log"]


async def test_a_large_state_is_written_in_slices_and_read_back_whole(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.see(service("huge", *(f"i{number}" for number in range(2 * known_lines.BLOCK + 1))))
    bench.see(*(service(f"s{number}", "a", "b", "c") for number in range(known_lines.BLOCK)))
    assert await bench.again(tmp_path) == bench.view.services
    sizes = [
        sum(len(one.instances) for one in line.services)
        for line, _ in known_lines.lines((tmp_path / "core.log").read_bytes())
    ]
    assert max(sizes) <= known_lines.BLOCK


async def test_a_store_that_is_not_believed_does_not_replace_who_was_known(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.see(service("pay", "a"))
    await bench.known.writing.flush()
    bench.view.begin(Listing("a-stranger", "first", 99))
    bench.view.observe(Observed(service("pay", "b"), revision=99))
    bench.clock.now += 120
    await bench.known.writing.flush()
    (found,) = Known(tmp_path, Clock()).load(["core"])
    assert (found.identity, found.revision) == ("id-of-core", 5)
    bench.view.believe()
    await bench.known.writing.flush()
    (found,) = Known(tmp_path, Clock()).load(["core"])
    assert (found.identity, found.revision) == ("a-stranger", 99)


async def test_each_instance_comes_back_as_told_by_the_store_that_told_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, small=0)
    bench.see(service("pay", "a", "b"), service("web", "w"))
    await bench.known.writing.flush()
    bench.view.begin(Listing("a-stranger", "first", 99))
    bench.see(service("pay", "b", "c", weight=2.0))

    def told() -> dict[str, str]:
        (found,) = Known(tmp_path, Clock()).load(["core"])
        return {
            f"{name}/{id}": found.former.get(name, {}).get(id, found.identity)
            for name, one in found.services.items()
            for id in one.instances
        }

    expected = {"pay/a": "id-of-core", "pay/b": "a-stranger", "pay/c": "a-stranger", "web/w": "id-of-core"}
    for weight in range(3, 7):  # appended to what was written, and in a base of its own
        await bench.known.writing.flush()
        assert told() == expected
        bench.see(service("pay", "b", "c", weight=weight))
    bench.view.believe()
    await bench.known.writing.flush()
    assert told() == expected


async def test_the_age_is_that_of_the_last_word_of_the_scope(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.see(service("pay", "a"))
    await bench.known.writing.flush()
    bench.clock.now = 5000.0
    await bench.known.writing.flush()
    assert Known(tmp_path).load(["core"])[0].at == 5000.0
    bench.view.down("gone", 0.0)
    bench.clock.now = 9000.0
    await bench.known.writing.flush()
    assert Known(tmp_path).load(["core"])[0].at == 5000.0


async def test_nothing_is_written_while_nothing_happens(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.see(service("pay", "a"))
    await bench.known.writing.flush()
    before = (tmp_path / "core.log").stat()
    for _ in range(10):
        bench.clock.now += 1
        await bench.known.writing.flush()
    assert (tmp_path / "core.log").stat() == before


async def test_a_full_disk_is_said_and_healed_from_memory(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        bench = Bench(disk)
        bench.see(service("pay", "a"))
        await bench.known.writing.flush()
        kept = reread(disk)
        ballast = fill(disk)
        bench.see(*(service(f"s{number}", "a") for number in range(100)))
        bench.clock.now = 2000.0
        await bench.known.writing.flush()
        assert bench.known.writing.fault is not None
        assert (bench.known.writing.fault.since, bench.known.writing.fault.reason[:23]) == (
            2000.0,
            "No space left on device",
        )
        assert reread(disk) == kept
        bench.clock.now += 60
        await bench.known.writing.flush()
        assert bench.known.writing.fault.since == 2000.0
        bench.see(service("s0"))
        ballast.unlink()
        bench.clock.now += 60
        assert await bench.again(disk) == bench.view.services
        assert bench.known.writing.fault is None


async def test_a_disk_that_becomes_read_only_is_said_and_healed(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        bench = Bench(disk)
        bench.see(service("pay", "a"))
        await bench.known.writing.flush()
        remount(disk, "ro")
        bench.see(service("web", "w"))
        await bench.known.writing.flush()
        assert bench.known.writing.fault is not None
        assert bench.known.writing.fault.reason.startswith("Read-only file system")
        remount(disk, "rw")
        bench.clock.now += 60
        assert await bench.again(disk) == bench.view.services
        assert bench.known.writing.fault is None


async def test_what_is_collected_is_written_when_the_daemon_stops(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    running = asyncio.create_task(bench.known.writing.run())
    await asyncio.sleep(0)
    bench.see(service("pay", "a"))
    running.cancel()
    await asyncio.wait((running,))
    assert reread(tmp_path) == bench.view.services


async def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    bench = Bench(None)
    bench.see(service("pay", "a"))
    await bench.known.writing.flush()
    assert bench.known.load(["core"]) == []


@settings(deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["pay", "ns:web"]), st.sets(st.sampled_from("abc")), st.booleans()), max_size=3
        ),
        max_size=6,
    )
)
def test_any_history_comes_back(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[tuple[str, set[str], bool]]]
) -> None:
    folder = tmp_path_factory.mktemp("known")

    async def live() -> None:
        bench = Bench(folder)
        for turn in history:
            bench.see(*(service(name, *sorted(keys), marked=marked) for name, keys, marked in turn))
            assert await bench.again(folder) == bench.view.services

    asyncio.run(live())


async def test_a_disk_that_hangs_holds_up_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "known"
    folder.mkdir()
    bench = Bench(folder)
    bench.see(service("pay", "a"))
    with hung(folder):
        writing = asyncio.ensure_future(bench.known.writing.flush())
        done, _ = await asyncio.wait((writing,), timeout=0.2)
        assert not done
    await writing
    assert bench.known.writing.fault is not None
    bench.clock.now += module.RETRY
    assert await bench.again(folder) == {ServiceName("pay"): service("pay", "a")}
    assert bench.known.writing.fault is None
