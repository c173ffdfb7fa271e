"""An event loop in virtual time: when nothing is ready, it is the time of the next timer; processes can be stopped."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

PROCESS: ContextVar[object] = ContextVar("process", default=None)  # the process that a callback belongs to

BEGINNING = 1000.0  # seconds: not zero, which looks like "never"
SPINS = 20_000  # turns without time going on: somebody spins


class Stuck(RuntimeError):
    """Nothing is ready and no timer is set, or something spins without end."""


class Loop(asyncio.BaseEventLoop):
    """Runs callbacks in the order in which they became ready, and never sleeps; no sockets, threads or signals."""

    _ready: deque[Any]
    _scheduled: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self._now = BEGINNING
        self._spins = 0
        self._stopped: dict[object, list[Any]] = {}

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def stop_process(self, process: object) -> None:
        """As by SIGSTOP: nothing of the process runs until `continue_process`; what it should do is kept."""
        self._stopped.setdefault(process, [])

    def continue_process(self, process: object) -> None:
        """As by SIGCONT."""
        self._ready.extend(self._stopped.pop(process, ()))

    def spawn(self, process: object, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of that process (None: of the world), and so is all that it starts."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(work, context=context)

    def _run_once(self) -> None:
        timers, ready = self._scheduled, self._ready
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if ready:
            self._spins += 1
            if self._spins > SPINS:
                raise Stuck(f"something spins: {ready[0]!r}")
        elif timers:
            self._spins = 0
            self._now = max(self._now, timers[0]._when)
        else:
            raise Stuck("everything waits, and nothing will happen")
        while timers and timers[0]._when <= self._now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if self._stopped and (kept := self._stopped.get(handle._context.get(PROCESS))) is not None:
                kept.append(handle)
            else:
                handle._run()

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Cancelled timers are dropped when their time comes."""

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing comes from another thread."""
