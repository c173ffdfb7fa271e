"""A sink together with the seat that belongs to it: what is applied goes under the lock that is held, or was last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bridge.adapter import Change, Held, Note, Outcome, Registry, Seat, Term
from bridge.model import Instance, ServiceName


class Seated:
    """One bridge at one registry, which has a seat of its own or is given one that it borrows (`seat`)."""

    def __init__(self, registry: Registry, bridge: str, seat: Seat | None = None) -> None:
        self.sink: Any = registry.sink(bridge)
        self.seat = seat or registry.seat(bridge, registry.name)
        self.traits = self.sink.traits
        self.term: Term | None = None

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        form: Instance = self.sink.canonical(name, instance)
        return form

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        held: Held = await self.sink.held(names)
        return held

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        outcomes: Sequence[Outcome] = await self.sink.apply(changes, self.term)
        return outcomes

    def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        words: AsyncIterator[frozenset[ServiceName]] = self.sink.drift()
        return words

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[Any]:
        if self.seat is None:  # nobody else can write there
            yield None
            return
        async with self.seat.writer() as self.term:
            yield self.term

    async def recall(self) -> Note | None:
        assert self.seat is not None
        return await self.seat.recall()

    async def note(self, content: bytes, before: Note | None, *, writer: bool) -> Note:
        assert self.seat is not None
        return await self.seat.note(content, before, term=self.term if writer else None)

    async def leave(self) -> None:
        assert self.seat is not None
        assert self.term is not None
        await self.seat.leave(self.term)
