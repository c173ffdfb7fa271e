"""What the meter of a migration is asked: looks at its gates, the share of its requests, and who is quiet."""

from __future__ import annotations

import time

from bridge.adapter import Counts, Meter
from bridge.config import kinds
from bridge.engine import moves
from bridge.engine.engine import Engine
from bridge.errors import Denied, Unavailable, Undecodable
from bridge.migration import asking
from bridge.migration.block import Migration, Part
from bridge.migration.counting import Window, measured, reached
from bridge.migration.gates import Gate, Prometheus, Timing
from bridge.migration.intent import Intent, Requests
from bridge.migration.natives import Gone
from bridge.migration.phases import Phase

FIRST = 5.0  # seconds of the first window of a step that Envoys are counted in
TOGETHER = 1.0  # seconds for which what they said counts for every move
EVERY = 30.0  # seconds between two measures of the requests of one move


NOTHING = Requests()


class Counting:
    """What Envoys counted for the moves of one migration, from one look to the next."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        self.urls = urls
        self._counter = kinds.counter("envoy", {"urls": urls})
        self._windows: dict[str, Window] = {}
        self._due: dict[str, float] = {}
        self._last: tuple[float, Counts] = (0.0, {})

    async def measure(
        self, engine: Engine, block: Migration, intent: Intent, timing: Timing, now: float, gone: Gone
    ) -> Requests | None:
        """The requests since the look before, once the last consumer follows this step; None: it is too early."""
        name, number = intent.name, intent.state.number
        before = self._windows.get(name)
        if timing.over is None or now < timing.over:
            return None
        begins = before is None or before.number != number or before.at < timing.over
        if now < self._due.get(name, 0.0) and not begins:
            return None
        self._due[name] = now + (FIRST if begins or gone.addresses else EVERY)
        try:
            counts = await self._counts(now)
        except (Unavailable, Denied, Undecodable) as error:
            why = f"an Envoy does not tell: {error}"
            return Requests(why=why, left_why=why, at=now, number=number)
        self._windows[name] = Window(number, now, counts)
        if before is None or begins:
            return None
        sides = [moves.addresses(engine, block, intent.service, part) for part in (Part.OLD, Part.NEW)]
        found = measured(before.counts, counts, *sides)
        return Requests(
            share=None if found.share is None else 100 * found.share,
            why="" if found.share is not None else "there was no request",
            at=now,
            number=number,
            settled=True,
            left=reached(before.counts, counts, gone.addresses) if gone.addresses else None,
            since=before.at,
        )

    async def _counts(self, now: float) -> Counts:
        """Once for all moves that are looked at together."""
        if now - self._last[0] >= TOGETHER:
            self._last = now, await self._counter.counts()
        return self._last[1]

    async def close(self) -> None:
        """Ends every connection."""
        await self._counter.close()


class Asking:
    """The meter of one migration, made anew where its block changes, and what it has said of each move."""

    def __init__(self) -> None:
        self._meter: tuple[Prometheus, Meter] | None = None
        self._counting: Counting | None = None

    async def looks(self, block: Migration, intent: Intent, timing: Timing, now: float) -> dict[str, Gate]:
        """Each gate, with one more look where its interval is over."""
        prometheus = block.gates.prometheus
        if prometheus is None:
            return dict(intent.gates)
        meter = await self._meter_of(prometheus)
        found = dict(intent.gates)
        for query in prometheus.queries:
            gate = found.get(query.name, Gate())
            if gate.look is None or now - gate.look.at >= query.interval:
                one = await asking.look(meter, prometheus, query, intent.service, timing, now)
                found[query.name] = gate.after(one) if one is not None else gate
        return found

    async def counted(
        self, engine: Engine, block: Migration, intent: Intent, timing: Timing, now: float, gone: Gone
    ) -> Requests | None:
        """The requests of both sides as Envoys count them; None: no news."""
        if self._counting is None or self._counting.urls != block.envoys:
            await self.close()
            self._counting = Counting(block.envoys)
        return await self._counting.measure(engine, block, intent, timing, now, gone)

    async def measure(
        self, block: Migration, intent: Intent, known: Requests, timing: Timing, now: float, gone: Gone
    ) -> Requests | None:
        """The requests of both sides by the query; None: nothing counts them, or what is known is fresh."""
        prometheus, phase = block.gates.prometheus, intent.state.phase
        window = block.quiet_for if phase is Phase.RETIRE else timing.window(now)
        if prometheus is None or prometheus.requests is None or window is None:
            return None
        if now - known.at < (FIRST if gone.addresses else EVERY) and known.number == intent.state.number:
            return None
        meter = await self._meter_of(prometheus)
        found = await asking.measure(meter, prometheus, intent.service, window, now)
        left, left_why, since = await self._left(meter, prometheus, intent, timing, now, gone)
        return Requests(
            share=None if found.share is None else 100 * found.share,
            quiet=found.from_ == 0 if phase is Phase.RETIRE and found.from_ is not None else None,
            why=found.why or ("" if found.share is not None else "there was no request"),
            at=now,
            number=intent.state.number,
            settled=timing.settling(now, window) == 0,
            left=left,
            left_why=left_why,
            since=since,
        )

    async def _left(
        self, meter: Meter, prometheus: Prometheus, intent: Intent, timing: Timing, now: float, gone: Gone
    ) -> tuple[float | None, str, float]:
        """The requests at natives that are out, why they are not known, and since when they are counted."""
        window = timing.after(now) if gone.addresses and (prometheus.by_instance or gone.alone) else None
        if window is None:
            return None, "", 0.0
        addresses = {address for address, _ in gone.addresses} if prometheus.by_instance else set()
        left, why = await asking.left(meter, prometheus, intent.service, window, now, addresses)
        return left, why, now - window

    async def _meter_of(self, prometheus: Prometheus) -> Meter:
        if self._meter is not None and self._meter[0] == prometheus:
            return self._meter[1]
        await self.close()
        made = kinds.meter("prometheus", prometheus.connection, time.time)
        self._meter = prometheus, made
        return made

    async def close(self) -> None:
        """Ends every connection."""
        if self._meter is not None:
            await self._meter[1].close()
            self._meter = None
        if self._counting is not None:
            await self._counting.close()
            self._counting = None
