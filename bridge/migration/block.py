"""One item of `migrations:` in the file: which services move from where to where, in which steps."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from bridge.errors import ConfigError, Fault
from bridge.link import Globs, Item, glob, named
from bridge.migration.gates import Gates
from bridge.model import Instance, ServiceName
from bridge.units import TIME, Duration

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a side: an item as in `from` of a link, and of that what `where` and `addresses` choose (globs)."""

    item: str
    where: dict[str, str] = {}
    addresses: tuple[str, ...] = ()

    def reads(self, registry: str, scope: str) -> bool:
        """Whether any of that scope may belong to it."""
        item = Item.parse(self.item)
        return item.registry == registry and item.means(scope)

    @property
    def is_whole(self) -> bool:
        """Whether all of what it reads belongs to it."""
        return not (self.where or self.addresses)

    def has(self, instance: Instance) -> bool:
        """Whether an instance that it reads belongs to it."""
        return all(glob(pattern, instance.metadata.get(key, "")) for key, pattern in self.where.items()) and (
            not self.addresses or any(glob(pattern, instance.address) for pattern in self.addresses)
        )


Ends = Annotated[tuple[str | End, ...], msgspec.Meta(min_length=1)]
Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+/?$")]
Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a step may begin by itself: weekdays and hours (the last ones included and excluded, as people say them)."""

    days: str = "mon-sun"
    hours: str = "0-24"
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Raises ConfigError with what is wrong."""
        first, _, last = self.days.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ConfigError(Fault(f"{self.days!r} should be days, e.g. mon-thu", ("days",)))
        begin, _, end = self.hours.partition("-")
        if not (begin.isdigit() and end.isdigit() and int(begin) < int(end) <= 24):
            raise ConfigError(Fault(f"{self.hours!r} should be hours of one day, e.g. 9-16", ("hours",)))
        try:
            ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError):
            raise ConfigError(Fault(f"{self.zone!r} is no time zone, e.g. Europe/Berlin", ("zone",))) from None

    def has(self, now: float) -> bool:
        """Whether a moment (seconds since the epoch) is inside."""
        at = datetime.datetime.fromtimestamp(now, ZoneInfo(self.zone))
        first, _, last = self.days.partition("-")
        day, begin, end = at.weekday(), DAYS.index(first), DAYS.index(last or first)
        inside = begin <= day <= end if begin <= end else day >= begin or day <= end
        low, high = (int(hour) for hour in self.hours.split("-"))
        return inside and low <= at.hour < high


class Part(enum.StrEnum):
    """The side that an instance is of."""

    OLD = "from"
    NEW = "to"


class Migration(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename={"from_": "from"}
):
    """Which services move from one side to the other, at which places, in which steps (percent of `to`).

    `at`: where consumers look: the destinations of links. `elsewhere`: places that are to lose these services.
    `attach_at`: registries of `to` where consumers are to call both sides meanwhile.
    `envoys`: URLs of the admin pages of Envoys that count the requests of the measured share.
    `consumers`: kinds of clients, as `bridge.consumers` names them; `settle`: seconds in the place of what these are
    known to need. Each service is a move of its own.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    services: Globs
    from_: Ends
    to: Ends
    at: Names
    elsewhere: tuple[str, ...] = ()
    attach_at: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    envoys: Annotated[tuple[Url, ...], msgspec.Meta(max_length=100)] = ()
    steps: Annotated[tuple[Percent, ...], msgspec.Meta(min_length=1, max_length=100)] = (1.0, 5.0, 25.0, 50.0, 100.0)
    natives: Literal["untouched", "steer"] = "untouched"
    at_once: Annotated[int, msgspec.Meta(ge=1)] = 5
    window: Window | None = None
    gates: Gates = Gates()
    on_fail: Literal["rollback", "hold"] = "rollback"
    settle: Annotated[float, msgspec.Meta(ge=0), TIME] | None = None
    quiet_for: Duration = 86400.0
    keep: Duration = 259200.0
    wait_at_most: Annotated[float, msgspec.Meta(gt=0), TIME] = 86400.0

    def __post_init__(self) -> None:
        """Raises ConfigError with what is wrong."""
        if list(self.steps) != sorted(set(self.steps)):
            raise ConfigError(Fault("should rise from step to step", ("steps",)))
        if self.steps[-1] != 100:
            raise ConfigError(Fault(f"should end with 100, not {self.steps[-1]:g}", ("steps",)))

    @property
    def places(self) -> tuple[str, ...]:
        """Where its shares are said."""
        return (*self.at, *self.attach_at)

    @property
    def old(self) -> tuple[End, ...]:
        """The parts of the side that it leaves."""
        return _ends(self.from_)

    @property
    def new(self) -> tuple[End, ...]:
        """The parts of the side that it goes to."""
        return _ends(self.to)

    @property
    def registries(self) -> frozenset[str]:
        """The registries that its sides are read from."""
        return frozenset(Item.parse(end.item).registry for end in (*self.old, *self.new))

    def moves(self, registry: str, scope: str, service: ServiceName) -> bool:
        """Whether it moves that service, and one of its sides is read there."""
        is_read = any(end.reads(registry, scope) for end in (*self.old, *self.new))
        return is_read and any(named(pattern, service) for pattern in self.services)

    def part(self, registry: str, scope: str, instance: Instance) -> Part | None:
        """The side of an instance, by where it was read; None: of neither."""
        return self.parts(registry, scope)(instance)

    def native(self, registry: str, instance: Instance) -> Part | None:
        """The side of an instance that is native in a registry, in a scope that nobody says: of two wholes the old."""
        found = [
            (end.is_whole, part)
            for end, part in self._ends
            if Item.parse(end.item).registry == registry and end.has(instance)
        ]
        narrow = [part for is_whole, part in found if not is_whole]
        return narrow[0] if narrow else Part.OLD if (True, Part.OLD) in found else found[0][1] if found else None

    @property
    def _ends(self) -> list[tuple[End, Part]]:
        """Of both sides: what says more of an instance comes first, and of equal ones the new side."""
        ends = [*((end, Part.NEW) for end in self.new), *((end, Part.OLD) for end in self.old)]
        return sorted(ends, key=lambda one: one[0].is_whole)

    def parts(self, registry: str, scope: str) -> Callable[[Instance], Part | None]:
        """What tells the side of each instance of a scope."""
        ends = [(end, part) for end, part in self._ends if end.reads(registry, scope)]
        if not ends or ends[0][0].is_whole:
            only = ends[0][1] if ends else None
            return lambda _: only
        return lambda instance: next((part for end, part in ends if end.is_whole or end.has(instance)), None)


def _ends(ends: tuple[str | End, ...]) -> tuple[End, ...]:
    return tuple(End(item=one) if isinstance(one, str) else one for one in ends)


class Named(NamedTuple):
    """What commands call a migration, or one move of it: NAME or NAME/SERVICE."""

    migration: str
    service: str = ""

    @classmethod
    def parse(cls, text: str) -> Named:
        """Names of migrations have no slash, services may have."""
        name, _, service = text.partition("/")
        return cls(name, service)
