"""A stock gRPC client that dials `xds:///NAME` sees the steps of a move, and back, and no call fails."""

from __future__ import annotations

from contextlib import AsyncExitStack
from math import sqrt
from pathlib import Path

from tests.dataplanes.estate import SERVICE
from tests.kit.over_grpc import Client, client, servers
from tests.kit.waiting import until
from tests.migration.estate import Estate, act, reaches
from tests.servers import ports
from tests.servers.etcd import Etcd

VMS = tuple(f"127.0.3.{number}" for number in range(1, 7))
PODS = tuple(f"127.0.4.{number}" for number in range(1, 4))
STEPS = [10, 50, 100]
CALLS = 300
DEVIATIONS = 4  # it draws for each call: one test in 16,000 is further off by chance


async def is_near(calls: Client, percent: float) -> bool:
    """Whether the next calls have that share, as far as chance goes: nothing and everything are exact."""
    share, answered = percent / 100, await calls.more(CALLS)
    count = answered.total()
    new = sum(answered[one] for one in PODS)
    return abs(new - share * count) <= DEVIATIONS * sqrt(count * share * (1 - share))


async def has(calls: Client, percent: float) -> None:
    """The client follows, and what it calls then has the share at the first look."""

    async def follows() -> bool:
        return await is_near(calls, percent)

    await until(follows, f"{percent} % of the calls go to pods")
    assert await is_near(calls, percent)


async def test_a_grpc_client_sees_each_step_within_chance_and_back(etcd: Etcd, folder: Path) -> None:
    xds, port = ports.reserve(2)
    seat = {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"}
    estate = Estate(folder, seat, {"mesh": {"kind": "xds", "listen": f"127.0.0.1:{xds}"}})
    spoken = {"ports": [{"number": port, "name": "grpc", "protocol": "grpc"}]}
    estate.vms.write({one: {} for one in VMS}, port, **spoken)
    estate.pods.write({one: {} for one in PODS}, port, **spoken)
    made = estate.bridge(steps=STEPS, consumers=["grpc"], settle=0)
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [xds, port])
        await stack.enter_async_context(servers(port, *VMS, *PODS))
        await stack.enter_async_context(made)
        printed = await made.isthmus("bootstrap", "grpc", "mesh")
        assert printed.code == 0, printed.err
        (folder / "grpc.json").write_text(printed.out)
        calls = await stack.enter_async_context(client(folder / "grpc.json", SERVICE, threads=4))
        await has(calls, 0)
        await act(made, "start")
        for step, percent in enumerate(STEPS, 1):
            await reaches(made, "shift", step)
            await has(calls, percent)
        await act(made, "rollback")
        await reaches(made, "rolled back")
        await has(calls, 0)
        assert not calls.failed
