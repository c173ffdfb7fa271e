"""Gates over a real Prometheus: no data holds a step, a healthy side goes on by itself, and a sick one goes back."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.conftest import provided
from tests.kit.ads import CLUSTER, Ads
from tests.kit.metered import ERRORS, REQUESTS, metered
from tests.kit.running import Bridge, isthmus
from tests.kit.waiting import until
from tests.migration.estate import Estate, act, row
from tests.servers import ports
from tests.servers.etcd import Etcd
from tests.servers.prometheus import Prometheus

VMS: dict[str, dict[str, Any]] = {f"192.0.2.{n}": {} for n in range(1, 5)}
PODS: dict[str, dict[str, Any]] = {f"198.51.100.{n}": {} for n in range(1, 5)}


def load(percent: int, sick: int = 0) -> dict[tuple[str, ...], int]:
    """So many requests at each scrape, by side and code."""
    new = ("pay", "k8s")
    return {("pay", "vm", "200"): 10 * (100 - percent), (*new, "200"): 10 * percent - sick, (*new, "500"): sick}


async def parity_takes_reports(made: Bridge, folder: Path) -> None:
    """What one host could not reach blocks; what it reached is no row any more."""
    lost, *reached = PODS
    report = {
        "link": "mesh", "from": "host-a", "at": time.time(), "answered": [f"{one}:80" for one in reached],
        "unreached": [{"address": lost, "port": 80, "reason": "no route"}],
    }  # fmt: skip
    (folder / "probe.json").write_text(json.dumps(report))
    words = ("migrate", "parity", "pay", "-f", str(made.file), "-o", "json")
    before = await isthmus(*words)
    after = await isthmus(*words, "--report", str(folder / "probe.json"))
    assert (before.code, after.code) == (0, 3), before.err + after.err
    reachable = [[row for row in one.json if row["what"] == "reachable"] for one in (before, after)]
    rows = [[(row["severity"], row["subjects"]) for row in some] for some in reachable]
    assert rows == [[("warn", sorted(PODS))], [("block", [lost])]]


async def who_was_seen_to_read_counts(made: Bridge) -> None:
    """Beside the kinds of clients that the file declares."""
    ran = await isthmus("migrate", "plan", "pay", "-f", str(made.file))
    assert "observed: gRPC with xds:/// reads mesh and follows within 0.5 s; not in `consumers`" in ran.out, ran
    (planned,) = await made.ask("migrate-plan", name="pay")
    assert planned["places"][0]["consumers"] == ["Envoy", "gRPC with xds:///"]


async def test_no_data_holds_a_healthy_side_goes_on_and_a_sick_one_goes_back(etcd: Etcd, folder: Path) -> None:
    (port,) = ports.reserve(1)
    seat = {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"}
    estate = Estate(folder, seat, {"mesh": {"kind": "xds", "listen": f"127.0.0.1:{port}"}})
    estate.vms.write(VMS, 80)
    estate.pods.write(PODS, 80)
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [port])
        with provided():
            counters = await stack.enter_async_context(metered())
            server = await stack.enter_async_context(Prometheus(folder, [counters.scrape]))
        query = {"name": "errors", "query": ERRORS, "fail_above": 0.05, "min_samples": 10, "interval": "1s"}
        asked = {
            "url": f"http://{server.address}", "scrape": "200ms", "sides": {"from": "vm", "to": "k8s"},
            "requests": REQUESTS, "queries": [query],
        }  # fmt: skip
        gates = {"hold_for": "0s", "approve": [], "parity": "warn", "prometheus": asked}
        made = await stack.enter_async_context(estate.bridge(steps=[20, 60, 100], gates=gates, consumers=["envoy"]))
        await until(made.rests, "everything is read")
        await parity_takes_reports(made, folder)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        client = await stack.enter_async_context(Ads(channel).delta("shop", agent="grpc-go"))
        await client.ask(CLUSTER)
        await client.told()
        await who_was_seen_to_read_counts(made)
        await act(made, "start")

        async def at(**wanted: Any) -> dict[str, Any]:
            async def there() -> dict[str, Any]:
                found = await row(made)
                return found if all(found.get(key) == value for key, value in wanted.items()) else {}

            found: dict[str, Any] = await until(there, str(wanted), every=0.2)
            return found

        async def codes() -> set[str]:
            return {one["code"] for one in (await made.ask("status"))["attention"]}

        await until(lambda: _says(made, "no series"), "there is no data")
        assert (await at(step=1, waits="data"))["code"] == 5
        await until(lambda: _has(codes, "migration-no-data"), "it is attention")
        counters.each = load(20)
        found = await at(step=2)
        counters.each = load(60)
        found = await at(step=2, requests=pytest.approx(60, abs=3))
        counters.each = load(60, sick=300)
        await until(lambda: _has(codes, "migration-failed"), "it goes back, which is attention")
        found = await at(phase="rolled back")
        assert found["code"] == 3 and "failed 3 looks in a row: 0.5 is above 0.05" in found["reason"]


async def _says(made: Bridge, text: str) -> bool:
    return text in (await row(made)).get("why", "")


async def _has(codes: Any, code: str) -> bool:
    return code in await codes()
