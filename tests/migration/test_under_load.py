"""A service moves behind a real Envoy under a steady load, through a fault at each step, and back: no request fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.conftest import provided
from tests.dataplanes.estate import SERVICE
from tests.kit.load import Load, answers, backends, load, over_http
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.migration.estate import Estate, act, reaches, row
from tests.servers import ports
from tests.servers.envoy import Envoy
from tests.servers.etcd import Etcd

VMS = tuple(f"127.0.1.{number}" for number in range(1, 21))
PODS = tuple(f"127.0.2.{number}" for number in range(1, 11))
STEPS = [5, 25, 50, 100]


class Site(NamedTuple):
    """The estate behind one proxy, under load."""

    estate: Estate
    bridge: Bridge
    load: Load
    port: int

    def say(self, vms: tuple[str, ...] = VMS, pods: tuple[str, ...] = PODS) -> None:
        self.estate.vms.write({one: {} for one in vms}, self.port)
        self.estate.pods.write({one: {} for one in pods}, self.port)

    async def share(self) -> float:
        """The percent of the next requests that pods answer."""
        answered = await self.load.more(600)
        return 100 * sum(count for who, count in answered.items() if who in PODS) / answered.total()

    async def has(self, percent: float) -> None:
        """Waits until the share of requests is that, within 2 points."""

        async def measured() -> bool:
            return abs(await self.share() - percent) <= 2

        await until(measured, f"{percent} % of the requests go to pods", within=60)


@asynccontextmanager
async def site(folder: Path, etcd: Etcd) -> AsyncIterator[Site]:
    xds, egress, admin, port = ports.reserve(4)
    mesh = {"kind": "xds", "listen": f"127.0.0.1:{xds}", "egress": f"127.0.0.1:{egress}"}
    seat = {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"}
    estate = Estate(folder, seat, {"mesh": mesh})
    estate.vms.write({one: {} for one in VMS}, port)
    estate.pods.write({one: {} for one in PODS}, port)
    made = estate.bridge(steps=STEPS)
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [xds, egress, admin, port])
        await stack.enter_async_context(backends(port, *VMS, *PODS))
        await stack.enter_async_context(made)
        printed = await made.isthmus("bootstrap", "envoy", "mesh", "--admin", f"127.0.0.1:{admin}")
        assert printed.code == 0, printed.err
        (folder / "envoy.yaml").write_text(printed.out)
        with provided():
            await stack.enter_async_context(Envoy(folder, folder / "envoy.yaml", admin))
        ask = await stack.enter_async_context(over_http(f"http://127.0.0.1:{egress}/", host=SERVICE))
        await until(lambda: answers(ask), "the first answer")
        running = await stack.enter_async_context(load(ask, workers=8))
        yield Site(estate, made, running, port)
        assert not running.failed


async def test_no_request_fails_on_the_way_and_back_with_a_fault_at_each_step(folder: Path, etcd: Etcd) -> None:
    async with site(folder, etcd) as at:
        assert await at.share() == 0  # nothing of the new side before `start`
        await act(at.bridge, "start")
        await reaches(at.bridge, "shift", 1)
        await at.has(5)
        await at.bridge.kill()  # and the step goes on where it was
        await at.load.more(100)
        await at.bridge.start()
        await reaches(at.bridge, "shift", 2)
        await at.has(25)
        at.estate.pods.folder.rename(folder / "away")  # the new side is dark: the step waits

        async def waits() -> bool:
            return "pods" in (await row(at.bridge)).get("why", "")

        await until(waits, "the dark side is seen")
        await at.has(25)
        (folder / "away").rename(at.estate.pods.folder)
        await reaches(at.bridge, "shift", 3)
        await at.has(50)
        await act(at.bridge, "pause")
        await at.has(50)
        await act(at.bridge, "resume")
        await reaches(at.bridge, "shift", 4)
        await at.has(100)
        await act(at.bridge, "rollback")
        at.say(vms=VMS[:19])  # one of twenty stops on the way back
        await reaches(at.bridge, "rolled back")
        await at.has(0)
