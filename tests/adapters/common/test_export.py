"""An export's data planes come first: they are told before the daemon goes on with what it has written."""

from __future__ import annotations

import asyncio

from adapters.common.export import ExportSink, picture
from bridge.adapter import Change
from bridge.model import Instance, Mark, Traits
from tests.kit.builders import PAY, instance


async def test_who_serves_a_picture_has_told_of_a_change_before_its_writer_goes_on() -> None:
    shown = picture(None, "mesh")
    sink = ExportSink("xds:mesh", shown, Traits(frozenset(Instance.__struct_fields__)), lambda _, one: one, "b1")
    order: list[str] = []
    fresh = asyncio.Event()

    async def serves() -> None:
        await shown.newer(shown.standing)
        fresh.set()

    async def tells() -> None:
        await fresh.wait()
        order.append("told")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serves())
        tasks.create_task(tells())
        await asyncio.sleep(0)
        one = instance("i1")
        mark = Mark("b1", "l", ("origin",), "", PAY, one.id)
        (outcome,) = await sink.apply([Change(PAY, one.id, None, one, mark)], None)
        order.append("written")
    assert outcome.error is None
    assert order == ["told", "written"]
