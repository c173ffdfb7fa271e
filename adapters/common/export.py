"""What exports share: the sink that keeps a picture, and the registry around a server that answers by it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol, Self

import msgspec

from adapters.common.picture import Form, Picture
from bridge.adapter import (
    Certainty,
    Change,
    Client,
    Concern,
    Held,
    Outcome,
    Raw,
    Reach,
    Reader,
    Seat,
    Source,
    Term,
    Trace,
)
from bridge.errors import Rejected, Unavailable
from bridge.model import Instance, Mark, ServiceName, Traits

YIELDED = 2  # turns of the loop: in one a server hears what is new, in the next it begins to tell its clients


class Server(Protocol):
    """Answers data planes by a picture."""

    async def serve(self) -> None:
        """See `Export.serve`."""
        ...

    @property
    def clients(self) -> Sequence[Client]:
        """See `Export.clients`."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What `check` says of it."""
        ...

    @property
    def concerns(self) -> Sequence[Concern]:
        """See `Concerned`."""
        ...


class ExportSink:
    """The picture, written by one bridge. `form`: what is served of an instance of a service."""

    def __init__(self, identity: str, picture: Picture, traits: Traits, form: Form, bridge: str) -> None:
        self.traits = traits
        self._identity = identity
        self._picture = picture
        self._form = form
        self._bridge = bridge

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """See `Sink.canonical`."""
        if not instance.ports:
            raise Rejected("it has no port, so nobody can be told where to connect")
        return self._form(name, instance)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """What is served."""
        await self._picture.load()
        services = self._picture.services
        wanted = services if names is None else [name for name in names if name in services]
        return Held(self._identity, {name: dict(services[name]) for name in wanted})

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """Serves the changes; there is no lock, for every daemon serves a picture of its own.

        Clients are told before outcomes are booked, which takes as long.
        """
        await self._picture.load()
        outcomes = await self._picture.apply(self._bridge, changes, self.canonical)
        for _ in range(YIELDED):
            await asyncio.sleep(0)
        return outcomes

    def missing(self, items: frozenset[str], feeds: Callable[[ServiceName], bool] = lambda name: True) -> None:
        """See `Answering`."""
        self._picture.wait(items, feeds)

    def place(self, own: str, of: Callable[[Instance, Mark | None], str]) -> None:
        """See `Placed`."""
        self._picture.place(own, of)

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """Once everything: nobody else writes there."""
        yield frozenset()
        await asyncio.Event().wait()


class ExportRegistry:
    """One configured export; see `bridge.adapter.Export` and `Registry`.

    `left`: what it has written beside the picture, as `Tracer.traces` tells it; called in a thread. `waiting`: what is
    said of it while some of what feeds it, `{missing}`, is not known.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        traits: Traits,
        form: Form,
        picture: Picture,
        server: Server,
        left: Callable[[], Sequence[Trace]] = tuple,
        waiting: str = "no data plane is answered before {missing} is known",
    ) -> None:
        self._left = left
        self._waiting = waiting
        self.name = name
        self.traits = traits
        self._identity = f"{kind}:{name}"
        self._kind = kind
        self._form = form
        self._picture = picture
        self._server = server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def scopes(self) -> AsyncIterator[Source]:
        """None: it is asked by data planes alone."""
        nothing: tuple[Source, ...] = ()
        for source in nothing:
            yield source

    def sink(self, bridge: str) -> ExportSink:
        """The picture, for that bridge."""
        return ExportSink(self._identity, self._picture, self.traits, self._form, bridge)

    def seat(self, bridge: str, destination: str) -> Seat | None:
        """None: every daemon serves its own picture."""
        return None

    async def serve(self) -> None:
        """See `Export.serve`."""
        await self._picture.load()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._picture.keep())
            tasks.create_task(self._server.serve())

    def clients(self) -> Sequence[Client]:
        """See `Export.clients`."""
        return self._server.clients

    async def flush(self) -> None:
        """See `Export.flush`."""
        with contextlib.suppress(Unavailable):  # `concerns` says it
            await self._picture.flush()

    async def readers(self, name: ServiceName) -> list[Reader]:
        """See `Readers`: whoever asks is given every service that is served."""
        if name not in self._picture.services:
            return []
        return [
            Reader(
                who=f"{one.name or 'unnamed'} at {one.address}",
                certainty=Certainty.KNOWN,
                evidence=f"was given all of {self.name}: {', '.join(one.sent.values())}",
                at=one.seen,
            )
            for one in self._server.clients
        ]

    def concerns(self) -> Sequence[Concern]:
        """See `Concerned`."""
        found = [*self._server.concerns]
        if not self._picture.complete:
            missing = ", ".join(sorted(self._picture.missing)) or "what feeds it"
            found.append(Concern("export-waits", self._waiting.format(missing=missing)))
        if self._picture.fault:
            found.append(Concern("export-unkept", f"what is served cannot be kept: {self._picture.fault}"))
        refusing = [one for one in self._server.clients if one.refused]
        if refusing:
            name, reason = next(iter(refusing[0].refused.items()))
            more = f", and {len(refusing) - 1} more" if len(refusing) > 1 else ""
            found.append(Concern("client-refuses", f"{refusing[0].name}{more}: {name}: {reason}"))
        return found

    async def reach(self) -> Reach:
        """Itself: there is no server to ask."""
        await self._picture.load()
        count = sum(map(len, self._picture.services.values()))
        notes = [f"serves {count} instances of {len(self._picture.services)} services", *self._server.notes]
        if not self._picture.complete:
            notes.append(f"warning: {self._waiting.format(missing='all that feeds it')}")
        if self._picture.fault:
            notes.append(f"warning: what is served cannot be kept: {self._picture.fault}")
        return Reach(self._identity, self._kind, may_read=False, may_write=True, notes=tuple(notes))

    async def traces(self, bridge: str) -> Sequence[Trace]:
        """See `Tracer`. Raises Unavailable. The picture is a file of the state folder, which the commands list."""
        try:
            return await asyncio.to_thread(self._left)
        except OSError as error:
            raise Unavailable(str(error)) from error

    async def raw(self, name: ServiceName) -> list[Raw]:
        """What is served of one service, as it is kept."""
        await self._picture.load()
        entries = self._picture.services.get(name, {})
        return [Raw(f"{name}/{id}", msgspec.json.encode(entry.instance).decode(), id) for id, entry in entries.items()]


def picture(state: Path | None, name: str) -> Picture:
    """The picture of the export of that name, in the state folder; None: kept nowhere."""
    return Picture(state / "exports" / f"{name}.sqlite" if state is not None else None)
