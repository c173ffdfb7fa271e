"""What the meter of a migration is asked: looks at its gates, the share of its requests, and who is quiet."""

from __future__ import annotations

import time

from bridge.adapter import Meter
from bridge.config import kinds
from bridge.migration import asking
from bridge.migration.block import Migration
from bridge.migration.gates import Gate, Prometheus, Timing
from bridge.migration.intent import Intent, Requests
from bridge.migration.phases import Phase

EVERY = 30.0  # seconds between two measures of the requests of one move


NOTHING = Requests()


class Asking:
    """The meter of one migration, made anew where its block changes, and what it has said of each move."""

    def __init__(self) -> None:
        self._meter: tuple[Prometheus, Meter] | None = None

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

    async def measure(
        self, block: Migration, intent: Intent, known: Requests, timing: Timing, now: float
    ) -> Requests | None:
        """The requests of both sides; None: nothing counts them, or what is known is fresh and of this step."""
        prometheus, phase = block.gates.prometheus, intent.state.phase
        window = block.quiet_for if phase is Phase.RETIRE else timing.window(now)
        if prometheus is None or prometheus.requests is None or window is None:
            return None
        if now - known.at < EVERY and known.number == intent.state.number:
            return None
        meter = await self._meter_of(prometheus)
        found = await asking.measure(meter, prometheus, intent.service, window, now)
        return Requests(
            share=None if found.share is None else 100 * found.share,
            quiet=found.from_ == 0 if phase is Phase.RETIRE and found.from_ is not None else None,
            why=found.why or ("" if found.share is not None else "there was no request"),
            at=now,
            number=intent.state.number,
            settled=timing.settling(now, window) == 0,
        )

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
