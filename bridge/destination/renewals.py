"""Leases of a destination whose store cannot lock: the last writer renews them until another one writes."""

from __future__ import annotations

import asyncio

from bridge.adapter import Renewal, Renewer, Sink
from bridge.destination.leading import Leading

EVERY = 1.0  # seconds between two checks of who writes


class Renewals:
    """Informs a sink that asks for it (`Renewer`), and does nothing for any other. `every`: see `EVERY`."""

    def __init__(self, sink: Sink, every: float = EVERY) -> None:
        self._every = every
        self._sink = sink if isinstance(sink, Renewer) else None

    def begun(self) -> None:
        """Has the sink renew: this process became the writer."""
        if self._sink is not None:
            self._sink.renew(ours=True)

    async def run(self, lead: Leading) -> None:
        """Has the sink stop renewing when another process writes. Never returns."""
        while self._sink is not None:
            await asyncio.sleep(self._every)
            if not lead.writes and lead.another_writes:
                self._sink.renew(ours=False)
        await asyncio.Event().wait()

    @property
    def now(self) -> Renewal | None:
        """The state of the renewals; None: this process renews nothing there."""
        return self._sink.renewal if self._sink is not None else None
