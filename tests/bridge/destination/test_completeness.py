"""A sink that asks is told which scopes it holds whole, and of which sources nothing is known."""

from __future__ import annotations

import pytest

from adapters.common.export import ExportSink
from adapters.common.picture import Picture
from adapters.memory.server import Store as Server
from bridge.adapter import Whole
from bridge.errors import Unavailable
from bridge.link import Link, Services
from bridge.model import Instance, ServiceName, Traits
from tests.bridge.core import Core
from tests.kit.builders import PAY, instance, link
from tests.kit.waiting import until

LATER = ServiceName("later")
WEB, NEW = ServiceName("web"), ServiceName("new")


def whole(server: Server, generation: int = 1) -> frozenset[Whole]:
    return frozenset({Whole("source", "", server.identity, server.incarnation, generation)})


async def test_a_scope_is_whole_when_all_of_it_is_written() -> None:
    source, target = Server("a"), Server("b")
    for number in range(300):
        source.register(PAY, instance(f"i{number}", f"192.0.2.{number % 250}", 8000 + number))
    async with Core({"source": source, "target": target}, [link()]).running():
        await until(lambda: target.whole == whole(source))
        assert len(target.instances(PAY)) == 300


async def test_what_cannot_be_written_is_not_whole() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    target.refused[PAY] = Unavailable("not now")
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await until(lambda: core.record.count("Unavailable") > 0)
        assert not target.whole
        target.heal()
        await until(lambda: target.whole == whole(source))


async def test_a_scope_is_whole_though_something_is_always_to_be_done() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    target.refused[PAY] = target.refused[LATER] = Unavailable("not now")
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await until(lambda: core.record.count("Unavailable") > 1)
        source.register(LATER, instance("i2"))  # what comes after all was listed
        await until(lambda: ("Unavailable", str(LATER), "i2") in core.record.lines)
        assert not target.whole
        del target.refused[PAY]
        await until(lambda: target.whole == whole(source))
        assert not core.reconcilers["target"].idle
        assert target.instances(PAY)
        first = (target.identity, source.identity, "")
        await until(lambda: first in core.reconcilers["target"].destination.settled, "its first copy is done, too")


async def test_a_scope_whose_watch_is_down_is_whole_no_more() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    async with Core({"source": source, "target": target}, [link()]).running():
        await until(lambda: target.whole == whole(source))
        source.fail_with(Unavailable("down"))
        await until(lambda: target.whole == frozenset())
        source.heal()
        await until(lambda: bool(target.whole))
        assert target.whole == whole(source, generation=2)


@pytest.fixture
def picture() -> Picture:
    """That of an export of which nothing was ever known."""
    return Picture(None)


def to_mesh(name: ServiceName, source: str) -> Link:
    return link("mesh", source, services=Services(include=(str(name),)))


def exporting(picture: Picture, *links: Link) -> Core:
    """A core whose one destination serves a picture; nothing is ever heard of any source but `source`."""
    source, silent = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    silent.fail_with(Unavailable("not now"))
    sink = ExportSink("xds:mesh", picture, Traits(frozenset(Instance.__struct_fields__)), lambda _, one: one, "bridge")
    servers = {"source": source, "silent": silent, "silent-too": silent}
    return Core(servers, list(links), exports={"mesh": sink})


async def test_a_source_that_a_file_adds_is_unknown_before_anything_is_planned(picture: Picture) -> None:
    known, unknown = to_mesh(PAY, "source"), to_mesh(WEB, "silent")
    async with exporting(picture, known, unknown).running() as core:
        await until(lambda: picture.missing == {"silent"})
        assert picture.ready(NEW) and not picture.ready(WEB)
        core.reconcilers["mesh"].route([known, unknown, to_mesh(NEW, "silent-too")])
        assert picture.missing == {"silent", "silent-too"}
        assert not picture.ready(NEW), "no data plane may be told that it is not there"


async def test_a_source_that_a_file_removes_is_unknown_until_that_is_applied(picture: Picture) -> None:
    known, unknown = to_mesh(PAY, "source"), to_mesh(WEB, "silent")
    async with exporting(picture, known, unknown).running() as core:
        await until(lambda: picture.missing == {"silent"})
        core.reconcilers["mesh"].route([known])
        assert picture.missing == {"silent"} and not picture.complete
        await until(lambda: picture.complete)
        assert not picture.missing
