"""Every runbook is run as it stands, on real servers: only the places of this machine, and the times, are others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.conformance.labs.kubernetes import Cluster
from tests.dataplanes.estate import Inventory
from tests.kit.runbook import RUNBOOKS, Machine, Page, Shell, read, shell
from tests.kit.running import Bridge
from tests.kit.stock import Native
from tests.kit.waiting import until
from tests.matrix.conftest import etcd_store, zookeeper_store
from tests.matrix.places import Corner, EtcdStore, Place, Reader, ZooKeeperStore, reading
from tests.matrix.registries import Applications, Namespace
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.kubernetes import Kubernetes

__all__ = ["etcd_store", "zookeeper_store"]

Seen = Callable[[], Awaitable[bool]]
VM, POD = "192.0.2.", "198.51.100."


def bridge(folder: Path, page: Page, places: Mapping[str, Mapping[str, Any]], **move: Any) -> Bridge:
    """The page's file, with the registries of this machine, and steps that need no time."""
    file = page.file
    registries = {name: {**block, **places[name]} for name, block in file["registries"].items()}
    block = {key: value for key, value in file["bridge"].items() if key not in ("id", "state")}
    made = Bridge(folder, registries, file["links"], name="isthmus", **block)
    made.migrations = [
        {**one, **move, "gates": {**one["gates"], "hold_for": "0s"}} for one in file.get("migrations", ())
    ]
    made.write()
    return made


async def followed(page: Page, at: Shell, seen: Mapping[str, Seen]) -> None:
    """Runs every block in its order; after the last one of a heading what `seen` has for it must be true."""
    assert seen.keys() <= {step.heading for step in page.steps}
    for number, step in enumerate(page.steps):
        ran = await at.run(step)
        assert ran.code == 0, f"{step.heading}:\n{step.commands}\n{ran.out}\n{ran.err}"
        last = number + 1 == len(page.steps) or page.steps[number + 1].heading != step.heading
        if last and step.heading in seen:
            await until(seen[step.heading], f"what is to be seen after {step.heading!r}")


