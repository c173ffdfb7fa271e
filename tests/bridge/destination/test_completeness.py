"""A sink that asks is told which scopes it holds whole: a gain when all is applied, a loss at once."""

from __future__ import annotations

from adapters.memory.server import Store as Server
from bridge.adapter import Whole
from bridge.errors import Unavailable
from bridge.model import ServiceName
from tests.bridge.core import Core
from tests.kit.builders import PAY, instance, link
from tests.kit.waiting import until

LATER = ServiceName("later")


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
