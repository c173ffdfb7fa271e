"""Kubernetes: Services and EndpointSlices of one cluster, read and written."""

from __future__ import annotations

import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, Self

import msgspec

from adapters.kubernetes import reach
from adapters.kubernetes.access import Keeper
from adapters.kubernetes.client import Client
from adapters.kubernetes.istio import reach as mesh_reach
from adapters.kubernetes.istio.sink import IstioSink
from adapters.kubernetes.lease import Leases, Lock, lock_name
from adapters.kubernetes.records import raw
from adapters.kubernetes.seat import LeaseNotes, LeaseSeat
from adapters.kubernetes.sink import KubernetesSink, Rules
from adapters.kubernetes.source import KubernetesSource
from adapters.kubernetes.times import TIMES, Times
from adapters.kubernetes.traces import traces
from adapters.kubernetes.working_copy import View
from bridge.adapter import Credential, Raw, Reach, Source, Trace
from bridge.errors import ConfigError, Fault
from bridge.model import ServiceName
from mappings import istio as mesh
from mappings import kubernetes as layout
from mappings.common import naming
from mappings.common.naming import Naming

HOST = "{name}.mesh.internal"
READING = ("address", "selector", "pod_metadata", "create_namespaces")  # what says nothing of a mesh,
MESH = ("host", "destination_rules")  # and what of nothing else


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One cluster, by one context of a kubeconfig; without `kubeconfig`, by the service account of the bridge's pod."""

    kubeconfig: str | None = None
    context: str | None = None
    namespaces: list[str] = []
    namespace: str = "default"
    selector: str | None = None
    address: Literal["pod", "node-port", "load-balancer", "cluster-ip"] = "pod"
    pod_metadata: bool = False
    create_namespaces: bool = False
    attach: bool = False
    max_attached_share: float = 0.5
    layout: Literal["kubernetes", "istio"] = "kubernetes"
    host: str = HOST
    destination_rules: bool = False


class Means(NamedTuple):
    """What a cluster is reached with. `kept`: where to keep what has just left attached Services, None: nowhere.

    `wall` gives seconds since the epoch, `clock` monotonic ones.
    """

    client: Client
    kept: Path | None
    wall: Callable[[], float]
    clock: Callable[[], float]


