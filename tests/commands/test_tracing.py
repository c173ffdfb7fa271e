"""Traces: a collector of OpenTelemetry hears what each change went through, and who asks for none pays nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest_asyncio
from aiohttp import ClientSession, web

from tests.kit.natives import Folder
from tests.kit.running import ROOT, Bridge, ended
from tests.kit.waiting import until
from tests.servers import ports

GUARD = {"confirm_event": "1h"}  # what is held waits for the operator


class Span(NamedTuple):
    """One span as the collector reads it."""

    trace: str
    id: str
    parent: str
    name: str
    begun: int
    ended: int
    about: dict[str, Any]


class Collector:
    """Listens where collectors do, takes OTLP in JSON, and answers `status`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.status = 200
        self.spans: list[Span] = []

    async def take(self, request: web.Request) -> web.Response:
        assert (request.path, request.content_type) == ("/v1/traces", "application/json")
        said = json.loads(await request.text())
        if self.status == 200:
            self.spans += spans(said)
        return web.json_response({}, status=self.status)

    def of(self, instance: str) -> dict[str, Span]:
        """The spans about an instance, by name and destination."""
        found = [one for one in self.spans if one.about.get("isthmus.instance") == instance]
        return {f"{one.name} {one.about['isthmus.destination']}": one for one in found}

    def seen(self, trace: str) -> Span:
        """How a trace began."""
        (root,) = [one for one in self.spans if one.trace == trace and one.name == "seen"]
        return root


def spans(said: dict[str, Any]) -> Iterator[Span]:
    for resource in said["resourceSpans"]:
        named = {one["key"]: one["value"]["stringValue"] for one in resource["resource"]["attributes"]}
        assert (named["service.name"], named["service.instance.id"]) == ("isthmus", "b1")
        for one in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
            about = {each["key"]: next(iter(each["value"].values())) for each in one["attributes"]}
            times = int(one["startTimeUnixNano"]), int(one["endTimeUnixNano"])
            yield Span(one["traceId"], one["spanId"], one["parentSpanId"], one["name"], *times, about)


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    (port,) = ports.reserve(1)
    made = Collector(port)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield made
    finally:
        await runner.cleanup()
        ports.release([port])


