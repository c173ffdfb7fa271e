"""What links bring to a place: what is asked once for many is what each would be."""

from __future__ import annotations

from itertools import product

import pytest

from adapters import etcd, xds, zookeeper
from bridge.adapter import Sink
from bridge.engine.forms import Forms
from bridge.link import Link, Policy, Services
from bridge.model import Health, Instance, Locality, Port, ServiceName

NAME = ServiceName("com.acme.Pay")
AT = "127.0.0.1:9"  # where nobody answers, nor is asked


def sink(layout: str) -> Sink:
    match layout:
        case "xds":
            made: Sink = xds.create("place", xds.Config(listen=AT), None).sink("b1")
        case "dubbo2" | "spring":
            made = zookeeper.create("place", zookeeper.Config(hosts=[AT], layout=layout), None).sink("b1")
        case _:
            made = etcd.create("place", etcd.Config(endpoints=[f"http://{AT}"], layout=layout), None).sink("b1")  # type: ignore[arg-type]
    return made


def instances() -> list[Instance]:
    """Every address with every way of being otherwise; each is there with two ids."""
    addresses = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "host-1.example", "localhost")
    ways: tuple[dict[str, object], ...] = (
        {},
        {"weight": 0.25},
        {"weight": 0.0},
        {"health": Health.UNHEALTHY},
        {"metadata": {"a": "b"}},
        {"native": {"a": "b"}},
        {"locality": Locality(zone="z")},
        {"version": "v2"},
        {"tags": ("t",)},
        {"ports": ()},
    )
    port = Port(20880, "dubbo", "dubbo")
    return [
        Instance(**{"id": f"{number}-{which}", "address": address, "ports": (port,), **way})  # type: ignore[arg-type]
        for number, (way, address) in enumerate(product(ways, addresses))
        for which in "ab"
    ]


@pytest.mark.parametrize("layout", ["xds", "kratos", "kitex", "go-zero", "grpc", "dubbo2", "spring"])
def test_what_is_asked_once_for_many_is_what_each_would_be(layout: str) -> None:
    place = sink(layout)
    link = Link(name="l", from_=("a",), to="place", policy=Policy.SYNC, services=Services(include=("*",)))
    forms = Forms(place, NAME)
    for one in instances():
        assert forms.of(link, one) == Forms(place, NAME).of(link, one), one
