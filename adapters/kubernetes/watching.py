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

from adapters.kubernetes.client import Client, Event, Resource, Status, error_of
from bridge.errors import Denied, Expired, Rejected, Unavailable
from mappings.kubernetes import revision
from mappings.kubernetes.objects import Meta

T = TypeVar("T", bound=msgspec.Struct)

INITIAL_END = "k8s.io/initial-events-end"


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


class _Outline(msgspec.Struct, frozen=True):
    """Any object, as far as an audit reads it; a bookmark has nothing else."""

    metadata: Meta


class _AnyEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


_ANY = msgspec.json.Decoder(_AnyEvent)
_OUTLINE = msgspec.json.Decoder(_Outline)
_STATUS = msgspec.json.Decoder(Status)


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
        proof: Resource | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._type = type
        self._decoder: msgspec.json.Decoder[Event[T]] = msgspec.json.Decoder(Event[type])  # type: ignore[valid-type]
        self._rng = rng
        self._stands = stands
        self._query = {"labelSelector": selector} if selector else {}
        self._times = client.times
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
        audit_at = clock() + self._times.audit
        while True:
            await self._stands()
            await self.check(position)
            await self.prove()
            if clock() >= audit_at:
                await self.audit(position)
                audit_at = clock() + self._times.audit
            position = await self.follow(position, hand_over)

    async def _begin(self, hand_over: Callable[[Everything | Changed], Awaitable[None]]) -> str:
        """The list as the beginning of the watch."""
        objects: list[T] = []
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        listing, position = True, ""
        async with aclosing(self._lines(query, self._times.first)) as lots:  # type: ignore[type-var]
            async for lines in lots:
                for line in lines:
                    event = self._decoded(line)
                    if not listing:
                        position = await self._hand_over(event, hand_over)
                    elif event.type != "BOOKMARK":
                        objects.append(event.object)
                    elif _is_end(event):
                        listing, position = False, _version(event.object)[1]
                        await self._all(objects, position, hand_over)
                        objects = []
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
        async with aclosing(self._lines({**query, "resourceVersion": position})) as lots:  # type: ignore[type-var]
            async for lines in lots:
                heard = True
                for line in lines:
                    position = await self._hand_over(self._decoded(line), hand_over)
        if not heard and clock() - began < self._times.watch / 2:
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

    def _decoded(self, line: bytes) -> Event[Any]:
        """Raises what an ERROR means. A line that makes no sense is a broken answer: Unavailable."""
        why = ""
        try:
            event = self._decoder.decode(line)  # the object in the same pass: a large cluster lists thousands
            if event.type != "ERROR":
                return event
        except msgspec.DecodeError as error:
            why = str(error)
        try:
            other = _ANY.decode(line)
            if other.type == "BOOKMARK":
                return Event(other.type, _OUTLINE.decode(other.object))
            failure = error_of(_STATUS.decode(other.object)) if other.type == "ERROR" else None
        except msgspec.DecodeError as error:
            raise Unavailable(f"a watch's line that is none: {error}") from error
        raise failure or Unavailable(f"an object that is none of {self._path}: {why}")

    async def _hand_over(self, event: Event[Any], hand_over: Callable[[Everything | Changed], Awaitable[None]]) -> str:
        """Returns the position that is reached with it."""
        key, position = _version(event.object)
        if event.type == "BOOKMARK":
            await hand_over(Changed(self._path, None, False, position))
            return position
        deleted = event.type == "DELETED"
        if deleted:
            self._known.pop(key, None)
        else:
            self._known[key] = position
        await hand_over(Changed(self._path, event.object, deleted, position))
        return position

    async def _lines(self, query: dict[str, str], first: float | None = None) -> AsyncIterator[list[bytes]]:
        """The lines of one watch, those together that came together.

        `first`: seconds within which there must be one: an apiserver that has just started may take a watch, and
        forget it.
        """
        seconds = str(max(1, round(self._times.watch * (1 - 0.2 * self._rng.random()))))
        asked = {**self._query, **query, "allowWatchBookmarks": "true", "timeoutSeconds": seconds}
        async with self._client.watching(self._path, asked) as stream:
            try:
                async with asyncio.timeout(first):
                    lines = await anext(stream.lines, None)
            except TimeoutError:
                raise Unavailable(f"the watch told nothing within {first:g} s") from None
            while lines is not None:
                yield lines
                lines = await anext(stream.lines, None)


def _is_end(bookmark: Event[Any]) -> bool:
    """Whether it ends a list."""
    meta: Meta = bookmark.object.metadata
    return (meta.annotations or {}).get(INITIAL_END) == "true"


def _version(found: Any) -> tuple[tuple[str, str], str]:
    meta: Meta = found.metadata
    return (meta.namespace, meta.name), meta.resource_version
