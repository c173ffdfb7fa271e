"""The nodes of bridges below `/isthmus` in an ensemble; the last bridge to leave removes the rest."""

from __future__ import annotations

import contextlib
from typing import NamedTuple
from urllib.parse import unquote

from kazoo.exceptions import NoNodeError, NotEmptyError

from adapters.common.places import IDENTITY, LEDGER, LOCKS, NOTES, OLD_NOTES, ROOT
from adapters.zookeeper import identity
from adapters.zookeeper.client import Client
from adapters.zookeeper.replies import lists_of, values_of
from adapters.zookeeper.tree import Tree
from adapters.zookeeper.wire import Delete, Node
from bridge.adapter import Trace
from mappings import ledger

PACKET = 60  # nodes read at once
AREAS = (LOCKS, NOTES, OLD_NOTES)
OTHER_LAYOUT = "it is of another layout or root in this store: name that in the file, and leave it"
OTHER_NAME = "bridges know the store by it, and without it this file would give it another name"


class _There(NamedTuple):
    """All nodes at and below `/isthmus`, by path, those above before those below."""

    nodes: dict[str, Node]

    @property
    def owners(self) -> set[str]:
        """The bridges that have a lock, a note or a ledger entry; "" for an entry that this version cannot read."""
        found = set()
        for path, node in self.nodes.items():
            found |= {unquote(path.removeprefix(f"{each}/").partition("/")[0]) for each in AREAS if _below(path, each)}
            if _below(path, LEDGER) and node.value:
                mark = ledger.decode(node.value)
                found.add(mark.owner if mark is not None else "")
        return found


def _below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


async def traces(client: Client, tree: Tree, bridge: str) -> list[Trace]:
    """See `Tracer`."""
    there = await _look(client)
    found = tree.own.traces(bridge, there.nodes)
    for path, node in there.nodes.items():
        mark = ledger.decode(node.value) if _below(path, LEDGER) and node.value else None
        if mark is not None and mark.owner == bridge:
            found.append(Trace("ledger entry", path, "" if _below(path, tree.ledger) else OTHER_LAYOUT))
    if there.nodes and there.owners <= {bridge}:
        if IDENTITY in there.nodes:
            found.append(Trace("identity", IDENTITY, "" if _is_plain(client, there) else OTHER_NAME))
        found.append(Trace("folder", ROOT, "" if _is_plain(client, there) else "the identity is in it"))
    return found


async def remove_shared(client: Client) -> None:
    """Removes `/isthmus`, unless a bridge has anything there. An identity that is the only source of the name stays."""
    there = await _look(client)
    if not there.nodes or there.owners:
        return
    for path in reversed(there.nodes):
        if path not in (ROOT, IDENTITY):
            with contextlib.suppress(NotEmptyError, NoNodeError):
                await client.delete(path)
    if _is_plain(client, there):
        # All or nothing: for a bridge that has begun meanwhile the identity stays.
        ops = [Delete(path, there.nodes[path].version) for path in (IDENTITY, ROOT) if path in there.nodes]
        await client.multi(client.pack(ops))


def _is_plain(client: Client, there: _There) -> bool:
    """Whether the store would have the same name without its identity."""
    return IDENTITY not in there.nodes or there.nodes[IDENTITY].value.decode(errors="replace") == identity.found_at(
        client
    )


async def _look(client: Client) -> _There:
    await client.connected()
    found: dict[str, Node] = {}
    level = [ROOT]
    while level:
        below: list[str] = []
        for first in range(0, len(level), PACKET):
            some = level[first : first + PACKET]
            nodes = values_of(await client.reads(some))
            found.update((path, node) for path, node in zip(some, nodes, strict=True) if node is not None)
            lists = lists_of(await client.reads([], some))
            below += [f"{path}/{name}" for path, names in zip(some, lists, strict=True) for name in names or ()]
        level = below
    return _There(found)
