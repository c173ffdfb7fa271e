"""The tree of a layout and its ledger, read in bulk: each entry with its ledger node, both as of one transaction."""

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

ENTRIES = 240  # nodes read in one packet; a node has at most 1 MiB, so no answer exceeds the limit
PLACES = 100  # nodes listed in one packet: each may have 1 MiB of names, and there are two lists
PATHS = 250_000  # characters in one packet: a server takes 1 MiB (jute.maxbuffer), and Dubbo's names are long
AHEAD = 16  # packets requested ahead

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
    """The path above all entries, without the chroot."""
    layout = cast(Znodes, importlib.import_module(LAYOUTS[config.layout].module))
    return layout.PREFIX if config.root is None else config.root


class Pair(msgspec.Struct, frozen=True, gc=False):
    """An entry and its ledger node; None: it does not exist. `denied`: which of them we may not read."""

    entry: Node | None
    proof: Node | None = None
    denied: str = ""

    @property
    def ours(self) -> bool:
        """Whether a bridge wrote the entry: both were last written by one transaction (safety rule 5)."""
        return self.entry is not None and self.proof is not None and self.entry.mzxid == self.proof.mzxid


class Folder(NamedTuple):
    """A folder's nodes by key, or a part of them, none older than `zxid`. `last`: no part follows.

    `stands`: whether the folder and its ledger's exist. `denied`: which of them we may not list; then all that is known
    is `proofs`, the names of the ledger nodes, if those may be listed.
    """

    path: str
    pairs: dict[str, Pair]
    zxid: int
    stands: tuple[bool, bool]
    last: bool = True
    denied: str = ""
    proofs: tuple[str, ...] = ()


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
        """Key, service and id of the entry that a path belongs to, also of its ledger node; None: of none."""
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
        """The service of a folder, as far as its path alone tells."""
        text = folder.removesuffix(self.layout.below)
        return ServiceName(unquote_plus(text) if self.mapping.IN_NAME else text)

    def record(self, key: str, name: ServiceName, id: str, pair: Pair) -> Record | None:
        """The decoded entry, None: there is none. A node with children and without a value is no entry."""
        entry, proof = pair.entry, pair.proof
        if pair.denied:
            return Record(None, None, pair.denied)
        if entry is None or (entry.children and not entry.value):
            return None
        mark: Mark | None = None
        if proof is not None and proof.mzxid == entry.mzxid:
            mark = ledger.decode(proof.value)
            if mark is None:
                return Record(None, None, ledger.UNREADABLE)
        value = key.rpartition("/")[2].encode() if self.mapping.IN_NAME else entry.value
        return decoded(mark, self.mapping.decode, name, id, value, self.protocol)

    async def pairs(self, keys: Iterable[str]) -> tuple[dict[str, Pair], int]:
        """These entries, and a transaction that none of them is older than."""
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
        """Every folder that may have an entry or a ledger node."""
        await self._client.connected()
        entries, proofs = lists_of(await self._client.reads([], [self.root, self.ledger]))
        below = self.layout.below
        async with aclosing(self.folders([name + below for name in _union(entries, proofs)])) as folders:
            async for folder in folders:
                yield folder

    async def folders(self, paths: Iterable[str]) -> AsyncGenerator[Folder]:
        """These folders, each in the parts in which it arrives; an empty one without pairs."""
        await self._client.connected()
        listed: deque[_Listed | Folder] = deque()
        async with _reading(_packets(paths, PLACES, self._pairs_of), self._lists) as listing:
            async for some, answer in listing:
                lists = iter(open_lists_of(answer))
                listed += [_listed(path, next(lists), next(lists), answer.zxid) for path in some]
        arrived: list[tuple[str, Pair]] = []
        used = 0
        # Each list is dropped when all of its nodes have arrived, to make room for what is built of them.
        ahead, arriving = tee(_emptied(listed))
        packets = _packets(
            (place for one in ahead if isinstance(one, _Listed) for place in one.places()), ENTRIES, self._places_of
        )
        async with _reading(packets, self._client.reads) as reading:
            for one in arriving:
                if isinstance(one, Folder):
                    yield one
                    continue
                left = len(_union(one.entries, one.proofs))
                stands = (one.entries is not None, one.proofs is not None)
                while True:
                    if left and used == len(arrived):
                        arrived, used = _placed(*await anext(reading)), 0
                    pairs = dict(arrived[used : used + left])
                    used += len(pairs)
                    left -= len(pairs)
                    # Written after the list was made, perhaps with a ledger node.
                    doubtful = [
                        key
                        for key, pair in pairs.items()
                        if pair.proof is None and pair.entry is not None and pair.entry.mzxid > one.zxid
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
    """The names of the entries and of the ledger nodes of a folder, as of one transaction; None: it does not exist."""

    path: str
    entries: list[str] | None
    proofs: list[str] | None
    zxid: int

    def places(self) -> Iterator[_Place]:
        proofs = frozenset(self.proofs or ())
        return ((f"{self.path}/{name}", name in proofs) for name in _union(self.entries, self.proofs))


def _listed(
    path: str, entries: list[str] | Denied | None, proofs: list[str] | Denied | None, zxid: int
) -> _Listed | Folder:
    """A folder whose entries or ledger we may not list is unreadable as a whole: ours cannot be told from natives'."""
    if isinstance(entries, Denied) or isinstance(proofs, Denied):
        denied = str(entries if isinstance(entries, Denied) else proofs)
        known = () if proofs is None or isinstance(proofs, Denied) else tuple(proofs)
        return Folder(path, {}, zxid, (entries is not None, proofs is not None), True, denied, known)
    return _Listed(path, entries, proofs, zxid)


_Place = tuple[str, bool]  # a key, and whether it has a ledger node


def _placed(places: Sequence[_Place], answer: Answer) -> list[tuple[str, Pair]]:
    nodes = iter(nodes_of(answer))
    return [(key, _pair(next(nodes), next(nodes) if worded else None)) for key, worded in places]


def _pair(entry: Node | Denied | None, proof: Node | Denied | None) -> Pair:
    """If one of the two may not be read, nobody can tell whose entry it is: it is unreadable."""
    if isinstance(entry, Denied) or isinstance(proof, Denied):
        return Pair(None, None, str(entry if isinstance(entry, Denied) else proof))
    return Pair(entry, proof)


def _emptied(listed: deque[_Listed | Folder]) -> Iterator[_Listed | Folder]:
    while listed:
        yield listed.popleft()


def _union(entries: list[str] | None, proofs: list[str] | None) -> Collection[str]:
    return dict.fromkeys((*(entries or ()), *proofs)) if proofs else entries or ()


def _packets(
    items: Iterable[T], size: int, paths_of: Callable[[Sequence[T]], Sequence[str]]
) -> Iterator[tuple[Sequence[T], Sequence[str]]]:
    """The items in packets of that size, smaller where their paths are long; each with its paths."""
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
    """Requests some packets ahead; each packet with its answer, in order."""
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
                answer.exception()  # the consumer has stopped
