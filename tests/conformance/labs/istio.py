"""The laboratory of a mesh: ServiceEntries as istiod would read them; nobody but bridges writes there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from adapters.kubernetes import Config, create
from bridge.adapter import Registry
from bridge.model import ServiceName
from tests.conformance.lab import Can, Kind, Lab, as_it_is
from tests.conformance.labs.kubernetes import Cluster, KubernetesLab
from tests.kit.proxy import Proxy
from tests.servers.kubernetes import ADMIN, Kubernetes

GROUP = "apis/networking.istio.io/v1"
_NUMBERS = count()


class IstioLab(KubernetesLab):
    """The ids of endpoints are in the entries that are beside them."""

    def __init__(self, cluster: Cluster, kubeconfig: Path, proxy: Proxy) -> None:
        super().__init__(cluster, kubeconfig, proxy)
        self.can: frozenset[Can] = frozenset({"change", "write", "cut"})
        self.form = as_it_is
        self._host = f"{{name}}.{cluster.namespace}"  # all of them look at one cluster

    def registry(self) -> Registry:
        namespace, kubeconfig = self._cluster.namespace, str(self._kubeconfig)
        return create("lab", Config(kubeconfig=kubeconfig, layout="istio", namespace=namespace, host=self._host), None)

    async def truth(self, service_name: ServiceName) -> Mapping[str, tuple[str, int]]:
        """By their addresses, which end in the number of the id."""
        host = self._host.format(name=service_name.name)
        entries: list[Any] = await self._cluster.listed(GROUP, "serviceentries")
        endpoints = [one for each in entries if each["spec"]["hosts"] == [host] for one in each["spec"]["endpoints"]]
        return {
            f"i{each['address'].rpartition('.')[2]}": (each["address"], *each["ports"].values()) for each in endpoints
        }

    async def place(self) -> object:
        found = await self._cluster.listed(GROUP, "serviceentries")
        return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in found}


@asynccontextmanager
async def _open(server: Kubernetes, folder: Path) -> AsyncIterator[Lab]:
    async with Proxy(server.address) as proxy:
        namespace = await server.namespace(f"mesh-{next(_NUMBERS)}")
        kubeconfig = folder / "kubeconfig"
        text = server.configure(ADMIN, name=namespace).read_text()
        kubeconfig.write_text(text.replace(server.address, proxy.address))
        yield IstioLab(Cluster(server, namespace), kubeconfig, proxy)


KINDS = {"istio": Kind("mesh", _open, frozenset({"sink", "seat"}))}
