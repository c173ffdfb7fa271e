"""A file with networks, run: what crosses says its network, and a pod that registers itself never comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.config import load as config
from bridge.config.document import Document
from bridge.engine.engine import Engine
from bridge.report.explain import explain
from tests.bridge.core import Record
from tests.kit.builders import PAY, instance
from tests.kit.waiting import until

FILE = """
bridge: {id: b1}
networks: {pods: {cidrs: [10.244.0.0/16]}}
registries:
  vms: {kind: memory, network: vm}
  prod: {kind: memory, network: pods, cluster: true}
links:
  - {from: vms, to: prod, network: crosses, policy: sync, services: {include: ["*"]}}
  - {from: prod, to: vms, network: crosses, policy: sync, services: {include: ["*"]}}
"""


@asynccontextmanager
async def running(text: str) -> AsyncIterator[Engine]:
    configuration = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", text), {}, ephemeral=True)
    async with Engine(configuration, events=Record()) as engine:
        yield engine


def store(engine: Engine, name: str) -> Store:
    registry = engine.registries[name]
    assert isinstance(registry, Memory)
    return registry.store


async def idle(engine: Engine) -> None:
    await until(
        lambda: not engine.unreached() and all(one.idle and one.role == "writer" for one in engine.reconcilers.values())
    )


async def test_a_pod_that_registers_itself_never_comes_back_to_its_cluster() -> None:
    async with running(FILE) as engine:
        vms, prod = store(engine, "vms"), store(engine, "prod")
        prod.register(PAY, instance("pod-1", "10.244.1.5"))
        vms.register(PAY, instance("pod-1.self", "10.244.1.5"))
        vms.register(PAY, instance("vm-1", "192.0.2.1"))
        await until(lambda: prod.instances(PAY).keys() == {"pod-1", "vm-1"})
        prod.deregister(PAY, "pod-1")  # it is dead, and Consul does not know that yet
        await until(lambda: prod.instances(PAY).keys() == {"vm-1"})
        vms.register(PAY, instance("vm-2", "192.0.2.2"))
        await until(lambda: prod.instances(PAY).keys() == {"vm-1", "vm-2"})
        await idle(engine)
        assert prod.instances(PAY).keys() == {"vm-1", "vm-2"}
        whys = [row["why"] for row in await explain(engine, PAY, "pod-1.self")]
        assert "its address is of the network pods, which the cluster alone gives out" in whys


async def test_a_pods_own_registration_shadows_the_copy_of_it_in_both_names() -> None:
    async with running(FILE) as engine:
        vms, prod = store(engine, "vms"), store(engine, "prod")
        vms.register(PAY, instance("pod-1.self", "10.244.1.5"))
        prod.register(PAY, instance("pod-1", "10.244.1.5"))
        prod.register(PAY, instance("pod-2", "10.244.1.6"))
        await until(lambda: vms.instances(PAY).keys() == {"pod-1.self", "pod-2"})
        await idle(engine)
        assert engine.reconcilers["vms"].destination.shadowed[PAY].keys() == {"pod-1"}
        mark = vms.mark(PAY, "pod-2")
        assert mark is not None and mark.network == "pods"


async def test_two_clusters_with_the_same_addresses_are_both_copied() -> None:
    text = FILE.replace("networks: {pods: {cidrs: [10.244.0.0/16]}}\n", "").replace(
        "  - {from: vms, to: prod,", "  - {from: [prod, other], to: vms,"
    )
    text = text[: text.rindex("  - {from: prod,")].replace("links:", "  other: {kind: memory, network: others}\nlinks:")
    async with running(text) as engine:
        vms = store(engine, "vms")
        store(engine, "prod").register(PAY, instance("pod-1", "10.244.1.5"))
        store(engine, "other").register(PAY, instance("pod-9", "10.244.1.5"))
        vms.register(PAY, instance("vm-1", "10.244.1.5"))
        await until(lambda: vms.instances(PAY).keys() == {"pod-1", "pod-9", "vm-1"})


async def test_a_network_that_the_file_changes_is_changed_in_the_marks() -> None:
    text = FILE.replace("networks: {pods: {cidrs: [10.244.0.0/16]}}\n", "")
    async with running(text) as engine:
        vms = store(engine, "vms")
        store(engine, "prod").register(PAY, instance("pod-1", "192.0.2.1"))
        await until(lambda: (mark := vms.mark(PAY, "pod-1")) is not None and mark.network == "pods")
        await idle(engine)
        ranged = FILE.replace("{pods: {cidrs: [10.244.0.0/16]}}", "{vm: {cidrs: [192.0.2.0/24]}}")
        configuration = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", ranged), {}, ephemeral=True)
        await engine.switch(engine.prepare(configuration))
        await until(lambda: (mark := vms.mark(PAY, "pod-1")) is not None and mark.network == "")
