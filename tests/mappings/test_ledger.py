"""The ledger's format, byte for byte: what every version of a bridge reads, and an upgrade does not rewrite."""

from __future__ import annotations

import pytest

from bridge.model import Mark, ServiceName
from mappings.ledger import decode, encode

GOLDEN = {
    b'{"v":1,"owner":"b1","link":"old-to-new","path":["etcd:1:kratos:/microservices/"],"scope":"",'
    b'"service":["pay-api",""],"instance":"i1"}': Mark(
        "b1", "old-to-new", ("etcd:1:kratos:/microservices/",), "", ServiceName("pay-api"), "i1"
    ),
    b'{"v":1,"owner":"b1","link":"old-to-new","path":["zookeeper:\xc3\xa4","file:2"],"scope":"dc2/shop",'
    b'"service":["pay-api","shop"],"instance":"i\\"1"}': Mark(
        "b1", "old-to-new", ("zookeeper:\u00e4", "file:2"), "dc2/shop", ServiceName("pay-api", "shop"), 'i"1'
    ),
    b'{"v":1,"owner":"b1","link":"pods-to-vms","path":["kubernetes:1"],"scope":"","service":["pay",""],'
    b'"instance":"i1","network":"prod-pods"}': Mark(
        "b1", "pods-to-vms", ("kubernetes:1",), "", ServiceName("pay"), "i1", "prod-pods"
    ),
}


@pytest.mark.parametrize(("text", "mark"), GOLDEN.items(), ids=["plain", "all", "of another network"])
def test_the_ledger_has_format_1_byte_for_byte(text: bytes, mark: Mark) -> None:
    assert encode(mark) == text
    assert decode(text) == mark
