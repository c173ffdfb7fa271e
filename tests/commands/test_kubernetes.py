"""Commands over a cluster that is read: who answers, which rights are missing, and pods that arrive in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.adapters.kubernetes.cluster import CORE, SLICES, fresh, service, slice_of
from tests.conformance.lab import instance
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.kubernetes import Kubernetes


async def test_pods_of_two_namespaces_arrive_in_a_folder_and_go(kubernetes: Kubernetes, folder: Path) -> None:
    clusters = [await fresh(kubernetes), await fresh(kubernetes)]
    for each in clusters:
        await each.put(CORE, "services", service("pay"))
        for number in (1, 2, 3):
            await each.put(SLICES, "endpointslices", slice_of("pay", instance(number)))
    (folder / "out").mkdir()
    first, second = (each.namespace for each in clusters)
    prod = {"kind": "kubernetes", "kubeconfig": str(kubernetes.kubeconfig), "namespaces": [first, second]}
    registries: dict[str, Any] = {"prod": prod, "out": {"kind": "file", "path": str(folder / "out")}}
    links = [{"from": f"prod/{first}", "to": "out", "policy": "sync", "services": {"include": ["*"]}}]
    async with Bridge(folder, registries, links) as bridge:
        checked = await bridge.isthmus("check", "-o", "json")
        assert '"version":"Kubernetes v1.34' in checked.out.replace('": "', '":"')

        async def are(*ids: str) -> bool:
            texts = [path.read_text() for path in (folder / "out").rglob("*.isthmus.yaml")]
            return len(texts) == 1 and all(f'"{id}"' in texts[0] for id in ids) and texts[0].count('"id"') == len(ids)

        await until(lambda: are("i1", "i2", "i3"))
        await clusters[0].remove(SLICES, "endpointslices", "pay-i3")
        await clusters[0].put(SLICES, "endpointslices", slice_of("pay", instance(4)))
        await until(lambda: are("i1", "i2", "i4"))
        explained = await bridge.isthmus("explain", f"{first}:pay", "-o", "json")
        assert "endpointslices" in explained.out
