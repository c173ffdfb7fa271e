"""Rows of migrations: what a step costs at an export, what a move that runs costs others, and a plan of very many.

`python -m tests.bench.moving STORE ADDRESS` is the raw arm of the first: somebody changes weights by hand, in one key
of the same store, and the smallest control plane there is serves them.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3 import discovery_pb2 as discovery

from bridge.admin.client import call
from bridge.errors import IsthmusError
from tests.bench import machine
from tests.bench.asked import NO_GOAL
from tests.bench.figures import P50, ratio
from tests.bench.latency import ARMS, INSTANCES, REST, Driven
from tests.bench.records import Native, lots
from tests.bench.sides import Side, kind
from tests.bench.sides.xds import OPTIONS, TYPE, Xds, address_of, subscribed
from tests.bench.stage import LOT, Bridge, Stage, Watcher, populate
from tests.bench.table import Row
from tests.kit.waiting import until
from tests.servers.process import Process

VMS, PODS, BY_HAND = "/bench/vms/", "/bench/pods/", "/bench/weights/"
NETS = {VMS: "10.1", PODS: "10.2"}
SIDE = 200  # instances of each side of the service that is moved
STEPS = [10, 20, 30, 40, 50, 100]
SERVICE = "move-000"
PATIENCE = 120.0
APART = 1.2  # seconds between two steps at least


def natives(prefix: str, service: str, count: int) -> Iterable[Native]:
    for number in range(count):
        host = f"{NETS[prefix]}.{number >> 8}.{number & 255}"
        yield Native(service, f"{service}-{host.replace('.', '-')}", host, "v1", {})


@asynccontextmanager
async def sides(stage: Stage, services: int, count: int) -> AsyncIterator[None]:
    """So many services, each with `count` instances at both sides, for as long as the block runs."""
    async with AsyncExitStack() as stack:
        for prefix in NETS:
            side = await stack.enter_async_context(stage.reading(prefix))
            some = (one for number in range(services) for one in natives(prefix, f"move-{number:03d}", count))
            for lot in lots(((f"{one.service}/{one.id}", side.encode(one)) for one in some), LOT):
                await side.register(lot)
        yield


def moving(ours: Bridge, stage: Stage) -> Bridge:
    """The bridge with a migration beside whatever else it does."""
    blocks = {one: kind(stage.pair.source).block(stage.source.address, prefix) for one, prefix in _SIDES.items()}
    link = {"from": ["pods", "vms"], "to": "target", "policy": "sync", "services": {"include": ["move-*"]}}
    ours.written["bridge"]["seat"] = "source"
    ours.written["registries"] |= blocks
    ours.written["links"].append({**link, "name": "moving", **kind(stage.pair.target).LINK})
    gates = {"hold_for": "0s", "approve": [], "parity": "warn"}
    move = {"name": "pay", "services": ["move-*"], "from": ["vms"], "to": ["pods"], "at": ["target"], "settle": 0}
    ours.written["migrations"] = [{**move, "steps": STEPS, "gates": gates}]
    return ours


_SIDES = {"vms": VMS, "pods": PODS}


class Move:
    """One move of a daemon, as its commands have it, and as a watch of the store tells of its record.

    The daemon is not asked for its status all the time: that would be measured as well.
    """

    def __init__(self, ours: Bridge, stage: Stage) -> None:
        self._socket = ours.state / "admin.sock"
        self._stage = stage
        self._place = f"/isthmus/note/{ours.process.name}/key:"
        self._states: list[Mapping[str, Any]] = []
        self._said: dict[float, float] = {}
        self._news = asyncio.Event()

    async def watch(self) -> None:
        """Never returns; `reaches` and `said` need it."""
        async with self._stage.reading(self._place) as notes:
            async for changes in notes.follow():
                now = time.perf_counter()
                for path, value in changes:
                    if path == "migrations" and value is not None:
                        self._states = [one["state"] for one in json.loads(value)["moves"].values()]
                        self._said = {one["share"]: now for one in self._states if "share" in one} | self._said
                self._news.set()

    async def act(self, verb: str, **said: Any) -> None:
        done = await self._ask("migrate", verb=verb, name="pay", reason="bench", **said)
        assert {one["code"] for one in done} == {0}, done

    async def reaches(self, step: int) -> None:
        """The step has settled; says `next` until it is there."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._news.clear()
                settled = [one["step"] for one in self._states if one["phase"] == "shift" and "settled" in one]
                if settled and set(settled) == {step}:
                    return
                if settled and max(settled) < step and not any(one.get("approved") for one in self._states):
                    await self.act("next")
                await self._news.wait()

    async def said(self, share: float) -> float:
        """When the store first told of a step with that share (perf_counter), since `forget`."""
        async with asyncio.timeout(PATIENCE):
            while share not in self._said:
                self._news.clear()
                await self._news.wait()
        return self._said[share]

    def forget(self) -> None:
        """What was said until now."""
        self._said.clear()

    async def rests(self) -> bool:
        """Whether every source is heard, and every change is written that may be."""
        try:
            now = await self._ask("status")
        except IsthmusError:
            return False
        heard = all(row["state"] == "synced" for row in now["scopes"])
        return heard and not any(row["lag"] for row in now["links"])

    async def plan(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = await self._ask("migrate-plan", name="pay")
        return found

    async def _ask(self, command: str, **said: Any) -> Any:
        return await asyncio.to_thread(call, self._socket, command, **said)


# -- a step at an export ---------------------------------------------------------------------------------------------


class Told:
    """A data plane that is told of the service: the share of the new side as it has it, in percent."""

    def __init__(self, address: str) -> None:
        self.share = -1.0
        self._address = address
        self._news = asyncio.Event()

    async def run(self) -> None:
        async with grpc.aio.insecure_channel(self._address, OPTIONS) as channel:
            stream: Any = subscribed(channel)
            await stream.write(
                discovery.DeltaDiscoveryRequest(node={"id": "b"}, type_url=TYPE, resource_names_subscribe=[SERVICE])
            )
            while (response := await stream.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                for one in response.resources:
                    self.share = _share(one.resource.value)
                self._news.set()
                await stream.write(discovery.DeltaDiscoveryRequest(type_url=TYPE, response_nonce=response.nonce))

    async def has(self, share: float) -> float:
        """Waits for it, within half a point; when that was (perf_counter)."""
        async with asyncio.timeout(PATIENCE):
            while abs(self.share - share) > 0.5:
                self._news.clear()
                await self._news.wait()
        return time.perf_counter()


def _share(body: bytes) -> float:
    """Of the weights of one assignment; a locality's share is that of its weight."""
    weights = dict.fromkeys(NETS.values(), 0.0)
    for locality in ClusterLoadAssignment.FromString(body).endpoints:
        whole = sum(each.load_balancing_weight.value for each in locality.lb_endpoints) or 1
        for each in locality.lb_endpoints:
            net = each.endpoint.address.socket_address.address[:4]
            weights[net] += locality.load_balancing_weight.value * each.load_balancing_weight.value / whole
    return 100 * weights[NETS[PODS]] / (sum(weights.values()) or 1)


class ByHand(Xds):
    """The raw arm: one service, whose weights somebody says in one key."""

    async def weigh(self, share: int) -> None:
        if self._server is None:
            await self._serve()
        made = ClusterLoadAssignment(cluster_name=SERVICE)
        for prefix, part in ((VMS, 100 - share), (PODS, share)):
            group = made.endpoints.add()
            group.locality.zone = prefix
            group.load_balancing_weight.value = max(1, part)
            for one in natives(prefix, SERVICE, SIDE):
                endpoint = group.lb_endpoints.add()
                endpoint.endpoint.address.socket_address.address = one.host
                endpoint.endpoint.address.socket_address.port_value = 8080
                endpoint.load_balancing_weight.value = max(1, part)
        self._made = discovery.Resource(name=SERVICE, version=str(share))
        self._made.resource.type_url, self._made.resource.value = TYPE, made.SerializeToString()
        self._served[SERVICE] = {}
        body = discovery.DeltaDiscoveryResponse(type_url=TYPE, nonce="1", resources=[self._made]).SerializeToString()
        for context in list(self._streams):
            await self._send(context, body)

    def _resource(self, service: str) -> discovery.Resource:
        return self._made


async def step(stage: Stage, rounds: int) -> list[Row]:
    """One step of ours, and the same weights by hand: until a data plane is told of the last of them.

    Ours begins with the command of a person: the daemon writes down that he has said so (one compared write of the
    store), the engine looks at both sides and writes the step down (another one), each of 400 instances is planned,
    compared and journaled. By hand one key is put, and the smallest control plane sends what it has in memory. A second
    row is of both from the moment that a watch of the store tells of it. Steps are as far apart as an export needs to
    tell uneven weights at once (a second): real ones are minutes apart.
    """
    blocks, later = [], []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(sides(stage, 1, SIDE))
        hand = await stack.enter_async_context(stage.reading(BY_HAND))
        raw = stage.child("by-hand")
        stack.push_async_callback(raw.kill)
        await _start(raw, stage)
        ours = await stack.enter_async_context(moving(stage.bridge(ARMS[0]), stage))
        await ours.start()
        told = [Told(address_of(stage.target.address, arm)) for arm in ARMS[:2]]
        move, put = Move(ours, stage), Put(stage)
        tasks = [asyncio.create_task(one) for one in (*(each.run() for each in told), move.watch(), put.watch())]
        stack.callback(lambda: [task.cancel() for task in tasks])
        await told[0].has(0)
        await move.act("start")
        for _ in range(rounds):
            for before, share in enumerate(STEPS[1:-1], 1):
                await move.reaches(before)
                await asyncio.sleep(APART)
                move.forget()
                began = time.perf_counter()
                await move.act("next")
                ended = await told[0].has(share)
                begun = time.perf_counter()
                await hand.put("weights", b"%d" % share)
                done = await told[1].has(share)
                blocks.append(([ended - began], [done - begun]))
                later.append(([ended - await move.said(share)], [done - await put.said(share)]))
            await move.reaches(len(STEPS) - 1)
            await move.act("back", to=STEPS[0], now=True)
            await told[0].has(STEPS[0])
    name = "a step at an export, until a data plane has it"
    return [_row(name, blocks, 1.5), _row(f"{name}: from the store's word", later, NO_GOAL)]


def _row(name: str, blocks: list[tuple[list[float], list[float]]], limit: float) -> Row:
    found = [[1000 * block[arm][0] for block in blocks] for arm in (0, 1)]
    about = {"instances": 2 * SIDE, "steps": len(blocks), "ours_ms": found[0], "raw_ms": found[1]}
    both = {"ours": P50(found[0]), "raw": P50(found[1]), "ratio": ratio(blocks, P50)}
    return Row(name=name, unit="ms", limit=limit, about=about, **both)  # type: ignore[arg-type]


class Put:
    """When the store told of each share that was put by hand."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._said: dict[int, float] = {}
        self._news = asyncio.Event()

    async def watch(self) -> None:
        """Never returns."""
        async with self._stage.reading(BY_HAND) as weights:
            async for changes in weights.follow():
                now = time.perf_counter()
                self._said |= {int(value): now for _, value in changes if value is not None}
                self._news.set()

    async def said(self, share: int) -> float:
        """When that was (perf_counter); once for each time."""
        async with asyncio.timeout(PATIENCE):
            while share not in self._said:
                self._news.clear()
                await self._news.wait()
        return self._said.pop(share)


async def _start(raw: Process, stage: Stage) -> None:
    async def ready() -> bool:
        return b"ready\n" in raw.log.read_bytes()

    address = address_of(stage.target.address, ARMS[1])
    await raw.start([sys.executable, "-m", "tests.bench.moving", stage.source.address, address], ready)


async def by_hand(store: str, address: str) -> None:
    """The raw arm, for ever."""
    async with kind("etcd").open(store, BY_HAND) as weights, ByHand(address) as plane:
        await plane.weigh(0)
        print("ready", flush=True)
        async for changes in weights.follow():
            for _, value in changes:
                if value is not None:
                    await plane.weigh(int(value))


# -- what others notice, and a plan of many --------------------------------------------------------------------------


async def beside(stage: Stage, seconds: float, rng: random.Random) -> list[Row]:
    """The latency of other services at a bridge that moves one, beside one that moves nothing, twice.

    It steps up and down without an end, about once in a second and a half, each time all of its 200 instances at both
    sides; a real one does that every few minutes.
    """
    driven = Driven(ARMS)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(sides(stage, 1, SIDE))
        sources: dict[str, Side] = {}
        bridges = []
        for prefix in ARMS:
            sources[prefix] = await stack.enter_async_context(stage.reading(prefix))
            target = await stack.enter_async_context(stage.writing(prefix))
            watcher = await stack.enter_async_context(Watcher(target, driven.arrived(prefix)))
            ours = stage.bridge(prefix)
            bridges.append(await stack.enter_async_context(moving(ours, stage) if prefix == ARMS[0] else ours))
            await populate(sources[prefix], INSTANCES)
            await bridges[-1].start()
            await watcher.until(lambda watcher=watcher: len(watcher.marks) >= INSTANCES)  # type: ignore[misc]
        move = Move(bridges[0], stage)
        watching = asyncio.create_task(move.watch())
        await move.act("start")
        await move.reaches(1)
        await asyncio.sleep(REST)
        steps: list[int] = []
        turning = asyncio.create_task(_turn(move, steps))
        before = [machine.cpu(one.process.pid) for one in bridges]
        await driven.drive(sources, seconds, rng)
        spent = [machine.cpu(one.process.pid) - then for one, then in zip(bridges, before, strict=True)]
        assert not turning.done()
        turning.cancel()
        watching.cancel()
    each = 1000 * (spent[0] - (spent[1] + spent[2]) / 2) / len(steps)
    about = {"steps": len(steps), "cpu_seconds": spent, "changes": 2 * SIDE}
    cost = Row(name="CPU of a step beside that of bridging", unit="ms", ours=each, limit=NO_GOAL, about=about)
    return [*driven.rows("latency of others beside a migration", 1.05, float("inf")), cost]


async def _turn(move: Move, steps: list[int]) -> None:
    """Up and down, without an end; each step is noted in `steps`."""
    while True:
        await move.reaches(2)
        steps.append(2)
        await asyncio.sleep(APART)
        await move.act("back", to=STEPS[0], now=True)
        await move.reaches(1)
        steps.append(1)
        await asyncio.sleep(APART)


async def plan(stage: Stage, services: int, rounds: int) -> list[Row]:
    """The plan of a migration of many services with a hundred instances each."""
    count = 50
    async with sides(stage, services, count), moving(stage.bridge(ARMS[0]), stage) as ours:
        await ours.start()
        move = Move(ours, stage)

        await until(move.rests, "everything is read and served", within=PATIENCE, every=1.0)
        found = await move.plan()
        assert len(found) == services and all(row["places"][0]["to"] == count for row in found)
        spent, used = [], []
        for _ in range(rounds):
            began, before = time.perf_counter(), machine.cpu(ours.process.pid)
            await move.plan()
            spent.append(time.perf_counter() - began)
            used.append(machine.cpu(ours.process.pid) - before)
    about = {"services": services, "instances": 2 * services * count, "seconds": spent, "cpu_seconds": used}
    name = f"plan of {services:,} services"
    return [
        Row(name=name, unit="s", ours=P50(spent), limit=2.0, about=about),
        Row(name=f"{name}: CPU of the daemon meanwhile", unit="s", ours=P50(used), limit=NO_GOAL, about=about),
    ]


if __name__ == "__main__":
    asyncio.run(by_hand(*sys.argv[1:]))
