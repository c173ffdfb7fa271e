"""A service moves behind a real Envoy under a steady load, through a fault at each step, and back: no request fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import provided
from tests.dataplanes.estate import SERVICE
from tests.kit.load import Load, answers, backends, load, over_http
from tests.kit.metered import ERRORS, metered
from tests.kit.proxy import Proxy
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.migration.estate import Estate, act, reaches, row
from tests.servers import ports
from tests.servers.envoy import Envoy
from tests.servers.etcd import Etcd
from tests.servers.prometheus import Prometheus

WITHIN = 120.0  # seconds: locks of daemons that were killed run out meanwhile


class Site(NamedTuple):
    """A bridge of two daemons: one proxy follows the first of them, under load. `seat`, `book`: ways that can be cut.

    `book`: a registry that is a place as well; `seat`: the first daemon's way to the record of migrations.
    """

    folder: Path
    estate: Estate
    vms: Sequence[str]
    pods: Sequence[str]
    steps: Sequence[int]
    bridge: Bridge
    second: Bridge
    load: Load
    port: int
    seat: Proxy
    book: Proxy

    def say(self, vms: Sequence[str] | None = None, pods: Sequence[str] | None = None) -> None:
        """What both sides have; all, where nothing is said."""
        self.estate.vms.write({one: {} for one in (self.vms if vms is None else vms)}, self.port)
        self.estate.pods.write({one: {} for one in (self.pods if pods is None else pods)}, self.port)

    async def share(self) -> float:
        """The percent of the next requests that pods answer."""
        answered = await self.load.more(600)
        return 100 * sum(count for who, count in answered.items() if who in self.pods) / answered.total()

    async def has(self, percent: float) -> None:
        """Waits until the share of requests is that, within 2 points."""

        async def measured() -> bool:
            return abs(await self.share() - percent) <= 2

        await until(measured, f"{percent} % of the requests go to pods", within=WITHIN)

    async def waits(self, word: str) -> None:
        """Waits until the move says that it waits, and the reason has that word."""

        async def said() -> bool:
            return word in (await row(self.bridge)).get("why", "")

        await until(said, f"it waits for {word}", within=WITHIN)

    async def reaches(self, step: int) -> None:
        """The step has begun, and everybody follows it."""
        await reaches(self.bridge, "shift", step, within=WITHIN)

    async def taken(self) -> list[float]:
        """The shares of the steps forward that were taken since the last start, as the journals of both daemons say."""
        rows = [row for one in (self.bridge, self.second) for row in await journal(one)]
        said = [row["reason"].partition(": ")[2] for row in sorted(rows, key=lambda row: float(row["at"]))]
        last = max(at for at, text in enumerate(said) if text.startswith("observe"))
        shares = [float(text.split()[1]) for text in said[last:] if text.startswith("shift, ")]
        return [share for share, _ in groupby(shares)]  # a pause and its end are told as well


async def journal(one: Bridge) -> list[dict[str, Any]]:
    """What a daemon wrote down of migrations."""
    ran = await one.isthmus("log", "--service", SERVICE, "-o", "json")
    assert ran.code == 0, ran.err
    return [row for row in ran.json if row["kind"] == "migration"]


# -- faults: what goes wrong at a step, what is seen of it, and how it ends -------------------------------------------


async def killed(at: Site, step: int) -> None:
    """The daemon that the proxy follows: the other one moves the steps from now on."""
    await at.bridge.kill()
    await at.load.more(100)
    await at.bridge.start()


async def cut(at: Site, step: int) -> None:
    """Who moves the steps goes on without a daemon that cannot read the record: it keeps the last share it read."""
    at.seat.drop()
    await until(lambda: "what=migrations" in at.bridge.log, "the record is out of reach", within=WITHIN)
    await reaches(at.second, "shift", step + 1, within=WITHIN)
    await at.has(at.steps[step - 1])
    await at.seat.heal()
    await at.seat.cut()


async def taken_over(at: Site, step: int) -> None:
    """After `killed` the other daemon moves the steps: now the first one has to."""
    await at.second.kill()
    await at.reaches(step + 1)
    await at.second.start()


async def dark(at: Site, step: int) -> None:
    """The new side does not answer: the step waits, and what was known of it serves. Before that Envoy counted."""
    for one in (at.bridge, at.second):
        await until(partial(_counts, one, at.steps[step - 1]), "the share that Envoy counts is shown", within=WITHIN)
    folder = at.estate.pods.folder
    folder.rename(at.folder / "away")
    await at.waits("pods")
    await at.has(at.steps[step - 1])
    (at.folder / "away").rename(folder)


async def emptied(at: Site, step: int) -> None:
    """The new side says that it has nothing: that is held, and the step waits."""
    at.say(pods=())
    await until(at.bridge.holds, "it is held", within=WITHIN)
    await at.waits("holds removals")
    await at.has(at.steps[step - 1])
    at.say()


async def refused(at: Site, step: int) -> None:
    """A place cannot be written: no further step."""
    await at.book.refuse()
    await at.waits("book")
    await at.book.accept()


async def paused(at: Site, step: int) -> None:
    """An operator pauses."""
    await act(at.bridge, "pause")
    await at.has(at.steps[step - 1])
    await act(at.bridge, "resume")


async def reloaded(at: Site, step: int) -> None:
    """The file changes at both daemons."""
    for one in (at.bridge, at.second):
        for link in one.links:
            link["guard"] = {**link["guard"], "confirm_event": "2s"}
        await one.hup()


async def frozen(at: Site, step: int) -> None:
    """Nothing may be written any more: the step waits."""
    assert (await at.bridge.isthmus("freeze", "--all", "--reason", "the test says so")).code == 0
    await at.waits("frozen")
    assert (await at.bridge.isthmus("unfreeze", "--all")).code == 0


Fault = Callable[[Site, int], Awaitable[None]]
FEW: Mapping[int, Fault] = {5: killed, 25: dark, 50: refused, 100: paused}
MANY: Mapping[int, Fault] = {
    10: killed, 20: cut, 30: taken_over, 40: dark, 50: emptied, 60: refused, 70: paused, 80: reloaded, 90: frozen,
    100: killed,
}  # fmt: skip


@asynccontextmanager
async def site(folder: Path, etcd: Etcd, instances: int, steps: Sequence[int]) -> AsyncIterator[Site]:
    """Everything runs, and all requests go to the old side."""
    xds, other, egress, admin, port = ports.reserve(5)
    vms, pods = ([f"127.0.{net}.{number}" for number in range(1, instances + 1)] for net in (1, 2))
    store = {"kind": "etcd", "layout": "kratos"}
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [xds, other, egress, admin, port])
        seat, book = [await stack.enter_async_context(Proxy(etcd.url.partition("//")[2])) for _ in range(2)]
        places: dict[str, dict[str, Any]] = {
            "mesh": {"kind": "xds", "listen": f"127.0.0.1:{xds}", "egress": f"127.0.0.1:{egress}"},
            "book": {**store, "prefix": "/book/", "endpoints": [f"http://{book.address}"]},
        }
        estate = Estate(folder, {**store, "prefix": "/seat/", "endpoints": [f"http://{seat.address}"]}, places)
        move: dict[str, Any] = {"steps": list(steps), "settle": 0, "envoys": [f"http://127.0.0.1:{admin}"]}
        first, second = (estate.bridge(name, **move) for name in ("first", "second"))
        second.registries["core"]["endpoints"] = [etcd.url]
        second.registries["mesh"]["listen"] = f"127.0.0.1:{other}"
        second.write()
        estate.vms.write({one: {} for one in vms}, port)
        estate.pods.write({one: {} for one in pods}, port)
        await stack.enter_async_context(backends(port, *vms, *pods))
        for one in (first, second):
            await stack.enter_async_context(one)
        printed = await first.isthmus("bootstrap", "envoy", "mesh", "--admin", f"127.0.0.1:{admin}")
        assert printed.code == 0, printed.err
        (folder / "envoy.yaml").write_text(printed.out)
        with provided():
            await stack.enter_async_context(Envoy(folder, folder / "envoy.yaml", admin))
        ask = await stack.enter_async_context(over_http(f"http://127.0.0.1:{egress}/", host=SERVICE))
        await until(lambda: answers(ask), "the first answer")
        running = await stack.enter_async_context(load(ask, workers=8))
        yield Site(folder, estate, vms, pods, steps, first, second, running, port, seat, book)
        assert not running.failed


async def goes(at: Site, faults: Mapping[int, Fault]) -> None:
    """All steps, with a fault at each: the share is right before it and after it, and no step is left out."""
    await act(at.bridge, "start")
    for step, (percent, fault) in enumerate(faults.items(), 1):
        await at.reaches(step)
        await at.has(percent)
        await fault(at, step)
    await at.has(100)
    assert await at.taken() == list(faults)


async def comes_back(at: Site) -> None:
    """And one in twenty of the machines stops on the way."""
    await act(at.bridge, "rollback")
    at.say(vms=at.vms[: len(at.vms) * 19 // 20])
    await reaches(at.bridge, "rolled back", within=WITHIN)
    await at.has(0)


async def test_no_request_fails_on_the_way_and_back_with_a_fault_at_each_step(folder: Path, etcd: Etcd) -> None:
    async with site(folder, etcd, 20, list(FEW)) as at:
        assert await at.share() == 0  # nothing of the new side before `start`
        await goes(at, FEW)
        await comes_back(at)


async def sickens(at: Site, step: int, stack: AsyncExitStack) -> None:
    """The block gets gates: while nobody answers the step waits, and a side that is sick goes back by itself."""
    counters = await stack.enter_async_context(metered())
    with provided():
        server = Prometheus(at.folder, [counters.scrape])
    query = {"name": "errors", "query": ERRORS, "fail_above": 0.05, "min_samples": 10, "interval": "1s"}
    asked: dict[str, Any] = {"url": f"http://{server.address}", "scrape": "200ms", "sides": {"from": "vm", "to": "k8s"}}
    asked |= {"requests": 'sum(increase(reqs_total{side="{{side}}"}[{{window}}]))', "queries": [query]}
    before = at.bridge.migrations[0]["gates"]
    await act(at.bridge, "pause")
    for one in (at.bridge, at.second):
        one.migrations[0]["gates"] = {**before, "prometheus": asked}
        await one.hup()
    await act(at.bridge, "apply")
    await act(at.bridge, "resume")
    await until(lambda: _is(at, waits="data"), "nobody answers what the gates ask", within=WITHIN)
    await at.has(at.steps[step - 1])
    counters.each = {("pay", "vm", "200"): 1000, ("pay", "k8s", "200"): 500, ("pay", "k8s", "500"): 500}
    await stack.enter_async_context(server)
    await until(lambda: _is(at, phase="rolled back"), "the sick side has nothing any more", within=WITHIN)
    await at.has(0)
    for one in (at.bridge, at.second):
        one.migrations[0]["gates"] = before
        await one.hup()


async def _counts(one: Bridge, percent: float) -> bool:
    requests = (await row(one)).get("requests")
    return requests is not None and abs(requests - percent) <= 2


async def _is(at: Site, **wanted: Any) -> bool:
    found = await row(at.bridge)
    return all(found.get(key) == value for key, value in wanted.items())


@pytest.mark.soak
async def test_two_hundred_instances_move_in_ten_steps_through_every_fault(folder: Path, etcd: Etcd) -> None:
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(site(folder, etcd, 200, list(MANY)))
        await act(at.bridge, "start")
        await at.reaches(3)
        await at.has(30)
        await sickens(at, 3, stack)
        await goes(at, MANY)
        await comes_back(at)
        print(f"{at.load.count} requests, {len(at.load.failed)} kinds of failures")
