"""Other tools build on the events of a stream: what their first version promises stays, and nothing of it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from adapters.kafka import EVENTS
from bridge.model import Instance
from bridge.report.contract import contract
from bridge.report.happenings import event_of, type_of
from bridge.state.record import Record

FIRST = json.loads((Path(__file__).parent / "events.v1.json").read_text())
GONE = Record(
    at=1.0,
    seq=7,
    kind="observed",
    registry="core",
    scope=("consul:abc", "dc1"),
    service="eu:pay",
    instance="i1",
    before=Instance("i1", "192.0.2.1"),
    revision=42,
)


def test_whoever_reads_the_first_version_can_read_this_one() -> None:
    now = json.loads(json.dumps(contract(EVENTS)))["components"]
    assert now["messages"].keys() >= FIRST["components"]["messages"].keys()
    for name, old in FIRST["components"]["schemas"].items():
        new = now["schemas"][name]
        assert set(old.get("required", ())) <= set(new.get("required", ())), (
            f"{name}: what was always there may be missing"
        )
        for key, shape in old.get("properties", {}).items():
            assert new["properties"][key] == shape, f"{name}.{key} means something else"
        assert new.get("additionalProperties", True) is not False


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = contract(EVENTS)
    found: list[str] = []

    def collect(part: Any) -> None:
        if isinstance(part, dict):
            found.extend(value for key, value in part.items() if key == "$ref")
            for value in part.values():
                collect(value)
        elif isinstance(part, list):
            for value in part:
                collect(value)

    collect(document)
    for reference in found:
        here: Any = document
        for step in reference.removeprefix("#/").split("/"):
            here = here[step]


def test_what_a_registry_said_is_one_event_whoever_heard_it() -> None:
    here, there = event_of(GONE, "host-1:/var/lib/isthmus"), event_of(GONE, "host-2:/var/lib/isthmus")
    assert here.id == there.id
    assert (here.type, here.subject) == ("io.isthmus.instance.deregistered.v1", "eu:pay/i1")
    again = msgspec.structs.replace(GONE, revision=43)
    assert event_of(again, "host-1:/var/lib/isthmus").id != here.id
    made = Record(at=1.0, seq=8, kind="add")
    assert event_of(made, "host-1:/x").id != event_of(made, "host-2:/x").id


def test_an_event_says_all_that_its_line_says() -> None:
    data = json.loads(event_of(GONE, "host").data)
    assert data["origin"] == {"identity": "consul:abc", "scope": "dc1"}
    assert (data["before"]["address"], data["revision"], data["number"]) == ("192.0.2.1", 42, 7)
    assert "after" not in data


def test_a_line_of_a_kind_that_is_new_is_told_as_noted() -> None:
    assert type_of(Record(at=1.0, kind="something")) == "io.isthmus.noted.v1"
