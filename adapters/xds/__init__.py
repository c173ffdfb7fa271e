"""A control plane for Envoy and gRPC: every service that leads here as resources of xDS v3, in both variants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from adapters.common.credentials import Tls
from adapters.common.export import ExportRegistry, picture
from adapters.common.listen import Address, Listen, faults
from adapters.common.picture import Form, Picture
from adapters.xds.bootstrap import CLIENTS, Files, Variant, Wanted
from adapters.xds.health import HealthCheck, Proofs
from adapters.xds.resources import Served
from adapters.xds.server import Ads
from bridge.adapter import Reader
from bridge.errors import ConfigError, Fault
from bridge.model import ServiceName, Traits
from mappings import xds as mapping
from mappings.common import naming
from mappings.xds_resources import Upstream

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104, addresses that nobody can dial


class Security(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Paths of PEM files: what the server shows, and `client_ca`, by which it knows its clients."""

    cert: str
    key: str
    client_ca: str | None = None


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Where data planes ask; beyond loopback with client certificates alone.

    `cluster`: the name of a cluster, from {name}, {namespace} and {port}; what a gRPC client dials as `xds:///NAME`.
    `egress`: where an Envoy listens for applications beside it, which reach every service there by its name.
    `priority`: instances in other zones, or other regions, than a client's own serve it where its own cannot.
    `upstream_ca`: a path at the Envoy: what signs the certificates of instances whose port says TLS.
    """

    listen: Address
    tls: Security | None = None
    cluster: str = "{name}"
    egress: Address | None = None
    upstream_ca: str = ""
    priority: Literal["zone", "region"] | None = None
    health_check: HealthCheck | None = None


class Xds(ExportRegistry):
    """One configured export; see `bridge.adapter.Export` and `Bootstraps`."""

    def __init__(self, name: str, config: Config, picture: Picture, form: Form, traits: Traits, server: Ads) -> None:
        waiting = "before {missing} is known, nobody is told of a name that it may feed, nor of all there are"
        super().__init__(name, mapping.NAME, traits, form, picture, server, waiting=waiting)
        self._config = config
        self._ads = server

    async def readers(self, name: ServiceName) -> list[Reader]:
        """See `Readers`: each client says what it wants to be told."""
        return self._ads.readers(name)

    async def consumers(self, name: ServiceName) -> set[str]:
        """See `Observer`: each client says what it is."""
        return self._ads.kinds(name)

    def bootstrap(self, client: str, said: Mapping[str, str]) -> str:
        """See `Bootstraps.bootstrap`."""
        if client not in CLIENTS:
            raise ConfigError(f"{client!r} is no client of xds; there is {', '.join(CLIENTS)}")
        server = Listen.parse(said.get("server") or self._config.listen)
        if server.host in EVERYWHERE:
            raise ConfigError(f"{self.name} listens on {server}: say with --server what its clients dial")
        files = None
        if self._config.tls is not None:
            if missing := [key for key in ("ca", "cert", "key") if not said.get(key)]:
                options = ", ".join(f"--{key}" for key in missing)
                raise ConfigError(f"{self.name} asks for certificates: give {options}, paths at the client")
            files = Files(said["ca"], said["cert"], said["key"])
        variant: Variant = "world" if said.get("variant") == "world" else "delta"
        node, admin = said.get("node") or "envoy-1", said.get("admin", "")
        where = (said.get(key, "") for key in ("network", "region", "zone"))
        return CLIENTS[client](Wanted(server, node, files, admin, variant, *where))


def create(name: str, config: Config, state: Path | None) -> Xds:
    """The registry of one block of the file. Raises ConfigError."""
    found = list(_faults(config))
    if found:
        raise ConfigError(*found)
    shown, names = picture(state, name), naming.Naming(config.cluster)
    egress = Listen.parse(config.egress) if config.egress is not None else None
    proofs = Proofs(config.health_check) if config.health_check is not None else None
    served = Served(shown, names, Upstream(config.upstream_ca), egress, proofs)
    tls = config.tls
    shows = Tls(ca=tls.client_ca, cert=tls.cert, key=tls.key) if tls is not None else None
    server = Ads(Listen.parse(config.listen), served, shows, config.priority)
    form = partial(mapping.canonical, names)
    return Xds(name, config, shown, form, mapping.traits(names), server)


def _faults(config: Config) -> Iterator[Fault]:
    protected = config.tls is not None and config.tls.client_ca is not None
    yield from faults(config.listen, protected=protected, by="tls with client_ca")
    yield from naming.faults(config.cluster, "cluster")
    if config.egress is not None:
        yield from faults(config.egress, protected=True, by="", key="egress")
