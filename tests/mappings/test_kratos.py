"""The weight that selectors of kratos read from metadata: the model's, and written where the two differ."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from bridge.model import Instance, Port, ServiceName
from mappings import kratos

PAY = ServiceName("pay")


def record(**metadata: str) -> bytes:
    said = {"id": "i1", "name": "pay", "version": "", "metadata": metadata or None, "endpoints": ["grpc://192.0.2.1:9"]}
    return json.dumps(said, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("text", "weight"), [("50", 0.5), ("100", 1.0), ("0", 0.0), ("-3", 0.0), ("abc", 1.0), ("", 1.0), ("1.5", 1.0)]
)
def test_a_weight_is_read_as_the_selectors_do_and_its_text_stays(text: str, weight: float) -> None:
    value = record(weight=text)
    found = kratos.decode(PAY, "i1", value, "")
    assert found.weight == weight
    assert kratos.encode(PAY, found)[1] == value
    assert kratos.canonical(PAY, found, "") is found


def test_a_weight_of_the_model_replaces_what_metadata_says() -> None:
    found = replace(kratos.decode(PAY, "i1", record(weight="50", env="a"), ""), weight=0.21)
    assert kratos.encode(PAY, found)[1] == record(env="a", weight="21")
    plain = Instance("i1", "192.0.2.1", (Port(9, "grpc", "grpc"),), weight=2.0)
    assert kratos.canonical(PAY, plain, "").metadata == {"weight": "200"}
