"""What `check` says of a Consul: its version, rights by verb, datacenters, polls, and what stock clients see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from adapters.common import places
from adapters.consul.budget import Budget
from adapters.consul.client import Client, Reply
from adapters.consul.identity import NAMELESS
from adapters.consul.lock import LOCKS
from adapters.consul.nodes import ROOM
from adapters.consul.txn import BYTES, OPERATIONS
from bridge.adapter import Reach, Right
from bridge.errors import Denied, IsthmusError, Unavailable


class Rule(NamedTuple):
    """A right, as Consul's rules name it, and how the agent is asked for it."""

    name: str
    resource: str
    access: str
    segment: str = ""


RULES = (
    Rule("service:read", "service", "read"),
    Rule("node:read", "node", "read"),
    Rule("key:write below isthmus/", "key", "write", "isthmus/lock"),
    Rule("node:write on isthmus-*", "node", "write", "isthmus-bridge-00"),
    Rule("service:write", "service", "write"),
    Rule("session:write on isthmus-locks", "session", "write", LOCKS),
)
LIMITS = (
    f"a transaction has at most {OPERATIONS} operations and {BYTES:,} bytes; a node of the bridge's has {ROOM} copies",
)


class Settings(Protocol):
    """What of the registry's block is said."""

    @property
    def datacenters(self) -> list[str]: ...


async def reach(client: Client, config: Settings, dc: str, who: str, own: places.Own, budget: Budget) -> Reach:
    """See `Registry.reach`; asks the agent and, for each datacenter, its servers. Raises Unavailable or Denied."""
    version, notes = await _agent(client)
    known = (await client.get("/v1/catalog/datacenters")).json(list[str])
    notes += [
        f"there is no datacenter {dc}: there is {', '.join(known)}" for dc in config.datacenters if dc not in known
    ]
    unnamed = tuple(dc for dc in known if dc not in config.datacenters)
    if unnamed:
        notes.append(f"datacenters that the file does not name are not read: {', '.join(unnamed)}")
    limits = [*LIMITS]
    for each in config.datacenters:
        try:
            limits += await _polls(client, each, budget)
        except IsthmusError as error:
            notes.append(f"{each} does not answer: {error}")
    if who.startswith(NAMELESS):
        notes.append(f"Connect is disabled: {dc} of another Consul would be taken for this one, and get no copies")
    rights = await _rights(client, dc)
    lacking = [one.verb for one in rights if one.may is False]
    if lacking:
        notes.append(f"the token lacks {', '.join(lacking)}")
    return Reach(
        who,
        version,
        may_read=_all(one.may for one, rule in zip(rights, RULES, strict=True) if rule.access == "read"),
        may_write=_all(one.may for one in rights),
        notes=tuple(notes),
        writers=await _writers(client, dc, own),
        rights=tuple(rights),
        limits=tuple(limits),
        unnamed=unnamed,
    )


def _all(rights: Iterable[bool | None]) -> bool | None:
    """Whether we have them all; None: nobody says."""
    found = set(rights)
    return None if None in found else False not in found


async def _agent(client: Client) -> tuple[str, list[str]]:
    try:
        agent = (await client.get("/v1/agent/self")).json(dict[str, Any])
    except Denied as error:
        if "ACL not found" in str(error):
            raise
        return "Consul", ["version is not known: it needs agent:read"]
    version = str(agent["Config"]["Version"])
    return f"Consul {version}", notes_on(version)


def notes_on(version: str) -> list[str]:
    """What an agent's version alone says: of Enterprise, as in `1.20.6+ent`, that a part of it is left out."""
    if "+ent" not in version:
        return []
    return ["Consul Enterprise: only the default namespace of the default partition is read and written"]


async def _polls(client: Client, dc: str, budget: Budget) -> list[str]:
    """How many services of a datacenter can be polled."""
    listed = (await client.get("/v1/catalog/services", dc)).json(dict[str, Any])
    count = len(listed.keys() - {"consul"})
    limits = [f"{dc}: {count} services, at most {budget.most} of those that links ask for polled at a time"]
    if count > budget.most:
        limits.append(
            f"{dc}: those without a poll are seen a second or more later; raise max_polls with the agents' "
            "http_max_conns_per_client (200 unless set, native clients of this host included), or name a second agent"
        )
    if budget.lowered:
        limits.append(f"an agent refused connections (429), so at most {budget.most} services are polled at a time")
    return limits


async def _rights(client: Client, dc: str) -> list[Right]:
    """What the token may of each rule. Nothing is written to find out."""
    wanted = [{"Resource": one.resource, "Access": one.access, "Segment": one.segment} for one in RULES]
    allowed: list[bool | None]
    try:
        answer = await client.post("/v1/internal/acl/authorize", dc, wanted)
        allowed = [bool(one["Allow"]) for one in answer.json(list[dict[str, Any]])]
    except Denied as error:
        allowed = ["ACL support disabled" in str(error)] * len(RULES)
    except IsthmusError:
        allowed = [None] * len(RULES)
    return [Right(rule.name, may) for rule, may in zip(RULES, allowed, strict=True)]


async def _writers(client: Client, dc: str, own: places.Own) -> frozenset[str] | None:
    area = places.LOCKS.removeprefix("/")
    try:
        reply: Reply = await client.get(f"/v1/kv/{area}/", dc, accept=(404,), keys="")
    except (Denied, Unavailable):  # locks are no part of what a reader must see
        return None
    keys = reply.json(list[str]) if reply.status == 200 else []
    return frozenset(bridge for key in keys if (bridge := own.bridge_of(f"/{key}")) is not None)
