"""Who goes first where one change goes to several destinations; in virtual time, where only turns of the loop count."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec

from adapters.memory import FULL, Memory
from adapters.memory.server import Store as Server
from bridge.config import schema
from bridge.config.schema import Configuration
from bridge.destination.events import Event, Written
from bridge.engine.engine import Engine
from bridge.link import Link
from tests.kit.builders import PAY, instance, link
from tests.simulation.loop import Loop

TO_STREAM, TO_TARGET = link(name="told", to="stream"), link(name="copied", to="target")
CHANGES = 20


class Order:
    """The destinations in the order in which they were written, by version."""

    def __init__(self) -> None:
        self.written: dict[str, list[str]] = {}

    def tell(self, event: Event) -> None:
        if isinstance(event, Written) and event.outcome.change.after is not None:
            self.written.setdefault(event.outcome.change.after.version, []).append(event.destination)


def order(*links: Link) -> list[list[str]]:
    """Who was written first, change by change, but for the first copy."""
    loop = Loop()
    stores = {name: Server(name) for name in ("source", "stream", "target")}
    found = Order()

    def make(name: str, kind: str, options: Any, state: Path | None) -> Memory:
        made = Memory(name, stores[name])
        made.traits = msgspec.structs.replace(made.traits, pictures=name == "stream")
        return made

    configuration = Configuration(
        bridge=schema.Bridge(id="b1"),
        registries={name: schema.Registry(name=name, kind="memory", options=FULL) for name in stores},
        links=links,
        warnings=(),
        hash="",
        path=Path(),
    )

    async def run() -> None:
        async with Engine(configuration, events=found, make=make, clock=loop.time, rng=random.Random(1)):
            for number in range(CHANGES + 1):
                stores["source"].register(PAY, instance("i1", version=f"v{number}"))
                await asyncio.sleep(5.0)

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    return [found.written[f"v{number}"] for number in range(1, CHANGES + 1)]


def test_a_stream_gives_way_to_a_registry_that_the_same_change_goes_to() -> None:
    for links in ((TO_STREAM, TO_TARGET), (TO_TARGET, TO_STREAM)):
        assert order(*links) == [["target", "stream"]] * CHANGES
