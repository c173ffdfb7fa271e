"""Recent losses and gains of serving instances, by service and by scope, to the second. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any

SECOND = 1.0
MINUTE = 60


def minutes(deltas: Iterable[tuple[float, int]], ahead: float) -> dict[int, int]:
    """Gains and losses, each with its time, by the minute of a clock that is so many seconds ahead."""
    found: dict[int, int] = {}
    for at, delta in deltas:
        minute = int((at + ahead) // MINUTE)
        found[minute] = found.get(minute, 0) + delta
    return found


class Windows:
    """Gains (> 0) and losses (< 0) of serving instances by key and time; times in monotonic seconds.

    Several links with windows of different lengths ask about one key, so a question never forgets anything: `forget`
    does, and is called with the longest window that is configured.
    """

    def __init__(self) -> None:
        self._deltas: dict[Hashable, deque[list[float]]] = {}

    def __len__(self) -> int:
        return len(self._deltas)

    def add(self, key: Hashable, at: float, delta: int) -> None:
        """Counts a gain or a loss at a time, which may be before ones that are counted already."""
        deltas = self._deltas.setdefault(key, deque())
        place = len(deltas)
        while place and deltas[place - 1][0] > at:
            place -= 1
        if place and at - deltas[place - 1][0] < SECOND:
            deltas[place - 1][1] += delta
        else:
            deltas.insert(place, [at, delta])

    def cancel(self, key: Hashable, gain: int) -> None:
        """Cancels losses, the oldest first, as far as there are net losses; the rest is ignored.

        For gains at an unknown time: counted as of now, they would offset later losses.
        """
        left = min(gain, max(0, -self.net(key)))
        for one in self._deltas.get(key, ()):
            back = min(left, max(0, int(-one[1])))
            one[1] += back
            left -= back

    def net(self, key: Hashable, after: float = float("-inf"), before: float = float("inf")) -> int:
        """Gains less losses between these times."""
        total = 0.0
        for at, delta in reversed(self._deltas.get(key, ())):
            if at <= after:
                break
            if at < before:
                total += delta
        return int(total)

    def start(self, key: Hashable, serving: int, now: float, window: float) -> int:
        """How many served `window` seconds ago, given how many serve now."""
        return serving - self.net(key, now - window)

    def lost(self, after: float) -> Mapping[Any, list[tuple[float, int]]]:
        """Every key with a net loss from some time after `after` until now, with its gains and losses since then.

        This includes a key that gained more before than it lost at the end: a shorter window shows the loss.
        """
        found = {}
        for key, deltas in self._deltas.items():
            recent = [(at, int(delta)) for at, delta in deltas if at > after]
            total = least = 0
            for _, delta in reversed(recent):
                total += delta
                least = min(least, total)
            if least < 0:
                found[key] = recent
        return found

    def minutes(self, key: Hashable, after: float, ahead: float) -> dict[int, int]:
        """Gains and losses after a time, by the minute of a clock that is so many seconds ahead."""
        return minutes(((at, int(delta)) for at, delta in self._deltas.get(key, ()) if at > after), ahead)

    def keys(self) -> Collection[Any]:
        """All of which anything is counted."""
        return self._deltas.keys()

    def drop(self, which: Callable[[Any], bool]) -> None:
        """Forgets all of some keys."""
        self._deltas = {key: deltas for key, deltas in self._deltas.items() if not which(key)}

    def forget(self, before: float) -> None:
        """Drops everything before a time."""
        for key, deltas in list(self._deltas.items()):
            while deltas and deltas[0][0] <= before:
                deltas.popleft()
            if not deltas:
                del self._deltas[key]
