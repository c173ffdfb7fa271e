"""Addresses that stand for all pods of a Service: those of its nodes, of its load balancer, or its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bridge.model import Health, Instance, Port
from mappings.common import hostport
from mappings.kubernetes import NODE, Entry, metadata_of, port, version_of
from mappings.kubernetes.objects import Node, Service

Address = Literal["pod", "node-port", "load-balancer", "cluster-ip"]


def aggregate(service: Service, pods: Sequence[Entry], nodes: Sequence[Node], address: Address) -> list[Entry]:
    """A service by the addresses that stand for all its pods; their weights add up to the number of ready pods.

    Where none is ready, or none that the address leads to, it is UNHEALTHY. Ports keep their names.
    """
    ready = [each.instance for each in pods if each.instance is not None and each.instance.serving]
    if address == "node-port":
        return _node_ports(service, ready, nodes)
    if address == "cluster-ip":
        single = service.spec.cluster_i_p
        hosts = [single] if single and single != "None" else []
    else:
        ingress = service.status.load_balancer.ingress or ()
        hosts = [each.ip or each.hostname for each in ingress if each.ip or each.hostname]
    ports = tuple([port(p.port, p.name, p.protocol, p.app_protocol) for p in service.spec.ports or ()])
    return [_front(service, host, host, ports, len(ready) / len(hosts)) for host in hosts]


def _node_ports(service: Service, ready: Sequence[Instance], nodes: Sequence[Node]) -> list[Entry]:
    there = [node for node in nodes if node.address and node.ready]
    ports = tuple(
        [port(p.node_port, p.name, p.protocol, p.app_protocol) for p in service.spec.ports or () if p.node_port]
    )
    if not ports:
        return []
    made = []
    for node in there:
        if service.spec.external_traffic_policy == "Local":  # a node leads to its own pods alone
            weight = float(sum(each.metadata.get(NODE) == node.metadata.name for each in ready))
        else:
            weight = len(ready) / len(there)
        made.append(_front(service, node.metadata.name, node.address, ports, weight))
    return made


def _front(service: Service, id: str, address: str, ports: tuple[Port, ...], weight: float) -> Entry:
    metadata = metadata_of(service.metadata)
    version = version_of(metadata)
    health = Health.HEALTHY if weight else Health.UNHEALTHY
    try:
        host = hostport.host(address)
    except ValueError as error:
        return Entry(id, None, None, str(error))
    return Entry(id, Instance(id, host, ports, health, weight or 1.0, version=version, metadata=metadata))
