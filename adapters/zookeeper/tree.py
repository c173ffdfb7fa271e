"""The tree of a layout and the ledger beside it, read in bulk: entries with their proof, each pair of one moment."""

from __future__ import annotations

import asyncio
import importlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar, cast
from urllib.parse import quote_plus

from adapters.zookeeper import ledger, wire
from adapters.zookeeper.answers import Answer, lists_of, values_of
from adapters.zookeeper.client import Client
from adapters.zookeeper.config import Config
from adapters.zookeeper.wire import Node
from bridge.errors import Undecodable
from bridge.model import Instance, Mark, ServiceName, Traits

ENTRIES = 60  # in one packet: one is 1 MiB at most, so no answer comes near its limit
PLACES = 25  # whose children are listed in one packet: stock clients can read 1 MiB of names, and there are two lists
AHEAD = 16  # packets asked for before the first is used

T = TypeVar("T")


class Mapping(Protocol):
    """How one family of clients writes its entries: a module of `mappings`."""

    NAME: str
    PREFIX: str
    PROTOCOL: str
    TRAITS: Traits

    def locate(self, key: str) -> tuple[ServiceName, str] | None: ...

    def decode(self, name: ServiceName, id: str, value: bytes, protocol: str) -> Instance: ...

    def encode(self, name: ServiceName, instance: Instance) -> tuple[str, bytes]: ...

    def canonical(self, name: ServiceName, instance: Instance, protocol: str) -> Instance: ...


class Layout(NamedTuple):
    """`below`: where the entries are below a node of the root; `folder`: how stock clients create what holds them.

    `shared`: other families keep their entries at the same places, and fail over each other's. `in_name`: the node's
    name is the record. `reported`: a part of the record is in a report elsewhere.
    """

    module: str
    below: str = ""
    folder: int = wire.CONTAINER
    shared: bool = True
    in_name: bool = False
    reported: bool = False
    writable: bool = True


LAYOUTS = {
    "curator": Layout("mappings.curator"),
    "spring": Layout("mappings.spring"),
    "dubbo2": Layout("mappings.dubbo2", "/providers", wire.PERSISTENT, shared=False, in_name=True),
    "dubbo3": Layout("mappings.dubbo3", reported=True, writable=False),
}


class Pair(NamedTuple):
    """An entry and its ledger node; None: not there."""

    entry: Node | None
    word: Node | None = None

    @property
    def ours(self) -> bool:
        """Whether a bridge wrote the entry: both were last written by one transaction (design, rule 5)."""
        return self.entry is not None and self.word is not None and self.entry.mzxid == self.word.mzxid


class Folder(NamedTuple):
    """Everything at one place, by key; nothing of it is older than `zxid`. `stands`: the place, and its ledger's."""

    path: str
    pairs: dict[str, Pair]
    zxid: int
    stands: tuple[bool, bool]


class Record(NamedTuple):
    """What one entry says. `instance` None: nobody can read it, or who wrote it, and `why`."""

    instance: Instance | None
    mark: Mark | None = None
    why: str = ""


