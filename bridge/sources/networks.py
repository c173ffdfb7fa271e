"""Which network an address is in: addresses are compared within one network only, for two may use the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

import msgspec

from bridge.model import Instance, Mark, Place, Traits

DEFAULT = "default"  # the network of registries whose block names none

Ranges = tuple[tuple[str, str], ...]  # CIDR and network


class Networks(msgspec.Struct, frozen=True):
    """What the file says of networks. `registries`: the network of each, where it is not the default one.

    `ranges`: the addresses that belong to a network whatever registry names them.
    """

    registries: dict[str, str] = {}
    ranges: Ranges = ()

    def own(self, registry: str) -> str:
        """The network that a registry's block names."""
        return self.registries.get(registry, DEFAULT)

    def of(self, registry: str, instance: Instance, mark: Mark | None = None) -> str:
        """The network of an instance of a registry: that of its range, else what its mark says."""
        if self.ranges and (stated := _stated(self.ranges, instance.address)):
            return stated
        return (mark.network if mark is not None else "") or self.registries.get(registry, DEFAULT)

    def said(self, registry: str, network: str) -> str:
        """What a mark in a registry says of that network: "" where it is the registry's own."""
        return "" if network == self.own(registry) else network


ONE = Networks()


class Places(NamedTuple):
    """What tells running copies apart at one registry: address and port, what its convention adds, and the network."""

    traits: Traits
    networks: Networks = ONE
    registry: str = ""

    @property
    def own(self) -> str:
        """The network of the registry itself."""
        return self.networks.own(self.registry)

    def of(self, instance: Instance, mark: Mark | None = None) -> frozenset[Place]:
        """Every place that an entry there takes: two that share one are the same running copy."""
        return self.traits.places(instance, self.network(self.registry, instance, mark))

    def network(self, registry: str, instance: Instance, mark: Mark | None) -> str:
        """The network of an instance of some registry, as a mark here says it: "" is this one's own."""
        return self.networks.said(self.registry, self.networks.of(registry, instance, mark))


def overlaps(ranges: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str, str]]:
    """The ranges that two networks claim, with both. A range inside a larger one is its own network's."""
    first: dict[IPv4Network | IPv6Network, str] = {}
    for network, texts in ranges.items():
        for text in texts:
            if (other := first.setdefault(ip_network(text), network)) != network:
                yield text, network, other


@lru_cache(maxsize=65536)
def _stated(ranges: Ranges, text: str) -> str:
    """The network whose range has an address, the longest prefix first; "" where none has, or it is a host name."""
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    return next((network for range_, network in _parsed(ranges) if address in range_), "")


@lru_cache(maxsize=8)
def _parsed(ranges: Ranges) -> list[tuple[IPv4Network | IPv6Network, str]]:
    parsed = [(ip_network(text), network) for text, network in ranges]
    return sorted(parsed, key=lambda one: -one[0].prefixlen)
