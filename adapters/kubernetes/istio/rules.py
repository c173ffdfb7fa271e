"""DestinationRules: without the right one, istiod's clients do not follow weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from adapters.kubernetes.client import Client
from adapters.kubernetes.istio.standing import RULES, Where
from adapters.kubernetes.writing import Pen
from bridge.adapter import Advice
from bridge.errors import Denied
from bridge.model import Instance, ServiceName
from mappings import istio as mapping
from mappings.common.slice_entry import BRIDGE
from mappings.istio import DestinationRule


async def listed(client: Client, scopes: Sequence[str]) -> list[DestinationRule] | Denied:
    """Those of some namespaces, or why they are not known. Raises Unavailable."""
    try:
        return [one for scope in scopes for one in await client.listed(RULES.path(scope), DestinationRule)]
    except Denied as error:
        return error


async def state(client: Client, pen: Pen, where: Where, body: Callable[[str], bytes]) -> None:
    """Writes the rule of a host, unless it is there; one of somebody else's by that name stays as it is."""
    found = await client.get(RULES.path(where.mesh, where.host), DestinationRule)
    if found is not None and (not is_ours(found) or not mapping.harm(found.spec)):
        return
    await pen.put(RULES, where.mesh, where.host, found.metadata if found else None, body, DestinationRule)


async def withdraw(client: Client, pen: Pen, where: Where) -> None:
    """Deletes the rule of a host that is served no more, if a bridge wrote it."""
    try:
        found = await client.get(RULES.path(where.mesh, where.host), DestinationRule)
    except Denied:  # who never wrote rules needs no right to read them
        return
    if found is not None and is_ours(found):
        await pen.delete(RULES, found.metadata)


def is_ours(found: DestinationRule) -> bool:
    """Whether a bridge wrote it."""
    return BRIDGE in (found.metadata.annotations or {})


def advice(
    name: ServiceName, where: Where, instances: Iterable[Instance], found: Sequence[DestinationRule] | Denied
) -> list[Advice]:
    """What is to be said of one host, whose endpoints these will be: nothing where all of them weigh the same."""
    weights = {each.weight for each in instances if mapping.gets_traffic(each)}
    if len(weights) < 2:
        return []
    if isinstance(found, Denied):
        return [Advice(name, f"not known whether a DestinationRule has shares follow weights: {found}", warning=True)]
    covering = [each for each in found if mapping.covers(each, where.host)]
    if not covering:
        return [
            Advice(
                name,
                f"Istio deals by LEAST_REQUEST, which makes other shares than the weights say: set `destination_rules: "
                f"true`, or apply {manifest(where)}",
                warning=True,
            )
        ]
    return [
        Advice(name, f"the DestinationRule {place(each)}: {harm}", warning=True)
        for each in covering
        if (harm := mapping.harm(each.spec))
    ]


def manifest(where: Where) -> str:
    """The rule of a host as one line for `kubectl apply -f -`."""
    said = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": where.host, "namespace": where.mesh},
        "spec": mapping.rule(where.host),
    }
    return msgspec.json.encode(said).decode()


def notes(found: Sequence[DestinationRule] | Denied, hosts: Iterable[str]) -> list[str]:
    """For `check`: what rules of others do to the shares of our hosts."""
    if isinstance(found, Denied):
        return [f"what DestinationRules do to the shares of our hosts is not known: {found}"]
    return [
        f"the DestinationRule {place(each)} is about {host}: {harm}"
        for host in hosts
        for each in found
        if not is_ours(each) and mapping.covers(each, host) and (harm := mapping.harm(each.spec))
    ]


def place(found: DestinationRule) -> str:
    """Namespace and name."""
    return f"{found.metadata.namespace}/{found.metadata.name}"
