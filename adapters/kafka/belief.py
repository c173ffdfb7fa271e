"""What a member may believe of its group, from the news of it; pure. Times are seconds of the monotonic clock."""

from __future__ import annotations

import math

from adapters.kafka.grouping import Ended, Given, Heard, News, Taken, Trouble

JOINING, LEFT = "it has not joined the group yet", "it has left the group"


class Belief:
    """`should`: what the group has given to this member. `shards`: so many there are. `session`: see `away`."""

    def __init__(self, shards: int, session: float) -> None:
        self.should: frozenset[int] = frozenset()
        self.session = session
        self._shards = shards
        self._joined = False
        self._trouble = JOINING
        self._kinds: set[str] = set()  # of trouble, since all was well
        self._beyond: frozenset[int] = frozenset()
        self._given: dict[int, int] = {}
        self._assignments = 0
        self._word = -math.inf  # when the coordinator answered last
        self._cut = True  # it did not for a session; whether it is in touch again is not known
        self._stale = False  # what it should have is from before that, and may be another's by now
        self._beats: int | None = None  # of the connection, since nothing was under way there

    def assignment(self, shard: int) -> int:
        """See `Membership`."""
        return self._given.get(shard, 0)

    def away(self, now: float) -> bool:
        """Whether there was no word from the coordinator for a session.

        A member that stood still may be asked this before it has heard anything new; so it is asked of the clock.
        """
        return self._cut or now - self._word > self.session

    def fault(self, now: float) -> str:
        """Why it is not a member, "" if it is."""
        if self._beyond:
            return f"the topic has partitions that the file does not know: {', '.join(map(str, sorted(self._beyond)))}"
        if not self._joined:
            return self._trouble
        if not self.away(now):
            return ""
        return f"its coordinator has not answered for {self.session:g} s" if self._word > -math.inf else JOINING

    def seen(self, now: float) -> object:
        """Equal as long as nothing has changed."""
        return self.should, self._assignments, self.away(now), self.fault(now)

    def take(self, news: News, now: float) -> None:
        """One of them, in their order."""
        match news:
            case Given(shards):
                self._joined, self._trouble = True, ""
                self._assignments += bool(shards)
                self._given |= dict.fromkeys(shards, self._assignments)
                known = frozenset(range(self._shards))
                self.should |= shards & known
                self._beyond |= shards - known
            case Taken(shards, lost):
                self.should -= shards
                self._beyond -= shards
                self._stale = self._stale and bool(self.should)
                if lost:
                    self._out("the group went on without it")
            case Heard():
                self._hear(news, now)
            case Trouble(kind, why) if kind not in self._kinds:  # it says the same again and again in other words
                self._kinds.add(kind)
                self._trouble = why
            case Ended():
                self.should = self._beyond = frozenset()
                self._cut, self._word, self._stale = True, -math.inf, False
                self._out(LEFT)

    def _out(self, why: str) -> None:
        self._joined, self._trouble = False, self._trouble or why

    def _hear(self, heard: Heard, now: float) -> None:
        if not self._cut and self.away(now):
            self._cut, self._stale, self._beats = True, bool(self.should), None
        if self._cut and not self._back(heard):
            return
        self._cut, self._word = False, max(self._word, heard.at if heard.at is not None else -math.inf)
        if self._joined:
            self._trouble = ""
            self._kinds.clear()

    def _back(self, heard: Heard) -> bool:
        """Whether the coordinator has answered as it answers a member.

        Where something is stale any answer will not do: it may be to another question, before the heartbeat whose
        answer takes that away. So one more must have been sent, and nothing be under way.
        """
        if heard.at is None or not heard.settled:
            self._beats = None
            return False
        if self._beats is None:
            self._beats = heard.beats
        return not self._stale or heard.beats > self._beats
