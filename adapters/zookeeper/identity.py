"""Who an ensemble is: ZooKeeper has no name of its own, so the first bridge that writes there gives it one.

The name is the address at which it was found, as it is for every reader that may not write there: so it does
not change when the ensemble becomes a destination.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from kazoo.exceptions import NodeExistsError

from adapters.common.places import IDENTITY
from adapters.zookeeper.client import Client
from adapters.zookeeper.replies import values_of
from adapters.zookeeper.tree import Tree
from adapters.zookeeper.wire import Acl
from bridge.adapter import Listing
from bridge.errors import Denied, Unavailable


async def listing(client: Client, tree: Tree) -> Listing:
    """The ensemble that answers now, and its last transaction."""
    if client.chroot and not await client.exists("/"):
        raise Unavailable(f"{client.hosts} has no {client.chroot}, which is the chroot")
    await client.connected()
    answer = await client.reads([IDENTITY])
    (node,) = values_of(answer)
    name = node.value.decode(errors="replace") if node is not None and node.value else found_at(client)
    return Listing(f"zookeeper:{name}:{tree.mapping.NAME}:{tree.root}", revision=answer.zxid)


async def give(client: Client, acl: Sequence[Acl]) -> None:
    """Gives the ensemble its name, if it has none and we may write."""
    with contextlib.suppress(NodeExistsError, Denied):
        await client.create(IDENTITY, found_at(client).encode(), acl)


def found_at(client: Client) -> str:
    """The name that an ensemble has without an identity."""
    return ",".join(sorted(client.hosts.split(","))) + client.chroot