def bridge(folder: Path, **settings: Any) -> tuple[Folder, Bridge]:
    """One folder, copied into two."""
    inventory = Folder(folder / "inventory")
    inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
    for name in ("east", "west"):
        (folder / name).mkdir()
    registries = {name: {"kind": "file", "path": str(folder / name)} for name in ("inventory", "east", "west")}
    link = {"from": "inventory", "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
    return inventory, Bridge(folder, registries, [{"to": "east", **link}, {"to": "west", **link}], **settings)


async def test_a_change_is_one_trace_from_its_source_to_each_destination(folder: Path, collector: Collector) -> None:
    inventory, daemon = bridge(folder, tracing={"otlp": collector.url, "sample": 1})
    async with daemon:
        await until(daemon.rests)
        inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
        await until(lambda: {"write east", "write west"} <= collector.of("i3").keys())
        found = collector.of("i3")
        assert found.keys() == {"plan east", "write east", "plan west", "write west"}
        (trace,) = {one.trace for one in found.values()}
        root = collector.seen(trace)
        assert root.parent == ""
        assert (root.about["isthmus.registry"], root.about["isthmus.service"]) == ("inventory", "pay")
        for name in ("east", "west"):
            plan, write = found[f"plan {name}"], found[f"write {name}"]
            assert (plan.parent, write.parent) == (root.id, plan.id)
            assert plan.begun <= plan.ended <= write.begun + 1000 < write.ended + 1000
            assert (write.about["isthmus.service"], write.about["isthmus.kind"]) == ("pay", "add")
            assert write.about["isthmus.link"] == f"inventory-to-{name}"
        first = collector.of("i1")["write east"]
        assert first.trace != trace


async def test_what_is_held_goes_on_in_the_trace_of_its_change(folder: Path, collector: Collector) -> None:
    inventory, daemon = bridge(folder, tracing={"otlp": collector.url, "sample": 1})
    async with daemon:
        await until(daemon.rests)
        inventory.unset("pay")
        await until(lambda: {"hold east", "hold west"} <= collector.of("i1").keys())
        held = collector.of("i1")["hold east"]
        assert (held.about["isthmus.cause"], held.parent) == ("event", collector.seen(held.trace).id)
        assert held.about["isthmus.rule"]
        inventory.set("other", o1="192.0.2.9")  # a change of something else, with a trace of its own
        await until(lambda: "write east" in collector.of("o1"))
        ids = {hold["id"] for hold in await daemon.holds()}
        await daemon.approve()
        await until(lambda: collector.of("i1")["write east"].about.get("isthmus.kind") == "remove")
        plan, write = collector.of("i1")["plan east"], collector.of("i1")["write east"]
        assert (plan.trace, plan.parent, write.parent) == (held.trace, held.id, plan.id)
        assert write.about["isthmus.hold"] in ids
        assert (write.about["isthmus.cause"], write.about["isthmus.freed"]) == ("event", "approval")
        assert collector.of("o1")["write east"].trace != held.trace


async def test_spans_wait_for_a_collector_and_what_it_refuses_is_counted(folder: Path, collector: Collector) -> None:
    (port,) = ports.reserve(1)
    collector.status = 503
    inventory, daemon = bridge(folder, tracing={"otlp": collector.url, "sample": 1}, listen=f"127.0.0.1:{port}")
    async with daemon:
        await until(daemon.rests)
        await until(lambda: "it answers 503" in daemon.log)
        assert await dropped(daemon) == 0
        collector.status = 200
        await until(lambda: "write east" in collector.of("i1"), "what waited is sent")
        collector.status = 400
        inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
        await until(lambda: dropped(daemon))
        collector.status = 200
        inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.4")
        await until(lambda: "write east" in collector.of("i3"))
    ports.release([port])


async def test_a_reload_begins_traces_leads_them_elsewhere_and_ends_them(folder: Path, collector: Collector) -> None:
    inventory, daemon = bridge(folder)
    async with daemon:
        await until(daemon.rests)
        daemon.bridge["tracing"] = {"otlp": "http://127.0.0.1:1", "sample": 1}  # nobody listens there
        await daemon.hup()
        inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
        await until(lambda: "http://127.0.0.1:1/v1/traces" in daemon.log, "nobody takes them")
        daemon.bridge["tracing"]["otlp"] = collector.url
        await daemon.hup()
        await until(lambda: "write east" in collector.of("i3"), "what waited goes there, too")
        del daemon.bridge["tracing"]
        await daemon.hup()
        inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3", i4="192.0.2.4")
        await until(daemon.rests)
        daemon.bridge["tracing"] = {"otlp": collector.url, "sample": 1}
        await daemon.hup()
        inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3", i4="192.0.2.4", i5="192.0.2.5")
        await until(lambda: "write east" in collector.of("i5"))
        assert not collector.of("i4")


async def dropped(daemon: Bridge) -> float:
    """What /metrics says of spans that nobody was told."""
    async with ClientSession() as session, session.get(f"http://{daemon.bridge['listen']}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    (line,) = [one for one in lines if one.startswith("isthmus_spans_dropped_total ")]
    return float(line.split()[1])


LOADED = """
import sys
from bridge.cli.main import main
sys.argv = ["isthmus", "run", "-f", sys.argv[1], "--once"]
try:
    main()
except SystemExit:
    pass
print(sorted({name.partition(".")[0] for name in sys.modules} & {"opentelemetry"}))
"""


async def test_a_daemon_that_makes_no_traces_imports_nothing_for_them(folder: Path) -> None:
    _, daemon = bridge(folder)
    daemon.close()
    for settings, loaded in (
        ({}, "[]"),
        ({"tracing": {"otlp": "http://127.0.0.1:9", "sample": 1}}, "['opentelemetry']"),
    ):
        daemon.bridge |= settings
        daemon.write()
        ran = await ended(sys.executable, "-c", LOADED, str(daemon.file), cwd=ROOT)
        assert ran.out.splitlines()[-1] == loaded, ran.err
