"""What a state topic says, record by record; when a writer has to say that a scope is whole."""

from __future__ import annotations

from typing import Any

from adapters.kafka.completes import Completes
from adapters.kafka.working_copy import Scope, WorkingCopy
from bridge.adapter import Whole
from bridge.model import Instance, Mark, ServiceName
from mappings import kafka as mapping
from tests.kit.builders import instance

PAY = ServiceName("pay", "core")
KEY = mapping.key_of(PAY, "i1")
AT = mapping.partition_of(PAY, 2)
SCOPE = Scope("core", "consul:abc", "dc1")
CORE = Whole("core", "dc1", "consul:abc", "1", 1, "core")


def value(one: Instance) -> bytes:
    return mapping.encode(PAY, one, Mark("b1", "link", ("consul:abc",), "dc1", ServiceName("pay"), one.id))


def stands(copy: WorkingCopy) -> set[str]:
    return {one.record.instance.address for one in copy.services.get(PAY, {}).values() if one.record.instance}


def state(completes: Completes, copy: WorkingCopy, *scopes: Whole) -> list[int]:
    """What is due is said, and read back; the generations."""
    due = completes.due(scopes, copy)
    for one in due:
        copy.take(one.partition, 100, mapping.complete_key(one.scope, one.partition), mapping.encode_complete(one), ())
        completes.said(one)
    completes.settled(scopes)
    return [one.generation for one in due]


def test_what_was_acknowledged_is_not_undone_by_what_is_read_late() -> None:
    copy = WorkingCopy(2)
    copy.acknowledge(AT, 5, KEY, value(instance("i1", "192.0.2.5")), ())
    copy.take(AT, 4, KEY, value(instance("i1", "192.0.2.4")), ())
    assert stands(copy) == {"192.0.2.5"}
    copy.acknowledge(AT, 6, KEY, None, ())
    copy.take(AT, 5, KEY, value(instance("i1", "192.0.2.5")), ())
    assert stands(copy) == set()
    copy.take(AT, 6, KEY, None, ())
    copy.take(AT, 7, KEY, value(instance("i1", "192.0.2.7")), ())
    assert stands(copy) == {"192.0.2.7"}


def test_count_and_digest_are_those_of_what_stands_whatever_came_before() -> None:
    long, short = WorkingCopy(2), WorkingCopy(2)
    for offset, address in enumerate(("192.0.2.1", "192.0.2.2", "192.0.2.3")):
        long.take(AT, offset, KEY, value(instance("i1", address)), ())
    other = mapping.key_of(PAY, "i2")
    long.take(AT, 3, other, value(instance("i2")), ())
    long.take(AT, 4, other, None, ())
    short.take(AT, 2, KEY, value(instance("i1", "192.0.2.3")), ())
    assert long.total(SCOPE, AT) == short.total(SCOPE, AT)
    assert long.total(SCOPE, AT).records == 1


def test_a_record_in_a_partition_that_is_not_its_services_is_no_instance() -> None:
    copy = WorkingCopy(2)
    copy.take(1 - AT, 0, KEY, value(instance("i1")), ())
    assert stands(copy) == set()
    assert list(copy.ignored.values()) == ["its service belongs into another partition"]


def test_a_generation_is_one_more_for_each_listing_unless_nothing_was_written() -> None:
    copy, first = WorkingCopy(2), Completes("b1")
    assert copy.whole("core/dc1") is None
    assert state(first, copy, CORE) == [1, 1]
    assert state(first, copy, CORE) == []
    assert state(first, copy, Whole("core", "dc1", "consul:abc", "1", 2, "core")) == [2, 2]
    assert state(Completes("b1"), copy, CORE) == []
    assert state(Completes("b1"), copy, Whole("core", "dc1", "consul:abc", "other", 1, "core")) == [3, 3]
    wrote = Completes("b1")
    wrote.wrote(SCOPE, AT)
    assert state(wrote, copy, Whole("core", "dc1", "consul:abc", "other", 1, "core")) == [4, 4]


def test_a_scope_is_whole_with_one_generation_in_every_partition() -> None:
    copy = WorkingCopy(2)
    completes = Completes("b1")
    (one, two) = completes.due([CORE], copy)
    for each, generation in ((one, 1), (two, 2), (one, 2)):
        said = mapping.encode_complete(mapping.Complete(**{**_fields(each), "generation": generation}))
        copy.take(each.partition, 0, mapping.complete_key("core/dc1", each.partition), said, ())
        assert (copy.whole("core/dc1") is not None) is ((each, generation) == (one, 2))


def test_what_changed_since_is_audited_and_nothing_else() -> None:
    copy, completes = WorkingCopy(2), Completes("b1")
    state(completes, copy, CORE)
    assert completes.audits([CORE], copy) == []
    completes.wrote(SCOPE, AT)
    (again,) = completes.audits([CORE], copy)
    assert (again.partition, again.generation) == (AT, 1)


def _fields(complete: mapping.Complete) -> dict[str, Any]:
    return {name: getattr(complete, name) for name in complete.__struct_fields__}
