"""What a link says: from where to where, which services, under which policy, and what its guard allows."""

from __future__ import annotations

import enum
import fnmatch
import re
from functools import lru_cache

import msgspec

from bridge.model import ServiceName


class Policy(enum.StrEnum):
    """What may be written. `observe`: everything runs and is shown, nothing is written."""

    OBSERVE = "observe"
    UPSERT_ONLY = "upsert-only"
    SYNC = "sync"


class Unhealthy(enum.StrEnum):
    """What becomes of instances that may not receive traffic: marked, or withdrawn from the target."""

    MARK = "mark"
    WITHDRAW = "withdraw"


class Services(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which services: globs over names, or over `namespace:name` where the glob has a colon."""

    include: tuple[str, ...]
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
    """The limits of the deletion guard (rule 4); times in seconds, shares 0..1."""

    window: float = 600.0
    service_share: float = 0.5
    last_instance: str = "hold"
    source_share: float = 0.1
    source_count: int = 10
    hard_share: float = 0.5
    confirm_event: float = 30.0
    confirm_absence: float = 300.0


class GuardFor(msgspec.Struct, frozen=True, kw_only=True):
    """Guard settings that differ for some services; None: as the link says."""

    services: tuple[str, ...]
    window: float | None = None
    service_share: float | None = None
    last_instance: str | None = None
    source_share: float | None = None
    source_count: int | None = None
    hard_share: float | None = None
    confirm_event: float | None = None
    confirm_absence: float | None = None


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One configured direction: from registries, to a registry. `ttl` in seconds: leased, None: lasting."""

    name: str
    from_: tuple[str, ...]
    to: str
    policy: Policy
    services: Services
    where: dict[str, str] = {}
    rename: str = "{name}"
    port: str | int | None = None
    unhealthy: Unhealthy | None = None
    ttl: int | None = None
    guard: Guard = Guard()
    guard_for: tuple[GuardFor, ...] = ()

    def limits(self, service: ServiceName) -> Guard:
        """The guard's limits for one service: the first `guard_for` that names it, over the link's own."""
        for special in self.guard_for:
            if any(named(pattern, service) for pattern in special.services):
                own = {
                    field: value for field in Guard.__struct_fields__ if (value := getattr(special, field)) is not None
                }
                return msgspec.structs.replace(self.guard, **own)
        return self.guard


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def glob(pattern: str, text: str) -> bool:
    """Whether the whole text matches the shell pattern, case and all."""
    return _compiled(pattern).match(text) is not None


def named(pattern: str, name: ServiceName) -> bool:
    """Whether the glob means that service."""
    return glob(pattern, f"{name.namespace}:{name.name}" if ":" in pattern else name.name)
