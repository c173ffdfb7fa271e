"""The nodes that a bridge keeps its copies on: as many as it takes to have about a hundred on each.

What a write costs the servers grows with the number of services on its node.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from adapters.consul import txn
from adapters.consul.client import Client
from adapters.consul.lock import ConsulTerm
from adapters.consul.txn import Refusal
from bridge.errors import Superseded
from mappings import consul

ROOM = 100


class _Found(msgspec.Struct, frozen=True):
    """A node with all that is on it."""

    Node: dict[str, Any]
    Services: dict[str, Any] | None = None


class Nodes:
    """How many copies are on each node, as far as this writer knows; counted anew with each session.

    Where several processes write a shard each, a node may get some more than there is room for: it costs the servers.
    """

    def __init__(self, client: Client, dc: str, bridge: str) -> None:
        self._client = client
        self._dc = dc
        self._bridge = bridge
        self._counts: dict[str, int] | None = None
        self._session = ""

    def of(self, term: ConsulTerm) -> None:
        """Whoever wrote before this session may have been another process."""
        if term.fence.session != self._session:
            self._session, self._counts = term.fence.session, None

    def forget(self) -> None:
        """They are not what is known."""
        self._counts = None

    async def free(self, term: ConsulTerm) -> str:
        """A node with room for one more, made if there is none; counted as taken. Raises Unavailable, Superseded."""
        if self._counts is None:
            self._counts = await self._counted()
        counts = self._counts
        name = next((name for name in sorted(counts) if counts[name] < ROOM), "")
        if not name:
            number = 0
            while (name := consul.node_of(self._bridge, number)) in counts:
                number += 1
            await self._make(term, name)
        counts[name] = counts.get(name, 0) + 1
        return name

    def give_back(self, node: str) -> None:
        """What was to be there was not written, or is there no more."""
        if self._counts is not None:
            self._counts[node] = max(0, self._counts.get(node, 0) - 1)

    async def remove_empty(self, term: ConsulTerm) -> None:
        """The nodes of this bridge without a copy; none that still has anything. Raises Unavailable, Superseded."""
        self._counts = None
        for name, count in (await self._counted()).items():
            if count:
                continue
            found = (await self._client.get(f"/v1/catalog/node/{quote(name, safe='')}", self._dc)).json(_Found | None)
            if found is None or found.Services:
                continue
            gone = {"Verb": "delete-cas", "Node": {"Node": name, "ModifyIndex": found.Node["ModifyIndex"]}}
            fence = txn.fence_of(term)
            try:
                await txn.submit(self._client, self._dc, [*fence, {"Node": gone}])
            except Refusal as refusal:
                if refusal.superseded(fence):
                    raise Superseded(f"the lock of {self._bridge} is not ours any more") from None

    async def _counted(self) -> dict[str, int]:
        mine = consul.node_of(self._bridge, 0).removesuffix("00")
        listed = (await self._client.get("/v1/catalog/nodes", self._dc)).json(list[dict[str, Any]])
        names = [one["Node"] for one in listed if one["Node"].startswith(mine) and consul.owner_of(one["Node"])]
        counts: dict[str, int] = {}
        for name in names:
            reply = await self._client.get(f"/v1/catalog/node-services/{quote(name, safe='')}", self._dc)
            found = reply.json(dict[str, Any] | None) or {}
            counts[name] = len(found.get("Services") or ())
        return counts

    async def _make(self, term: ConsulTerm, name: str) -> None:
        fence = txn.fence_of(term)
        try:
            await txn.submit(self._client, self._dc, [*fence, txn.node(self._bridge, name)])
        except Refusal as refusal:
            if refusal.superseded(fence):
                raise Superseded(f"the lock of {self._bridge} is not ours any more") from None
            text = refusal.errors.get(len(fence), "")
            if text and "index is stale" not in text:
                raise txn.why(text) from None
