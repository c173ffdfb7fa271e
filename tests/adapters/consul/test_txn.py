"""What goes into one transaction: never more than Consul takes, and always the fence."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from msgspec.structs import replace

from adapters.consul import txn
from adapters.consul.lock import ConsulTerm, Divided, Fence
from adapters.consul.records import Version
from adapters.consul.txn import Step
from bridge.adapter import Change, Entry
from bridge.model import Health, Instance
from tests.conformance.lab import BRIDGE, OTHER, PAY, create, instance, mark

OPERATIONS, BYTES = 128, 512 * 1024  # beyond which Consul refuses a transaction
SHARD = ConsulTerm(
    Fence("isthmus/lock/bridge-a/0007", "5" * 36, "dc1", Divided(10**9, "isthmus/lock/shards", 10**9)), 0, 10
)
WHOLE = ConsulTerm(Fence("isthmus/lock/bridge-a/", "5" * 36, "dc1"), 0, 10)


def one(number: int, **metadata: str) -> Instance:
    return replace(instance(number % 250, **metadata), id=f"i{number}")


def created(number: int) -> Step:
    """Two operations."""
    return txn.create(create(PAY, one(number)), "node")


def drained(number: int) -> Step:
    """Three operations."""
    return txn.create(create(PAY, replace(one(number), health=Health.DRAINING)), "node")


def moved(number: int) -> Step:
    """Four operations, the most there are."""
    stood = Version(f"isthmus-{OTHER}-00", f"pay:i{number}", "pay", 10**9)
    before = Entry(one(number), mark(PAY, f"i{number}", OTHER), stood)
    after = replace(one(number), health=Health.DRAINING)
    return txn.move(Change(PAY, after.id, before, after, mark(PAY, after.id, BRIDGE), adopt=True), stood, "node")


def large(number: int) -> Step:
    """Two operations of some 20 KB."""
    return txn.create(create(PAY, one(number, **{f"k{key}": "x" * 480 for key in range(40)})), "node")


@pytest.mark.parametrize("term", [WHOLE, SHARD])
@pytest.mark.parametrize(
    ("make", "count"),
    [(created, 65), (drained, 43), (moved, 33), (large, 26)],  # one too many
)
def test_what_is_too_much_for_one_transaction_is_split(
    make: Callable[[int], Step], count: int, term: ConsulTerm
) -> None:
    steps = [make(number) for number in range(count)]
    fence = txn.fence_of(term)
    whole = txn.operations(fence, steps)
    assert len(whole) > OPERATIONS or len(msgspec.json.encode(whole)) > BYTES
    portions = list(txn.portions(steps))
    assert len(portions) > 1
    assert [each for portion in portions for each in portion] == steps
    for portion in portions:
        ops = txn.operations(fence, portion)
        assert ops[: len(fence)] == fence
        assert len(ops) <= OPERATIONS
        assert len(msgspec.json.encode(ops)) <= BYTES
