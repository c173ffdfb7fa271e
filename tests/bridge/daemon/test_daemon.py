"""A daemon in this process: what it says of its own loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from bridge.config import load as config
from bridge.daemon import daemon
from bridge.state import folder as state
from tests.kit.disks import hung
from tests.kit.natives import Folder
from tests.kit.waiting import steady, until
from tests.servers import ports

LOOPS = ("journal", "state", "tick", "registry inventory", "feed inventory", "plan cluster", "lock cluster")


class Running:
    """A daemon that copies one folder into another, in this process."""

    def __init__(self, made: daemon.Daemon, listen: str) -> None:
        self.daemon = made
        self.listen = listen

    async def health(self) -> tuple[int, dict[str, Any]]:
        """The answer at /healthz."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.listen}/healthz") as answer:
            return answer.status, json.loads(await answer.text())

    def loop(self, name: str) -> asyncio.Task[None]:
        """One of its loops."""
        return {**self.daemon._tasks, **self.daemon.engine.loops()}[name]


@contextlib.asynccontextmanager
async def running(folder: Path, **times: float) -> AsyncIterator[Running]:
    Folder(folder / "inventory").set("pay-api", i1="192.0.2.1")
    (folder / "cluster").mkdir(exist_ok=True)
    (port,) = ports.reserve(1)
    blocks = {
        "bridge": {"id": "b1", "state": str(folder / "state"), "listen": f"127.0.0.1:{port}"},
        "registries": {name: {"kind": "file", "path": str(folder / name)} for name in ("inventory", "cluster")},
        "links": [{"from": "inventory", "to": "cluster", "policy": "sync", "services": {"include": ["*"]}}],
    }
    file = folder / "isthmus.yaml"
    file.write_text(yaml.safe_dump(blocks))
    configuration = config.load(file)
    with state.opened(folder / "state", "b1") as kept:
        made = daemon.Daemon(file, configuration, kept, **times)
        task = asyncio.create_task(made.run())
        try:
            await until(lambda: list((folder / "cluster").glob("*.yaml")), "it copies")
            yield Running(made, f"127.0.0.1:{port}")
        finally:
            task.cancel()
            await asyncio.wait((task,))
            ports.release([port])


@pytest.fixture
def supervisor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where the daemon tells how it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as heard:
        heard.bind(str(folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        yield heard


def told(heard: socket.socket) -> list[str]:
    """What has been told since the last look."""
    words: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            words.append(heard.recv(4096).decode())
    return words


@pytest.mark.parametrize("name", LOOPS)
async def test_a_loop_that_has_ended_is_named_and_starves_the_watchdog(
    folder: Path, supervisor: socket.socket, name: str
) -> None:
    async with running(folder, tick=0.02) as made:
        await until(lambda: "WATCHDOG=1" in told(supervisor), "the watchdog is fed")
        assert await made.health() == (200, {"alive": True, "broken": {}})
        made.loop(name).cancel()  # as an adapter does that awaits what somebody else has cancelled
        await until(made.loop(name).done)
        status, body = await made.health()
        assert (status, body["alive"], list(body["broken"])) == (503, False, [name])
        if name != "tick":
            await until(lambda: any(f"the loop {name}: " in word for word in told(supervisor)), "it is told")
        told(supervisor)

        async def fed() -> bool:
            return "WATCHDOG=1" in told(supervisor)

        assert not await steady(fed, 0.3)


async def test_a_journal_that_stands_still_is_named(folder: Path) -> None:
    async with running(folder, still=5.0) as made:
        await until(lambda: list((folder / "state" / "journal").glob("*.jsonl")), "the journal is begun")
        (segment,) = (folder / "state" / "journal").glob("*.jsonl")
        segment.unlink()
        os.mkfifo(segment)  # whoever opens it to write waits for a reader, as for a disk that does not answer
        made.daemon.journal.append("test")

        async def stands() -> dict[str, Any] | None:
            status, body = await made.health()
            return body if status == 503 else None

        body = await until(stands, "the journal stands still")
        assert "stood still" in body["broken"]["journal"]
        reader = os.open(segment, os.O_RDWR | os.O_NONBLOCK)  # whoever waits for a reader or a writer goes on
        try:

            async def turns() -> bool:
                return (await made.health())[0] == 200

            await until(turns, "it goes on")
        finally:
            segment.unlink()
            os.close(reader)


async def test_changes_flow_while_the_disk_of_the_state_folder_hangs(folder: Path) -> None:
    async with running(folder) as made:

        def copied(address: str) -> bool:
            return any(address in path.read_text() for path in (folder / "cluster").glob("*.yaml"))

        async def well() -> bool:
            return (await made.health())[0] == 200

        with hung(folder / "state"):
            await until(lambda: bool(made.daemon.journal._waiting), "the journal waits")
            for number in range(2, 6):
                Folder(folder / "inventory").set("pay-api", i1="192.0.2.1", i2=f"192.0.2.{number}")
                await until(lambda number=number: copied(f"192.0.2.{number}"), "a change flows")
            assert await well()
        state, journal = made.daemon.state, made.daemon.journal
        await until(lambda: state.fault is None and journal.writing.fault is None, "the disk is back")
        await until(lambda: not made.daemon.journal._waiting, "the journal has all of it")
        assert all(not loop.done() for loop in made.daemon._tasks.values())


async def test_addresses_that_services_shared_are_known_after_a_restart(folder: Path) -> None:
    inventory = Folder(folder / "inventory")
    async with running(folder) as first:
        inventory.set("ingress", i2="192.0.2.1")
        claims = first.daemon.engine.store.claims
        await until(lambda: bool(claims.shared), "both are known")
        inventory.set("ingress")
        await until((folder / "state" / "shared.json").exists, "it is on the disk")
    async with running(folder) as second:
        await until(lambda: second.daemon.engine.store.claims.shared == claims.shared, "they are known again")
