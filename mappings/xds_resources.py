"""The messages of xDS v3 that a service is to data planes, each encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3 import config_source_pb2 as source
from envoy.config.core.v3.health_check_pb2 import DRAINING
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from msgspec.structs import astuple

from bridge.model import Health, Instance, Locality
from mappings.common import weights
from mappings.xds import EGRESS, SHARE

_TYPE = "type.googleapis.com/"
CLUSTER = _TYPE + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = _TYPE + "envoy.config.listener.v3.Listener"
ROUTES = _TYPE + "envoy.config.route.v3.RouteConfiguration"
# In the order in which a data plane must hear of what is new: what is referred to before what refers to it.
TYPES = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)

MOST = 2**32 - 1  # the sum of weights in an assignment

_HTTP2 = frozenset({"grpc", "h2c", "http2"})
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ADS = source.ConfigSource(ads=source.AggregatedConfigSource(), resource_api_version=source.ApiVersion.V3)
_PREVIOUS = PreviousHostsPredicate()
_ROUTER = hcm.HttpFilter(name="router")
_ROUTER.typed_config.Pack(Router())


class Resource(NamedTuple):
    """One resource, encoded once for all clients. `version`: the same wherever the content is the same."""

    name: str
    version: str
    body: bytes


NAMED_BY = "x-envoy-upstream-healthchecked-cluster"  # the header of an answer that Envoy's service name matcher reads


class Check(NamedTuple):
    """What an Envoy asks each instance of a cluster. `named`: who answers has to say the cluster's name."""

    path: str
    interval: float
    timeout: float
    named: bool


class Upstream(NamedTuple):
    """How clusters reach instances. `ca`: a path at the proxy: what signs certificates, for ports with TLS."""

    ca: str = ""
    connect_timeout: float = 5.0


class Shape(NamedTuple):
    """All that a cluster whose endpoints come by EDS says of its instances."""

    http2: bool
    tls: bool


def shape(instances: Iterable[Instance]) -> Shape:
    """That of a cluster of these, each with one port."""
    ports = {one.ports[0] for one in instances}
    return Shape(any(port.protocol in _HTTP2 for port in ports), any(port.tls for port in ports))


def cluster(
    name: str,
    instances: Sequence[Instance],
    upstream: Upstream,
    check: Check | None = None,
    looked_up: Any = None,
) -> Resource:
    """A cluster whose endpoints come by EDS over the same stream; or (`looked_up`, of `endpoints_of`) are in it.

    Localities share by their weights; `max_retries` is raised, for three at once, the default, make retries useless.
    """
    made = Cluster(name=name, type=Cluster.EDS, lb_policy=Cluster.ROUND_ROBIN)
    made.connect_timeout.FromMilliseconds(round(upstream.connect_timeout * 1000))
    if looked_up is None:
        made.eds_cluster_config.eds_config.CopyFrom(_ADS)
    else:
        made.type, made.dns_lookup_family, made.respect_dns_ttl = Cluster.STRICT_DNS, Cluster.V4_PREFERRED, True
        made.load_assignment.CopyFrom(looked_up)
    made.common_lb_config.locality_weighted_lb_config.SetInParent()
    threshold = made.circuit_breakers.thresholds.add()
    threshold.max_retries.value = 1000
    made.ignore_health_on_host_removal = True
    if check is not None:  # never without ignore_health_on_host_removal: what is removed would stay while it answers
        _checked(made, check)
    like = shape(instances)
    if like.http2:
        options = HttpProtocolOptions()
        options.explicit_http_config.http2_protocol_options.CopyFrom(Http2ProtocolOptions())
        made.typed_extension_protocol_options[_HTTP].Pack(options)
    if like.tls:
        tls = UpstreamTlsContext(sni=name)
        if upstream.ca:
            tls.common_tls_context.validation_context.trusted_ca.filename = upstream.ca
        made.transport_socket.name = "envoy.transport_sockets.tls"
        made.transport_socket.typed_config.Pack(tls)
    return _resource(name, made)


def _checked(made: Any, check: Check) -> None:
    """Two that fail take an instance out, one that passes takes it back."""
    asked = made.health_checks.add()
    asked.interval.FromMilliseconds(round(check.interval * 1000))
    asked.timeout.FromMilliseconds(round(check.timeout * 1000))
    asked.unhealthy_threshold.value, asked.healthy_threshold.value = 2, 1
    asked.http_health_check.path = check.path
    asked.http_health_check.host = made.name
    if check.named:
        asked.http_health_check.service_name_matcher.exact = made.name


class Near(NamedTuple):
    """Where clients are, as far as it counts: `zone` "" where other zones of the region are as near as their own."""

    region: str = ""
    zone: str = ""

    def rank(self, there: Locality) -> int:
        """How far a locality is: 0 here, 1 in the region, 2 elsewhere.

        The zone of one side of a migration is `ZONE.SIDE`: neither side is nearer.
        """
        if self.region and there.region != self.region:
            return 2
        is_here = not self.zone or there.zone == self.zone or there.zone.startswith(f"{self.zone}.")
        return 0 if is_here else 1 if self.region else 2


