"""What is still to be done at one destination, name by name: to be read again, to be planned, being written.

A name may be in several of these states at once: it can change at its source while a write of it is under way. It is
planned when that write has ended, so that no two writes of one name overtake each other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from bridge.model import ServiceName
from bridge.sources.store import Seen


class Reading(NamedTuple):
    """A reading of the destination that is under way. `names`: what is read; None: everything.

    `written`: names of which a write was under way meanwhile, so that the answer may be older than it; it grows.
    """

    names: frozenset[ServiceName] | None
    written: Set[ServiceName]


class Backlog:
    """The states of all names at one destination.

    `now()` gives the time and the version that a name is marked with, `notify()` wakes whoever waits for work.
    """

    def __init__(self, now: Callable[[], Seen], notify: Callable[[], None]) -> None:
        self._now = now
        self._notify = notify
        self._dirty: dict[ServiceName, Seen] = {}  # to be planned, and since when
        self._busy: set[ServiceName] = set()  # a write is under way, or rests before the next try
        self._unread: set[ServiceName] | None = None  # to be read again at the destination; None: everything
        self._written: set[ServiceName] = set()  # written since the reading under way began
        self._timers: dict[ServiceName, asyncio.TimerHandle] = {}
        self._owed: dict[ServiceName, bool] | None = None  # by name, whether it was planned since; None: nobody asked

    def restart(self) -> None:
        """Whatever was under way is not any more: everything is to be read."""
        self._unread = self._owed = None
        self._busy.clear()

    # -- to be planned -------------------------------------------------------------------------------------------

    def add(self, name: ServiceName, seen: Seen) -> None:
        """A name changed at a source; what is in the backlog already keeps the older time."""
        self._dirty.setdefault(name, seen)

    def plan_again(self, names: Iterable[ServiceName]) -> None:
        """Plan these names again, for a reason that is not a source's: an approval, a timer, an answer."""
        now = self._now()
        for name in names:
            self._dirty.setdefault(name, now)
        self._notify()

    def plan_after(self, name: ServiceName, seconds: float) -> None:
        """Plan a name again in so many seconds, unless that happens earlier."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(name)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[name] = loop.call_later(seconds, self._timed_out, name)

    def _timed_out(self, name: ServiceName) -> None:
        del self._timers[name]
        self.plan_again([name])

    def ready(self) -> list[ServiceName]:
        """The names that can be planned now, the oldest first."""
        return [name for name in self._dirty if name not in self._busy]

    def has(self, name: ServiceName) -> bool:
        """Whether anything is to be done under a name, now or later, or is under way."""
        return self.is_to_do(name) or name in self._timers

    def rests(self, name: ServiceName) -> bool:
        """Whether nothing is to be done under a name before a timer of its own."""
        return not self.is_to_do(name) and name in self._timers

    def is_to_do(self, name: ServiceName) -> bool:
        """Whether anything is to be done under a name now, or is under way."""
        is_unread = self._unread is None or name in self._unread
        return is_unread or name in self._dirty or name in self._busy

    def since(self, name: ServiceName) -> Seen | None:
        """Since when a name waits to be planned; None: it does not."""
        return self._dirty.get(name)

    def take(self, name: ServiceName) -> Seen:
        """A name is planned now. Raises KeyError where it does not wait for that."""
        if self._owed and name in self._owed:
            self._owed[name] = True
        return self._dirty.pop(name)

    def nothing_to_write(self, name: ServiceName) -> None:
        """A name was planned, and nothing of it may be written now, or has to be."""
        if self._owed:
            self._owed.pop(name, None)

    def drop(self, names: Iterable[ServiceName]) -> None:
        """These are another process's to plan."""
        for name in names:
            self._dirty.pop(name, None)
            if (timer := self._timers.pop(name, None)) is not None:
                timer.cancel()

    # -- being written -------------------------------------------------------------------------------------------

    def begin(self, name: ServiceName) -> None:
        """A write of this name begins."""
        self._busy.add(name)

    def wrote(self, names: Collection[ServiceName]) -> None:
        """Writes of these names have an answer, or none that can be known."""
        self._written.update(names)

    def end(self, names: Set[ServiceName]) -> None:
        """Writes of these names have ended, and nothing is left to be done."""
        self._busy -= names
        owed = self._owed or {}
        for name in names if owed else ():
            if owed.get(name):
                del owed[name]

    def end_and_plan(self, names: Set[ServiceName]) -> None:
        """Writes of these names have ended: plan what is left."""
        self._busy -= names
        self.plan_again(names)

    @property
    def is_writing(self) -> bool:
        """Whether any write is under way."""
        return bool(self._busy)

    # -- to be read ----------------------------------------------------------------------------------------------

    def read_again(self, names: Collection[ServiceName] | None = None) -> None:
        """What the destination holds of these names, or of all, may not be what is known."""
        if names is None:
            self._unread = None
        elif self._unread is not None:
            self._unread.update(names)

    @property
    def is_unread(self) -> bool:
        """Whether anything is to be read."""
        return self._unread is None or bool(self._unread)

    @property
    def is_readable(self) -> bool:
        """Whether anything is to be read that no write is under way of."""
        return self._unread is None or bool(self._unread - self._busy)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        """What is to be read is read inside. If that fails it is still to be read; so is what is written meanwhile."""
        names, self._unread = self._unread, set()
        self._written = set(self._busy)
        try:
            yield Reading(None if names is None else frozenset(names - self._written), self._written)
        except BaseException:
            self._unread = None if names is None or self._unread is None else self._unread | names
            raise
        self.read_again(self._written if names is None else self._written & names)

    # -- what was there at one time ------------------------------------------------------------------------------

    def owe(self) -> bool:
        """From now on `owes`, until all that is in here now was planned and written, held or parked.

        What comes later does not count: where something changes all the time, there is always something to do. Returns
        False where that cannot be said yet, since all is to be read.
        """
        if self._unread is None:
            return False
        self._owed = {name: name not in self._dirty for name in self._busy} | dict.fromkeys(self._dirty, False)
        return True

    @property
    def owes(self) -> bool:
        """Whether anything is left of what there was when `owe` was called last."""
        return self._owed is None or bool(self._owed)

    # -- how much ------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left, nor under way, nor waits for a timer."""
        return not (self._dirty or self._busy or self._timers or self.is_unread)

    @property
    def oldest(self) -> Seen | None:
        """Since when the oldest name waits to be planned; None: none does."""
        return min(self._dirty.values(), default=None)

    def sizes(self) -> Mapping[str, int]:
        """How many names are in each state; unread -1: all of them."""
        unread = -1 if self._unread is None else len(self._unread)
        return {"dirty": len(self._dirty), "busy": len(self._busy), "unread": unread, "timers": len(self._timers)}
