"""What is made of a Eureka's answers: whole lists, deltas, and the forms that instances come in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.eureka.answers import Applications, applications
from adapters.eureka.working_copy import MISSED, WorkingCopy
from bridge.errors import Unavailable
from bridge.model import Health, Instance, ServiceName
from tests.kit.eureka import MY_OWN

PAY = ServiceName("pay")


def record(id: str, **fields: Any) -> dict[str, Any]:
    """An instance of `pay` as a server tells it; None: left out."""
    said = {
        "instanceId": id,
        "hostName": "192.0.2.1",
        "app": "PAY",
        "ipAddr": "192.0.2.1",
        "status": "UP",
        "overriddenStatus": "UNKNOWN",
        "port": {"$": 8080, "@enabled": "true"},
        "securePort": {"$": 443, "@enabled": "false"},
        "dataCenterInfo": MY_OWN,
        "metadata": {"zone": "a"},
        "vipAddress": "pay",
        "lastUpdatedTimestamp": "1",
        "actionType": "ADDED",
        **fields,
    }
    return {key: value for key, value in said.items() if value is not None}


def answer(*records: dict[str, Any], hash: str = "", number: str = "1", alone: bool = False) -> Applications:
    """`alone`: as old servers tell a list of one."""
    instance: Any = records[0] if alone else list(records)
    application: Any = {"name": "PAY", "instance": instance}
    all = {"versions__delta": number, "apps__hashcode": hash, "application": application if alone else [application]}
    return applications(json.dumps({"applications": all}).encode())


def copy(*records: dict[str, Any], by: str = "ip") -> WorkingCopy:
    made = WorkingCopy(by)
    made.listed(answer(*records), 0.0)
    return made


def instances(made: WorkingCopy, name: ServiceName = PAY) -> dict[str, Instance]:
    return made.observed(name).service.instances


def test_a_delta_that_does_not_lead_to_its_hash_is_not_taken_over() -> None:
    made = copy(record("a"), record("b"))
    gone = record("a", actionType="DELETED", lastUpdatedTimestamp="2")
    assert made.changed(answer(gone, hash="UP_2_")) is None
    assert instances(made).keys() == {"a", "b"}
    assert made.changed(answer(gone, hash="UP_1_")) == {PAY}
    assert instances(made).keys() == {"b"}


def test_a_delta_that_repeats_what_is_known_changes_nothing() -> None:
    made = copy(record("a"))
    delta = answer(record("b", status="DOWN"), record("x", actionType="DELETED"), hash="DOWN_1_UP_1_")
    assert made.changed(delta) == {PAY}
    assert made.changed(delta) == set()
    assert instances(made)["b"].health is Health.UNHEALTHY


def test_a_delta_older_than_the_list_takes_nothing_away() -> None:
    made = copy(record("a", lastUpdatedTimestamp="9"))
    old = record("a", actionType="DELETED", lastUpdatedTimestamp="5")
    assert made.changed(answer(old, hash="UP_1_")) == set()
    assert made.changed(answer(old, hash="")) is None
    assert instances(made).keys() == {"a"}


def test_what_a_list_lacks_is_kept_for_a_minute() -> None:
    made = copy(record("a"), record("b", status="OUT_OF_SERVICE"))
    assert made.listed(answer(record("a")), 10.0) == set()
    assert instances(made).keys() == {"a", "b"}
    assert made.overdue(10.0 + MISSED - 1) == []
    assert made.overdue(10.0 + MISSED) == [("PAY", "b")]
    made.kept(("PAY", "b"), 80.0)
    assert made.overdue(80.0) == []
    assert made.gone(("PAY", "b")) == {PAY}
    assert instances(made).keys() == {"a"}


def test_what_is_back_in_time_was_never_away() -> None:
    made = copy(record("a"), record("b"))
    made.listed(answer(record("a")), 10.0)
    made.listed(answer(record("a"), record("b")), 20.0)
    assert made.overdue(1000.0) == []
    made.listed(answer(record("a")), 30.0)
    assert made.changed(answer(record("b"), hash="UP_2_")) is not None
    assert made.overdue(1000.0) == []
    assert instances(made).keys() == {"a", "b"}


def test_another_life_is_told_as_it_is() -> None:
    made = copy(record("a"), record("b"))
    assert made.listed(answer(record("b")), 10.0, same_life=False) == {PAY}
    assert instances(made).keys() == {"b"}


def test_heartbeats_change_nothing() -> None:
    made = copy(record("a", leaseInfo={"lastRenewalTimestamp": 5}))
    assert (
        made.listed(answer(record("a", leaseInfo={"lastRenewalTimestamp": 9}, lastUpdatedTimestamp="3")), 1.0) == set()
    )


def later(id: str, at: int, **fields: Any) -> dict[str, Any]:
    return record(id, lastUpdatedTimestamp=str(at), **fields)


def look(made: WorkingCopy, told: dict[str, Any], found: dict[str, Any] | None) -> None:
    """As the audit does: what another answer tells is read past every cache."""
    (untold,) = made.untold(answer(told))
    made.looked(untold, answer(found).instances[0] if found is not None else None)


GONE = {"actionType": "DELETED"}


@pytest.mark.parametrize(
    ("catches_up", "stands"),
    [
        (later("a", 2, **GONE), {"b"}),
        (later("a", 3, metadata={"zone": "c"}), {"a", "b"}),  # registered again
    ],
)
def test_what_a_cache_does_not_tell_is_gone_until_its_answers_are_as_new(
    catches_up: dict[str, Any], stands: set[str]
) -> None:
    made = copy(record("a"), record("b"))
    look(made, later("a", 2, **GONE), None)
    assert instances(made).keys() == {"b"}
    assert not made.untold(answer(later("a", 2, **GONE)))
    # Its lists and deltas say still what they said.
    assert made.changed(answer(record("a"), record("b"), hash="UP_2_")) is not None
    made.listed(answer(record("a"), record("b")), 1.0)
    assert instances(made).keys() == {"b"}
    made.changed(answer(catches_up, hash=f"UP_{len(stands)}_"))
    assert instances(made).keys() == stands
    made.listed(answer(*(record(id) for id in sorted(stands))), 2.0)
    assert instances(made).keys() == stands
    assert not made.overdue(2.0 + 2 * MISSED)


def test_what_a_cache_does_not_tell_is_there_until_it_is_known_to_be_gone() -> None:
    made = copy(record("a"))
    look(made, later("b", 2), later("b", 2))
    look(made, later("a", 2), later("a", 2, metadata={"zone": "b"}))
    made.changed(answer(record("a"), hash="UP_1_"))
    assert instances(made)["a"].metadata == {"zone": "b"}
    made.listed(answer(record("a")), 1.0)  # lacks `b`, and is behind on `a`
    assert instances(made).keys() == {"a", "b"}
    assert instances(made)["a"].metadata == {"zone": "b"}
    assert [key for _, key in made.overdue(1.0 + MISSED)] == ["b"]  # every peer is asked for it before it goes
    made.changed(answer(later("b", 3, **GONE), hash="UP_1_"))
    assert instances(made).keys() == {"a"}


def test_another_peer_or_life_is_not_measured_by_times_of_the_one_before() -> None:
    for same_life in (True, False):
        made = copy(record("a"), record("b"))
        look(made, later("a", 2, **GONE), None)
        look(made, later("b", 2), later("b", 2, metadata={"zone": "b"}))
        made.listed(answer(record("a"), record("b")), 1.0, same_life=same_life, teller="another")
        assert instances(made).keys() == {"a", "b"}
        assert instances(made)["b"].metadata == {"zone": "a"}


def test_what_was_told_already_is_not_looked_up() -> None:
    made = copy(later("a", 5), later("b", 5))
    made.changed(answer(later("b", 6, **GONE), hash="UP_1_"))
    assert not made.untold(answer(later("a", 5), later("a", 4, **GONE), later("b", 6, **GONE)))
    (new,) = made.untold(answer(later("c", 1)))
    made.looked(new, None)  # it went while it was looked up
    assert instances(made).keys() == {"a"}


def test_an_instance_is_of_every_vip_address_that_it_has() -> None:
    made = copy(record("a", vipAddress="pay, cart"), record("b", vipAddress=None))
    assert instances(made).keys() == {"a", "b"}
    assert instances(made, ServiceName("cart")).keys() == {"PAY:a"}
    made.listed(answer(record("a", vipAddress="cart"), record("b", vipAddress=None)), 1.0)
    assert instances(made).keys() == {"b"}


def test_two_applications_with_one_vip_address_keep_their_ids_apart() -> None:
    made = WorkingCopy("ip")
    both = answer(record("a"))._replace(
        instances=[*answer(record("a")).instances, *_of("OTHER", record("a", app="OTHER"))]
    )
    made.listed(both, 0.0)
    assert instances(made).keys() == {"a", "OTHER:a"}


def _of(app: str, said: dict[str, Any]) -> list[Any]:
    all = {"versions__delta": "1", "apps__hashcode": "", "application": [{"name": app, "instance": [said]}]}
    return applications(json.dumps({"applications": all}).encode()).instances


FORMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"instanceId": None, "hostName": "vm7"}, {"id": "vm7"}),
    ({"metadata": {"@class": "java.util.Collections$EmptyMap"}}, {"metadata": {}}),
    ({"metadata": None}, {"metadata": {}}),
    ({"port": {"$": "9090", "@enabled": True}}, {"port": 9090}),
    (
        {"port": {"$": 80, "@enabled": "false"}, "securePort": {"$": "8443", "@enabled": "true"}},
        {"port": 8443, "tls": True},
    ),
    ({"port": {"$": 80, "@enabled": "false"}}, {"port": 80}),
    ({"port": None}, {"port": 7001}),
    ({"status": "STARTING"}, {"health": Health.UNHEALTHY}),
    ({"status": "OUT_OF_SERVICE"}, {"health": Health.DRAINING}),
    ({"metadata": {"weight": "5"}}, {"weight": 5.0}),
    ({"metadata": {"weight": "1.5"}}, {"weight": 1.0}),
    ({"lastDirtyTimestamp": 5, "lastUpdatedTimestamp": 7}, {}),
    (
        {"dataCenterInfo": {"name": "Amazon", "metadata": {"availability-zone": "us-1a"}}, "metadata": {}},
        {"zone": "us-1a"},
    ),
]


@pytest.mark.parametrize(("fields", "expected"), FORMS, ids=lambda one: json.dumps(one, default=str)[:40])
@pytest.mark.parametrize("alone", [False, True])
def test_every_form_of_an_instance_is_read(fields: dict[str, Any], expected: dict[str, Any], alone: bool) -> None:
    made = WorkingCopy("ip")
    made.listed(answer(record("a", **fields), alone=alone), 0.0)
    (one,) = instances(made).values()
    said = {
        "id": one.id,
        "metadata": one.metadata,
        "port": one.ports[0].number,
        "tls": one.ports[0].tls,
        "health": one.health,
        "weight": one.weight,
        "zone": one.locality.zone,
    }
    assert said == said | expected


def test_the_file_says_which_of_two_addresses_counts() -> None:
    said = record("a", hostName="vm7.example.org")
    assert instances(copy(said, by="ip"))["a"].address == "192.0.2.1"
    assert instances(copy(said, by="host"))["a"].address == "vm7.example.org"


def test_an_instance_that_nobody_can_dial_is_named_and_its_siblings_flow() -> None:
    made = copy(
        record("a", port={"$": 70000, "@enabled": "true"}), record("b"), record("c", port={"$": [], "@enabled": 1})
    )
    observed = made.observed(PAY)
    assert observed.unreadable == {"a", "c"}
    assert observed.service.instances.keys() == {"b"}
    assert made.ignored.keys() == {"pay/PAY/a", "pay/PAY/c"}


@pytest.mark.parametrize("text", [b"", b"<html>", b"[]", b'{"applications":{"application":[{"instance":5}]}}', b"null"])
def test_a_broken_answer_is_no_observation(text: bytes) -> None:
    with pytest.raises(Unavailable):
        applications(text)


def states(made: WorkingCopy) -> dict[str, Health]:
    return {id: one.health for id, one in instances(made).items()}


@pytest.mark.parametrize(
    "told",
    [
        [record("a", status="DOWN", lastDirtyTimestamp="5"), record("b", status="OUT_OF_SERVICE")],
        [record("a", lastDirtyTimestamp="4", metadata={"zone": "old"}), record("b", status="OUT_OF_SERVICE")],
        [record("a", lastDirtyTimestamp="5"), record("b", status="UP")],
    ],
)
def test_what_another_peer_tells_otherwise_is_not_believed_for_a_minute(told: list[dict[str, Any]]) -> None:
    made = WorkingCopy("ip")
    known = [record("a", lastDirtyTimestamp="5"), record("b", status="OUT_OF_SERVICE")]
    made.listed(answer(*known), 0.0, teller="one")
    before = instances(made)
    assert made.listed(answer(*told, record("c")), 10.0, teller="other") == {PAY}
    assert {id: one for id, one in instances(made).items() if id != "c"} == before  # what is new comes at once
    assert made.listed(answer(*told, record("c")), 20.0, teller="other") <= {PAY}
    assert instances(made)["a"] == before["a"] and instances(made)["b"] == before["b"]
    assert made.settle(10.0 + MISSED - 0.1) == set()
    assert made.settle(10.0 + MISSED) == {PAY}
    assert instances(made) == instances(copy(*told, record("c")))


def test_what_a_peer_changes_after_it_was_asked_is_believed_at_once() -> None:
    made = WorkingCopy("ip")
    made.listed(answer(record("a"), record("b")), 0.0, teller="one")
    down = record("a", status="DOWN")
    made.listed(answer(down, record("b")), 10.0, teller="other")
    assert made.changed(answer(down, hash="DOWN_1_UP_1_")) == set()  # as its list said
    assert states(made)["a"] is Health.HEALTHY
    out = record("a", status="OUT_OF_SERVICE", lastUpdatedTimestamp="2")
    assert made.changed(answer(out, hash="OUT_OF_SERVICE_1_UP_1_")) == {PAY}
    assert states(made)["a"] is Health.DRAINING
    gone = record("b", actionType="DELETED", lastUpdatedTimestamp="3")
    assert made.changed(answer(gone, hash="OUT_OF_SERVICE_1_")) == {PAY}
    assert instances(made).keys() == {"a"}


def test_the_peer_that_was_believed_is_back_and_nothing_was_in_doubt() -> None:
    made = WorkingCopy("ip")
    made.listed(answer(record("a")), 0.0, teller="one")
    made.listed(answer(record("a", status="DOWN")), 10.0, teller="other")
    made.listed(answer(record("a")), 20.0, teller="one")
    assert made.settle(10.0 + MISSED) == set()
    assert states(made) == {"a": Health.HEALTHY}


def test_another_life_is_taken_as_it_is() -> None:
    made = WorkingCopy("ip")
    made.listed(answer(record("a")), 0.0, teller="one")
    made.listed(answer(record("a", status="DOWN")), 10.0, same_life=False, teller="other")
    assert states(made) == {"a": Health.UNHEALTHY}
