"""What stands under a name decides how metadata is written there, and what is refused before it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from bridge.errors import Rejected
from bridge.model import Instance
from mappings.common.curator_record import DUBBO, MAP
from tests.adapters.zookeeper.conftest import Open
from tests.adapters.zookeeper.lab import record
from tests.conformance.lab import BRIDGE, PAY, create, instance, write
from tests.kit.natives import Kazoo
from tests.kit.seated import Seated

OURS = replace(instance(1), metadata={"zone": "a", "number": "x"})
BEAN = "com.acme.Details"


async def payload(
    native: Kazoo, open_registry: Open, theirs: list[object], given: Instance = OURS, **config: Any
) -> Any:
    """The payload that our copy of an instance has beside natives with these payloads."""
    sink = Seated(open_registry(**config), BRIDGE)
    for number, each in enumerate(theirs, 10):
        await native.register(f"/services/pay/i{number}", record(PAY, instance(number), each))
    async with sink.writer():
        await sink.held()
        await write(sink, create(PAY, sink.canonical(PAY, given)))
        value, _ = await native.do(native.zk.get, "/services/pay/i1")
        return json.loads(value)["payload"]


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ([], None),
        ([None], None),
        (["text"], None),
        ([{"@class": MAP, "other": "b"}, None], {"@class": MAP, "zone": "a", "number": "x"}),
        ([{"@class": BEAN, "zone": "b", "number": 7}], {"@class": BEAN, "zone": "a"}),
    ],
    ids=["nobody's", "none", "a text", "a map", "a bean"],
)
async def test_metadata_is_written_as_others_have_theirs(
    native: Kazoo, open_registry: Open, theirs: list[object], expected: object
) -> None:
    assert await payload(native, open_registry, theirs) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("none", None),
        ("map", {"@class": MAP, "zone": "a", "number": "x"}),
        (BEAN, {"@class": BEAN, "zone": "a", "number": "x"}),
    ],
)
async def test_metadata_is_written_as_the_file_says(
    native: Kazoo, open_registry: Open, said: str, expected: object
) -> None:
    assert await payload(native, open_registry, [], payload=said) == expected


async def test_what_curator_wrote_keeps_its_payload(native: Kazoo, open_registry: Open) -> None:
    await native.register("/services/pay/i2", record(PAY, instance(2), {"@class": BEAN, "number": 7}))
    registry = open_registry()
    read = (await registry.source.read(PAY)).service.instances["i2"]
    await native.delete("/services/pay/i2")
    assert await payload(native, open_registry, [], replace(read, id="i1")) == {"@class": BEAN, "number": 7}


@pytest.mark.parametrize("said", ["map", BEAN])
async def test_what_would_break_others_readers_is_refused_before_it_is_written(
    native: Kazoo, open_registry: Open, said: str
) -> None:
    sink = Seated(open_registry(payload=said), BRIDGE)
    await native.register("/services/pay/i9", record(PAY, instance(9), {"@class": DUBBO, "metadata": {}}))
    sink.canonical(PAY, OURS)
    await sink.held([PAY])
    with pytest.raises(Rejected, match=f"holds payload class {DUBBO}"):
        sink.canonical(PAY, OURS)


def test_a_payload_is_for_curator_alone_and_names_a_class(open_registry: Open) -> None:
    for config, why in (({"payload": "a b"}, "no class of Java"), ({"payload": "map", "layout": "spring"}, "curator")):
        with pytest.raises(ValueError, match=why):
            open_registry(**config)
