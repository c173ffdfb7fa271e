"""What metadata becomes in Curator's records, and what its typed readers make of that.

Seen with `JsonInstanceSerializer` of curator-x-discovery 5.9.0 for Void, String, a bean and a Map: no payload is read
by all; a map by those of Map and Object alone; a bean's class by its own, unknown keys included; a text where the bean
has a number fails.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import pytest
from msgspec.structs import replace

from bridge.model import Instance, Port, ServiceName
from mappings import curator
from mappings.common import curator_record
from tests.mappings.layouts import golden, read

USER = ServiceName("user")
PLAIN = Instance("i1", "192.0.2.1", (Port(80, "http", "http"),), metadata={"zone": "a", "port": "x"})
BEAN = "com.acme.Details"


def written(instance: Instance) -> object:
    return json.loads(curator.encode(USER, curator.canonical(USER, instance, "http"))[1])["payload"]


@pytest.mark.parametrize(
    ("payload", "texts", "expected"),
    [
        (None, None, None),
        (curator_record.TEXT, None, None),
        (curator_record.MAP, None, {"@class": curator_record.MAP, "zone": "a", "port": "x"}),
        (BEAN, None, {"@class": BEAN, "zone": "a", "port": "x"}),
        (BEAN, {"zone", "other"}, {"@class": BEAN, "zone": "a"}),
        (BEAN, (), None),
    ],
)
def test_metadata_becomes_a_payload_of_the_class_that_is_asked_for(
    payload: str | None, texts: Collection[str] | None, expected: object
) -> None:
    dressed = curator.dressed(PLAIN, payload, texts)
    assert written(dressed) == expected
    form = curator.canonical(USER, dressed, "http")
    assert curator.dressed(form, payload, texts) is form


def test_a_payload_of_curators_own_gives_way_to_what_the_file_says() -> None:
    for record in golden("curator"):
        _, _, instance = read(*record)
        assert written(curator.dressed(instance, None)) is None
        kept = curator.dressed(instance, curator_record.MAP)
        assert curator_record.payload_class(curator.encode(USER, kept)[1]) in (curator_record.MAP, None)
        assert curator.decode(USER, "i1", curator.encode(USER, kept)[1], "http").metadata == instance.metadata
    odd = read("curator", "user/i1", b'{"address":"a","port":1,"payload":{"@class":"com.acme.Details","n":1,"t":"x"}}')[
        2
    ]
    assert written(curator.dressed(odd, curator_record.MAP)) == {"@class": curator_record.MAP, "n": 1, "t": "x"}
    assert written(replace(odd, metadata={})) == {"@class": BEAN}


@pytest.mark.parametrize(
    ("payload", "said", "texts"),
    [
        (None, None, ()),
        ("hello", curator_record.TEXT, ()),
        ([1], curator_record.OTHER, ()),
        ({}, curator_record.MAP, ()),
        ({"@class": "java.util.HashMap", "a": "b"}, curator_record.MAP, ("a",)),
        ({"@class": BEAN, "zone": "a", "number": 7}, BEAN, ("zone",)),
    ],
)
def test_the_class_of_a_payload_is_what_jackson_makes_of_it(
    payload: object, said: str | None, texts: tuple[str, ...]
) -> None:
    found = curator_record.payload(json.dumps({"payload": payload}).encode())
    assert found == curator_record.Payload(said, frozenset(texts))
