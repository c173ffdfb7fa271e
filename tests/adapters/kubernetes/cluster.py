"""A namespace of a cluster, its natives, and a source on it whose watches are short."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from adapters.kubernetes import Config
from adapters.kubernetes.access import Keeper
from adapters.kubernetes.client import Client
from adapters.kubernetes.source import KubernetesSource
from adapters.kubernetes.times import TIMES, Times
from adapters.kubernetes.working_copy import View
from tests.conformance.labs.kubernetes import SLICES, Cluster, service, slice_of
from tests.servers.kubernetes import Kubernetes

CORE = "api/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
_NUMBERS = count()

__all__ = ["CORE", "RBAC", "SLICES", "Cluster", "fresh", "may_read", "opened", "service", "slice_of"]


async def fresh(server: Kubernetes) -> Cluster:
    """A namespace for one test."""
    return Cluster(server, await server.namespace(f"natives-{next(_NUMBERS)}"))


@asynccontextmanager
async def opened(
    cluster: Cluster,
    kubeconfig: Path | None = None,
    *,
    times: Times = TIMES,
    **said: Any,
) -> AsyncIterator[KubernetesSource]:
    """A source of the cluster's namespace; `said`: keys of the registry's block."""
    config = Config(kubeconfig=str(kubeconfig or cluster.server.kubeconfig), namespace=cluster.namespace, **said)
    client = Client(Keeper(config.kubeconfig, None), times)
    view = View(config.namespace, config.selector is not None, config.address, config.pod_metadata)
    try:
        yield KubernetesSource(client, view, cluster.namespace, config.selector or "", random.Random(1))
    finally:
        await client.close()


async def may_read(server: Kubernetes, user: str, namespace: str) -> tuple[str, str]:
    """Gives a user what a bridge needs to read one namespace; the paths of the two bindings."""
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    known = [{"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]}]
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    within = f"{RBAC}/namespaces/{namespace}"
    name = f"isthmus-{namespace}"
    paths = []
    for base, kind, granted in ((within, "Role", rules), (RBAC, "ClusterRole", known)):
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        await server.call("POST", f"{base}/{kind.lower()}s", {"metadata": {"name": name}, "rules": granted})
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        await server.call("POST", f"{base}/{kind.lower()}bindings", binding)
        paths.append(f"{base}/{kind.lower()}bindings/{name}")
    return paths[0], paths[1]
