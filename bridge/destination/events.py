"""What happens at a destination, as values, for whoever keeps a record: the journal, the metrics, the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from bridge.adapter import Cause, Change, Outcome
from bridge.guard.gate import Ground
from bridge.guard.holds import HeldRemoval
from bridge.model import ServiceName
from bridge.sources.store import Seen


class Written(NamedTuple):
    """One change was made. `kind`: add, update, remove or forget; `seen`: when its source reported it (monotonic).

    `serving`: entries of the service before and after; equal where the guard counts no loss or gain.
    `destination`, here and below: the name of the registry that is written. `ground`: of a removal, why it may go.
    `sent`: when it was sent there (monotonic), 0 where that was not by a plan.
    """

    outcome: Outcome
    kind: str
    cause: Cause | None
    seen: Seen
    serving: tuple[int, int]
    destination: str
    ground: Ground | None = None
    sent: float = 0.0


class Noticed(NamedTuple):
    """While this process stood by, the writer made a change; `serving` as for `Written`.

    `cause`: why this process would have removed it, None where that is not known.
    """

    change: Change
    kind: str
    serving: tuple[int, int]
    destination: str
    cause: Cause | None = None


class Taken(NamedTuple):
    """An entry of ours is gone, and no process of this bridge removed it; it is written again. `serving` likewise."""

    change: Change
    serving: tuple[int, int]
    destination: str


class HeldBack(NamedTuple):
    """The guard holds these, all of one link, scope, cause and limit."""

    ones: tuple[HeldRemoval, ...]
    destination: str


class Released(NamedTuple):
    """A removal is no longer held; `goes`: it is made now, else it is no longer asked for."""

    one: HeldRemoval
    goes: bool
    destination: str


class Failed(NamedTuple):
    """One change failed."""

    change: Change
    error: Exception
    destination: str


class Would(NamedTuple):
    """A link that observes would have made a change; `serving` as for `Written`, with all that it would have made."""

    change: Change
    kind: str
    cause: Cause | None
    serving: tuple[int, int]
    destination: str


class Unwritten(NamedTuple):
    """Something is not written from now on: `kind` is "shadow" (a native has its place) or "park" (for what it is).

    `id`: of the entry, else of the instance at its source, "*" for all under the name. `link` "": several may feed it.
    """

    service: ServiceName
    id: str
    kind: str
    link: str
    reason: str
    destination: str


class Happened(NamedTuple):
    """Anything else worth a line."""

    kind: str
    about: Mapping[str, Any]


Event = Written | Noticed | Taken | HeldBack | Released | Failed | Would | Unwritten | Happened


class Events(Protocol):
    """Who keeps a record."""

    def tell(self, event: Event) -> None:
        """Never waits, and never fails."""
