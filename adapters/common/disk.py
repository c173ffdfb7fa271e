"""The disk asked and written beside the event loop: where it hangs, one thread waits for it, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar, cast

from bridge.errors import Unavailable

T = TypeVar("T")

PATIENCE = 5.0  # seconds that a disk may take for a small file
FRESH = 1.0  # seconds for which what was read serves requests, where none of them fails


class Question(Generic[T]):
    """Something that `ask` reads from the disk, in a thread: one at a time, whose answer is everybody's who waits."""

    def __init__(self, ask: Callable[[], T], about: str, patience: float = PATIENCE, fresh: float = 0.0) -> None:
        """`about`: what is read, for people. `patience` in seconds.

        `fresh`: seconds for which an answer counts without another question: a thread costs a request on a busy machine
        a millisecond.
        """
        self._ask = ask
        self._about = about
        self._patience = patience
        self._fresh = fresh
        self._asking: asyncio.Future[T] | None = None
        self._answered = -inf  # on the loop's clock
        self._answer: T | None = None

    async def answer(self) -> T:
        """What is there now. Raises what `ask` raises, and Unavailable where the disk does not answer."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._answered < self._fresh:
            return cast(T, self._answer)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(asyncio.to_thread(self._ask))
            self._asking.add_done_callback(_look)
        try:
            async with asyncio.timeout(self._patience):
                self._answer = await asyncio.shield(self._asking)
        except TimeoutError:
            raise Unavailable(f"{self._about}: the disk has not answered for {self._patience:g} s") from None
        self._answered = loop.time()
        return self._answer

    def doubt(self) -> None:
        """What was answered did not serve: the disk is asked again next time."""
        self._answered = -inf


class WriteBehind:
    """A small file that always gets the newest content, from a thread; what was overtaken meanwhile is not written."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        """`write` may raise OSError: then the content is lost, and the next one is tried again."""
        self._write = write
        self._content: bytes | None = None
        self._writing: asyncio.Future[None] | None = None

    def put(self, content: bytes) -> None:
        """Has this written, and does not wait."""
        self._content = content
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._run())

    async def flush(self, patience: float = PATIENCE) -> None:
        """Returns when everything is written, or after `patience` seconds."""
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=patience)

    async def _run(self) -> None:
        while (content := self._content) is not None:
            self._content = None
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._write, content)


def _look(asked: asyncio.Future[T]) -> None:
    """Takes note of a failure that comes when nobody waits any more."""
    if not asked.cancelled():
        asked.exception()
