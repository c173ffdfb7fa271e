"""Notes that an older version kept at another place, in each store that may have such notes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from adapters import etcd as of_etcd
from adapters import file as of_file
from adapters import zookeeper as of_zookeeper
from adapters.common.seat import LEFT
from bridge.adapter import Registry
from bridge.errors import Superseded
from tests.kit.natives import Etcd, Kazoo
from tests.kit.seated import Seated
from tests.servers.etcd import Etcd as EtcdServer
from tests.servers.zookeeper import ZooKeeper

OLD = b'{"format":1,"turn":3}'


class Store(NamedTuple):
    """`leave` writes the old note as that version did, `left` reads the old place; None: nothing is there."""

    make: Callable[[], Registry]
    leave: Callable[[], Awaitable[None]]
    left: Callable[[], Awaitable[bytes | None]]


@pytest.fixture
async def in_etcd(etcd: EtcdServer) -> AsyncIterator[Store]:
    place = "/isthmus/desk/b1/kratos:%2Fmicroservices%2F"
    async with Etcd(etcd.address) as native:

        async def leave() -> None:
            await native.put(place, OLD.decode())

        async def left() -> bytes | None:
            found = await native.below("/isthmus/desk/")
            return bytes(found[0].value) if found else None

        config = of_etcd.Config(endpoints=[f"http://{etcd.address}"], layout="kratos")
        yield Store(lambda: of_etcd.create("core", config, None), leave, left)


@pytest.fixture
async def in_zookeeper(zookeeper: ZooKeeper) -> AsyncIterator[Store]:
    place = "/isthmus/desk/b1/curator:%2Fservices"
    async with Kazoo(zookeeper.address) as native:

        async def leave() -> None:
            await native.do(native.zk.ensure_path, place)
            await native.do(native.zk.set, place, OLD)

        async def left() -> bytes | None:
            there = await native.do(native.zk.exists, place)
            return bytes((await native.do(native.zk.get, place))[0]) if there else None

        config = of_zookeeper.Config(hosts=[zookeeper.address], layout="curator")
        yield Store(lambda: of_zookeeper.create("core", config, None), leave, left)


@pytest.fixture
async def in_a_folder(tmp_path: Path) -> Store:
    place = tmp_path / ".isthmus" / "desk.b1"

    async def leave() -> None:
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(OLD)

    async def left() -> bytes | None:
        return place.read_bytes() if place.exists() else None

    return Store(lambda: of_file.create("core", of_file.Config(path=str(tmp_path)), None), leave, left)


@pytest.fixture(params=["in_etcd", "in_zookeeper", "in_a_folder"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


async def test_a_note_of_an_older_version_is_moved_by_the_next_writer(store: Store) -> None:
    await store.leave()
    async with store.make() as registry:
        seat = Seated(registry, "b1")
        async with seat.writer():
            old = await seat.recall()
            assert old is not None
            assert old.content == OLD
            made = await seat.note(b"new", old, writer=True)
            assert await seat.recall() == made
            assert await store.left() == LEFT
            await seat.note(b"newer", made, writer=True)
    async with store.make() as registry:
        note = await Seated(registry, "b1").recall()
        assert note is not None
        assert note.content == b"newer"


async def test_what_an_older_version_wrote_since_is_emptied_by_the_next_term(store: Store) -> None:
    await store.leave()
    async with store.make() as registry:
        seat = Seated(registry, "b1")
        async with seat.writer():
            made = await seat.note(b"new", await seat.recall(), writer=True)
        await store.leave()
        async with seat.writer():
            assert await seat.recall() == made
            made = await seat.note(b"newer", made, writer=True)
            assert await store.left() == LEFT
            assert await seat.recall() == made


async def test_nothing_is_left_where_no_older_version_ever_was(store: Store) -> None:
    async with store.make() as registry:
        seat = Seated(registry, "b1")
        async with seat.writer():
            assert await seat.recall() is None
            await seat.note(b"new", None, writer=True)
        assert await store.left() is None


async def test_a_writer_that_lost_its_lock_moves_no_note(store: Store) -> None:
    await store.leave()
    async with store.make() as registry:
        seat = Seated(registry, "b1")
        async with seat.writer():
            old = await seat.recall()
        with pytest.raises(Superseded):
            await seat.note(b"new", old, writer=True)
        assert await store.left() == OLD
        assert await seat.recall() == old