ANYWHERE = Near()


def assignment(name: str, instances: Iterable[Instance], near: Near = ANYWHERE) -> Resource:
    """The endpoints of a cluster; see `endpoints_of`."""
    return _resource(name, endpoints_of(name, instances, near))


def endpoints_of(name: str, instances: Iterable[Instance], near: Near = ANYWHERE) -> Any:
    """The endpoints, by locality. Of two on one address and port the first by id is taken.

    Priorities begin with 0 and have no gap, or gRPC refuses them; farther localities serve where nearer ones cannot.
    """
    made = ClusterLoadAssignment(cluster_name=name)
    localities: dict[Locality, list[tuple[Instance, int]]] = {}
    taken: set[tuple[str, int]] = set()
    for one in sorted(instances, key=lambda one: one.id):
        place = one.address, one.ports[0].number
        if place not in taken:
            taken.add(place)
            localities.setdefault(one.locality, []).append((one, weights.write(one.weight, SHARE, least=1)))
    total = sum(weight for some in localities.values() for _, weight in some)
    shrink = max(1.0, total / (MOST - len(taken)))  # what is beyond the sum that clients can add up
    ranks = sorted({near.rank(locality) for locality in localities})
    for locality in sorted(localities, key=lambda one: (near.rank(one), astuple(one))):
        group = made.endpoints.add()
        group.priority = ranks.index(near.rank(locality))
        group.locality.region, group.locality.zone, group.locality.sub_zone = astuple(locality)
        shrunk = [max(1, int(weight / shrink)) for _, weight in localities[locality]]
        for (one, _), weight in zip(localities[locality], shrunk, strict=True):
            _add(group, one, weight)
        group.load_balancing_weight.value = sum(shrunk)
    return made


@lru_cache(maxsize=4096)
def nothing(name: str) -> Resource:
    """The assignment of a name that nobody serves: without an answer its client would wait for 15 s."""
    return _resource(name, ClusterLoadAssignment(cluster_name=name))


def listener(name: str) -> Resource:
    """What `xds:///NAME` of a gRPC client asks for: a route of everything to the cluster of that name."""
    manager = hcm.HttpConnectionManager(http_filters=[_ROUTER])
    _route(manager.route_config, name, ("*",))
    manager.route_config.name = name
    made = Listener(name=name)
    made.api_listener.api_listener.Pack(manager)
    return _resource(name, made)


def egress(host: str, port: int) -> Resource:
    """The listener at which applications beside an Envoy reach every service, by the name in the request's host."""
    manager = hcm.HttpConnectionManager(stat_prefix=EGRESS, http_filters=[_ROUTER])
    manager.rds.route_config_name = EGRESS
    manager.rds.config_source.CopyFrom(_ADS)
    made = Listener(name=EGRESS)
    made.address.socket_address.address, made.address.socket_address.port_value = host, port
    made.filter_chains.add().filters.add(name="http").typed_config.Pack(manager)
    return _resource(EGRESS, made)


def routes(names: Iterable[str]) -> Resource:
    """A route for each name, whatever port stands behind it in the request."""
    made = RouteConfiguration(name=EGRESS)
    made.ignore_port_in_host_matching = True
    for name in sorted(names):
        _route(made, name, (name,))
    return _resource(EGRESS, made)


def _route(to: RouteConfiguration, name: str, domains: Sequence[str]) -> None:
    """A connection that fails is tried once more, at another instance."""
    host = to.virtual_hosts.add(name=name, domains=domains)
    route = host.routes.add()
    route.match.prefix = ""
    route.route.cluster = name
    policy = route.route.retry_policy
    policy.retry_on = "connect-failure,refused-stream,unavailable"
    policy.num_retries.value = 2
    policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts").typed_config.Pack(_PREVIOUS)
    policy.host_selection_retry_max_attempts = 3


def _add(group: Any, one: Instance, weight: int) -> None:
    endpoint = group.lb_endpoints.add()
    socket = endpoint.endpoint.address.socket_address
    socket.address, socket.port_value = one.address, one.ports[0].number
    endpoint.load_balancing_weight.value = weight
    if one.health is Health.DRAINING:
        endpoint.health_status = DRAINING
    said = {**one.metadata, **({"version": one.version} if one.version else {})}
    if said:
        fields = endpoint.metadata.filter_metadata["envoy.lb"].fields
        for key in sorted(said):
            fields[key].string_value = said[key]


def _resource(name: str, message: Any) -> Resource:
    body = message.SerializeToString(deterministic=True)
    return Resource(name, hashlib.blake2b(body, digest_size=8).hexdigest(), body)
