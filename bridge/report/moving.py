"""What of a move an operator should know: it waits, has no data, is off its share, fails, or its way back closes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bridge.migration.block import Migration
from bridge.migration.phases import Looked, Phase, State, Waits
from bridge.report.attention import Finding

OFF = 5.0  # points of percent that the measured share may differ from the one that was meant
LAST = 0.1  # of `keep`: from then on the way back is about to close


def differing(running: Mapping[str, Migration], file: Sequence[Migration]) -> Iterator[Finding]:
    """The migrations that run by another block than the file has; one that the file has no more holds its moves."""
    for block in file:
        if block.name in running and running[block.name] != block:
            text = "it runs by the block that it was started with, and the file has another one"
            yield Finding("migration-differs", block.name, text)


def findings(
    name: str, block: Migration, state: State, looked: Looked, measured: float | None, now: float
) -> Iterator[Finding]:
    """Of one move. `measured`: the share of its requests, in percent, in a window of this step alone; None: not known.

    How long it has been so the alerts count; times in seconds since the epoch.
    """
    if state.phase is Phase.ROLLING_BACK or looked.waits is Waits.FAILED:
        stuck = "; IT DOES NOT GET ON" if looked.waits is Waits.TROUBLE or state.paused else ""
        yield Finding("migration-failed", name, f"{state.phase}: {state.reason or looked.why}: {looked.why}{stuck}")
    elif looked.waits in (Waits.PERSON, Waits.TROUBLE):
        yield Finding("migration-waits", name, f"{state.phase}: {looked.why}")
    elif looked.waits is Waits.DATA:
        yield Finding("migration-no-data", name, looked.why)
    if state.phase is Phase.SHIFT and measured is not None and abs(measured - state.share) > OFF:
        text = f"{measured:.1f} % of the requests go to the new side, and {state.share:g} % are meant to"
        yield Finding("migration-off", name, text)
    if state.phase in (Phase.RETIRE, Phase.DONE):
        left = (state.settled or state.since) + block.keep - now
        if 0 < left < LAST * block.keep:
            yield Finding("migration-closing", name, f"the way back is open for {left / 3600:.1f} h more")
