"""The tree of a layout and the ledger beside it, read in bulk: entries with their proof, each pair of one moment."""

from __future__ import annotations

import asyncio
import importlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import islice, tee
from typing import NamedTuple, TypeVar, cast
from urllib.parse import quote_plus, unquote_plus

import msgspec

from adapters.common import places
from adapters.common.assembly import Record, decoded
from adapters.zookeeper import wire
from adapters.zookeeper.client import Client
from adapters.zookeeper.config import Config
from adapters.zookeeper.replies import Answer, lists_of, nodes_of, open_lists_of
from adapters.zookeeper.wire import Node
from bridge.errors import Denied
from bridge.model import Mark, ServiceName
from mappings import ledger
from mappings.layout import Znodes

ENTRIES = 240  # in one packet: one is 1 MiB at most, so no answer comes to its limit
PLACES = 100  # whose children are listed in one packet: stock clients can read 1 MiB of names, and there are two lists
PATHS = 250_000  # characters in one packet: a server takes 1 MiB (jute.maxbuffer), and Dubbo's names are long
AHEAD = 16  # packets asked for before the first is used

T = TypeVar("T")


class Layout(NamedTuple):
    """`below`: where the entries are below a node of the root; `folder`: how stock clients create what holds them.

    `shared`: other families keep their entries at the same places, and fail over each other's. `reported`: a part of
    the record is in a report elsewhere.
    """

    module: str
    below: str = ""
    folder: int = wire.CONTAINER
    shared: bool = True
    reported: bool = False
    writable: bool = True


LAYOUTS = {
    "curator": Layout("mappings.curator"),
    "spring": Layout("mappings.spring"),
    "dubbo2": Layout("mappings.dubbo2", "/providers", wire.PERSISTENT, shared=False),
    "dubbo3": Layout("mappings.dubbo3", reported=True, writable=False),
}


def root_of(config: Config) -> str:
    """The path below which the entries are, without the chroot."""
    layout = cast(Znodes, importlib.import_module(LAYOUTS[config.layout].module))
    return layout.PREFIX if config.root is None else config.root


class Pair(msgspec.Struct, frozen=True, gc=False):
    """An entry and its ledger node; None: not there. `denied`: which of them we may not read; then it is None."""

    entry: Node | None
    word: Node | None = None
    denied: str = ""

    @property
    def ours(self) -> bool:
        """Whether a bridge wrote the entry: both were last written by one transaction (safety rule 5)."""
        return self.entry is not None and self.word is not None and self.entry.mzxid == self.word.mzxid


class Folder(NamedTuple):
    """What is at one place, by key, or a part of it; nothing of it is older than `zxid`. `last`: no part follows.

    `stands`: the place, and its ledger's. `denied`: which of them we may not list; then nothing is known of it but
    `words`, the names of the ledger nodes, where these may be listed.
    """

    path: str
    pairs: dict[str, Pair]
    zxid: int
    stands: tuple[bool, bool]
    last: bool = True
    denied: str = ""
    words: tuple[str, ...] = ()


class Tree:
    """One layout below one root. A key is a path below the root, without a leading slash."""

    def __init__(self, client: Client, config: Config) -> None:
        self.layout = LAYOUTS[config.layout]
        self.mapping = cast(Znodes, importlib.import_module(self.layout.module))
        self.root = root_of(config)
        self.ledger = places.LEDGER + self.root
        self.own = places.Own(self.mapping.NAME, self.root)
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
        return (quote_plus(name.name, safe="*") if self.mapping.IN_NAME else name.name) + self.layout.below

    def name_at(self, folder: str) -> ServiceName:
        """The service whose entries are at that place, as far as the place alone says it."""
        text = folder.removesuffix(self.layout.below)
        return ServiceName(unquote_plus(text) if self.mapping.IN_NAME else text)

    def record(self, key: str, name: ServiceName, id: str, pair: Pair) -> Record | None:
        """What stands there; None: no entry, which is also what a node with children and without a value is."""
        entry, word = pair.entry, pair.word
        if pair.denied:
            return Record(None, None, pair.denied)
        if entry is None or (entry.children and not entry.value):
            return None
        mark: Mark | None = None
        if word is not None and word.mzxid == entry.mzxid:
            mark = ledger.decode(word.value)
            if mark is None:
                return Record(None, None, ledger.UNREADABLE)
        value = key.rpartition("/")[2].encode() if self.mapping.IN_NAME else entry.value
        return decoded(mark, self.mapping.decode, name, id, value, self.protocol)

    async def pairs(self, keys: Iterable[str]) -> tuple[dict[str, Pair], int]:
        """These entries as they stand, and a transaction that none of them is older than."""
        await self._client.connected()
        found: dict[str, Pair] = {}
        zxid = 0
        async with _reading(_packets(keys, ENTRIES, self._pairs_of), self._client.reads) as reading:
            async for some, answer in reading:
                zxid = zxid or answer.zxid
                nodes = iter(nodes_of(answer))
                found.update((key, _pair(next(nodes), next(nodes))) for key in some)
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
        """These places, each in as many parts as it arrives in; where there is nothing, without pairs."""
        await self._client.connected()
        listed: deque[_Listed | Folder] = deque()
        async with _reading(_packets(paths, PLACES, self._pairs_of), self._lists) as listing:
            async for some, answer in listing:
                lists = iter(open_lists_of(answer))
                listed += [_listed(path, next(lists), next(lists), answer.zxid) for path in some]
        arrived: list[tuple[str, Pair]] = []
        used = 0
        # Each list goes when all that it names has arrived: what is built meanwhile takes its room.
        ahead, arriving = tee(_emptied(listed))
        packets = _packets(
            (place for one in ahead if isinstance(one, _Listed) for place in one.places()), ENTRIES, self._places_of
        )
        async with _reading(packets, self._client.reads) as reading:
            for one in arriving:
                if isinstance(one, Folder):
                    yield one
                    continue
                left = len(_union(one.entries, one.words))
                stands = (one.entries is not None, one.words is not None)
                while True:
                    if left and used == len(arrived):
                        arrived, used = _placed(*await anext(reading)), 0
                    pairs = dict(arrived[used : used + left])
                    used += len(pairs)
                    left -= len(pairs)
                    # Written after the lists, perhaps together with a ledger node.
                    doubtful = [
                        key
                        for key, pair in pairs.items()
                        if pair.word is None and pair.entry is not None and pair.entry.mzxid > one.zxid
                    ]
                    if doubtful:
                        pairs.update((await self.pairs(doubtful))[0])
                    yield Folder(one.path, pairs, one.zxid, stands, not left)
                    if not left:
                        break

    def _pairs_of(self, keys: Sequence[str]) -> list[str]:
        return [f"{root}/{key}" for key in keys for root in (self.root, self.ledger)]

    def _places_of(self, places: Sequence[_Place]) -> list[str]:
        paths: list[str] = []
        for key, worded in places:
            paths.append(f"{self.root}/{key}")
            if worded:
                paths.append(f"{self.ledger}/{key}")
        return paths

    def _lists(self, paths: Sequence[str]) -> asyncio.Future[Answer]:
        return self._client.reads([], paths)


