"""Netflix Eureka as run by Spring Cloud: read by polling, written as lasting or leased registrations."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import msgspec

from adapters.common.credentials import Tls, secret
from adapters.common.urls import is_url
from adapters.eureka.answers import Applications, Page
from adapters.eureka.client import Client
from adapters.eureka.life import Lives
from adapters.eureka.sink import EurekaSink
from adapters.eureka.source import EurekaSource
from adapters.eureka.steering import StatusOverrides
from adapters.eureka.times import TIMES, Times
from adapters.eureka.watching import Watching
from adapters.eureka.working_copy import WorkingCopy, record_of
from bridge.adapter import Credential, Raw, Reach, Right, Seat, Source
from bridge.errors import ConfigError, Denied, Fault, Unavailable
from bridge.model import ServiceName
from bridge.units import TIME
from mappings import eureka as mapping

Poll = Annotated[float, msgspec.Meta(gt=0, le=60), TIME]

# What an operator should know about entries there.
LIMITS = (
    f"entries of links that last end {mapping.LASTING // 86_400} days after their last heartbeat, "
    "leased ones after their ttl: a bridge must run, or be started again, within that time",
    "there is no compare-and-set: each write is preceded by a look at the instance, within the time of the lock",
)


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One Eureka. `urls` name its peers, each with its path (`http://host:8761/eureka`), not a load balancer.

    `poll`: seconds between two polls for changes. `address`: which of an instance's two addresses is used.
    `identity`: its name in the marks of every bridge, by default host and port of the first URL.
    The password is read from `password_file` at each request, or is `password`.
    """

    urls: Annotated[list[str], msgspec.Meta(min_length=1)]
    poll: Poll = 5.0
    address: Literal["ip", "host"] = "ip"
    identity: str | None = None
    tls: Tls | None = None
    username: str | None = None
    password: str | None = None
    password_file: str | None = None


class Eureka:
    """One configured Eureka; see `bridge.adapter.Registry`."""

    def __init__(
        self,
        name: str,
        config: Config,
        client: Client,
        lives: Lives,
        times: Times = TIMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._times = times
        self._clock = clock
        self.traits = mapping.TRAITS
        self._config = config
        self._client = client
        self._identity = f"eureka:{config.identity or urlsplit(config.urls[0]).netloc}"
        self._rng = random.Random()
        self.source = EurekaSource(client, self._identity, lives, config.address, config.poll, self._rng, clock)
        self._sinks: dict[str, EurekaSink] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for sink in self._sinks.values():
            await sink.close()
        await self._client.close()

    async def scopes(self) -> AsyncIterator[Source]:
        """One source: its peers are copies of each other."""
        yield self.source

    def sink(self, bridge: str) -> EurekaSink:
        """The destination side for that bridge."""
        if bridge not in self._sinks:
            self._sinks[bridge] = EurekaSink(
                self._client, self._identity, bridge, self._drifting, self._config.address, self._times.renewal
            )
        return self._sinks[bridge]

    def seat(self, bridge: str, destination: str) -> Seat | None:
        """None: it cannot lock, so it borrows the seat that `bridge.seat` names."""
        return None

    def levers(self, bridge: str) -> StatusOverrides:
        """See `bridge.adapter.Steerer`."""
        return StatusOverrides(self._client)

    def credentials(self) -> list[Credential]:
        """See `bridge.adapter.Credentialed`."""
        return self._client.credentials()

    async def reach(self) -> Reach:
        """See `Registry.reach`. Whoever may read may write: Eureka's only permission is the login."""
        all = await self._client.full()
        page = await self._client.page(self._client.url)
        notes = [*await self._peers(), *_kept_silent(page, all)]
        rights = (Right("read the registry", True), Right("register, renew, cancel (no rights but the login)", None))
        return Reach(
            self._identity, "Eureka", may_read=True, may_write=None, notes=tuple(notes), rights=rights, limits=LIMITS
        )

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`: each instance, read past the caches; our mark is in its metadata."""
        found = []
        for one in await self._client.service(name):
            body = await self._client.body(*one.key) if not set("/\\") & set(one.record.id) else b""
            if body is not None:
                why = record_of(name, one, self._config.address).why
                id = mapping.entry_id(name, one.record)
                found.append(Raw(f"apps/{one.record.app}/{one.record.id}", body.decode(errors="replace"), id, why))
        return found

    async def _peers(self) -> list[str]:
        """Notes on peers that do not answer, and on peers with a different number of instances."""
        notes: list[str] = []
        counts: dict[str, int] = {}
        for url in self._client.urls:
            try:
                counts[url] = len((await self._client.full(url)).instances)
            except (Unavailable, Denied) as error:
                notes.append(f"warning: {error}")
        if len(set(counts.values())) > 1:
            notes.append(f"its peers differ: {', '.join(f'{url} has {count}' for url, count in counts.items())}")
        return notes

    def _drifting(self, copy: WorkingCopy) -> Watching:
        """A watch for the sink. It knows no earlier incarnation: what is there now is what is held."""
        return Watching(self._client, copy, Lives(None), self._config.poll, self._rng, self._clock)


def _kept_silent(page: Page, all: Applications) -> list[str]:
    """A note on self-preservation: how many expired instances it keeps, and for how long."""
    if page.expires is not False:
        return []
    leases = [one.record.leaseInfo for one in all.instances if one.record.leaseInfo is not None]
    ages = [age for lease in leases if (age := lease.silent(time.time())) > lease.durationInSecs]
    if not ages:
        return []
    return [
        f"self-preservation keeps {len(ages)} instances whose lease is over, the oldest silent for {max(ages):.0f} s"
    ]


def create(
    name: str,
    config: Config,
    state: Path | None,
    times: Times = TIMES,
    clock: Callable[[], float] = time.monotonic,
) -> Eureka:
    """The registry of one block of the file; its incarnation is kept in `state`. Raises ConfigError."""
    faults = list(_faults(config))
    if faults:
        raise ConfigError(*faults)
    credentials = (
        (config.username, secret(config.password, config.password_file)) if config.username is not None else None
    )
    path = None if state is None else state / f"eureka.{name}.json"
    return Eureka(name, config, Client(config.urls, config.tls, credentials, times), Lives(path), times, clock)


def _faults(config: Config) -> Iterator[Fault]:
    for index, url in enumerate(config.urls):
        if not is_url(url):
            yield Fault(f"{url!r} is not http://host:port/eureka or https://host:port/eureka", ("urls", index))
    if config.tls and not any(url.startswith("https:") for url in config.urls):
        yield Fault("no URL begins with https://", ("tls",))
    if config.tls:
        yield from config.tls.faults()
    passwords = [given for given in (config.password, config.password_file) if given is not None]
    if (config.username is None) != (not passwords) or len(passwords) > 1:
        yield Fault("goes together with one of password and password_file", ("username",))
