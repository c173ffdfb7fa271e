"""What etcd can say of its readers: how many watches and reads there are, and that it knows no more."""

from __future__ import annotations

from adapters import etcd as adapter
from bridge.adapter import Certainty, Readers
from bridge.model import ServiceName
from tests.conftest import StartEtcd
from tests.kit.natives import Etcd as Native
from tests.kit.waiting import until
from tests.servers.etcd import Etcd

PAY = ServiceName("pay")


async def test_watches_and_reads_are_counted_and_nobody_is_named(etcd_server: StartEtcd) -> None:
    server: Etcd = await etcd_server()
    config = adapter.Config(endpoints=[server.url, "http://127.0.0.1:1"], layout="kratos")
    async with adapter.create("core", config, None) as registry, Native(server.address) as native:
        assert isinstance(registry, Readers)
        first, away = await registry.readers(PAY)
        assert (first.certainty, away.certainty) == (Certainty.POSSIBLE, Certainty.UNKNOWN)
        assert first.who == f"0 watches at {server.url}" and "since it started" in first.evidence
        assert "cannot be connected to" in away.evidence
        async with native.history():

            async def watched() -> bool:
                return (await registry.readers(PAY))[0].who == f"1 watches at {server.url}"

            await until(watched, "the watch is counted")
        for _ in range(3):
            await native.below()
        again = (await registry.readers(PAY))[0]
        assert "reads in the 0 s since the last look" in again.evidence
        assert not again.evidence.startswith("its counters, ours among them: 0 watches of any prefix, 0 reads")
