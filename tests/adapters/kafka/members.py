"""Members of a group for tests, in this process or as one of their own that may be killed, frozen, or stand still.

`python -m tests.adapters.kafka.members ADDRESS GROUP WHO PROTOCOL POLL STILL` is one; SIGUSR1 stops its event loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from adapters.kafka.client import Client, Security
from adapters.kafka.membership import TIMES, KafkaMembership, Protocol, Times
from tests.kit.stream import TOPIC
from tests.kit.waiting import until
from tests.servers.process import Process

SHARDS = 12
HANG = 600.0  # seconds that an event loop stands still for; its process is killed before


class Seen(msgspec.Struct, frozen=True):
    """How a membership stood from a time of the monotonic clock on."""

    at: float
    should: list[int]
    away: bool
    fault: str
    assignments: list[int]


class Spoken:
    """What a member has said of itself so far."""

    def __init__(self, who: str) -> None:
        self.who = who

    @property
    def seen(self) -> list[Seen]:
        raise NotImplementedError

    @property
    def now(self) -> Seen:
        """The last of it."""
        return self.seen[-1] if self.seen else Seen(0.0, [], away=True, fault="not started", assignments=[])

    @property
    def should(self) -> set[int]:
        return set(self.now.should)

    def since(self, at: float) -> list[Seen]:
        """What it has said from then on."""
        return [one for one in self.seen if one.at >= at]

    def when(self, after: float) -> float | None:
        """When it was first given something after a time."""
        before: set[int] = set()
        for one in self.seen:
            if one.at >= after and set(one.should) - before:
                return one.at
            before = set(one.should)
        return None


class Here(Spoken):
    """A member in this process."""

    def __init__(self, who: str, membership: KafkaMembership) -> None:
        super().__init__(who)
        self.membership = membership
        self._seen: list[Seen] = []
        self._tasks = [asyncio.create_task(work) for work in (membership.run(), self._watch())]

    @property
    def seen(self) -> list[Seen]:
        return self._seen

    async def leave(self) -> None:
        """Returns when it has left."""
        self._tasks[0].cancel()
        await asyncio.gather(self._tasks[0], return_exceptions=True)

    async def close(self) -> None:
        await self.leave()
        self._tasks[1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self._seen.append(seen(self.membership))
            await self.membership.changed()


class Apart(Spoken):
    """A member in a process of its own."""

    def __init__(self, who: str, folder: Path) -> None:
        super().__init__(who)
        self.process = Process(who, folder)

    @property
    def seen(self) -> list[Seen]:
        with suppress(FileNotFoundError):
            return [
                msgspec.json.decode(line, type=Seen)
                for line in self.process.log.read_bytes().splitlines(keepends=True)
                if line.startswith(b'{"at"') and line.endswith(b"\n")
            ]
        return []

    async def start(self, address: str, group: str, protocol: Protocol, times: Times) -> None:
        async def ready() -> bool:
            return bool(self.seen)

        words = [address, group, self.who, protocol, str(times.poll), str(times.still)]
        await self.process.start([sys.executable, "-m", __name__, *words], ready)

    def hang(self) -> None:
        """Its event loop stands still."""
        os.kill(self.process.pid, signal.SIGUSR1)


class Group:
    """One group at a broker."""

    def __init__(self, addresses: list[str], name: str, protocol: Protocol, folder: Path) -> None:
        self.name = name
        self.addresses = addresses
        self._protocol: Protocol = protocol
        self._folder = folder
        self._here: list[Here] = []
        self._apart: list[Apart] = []

    def here(self, who: str, *, by: str = "", security: Security | None = None, times: Times = TIMES) -> Here:
        """Joins in this process. `by`: the address that it comes by."""
        one = Here(who, self.membership(who, by=by, security=security, times=times))
        self._here.append(one)
        return one

    def membership(
        self, who: str, *, by: str = "", security: Security | None = None, times: Times = TIMES
    ) -> KafkaMembership:
        client = Client([by] if by else self.addresses, security)
        return KafkaMembership(client, TOPIC, SHARDS, self.name, who, self._protocol, times)

    async def apart(self, who: str, times: Times = TIMES) -> Apart:
        """Joins in a process of its own."""
        one = Apart(who, self._folder)
        self._apart.append(one)
        await one.start(self.addresses[0], self.name, self._protocol, times)
        return one

    async def close(self) -> None:
        for one in self._apart:
            await one.process.kill()
        await asyncio.gather(*(one.close() for one in self._here))


@asynccontextmanager
async def group(addresses: list[str], name: str, protocol: Protocol, folder: Path) -> AsyncIterator[Group]:
    """A group of which nobody is left at the end."""
    found = Group(addresses, name, protocol, folder)
    try:
        yield found
    finally:
        await found.close()


def divided(members: Iterable[Spoken]) -> bool:
    """Whether they have all shards between them, as evenly as can be, each once, and none of them is away."""
    given = sorted(shard for one in members for shard in one.should)
    sizes = [len(one.should) for one in members]
    well = all(not one.now.away and not one.now.fault for one in members)
    return given == list(range(SHARDS)) and max(sizes) - min(sizes) <= 1 and well


async def whole(*members: Spoken) -> float:
    """Returns when they have divided all shards: since when, by the monotonic clock."""
    await until(lambda: divided(members), f"{[(one.who, one.now) for one in members]}")
    return max(one.now.at for one in members)


def seen(membership: KafkaMembership) -> Seen:
    should = sorted(membership.should)
    assignments = [membership.assignment(shard) for shard in range(SHARDS)]
    return Seen(time.monotonic(), should, membership.away, membership.fault, assignments)


async def main(address: str, group: str, who: str, protocol: Protocol, poll: float, still: float) -> None:
    times = TIMES._replace(poll=poll, still=still)
    membership = KafkaMembership(Client([address], None), TOPIC, SHARDS, group, who, protocol, times)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, time.sleep, HANG)
    running = asyncio.create_task(membership.run())
    while not running.done():
        print(msgspec.json.encode(seen(membership)).decode(), flush=True)
        await membership.changed()


if __name__ == "__main__":
    address, name, who, protocol, poll, still = sys.argv[1:]
    asyncio.run(
        main(address, name, who, "consumer" if protocol == "consumer" else "classic", float(poll), float(still))
    )
