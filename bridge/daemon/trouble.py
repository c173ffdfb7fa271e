"""What is wrong with this process itself: its file, its disk, its socket and its loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bridge.daemon.reload import Reload
from bridge.daemon.shipping import Shipping
from bridge.engine.engine import Engine
from bridge.report.attention import Finding, findings
from bridge.state.folder import State
from bridge.state.journal import Journal

STILL = 60.0  # seconds after which a loop that writes to the disk counts as stuck, and not as slow


class Troubles:
    """Looks at the parts of a daemon. `tasks`: its own loops by name; `served`: whether commands reach it.

    `still`: see `STILL`.
    """

    def __init__(
        self,
        path: Path,
        engine: Engine,
        kept: State,
        journal: Journal,
        reload: Reload,
        tasks: Mapping[str, asyncio.Task[None]],
        served: Callable[[], bool],
        shipping: Shipping,
        still: float = STILL,
    ) -> None:
        self._still = still
        self._path = path
        self._engine = engine
        self._kept = kept
        self._journal = journal
        self._reload = reload
        self._tasks = tasks
        self._served = served
        self._shipping = shipping

    def findings(self) -> Iterator[Finding]:
        """Everything that needs a look now, what the engine knows included."""
        for name, what in self.broken().items():
            yield Finding("loop-broken", name, f"the loop {name}: {what}")
        if (refused := self._reload.refused) is not None:
            more = f" and {len(refused.faults) - 1} more faults" if len(refused.faults) > 1 else ""
            said = f"the file was refused, and the one before it runs on: {refused.faults[0]}{more}"
            yield Finding("file-refused", str(self._path), said, len(refused.faults))
        yield from self._of_folder()
        yield from self._of_logs()
        yield from findings(self._engine)

    def _of_folder(self) -> Iterator[Finding]:
        kept, journal, folder = self._kept, self._journal, str(self._kept.folder)
        if (unreadable := kept.decisions.unreadable) is not None:
            said = f"every link is frozen, for it is not known which are: {unreadable.reason}"
            yield Finding("freezes-unreadable", "decisions.json", said)
        if kept.lost is not None:
            yield Finding(
                "state-gone", folder, f"somebody took it away, and it cannot be made again: {kept.lost.reason}"
            )
        elif (fault := kept.fault) is not None and unreadable is None:
            yield Finding("state-unwritable", folder, fault.reason)
        if (fault := journal.writing.fault) is not None:
            yield Finding("journal-unwritable", folder, fault.reason)
        if journal.dropped:
            yield Finding("journal-gap", folder, f"{journal.dropped} records found no room", journal.dropped)
        if journal.lacks:
            said = f"lines of {journal.lacks / 86_400:.1f} days that bridge.journal is to keep had no room"
            yield Finding("journal-short", folder, said)
        if not self._served():
            yield Finding("socket-gone", folder, "no command reaches this daemon: its socket cannot be served")

    def _of_logs(self) -> Iterator[Finding]:
        for name, one in self._shipping.shipments.items():
            if one.reason:
                said = f"{one.unshipped} lines of the journal wait for its log: {one.reason}"
                yield Finding("log-unshipped", name, said, max(1, one.unshipped))

    def broken(self) -> dict[str, str]:
        """The loops that do not run, each with what is wrong with it.

        One that waits for a registry is not among them, however long: a restart would not bring the answer.
        """
        found = {
            name: f"it has ended{_why(task)}"
            for name, task in {**self._tasks, **self._engine.loops()}.items()
            if task.done()
        }
        turns = {
            "journal": self._journal.writing.turned,
            "last known good": self._kept.known.writing.turned,
            "state": self._kept.turned,
        }
        for name, turned in turns.items():
            still = time.monotonic() - turned
            if still > self._still:
                found.setdefault(name, f"it has stood still for {still:.0f} s")
        return found


def _why(task: asyncio.Task[None]) -> str:
    error = None if task.cancelled() else task.exception()
    return f": {type(error).__name__}: {error}" if error is not None else ""
