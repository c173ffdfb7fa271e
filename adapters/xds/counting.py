"""Envoys as those that count: how many requests each of their hosts was sent, by their admin pages (`/clusters`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from adapters.common.http import Http
from bridge.adapter import Counts

ANSWER_TIME = 5.0  # seconds
REQUESTS = "rq_total"  # of a host; of a cluster of the TCP proxy it counts connections


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The URL of each Envoy's admin page."""

    urls: tuple[str, ...]


class _Socket(msgspec.Struct, frozen=True):
    address: str = ""
    port_value: int = 0


class _Address(msgspec.Struct, frozen=True):
    socket_address: _Socket = _Socket()


class _Stat(msgspec.Struct, frozen=True):
    name: str = ""
    value: str = "0"  # JSON has 64 bits as text, and leaves nothing out but nothing


class _Host(msgspec.Struct, frozen=True):
    address: _Address = _Address()
    hostname: str = ""
    stats: tuple[_Stat, ...] = ()


class _Cluster(msgspec.Struct, frozen=True):
    name: str = ""
    host_statuses: tuple[_Host, ...] = ()


class _Clusters(msgspec.Struct, frozen=True):
    cluster_statuses: tuple[_Cluster, ...] = ()


class EnvoyCounter:
    """See `bridge.adapter.Counter`."""

    def __init__(self, config: Config) -> None:
        self._clients = [Http([url]) for url in config.urls]

    async def counts(self) -> Counts:
        """See `Counter.counts`."""
        return {key: value for client in self._clients for key, value in await _counts(client)}

    async def close(self) -> None:
        """Ends every connection."""
        for client in self._clients:
            await client.close()


async def _counts(client: Http) -> Sequence[tuple[tuple[str, str, int], float]]:
    answer = await client.call("GET", "/clusters", query={"format": "json"}, timeout=ANSWER_TIME)
    return list(_read(client.url, answer.json(_Clusters)))


def _read(url: str, found: _Clusters) -> Iterator[tuple[tuple[str, str, int], float]]:
    for cluster in found.cluster_statuses:
        for host in cluster.host_statuses:
            total = sum(float(one.value) for one in host.stats if one.name == REQUESTS)
            there = host.address.socket_address
            for address in dict.fromkeys(one for one in (there.address, host.hostname) if one):
                yield (f"{url} {cluster.name}", address, there.port_value), total


def create(config: Config) -> EnvoyCounter:
    """The counter, which opens no connection yet."""
    return EnvoyCounter(config)
