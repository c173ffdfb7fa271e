"""Traces as the file asks for them now: a reload begins them, changes where they go and of how many, and ends them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bridge.config.schema import Configuration
from bridge.config.schema import Tracing as Settings
from bridge.daemon.audit import Audit
from bridge.sources.store import Store

if TYPE_CHECKING:
    from bridge.daemon.tracing import Tracing


class Traces:
    """Of one daemon. Where its file has never asked for any, nothing of OpenTelemetry is even imported."""

    def __init__(self, audit: Audit, store: Store) -> None:
        self._audit = audit
        self._store = store
        self._settings: Settings | None = None
        self._made: Tracing | None = None
        self._begun = asyncio.Event()

    def follow(self, configuration: Configuration) -> None:
        """This file runs from now on; what an earlier one had traced is still sent."""
        settings = configuration.bridge.tracing
        if settings == self._settings:
            return
        self._settings = settings
        if settings is not None:
            if self._made is None:
                from bridge.daemon.tracing import Tracing

                self._made = Tracing(configuration.bridge.id, self._store)
                self._begun.set()
            self._made.follow(settings)
        used = self._made if settings is not None else None
        self._audit.tracing = used
        self._store.touched = used.touched if used is not None else None

    def dropped(self) -> int | None:
        """How many spans no collector was told; None: no traces were asked for yet."""
        return self._made.waiting.dropped if self._made is not None else None

    async def run(self) -> None:
        """Sends them; never returns."""
        await self._begun.wait()
        assert self._made is not None
        await self._made.run()
