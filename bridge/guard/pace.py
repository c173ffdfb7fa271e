"""Rate limits: a flapping instance and a herd of losses wait, everything else does not."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable

from bridge.model import ServiceName

FREE_WRITES = 5  # an instance may be written so often at once, then once in FLAP_EVERY seconds (CTS buffers likewise)
FLAP_EVERY = 1.0
KEPT = 10_000  # instances whose writes are remembered; beyond, those that were quiet are forgotten once a second

SETTLE = 2.0  # seconds; a herd of losses waits for so long, to be judged as one loss
HERD_SHARE, HERD_COUNT = 0.02, 5  # so many of a scope may go within SETTLE without waiting


class Flaps:
    """Token buckets by instance; times in monotonic seconds."""

    def __init__(self) -> None:
        self._buckets: dict[Hashable, tuple[float, float]] = {}  # tokens spent, and when that was true
        self._swept = 0.0

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds until this instance may be written again; 0: now."""
        if key not in self._buckets:  # as for most
            return 0.0
        spent = self._spent(key, now)
        return max(0.0, (spent - FREE_WRITES + 1) * FLAP_EVERY)

    def wrote(self, key: Hashable, now: float) -> None:
        """Notes a write of an instance."""
        self._buckets[key] = (self._spent(key, now) + 1, now)
        if len(self._buckets) > KEPT and now - self._swept > FLAP_EVERY:
            self._swept = now
            self._buckets = {k: (n, t) for k, (n, t) in self._buckets.items() if now - t < n * FLAP_EVERY}

    def _spent(self, key: Hashable, now: float) -> float:
        spent, then = self._buckets.get(key, (0.0, now))
        return max(0.0, spent - (now - then) / FLAP_EVERY)


class Herds:
    """Losses that come together: the first few of a scope may go, the others wait until all of them are seen."""

    def __init__(self) -> None:
        self._gone: dict[Hashable, deque[float]] = {}
        self._asked: dict[ServiceName, dict[str, float]] = {}

    def wait(self, scope: Hashable, name: ServiceName, entry: str, owned: int, now: float) -> float:
        """Seconds until this loss may be judged; 0: now. `owned`: serving entries from that scope."""
        asked = self._asked.setdefault(name, {}).setdefault(entry, now)
        gone = self._gone.get(scope)
        while gone and gone[0] <= now - SETTLE:
            gone.popleft()
        if not gone or len(gone) < max(HERD_COUNT, HERD_SHARE * owned):
            return 0.0
        return max(0.0, asked + SETTLE - now)

    def goes(self, scope: Hashable, now: float) -> None:
        """Notes that a loss of a scope may go now."""
        self._gone.setdefault(scope, deque(maxlen=KEPT)).append(now)

    def keep(self, name: ServiceName, entries: Collection[str]) -> None:
        """Forgets losses of a name that are no longer asked for."""
        if name in self._asked:
            self._asked[name] = {entry: at for entry, at in self._asked[name].items() if entry in entries}
            if not self._asked[name]:
                del self._asked[name]
