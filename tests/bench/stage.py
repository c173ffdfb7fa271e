"""Where a benchmark plays: two real servers, the arms between them as processes of their own, and who looks on."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from tests.bench import machine, records
from tests.bench.sides import Server, Side, kind
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.process import Process

LOT = 100  # records in one transaction of the natives
PATIENCE = 300.0  # seconds in which what must happen has happened


class Pair(NamedTuple):
    """Which kind of registry is copied to which."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}->{self.target}"


class Stage:
    """Two servers of a pair in one temporary folder."""

    def __init__(self, pair: Pair, folder: Path, source: Server, target: Server) -> None:
        self.pair = pair
        self.folder = folder
        self.source = source
        self.target = target
        self._arms = 0

    @asynccontextmanager
    async def reading(self, prefix: str) -> AsyncIterator[Side]:
        """The source, below a prefix."""
        async with kind(self.pair.source).open(self.source.address, prefix) as side:
            yield side

    @asynccontextmanager
    async def writing(self, prefix: str) -> AsyncIterator[Side]:
        """The target, below a prefix."""
        async with kind(self.pair.target).open(self.target.address, prefix) as side:
            yield side

    def child(self, name: str) -> Process:
        """A process to be started, with a log of its own in the folder."""
        self._arms += 1
        return Process(f"{self._arms:02d}-{name}", self.folder)

    def raw_command(self, word: str, prefix: str) -> list[str]:
        """The command of a raw arm; see `tests.bench.raw`."""
        ends = [f"{self.pair.source}={self.source.address}", f"{self.pair.target}={self.target.address}"]
        return [sys.executable, "-m", "tests.bench.raw", word, *ends, prefix]

    @asynccontextmanager
    async def raw(self, word: str, prefix: str) -> AsyncIterator[Process]:
        """A raw loop that runs."""
        arm = self.child(f"raw-{word}")

        async def ready() -> bool:
            return b"ready\n" in arm.log.read_bytes()

        try:
            await arm.start(self.raw_command(word, prefix), ready)
            yield arm
        finally:
            await arm.kill()

    async def raw_to_its_end(self, word: str, prefix: str) -> list[str]:
        """Runs a raw arm that ends; returns the words behind its `done`."""
        return await to_its_end(self.child(f"raw-{word}"), self.raw_command(word, prefix))

    def bridge(self, prefix: str, **settings: Any) -> Bridge:
        """Our daemon between the two, as it is shipped; `settings` of the block `bridge` of its file."""
        return Bridge(self, prefix, settings)


class Propagated(NamedTuple):
    """Changes, and the seconds from seen to written of all of them together."""

    seconds: float
    changes: float


_PROPAGATED = [re.compile(rf"^isthmus_propagation_seconds_{end}{{[^}}]*}} (\S+)", re.M) for end in ("sum", "count")]

_SHARDS = re.compile(r'^isthmus_shards{[^}]*kind="writes"[^}]*} (\S+)', re.M)


