"""Which files have changed and are complete, by their states and inotify's events. Pure; time is an argument.

A file that is being written is a partial answer. It is complete when its writer closed it or moved it into place
while we watched, or when it has not changed for a moment. A missing file is gone after the same moment: many
editors move a file away and write it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from adapters.file.folder import Signature

MOMENT = 0.25  # seconds
PATIENCE = 10.0  # seconds that a writer may pause while it keeps the file open

UNKNOWN: Signature = ()


class Heard(msgspec.Struct):
    """The events since the last call: paths to check, those that are complete, and those that are open.

    `everything`: list the folder again. `swapped`: all files were replaced at once, and are complete (ConfigMaps).
    """

    paths: set[str] = msgspec.field(default_factory=set)
    closed: set[str] = msgspec.field(default_factory=set)
    open: Collection[str] = ()
    everything: bool = False
    swapped: bool = False


class _Doubt(msgspec.Struct, frozen=True):
    signature: Signature | None
    since: float
    due: float


class Track:
    """The known state of each file, and the files that may be incomplete."""

    def __init__(self) -> None:
        self.known: dict[str, Signature] = {}
        self._doubts: dict[str, _Doubt] = {}

    @property
    def whole(self) -> bool:
        """Whether the state of every file is known."""
        return all(path in self.known for path in self._doubts)

    @property
    def due(self) -> float | None:
        """When to check again, on the clock of `look`; None: every file is complete."""
        return min((doubt.due for doubt in self._doubts.values()), default=None)

    def overdue(self, now: float) -> set[str]:
        """The incomplete files that are due for a check."""
        return {path for path, doubt in self._doubts.items() if doubt.due <= now}

    def look(self, found: Mapping[str, Signature | None], heard: Heard, now: float, wall: float) -> set[str]:
        """The paths among those found that are in a new state, complete; None: there is no file.

        `now` is a monotonic clock and `wall` the time of day, both in seconds.
        """
        changed = set()
        for path, signature in found.items():
            if signature == self.known.get(path) and path not in heard.closed:
                self._doubts.pop(path, None)
            elif self._complete(path, signature, heard, now, wall):
                self._doubts.pop(path, None)
                changed.add(path)
                if signature is None:
                    self.known.pop(path, None)
                else:
                    self.known[path] = signature
            elif path not in self.known and now - self._doubts[path].since > PATIENCE:
                self.known[path] = UNKNOWN  # a file that is written all the time is not waited for without end
                changed.add(path)
        return changed

    def _complete(self, path: str, signature: Signature | None, heard: Heard, now: float, wall: float) -> bool:
        if signature is not None and (heard.swapped or path in heard.closed):
            return True
        moment = PATIENCE if path in heard.open else MOMENT
        if signature and len(signature) > 1 and wall - signature[0] / 1e9 >= moment:
            return True
        doubt = self._doubts.get(path)
        if doubt is None or doubt.signature != signature:
            self._doubts[path] = _Doubt(signature, doubt.since if doubt else now, now + moment)
            return False
        return now >= doubt.due

    def doubt(self, path: str, now: float) -> None:
        """The file changed while it was read: it is checked again in a moment."""
        self.known[path] = UNKNOWN
        self._doubts[path] = _Doubt(None, now, now + MOMENT)
