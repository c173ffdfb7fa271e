"""Events at a destination, as values: for the journal, the metrics and the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from bridge.adapter import Cause, Change, Outcome
from bridge.guard.gate import Ground
from bridge.guard.holds import HeldRemoval
from bridge.model import ServiceName
from bridge.sources.store import Seen


class Written(NamedTuple):
    """A change was made. `kind`: add, update, remove or forget; `seen`: when its source reported it (monotonic).

    `serving`: entries of the service before and after; equal where the guard counts no loss or gain.
    `destination`, here and below: the name of the registry that is written. `ground`: why a removal was allowed.
    `sent`: when it was sent (monotonic), 0 where it was not made by a plan.
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
    """The writer made a change while this process was a standby; `serving` as for `Written`.

    `cause`: why this process would have made the removal, None where that is not known.
    """

    change: Change
    kind: str
    serving: tuple[int, int]
    destination: str
    cause: Cause | None = None


class Taken(NamedTuple):
    """An entry of ours was removed by somebody else than this bridge; it will be written again. `serving`: as above."""

    change: Change
    serving: tuple[int, int]
    destination: str


class HeldBack(NamedTuple):
    """The guard holds these removals, all of one link, scope, cause and limit."""

    ones: tuple[HeldRemoval, ...]
    destination: str


class Released(NamedTuple):
    """A removal is no longer held; `goes`: it may be made now, else it is no longer planned."""

    one: HeldRemoval
    goes: bool
    destination: str


class Failed(NamedTuple):
    """A change failed."""

    change: Change
    error: Exception
    destination: str


class Would(NamedTuple):
    """A link that observes would have made a change; `serving` as for `Written`, as if it had made all of them."""

    change: Change
    kind: str
    cause: Cause | None
    serving: tuple[int, int]
    destination: str


class Unwritten(NamedTuple):
    """An instance is newly not written. `kind`: "shadow" (a native has its place) or "park" (it cannot be written).

    `id`: of the entry, else of the instance at its source, "*" for all of the name. `link` "": several may feed it.
    """

    service: ServiceName
    id: str
    kind: str
    link: str
    reason: str
    destination: str


class Happened(NamedTuple):
    """Any other event for the journal."""

    kind: str
    about: Mapping[str, Any]


Event = Written | Noticed | Taken | HeldBack | Released | Failed | Would | Unwritten | Happened


class Events(Protocol):
    """A receiver of events."""

    def tell(self, event: Event) -> None:
        """Takes one event. Never waits, and never fails."""
