"""ZooKeeper keeps what every source and every sink promises."""

# ruff: noqa: F401, F403, F811

from __future__ import annotations

import pytest

from adapters.zookeeper import client
from bridge.adapter import Listing, Registry, Sink
from tests.adapters.zookeeper.lab import KINDS
from tests.conformance.conftest import lab, other, registry, sink, source
from tests.conformance.lab import Kind, Lab, source_of, watching
from tests.conformance.test_sinks import *
from tests.conformance.test_sources import *


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", 2.0)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[Kind, object]:
    """A layout, and its server."""
    chosen = KINDS[request.param]
    return chosen, request.getfixturevalue(str(chosen.server))


async def test_every_client_knows_the_registry_by_the_same_name(  # type: ignore[no-redef]
    lab: Lab,
    registry: Registry,
    sink: Sink,
) -> None:
    """Not by the same revision, too: a new session is a transaction of its own."""
    async with lab.registry() as second:
        names = []
        for each in (registry, second):
            async with watching(await source_of(each)) as watch:
                await watch.until(lambda w=watch: w.synced)  # type: ignore[misc]
                assert isinstance(watch.said[0], Listing)
                names.append(watch.said[0].identity)
        assert names == [(await sink.held()).identity, (await second.reach()).identity]
