"""The journal, shipped to destinations that keep a log: a cursor follows it, and bridging never waits for that."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from bridge.adapter import Event, EventLog, Term
from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.errors import IsthmusError, Rejected
from bridge.report.happenings import event_of, reduced
from bridge.retry import react
from bridge.sources.view import Observation, View
from bridge.state.files import replace
from bridge.state.follow import Follower, Taken
from bridge.state.journal import Journal
from bridge.state.record import Record

log = logging.getLogger("isthmus.daemon")

EVERY = 0.2  # seconds between two looks at the journal
STEP = 500  # events handed over at once
SLICE = 8  # events made in one go: a fraction of a millisecond, in which a change at a source waits
LATER = 2.0  # seconds after a failure


class Shipment:
    """One destination's share of the journal in the state folder. `reason`: why it is not shipped now.

    Only the writer ships, term by term, from the line of the journal on that began the term, once that is on the disk.
    What it has not shipped of its earlier terms comes first, unless another daemon has written since: that one's events
    came later, and are there already. Then each scope is said to be resynced.
    """

    def __init__(self, reconciler: Reconciler, sink: EventLog, state: Path, journal: Journal) -> None:
        self.reconciler = reconciler
        self.reason = ""
        self._sink = sink
        self._journal = journal
        self._shipped = 0  # up to this line
        self._cursor = state / f"shipped.{reconciler.name}.json"
        self._daemon = f"{socket.gethostname()}:{state}"
        self._folder = state / "journal"
        self._follower = Follower(self._folder, 0)
        self._term = 0  # the line that began the term which is shipped
        self._under: Term | None = None  # that term, as the log compares it
        self._since = 0  # what was noted from this line on follows what its scopes are said to be
        self._said: set[View] = set()  # the scopes that are said to be resynced in it

    async def step(self) -> None:
        """Ships what there is. Raises what the sink raises; it is shipped again then, with the same ids."""
        began, self._under = self._journal.began(self.reconciler.name), self.reconciler.lead.term
        if not self.reconciler.lead.writes or not began:
            return
        if began != self._term:
            await self._begin(began)
        while await self._ship():
            pass

    @property
    def unshipped(self) -> int:
        """How many lines on the disk the log has not been told; 0 where another daemon tells it."""
        if not self.reconciler.lead.writes or not self._term:
            return 0
        return max(0, self._journal.last - self._shipped)

    async def _begin(self, began: int) -> None:
        """Where to go on is on the disk before anything is shipped: a log that refuses for long loses nothing."""
        shipped = await asyncio.to_thread(self._kept)
        if not shipped or self.reconciler.lead.before is not None:
            shipped = max(shipped, began - 1)
            await asyncio.to_thread(self._keep, shipped)
        # What this process heard before its term began hangs together with what it hears in it, and with nothing else.
        start = self._journal.began("")
        self._since = start if shipped < start else began
        self._follower, self._term, self._said = Follower(self._folder, shipped), began, set()
        self._shipped = shipped

    async def _ship(self) -> bool:
        """Some thousand lines, and whether there were any."""
        before = self._follower.after
        taken = await asyncio.to_thread(self._follower.take)
        try:
            await self._send(taken)
        except BaseException:
            self._follower = Follower(self._folder, before)
            raise
        if taken.records:
            self._shipped = self._follower.after
            await asyncio.to_thread(self._keep, self._shipped)
        return bool(taken.records)

    async def _send(self, taken: Taken) -> None:
        if taken.missing is not None:
            first, last = taken.missing
            reason = f"lines {first} to {last} of the journal were dropped before they were shipped"
            await self._log([event_of(Record(at=time.time(), kind="gap", seq=last, reason=reason), self._daemon)])
        earlier = [one for one in taken.records if one.seq < self._since]
        await self._log(event_of(one, self._daemon) for one in earlier)
        later = taken.records[len(earlier) :]
        if later:
            views = [view for view in self.reconciler.destination.routing.views() if view.identity]
            await self._log(self._resynced(view) for view in views if view not in self._said)
            self._said.update(views)
        await self._log(event_of(one, self._daemon) for one in later)

    def _resynced(self, view: View) -> Event:
        """What was not told before this is not known; the differences are written next."""
        reason = "what happened before this, and was not told, is not known"
        scope = (view.identity, view.part)
        line = Record(
            at=time.time(), kind="resynced", seq=self._term, registry=view.registry, scope=scope, reason=reason
        )
        return event_of(line, self._daemon)

    async def _log(self, events: Iterable[Event]) -> None:
        step: list[Event] = []
        for number, event in enumerate(events, 1):
            step.append(event)
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if len(step) == STEP:
                await self._hand_over(step)
                step = []
        if step:
            await self._hand_over(step)

    async def _hand_over(self, events: list[Event]) -> None:
        """One that is too large goes without what makes it so, and holds up none of the others."""
        try:
            await self._sink.log(events, self._under)
        except Rejected as error:
            half = len(events) // 2
            if half:
                await self._hand_over(events[:half])
                await self._hand_over(events[half:])
                return
            pointer = reduced(events[0], str(error))
            if pointer is events[0]:
                raise
            await self._sink.log([pointer], self._under)

    def _kept(self) -> int:
        try:
            return int(msgspec.json.decode(self._cursor.read_bytes()))
        except (OSError, ValueError):
            return 0

    def _keep(self, shipped: int) -> None:
        replace(self._cursor, msgspec.json.encode(shipped))


class Shipping:
    """All shipments of a daemon. `told` notes in the journal what a source says."""

    def __init__(
        self, engine: Engine, state: Path | None, journal: Journal, told: Callable[[Observation], None]
    ) -> None:
        self.shipments: dict[str, Shipment] = {}
        self._engine = engine
        self._state = state
        self._journal = journal
        self._told = told
        self._asked: dict[str, Callable[[], None]] = {}

    def look(self) -> None:
        """Takes up the destinations that keep a log, and asks for what is said where links into them read."""
        if self._state is None:
            return
        logging = {name: one for name, one in self._engine.reconcilers.items() if _log_of(one) is not None}
        self.shipments = {name: one for name, one in self.shipments.items() if logging.get(name) is one.reconciler}
        for name, one in logging.items():
            sink = _log_of(one)
            if name not in self.shipments and sink is not None:
                self.shipments[name] = Shipment(one, sink, self._state, self._journal)
        wanted = {registry for one in logging.values() for registry in _read_by(one)}
        for registry in self._asked.keys() - wanted:
            self._asked.pop(registry)()
        for registry in wanted - self._asked.keys():
            self._asked[registry] = self._engine.store.report(registry, self._told)

    async def run(self) -> None:
        """Never returns; trouble of one destination ends here."""
        while True:
            await asyncio.sleep(EVERY)
            for name, one in list(self.shipments.items()):
                try:
                    await one.step()
                    one.reason = ""
                except (IsthmusError, OSError) as error:
                    if one.reason != str(error):
                        log.warning("%s destination=%s what=log reason=%r", react(error).kind, name, str(error))
                    one.reason = str(error)
                    await asyncio.sleep(LATER)

    def unshipped(self) -> dict[str, int]:
        """How many lines of the journal each destination has not been told."""
        return {name: one.unshipped for name, one in self.shipments.items()}


def _log_of(reconciler: Reconciler) -> EventLog | None:
    sink = reconciler.sink
    return sink if isinstance(sink, EventLog) and sink.logs else None


def _read_by(reconciler: Reconciler) -> Iterator[str]:
    for link in reconciler.destination.links:
        yield from link.registries