class Bridge:
    """Our daemon, with a state folder of its own that outlives its restarts; `written` is its file when it starts."""

    def __init__(self, stage: Stage, prefix: str, settings: dict[str, Any]) -> None:
        (self._port,) = ports.reserve(1)
        self.process = stage.child("bridge")
        name = self.process.name
        self.state = stage.folder / f"{name}.state"
        self._file = stage.folder / f"{name}.yaml"
        if not kind(stage.pair.target).LOCK_TTL:
            settings = {"seat": "source", **settings}
        self.written: dict[str, Any] = {
            "bridge": {"id": name, "state": str(self.state), "listen": f"127.0.0.1:{self._port}"} | settings,
            "registries": {
                "source": kind(stage.pair.source).block(stage.source.address, prefix),
                "target": kind(stage.pair.target).block(stage.target.address, prefix),
            },
            "links": [
                {
                    "from": "source",
                    "to": "target",
                    "policy": "sync",
                    "services": {"include": ["*"]},
                    **kind(stage.pair.target).LINK,
                }
            ],
        }

    async def __aenter__(self) -> Bridge:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.process.stop()
        ports.release([self._port])

    async def start(self) -> float:
        """Starts it and returns the seconds until it says that it is ready."""
        await self.file()
        began = time.perf_counter()
        await self.process.start([sys.executable, "-m", "bridge.cli.main", "run", "-f", str(self._file)], self.ready)
        return time.perf_counter() - began

    async def file(self) -> Path:
        """Its file, as it is when it starts."""
        await asyncio.to_thread(self._file.write_text, json.dumps(self.written))
        return self._file

    async def ready(self) -> bool:
        """What /readyz says; False while nobody answers."""
        return await asyncio.to_thread(self._asked)

    async def propagated(self) -> Propagated:
        """What it has measured itself of the changes so far."""
        text = await asyncio.to_thread(self._get, "metrics")
        return Propagated(*(sum(map(float, each.findall(text))) for each in _PROPAGATED))

    async def shards(self) -> int:
        """How many shards it writes, as a member of a group."""
        found = _SHARDS.search(await asyncio.to_thread(self._get, "metrics"))
        return int(float(found[1])) if found else 0

    def _asked(self) -> bool:
        try:
            self._get("readyz")
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=5) as answer:
            return str(answer.read().decode())


class Watcher:
    """Follows one place, and remembers the last mark under every path."""

    def __init__(self, side: Side, told: Callable[[str, int, float], None] | None = None) -> None:
        """`told` is called with path, mark and the time of arrival (perf_counter)."""
        self.marks: dict[str, int] = {}
        self.changes = 0
        self._side = side
        self._told = told
        self._listening = asyncio.Event()

    async def __aenter__(self) -> Watcher:
        self._task = asyncio.create_task(self._run())
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait((self._task, listening), return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        async with aclosing(cast(Any, self._side.follow())) as lots:
            async for lot in lots:
                now = time.perf_counter()
                self._listening.set()
                self.changes += len(lot)
                for path, value in lot:
                    if value is None:
                        self.marks.pop(path, None)
                        continue
                    mark = self.marks[path] = records.mark(value)
                    if self._told is not None:
                        self._told(path, mark, now)

    async def until(self, true: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Returns when it is true of what was seen; raises AssertionError, or the error of the watch."""

        def seen() -> bool:
            if self._task.done():
                self._task.result()
            return true()

        await until(seen, within=patience, every=0.005)


@asynccontextmanager
async def set_up(pair: Pair, folder: Path, arms: int = 3) -> AsyncIterator[Stage]:
    """Starts the two servers, and ends them."""
    folder.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(kind(pair.source).server(folder, "source", arms))
        target = await stack.enter_async_context(kind(pair.target).server(folder, "target", arms))
        yield Stage(pair, folder, source, target)


async def populate(side: Side, count: int, at_once: int = 8) -> None:
    """Natives register a fleet."""
    slots = asyncio.Semaphore(at_once)

    async def write(lot: list[tuple[str, bytes]]) -> None:
        async with slots:
            await side.register(lot)

    fleet = ((records.path(number), side.value(number)) for number in range(count))
    lots = records.lots(fleet, LOT)
    first = next(lots, None)
    if first:
        await side.register(first)  # opens what the others share
    async with asyncio.TaskGroup() as writes:
        for lot in lots:
            writes.create_task(write(lot))


async def to_its_end(process: Process, command: list[str]) -> list[str]:
    """Runs a process that says `done` and ends; returns the words behind it."""

    async def done() -> bool:
        return b"done" in process.log.read_bytes()

    try:
        await process.start(command, done)
    finally:
        await process.kill()
    return process.log.read_text().split("done ")[-1].split()


async def settled(watcher: Watcher, arm: Process, quiet: float = 1.0) -> None:
    """Returns when nothing changed and the arm was idle for so many seconds."""
    while True:
        changes, spent = watcher.changes, machine.cpu(arm.pid)
        await asyncio.sleep(quiet)
        if watcher.changes == changes and machine.cpu(arm.pid) - spent < 0.1 * quiet:
            return
