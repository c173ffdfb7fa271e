"""What all servers of the tests have in common: started, damaged and ended alike, whatever they are."""

from __future__ import annotations

import asyncio
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self

from tests.servers import ports
from tests.servers.process import Process


class Server(ABC):
    """One server: an async context manager that starts it and at last ends it; in between it may be damaged at will.

    It keeps its ports and its `data` over `stop`, `kill` and `start`. `count`: the ports that it needs.
    """

    def __init__(self, name: str, folder: Path, count: int) -> None:
        self.name = name
        self.data = folder / f"{name}.data"
        self.process = Process(name, folder)
        self._ports = ports.reserve(count)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.stop()
        ports.release(self._ports)

    @abstractmethod
    async def start(self) -> None:
        """Starts it, or starts it again; ready when it serves."""

    async def stop(self) -> None:
        """SIGTERM."""
        await self.process.stop()

    async def kill(self) -> None:
        """SIGKILL."""
        await self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen for as long as the block runs: so may be done to a server that tests share."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def forget(self) -> None:
        """Removes the data of a server that is down: the next start is that of a new, empty store."""
        assert not self.process.running
        shutil.rmtree(self.data)


@asynccontextmanager
async def together(servers: Sequence[Server]) -> AsyncIterator[None]:
    """Starts servers that need each other to be ready, and at last ends them all."""
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
        yield
    finally:
        for server in servers:
            await server.__aexit__()
