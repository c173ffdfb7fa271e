"""The work that is left at one destination, by name: to be read again, to be planned, being written.

A name may be in several of these states at once: it can change at its source while a write of it is in flight. It is
planned when that write has ended, so that two writes of one name never overlap.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from itertools import chain
from typing import NamedTuple

from bridge.model import ServiceName
from bridge.sources.store import Seen


class Reading(NamedTuple):
    """A read of the destination in progress. `names`: what is read; None: everything.

    `written`: names of which a write was in flight meanwhile, so the answer may be older than the write; it grows.
    """

    names: frozenset[ServiceName] | None
    written: Set[ServiceName]


class Backlog:
    """The states of all names at one destination.

    `now()` gives the time and version with which a name is added, `notify()` wakes the task that waits for work.
    """

    def __init__(self, now: Callable[[], Seen], notify: Callable[[], None]) -> None:
        self._now = now
        self._notify = notify
        self._dirty: dict[ServiceName, Seen] = {}  # names to be planned, and since when
        self._planned: dict[ServiceName, Seen] = {}  # names that are being planned, or wait for room to be written
        # Names with a write in flight, or a delay before its retry, and since when its cause waited to be planned.
        self._busy: dict[ServiceName, Seen] = {}
        self._stages = self._dirty, self._planned, self._busy
        self._unread: set[ServiceName] | None = None  # names to be read again at the destination; None: all
        self._reading: set[ServiceName] | None = set()  # being read; None: everything
        self._written: set[ServiceName] = set()  # names written since the current read began
        self._timers: dict[ServiceName, asyncio.TimerHandle] = {}
        self._owed: dict[str, dict[ServiceName, bool]] = {}  # see `owe`: by asker and name, whether planned since

    def restart(self) -> None:
        """Nothing is in flight any more, and everything is to be read."""
        self._unread = None
        self._owed.clear()
        self._busy.clear()
        self._planned.clear()

    def resume(self) -> None:
        """What an error kept from being planned or sent is planned again."""
        for name, seen in self._planned.items():
            self._dirty.setdefault(name, seen)
        self._planned.clear()

    # -- to be planned -----------------------------------------------------------------------------------------------

    def add(self, name: ServiceName, seen: Seen) -> None:
        """Adds a name that changed at a source; one that waits already keeps its older time."""
        self._dirty.setdefault(name, seen)

    def plan_again(self, names: Iterable[ServiceName]) -> None:
        """Adds names to be planned for another reason than a source's change: an approval, a timer, an answer."""
        now = self._now()
        for name in names:
            self._dirty.setdefault(name, now)
        self._notify()

    def plan_after(self, name: ServiceName, seconds: float) -> None:
        """Plans a name again after so many seconds, or earlier where a timer is set already."""
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
        """Whether a name has work now, in flight, or after a timer."""
        return self.is_to_do(name) or name in self._timers

    def rests(self, name: ServiceName) -> bool:
        """Whether a name has no work except after a timer."""
        return not self.is_to_do(name) and name in self._timers

    def is_to_do(self, name: ServiceName) -> bool:
        """Whether a name has work now or in flight."""
        is_unread = any(names is None or name in names for names in (self._unread, self._reading))
        return is_unread or any(name in some for some in self._stages)

    def since(self, name: ServiceName) -> Seen | None:
        """Since when a name waits to be planned; None: it does not wait."""
        return self._dirty.get(name)

    def take(self, name: ServiceName) -> Seen:
        """Has a name be planned, until `begin` or `nothing_to_write`. Raises KeyError where it does not wait."""
        seen = self._dirty.pop(name)
        for owed in self._owed.values():
            if name in owed:
                owed[name] = True
        self._planned[name] = min(seen, self._planned.get(name, seen))
        return seen

    def nothing_to_write(self, name: ServiceName) -> None:
        """Notes that a name was planned, and that nothing of it can or must be written now."""
        self._planned.pop(name, None)
        for owed in self._owed.values():
            owed.pop(name, None)

    def drop(self, names: Iterable[ServiceName]) -> None:
        """Forgets names that another process plans."""
        for name in names:
            self._dirty.pop(name, None)
            self.nothing_to_write(name)
            if (timer := self._timers.pop(name, None)) is not None:
                timer.cancel()

    # -- being written -----------------------------------------------------------------------------------------------

    def begin(self, name: ServiceName, seen: Seen) -> None:
        """Notes that a write of this name begins, of what was `seen` first."""
        self._planned.pop(name, None)
        self._busy[name] = seen

    def wrote(self, names: Collection[ServiceName]) -> None:
        """Notes that writes of these names were answered, or that their outcome will not be known."""
        self._written.update(names)

    def end(self, names: Set[ServiceName]) -> None:
        """Ends the writes of these names, with nothing left to do."""
        self._is_over(names)
        for owed in filter(None, self._owed.values()):
            for name in names:
                if owed.get(name):
                    del owed[name]

    def end_and_plan(self, names: Set[ServiceName]) -> None:
        """Ends the writes of these names, and plans what is left."""
        self._is_over(names)
        self.plan_again(names)

    def _is_over(self, names: Set[ServiceName]) -> None:
        for name in names:
            self._busy.pop(name, None)

    @property
    def is_writing(self) -> bool:
        """Whether any write is in flight."""
        return bool(self._busy)

    # -- to be read --------------------------------------------------------------------------------------------------

    def read_again(self, names: Collection[ServiceName] | None = None) -> None:
        """Marks these names (None: all) to be read: what is known of them may be wrong."""
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
        """Whether anything is to be read that has no write in flight."""
        return self._unread is None or bool(self._unread - self._busy.keys())

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        """The context of one read. If it raises, the same is still to be read; so is whatever was written meanwhile."""
        names, self._unread = self._unread, set()
        self._reading = names
        self._written = set(self._busy)
        try:
            yield Reading(None if names is None else frozenset(names - self._written), self._written)
        except BaseException:
            self._unread = None if names is None or self._unread is None else self._unread | names
            raise
        finally:
            self._reading = set()
        self.read_again(self._written if names is None else self._written & names)

    # -- the work of one moment --------------------------------------------------------------------------------------

    def owe(self, who: str) -> bool:
        """Makes `owes` true until everything that is in the backlog now was planned and written, held or parked.

        Later work does not count, because where something always changes the backlog never empties. `who` names the
        asker, whose last call counts. Returns False while everything is to be read, because then the work is not known.
        """
        if self._unread is None:
            return False
        self._owed[who] = {name: name not in self._dirty for name in self._busy} | dict.fromkeys(self._dirty, False)
        return True

    def owes(self, who: str) -> bool:
        """Whether any of the work that existed at the asker's last call of `owe` is left."""
        return who not in self._owed or bool(self._owed[who])

    # -- how much ----------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether no name has work, now, in flight or after a timer."""
        return not (any(self._stages) or self._timers or self.is_unread)

    @property
    def oldest(self) -> Seen | None:
        """Since when the oldest name waits to be planned, or to be written by what was planned; None: none waits."""
        return min(chain.from_iterable(some.values() for some in self._stages), default=None)

    @property
    def is_at_rest(self) -> bool:
        """Whether no name has work, now or in flight; timers do not count."""
        is_read = not (self.is_unread or self._reading is None or self._reading)
        return is_read and not any(self._stages)

    def sizes(self) -> Mapping[str, int]:
        """How many names are in each state; unread -1: all of them."""
        unread = -1 if self._unread is None else len(self._unread)
        return {"dirty": len(self._dirty), "busy": len(self._busy), "unread": unread, "timers": len(self._timers)}
