"""What a link says: from where to where, which services, under which policy, and what its guard allows."""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import msgspec

from bridge.model import ServiceName
from bridge.units import Duration


class Policy(enum.StrEnum):
    """What may be written. `observe`: everything runs and is shown, nothing is written."""

    OBSERVE = "observe"
    UPSERT_ONLY = "upsert-only"
    SYNC = "sync"


class Unhealthy(enum.StrEnum):
    """What becomes of instances that may not receive traffic: marked, or withdrawn from the target."""

    MARK = "mark"
    WITHDRAW = "withdraw"


class Addresses(enum.StrEnum):
    """Which addresses go: any, or none that only its own host or network segment can dial."""

    ANY = "any"
    ROUTABLE = "routable"


class Metadata(enum.StrEnum):
    """What becomes of metadata: kept, or dropped but for what the target's readers act on."""

    KEEP = "keep"
    DROP = "drop"


Globs = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Services(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which services a link takes: globs over names, or over `namespace:name` where the glob has a colon."""

    include: Globs
    exclude: tuple[str, ...] = ()

    def rule(self, name: ServiceName) -> tuple[bool, str]:
        """Whether a service goes, and the rule that decided."""
        for pattern in self.exclude:
            if named(pattern, name):
                return False, f"services.exclude {pattern!r}"
        for pattern in self.include:
            if named(pattern, name):
                return True, f"services.include {pattern!r}"
        return False, "services.include: no pattern matches"


class Guard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of the deletion guard (safety rule 4): times in seconds, shares of 0..1 of the serving instances."""

    window: Duration = 600.0
    service_share: Share = 0.5
    last_instance: Literal["hold", "pass"] = "hold"
    source_share: Share = 0.1
    source_count: Count = 10
    hard_share: Share = 0.5
    hard_count: Count = 5
    confirm_event: Duration = 30.0
    confirm_absence: Duration = 300.0


class GuardFor(Guard, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other limits for some services."""

    services: Globs

    def over(self, general: Guard, stated: Collection[str]) -> GuardFor:
        """With the general limits in the place of all that are not stated here."""
        rest = {field: getattr(general, field) for field in Guard.__struct_fields__ if field not in stated}
        return msgspec.structs.replace(self, **rest)


class Item(NamedTuple):
    """One item of `from`: a registry, or one scope of it (`NAME/SCOPE`). `scope` "": every scope there is."""

    registry: str
    scope: str = ""

    @classmethod
    def parse(cls, text: str) -> Item:
        """Registries have no slash in their names, scopes may have."""
        registry, _, scope = text.partition("/")
        return cls(registry, scope)

    def __str__(self) -> str:
        return f"{self.registry}/{self.scope}" if self.scope else self.registry

    def means(self, scope: str) -> bool:
        """Whether it is all scopes, that one, or what that one is a part of (`core` of `core/dc1`)."""
        return not self.scope or scope == self.scope or scope.startswith(f"{self.scope}/")


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One configured direction: from registries, or scopes of them, to a registry.

    `ttl` in seconds: leased, None: lasting. `as_`: the name of its picture, "": that of its one registry.
    """

    name: str
    from_: tuple[str, ...]
    to: str
    policy: Policy
    services: Services
    where: dict[str, str] = {}
    rename: str = "{name}"
    as_: str = ""
    port: str | int | None = None
    unhealthy: Unhealthy | None = None
    metadata: Metadata = Metadata.KEEP
    addresses: Addresses = Addresses.ANY
    ttl: int | None = None
    guard: Guard = Guard()
    guard_for: tuple[GuardFor, ...] = ()

    @property
    def items(self) -> tuple[Item, ...]:
        """What `from` names, in its order, which is that of a merge."""
        return _items(self.from_)

    @property
    def picture(self) -> str:
        """What its services are under where a destination keeps them apart (`Traits.pictures`)."""
        return self.as_ or self.items[0].registry

    @property
    def registries(self) -> frozenset[str]:
        """The registries that it reads, or reads a scope of."""
        return frozenset(item.registry for item in self.items)

    def item(self, registry: str, scope: str) -> Item | None:
        """The item that a scope is read by; None: the link does not see that scope."""
        return _item(self.from_, registry, scope)

    def limits(self, service: ServiceName) -> Guard:
        """The guard's limits for one service: those of the first `guard_for` that names it, else the link's own."""
        special = (one for one in self.guard_for if any(named(pattern, service) for pattern in one.services))
        return next(special, self.guard)

    @property
    def longest_window(self) -> float:
        """The longest window, in seconds, that any service of this link is judged by."""
        return max(one.window for one in (self.guard, *self.guard_for))


@lru_cache(maxsize=4096)
def _items(texts: tuple[str, ...]) -> tuple[Item, ...]:
    return tuple(Item.parse(text) for text in texts)


@lru_cache(maxsize=4096)
def _item(texts: tuple[str, ...], registry: str, scope: str) -> Item | None:
    found = (item for item in _items(texts) if item.registry == registry and item.means(scope))
    return next(found, None)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def glob(pattern: str, text: str) -> bool:
    """Whether the whole text matches the shell pattern, case and all."""
    return _compiled(pattern).match(text) is not None


def named(pattern: str, name: ServiceName) -> bool:
    """Whether the glob means that service."""
    return glob(pattern, f"{name.namespace}:{name.name}" if ":" in pattern else name.name)
