"""Threads for one folder: a hanging disk blocks the users of this folder, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from adapters.file import folder
from bridge.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
PATIENCE = 60.0  # seconds for reading a folder; ten thousand files take some of them


class Disk:
    """`root`: the folder, for error texts. `patience`: seconds that `look` waits."""

    def __init__(self, root: str, patience: float = PATIENCE) -> None:
        self._root = root
        self._patience = patience
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="isthmus-file")

    async def run(self, act: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a write in a thread, without a timeout: it must not be given up half way."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(act, *args, **kwargs))

    async def look(self, act: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a read in a thread. Raises Unavailable on timeout, and for an OSError what `trouble` returns."""
        try:
            async with asyncio.timeout(self._patience):
                return await self.run(act, *args, **kwargs)
        except TimeoutError:
            raise Unavailable(f"{self._root}: the disk has not answered for {self._patience:g} s") from None
        except OSError as error:
            raise folder.trouble(error) from error

    def leave(self, act: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Runs a function in a thread without waiting for it."""
        self._pool.submit(act, *args, **kwargs)
