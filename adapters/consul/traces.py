"""What a bridge keeps in a datacenter beside its copies: keys, sessions, and the nodes that they are on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from adapters.common import places
from adapters.consul.client import Client
from adapters.consul.lock import LOCKS
from adapters.consul.txn import Refusal, submit
from bridge.adapter import Trace
from mappings import consul

AREA = places.ROOT.removeprefix("/")


class _There(NamedTuple):
    """All that bridges have in one datacenter. `sessions`: by id the key that each is for.

    `version`: of the node that they are on, 0: there is none.
    """

    keys: list[str]
    nodes: list[str]
    sessions: dict[str, str]
    version: int

    def others(self, bridge: str) -> bool:
        """Whether another bridge has a lock or a note there."""
        keys = [*self.keys, *self.sessions.values()]
        mine = tuple(f"{each}/{quote(bridge, safe='')}/".removeprefix("/") for each in (places.LOCKS, places.NOTES))
        return any(not key.startswith(mine) for key in keys)


async def traces(client: Client, write: str, datacenters: Sequence[str], own: places.Own, bridge: str) -> list[Trace]:
    """See `Tracer`: of the datacenter that is written, and of the nodes in all others that the file names."""
    there = await _look(client, write)
    found = own.traces(bridge, [f"/{key}" for key in there.keys])
    lock = f"{places.LOCKS}/{quote(bridge, safe='')}/".removeprefix("/")
    found += [Trace("session", id) for id, key in there.sessions.items() if key.startswith(lock)]
    for dc in dict.fromkeys((write, *datacenters)):
        nodes = there.nodes if dc == write else (await _look(client, dc)).nodes
        for name in nodes:
            if consul.owner_of(name) == bridge:
                needed = f"write_datacenter is {write}: name {dc}, and leave it" if dc != write else ""
                found.append(Trace("node", f"{dc}/{name}", needed or await _released(client, dc, name, bridge)))
    if there.version and not there.others(bridge):
        found.append(Trace("node", f"{write}/{LOCKS}"))
    return found


async def remove_shared(client: Client, dc: str) -> None:
    """The node that sessions are on, unless a bridge has a lock or a note; whoever comes then makes it again."""
    there = await _look(client, dc)
    if there.version and not (there.keys or there.sessions):
        gone = {"Verb": "delete-cas", "Node": {"Node": LOCKS, "ModifyIndex": there.version}}
        with contextlib.suppress(Refusal):
            await submit(client, dc, [{"Node": gone}])


async def _look(client: Client, dc: str) -> _There:
    reply = await client.get(f"/v1/kv/{AREA}/", dc, accept=(404,), keys="", consistent="")
    keys = reply.json(list[str]) if reply.status == 200 else []
    nodes = (await client.get("/v1/catalog/nodes", dc, consistent="")).json(list[dict[str, Any]])
    index = next((int(one["ModifyIndex"]) for one in nodes if one["Node"] == LOCKS), 0)
    names = [str(one["Node"]) for one in nodes if consul.owner_of(str(one["Node"])) is not None]
    sessions: dict[str, str] = {}
    if index:
        listed = (await client.get(f"/v1/session/node/{LOCKS}", dc, consistent="")).json(list[dict[str, Any]])
        sessions = {str(one["ID"]): str(one["Name"]) for one in listed}
    return _There(keys, names, sessions, index)


async def _released(client: Client, dc: str, node: str, bridge: str) -> str:
    """Why a node stays: what was released is on it; "" where there are copies of ours alone, or nothing."""
    reply = await client.get(f"/v1/catalog/node-services/{quote(node, safe='')}", dc)
    services = (reply.json(dict[str, Any] | None) or {}).get("Services") or ()
    released = sum(consul.MARK not in (one.get("Meta") or {}) for one in services)
    return f"{released} services on it were released, and are nobody's" if released else ""
