"""A batch of natives is over once nobody calls what left, as a real Prometheus and a real Envoy count."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import provided
from tests.kit.load import backends, over_http
from tests.kit.metered import BY_NODE, REQUESTS, Metered, metered
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.migration.estate import act, reaches, row
from tests.migration.steering import PODS, VMS, Estate, Machines
from tests.servers import ports
from tests.servers.envoy import Envoy
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.prometheus import Prometheus

HOSTS = [f"127.0.4.{number}" for number in range(1, 4)]  # where something really answers


async def seen(made: Bridge, move: str, text: str, **wanted: Any) -> dict[str, Any]:
    """The move once it waits for that, with these values."""

    async def there() -> dict[str, Any]:
        found = await row(made, move)
        is_so = text in found.get("why", "") and all(found.get(key) == value for key, value in wanted.items())
        return found if is_so else {}

    found: dict[str, Any] = await until(there, f"{text} {wanted}", within=60.0)
    return found


def out(found: Mapping[str, Any]) -> list[str]:
    return list(found["steered"]["legacy"])


class Counted(NamedTuple):
    """A migration from machines of Eureka's, whose gate asks Prometheus for the requests that `counters` says."""

    estate: Estate
    machines: Machines
    made: Bridge
    counters: Metered
    server: Prometheus


@asynccontextmanager
async def counted(folder: Path, etcd: Etcd, eureka: Eureka, hosts: list[str], requests: str) -> AsyncIterator[Counted]:
    """It is ready to start. `requests`: the query."""
    estate = Estate(folder, etcd, {"kind": "eureka", "urls": [eureka.url], "poll": "200ms"}, "pay")
    machines = Machines(eureka, hosts)
    await machines.register()
    estate.pods.write({one: {} for one in PODS}, 8080)
    async with AsyncExitStack() as stack:
        with provided():
            counters = await stack.enter_async_context(metered())
            server = await stack.enter_async_context(Prometheus(folder, [counters.scrape]))
        asked = {"url": f"http://{server.address}", "scrape": "200ms", "sides": {"from": "vm", "to": "k8s"}}
        gates = {"hold_for": "0s", "approve": [], "parity": "warn", "prometheus": {**asked, "requests": requests}}
        made = await stack.enter_async_context(estate.bridge(move={"gates": gates}))
        await estate.ready(made)
        yield Counted(estate, machines, made, counters, server)


async def test_a_batch_waits_for_requests_that_prometheus_counts_at_what_left(
    etcd: Etcd, eureka: Eureka, folder: Path
) -> None:
    async with counted(folder, etcd, eureka, VMS, BY_NODE) as (estate, machines, made, counters, server):
        counters.each = {("pay", "vm", "200", f"{one}:9100"): 3 for one in VMS}
        await act(made, "start", natives=True)
        await reaches(made, "drain", move=estate.move)
        await act(made, "next")
        found = await seen(made, estate.move, "requests still reach natives", batches=1, code=4)
        (first,) = out(found)
        assert found["called"]["requests"] > 0
        await act(made, "next")
        scrapes = counters.scrapes
        await until(lambda: counters.scrapes > scrapes + 50, "Prometheus has looked for ten seconds")
        assert (await row(made, estate.move))["batches"] == 1  # no `next` goes past requests

        del counters.each["pay", "vm", "200", f"{machines.addresses[first]}:9100"]
        found = await seen(made, estate.move, "requests still reach natives", batches=2)  # `next` was said for it
        (second,) = set(out(found)) - {first}
        del counters.each["pay", "vm", "200", f"{machines.addresses[second]}:9100"]
        found = await seen(made, estate.move, "each step waits for `migrate next`", batches=2)
        assert found["called"] == {"counted": True, "requests": 0, "why": ""}

        await server.stop()
        await act(made, "next")
        found = await seen(made, estate.move, "are not known: Prometheus gave no answer", batches=3, code=5)
        await act(made, "next", without=["requests"])
        await seen(made, estate.move, "", batches=4)


async def test_a_query_for_the_whole_side_tells_of_the_last_batch_alone(
    etcd: Etcd, eureka: Eureka, folder: Path
) -> None:
    async with counted(folder, etcd, eureka, VMS[:2], REQUESTS) as (estate, _, made, counters, _):
        counters.each = {("pay", "vm", "200"): 3}
        await act(made, "start", natives=True)
        await reaches(made, "drain", move=estate.move)
        await act(made, "next")
        found = await seen(made, estate.move, "each step waits for `migrate next`", batches=1)
        assert not found["called"]["counted"] and "{{instances}}" in found["called"]["why"]
        await act(made, "next")
        await seen(made, estate.move, "requests still reach natives", batches=2)
        counters.each = {}
        await reaches(made, "retire", move=estate.move)


async def test_a_batch_waits_for_requests_that_envoy_counts_at_what_left(
    etcd: Etcd, eureka: Eureka, folder: Path
) -> None:
    """An Envoy whose hosts are in its file follows nothing: it calls what left for as long as it has requests."""
    port, front, admin = ports.reserve(3)
    estate = Estate(folder, etcd, {"kind": "eureka", "urls": [eureka.url], "poll": "200ms"}, "pay")
    machines = Machines(eureka, HOSTS, port)
    await machines.register()
    estate.pods.write({one: {} for one in PODS}, port)
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [port, front, admin])
        with provided():
            await stack.enter_async_context(Envoy(folder, _bootstrap(folder, front, admin, port), admin))
        await stack.enter_async_context(backends(port, *HOSTS))
        ask = await stack.enter_async_context(over_http(f"http://127.0.0.1:{front}/"))
        envoys = {"envoys": [f"http://127.0.0.1:{admin}"]}
        made = await stack.enter_async_context(estate.bridge(move=envoys))
        await estate.ready(made)
        await act(made, "start", natives=True)
        await reaches(made, "drain", move=estate.move)
        await act(made, "next")
        async with aclosing(_asking(ask)) as asking:
            while "still reach natives" not in (await row(made, estate.move))["why"]:
                await anext(asking)
            await act(made, "next")
            for _ in range(500):
                await anext(asking)
            assert (await row(made, estate.move))["batches"] == 1
        found = await seen(made, estate.move, "", batches=2)
        assert len(out(found)) == 2
        await reaches(made, "retire", move=estate.move)


async def _asking(ask: Any) -> AsyncGenerator[str, None]:
    while True:
        for _ in range(3):
            await ask()
        yield await ask()


def _bootstrap(folder: Path, front: int, admin: int, port: int) -> Path:
    """A proxy before hosts that it was given once."""

    def at(address: str, number: int) -> dict[str, Any]:
        return {"address": {"socket_address": {"address": address, "port_value": number}}}

    router = {"name": "r", "typed_config": {"@type": f"{HTTP}.router.v3.Router"}}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "pay"}}]
    manager = {
        "@type": f"{MANAGER}.HttpConnectionManager",
        "stat_prefix": "pay",
        "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    listener = {**at("127.0.0.1", front), "filter_chains": [{"filters": [{"name": "m", "typed_config": manager}]}]}
    hosts = [{"lb_endpoints": [{"endpoint": at(one, port)} for one in HOSTS]}]
    cluster = {"name": "pay", "type": "STATIC", "load_assignment": {"cluster_name": "pay", "endpoints": hosts}}
    path = folder / "envoy.json"
    said = {"admin": at("127.0.0.1", admin), "static_resources": {"listeners": [listener], "clusters": [cluster]}}
    path.write_text(json.dumps(said))
    return path


HTTP = "type.googleapis.com/envoy.extensions.filters.http"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
