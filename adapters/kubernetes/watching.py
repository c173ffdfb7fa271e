"""One kind of object, followed: everything there is, then every change; what tells nothing any more is an error.

A watch from a revision that the store does not have yet (its etcd was restored) is silent for ever, and looks like a
quiet one. So each watch but the first begins with the question whether the store has its revision, and one that brings
no bookmark, which comes each minute, is over. An apiserver that runs on while its etcd is restored answers lists and
watches from its cache, bookmarks too, until it is restarted: only one object by its name is read from the store.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from adapters.kubernetes.client import SILENCE, Client, Event, Resource, Status, error_of
from bridge.errors import Denied, Expired, Rejected, Unavailable
from mappings.kubernetes import revision
from mappings.kubernetes.objects import Meta

T = TypeVar("T", bound=msgspec.Struct)

WATCH_TIME = (
    300.0  # seconds of one watch, after which rights that were revoked show: the server goes on with an open one
)
AUDIT_TIME = 900.0  # seconds from one audit to the next: how long a watch may have lost an event
FIRST_TIME = 20.0  # seconds until a watch that begins with a list has told the first of it: there is always something
INITIAL_END = "k8s.io/initial-events-end"
_EVENT = msgspec.json.Decoder(Event)
_STATUS = msgspec.json.Decoder(Status)


class Everything(NamedTuple):
    """All objects of a kind, as they were at one revision."""

    kind: str
    objects: list[Any]
    revision: str


class Changed(NamedTuple):
    """One object as it is now, or as it was when it was deleted; None: only the revision went on."""

    kind: str
    object: Any
    deleted: bool
    revision: str


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: Meta


class _Outline(msgspec.Struct, frozen=True):
    """Any object, as far as an audit reads it."""

    metadata: Meta


class Follower(Generic[T]):
    """Follows the objects of one kind at one path. `stands` raises Expired where another cluster answers.

    `proof`: what they are, where one of them shows whether the server answers from the store that it has now.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        type: type[T],
        rng: random.Random,
        stands: Callable[[], Awaitable[None]],
        selector: str = "",
        watch_time: float = WATCH_TIME,
        silence: float = SILENCE,
        audit_time: float = AUDIT_TIME,
        proof: Resource | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._type = type
        self._decoder = msgspec.json.Decoder(type)
        self._rng = rng
        self._stands = stands
        self._query = {"labelSelector": selector} if selector else {}
        self._watch_time = watch_time
        self._silence = silence
        self._audit_time = audit_time
        self._proof = proof
        self._known: dict[tuple[str, str], str] = {}  # the resourceVersion of each object that was told

    async def run(self, hand_over: Callable[[Everything | Changed], Awaitable[None]]) -> None:
        """Hands over Everything, then each Changed; ends by Expired, Unavailable or Denied alone."""
        try:
            position = await self._begin(hand_over)
        except Rejected:  # 422: a server without watch-list, or with the feature off
            position = await self._list(hand_over)
            position = await self.follow(position, hand_over)
        clock = asyncio.get_running_loop().time
        audit_at = clock() + self._audit_time
        while True:
            await self._stands()
            await self.check(position)
            await self.prove()
            if clock() >= audit_at:
                await self.audit(position)
                audit_at = clock() + self._audit_time
            position = await self.follow(position, hand_over)

    async def _begin(self, hand_over: Callable[[Everything | Changed], Awaitable[None]]) -> str:
        """The list as the beginning of the watch."""
        objects: list[T] = []
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        listing, position = True, ""
        async with aclosing(self._events(query, FIRST_TIME)) as events:  # type: ignore[type-var]
            async for event in events:
                if event.type == "BOOKMARK":
                    meta = msgspec.json.decode(event.object, type=_Bookmark).metadata
                    position = meta.resource_version
                    if listing and (meta.annotations or {}).get(INITIAL_END) == "true":
                        listing = False
                        await self._all(objects, position, hand_over)
                        objects = []
                    elif not listing:
                        await hand_over(Changed(self._path, None, False, position))
                elif listing:
                    objects.append(self._decoded(event))
                else:
                    position = await self._hand_over(event, hand_over)
        if listing:
            raise Unavailable("the watch ended before it had listed everything")
        return position

    async def _list(self, hand_over: Callable[[Everything | Changed], Awaitable[None]]) -> str:
        objects: list[T] = []
        position = ""
        try:
            async with aclosing(self._client.pages(self._path, self._type, self._query)) as pages:  # type: ignore[type-var]
                async for page in pages:
                    objects += page.items or ()
                    position = page.metadata.resource_version
        except Rejected as error:  # whatever answers there, it is no apiserver that can be read
            raise Unavailable(str(error)) from error
        await self._all(objects, position, hand_over)
        return position

    async def _all(
        self, objects: list[T], position: str, hand_over: Callable[[Everything | Changed], Awaitable[None]]
    ) -> None:
        self._known = dict(map(_version, objects))
        await self.prove()
        await hand_over(Everything(self._path, objects, position))

    async def follow(
        self,
        position: str,
        hand_over: Callable[[Everything | Changed], Awaitable[None]],
        query: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """From a position until the server ends the watch; returns the position that was reached."""
        clock = asyncio.get_running_loop().time
        heard, began = False, clock()
        async with aclosing(self._events({**query, "resourceVersion": position})) as events:  # type: ignore[type-var]
            async for event in events:
                heard = True
                if event.type == "BOOKMARK":
                    position = msgspec.json.decode(event.object, type=_Bookmark).metadata.resource_version
                    await hand_over(Changed(self._path, None, False, position))
                else:
                    position = await self._hand_over(event, hand_over)
        if not heard and clock() - began < self._watch_time / 2:
            raise Unavailable("the watch ended at once: another one at once would end likewise")
        return position

    async def check(self, position: str) -> None:
        """Raises Expired where the store is not as far as this position: it was restored."""
        query = {**self._query, "limit": "1", "resourceVersion": position, "resourceVersionMatch": "NotOlderThan"}
        await self._client.call("GET", self._path, query=query)

    async def prove(self) -> None:
        """Raises Unavailable where lists have what the store does not: it was restored under a running server."""
        if self._proof is None or not self._known:
            return
        (namespace, name), told = max(self._known.items(), key=lambda item: revision(item[1]))
        try:
            found = await self._client.get(self._proof.path(namespace, name), _Outline)
        except Denied:
            return  # reading needs no `get`; `check` says what it is for
        if found is not None and revision(found.metadata.resource_version) >= revision(told):
            return
        path = self._proof.path(namespace)
        listed = await self._client.listed(path, _Outline, {"fieldSelector": f"metadata.name={name}"})
        if any(each.metadata.resource_version == told for each in listed):  # else it went, or changed, just now
            raise Unavailable(
                f"the server lists {namespace}/{name} as of {told}; its etcd was restored under it to an older state: "
                "restart the apiserver"
            )

    async def audit(self, position: str) -> None:
        """Raises Expired where a list of this very position differs from what was told: the watch has lost events."""
        query = {**self._query, "resourceVersion": position, "resourceVersionMatch": "Exact"}
        try:
            found = dict(map(_version, await self._client.listed(self._path, _Outline, query)))
        except (Expired, Rejected, Unavailable):
            return  # a list that fails says nothing about a watch that runs
        if lost := found.items() ^ self._known.items():
            namespace, name = min(lost)[0]
            raise Expired(f"the watch lost {len(lost)} changes, one of {namespace}/{name}")

    def _decoded(self, event: Event) -> T:
        try:
            return self._decoder.decode(event.object)
        except msgspec.DecodeError as error:
            raise Unavailable(f"an object that is none of {self._path}: {error}") from error

    async def _hand_over(self, event: Event, hand_over: Callable[[Everything | Changed], Awaitable[None]]) -> str:
        found = self._decoded(event)
        deleted = event.type == "DELETED"
        key, position = _version(found)
        if deleted:
            self._known.pop(key, None)
        else:
            self._known[key] = position
        await hand_over(Changed(self._path, found, deleted, position))
        return position

    async def _events(self, query: dict[str, str], first: float | None = None) -> AsyncIterator[Event]:
        """The events of one watch, ERROR raised. A line that makes no sense is a broken answer: Unavailable.

        `first`: seconds within which there must be one: an apiserver that has just started may take a watch, and
        forget it.
        """
        seconds = str(max(1, round(self._watch_time * (1 - 0.2 * self._rng.random()))))
        asked = {**self._query, **query, "allowWatchBookmarks": "true", "timeoutSeconds": seconds}
        async with self._client.watching(self._path, asked, self._silence) as stream:
            async for line in _begun(stream.lines, first):
                try:
                    event = _EVENT.decode(line)
                    if event.type == "ERROR":
                        raise error_of(_STATUS.decode(event.object))
                except msgspec.DecodeError as error:
                    raise Unavailable(f"a watch's line that is none: {error}") from error
                yield event


async def _begun(lines: AsyncIterator[bytes], within: float | None) -> AsyncIterator[bytes]:
    """The lines; raises Unavailable where the first has not come within so many seconds."""
    try:
        async with asyncio.timeout(within):
            line = await anext(lines, None)
    except TimeoutError:
        raise Unavailable(f"the watch told nothing within {within:g} s") from None
    while line is not None:
        yield line
        line = await anext(lines, None)


def _version(found: Any) -> tuple[tuple[str, str], str]:
    meta: Meta = found.metadata
    return (meta.namespace, meta.name), meta.resource_version
