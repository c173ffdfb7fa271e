"""Where a template makes one name of two services, every daemon tells the same one of them."""

from __future__ import annotations

from functools import partial

from adapters.nginx.writing import wanted
from bridge.adapter import Entry
from bridge.model import ServiceName
from mappings import nginx, traefik
from mappings.common.naming import Naming
from tests.kit.builders import instance

NAMES = Naming("{namespace}-{name}")
LESS, MORE = sorted((ServiceName("b-c", "a"), ServiceName("c", "a-b")))
FIRST, SECOND = instance("i1", "192.0.2.1"), instance("i2", "192.0.2.2")


def test_traefik_is_told_the_lesser_of_two_services_with_one_name() -> None:
    parts = [traefik.part(NAMES, None, LESS, {"i1": FIRST}), traefik.part(NAMES, None, MORE, {"i2": SECOND})]
    assert b"192.0.2.1" in traefik.document(parts)
    assert b"192.0.2.2" not in traefik.document(parts)


def test_nginx_is_told_the_lesser_of_two_services_with_one_name() -> None:
    entries = {LESS: {"i1": Entry(FIRST)}, MORE: {"i2": Entry(SECOND)}}
    for order in ((LESS, MORE), (MORE, LESS)):
        (body,) = wanted({name: entries[name] for name in order}, partial(nginx.files, NAMES)).values()
        assert b"192.0.2.1" in body
