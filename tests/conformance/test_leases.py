"""What a sink promises where entries can die with their writer."""

from __future__ import annotations

from tests.conformance.lab import (
    BRIDGE,
    PAY,
    Lab,
    at,
    create,
    i,
    instance,
    need,
    owners,
    seated,
    shown,
    write,
)
from tests.kit.seated import Seated

PART = "leases"


async def test_a_leased_entry_dies_with_its_writer_and_a_lasting_one_does_not(lab: Lab) -> None:
    need(lab, "write")
    need(lab, "lease")
    async with lab.registry() as registry, seated(lab, registry, BRIDGE) as sink:
        await write(sink, create(PAY, instance(1), ttl=60), create(PAY, instance(2)))
        assert owners(await shown(sink, PAY)) == {i(1): BRIDGE, i(2): BRIDGE}
    assert await lab.truth(PAY) == at(instance(1), instance(2))
    await lab.expire(BRIDGE)
    async with lab.registry() as registry:
        held = await Seated(registry, BRIDGE).held()
    assert owners(held) == {i(2): BRIDGE}
    assert not held.loose
