"""A disk that hangs: every file that an adapter reads or writes is asked for beside the loop, which goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from adapters.common.credentials import Tls, from_file
from adapters.common.disk import Question, WriteBehind
from adapters.common.http import Http
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import RANGE, Client, Credentials
from adapters.eureka.life import Lives
from adapters.kubernetes.access import Keeper
from adapters.zookeeper.client import Client as ZooKeeper
from adapters.zookeeper.config import Config, Digest
from adapters.zookeeper.session_file import CarriedSession
from bridge.errors import IsthmusError, Unavailable
from tests.kit.disks import hung
from tests.kit.waiting import until

DEAD = "127.0.0.1:1"  # nobody listens there
Ask = Callable[[str], Awaitable[object]]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


async def test_a_question_that_the_disk_does_not_answer_costs_one_thread(disk: Path) -> None:
    (disk / "token").write_text("one")
    reads = 0

    def read() -> str:
        nonlocal reads
        reads += 1
        return (disk / "token").read_text()

    question = Question(read, "the token", patience=0.1)
    assert await question.answer() == "one"
    with hung(disk):
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"the token: the disk has not answered for 0\.1 s"):
                await question.answer()
    assert reads == 2

    async def answers() -> bool:
        try:
            return await question.answer() == "one"
        except OSError:  # the disk was torn off
            return False

    await until(answers, "the disk is back")


async def test_an_answer_serves_for_a_while_unless_it_is_doubted(disk: Path) -> None:
    (disk / "token").write_text("one")
    lasting = Question((disk / "token").read_text, "the token", fresh=3600.0)
    short = Question((disk / "token").read_text, "the token", fresh=0.05)
    assert [await lasting.answer(), await short.answer()] == ["one", "one"]
    (disk / "token").write_text("two")

    async def renewed() -> bool:
        return await short.answer() == "two"

    await until(renewed)
    with hung(disk):
        assert await lasting.answer() == "one"
    (disk / "token").write_text("two")
    lasting.doubt()
    assert await lasting.answer() == "two"


async def test_the_newest_content_is_written_once_the_disk_answers(disk: Path) -> None:
    def write(content: bytes) -> None:
        (disk / "state").write_bytes(content)

    latest = WriteBehind(write)
    latest.put(b"1")
    await latest.flush()
    with hung(disk):
        for number in range(2, 10):
            latest.put(b"%d" % number)
        await latest.flush(patience=0.1)
    latest.put(b"10")
    await latest.flush()
    assert (disk / "state").read_bytes() == b"10"


async def _http(path: str) -> object:
    return await Http([f"http://{DEAD}"], headers=lambda: {"x-token": from_file(path)()}).call("GET", "/")


async def _https(path: str) -> object:
    return await Http([f"https://{DEAD}"], tls=Tls(ca=path)).call("GET", "/")


async def _etcd(path: str) -> object:
    return await Client([f"http://{DEAD}"], None, Credentials("b", from_file(path))).call(RANGE, pb.RangeRequest())


async def _etcd_tls(path: str) -> object:
    return await Client([f"https://{DEAD}"], Tls(ca=path)).call(RANGE, pb.RangeRequest())


async def _kubernetes(path: str) -> object:
    return await Keeper(path, None).access()


async def _zookeeper(path: str) -> None:
    auth = Digest(user="b", password_file=path)
    await ZooKeeper(Config(hosts=[DEAD], layout="curator", auth=auth)).connected()


@pytest.mark.parametrize(
    "ask", [_http, _https, _etcd, _etcd_tls, _kubernetes, _zookeeper], ids=lambda ask: ask.__name__
)
async def test_credentials_on_a_disk_that_hangs_hold_up_their_registry_alone(disk: Path, ask: Ask) -> None:
    (disk / "secret").write_text("s3cret")
    with hung(disk):
        asking = asyncio.ensure_future(ask(str(disk / "secret")))
        done, _ = await asyncio.wait((asking,), timeout=0.2)
        assert not done
    with pytest.raises((IsthmusError, OSError)):  # the disk was torn off
        await asking


async def test_a_session_file_on_a_disk_that_hangs_is_done_without(disk: Path) -> None:
    carried = CarriedSession(disk / "lab.session", patience=0.1)
    with hung(disk):
        assert await carried.take() is None
        carried.keep(7, b"secret")
        carried.forget()
        await carried.close()
    again = CarriedSession(disk / "lab.session")
    assert await again.take() is None
    again.keep(8, b"secret")
    await again.close()
    after = CarriedSession(disk / "lab.session")
    assert await after.take() == (8, b"secret")
    await after.close()


async def test_what_is_known_of_a_eureka_is_kept_beside_the_loop(disk: Path) -> None:
    lives = Lives(disk / "eureka.json", lambda: 1_800_000_000.0)
    with hung(disk):
        lives.begin("http://192.0.2.1/eureka", 1, 0)
    lives.saw("http://192.0.2.2/eureka", 1, 0)
    await lives.close()
    assert Lives(disk / "eureka.json").life == lives.life != ""
