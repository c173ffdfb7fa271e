"""Threads of one folder's own: where its disk hangs, whoever asks for this folder waits, and nobody else."""

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
PATIENCE = 60.0  # seconds that looking at a folder may take; ten thousand files take some


class Disk:
    """`root`: the folder that it is asked about, for people. `patience`: seconds that `look` waits for an answer."""

    def __init__(self, root: str, patience: float = PATIENCE) -> None:
        self._root = root
        self._patience = patience
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="isthmus-file")

    async def run(self, act: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Does this in a thread, for as long as it takes: what changes something is not given up half way."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(act, *args, **kwargs))

    async def look(self, act: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Does this in a thread; raises Unavailable where it takes too long, and for an OSError what `trouble` says."""
        try:
            async with asyncio.timeout(self._patience):
                return await self.run(act, *args, **kwargs)
        except TimeoutError:
            raise Unavailable(f"{self._root}: the disk has not answered for {self._patience:g} s") from None
        except OSError as error:
            raise folder.trouble(error) from error

    def leave(self, act: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Has this done in a thread, and does not wait."""
        self._pool.submit(act, *args, **kwargs)
