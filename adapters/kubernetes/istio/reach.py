"""What `check` says of a mesh: which rights are missing by verb, and what DestinationRules of others do to shares."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from adapters.kubernetes import identity
from adapters.kubernetes.client import Client
from adapters.kubernetes.istio import rules
from adapters.kubernetes.istio.standing import ENTRIES, RULES, WORKLOADS
from adapters.kubernetes.lease import LEASES, Leases, writers
from adapters.kubernetes.reach import LOCKING, Need, Version, may, rule_of
from adapters.kubernetes.sink import Rules
from bridge.adapter import Reach, Right
from bridge.errors import IsthmusError
from mappings import istio as mapping
from mappings.common.slice_entry import MOST_BYTES
from mappings.istio import ServiceEntry

LIMITS = (
    f"a ServiceEntry has at most {mapping.MOST_ENDPOINTS:,} endpoints, and {MOST_BYTES:,} bytes of annotations, "
    "deflated; a change writes it anew, and istiod tells it 0.1 s later",
)


async def of(client: Client, mesh: str, file: Rules, leases: Leases) -> Reach:
    """See `Registry.reach`. Raises Unavailable or Denied."""
    version: Any = (await client.call("GET", "/version")).json(Version)
    needs = [Need(ENTRIES, mesh, verb) for verb in ("get", "list", "watch", "create", "patch", "delete")]
    needs += [Need(LEASES, leases.namespace, verb) for verb in LOCKING]
    if file.attach:
        beside = file.namespaces or ("",)
        verbs = ("list", "watch", "create", "patch", "delete")
        needs += [Need(WORKLOADS, scope, verb) for scope in beside for verb in verbs]
    wide = [Need(each, scope, "list") for scope in file.namespaces or ("",) for each in (ENTRIES, RULES)]
    wanted = [*needs, *wide]
    allowed = dict(zip(wanted, await asyncio.gather(*(may(client, *each) for each in wanted)), strict=True))
    notes = [rule_of(*each) for each, yes in allowed.items() if not yes]
    return Reach(
        await identity.of(client),
        f"Kubernetes {version.git_version}",
        may_read=None,
        may_write=all(allowed[each] for each in needs),
        notes=(*notes, *await _shares(client, mesh, file)),
        writers=await writers(leases, datetime.now(UTC)),
        rights=tuple(Right(str(each), yes) for each, yes in allowed.items()),
        limits=LIMITS,
    )


async def _shares(client: Client, mesh: str, file: Rules) -> list[str]:
    """What is to be said of the rules about the hosts that bridges wrote."""
    try:
        query = {"labelSelector": mapping.SERVICE}
        written = await client.listed(ENTRIES.path(mesh), ServiceEntry, query)
        found = await rules.listed(client, file.namespaces or ("",))
    except IsthmusError as error:
        return [f"what is served cannot be read: {error}"]
    return rules.notes(found, [each.metadata.name for each in written])
