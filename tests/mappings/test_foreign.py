"""What other synchronisers wrote is recognised, and their marks are never copied."""

from __future__ import annotations

import msgspec
import pytest

from bridge.model import Instance
from mappings.foreign import KEYS, foreign_tool, without_marks

PLAIN = Instance("i1", "10.0.0.7", metadata={"zone": "a", "external": "x"}, tags=("k8s", "v1", "a=b"))

MARKED = [
    ("consul-k8s", {"external-source": "kubernetes", "external-k8s-ns": "default"}, ()),
    ("consul-k8s", {"external-k8s-ref-name": "web"}, ()),
    ("consul-aws", {"external-source": "aws"}, ()),
    ("nacos-sync", {"sourceClusterId": "c1"}, ()),
    ("nacos-sync", {}, ("sourceClusterId=c1", "syncSource=NACOS")),
    ("nacos-sync", {"sync.instance.tag": "x"}, ()),
    ("fsm", {"fsm.connector.service.connector.uid": "u"}, ()),
    ("polaris-sync", {"META_SYNC": "nacos"}, ()),
]


@pytest.mark.parametrize(("tool", "metadata", "tags"), MARKED)
def test_a_mark_names_its_tool_and_is_not_copied(tool: str, metadata: dict[str, str], tags: tuple[str, ...]) -> None:
    marked = msgspec.structs.replace(PLAIN, metadata={**PLAIN.metadata, **metadata}, tags=(*PLAIN.tags, *tags))
    assert foreign_tool(marked) == tool
    copied = without_marks(marked)
    assert foreign_tool(copied) is None
    assert copied.metadata == PLAIN.metadata
    # Its own tag is what consul-k8s deletes by.
    assert copied.tags == (("v1", "a=b") if tool == "consul-k8s" else PLAIN.tags)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"external-source": "nomad"}, {"sourceClusterId": " "}, {"preserved.register.source": "SPRING_CLOUD"}],
)
def test_a_registration_is_no_copy(metadata: dict[str, str]) -> None:
    assert foreign_tool(msgspec.structs.replace(PLAIN, metadata=metadata)) is None


def test_nothing_is_taken_from_an_instance_without_marks() -> None:
    assert without_marks(PLAIN) is PLAIN


def test_where_spring_cloud_alibaba_registered_is_not_copied() -> None:
    marked = msgspec.structs.replace(PLAIN, metadata={"preserved.register.source": "SPRING_CLOUD", "a": "b"})
    assert without_marks(marked).metadata == {"a": "b"}
    assert "preserved.register.source" in KEYS