class Kubernetes:
    """One configured cluster; see `bridge.adapter.Registry`."""

    def __init__(self, name: str, config: Config, means: Means) -> None:
        client, rng = means.client, random.Random()
        self.name = name
        self._clocks = (means.wall, means.clock)
        self._kept = means.kept
        self.traits = msgspec.structs.replace(layout.TRAITS, is_cluster=config.address == "pod")
        self._client = client
        self._view = View(config.namespace, config.selector is not None, config.address, config.pod_metadata)
        self._rules = Rules(
            tuple(config.namespaces), config.create_namespaces, config.attach, config.max_attached_share
        )
        self._leases = Leases(client, config.namespace)
        self._sinks: dict[str, KubernetesSink] = {}
        self.sources = [
            KubernetesSource(client, self._view, namespace, config.selector or "", rng)
            for namespace in config.namespaces or [""]
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for sink in self._sinks.values():
            await sink.close()
        await self._client.close()

    async def scopes(self) -> AsyncIterator[Source]:
        """A source for each namespace that the file names, or one for all."""
        for source in self.sources:
            yield source

    def sink(self, bridge: str) -> KubernetesSink:
        """The destination side for that bridge; one."""
        if bridge not in self._sinks:
            self._sinks[bridge] = KubernetesSink(
                self._client, self._view, self._leases, self.traits, self._rules, bridge, self._kept, *self._clocks
            )
        return self._sinks[bridge]

    def seat(self, bridge: str, destination: str) -> LeaseSeat:
        """A Lease in the default namespace, with the note in an annotation of it."""
        lent = "" if destination == self.name else destination
        kind = "lent" if lent else "own"
        return LeaseSeat(Lock(self._leases, lock_name(bridge, lent), kind, bridge, _now))

    def notes(self, bridge: str) -> LeaseNotes:
        """See `bridge.adapter.Keeper`."""
        return LeaseNotes(self._leases, bridge)

    def credentials(self) -> list[Credential]:
        """See `bridge.adapter.Credentialed`."""
        return self._client.credentials()

    async def reach(self) -> Reach:
        """See `Registry.reach`."""
        return await reach.of(self._client, self.sources, self._leases)

    async def traces(self, bridge: str) -> list[Trace]:
        """See `Tracer`."""
        return await traces(self._client, self._leases, self.sink(bridge), bridge)

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`."""
        return await raw(self._client, self._view, name)


class Istio(Kubernetes):
    """One mesh, by the cluster that istiod reads: a destination alone."""

    def __init__(self, name: str, config: Config, means: Means) -> None:
        super().__init__(name, config, means)
        self._names = Naming(config.host)
        self._config = config
        self._written: dict[str, IstioSink] = {}
        self.traits = mesh.traits(self._names)
        self.sources = []

    def sink(self, bridge: str) -> IstioSink:  # type: ignore[override]
        """The destination side for that bridge; one."""
        if bridge not in self._written:
            self._written[bridge] = IstioSink(
                self._client,
                self._view,
                self._leases,
                self._names,
                self._rules,
                bridge,
                destination_rules=self._config.destination_rules,
            )
        return self._written[bridge]

    async def reach(self) -> Reach:
        """See `Registry.reach`: with what others' DestinationRules do to shares."""
        return await mesh_reach.of(self._client, self._config.namespace, self._rules, self._leases)

    async def traces(self, bridge: str) -> list[Trace]:
        """See `Tracer`."""
        return await traces(self._client, self._leases, self.sink(bridge), bridge)

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`."""
        return await self.sink("").raw(name)


def _now() -> datetime:
    return datetime.now(UTC)


def create(
    name: str,
    config: Config,
    state: Path | None,
    wall: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
    times: Times = TIMES,
) -> Kubernetes:
    """The registry of one block of the file; `state` keeps what has just left attached Services. Raises ConfigError.

    The kubeconfig is read when it is used: whatever is wrong with it is Denied, and mended without a restart.
    """
    faults = list(_faults(config))
    if faults:
        raise ConfigError(*faults)
    made = Istio if config.layout == mesh.NAME else Kubernetes
    kept = state / f"kubernetes.{name}.json" if state is not None and config.attach else None
    client = Client(Keeper(config.kubeconfig, config.context), times)
    return made(name, config, Means(client, kept, wall, clock))


_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch
_KEY = r"(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_SET = rf"\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\)"
_ONE = rf"\s*(?:!?\s*{_KEY}|{_KEY}\s*(?:==?|!=)\s*{_VALUE}|{_KEY}\s+(?:in|notin)\s*{_SET})\s*"
_SELECTOR = re.compile(rf"{_ONE}(?:,{_ONE})*").fullmatch


def _faults(config: Config) -> Iterator[Fault]:
    yield from _layout_faults(config)
    if config.context is not None and config.kubeconfig is None:
        yield Fault("is a name of the kubeconfig, which is left out", ("context",))
    for index, namespace in enumerate(config.namespaces):
        if not _NAMESPACE(namespace):
            yield Fault(f"{namespace!r} is no name of a namespace: a-z, 0-9 and -", ("namespaces", index))
    if len(set(config.namespaces)) < len(config.namespaces):
        yield Fault("names one twice", ("namespaces",))
    if not _NAMESPACE(config.namespace):
        yield Fault(f"{config.namespace!r} is no name of a namespace: a-z, 0-9 and -", ("namespace",))
    if not 0 < config.max_attached_share <= 1:
        yield Fault(f"{config.max_attached_share:g} is no share: above 0, up to 1", ("max_attached_share",))
    if config.selector is not None and not _SELECTOR(config.selector):
        yield Fault(f"{config.selector!r} is no label selector such as `team=pay, tier in (web, api)`", ("selector",))


def _layout_faults(config: Config) -> Iterator[Fault]:
    given = {each.name for each in msgspec.structs.fields(config) if getattr(config, each.name) != each.default}
    if config.layout == mesh.NAME:
        yield from (Fault("says nothing with `layout: istio`", (key,)) for key in READING if key in given)
        yield from naming.faults(config.host, "host")
        if Naming(config.host).by_port:
            yield Fault("has {port}: a host has all ports of its service", ("host",))
    else:
        yield from (Fault("is for `layout: istio` alone", (key,)) for key in MESH if key in given)
