"""What one client is told, in which order: its requests in, responses out; pure, but for the clock that it is given.

Two variants of one protocol: *state of the world*, where a response of clusters or listeners is all that there are, and
*delta*, where it is what changed. One response of a type is under way at a time, so a client that is slow, or never
accepts, is told the newest when it is ready, and costs no memory (docs/adr/0027-exports.md has the rules with their
reasons).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from functools import partial
from typing import NamedTuple

from adapters.xds.accepted import Accepted
from adapters.xds.encoding import Batch, batch
from adapters.xds.resources import Kind
from mappings.xds import EGRESS
from mappings.xds_resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, TYPES, Resource, nothing

SIZE = 2 * 1024 * 1024  # bytes of resources in one response: a client of gRPC takes 4 MiB
NAMES = 200_000  # that one client may subscribe to
REASON = 500  # characters of a refusal that are kept

# Where a response is all that there is of a type, what it leaves out is gone.
_WHOLE = frozenset({CLUSTER, LISTENER})

Ready = Callable[[str], bool]  # whether all that there is of a name is known


class Asking(NamedTuple):
    """A request, of either variant."""

    type: str
    nonce: str
    refusal: str | None  # why the response with that nonce was not accepted
    names: Collection[str]  # state of the world: all that is subscribed to; delta: what is new
    gone: Collection[str] = ()  # delta: subscribed to no more
    known: Mapping[str, str] = {}  # delta, at the begin of a stream: what the client has, by name, with its version


class Sent(NamedTuple):
    """A response under way. `names`: what it says of each, "" that it is gone."""

    nonce: str
    names: Mapping[str, str]
    at: float


class Topic:
    """One type of resource on one stream."""

    def __init__(self, type: str, kind: Kind, *, delta: bool) -> None:
        self.type = type
        self.kind = kind
        self.delta = delta
        self.asked = False
        self.wildcard = False
        self.names: Set[str] = frozenset()  # which others may have as well
        self.has = Accepted()  # what the client accepted, or came with
        self.sent: Sent | None = None
        self.accepted = ""  # the nonce of the last response that it answered
        self.refused: dict[str, tuple[str, str]] = {}  # by name: the version, and the reason
        self.due: dict[str, None] = {}  # to be looked at, or said again, in order
        self.again: set[str] = set()  # of these, to be said even if the client has them
        self.greeted = False  # it had its first response
        self._beginning: tuple[str, ...] = ()  # what it asked for at first, many at once, and was not told yet
        self._halves: list[list[str]] = []  # what was refused together, to be said in parts
        self._had: dict[str, Resource] = {}  # what the last response that was all there is had in it
        self._seen = -1

    def wants(self, name: str) -> bool:
        """Whether the client is told of that name."""
        if name in self.names:
            return True
        # An application's Envoy asks for all listeners, and can use none that is for gRPC clients.
        return self.wildcard and (self.type != LISTENER or name == EGRESS)

    @property
    def is_due(self) -> bool:
        """Whether there may be something to say; after `look`."""
        return bool(self.due or self._beginning or self._halves or (self.wildcard and not self.greeted))

    @property
    def is_busy(self) -> bool:
        """Whether there is something to say, or a response is under way."""
        self.look()
        return bool(self.sent or self.due or self._beginning or self._halves)

    @property
    def has_news(self) -> bool:
        """Likewise, where what is gone does not count."""
        return self.is_busy and bool(
            self.sent or self._beginning or self._halves or any(name in self.kind.there for name in self.due)
        )

    def look(self) -> None:
        """Notes what changed since the last look."""
        if self.asked and self._seen != self.kind.version:
            for name in self.kind.since(self._seen):
                if self.wants(name) and self.has.get(name) != self._version(name):
                    self.due[name] = None
            self._seen = self.kind.version

    def take(self, asking: Asking) -> None:
        """A request of this type."""
        if self._beginning and (asking.gone or asking.refusal is not None):
            self._spill()
        if self.sent is not None and asking.nonce == self.sent.nonce:
            self._answered(self.sent, asking.refusal)
            self.sent = None
        elif self.asked and not self.delta and asking.nonce not in ("", self.accepted):
            return  # about a response before the last one: all that it says is said again
        elif self.asked and not self.delta:
            # Envoy asks again, word for word, for the assignments of a cluster that it warms.
            self._ask(dict.fromkeys(asking.names), again=set(asking.names) == self.names)
            return
        first, self.asked = not self.asked, True
        if self.delta:
            self._subscribe(asking, first)
        elif first or set(asking.names) != self.names:
            if first:
                self.wildcard = not asking.names and self.type in _WHOLE
            self._ask(dict.fromkeys(asking.names), again=False)

    def _subscribe(self, asking: Asking, first: bool) -> None:
        if first:
            self._begin(asking)
        elif "*" in asking.names:
            self.wildcard, self._seen = True, -1
        for name in asking.gone:
            if name == "*":
                self.wildcard = False
            self._own.discard(name)
            if not self.wildcard:
                self.has.drop(name)
                self.due.pop(name, None)
        if first:
            return
        for name in asking.names:
            if name != "*" and len(self.names) < NAMES:
                self._own.add(name)
                self.due[name] = None
                self.again.add(name)

    @property
    def _own(self) -> set[str]:
        """What it subscribes to, to be changed."""
        if not isinstance(self.names, set):
            self.names = set(self.names)
        return self.names

    def _begin(self, asking: Asking) -> None:
        """The first request: a whole fleet by name, or all that a client has, so it goes by as few steps as it can."""
        alike = self.kind.alike(tuple(asking.names)[:NAMES])
        self.wildcard = "*" in alike.every or (not asking.names and self.type in _WHOLE)
        if "*" in alike.every:
            alike = self.kind.alike(tuple(name for name in alike.names if name != "*"))
        names, self.names = alike.names, alike.every
        if len(self.names) < len(names):  # one is named twice, and Envoy refuses a response that says it twice
            names = tuple(dict.fromkeys(names))
        self.has.take(asking.known)
        for name, version in asking.known.items():
            if (self.wildcard or name in self.names) and self._version(name) != version:
                self.due[name] = None
        fresh = [name for name in names if asking.known.get(name) != self._version(name)] if asking.known else names
        self._beginning = tuple(fresh)
        if not self.wildcard:  # all that it wants is due, and what it has is compared
            self._seen = self.kind.version

    @property
    def _lost(self) -> Callable[[str], Resource] | None:
        """What is said of a name that nobody serves: an empty assignment, or its client waits for one."""
        return nothing if self.type == ENDPOINTS else None

    def _spill(self) -> None:
        """What a client begins with becomes what is due: it is no longer told as others are that begin alike."""
        self.due.update(dict.fromkeys(self._beginning))
        self.again.update(self._beginning)
        self._beginning = ()

    def _ask(self, names: Mapping[str, None], *, again: bool) -> None:
        fresh = [name for name in names if name not in self.names or again]
        self.names = set(list(names)[:NAMES])
        self.has.only(self.wants)
        for name in fresh:
            self.due[name] = None
            self.again.add(name)

    def _answered(self, sent: Sent, refusal: str | None) -> None:
        self.accepted = sent.nonce
        if refusal is None:
            for name in sent.names if self.refused else ():
                self.refused.pop(name, None)
            self.has.take(sent.names)
        elif len(sent.names) > 1 and (self.delta or self.type not in _WHOLE):
            # The client may have left any of them as it was: each is said again, until the culprit is alone.
            names = list(sent.names)
            self._halves += [names[: len(names) // 2], names[len(names) // 2 :]]
        else:
            for name, version in sent.names.items():
                self.refused[name] = version, refusal[:REASON]

    def _version(self, name: str) -> str:
        resource = self._resource(name)
        return resource.version if resource is not None else ""

    def _resource(self, name: str) -> Resource | None:
        """What is said of a name; an assignment that nobody knows is empty, or its client waits for it."""
        found = self.kind.there.get(name)
        if found is None and self.type == ENDPOINTS and name in self.names:
            return nothing(name)
        return found

    def _is_refused(self, name: str, version: str) -> bool:
        return self.refused.get(name, ("", ""))[0] == version and name in self.refused

    def waits(self, ready: Ready) -> bool:
        """Whether all of it has to wait, since a response without a name would say that the name is gone."""
        return self.wildcard or (not self.delta and self.type in _WHOLE and not all(map(ready, self.names)))

    def says(self, *, removals: Callable[[], bool], ready: Ready | None) -> tuple[Batch, list[str]]:
        """What is to be said next, and what is gone; `removals()`: the latter may be said now.

        `ready(name)`: all that there is of a name is known, else it waits; None: it is of every name.
        """
        self.look()
        if ready is not None:
            self._spill()
        if self._halves:
            names: Iterable[str] = self._halves.pop()
            self.again.update(names)
        elif self._beginning and (beginning := self.kind.first_of(self._beginning, SIZE, self._lost)).found:
            self._beginning = self._beginning[len(beginning.found) :]
            return beginning, []
        else:
            self._spill()
            names = list(self.due)
        if not self.delta and self.type in _WHOLE:
            found, gone = self._whole(names, removals=removals())
            return batch(tuple(found)), gone
        return self._changed(names if ready is None else self._known(names, ready), removals)

    def _known(self, names: Iterable[str], ready: Ready) -> list[str]:
        """Those of which all is known; the others stay due."""
        found = [name for name in names if ready(name)]
        self.due.update(dict.fromkeys(names))
        return found

    def _changed(self, names: Iterable[str], removals: Callable[[], bool]) -> tuple[Batch, list[str]]:
        found: list[Resource] = []
        gone: list[str] = []
        size = 0
        for name in names:
            resource = self._resource(name)
            if resource is None:
                if not removals():
                    continue
                if self.delta and (name in self.has or name in self.again):
                    gone.append(name)
            elif (self.has.get(name) != resource.version or name in self.again) and not self._is_refused(
                name, resource.version
            ):
                if found and size + len(resource.body) > SIZE:
                    break
                size += len(resource.body)
                found.append(resource)
            self.due.pop(name, None)
            self.again.discard(name)
        return batch(tuple(found)), gone

    def _whole(self, names: Iterable[str], *, removals: bool) -> tuple[list[Resource], list[str]]:
        """All that there is, if any of these names is to be said."""
        news = [name for name in names if removals or self._version(name)]
        if not any(self._version(name) != self.has.get(name) or name in self.again for name in news):
            for name in news:
                self.due.pop(name, None)
            return [], []
        wanted = self.kind.there if self.wildcard else self.names
        found = [one for name in wanted if self.wants(name) and (one := self._resource(name)) is not None]
        for name in news:
            self.due.pop(name, None)
            self.again.discard(name)
        gone = [name for name in self._had if name not in self.kind.there]
        if not removals:  # what is left out here would be gone
            found += [self._had[name] for name in gone]
            gone = []
        self._had = {one.name: one for one in found}
        return found, gone


class Stream:
    """One client. `kinds`: what is served, by type. `clock()` in seconds."""

    def __init__(self, kinds: Mapping[str, Kind], clock: Callable[[], float], *, delta: bool) -> None:
        self.topics = {type: Topic(type, kinds[type], delta=delta) for type in TYPES}
        self._delta = delta
        self._clock = clock

    def take(self, asking: Asking) -> None:
        """A request; one of a type that is not served is not answered."""
        topic = self.topics.get(asking.type)
        if topic is None:
            return
        topic.take(asking)
        clusters = self.topics[CLUSTER]
        if topic.type == ENDPOINTS and clusters.wildcard and self._delta:
            # A cluster of which the client has no version, and that is gone: it would keep it for ever.
            for name in asking.names:
                if name not in clusters.kind.there and name not in clusters.has:
                    clusters.due[name] = None
                    clusters.again.add(name)

    @property
    def is_due(self) -> bool:
        """Whether there may be something to say now: most answers of clients are followed by nothing."""
        for topic in self.topics.values():
            if topic.asked and topic.sent is None:
                topic.look()
                if topic.is_due:
                    return True
        return False

    def next(self, ready: Ready | None = None) -> bytes | None:
        """The next response, encoded; None: there is nothing to say now. `ready`: of which names all is known."""
        for type in TYPES:
            topic = self.topics[type]
            if not topic.asked or topic.sent is not None or self._waits(type):
                continue
            if ready is not None and topic.waits(ready):
                continue
            topic.look()
            if not topic.is_due:
                continue
            found, gone = topic.says(removals=partial(self._removes, type), ready=ready)
            if found.found or gone or (topic.wildcard and not topic.greeted):
                return self._say(topic, found, gone)
        return None

    def _waits(self, type: str) -> bool:
        """What refers to clusters waits until they are there: make before break."""
        if type not in (LISTENER, ROUTES) or not self.topics[CLUSTER].wildcard:
            return False
        return any(self.topics[each].has_news for each in (CLUSTER, ENDPOINTS) if self.topics[each].asked)

    def _removes(self, type: str) -> bool:
        """Whether what is gone of a type may be said."""
        return type in (LISTENER, ROUTES) or not self._refers()

    def _refers(self) -> bool:
        """Whether the client may still have a listener or a route that names what is gone."""
        return any(self.topics[each].asked and self.topics[each].is_busy for each in (LISTENER, ROUTES))

    def _say(self, topic: Topic, found: Batch, gone: list[str]) -> bytes:
        names = {**found.names, **dict.fromkeys(gone, "")} if gone else found.names
        nonce, body = found.body(topic.type, tuple(gone), delta=self._delta, last=topic.accepted)
        topic.sent = Sent(nonce, names, self._clock())
        topic.greeted = True
        if topic.type == CLUSTER:
            # A cluster that changed is warmed with its assignment, for which a delta client does not ask.
            endpoints = self.topics[ENDPOINTS]
            for name in found.names if self._delta else ():
                if name in endpoints.names:
                    endpoints.due[name] = None
                    endpoints.again.add(name)
        return body
