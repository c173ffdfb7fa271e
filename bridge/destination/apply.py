"""Batches of changes, sent to one destination: bounded in flight, and what became of each change."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from bridge.adapter import Change, Outcome, Sink, Term
from bridge.destination.awake import Awake
from bridge.destination.backlog import Backlog
from bridge.destination.confirm import ASK_AGAIN
from bridge.destination.destination import Destination
from bridge.destination.events import Events, Failed
from bridge.destination.leading import Leading
from bridge.errors import Conflict, Denied, Rejected, Superseded, Unavailable
from bridge.guard.holds import Item
from bridge.guard.losses import WHOLE
from bridge.model import ServiceName
from bridge.plan.values import Plan
from bridge.retry import LONGEST_DELAY, react
from bridge.sources.store import Seen

log = logging.getLogger("isthmus.reconcile")

IN_FLIGHT = 16  # calls of apply under way at once: bounded, so that a slow target coalesces instead of queueing
HURRY = 1.0  # seconds between two batches that fail as a whole, for each of those in flight
LATE = 10.0  # seconds: an answer that comes later says what was made, and not when (a stopped process wakes to it)


class Planned(NamedTuple):
    """The plan of one name, and when the change that it answers was seen."""

    plan: Plan
    seen: Seen


class Batch(NamedTuple):
    """Changes that are sent in one call, the plans that they are of, and the term that they were allowed in.

    `shard`: that all of them are in.
    """

    changes: list[Change]
    plans: dict[ServiceName, Planned]
    term: Term | None
    shard: int = WHOLE


async def _nothing_kept(_: Sequence[Item]) -> bool:
    """Approvals that are kept in this process alone need no record of their use."""
    return True


async def _unkept(_: str) -> None:
    """What stood there before is kept nowhere."""


def _untraced(change: Change, destination: str, seen: Seen) -> str:
    """No traces are made."""
    return ""


class Records(NamedTuple):
    """What is recorded before writes.

    `spend(items)`: for good that approvals of these are used, False: it cannot be recorded. `begins(link)`: what stands
    there before the first write of a link in this process. `traced`: the trace that a change is of (`Change.trace`).
    """

    spend: Callable[[Sequence[Item]], Awaitable[bool]] = _nothing_kept
    begins: Callable[[str], Awaitable[None]] = _unkept
    traced: Callable[[Change, str, Seen], str] = _untraced


class Applier:
    """The writes of one destination. `failing`: why the last write of a name failed.

    `under_way`: writes that wait for an answer, by their term.
    """

    def __init__(
        self,
        destination: Destination,
        sink: Sink,
        backlog: Backlog,
        lead: Leading,
        events: Events,
        clock: Callable[[], float],
        rng: random.Random,
        awake: Awake,
        *,
        records: Records,
    ) -> None:
        self.failing: dict[ServiceName, str] = {}
        self._destination = destination
        self._sink = sink
        self._backlog = backlog
        self._events = events
        self._clock = clock
        self._rng = rng
        self._records = records
        self._begun: set[str] = set()  # links
        self._lead = lead
        self._awake = awake
        self._conflicts: dict[ServiceName, int] = {}  # in a row, for what could not be written
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self.under_way: Counter[Term | None] = Counter()

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Nothing is under way; from now on writes are tasks of this group."""
        self._tasks = tasks
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self.under_way.clear()

    @property
    def is_full(self) -> bool:
        """Whether as much is under way as may be."""
        return self._slots.locked()

    async def room(self) -> None:
        """Takes the room of one batch, as soon as there is some; `send` or `no_batch` gives it back."""
        await self._slots.acquire()

    def no_batch(self) -> None:
        """There is nothing to send in the room that was taken."""
        self._slots.release()

    def send(self, batch: Batch) -> None:
        """Sends a batch, in a task of its own: trouble in reading must not leave it unknown what became of a write."""
        self.under_way[batch.term] += 1
        self._tasks.create_task(self._send(batch))

    def forget_conflicts(self, name: ServiceName) -> None:
        """There is nothing to do under this name: whoever fought over it has stopped."""
        self._conflicts.pop(name, None)

    def forget_failure(self, name: ServiceName) -> None:
        """Nothing of this name is to be written now, so nothing of it fails."""
        self.failing.pop(name, None)

    async def _send(self, batch: Batch) -> None:
        rests: dict[ServiceName, float] = {}
        made: dict[ServiceName, int] = {}
        try:
            if self._awake.has_slept:
                log.info("planned again destination=%s reason='this process was stopped'", self._destination)
            elif isinstance(allowed := await self._allowed(batch), Batch):
                await self._apply(allowed, rests, made)
            else:
                rests = dict.fromkeys(batch.plans, allowed)
        except Superseded as error:
            self._lead.supersede(batch.term)
            self._backlog.read_again(None if batch.shard == WHOLE else batch.plans)
            log.warning("superseded destination=%s reason=%r", self._destination.name, str(error))
        except Exception as error:
            # Nothing may be raised here, so this is a bug; what became of the batch is unknown, so it is read again.
            log.exception("bug destination=%s what=apply", self._destination.name)
            self._fails(batch.plans, error)
            self._backlog.read_again(batch.plans)
            self._destination.inventory.unsure |= batch.plans.keys()
            rests = dict.fromkeys(batch.plans, 1.0)
        finally:
            self.under_way[batch.term] -= 1
            await self._end(batch, rests, made)

    async def _allowed(self, batch: Batch) -> Batch | float:
        """The batch with what may be sent of it, and what may not is planned again; or in how many seconds to try."""
        try:
            changes = await self._lead.reserved(batch)
        except (Unavailable, Denied) as error:
            self._fails(batch.plans, error)
            return HURRY
        return batch._replace(changes=changes) if await self._use(changes) else ASK_AGAIN

    async def _apply(self, batch: Batch, rests: dict[ServiceName, float], made: dict[ServiceName, int]) -> None:
        if not batch.changes:
            return
        await self._begin(batch.changes)
        sent = self._clock()
        outcomes = await self._sink.apply([self._traced(one, batch) for one in batch.changes], batch.term)
        late = self._clock() - sent > LATE
        for outcome in outcomes:
            name = outcome.change.service
            rests[name] = max(rests.get(name, 0.0), self._conclude(outcome, batch.plans[name], sent, late=late))
            made[name] = made.get(name, 0) + (outcome.error is None)

    def _traced(self, change: Change, batch: Batch) -> Change:
        trace = self._records.traced(change, self._destination.name, batch.plans[change.service].seen)
        return replace(change, trace=trace) if trace else change

    async def _end(self, batch: Batch, rests: dict[ServiceName, float], made: dict[ServiceName, int]) -> None:
        """Gives names and room free again, each in its time."""
        plans, backlog = batch.plans, self._backlog
        backlog.wrote(plans)
        tired = {name: rest for name, rest in rests.items() if rest}
        over = {name for name, count in made.items() if plans[name].plan.ends_with(count)}
        over -= self._destination.planner.waits
        backlog.end(over)
        backlog.end_and_plan(plans.keys() - tired.keys() - over)
        if self.failing:
            self.failing = {name: why for name, why in self.failing.items() if name in tired or name not in plans}
        for name, rest in tired.items():
            self._tasks.create_task(self._rest(name, rest))
        if len(tired) == len(plans):  # nothing went well: the target is in trouble, and is not hurried
            await asyncio.sleep(min(HURRY, *tired.values()))
        self._slots.release()
        backlog.plan_again(())

    async def _begin(self, changes: list[Change]) -> None:
        marks = (change.mark or (change.before.mark if change.before is not None else None) for change in changes)
        for link in sorted({mark.link for mark in marks if mark is not None} - self._begun):
            self._begun.add(link)  # what stands is taken down at once: no other batch can be ahead of it
            await self._records.begins(link)

    async def _use(self, changes: list[Change]) -> bool:
        """Records that approvals in this batch are used, before it is sent: after a crash they must not serve twice."""
        items = self._destination.approved(changes)
        if not items or await self._records.spend(items):
            return True
        self._fails(
            {change.service for change in changes},
            Unavailable("the state folder cannot record that an approval is used, so it stays: see `isthmus status`"),
        )
        return False

    async def _rest(self, name: ServiceName, seconds: float) -> None:
        """One name waits, its siblings do not (safety rule 9)."""
        await asyncio.sleep(seconds)
        self._backlog.end_and_plan({name})

    def _conclude(self, outcome: Outcome, planned: Planned, sent: float, *, late: bool) -> float:
        """Takes one outcome over; returns the seconds to wait before this name is tried again."""
        change, error = outcome.change, outcome.error
        if error is None:
            self._destination.done(outcome, planned.plan, planned.seen, late=late, sent=sent)
            self._conflicts.pop(change.service, None)
            return 0.0
        if isinstance(error, Rejected) and change.after is not None:
            if self._destination.park(change, error, self._clock()):  # one that is tried again and again is told once
                self._events.tell(Failed(change, error, self._destination.name))
            return 0.0
        self._events.tell(Failed(change, error, self._destination.name))
        self._backlog.read_again((change.service,))
        if isinstance(error, Conflict):
            # Once is a race, and the reading settles it; again and again, somebody fights or reads are stale.
            times = self._conflicts[change.service] = self._conflicts.get(change.service, 0) + 1
            return min(0.05 * 2.0**times, LONGEST_DELAY) if times > 1 else 0.0
        self._destination.inventory.unsure.add(change.service)
        self._fails((change.service,), error)
        delay = react(error).delay
        return delay if delay is not None else 0.5 + self._rng.random() / 2

    def _fails(self, names: Iterable[ServiceName], error: Exception) -> None:
        text = f"apply: {error}"
        if text not in self.failing.values():
            log.warning("trouble destination=%s reason=%r", self._destination.name, text)
        self.failing.update(dict.fromkeys(names, text))