class _Listed(NamedTuple):
    """The names of the entries and of the ledger's nodes at one place, of one moment; None: no such place."""

    path: str
    entries: list[str] | None
    words: list[str] | None
    zxid: int

    def places(self) -> Iterator[_Place]:
        words = frozenset(self.words or ())
        return ((f"{self.path}/{name}", name in words) for name in _union(self.entries, self.words))


def _listed(
    path: str, entries: list[str] | Denied | None, words: list[str] | Denied | None, zxid: int
) -> _Listed | Folder:
    """A place whose entries or ledger we may not list is unreadable as a whole: ours cannot be told from natives'."""
    if isinstance(entries, Denied) or isinstance(words, Denied):
        denied = str(entries if isinstance(entries, Denied) else words)
        known = () if words is None or isinstance(words, Denied) else tuple(words)
        return Folder(path, {}, zxid, (entries is not None, words is not None), True, denied, known)
    return _Listed(path, entries, words, zxid)


_Place = tuple[str, bool]  # a key, and whether it has a ledger node


def _placed(places: Sequence[_Place], answer: Answer) -> list[tuple[str, Pair]]:
    nodes = iter(nodes_of(answer))
    return [(key, _pair(next(nodes), next(nodes) if worded else None)) for key, worded in places]


def _pair(entry: Node | Denied | None, word: Node | Denied | None) -> Pair:
    """One that cannot be read in part cannot be told for ours or a native's: it is unreadable as a whole."""
    if isinstance(entry, Denied) or isinstance(word, Denied):
        return Pair(None, None, str(entry if isinstance(entry, Denied) else word))
    return Pair(entry, word)


def _emptied(listed: deque[_Listed | Folder]) -> Iterator[_Listed | Folder]:
    while listed:
        yield listed.popleft()


def _union(entries: list[str] | None, words: list[str] | None) -> Collection[str]:
    return dict.fromkeys((*(entries or ()), *words)) if words else entries or ()


def _packets(
    items: Iterable[T], size: int, paths_of: Callable[[Sequence[T]], Sequence[str]]
) -> Iterator[tuple[Sequence[T], Sequence[str]]]:
    """The items in packets of that size, or less where their paths are long: with all the paths of each packet."""
    left = iter(items)
    rest: list[T] = []
    while packet := [*rest, *islice(left, size - len(rest))]:
        rest = []
        while sum(map(len, paths := paths_of(packet))) > PATHS and len(packet) > 1:
            half = len(packet) // 2
            packet, rest = packet[:half], [*packet[half:], *rest]
        yield packet, paths


@asynccontextmanager
async def _reading(
    packets: Iterator[tuple[Sequence[T], Sequence[str]]], ask: Callable[[Sequence[str]], asyncio.Future[Answer]]
) -> AsyncIterator[AsyncIterator[tuple[Sequence[T], Answer]]]:
    """Asks for some packets ahead: each with its answer, in order."""
    asked: deque[tuple[Sequence[T], asyncio.Future[Answer]]] = deque()

    async def answers() -> AsyncIterator[tuple[Sequence[T], Answer]]:
        while True:
            for some, paths in islice(packets, AHEAD - len(asked)):
                asked.append((some, ask(paths)))
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
