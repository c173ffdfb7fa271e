"""What an order says of a stock record's instance is written, whatever else that record had of its own convention."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bridge.adapter import Cause
from bridge.model import Health
from bridge.plan.orders import Order
from bridge.sources.scrub import as_written
from mappings.pairs import LAYOUTS
from tests.mappings.layouts import WRITABLE, Golden, golden, read, stored

RECORDS = [record for layout in WRITABLE for record in golden(layout)]
ORDER = Order(cause=Cause.OPERATOR, rule="r", weight=3.0, zone="eu-9", metadata={"env": "canary"})


@pytest.mark.parametrize("record", RECORDS, ids=lambda one: f"{one.layout}:{one.key[:40]}")
def test_an_order_on_a_stock_record_is_read_again_as_it_was_said(record: Golden) -> None:
    name, _, instance = read(*record)
    layout = LAYOUTS[record.layout]
    plain = as_written(instance, layout.TRAITS)
    said = layout.canonical(name, ORDER.applied(plain), layout.PROTOCOL)
    key, value = layout.encode(name, ORDER.applied(plain))
    place = layout.locate(key)
    assert place is not None
    back = layout.decode(*place, stored(layout, key, value), layout.PROTOCOL)
    assert replace(back, id=said.id, native={}) == replace(said, native={})
    fields = layout.TRAITS.fields
    if "weight" in fields:
        assert back.weight == 3.0
    if "locality" in fields:
        assert back.locality.zone == "eu-9"
    if "metadata" in fields and plain.metadata:  # a payload of a class of its own has room for none
        assert back.metadata["env"] == "canary"


@pytest.mark.parametrize("layout", [one for one in WRITABLE if "health" in LAYOUTS[one].TRAITS.fields])
def test_a_drained_stock_record_is_read_again_as_not_serving(layout: str) -> None:
    drains = Order(cause=Cause.OPERATOR, rule="r", health=Health.DRAINING)
    for record in golden(layout):
        name, _, instance = read(*record)
        if not instance.serving:
            continue
        module = LAYOUTS[layout]
        key, value = module.encode(name, drains.applied(as_written(instance, module.TRAITS)))
        place = module.locate(key)
        assert place is not None
        assert not module.decode(*place, stored(module, key, value), module.PROTOCOL).serving