class Tree:
    """One layout below one root. A key is a path below the root, without a leading slash."""

    def __init__(self, client: Client, config: Config) -> None:
        self.layout = LAYOUTS[config.layout]
        self.mapping = cast(Mapping, importlib.import_module(self.layout.module))
        self.root = config.root if config.root is not None else self.mapping.PREFIX
        self.ledger = ledger.LEDGER + self.root
        self.protocol = config.protocol if config.protocol is not None else self.mapping.PROTOCOL
        self._client = client

    def located(self, path: str) -> tuple[str, ServiceName, str] | None:
        """Key, service and id of the entry that a path, its own or that of its ledger node, is about; None: of none."""
        for root in (self.root, self.ledger):
            if path.startswith(root) and path[len(root) : len(root) + 1] == "/":
                key = path[len(root) + 1 :]
                place = self.mapping.locate(key)
                return (key, *place) if place is not None else None
        return None

    def folder_of(self, name: ServiceName) -> str:
        """The place of a service's entries. Services that differ in their namespace share one."""
        return (quote_plus(name.name, safe="*") if self.layout.in_name else name.name) + self.layout.below

    def record(self, key: str, name: ServiceName, id: str, pair: Pair) -> Record | None:
        """What stands there; None: no entry, which is also what a node with children and without a value is."""
        entry, word = pair
        if entry is None or (entry.children and not entry.value):
            return None
        mark: Mark | None = None
        if word is not None and word.mzxid == entry.mzxid:
            mark = ledger.decode(word.value)
            if mark is None:
                return Record(None, None, "its ledger entry has a format that this version cannot read")
        value = key.rpartition("/")[2].encode() if self.layout.in_name else entry.value
        try:
            return Record(self.mapping.decode(name, id, value, self.protocol), mark)
        except Undecodable as error:
            return Record(None, mark, str(error))
        except Exception as bug:  # one record must not stop the others, whatever a mapping does with it
            return Record(None, mark, f"a bug in the mapping: {bug!r}")

    async def pairs(self, keys: Iterable[str]) -> tuple[dict[str, Pair], int]:
        """These entries as they stand, and a transaction that none of them is older than."""
        await self._client.connected()
        found: dict[str, Pair] = {}
        zxid = 0
        async with _reading(keys, ENTRIES, self._ask_pairs) as reading:
            async for some, answer in reading:
                zxid = zxid or answer.zxid
                nodes = iter(values_of(answer))
                found.update((key, Pair(next(nodes), next(nodes))) for key in some)
        return found, zxid

    async def everything(self) -> AsyncGenerator[Folder]:
        """Every place that may have an entry or a ledger node."""
        await self._client.connected()
        entries, words = lists_of(await self._client.reads([], [self.root, self.ledger]))
        below = self.layout.below
        async with aclosing(self.folders([name + below for name in _union(entries, words)])) as folders:
            async for folder in folders:
                yield folder

    async def folders(self, paths: Iterable[str]) -> AsyncGenerator[Folder]:
        """These places; where there is nothing, without pairs."""
        await self._client.connected()
        listed: list[_Listed] = []
        async with _reading(paths, PLACES, self._ask_lists) as listing:
            async for some, answer in listing:
                lists = iter(lists_of(answer))
                listed += [_Listed(path, next(lists), next(lists), answer.zxid) for path in some]
        arrived: deque[tuple[str, Pair]] = deque()
        async with _reading((place for one in listed for place in one.places()), ENTRIES, self._ask_places) as reading:
            for one in listed:
                pairs: dict[str, Pair] = {}
                doubtful: list[str] = []
                for _ in range(len(_union(one.entries, one.words))):
                    if not arrived:
                        arrived.extend(_placed(*await anext(reading)))
                    key, pair = arrived.popleft()
                    pairs[key] = pair
                    if pair.word is None and pair.entry is not None and pair.entry.mzxid > one.zxid:
                        doubtful.append(key)  # written after the lists, perhaps together with a ledger node
                if doubtful:
                    pairs.update((await self.pairs(doubtful))[0])
                yield Folder(one.path, pairs, one.zxid, (one.entries is not None, one.words is not None))

    def _ask_pairs(self, keys: Sequence[str]) -> asyncio.Future[Answer]:
        return self._client.reads([f"{root}/{key}" for key in keys for root in (self.root, self.ledger)])

    def _ask_lists(self, paths: Sequence[str]) -> asyncio.Future[Answer]:
        return self._client.reads([], [f"{root}/{path}" for path in paths for root in (self.root, self.ledger)])

    def _ask_places(self, places: Sequence[_Place]) -> asyncio.Future[Answer]:
        paths: list[str] = []
        for key, worded in places:
            paths.append(f"{self.root}/{key}")
            if worded:
                paths.append(f"{self.ledger}/{key}")
        return self._client.reads(paths)


class _Listed(NamedTuple):
    """The names of the entries and of the ledger's nodes at one place, of one moment; None: no such place."""

    path: str
    entries: list[str] | None
    words: list[str] | None
    zxid: int

    def places(self) -> Iterator[_Place]:
        words = frozenset(self.words or ())
        return ((f"{self.path}/{name}", name in words) for name in _union(self.entries, self.words))


_Place = tuple[str, bool]  # a key, and whether it has a ledger node


def _placed(places: Sequence[_Place], answer: Answer) -> Iterator[tuple[str, Pair]]:
    nodes = iter(values_of(answer))
    return ((key, Pair(next(nodes), next(nodes) if worded else None)) for key, worded in places)


def _union(entries: list[str] | None, words: list[str] | None) -> Collection[str]:
    return dict.fromkeys((*(entries or ()), *words)) if words else entries or ()


@asynccontextmanager
async def _reading(
    items: Iterable[T], size: int, ask: Callable[[Sequence[T]], asyncio.Future[Answer]]
) -> AsyncIterator[AsyncIterator[tuple[Sequence[T], Answer]]]:
    """Asks for the items in packets of that size, some packets ahead: each packet with its answer, in order."""
    left = iter(items)
    asked: deque[tuple[Sequence[T], asyncio.Future[Answer]]] = deque()

    async def answers() -> AsyncIterator[tuple[Sequence[T], Answer]]:
        while True:
            while len(asked) < AHEAD and (packet := tuple(islice(left, size))):
                asked.append((packet, ask(packet)))
            if not asked:
                return
            some, answer = asked[0]
            await answer
            asked.popleft()
            yield some, answer.result()

    try:
        yield answers()
    finally:
        for _, answer in asked:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # nobody asks any more
