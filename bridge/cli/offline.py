"""An engine for the commands that look without a daemon: it only observes, and is waited for until it has seen all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bridge.admin.client import call
from bridge.admin.protocol import NoDaemonError, RefusedError
from bridge.config.schema import Configuration
from bridge.daemon.overriding import decided
from bridge.destination.events import Event
from bridge.engine.engine import Engine
from bridge.errors import ConfigError, IsthmusError, Rejected, Unavailable
from bridge.plan.orders import Ordering, Rank
from bridge.report.plans import hold_rows
from bridge.report.values import Row, value_hash
from bridge.state.folder import State

PATIENCE = 8.0  # seconds without an answer after which a registry counts as out of reach

ANSWERS = 3.0  # seconds that a daemon may take to say what it knows; without, the command goes on


class Silence:
    """Keeps no record of what an engine that only looks does."""

    def tell(self, event: Event) -> None:
        """What matters to a command is in the plan."""


async def _hear_of_refusals(engine: Engine) -> None:
    """What a target refused is known to who tried to write it: the daemon, where one runs."""
    state = engine.configuration.bridge.state
    if state is None:
        return
    try:
        rows = await asyncio.to_thread(call, Path(state) / "admin.sock", "refused", within=ANSWERS)
    except NoDaemonError:
        return
    except (ConfigError, Unavailable, RefusedError) as error:
        sys.stderr.write(f"what targets refused is not shown: {error}\n")
        return
    refused = {(row["to"], row["service"], row["instance"]): row for row in rows}
    for to, reconciler in engine.reconcilers.items() if refused else ():
        for change in (change for plan in reconciler.destination.plans.values() for change in plan.upserts):
            row = refused.get((to, str(change.service), change.id))
            if row is not None and change.after is not None and value_hash(change.after) == row["value"]:
                reconciler.destination.park(change, Rejected(row["reason"]), engine.clock() - row["age"])


def _orderings(configuration: Configuration) -> Mapping[Rank, Ordering]:
    """What operators of this host said of instances in the place of their sources."""
    state = configuration.bridge.state
    if state is None or not os.access(state, os.R_OK | os.X_OK):
        return {}
    return decided(State(Path(state)))


@asynccontextmanager
async def looking(configuration: Configuration, patience: float = PATIENCE) -> AsyncIterator[tuple[Engine, bool]]:
    """An engine that has seen everything that can be reached; and whether that was all there is."""
    logging.getLogger("isthmus").setLevel(logging.CRITICAL)
    orderings = await asyncio.to_thread(_orderings, configuration)
    async with Engine(configuration, events=Silence(), observe=True, orderings=orderings) as engine:
        whole = await engine.settled(patience, _progress)
        await _hear_of_refusals(engine)
        _progress("")
        yield engine, whole


def _progress(text: str) -> None:
    """One line on a terminal, overwritten in place; nothing in a pipe."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def unreached(engine: Engine) -> list[str]:
    """Which registries did not answer, and why."""
    return [f"{name}: {reason}" for name, reason in engine.unreached().items()]


def known_holds(engine: Engine) -> list[Row]:
    """What is held, as the daemon says, for only it knows since when; without one, as this engine would hold it."""
    state = engine.configuration.bridge.state
    if state is not None:
        with contextlib.suppress(IsthmusError):
            rows: list[Row] = call(Path(state) / "admin.sock", "holds", within=ANSWERS)
            return rows
    return hold_rows(engine)
