"""Health checks that name the service: shipped to Envoys only where one instance of each version has passed one here.

A cluster whose instances do not answer the check would have no healthy instance at all. Its service name matcher has
Envoy compare a header of the answer with the cluster's name, so that an address that another process took over, and
that also answers 200, gets no traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import aiohttp
import msgspec

from adapters.common import probing
from bridge.adapter import Concern
from bridge.model import Health, Instance
from bridge.units import TIME
from mappings.xds_resources import NAMED_BY, Check

log = logging.getLogger("isthmus.xds")

AT_ONCE = 32  # checks that are under way
PLAIN = frozenset({"", "http", "tcp"})  # protocols of ports that are asked by HTTP/1.1 without TLS

Seconds = Annotated[float, msgspec.Meta(gt=0), TIME]


class HealthCheck(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What Envoys ask each instance. `names_the_service`: an answer has to say the cluster's name in NAMED_BY."""

    path: Annotated[str, msgspec.Meta(pattern="^/[!-~]*$")]
    interval: Seconds = 5.0
    timeout: Seconds = 2.0
    names_the_service: bool = False


class Proof(NamedTuple):
    """What is to be proven: a version of what a cluster serves. `instances`: any of them may answer."""

    cluster: str
    version: str
    instances: tuple[Instance, ...]


class Proofs:
    """What is proven, by cluster and version; a version that is gone has to be proven again when it is back."""

    def __init__(self, said: HealthCheck) -> None:
        self._said = said
        self.interval = said.interval
        self._check = Check(said.path, said.interval, said.timeout, said.names_the_service)
        self._wanted: dict[str, dict[str, tuple[Instance, ...]]] = {}
        self._proven: dict[str, set[str]] = {}
        self._missing: dict[str, str] = {}  # why a cluster's check is left out
        self.more = asyncio.Event()  # there is something to prove

    def shipped(self, cluster: str, instances: Sequence[Instance]) -> Check | None:
        """The check of a cluster that has these instances now; None: it is left out."""
        if not instances:
            self._wanted.pop(cluster, None)
            self._proven.pop(cluster, None)
            self._missing.pop(cluster, None)
            return None
        versions: dict[str, tuple[Instance, ...]] = {}
        for one in instances:
            versions[one.version] = (*versions.get(one.version, ()), one)
        self._wanted[cluster] = versions
        proven = self._proven.setdefault(cluster, set())
        proven &= versions.keys()
        if proven == versions.keys():
            self._missing.pop(cluster, None)
            return self._check
        self._missing.setdefault(cluster, "it was not asked yet")
        self.more.set()
        return None

    def open(self) -> Iterator[Proof]:
        """What is not proven."""
        for cluster, versions in self._wanted.items():
            for version, instances in versions.items():
                if version not in self._proven[cluster]:
                    yield Proof(cluster, version, instances)

    async def prove(self) -> set[str]:
        """One round over what is not proven; the clusters whose check may be shipped now."""
        self.more.clear()
        room = asyncio.Semaphore(AT_ONCE)
        found: set[str] = set()

        async def one(through: aiohttp.ClientSession, proof: Proof) -> None:
            async with room:
                why = await self._failure(through, proof)
            versions = self._wanted.get(proof.cluster)
            if versions is None or proof.version not in versions:
                return
            if why:
                self._say(proof, why)
                return
            self._proven[proof.cluster].add(proof.version)
            if self._proven[proof.cluster] == versions.keys():
                found.add(proof.cluster)

        async with probing.session(AT_ONCE) as through, asyncio.TaskGroup() as group:
            for proof in list(self.open()):
                group.create_task(one(through, proof))
        return found

    @property
    def notes(self) -> list[str]:
        """For `check`: whose check is left out, and why."""
        return [f"no health check of {name} is sent: {why}" for name, why in sorted(self._missing.items())]

    def concerns(self) -> list[Concern]:
        """See `Concerned`."""
        if not self._missing:
            return []
        name, why = min(self._missing.items())
        more = f", and {len(self._missing) - 1} more" if len(self._missing) > 1 else ""
        return [Concern("check-unproven", f"{name}{more}: {why}")]

    async def _failure(self, through: aiohttp.ClientSession, proof: Proof) -> str:
        """Why no instance of it passed, "" if one did."""
        said, why = self._said, ""
        for each in proof.instances[:3]:
            port = each.ports[0]
            if port.tls or port.protocol not in PLAIN:
                return f"its port speaks {'TLS' if port.tls else port.protocol}, which is not asked"
            if each.health is Health.DRAINING:
                continue
            url = probing.url(each.address, port.number, said.path)
            header = NAMED_BY if said.names_the_service else ""
            name = proof.cluster if header else ""
            why = await probing.failure(through, url, said.timeout, header=header, name=name, good={200})
            if not why:
                return ""
            why = f"{each.id} of version {proof.version!r}: {why}"
        return why or f"all of version {proof.version!r} are draining"

    def _say(self, proof: Proof, why: str) -> None:
        if self._missing.get(proof.cluster) != why:
            log.warning("no health check cluster=%r reason=%s", proof.cluster, why)
        self._missing[proof.cluster] = why
