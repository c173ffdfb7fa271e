"""The blocks of the configuration file: one strict frozen type each, with what its values may be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bridge import link
from bridge.document import ALSO, TIME, Duration

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Globs = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
OneOrMore = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, extra_json_schema={ALSO: "string", "minLength": 1})]
Last = Literal["hold", "pass"]
ForeignSync = Literal["ignore", "follow"]
LIMITS = link.Guard()


class Bridge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this bridge is (the owner of every entry that it writes), and where it keeps its things."""

    id: Name
    state: str | None = None
    listen: str | None = None
    resync: Annotated[float, msgspec.Meta(ge=1), TIME] = 600.0
    secrets: tuple[str, ...] = ("*password*", "*token*", "*secret*")


class Services(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which services a link takes: globs over names, or over `namespace:name` where the glob has a colon."""

    include: Globs
    exclude: tuple[str, ...] = ()


class Guard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of the deletion guard (design 6.4): times in seconds, shares of 0..1 of the serving instances."""

    window: Duration = LIMITS.window
    service_share: Share = LIMITS.service_share
    last_instance: Last = "hold"
    source_share: Share = LIMITS.source_share
    source_count: Count = LIMITS.source_count
    hard_share: Share = LIMITS.hard_share
    confirm_event: Duration = LIMITS.confirm_event
    confirm_absence: Duration = LIMITS.confirm_absence


class GuardFor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other limits for some services; what is None stays as the link says."""

    services: Globs
    window: Duration | None = None
    service_share: Share | None = None
    last_instance: Last | None = None
    source_share: Share | None = None
    source_count: Count | None = None
    hard_share: Share | None = None
    confirm_event: Duration | None = None
    confirm_absence: Duration | None = None


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """One named direction: from registries, whose equal names are merged, to a registry. `name` "": the default."""

    name: Name = ""
    from_: OneOrMore
    to: str
    policy: link.Policy
    services: Services
    where: dict[str, str] = {}
    rename: str = "{name}"
    port: str | int | None = None
    unhealthy: link.Unhealthy | None = None
    lifetime: Literal["lasting", "leased"] = "lasting"
    ttl: Duration | None = None
    guard: Guard = Guard()
    guard_for: tuple[GuardFor, ...] = ()

    def settled(self) -> link.Link:
        """What the core is told of a link that has no fault."""
        same = ("from_", "to", "where", "rename", "port", "policy", "unhealthy")
        return link.Link(
            **{key: getattr(self, key) for key in same},
            name=self.name,
            services=link.Services(**msgspec.structs.asdict(self.services)),
            ttl=None if self.ttl is None else round(self.ttl),
            guard=link.Guard(**msgspec.structs.asdict(self.guard)),
            guard_for=tuple(link.GuardFor(**msgspec.structs.asdict(one)) for one in self.guard_for),
        )


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """One registry's block: `options` is the Config of the adapter of that kind, secrets included.

    `foreign_sync`: whether what other synchronisers wrote there is sent anywhere.
    """

    name: str
    kind: str
    options: Any
    foreign_sync: ForeignSync = "ignore"

    @property
    def digest(self) -> str:
        """12 hex digits over the whole block: what tells two of them apart without telling secrets."""
        block = (self.kind, self.options, self.foreign_sync)
        return hashlib.sha256(msgspec.json.encode(block)).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Registry(name={self.name!r}, kind={self.kind!r})"  # never the options: they may hold secrets


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. `hash`: 12 hex digits over its content, without comments, order of keys, and secrets."""

    bridge: Bridge
    registries: dict[str, Registry]
    links: tuple[link.Link, ...]
    warnings: tuple[str, ...]
    hash: str
    path: Path


def over(limits: Guard, one: GuardFor) -> Guard:
    """The limits, with those of `one` that are stated in the place of the general ones."""
    return msgspec.structs.replace(
        limits,
        **{name: value for name in Guard.__struct_fields__ if (value := getattr(one, name)) is not None},
    )
