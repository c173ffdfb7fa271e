"""The end of a daemon that was told to stop: it comes in bounded time, and says what it did not wait for.

Each part that stops has a time of its own, but they add up, a thread that asks a disk or a library has none, and the
process would wait for all of them. Whoever ends a process (systemd, Kubernetes) kills it in the end, without a word.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator

log = logging.getLogger("isthmus.daemon")

ENDING = 25.0  # seconds; below the 30 that the units in `deploy/` give
FAILED = 1


def bounded(loop: asyncio.AbstractEventLoop, seconds: float = ENDING) -> None:
    """Ends this process after so many seconds, if it has not ended by then: locks and leases go by themselves."""

    def end() -> None:
        time.sleep(seconds)
        for what in (*_tasks(loop), *_threads()):
            log.critical("did not end within=%g what=%r", seconds, what)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(FAILED)

    threading.Thread(target=end, name="isthmus-ending", daemon=True).start()


def _tasks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """The tasks that still run, each with where it stands."""
    for task in asyncio.all_tasks(loop):
        at = [f"{frame.f_code.co_filename}:{frame.f_lineno}" for frame in task.get_stack(limit=1)]
        yield f"task {task.get_name()} {getattr(task.get_coro(), '__qualname__', '')} {' '.join(at)}".rstrip()


def _threads() -> Iterator[str]:
    """The threads that still run, each with where it stands."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and thread is not threading.current_thread():
            yield f"thread {thread.name} {frame.f_code.co_filename}:{frame.f_lineno}"
