"""The blocks of the configuration file: one strict frozen type each, with what its values may be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bridge import link
from bridge.migration.block import Migration
from bridge.override import Override
from bridge.sources.networks import DEFAULT, Networks
from bridge.units import ALSO, SIZE, TIME, Duration

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
OneOrMore = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, extra_json_schema={ALSO: "string", "minLength": 1})]
ForeignSync = Literal["ignore", "follow"]


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What some users and groups of this host may do over the admin socket, and on which services."""

    who: Annotated[tuple[Annotated[str, msgspec.Meta(pattern=r"^(user|group):\S+$")], ...], msgspec.Meta(min_length=1)]
    services: link.Globs = ("*",)
    may: Annotated[tuple[Literal["read", "approve", "freeze", "admin"], ...], msgspec.Meta(min_length=1)]


class Journal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the journal stays on this host; what a stream has not been told of is in it as well.

    `keep`: older lines go; what has to go earlier, for want of room, is attention. None: as long as there is room.
    """

    keep: Annotated[float, msgspec.Meta(ge=86_400), TIME] | None = None
    room: Annotated[int, msgspec.Meta(ge=128 << 20), SIZE] = 1 << 30


class Tracing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where traces go, and of which share of all changes."""

    otlp: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s]+(/\S*)?$")]
    sample: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01


class Bridge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this bridge is (the owner of every entry that it writes), and where it keeps its things.

    `seat`: the registry in whose store the locks and notes are of destinations that have none of their own.
    `group`: the name of the group of daemons that share the writing of what is written from a stream.
    `additions`: what becomes of what a changed file adds to names that are served already.
    `token_file`: who asks for /metrics must show the token in that file; beyond loopback nobody gets them without.
    `access`: who may use the admin socket beside root and the daemon's own user, who may everything.
    """

    id: Name
    state: str | None = None
    listen: str | None = None
    token_file: str | None = None
    resync: Annotated[float, msgspec.Meta(ge=1), TIME] = 600.0
    seat: Name | None = None
    group: Name | None = None
    additions: Literal["hold", "flow"] = "hold"
    secrets: tuple[str, ...] = ("*password*", "*token*", "*secret*")
    access: tuple[Access, ...] = ()
    journal: Journal = Journal()
    tracing: Tracing | None = None


class Link(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from", "as_": "as"}
):
    """One named direction: from registries, whose equal names are merged, to a registry.

    `name` "": the default. `as`: the name of its picture in a stream, which needs one where `from` has several.
    """

    name: Name = ""
    from_: OneOrMore
    to: str
    policy: link.Policy
    services: link.Services
    where: dict[str, str] = {}
    rename: str = "{name}"
    as_: Annotated[str, msgspec.Meta(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] = ""
    port: str | int | None = None
    unhealthy: link.Unhealthy | None = None
    metadata: link.Metadata = link.Metadata.KEEP
    addresses: link.Addresses = link.Addresses.ANY
    network: Literal["crosses"] | None = None
    lifetime: Literal["lasting", "leased"] = "lasting"
    ttl: Duration | None = None
    guard: link.Guard = link.Guard()
    guard_for: tuple[link.GuardFor, ...] = ()

    def for_core(self) -> link.Link:
        """The link as the core has it; for one that has no fault."""
        own = {key: getattr(self, key) for key in link.Link.__struct_fields__ if key != "ttl"}
        return link.Link(**own, ttl=None if self.ttl is None else round(self.ttl))


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one network: addresses inside these ranges belong to it, whatever registry names them."""

    cidrs: link.Globs


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """One registry's block: `options` is the Config of the adapter of that kind, secrets included.

    `foreign_sync`: whether what other synchronisers wrote there is sent anywhere. `network`: that of its addresses.
    """

    name: str
    kind: str
    options: Any
    foreign_sync: ForeignSync = "ignore"
    network: str = DEFAULT

    @property
    def digest(self) -> str:
        """12 hex digits over the whole block: differs where two of them differ, and gives no secret away."""
        named = () if self.network == DEFAULT else (self.network,)
        block = (self.kind, self.options, self.foreign_sync, *named)
        return hashlib.sha256(msgspec.json.encode(block)).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Registry(name={self.name!r}, kind={self.kind!r})"  # never the options: they may hold secrets


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. `hash`: 12 hex digits over its content, less comments, order, secrets, and what is of a host.

    `keys`: a hash of the same content by key, e.g. "bridge.additions" or "links.a-to-b". `ranges`: CIDRs by network.
    """

    bridge: Bridge
    registries: dict[str, Registry]
    links: tuple[link.Link, ...]
    warnings: tuple[str, ...]
    hash: str
    path: Path
    keys: dict[str, str] = {}
    ranges: dict[str, tuple[str, ...]] = {}
    migrations: tuple[Migration, ...] = ()
    overrides: tuple[Override, ...] = ()

    @property
    def networks(self) -> Networks:
        """Which network an address is in."""
        named = {name: one.network for name, one in self.registries.items() if one.network != DEFAULT}
        return Networks(named, tuple((cidr, name) for name, cidrs in self.ranges.items() for cidr in cidrs))
