"""A daemon that begins without its state folder while a side is dark: it says so, and moves nothing of what stands."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from bridge.errors import IsthmusError
from tests.dataplanes.estate import Inventory
from tests.kit.natives import Etcd as Native
from tests.kit.proxy import Proxy
from tests.kit.running import Bridge, isthmus
from tests.kit.waiting import until
from tests.migration.estate import GUARD, act, reaches, row
from tests.servers.etcd import Etcd

BOOK = "/book/"
VMS = [f"192.0.2.{number}" for number in range(1, 5)]
PODS = [f"198.51.100.{number}" for number in range(1, 5)]


def bridge(folder: Path, etcd: Etcd, way: Proxy) -> Bridge:
    """Machines of a file, and pods of an etcd, lead to another part of that."""
    vms = Inventory(folder / "vms")
    vms.write({one: {} for one in VMS}, 9000, ports=[{"number": 9000, "name": "grpc", "protocol": "grpc"}])
    store = {"kind": "etcd", "layout": "kratos"}
    registries = {
        "vms": vms.block,
        "pods": {**store, "endpoints": [f"http://{way.address}"]},
        "book": {**store, "endpoints": [etcd.url], "prefix": BOOK},
    }
    link = {"from": ["pods", "vms"], "to": "book", "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
    made = Bridge(folder, registries, [link], seat="book")
    block = {"name": "pay", "services": ["*"], "from": ["vms"], "to": ["pods"], "at": ["book"], "consumers": ["kratos"]}
    gates = {"hold_for": "0s", "approve": [], "parity": "warn"}
    made.migrations = [{**block, "steps": [25, 75, 100], "settle": 0, "gates": gates}]
    made.write()
    return made


@asynccontextmanager
async def estate(folder: Path, etcd: Etcd) -> AsyncIterator[tuple[Bridge, Proxy, Native]]:
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(Proxy(etcd.address))
        native = await stack.enter_async_context(Native(etcd.address))
        for one in PODS:
            await native.register("pay", one, one)
        made = await stack.enter_async_context(bridge(folder, etcd, way))
        await until(made.rests, "everything is read")
        yield made, way, native


async def stands(native: Native) -> dict[str, int]:
    """What is at the place, and when it was written last."""
    return {kv.key.decode(): kv.mod_revision for kv in await native.below(BOOK)}


async def test_a_cold_daemon_with_a_dark_side_moves_nothing_and_says_why(etcd: Etcd, folder: Path) -> None:
    async with estate(folder, etcd) as (made, way, native):
        await act(made, "start")
        before = await reaches(made, "shift", 2)
        stood = await stands(native)
        assert len(stood) == len(VMS) + len(PODS)
        await made.kill()
        await way.refuse()
        shutil.rmtree(made.state)
        await made.start(ready=False)

        async def waits() -> dict[str, Any]:
            found = await row(made)
            return found if found.get("waits") == "trouble" and (await made.link()).get("role") == "writer" else {}

        found = await until(waits, "it is paused")
        assert "pods has not answered since this daemon began" in found["why"] and found["code"] == 4
        planned = await isthmus("migrate", "plan", "pay", "-f", made.file)
        assert planned.code == 5 and "NOT ALL IS KNOWN: pods has not answered" in planned.err, planned
        for verb in ("back", "rollback"):
            (said,) = await made.ask("migrate", verb=verb, name="pay", reason="r")
            assert said["code"] == 1 and "what a step comes to is not known here" in said["text"]
        await until(lambda: _attention(made), "an operator is told")
        assert await stands(native) == stood and (await row(made))["number"] == before["number"]

        await way.accept()
        await reaches(made, "shift", 3)
        assert (await isthmus("migrate", "plan", "pay", "-f", made.file)).code == 0


async def test_everything_goes_back_at_once_where_the_new_side_is_dark_and_unknown(etcd: Etcd, folder: Path) -> None:
    async with estate(folder, etcd) as (made, way, native):
        await act(made, "start")
        await reaches(made, "shift", 2)
        await made.kill()
        await way.refuse()
        shutil.rmtree(made.state)
        await made.start(ready=False)
        await until(lambda: _attention(made), "an operator is told")
        await act(made, "rollback", now=True)
        found = await row(made)
        assert (found["phase"], found["share"]) == ("rolling back", 0)
        await way.accept()
        await reaches(made, "rolled back")
        await until(lambda: _old_alone(native), "the machines alone are there")


async def _attention(made: Bridge) -> bool:
    with suppress(IsthmusError):  # it does not answer yet
        found = [one for one in (await made.ask("status"))["attention"] if one["code"] == "migration-waits"]
        return any("pods has not answered" in one["text"] for one in found)
    return False


async def _old_alone(native: Native) -> bool:
    return {key.rpartition("/")[2] for key in await stands(native)} == set(VMS)
