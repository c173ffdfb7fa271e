"""Which sources a stream has: one for each scope that is whole in what is read of the topic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from adapters.kafka.reading import Following, Reader
from adapters.kafka.source import KafkaSource
from bridge.errors import Denied, Expired, Unavailable

AGAIN = 1.0  # seconds from one try to read the topic again to the next: the sources that there are say what is wrong


class Search:
    """Calls `found` once for each source."""

    def __init__(self, reader: Reader, found: Callable[[KafkaSource], None]) -> None:
        self._reader = reader
        self._found = found
        self._known: set[str] = set()
        self._begun = False  # something was read

    async def run(self) -> None:
        """Never returns. Raises Unavailable or Denied where nothing could be read at all."""
        searches: dict[int | None, asyncio.Task[None]] = {}
        try:
            while True:
                parts = self._reader.parts
                for part in searches.keys() - parts:
                    _end(searches.pop(part))
                for part in parts - searches.keys():
                    searches[part] = asyncio.create_task(self._of_part(part))
                await self._change(parts, searches)
        finally:
            for search in searches.values():
                _end(search)

    async def _change(self, parts: frozenset[int | None], searches: dict[int | None, asyncio.Task[None]]) -> None:
        """Waits until other parts are to be read. Raises what ended a search."""
        changed = asyncio.create_task(self._reader.changed(parts))
        try:
            await asyncio.wait((changed, *searches.values()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if self._reader.parts == parts:
            for search in searches.values():
                if search.done():
                    search.result()

    async def _of_part(self, part: int | None) -> None:
        following = await self._first(part)
        self._begun = True
        while True:
            inbox = following.listen()
            try:
                failure = None
                while failure is None:
                    for scope in list(following.copy.scopes):
                        self._tell(KafkaSource(scope, self._reader, part))
                    _, failure = await inbox.take()
            finally:
                following.deafen(inbox)
            following = await self._again(part)

    async def _first(self, part: int | None) -> Following:
        try:
            return await self._reader.following(part)
        except (Unavailable, Denied, Expired):
            if not self._begun:
                raise
        return await self._again(part)

    async def _again(self, part: int | None) -> Following:
        while True:
            await asyncio.sleep(AGAIN)
            await self._reader.may(part)
            with suppress(Unavailable, Denied, Expired):
                return await self._reader.following(part)

    def _tell(self, source: KafkaSource) -> None:
        if source.scope not in self._known:
            self._known.add(source.scope)
            self._found(source)


def _end(search: asyncio.Task[None]) -> None:
    search.cancel()
    search.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else hears it
