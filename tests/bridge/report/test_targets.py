"""Which addresses a probe connects to: what would be written and serves, of every service some, each address once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from adapters.memory import Memory
from bridge.config import load as config
from bridge.config.document import Document
from bridge.engine.engine import Engine
from bridge.errors import ConfigError
from bridge.model import Health, Instance, Port, ServiceName
from bridge.report.targets import Target, Targets, read, spread, targets_of
from tests.bridge.core import Record
from tests.kit.builders import PAY, instance
from tests.kit.waiting import until

FILE = """
bridge: {id: b1}
registries: {vms: {kind: memory, network: vm}, prod: {kind: memory}}
links:
  - {from: vms, to: prod, network: crosses, policy: observe, services: {include: ["*"]}, rename: "{name}-copy"}
"""


def target(service: str, number: int, port: int = 80) -> Target:
    return Target(service, f"i{number}", f"192.0.2.{number}", port, "vm")


async def test_targets_are_what_would_be_written_and_serves() -> None:
    configuration = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", FILE), {}, ephemeral=True)
    async with Engine(configuration, events=Record()) as engine:
        vms, prod = engine.registries["vms"], engine.registries["prod"]
        assert isinstance(vms, Memory) and isinstance(prod, Memory)
        vms.store.register(PAY, Instance("i2", "192.0.2.2", (Port(80), Port(53, "dns", "udp"), Port(81, "admin"))))
        vms.store.register(PAY, instance("i1", health=Health.UNHEALTHY))
        vms.store.register(ServiceName("shop"), instance("i3"))
        prod.store.register(PAY, instance("n4"))
        await until(lambda: not engine.unreached() and engine.reconcilers["prod"].idle)
        await until(lambda: len(targets_of(engine, configuration.links[0]).targets) == 3)
        assert targets_of(engine, configuration.links[0]) == Targets(
            link="vms-to-prod",
            targets=(
                Target("pay-copy", "i2", "192.0.2.2", 80, "vm"),
                Target("pay-copy", "i2", "192.0.2.2", 81, "vm"),
                Target("shop-copy", "i3", "192.0.2.3", 8080, "vm"),
            ),
        )


def test_of_every_service_some_are_tried_and_each_address_once() -> None:
    shared = Target("web", "lb", "192.0.2.1", 80, "vm")
    many = [target("pay", number) for number in range(1, 5)]
    found = spread([*many, target("shop", 7), shared], 3)
    assert found == [[many[0], shared], [target("shop", 7)], [many[1]]]
    assert len(spread([*many, target("shop", 7), shared], 100)) == 5


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is no file of `isthmus probe --write-targets`"),
        ('{"link": "l", "targets": [{"service": "s"}]}', "is no file of `isthmus probe --write-targets`"),
        ('{"format": 2, "link": "l", "targets": []}', "has format 2, and this isthmus reads 1"),
    ],
)
def test_a_file_that_is_none_is_wrong_usage(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=fault):
        read(path)
    path.write_bytes(msgspec.json.encode(Targets(link="l", targets=(target("pay", 1),))))
    assert read(path).targets == (target("pay", 1),)
