"""How many polls there may be at an agent, and which services have one; pure."""

from __future__ import annotations

from collections import Counter

from bridge.adapter import Concern

LEAST = 8  # polls that are kept after any number of refusals
ROW = 1.0  # seconds between two refusals of one row
LEAD = 4  # changes more than the quietest polled service has seen, with which another takes its place


class Budget:
    """The polls of all datacenters that are asked through one agent.

    An agent allows 200 connections from one address by default, those of native clients on that host included.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.lowered = False
        self.used = 0
        self._refused_at = 0.0

    @property
    def is_full(self) -> bool:
        """Whether no more poll may begin."""
        return self.used >= self.most

    def take(self) -> bool:
        """Whether one more poll may begin; it is counted until `give`."""
        if self.is_full:
            return False
        self.used += 1
        return True

    def give(self) -> None:
        """One ended."""
        self.used -= 1

    def refused(self, now: float) -> None:
        """The agent refused a connection at this time: no more polls than there are."""
        self.most = max(LEAST, min(self.most, self.used))
        self.lowered = True
        self._refused_at = now

    def calm(self, now: float) -> bool:
        """Whether no refusal came for a while; then three quarters of the polls that were not refused remain.

        The last quarter is for the native clients of this host, which are refused as well while we use all there is.
        """
        if now - self._refused_at < ROW:
            return False
        self.most = max(LEAST, min(self.most, self.used * 3 // 4))
        return True

    def concerns(self) -> list[Concern]:
        """That it was lowered."""
        if not self.lowered:
            return []
        return [
            Concern("polls-lowered", f"an agent refused connections (429): at most {self.most} services are polled now")
        ]

    @property
    def exceeded(self) -> bool:
        """Whether there are more polls than there may be."""
        return self.used > self.most


class Busy:
    """How often each service changed, to tell which of them are worth a poll."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def saw(self, service: str) -> None:
        """It changed."""
        self._seen[service] += 1

    def quieter(self, service: str, polled: list[str]) -> str | None:
        """The polled service that this one should take the place of; None: it is not that busy."""
        if not polled:
            return None
        quietest = self.quietest(polled)
        return quietest if self._seen[service] >= self._seen[quietest] + LEAD else None

    def quietest(self, polled: list[str]) -> str:
        """The one that is missed least."""
        return min(polled, key=lambda one: (self._seen[one], one))
