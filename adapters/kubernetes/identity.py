"""Who a cluster is: the uid of its namespace kube-system, which lives as long as the cluster does."""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.kubernetes.client import NAMESPACES, Client
from bridge.errors import Denied, Unavailable
from mappings.kubernetes.objects import Meta

NAMESPACE = "kube-system"


class _Namespace(msgspec.Struct, frozen=True):
    metadata: Meta


async def of(client: Client) -> str:
    """The same for every bridge. Raises Unavailable, or Denied with the rule that is missing."""
    try:
        found: Any = await client.get(NAMESPACES.path(name=NAMESPACE), _Namespace)
    except Denied as error:
        rule = f'{{apiGroups: [""], resources: [namespaces], resourceNames: [{NAMESPACE}], verbs: [get]}}'
        raise Denied(f"{error}; by its uid a cluster is known: add {rule} to a ClusterRole of the bridge") from error
    if found is None or not found.metadata.uid:
        raise Unavailable(f"the cluster has no namespace {NAMESPACE} yet")
    return str(found.metadata.uid)
