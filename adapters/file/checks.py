"""HTTP checks, from this host, of instances in people's files: nothing else says whether they run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
from msgspec.structs import replace

from adapters.common import probing
from adapters.file.verdicts import Kept, Target, Verdicts
from adapters.file.view import Stands
from bridge.adapter import Concern
from bridge.model import Health, Instance, Service, ServiceName
from bridge.units import TIME

AT_ONCE = 64  # checks in flight
OBSERVED = 86_400.0  # seconds after the first check in which no health is changed, unless the file says otherwise

Seconds = Annotated[float, msgspec.Meta(gt=0), TIME]


class Check(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The check of each instance. `observe`: None is "for the first day"."""

    http: Annotated[str, msgspec.Meta(pattern="^/[!-~]*$")]
    header: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9-]*$")] = "X-Service-Name"
    interval: Seconds = 10.0
    timeout: Seconds = 2.0
    failures: Annotated[int, msgspec.Meta(ge=1)] = 3
    observe: bool | None = None


class Checks:
    """The checks of one registry. `changed`: is set where a verdict changed; then `take` has the services.

    `state`: where what is known is kept; None: nowhere.
    """

    def __init__(self, name: str, said: Check, state: Path | None) -> None:
        self.changed = asyncio.Event()
        self._said = said
        self._file = state / "checks" / f"{name}.json" if state is not None else None
        self._host = socket.gethostname()
        self._verdicts = Verdicts(said.failures)
        self._targets: dict[ServiceName, dict[Target, Instance]] = {}
        self._touched: set[ServiceName] = set()
        self._kept: Kept | None = None
        self._began = time.time()
        self._is_restored = False

    @property
    def observes(self) -> bool:
        """Whether checks change no health now."""
        if self._said.observe is not None:
            return self._said.observe
        return time.time() - self._began < OBSERVED

    def know(self, stands: Stands) -> None:
        """Notes a service as its files have it now. Copies of bridges are not checked: their origin checks them."""
        service = stands.service
        found = {
            Target(service.name, id, one.address, one.ports[0].number): one
            for id, one in service.instances.items()
            if id not in service.marks and one.serving and one.ports
        }
        if found:
            self._targets[service.name] = found
        else:
            self._targets.pop(service.name, None)

    def seen(self, stands: Stands) -> Service:
        """The service with the health that the checks found."""
        service, found = stands.service, dict(stands.service.instances)
        for each in self._verdicts.turned:
            if each.service == service.name and each in self._targets.get(service.name, ()):
                found[each.id] = replace(found[each.id], health=Health.UNHEALTHY)
        return Service(service.name, found, service.marks)

    def take(self) -> set[ServiceName]:
        """The services of which a verdict changed since the last call."""
        self.changed.clear()
        touched, self._touched = self._touched, set()
        return touched

    async def restore(self) -> None:
        """Restores the verdicts of the previous process, if it ran on this host."""
        if self._is_restored or self._file is None:
            return
        self._is_restored = True
        with contextlib.suppress(OSError, msgspec.DecodeError):
            kept = msgspec.json.decode(await asyncio.to_thread(self._file.read_bytes), type=Kept)
            if kept.host == self._host:
                self._kept, self._began = kept, kept.began
                self._verdicts.restore(kept)

    async def run(self) -> None:
        """Never returns: a round of checks in each interval."""
        async with probing.session(AT_ONCE) as through:
            while True:
                begun = time.monotonic()
                every = {each: one for some in self._targets.values() for each, one in some.items()}
                self._verdicts.know(every)
                before = self._verdicts.turned  # before the checks: one that passes is well again at once
                await self._ask(through, every)
                self._verdicts.judge(time.monotonic(), observe=self.observes)
                self._tell(before)
                await self._keep()
                await asyncio.sleep(max(0.0, begun + self._said.interval - time.monotonic()))

    async def again(self, stands: Stands) -> Service:
        """A second opinion before a withdrawal: checks again those that failed."""
        turned = {each for each in self._verdicts.turned if each.service == stands.service.name}
        if turned:
            async with probing.session(AT_ONCE) as through:
                await self._ask(through, {each: self._targets[each.service][each] for each in turned if self._is(each)})
            self._tell(frozenset(turned) | (self._verdicts.turned - turned))
        return self.seen(stands)

    @property
    def notes(self) -> list[str]:
        """For `check`: what is checked, and what fails."""
        kept, failing = self._verdicts.keep(self._host, self._began), self._verdicts.failing
        doing = "observes: nothing is turned" if self.observes else f"{len(kept.turned)} are turned"
        said = [f"checks by GET {self._said.http} from {self._host}: {len(kept.passed)} instances have passed; {doing}"]
        return said + [f"{each.service}/{each.id}: {why}" for each, why in sorted(failing.items())[:20]]

    def concerns(self) -> list[Concern]:
        """See `Concerned`."""
        return [Concern("host-doubted", self._verdicts.doubt)] if self._verdicts.doubt else []

    def _is(self, target: Target) -> bool:
        return target in self._targets.get(target.service, ())

    async def _ask(self, through: aiohttp.ClientSession, targets: Mapping[Target, Instance]) -> None:
        said = self._said

        async def one(target: Target, tls: bool) -> None:
            where = probing.url(target.address, target.port, said.http, tls=tls)
            name = target.service.name if said.header else ""
            why = await probing.failure(through, where, said.timeout, header=said.header, name=name)
            self._verdicts.take(target, why)

        room = asyncio.Semaphore(AT_ONCE)

        async def in_turn(target: Target, tls: bool) -> None:
            async with room:
                await one(target, tls)

        async with asyncio.TaskGroup() as group:
            for target, instance in targets.items():
                group.create_task(in_turn(target, instance.ports[0].tls))

    def _tell(self, before: Iterable[Target]) -> None:
        if moved := frozenset(before) ^ self._verdicts.turned:
            self._touched |= {each.service for each in moved}
            self.changed.set()

    async def _keep(self) -> None:
        """Saves changed verdicts; those that cannot be saved are found anew after a restart."""
        kept = self._verdicts.keep(self._host, self._began)
        if self._file is None or kept == self._kept:
            return
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_write, self._file, msgspec.json.encode(kept))
            self._kept = kept


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    os.replace(draft, path)
