"""Sends batches of changes to one destination, a bounded number at once, and handles the outcome of each change."""

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
from bridge.model import ServiceName
from bridge.plan.values import Plan
from bridge.retry import LONGEST_DELAY, react
from bridge.shards import WHOLE
from bridge.sources.store import Seen

log = logging.getLogger("isthmus.reconcile")

IN_FLIGHT = 16  # concurrent calls of apply: with a bound, changes for a slow target coalesce instead of queueing
HURRY = 1.0  # seconds, at most, that a slot rests after a batch in which every name failed
LATE = 10.0  # seconds: a later answer does not tell when the change was made (this process may have been stopped)


class Planned(NamedTuple):
    """The plan of one name, and when the change that caused it was seen."""

    plan: Plan
    seen: Seen


class Batch(NamedTuple):
    """Changes that are sent in one call, their plans by name, and the term in which they were allowed.

    `shard`: the one that all of them are in.
    """

    changes: list[Change]
    plans: dict[ServiceName, Planned]
    term: Term | None
    shard: int = WHOLE


async def _nothing_kept(_: Sequence[Item]) -> bool:
    """Approvals that exist in this process alone need no record of their use."""
    return True


async def _unkept(_: str) -> None:
    """The previous entries are not recorded."""


def _untraced(change: Change, destination: str, seen: Seen) -> str:
    """No traces are made."""
    return ""


class Records(NamedTuple):
    """What is recorded before writes.

    `spend(items)`: durably, that approvals of these are used; False: it could not be recorded. `begins(link)`: the
    entries as they are before the first write of a link in this process. `traced`: the trace of a change
    (`Change.trace`).
    """

    spend: Callable[[Sequence[Item]], Awaitable[bool]] = _nothing_kept
    begins: Callable[[str], Awaitable[None]] = _unkept
    traced: Callable[[Change, str, Seen], str] = _untraced


class Applier:
    """The writes of one destination. `failing`: by name, why its last write failed.

    `under_way`: how many writes wait for an answer, by term.
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
        self._conflicts: dict[ServiceName, int] = {}  # consecutive conflicts, by name
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self.under_way: Counter[Term | None] = Counter()

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begins with nothing in flight; writes become tasks of this group."""
        self._tasks = tasks
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self.under_way.clear()

    @property
    def is_full(self) -> bool:
        """Whether the maximum number of batches is in flight."""
        return self._slots.locked()

    async def room(self) -> None:
        """Waits for a free slot and takes it; `send` or `no_batch` gives it back."""
        await self._slots.acquire()

    def no_batch(self) -> None:
        """Gives a slot back that was taken and is not used."""
        self._slots.release()

    def send(self, batch: Batch) -> None:
        """Sends a batch in a task of its own, so that an error while reading does not cancel it half way."""
        self.under_way[batch.term] += 1
        self._tasks.create_task(self._send(batch))

    def forget_conflicts(self, name: ServiceName) -> None:
        """Resets the count of conflicts: nothing is left to do under this name."""
        self._conflicts.pop(name, None)

    def forget_failure(self, name: ServiceName) -> None:
        """Clears the failure of a name of which nothing is to be written now."""
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
            # No other exception is expected, so this is a bug. The outcome is unknown: read these names again.
            log.exception("bug destination=%s what=apply", self._destination.name)
            self._fails(batch.plans, error)
            self._backlog.read_again(batch.plans)
            self._destination.inventory.unsure |= batch.plans.keys()
            rests = dict.fromkeys(batch.plans, 1.0)
        finally:
            self.under_way[batch.term] -= 1
            await self._end(batch, rests, made)

    async def _allowed(self, batch: Batch) -> Batch | float:
        """The batch with the changes that may be sent (the others are planned again), or the seconds until a retry."""
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
        """Releases the names and the slot, each when its delay is over."""
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
        if len(tired) == len(plans):  # every name failed: the target is in trouble, so this slot rests
            await asyncio.sleep(min(HURRY, *tired.values()))
        self._slots.release()
        backlog.plan_again(())

    async def _begin(self, changes: list[Change]) -> None:
        marks = (change.mark or (change.before.mark if change.before is not None else None) for change in changes)
        for link in sorted({mark.link for mark in marks if mark is not None} - self._begun):
            self._begun.add(link)  # recorded before anything is awaited: no other batch can write first
            await self._records.begins(link)

    async def _use(self, changes: list[Change]) -> bool:
        """Records before sending that approvals in this batch are used: after a crash they must not count again."""
        items = self._destination.approved(changes)
        if not items or await self._records.spend(items):
            return True
        self._fails(
            {change.service for change in changes},
            Unavailable("the state folder cannot record that an approval is used, so it stays: see `isthmus status`"),
        )
        return False

    async def _rest(self, name: ServiceName, seconds: float) -> None:
        """Delays one name; the others go on (safety rule 9)."""
        await asyncio.sleep(seconds)
        self._backlog.end_and_plan({name})

    def _conclude(self, outcome: Outcome, planned: Planned, sent: float, *, late: bool) -> float:
        """Handles one outcome; returns the seconds to wait before this name is tried again."""
        change, error = outcome.change, outcome.error
        if error is None:
            self._destination.done(outcome, planned.plan, planned.seen, late=late, sent=sent)
            self._conflicts.pop(change.service, None)
            return 0.0
        if isinstance(error, Rejected) and change.after is not None:
            if self._destination.park(change, error, self._clock()):  # a value that is retried is reported once
                self._events.tell(Failed(change, error, self._destination.name))
            return 0.0
        self._events.tell(Failed(change, error, self._destination.name))
        self._backlog.read_again((change.service,))
        if isinstance(error, Conflict):
            # One conflict is a race, which reading resolves; several in a row mean another writer or stale reads.
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
