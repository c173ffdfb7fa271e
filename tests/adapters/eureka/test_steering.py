"""The status override as a lever, on a real server: what undoes it, and whose it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.error import HTTPError

import pytest
import pytest_asyncio

from adapters.eureka import Config, Eureka, create
from adapters.eureka.steering import OUT, StatusOverrides
from bridge.adapter import Steerer
from bridge.errors import Conflict, Rejected
from bridge.model import Instance, ServiceName
from tests.kit.eureka import Native
from tests.servers import eureka as servers

PAY = ServiceName("pay")
PLACE = "apps/PAY/vm1:pay:8080"


@pytest_asyncio.fixture
async def registry(eureka: servers.Eureka) -> AsyncIterator[Eureka]:
    async with create("legacy", Config(urls=[eureka.url]), None) as registry:
        yield registry


@pytest.fixture
def natives(eureka: servers.Eureka) -> Native:
    return Native(eureka)


@pytest.fixture
def levers(registry: Eureka) -> StatusOverrides:
    assert isinstance(registry, Steerer)
    return registry.levers("b1")


def native(id: str = "vm1:pay:8080") -> Instance:
    return Instance(id, "192.0.2.1")


async def out(levers: StatusOverrides, place: str = PLACE) -> None:
    before = await levers.lever(place)
    await levers.put(before, levers.set_to(before, PAY, ["vm1:pay:8080"]))


async def status(natives: Native, id: str = "vm1:pay:8080") -> tuple[str, str]:
    found = await natives.get("pay", id)
    return found["status"], found["overriddenStatus"]


async def test_it_outlives_heartbeats_and_registrations(levers: StatusOverrides, natives: Native) -> None:
    await natives.register("pay", "vm1:pay:8080")
    assert await levers.places(PAY, [native(), native("gone")]) == {"vm1:pay:8080": PLACE}
    assert levers.set_to(await levers.lever(PLACE), PAY, []) is None
    await out(levers)
    await natives.renew("pay", "vm1:pay:8080")
    await natives.register("pay", "vm1:pay:8080")
    assert await status(natives) == ("OUT_OF_SERVICE", "OUT_OF_SERVICE")
    stands = await levers.lever(PLACE)
    assert levers.set_to(stands, PAY, ["vm1:pay:8080"]) == stands.content == OUT  # nothing is to be written


async def test_an_orderly_stop_clears_it_and_who_is_gone_needs_none(levers: StatusOverrides, natives: Native) -> None:
    await natives.register("pay", "vm1:pay:8080")
    await out(levers)
    await natives.cancel("pay", "vm1:pay:8080")
    stands = await levers.lever(PLACE)
    assert levers.set_to(stands, PAY, ["vm1:pay:8080"]) is None
    with pytest.raises(Conflict):
        await levers.put(stands, OUT)
    await natives.register("pay", "vm1:pay:8080")
    assert await status(natives) == ("UP", "UNKNOWN")
    await out(levers)
    assert await status(natives) == ("OUT_OF_SERVICE", "OUT_OF_SERVICE")


@pytest.mark.parametrize("own", ["UP", "DOWN"])
async def test_taken_back_it_says_what_the_native_says_of_itself(
    levers: StatusOverrides, natives: Native, own: str
) -> None:
    await natives.register("pay", "vm1:pay:8080")
    await out(levers)
    await natives.register("pay", "vm1:pay:8080", status=own)
    stands = await levers.lever(PLACE)
    assert await levers.put(stands, levers.set_to(stands, PAY, [])) == await levers.lever(PLACE)
    assert await status(natives) == (own, "UNKNOWN")
    await natives.renew("pay", "vm1:pay:8080")  # which raises where the server has forgotten it


async def test_what_an_operator_said_is_not_written_over(levers: StatusOverrides, natives: Native) -> None:
    await natives.register("pay", "vm1:pay:8080")
    before = await levers.lever(PLACE)
    await natives.override("pay", "vm1:pay:8080", "DOWN")
    with pytest.raises(Conflict):
        await levers.put(before, OUT)
    stands = await levers.lever(PLACE)
    with pytest.raises(Rejected, match="overridden its status with DOWN"):
        levers.set_to(stands, PAY, ["vm1:pay:8080"])
    assert levers.set_to(stands, PAY, []) == b"DOWN"


async def test_one_that_would_take_others_out_is_refused(levers: StatusOverrides, natives: Native) -> None:
    await natives.register("pay", "vm1", vipAddress="pay,pay-api")
    await natives.register("pay", "vm2")
    await natives.register("cart", "vm2", "192.0.2.2")
    with pytest.raises(Rejected, match="instance of pay-api as well"):
        await levers.places(PAY, [native("vm1")])
    with pytest.raises(Rejected, match="CART has an instance vm2"):
        await levers.places(PAY, [native("vm2")])


async def test_it_leaves_nothing_of_us_behind(levers: StatusOverrides, natives: Native) -> None:
    await natives.register("pay", "vm1:pay:8080")
    before = await natives.get("pay", "vm1:pay:8080")
    await out(levers)
    stands = await levers.lever(PLACE)
    await levers.put(stands, levers.set_to(stands, PAY, []))
    after = await natives.get("pay", "vm1:pay:8080")
    moves = ("leaseInfo", "lastUpdatedTimestamp", "actionType")
    assert {key: one for key, one in after.items() if key not in moves} == {
        key: one for key, one in before.items() if key not in moves
    }
    await natives.cancel("pay", "vm1:pay:8080")
    with pytest.raises(HTTPError):
        await natives.get("pay", "vm1:pay:8080")