async def moved(
    page: Page, folder: Path, places: Mapping[str, Mapping[str, Any]], machine: Machine, seen: Mapping[str, Seen],
    environment: Mapping[str, str] = {}, **move: Any,
) -> None:  # fmt: skip
    """A whole migration by its page."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(bridge(folder, page, places, **move))
        at = await stack.enter_async_context(shell(folder, {"ISTHMUS_FILE": str(made.file), **environment}, machine))
        await until(made.rests, "everything is read")
        await followed(page, at, seen)


def stopping(place: Place, service: str) -> Machine:
    """A process that is stopped in order takes its registration along."""

    async def machine(host: str, words: list[str]) -> None:
        assert words == ["systemctl", "stop", "pay"], words
        await place.remove(service, host)

    return machine


async def fill(old: Place, new: Place, service: str, machines: int, pods: int) -> None:
    """Machines at one place, pods at the other."""
    await asyncio.gather(*(old.put(service, Native(f"vm-{n}", f"{VM}{n}", 8080)) for n in range(1, machines + 1)))
    await asyncio.gather(*(new.put(service, Native(f"pod-{n}", f"{POD}{n}", 8080)) for n in range(1, pods + 1)))


def has(reader: Reader, service: str, vms: int, pods: int, share: float | None = None) -> Seen:
    """Whether so many of each side stand there, and the pods weigh so much of the whole, within a point."""

    async def seen() -> bool:
        there = [one for one in (await reader.read(service)).instances.values() if one.serving]
        weights = {net: [one.weight for one in there if one.address.startswith(net)] for net in (VM, POD)}
        whole = sum(map(sum, weights.values()))
        right = share is None or (whole > 0 and abs(sum(weights[POD]) / whole - share) < 0.01)
        return right and (len(weights[VM]), len(weights[POD])) == (vms, pods)

    return seen


def consul_machines(stopped: list[str]) -> Machine:
    """They run curl themselves; a process that is stopped is noted."""

    async def machine(host: str, words: list[str]) -> None:
        if words[0] == "systemctl":
            stopped.append(host)
            return
        child = await asyncio.create_subprocess_exec(*words)
        assert await child.wait() == 0, (host, words)

    return machine


async def test_machines_on_consul_leave_for_pods_by_the_runbook(
    consul: Consul, kubernetes: Kubernetes, folder: Path
) -> None:
    prod = Namespace(Cluster(kubernetes, await kubernetes.namespace("runbook-consul")))
    vms = [f"vm-{n}" for n in range(1, 5)]
    for number, vm in enumerate(vms, 1):
        body = {"ID": f"pay-{vm}", "Name": "pay", "Address": f"{VM}{number}", "Port": 8080}
        await consul.call("PUT", "/v1/agent/service/register", body)
        await prod.put("pay", Native(f"pod-{number}", f"{POD}{number}", 8080))
    stopped: list[str] = []

    def stands(vms: int, pods: int) -> Seen:
        async def seen() -> bool:
            found = await consul.call("GET", "/v1/health/service/pay")
            there = [one["Service"]["Address"] for one in found]
            return [sum(one.startswith(net) for one in there) for net in (VM, POD)] == [vms, pods]

        return seen

    seen = {
        "Before anything moves": stands(4, 0),
        "The first step": stands(4, 1),
        "Further steps": stands(4, 4),
        "When a step fails": stands(4, 4),
        "The machines leave": stands(0, 4),
        "The end": stands(0, 4),
    }
    places = {"consul": {"address": consul.url, "datacenters": [consul.datacenter]}, "prod": prod.block}
    environment = {"CONSUL": consul.url}
    page = read(RUNBOOKS / "consul.md")
    await moved(page, folder, places, consul_machines(stopped), seen, environment, consumers=["kratos"])
    assert stopped == vms


async def test_kratos_on_etcd_leaves_for_pods_by_the_runbook(
    etcd_store: EtcdStore, kubernetes: Kubernetes, folder: Path
) -> None:
    old = Corner("kratos", etcd_store, "runbook")
    prod = Namespace(Cluster(kubernetes, await kubernetes.namespace("runbook-kratos")))
    await fill(old, prod, "pay", 3, 2)
    async with reading(old) as reader:
        seen = {
            "Before anything moves": has(reader, "pay", 3, 0),
            "The first step": has(reader, "pay", 3, 2, 0.05),
            "Further steps": has(reader, "pay", 3, 2, 0.25),
            "When a step fails": has(reader, "pay", 3, 2, 0.95),
            "The machines leave": has(reader, "pay", 0, 2),
            "The end": has(reader, "pay", 0, 2),
        }
        places = {"etcd": old.block, "prod": prod.block}
        await moved(read(RUNBOOKS / "kratos-on-etcd.md"), folder, places, stopping(old, "pay"), seen, settle=0)


async def test_dubbo_on_zookeeper_leaves_for_pods_by_the_runbook(zookeeper_store: ZooKeeperStore, folder: Path) -> None:
    service = "com.acme.Pay"
    old, new = (Corner("dubbo2", zookeeper_store, name) for name in ("runbook-machines", "runbook-pods"))
    await fill(old, new, service, 3, 1)
    async with reading(old) as reader:
        seen = {
            "Before anything moves": has(reader, service, 3, 0),
            "The first step": has(reader, service, 3, 1, 0.01),
            "Further steps": has(reader, service, 3, 1, 0.05),
            "When a step fails": has(reader, service, 3, 1),
            "The machines leave": has(reader, service, 0, 1),
            "The end": has(reader, service, 0, 1),
        }
        places = {"machines": old.block, "pods": new.block}
        await moved(read(RUNBOOKS / "dubbo-on-zookeeper.md"), folder, places, stopping(old, service), seen, settle=0)


async def test_spring_on_eureka_leaves_for_pods_by_the_runbook(
    eureka: Eureka, kubernetes: Kubernetes, folder: Path
) -> None:
    old = Applications(eureka)
    prod = Namespace(Cluster(kubernetes, await kubernetes.namespace("runbook-eureka")))
    await fill(old, prod, "pay", 4, 4)
    async with reading(old) as reader:
        seen = {
            "Before anything moves": has(reader, "pay", 4, 0),
            "The first step": has(reader, "pay", 4, 1),
            "Further steps": has(reader, "pay", 4, 4),
            "When a step fails": has(reader, "pay", 4, 4),
            "The machines leave": has(reader, "pay", 0, 4),
            "The end": has(reader, "pay", 0, 4),
        }
        places, environment = {"eureka": old.block, "prod": prod.block}, {"EUREKA": eureka.url}
        page = read(RUNBOOKS / "spring-on-eureka.md")
        await moved(page, folder, places, stopping(old, "pay"), seen, environment, settle="1s")


async def test_the_bridge_ends_by_its_runbook_and_leaves_nothing(etcd: Etcd, folder: Path) -> None:
    page = read(RUNBOOKS / "end.md")
    inventory = Inventory(folder / "inventory")
    inventory.write({f"{VM}1": {}, f"{VM}2": {}}, 8080)
    places: dict[str, dict[str, Any]] = {"inventory": inventory.block, "core": {"endpoints": [etcd.url]}}
    made = bridge(folder, page, places)

    async def machine(host: str, words: list[str]) -> None:
        assert (host, words) == ("bridge-1", ["systemctl", "disable", "--now", "isthmus"])
        await made.stop()

    async with made, shell(folder, {"ISTHMUS_FILE": str(made.file)}, machine) as at:
        await until(made.rests, "everything is written")
        await followed(page, at, {})


def test_every_runbook_has_a_test_here() -> None:
    text = Path(__file__).read_text()
    pages = sorted(path.name for path in RUNBOOKS.glob("*.md"))
    assert len(pages) == 5 and [name for name in pages if f'"{name}"' not in text] == []
