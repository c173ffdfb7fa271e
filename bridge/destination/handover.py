"""What one writer of a destination passes to the next by the note: operators' decisions, and recent losses.

Decisions are merged one by one with those of this host (docs/adr/0007-hot-standby.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from bridge.destination import adding
from bridge.destination.destination import Destination
from bridge.destination.events import Events, Happened
from bridge.destination.note import Common, Shared
from bridge.guard.losses import Lost
from bridge.guard.windows import MINUTE, minutes
from bridge.state.decisions import EVERY_LINK, RULES, Decision, Kind, merged
from bridge.state.decisions import about as concerning
from bridge.state.folder import State
from bridge.state.formats import Told

SERVICES = 1000  # services whose losses are in the note: those that lost most


class Handover:
    """The handover at one destination. `clock()` gives monotonic seconds, `wall()` seconds since the epoch."""

    def __init__(
        self,
        destination: Destination,
        kept: State,
        events: Events,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._destination = destination
        self._kept = kept
        self._events = events
        self._clock = clock
        self._wall = wall

    def freeze_all(self, reason: str) -> None:
        """Stops every write, because the decisions of the previous writer are unknown."""
        self._kept.decisions.freeze(EVERY_LINK, reason, "isthmus")
        self._events.tell(Happened("freeze", {"link": EVERY_LINK, "by": "isthmus", "reason": reason}))

    def inherit(self, shared: Shared | None) -> None:
        """Takes over from the previous writer; None: it left nothing that can be read."""
        there = self._destination
        for decision in self.merge(shared).values():
            if decision.kind is Kind.SHOWN:
                there.holds.remember(decision.key, decision.items)
            elif decision.kind is Kind.APPROVAL:
                until = self._clock() + decision.left(self._wall())
                there.holds.grant(decision.key, decision.items, until)
        if there.holds_additions:
            adding.restore(there.additions, there.links, self._kept.decisions)
        if shared is not None:
            for first in set(shared.settled) - self._kept.settled():
                self._kept.settle(*first)
            there.settled.update(shared.settled)
            self.lose(shared.losses)

    # -- what operators decide ---------------------------------------------------------------------------------------

    @property
    def told(self) -> Told:
        """The decisions that every daemon of this bridge knows."""
        return self._kept.told.entries.get(self._destination.name, Told())

    def hear(self, shared: Common, host: str) -> None:
        """Reports acts of operators on other hosts, each once; `host`: of the writer of the note."""
        heard = self.told.heard
        for act in shared.acts:
            if act.at not in heard:
                about = {"link": act.link, "by": act.by, "reason": act.reason, "host": act.host or host}
                self._events.tell(Happened(act.kind, about))

    def tell(self, shared: Common) -> None:
        """Remembers the note that every daemon knows now."""
        told = Told(shared.turn, shared.decisions, tuple(act.at for act in shared.acts))
        if told != self.told:
            self._kept.told.put(self._destination.name, told)

    def merge(self, shared: Common | None, kinds: Collection[Kind] = tuple(Kind)) -> dict[str, Decision]:
        """The decisions in force for this destination, by name: here, and everywhere once the note has them.

        `kinds`: only these kinds.
        """
        told, kept = self.told, self._kept.decisions
        links = {link.name for link in self._destination.links}
        base, theirs = self._of(told.decisions, kinds), self._of(self.news(shared), kinds)
        ours = self._of(kept.all, kinds)
        if shared is not None and shared.turn == told.turn and shared.decisions != told.decisions:
            # The note was lost, and a daemon that had not read it wrote another of this number: nothing was taken back.
            base = {name: one for name, one in base.items() if RULES[one.kind].gives_way}
        found = {}
        for name in sorted(
            base.keys() | theirs.keys() | concerning(ours.values(), links, self._destination.name).keys()
        ):
            decision = merged(base.get(name), ours.get(name), theirs.get(name))
            if decision is not None:
                found[name] = decision
            if decision != ours.get(name):
                self._take_over(ours.get(name), decision)
        return found

    def _take_over(self, ours: Decision | None, theirs: Decision | None) -> None:
        """Replaces a decision by that of another host; None: it was taken back there."""
        if theirs is not None:
            self._kept.decisions.put(theirs)
            if theirs.kind is Kind.FREEZE:
                self._events.tell(Happened("freeze", {"link": theirs.key, "by": theirs.by, "reason": theirs.reason}))
        elif ours is not None:
            self._kept.decisions.drop(ours.name)
            if ours.kind is Kind.FREEZE:
                self._events.tell(
                    Happened("unfreeze", {"link": ours.key, "by": "a daemon of this bridge on another host"})
                )

    def news(self, shared: Common | None) -> Mapping[str, Decision]:
        """The decisions of the note. One that is missing, or older than what is known, changes nothing but by freezes.

        An older one is either from a backup, or begun anew after the destination had lost its own.
        """
        told = self.told
        if shared is None:
            return told.decisions
        if shared.turn >= told.turn:
            return shared.decisions
        freezes = {name: one for name, one in shared.decisions.items() if one.kind is Kind.FREEZE}
        stricter = {
            name: RULES[Kind.FREEZE].merge(told.decisions.get(name), one) or one for name, one in freezes.items()
        }
        return {**told.decisions, **stricter}

    def _of(self, decisions: Mapping[str, Decision], kinds: Collection[Kind]) -> dict[str, Decision]:
        """The decisions of these kinds that are in force, as far as this host knows."""
        now, is_over = self._wall(), self._kept.decisions.is_over
        return {
            name: one for name, one in decisions.items() if one.kind in kinds and one.stands(now) and not is_over(one)
        }

    # -- the guard's window ------------------------------------------------------------------------------------------

    @property
    def _window(self) -> float:
        return self._destination.gate.longest_window

    def losses(self) -> tuple[Lost, ...]:
        """The losses within the guard's window, for the note."""
        ahead = self._wall() - self._clock()
        since = (self._wall() - self._window) // MINUTE * MINUTE  # whole minutes: no new note each second
        found: list[Lost] = []
        for key, deltas in self._destination.losses.windows.lost(since - ahead).items():
            found.append(Lost.of(key, minutes(deltas, ahead)))
        services = sorted((one for one in found if one.service), key=lambda one: (-one.lost, one.service))
        scopes = sorted((one for one in found if one.scope), key=lambda one: str(one.about))
        return (*scopes, *services[:SERVICES])

    def lose(self, losses: Iterable[Lost]) -> None:
        """Counts losses from before this process first read the destination, as far as it does not know them.

        The comparison runs from the newest minute backwards, so that a loss counts in every window that includes it,
        whatever was gained before. This process may have noticed a loss up to a minute later than the writer.
        """
        now, windows = self._wall(), self._destination.losses.windows
        ahead = now - self._clock()
        looked = min(self._destination.since + ahead, now)
        begin, end = now - self._window, (looked // MINUTE + 1) * MINUTE
        for one in losses:
            key = one.key
            told = known = 0
            for minute in sorted((m for m in one.won if begin < (m + 1) * MINUTE <= end), reverse=True):
                told += one.won[minute]
                since = max(begin, (minute - 1) * MINUTE)
                known = min(known, windows.net(key, since - ahead, end - ahead))
                if (missing := known - told) > 0:
                    windows.add(key, min(looked, (minute + 1) * MINUTE - 1) - ahead, -missing)
                    known -= missing
