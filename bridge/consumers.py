"""Who reads each kind of registry: what stock clients see of an entry, and how long they take to follow a change.

Seen on real servers, each client with its defaults: Spring Cloud 2025.0, Dubbo 2.7 and 3.3, kratos 2.9, Kitex 0.15,
go-zero 1.9, gRPC-Go 1.79; of Ribbon 2.3, fargo, Istio and kube-proxy by their source. Of others nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Consumer(NamedTuple):
    """One kind of client of a registry.

    `settles`: seconds from a change in the registry until its last new request to what was there before; None: it never
    follows by itself, and is to be restarted. `by`: what makes up that time, and the setting that changes it.
    `sees`: what it does with what stands there, and what it does not see. `keeps_last`: it goes on calling the last
    instance of a service after that is removed, until there is another one. `weighs`: it obeys the weight of what we
    write, by default. `steered`: whether how many requests go where follows from what stands there at all. `leaves`:
    seconds until it leaves what is removed, where that is another time.
    """

    name: str
    settles: float | None
    by: str
    sees: str
    keeps_last: bool = False
    weighs: bool = False
    steered: bool = True
    leaves: float | None = None

    @property
    def key(self) -> str:
        """What a file calls it: the first word of its name."""
        return self.name.split()[0].lower()


_SPRING_CACHE = "its own cache of 35 s (spring.cloud.loadbalancer.cache.ttl)"
_SPRING_WEIGHT = "weight only by spring.cloud.loadbalancer.configurations=weighted, from metadata `weight`"
_DUBBO = Consumer(
    "Dubbo 2.7 and 3", 1.0, "pushed; open calls have 10 s more", "weight is obeyed; health is not read", weighs=True
)

# By layout; of a kind of registry without layouts, by kind.
CONSUMERS: dict[str, tuple[Consumer, ...]] = {
    "consul": (
        Consumer(
            "Spring Cloud LoadBalancer",
            35.0,
            _SPRING_CACHE,
            "critical instances and those in maintenance are called, too, unless it sets query-passing=true; "
            f"{_SPRING_WEIGHT}; Consul's weights are not read",
        ),
        Consumer("kratos", 1.0, "a blocking query", "weight by metadata `weight`; Consul's weights are not read", True),
        Consumer(
            "DNS",
            30.0,
            "its answers may be kept for dns_config.service_ttl (0), and a JVM keeps names for 30 s",
            "critical instances are left out; weights are in SRV answers alone",
        ),
    ),
    "eureka": (
        Consumer(
            "Spring Cloud LoadBalancer",
            95.0,
            "the server's cache 30 s, the client's fetch 30 s, its own cache 35 s",
            f"what is UP alone, by its VIP address; {_SPRING_WEIGHT}",
        ),
        Consumer(
            "Ribbon",
            90.0,
            "the server's cache 30 s, the client's fetch 30 s, ServerListRefreshInterval 30 s",
            "what is UP alone; weight is never read",
        ),
        Consumer("fargo", 60.0, "the server's cache 30 s, its poll 30 s", "what is UP alone"),
    ),
    "kubernetes": (
        Consumer(
            "kube-proxy and what goes by it",
            1.0,
            "for new connections; one that is open stays with its endpoint until somebody closes it",
            "ready endpoints, each with an equal chance; weight, DEGRADED and metadata are read by bridges alone",
        ),
        Consumer(
            "Istio", 10.0, "its debounce (PILOT_DEBOUNCE_MAX)", "ready endpoints; the weight of a pod is always 1"
        ),
    ),
    "spring": (
        Consumer(
            "Spring Cloud LoadBalancer",
            35.0,
            _SPRING_CACHE,
            f"OUT_OF_SERVICE in the payload is obeyed; {_SPRING_WEIGHT}",
        ),
    ),
    "dubbo2": (
        _DUBBO,
        Consumer("dubbo-go", 1.0, "pushed", "weight is obeyed; a Java `timestamp` gives no warm-up", weighs=True),
    ),
    "dubbo3": (_DUBBO,),
    "kratos": (
        Consumer(
            "kratos", 0.5, "a watch", "weight by metadata `weight`, 0 is none; health is not read", True, weighs=True
        ),
    ),
    "kitex": (
        Consumer(
            "Kitex",
            5.0,
            "a poll of 5 s (RefreshInterval)",
            "weight is obeyed, 0 counts as 10; health is not read",
            True,
            weighs=True,
        ),
    ),
    "go-zero": (
        Consumer("go-zero", 0.5, "a watch", "weight and health are never read: it follows latency", steered=False),
    ),
    "grpc": (
        Consumer("gRPC-Go with round_robin", 0.5, "a watch", "weight and health are not read"),
        Consumer(
            "gRPC-Go without a service config",
            None,
            "it stays with the address that it has taken, as long as that is there; what is removed it leaves in 0.5 s",
            "the first key gets all of its requests (pick_first)",
            steered=False,
            leaves=0.5,
        ),
    ),
    "xds": (
        Consumer("Envoy", 0.5, "pushed", "localities and endpoints by their weight", weighs=True),
        Consumer("gRPC with xds:///", 0.5, "pushed", "localities by their weight, endpoints in turn", weighs=True),
    ),
    "istio": (
        Consumer(
            "Istio's proxies",
            10.0,
            "its debounce (PILOT_DEBOUNCE_MAX)",
            "endpoints by their weight where a DestinationRule says ROUND_ROBIN (`destination_rules: true`); else 75 "
            "to 25 comes out as about 65 to 35",
            weighs=True,
        ),
    ),
    "traefik": (Consumer("Traefik", 5.0, "a poll of 5 s", "servers by their weight", weighs=True),),
    "nginx": (Consumer("nginx", 10.0, "a reload, at most each 5 s", "servers by their weight", weighs=True),),
}

_ACTUATOR = (
    "curl -X POST -H 'Content-Type: application/json' -d '{\"status\": \"OUT_OF_SERVICE\"}' "
    "http://ADDRESS:MANAGEMENT_PORT/actuator/serviceregistry"
)
# What is run at the machine of a native, before its process is stopped, so that consumers leave it while it still
# answers. Of all others the orderly stop takes the record away, and consumers follow within their time.
FIRST: dict[str, str] = {
    "consul": "consul services deregister -id ID  # at its own agent: maintenance is not obeyed by Spring's consumers",
    "eureka": _ACTUATOR,
    "spring": _ACTUATOR,
}
STOP = (
    "systemctl stop SERVICE  # in order: a process that is killed stays in the registry until its lease or session ends"
)

# The smallest weight that a layout can say, and the step between two, where 1.0 is its default.
UNITS: dict[str, float] = {
    "dubbo2": 0.01,
    "dubbo3": 0.01,
    "kratos": 0.01,
    "kitex": 0.1,
    "xds": 0.01,
    "istio": 0.01,
    "traefik": 0.01,
    "nginx": 0.01,
}

# The greatest weight of one that is less than any share may come to.
GREATEST: dict[str, float] = {"istio": 10_000.0}

# Layouts whose consumers obey weights only where this key of the registry's block is set.
ONLY_WITH: dict[str, str] = {"istio": "destination_rules"}

LONGEST_REQUEST = 30.0  # seconds that a request may take that began just before
SPARE = 1.1  # of the time that was measured, so much is waited


class Settled(NamedTuple):
    """When the last of some consumers follows a change. `slowest`: who takes so long; `restart`: who never follows."""

    seconds: float
    slowest: str
    restart: tuple[str, ...]


def settled(consumers: Iterable[Consumer], *, removed: bool, last: bool, longest: float = LONGEST_REQUEST) -> Settled:
    """How long after a change no request goes by what was before.

    `removed`: what is left is gone from the registry, else it is there and says so. `last`: nothing serves any more.
    `longest`: seconds of a request.
    """
    slowest, most, restart = "", 0.0, []
    for one in consumers:
        seconds = one.leaves if removed and one.leaves is not None else one.settles
        if seconds is None or (last and one.keeps_last):
            restart.append(one.name)
        elif seconds > most:
            slowest, most = one.name, seconds
    return Settled((most + longest) * SPARE, slowest, tuple(dict.fromkeys(restart)))


def leaving(layout: str, settles: float, *, keeps_last: bool) -> tuple[str, ...]:
    """The commands by which one batch of natives leaves, in their order. `settles`: seconds of the slowest reader."""
    before = (FIRST[layout],) if layout in FIRST else ()
    wait = f"sleep {settles:.0f}  # until the slowest consumer has followed"
    last = ("# the last one only while a copy of the new side is there: its consumers keep the last one for ever",)
    return (*before, *((wait,) if before else ()), STOP, *(() if before else (wait,)), *(last if keeps_last else ()))


def consumers_of(layout: str) -> tuple[Consumer, ...]:
    """The clients that are known to read what has this layout; none of files, and of what nobody has measured."""
    return CONSUMERS.get(layout, ())


class Unseen(NamedTuple):
    """Readers that a kind of registry cannot tell of: which, why, and the command that tells more, by `{service}`."""

    who: str
    why: str
    command: str


# By kind of registry; what is known of others is in `bridge.adapter.Readers`.
UNSEEN: dict[str, tuple[Unseen, ...]] = {
    "zookeeper": (
        Unseen(
            "who watches children (Dubbo's providers, kazoo, go-zookeeper), and who polls (Spring)",
            "ZooKeeper lists data watches and persistent recursive ones alone",
            "curl -s http://SERVER:8080/commands/connections  # each session, with its address and last operation",
        ),
    ),
    "etcd": (
        Unseen(
            "who watches which key",
            "etcd counts watches, and shows neither the client nor the prefix",
            "ss -Htn state established '( sport = :2379 )'  # at each member: who is connected",
        ),
        Unseen(
            "who polls (Kitex, every 5 s)",
            "only a member that was started with --log-level=debug logs each read",
            "journalctl -u etcd | grep Range | grep {service}",
        ),
    ),
    "consul": (
        Unseen(
            "who asks over HTTP",
            "Consul keeps no list; an agent logs each request when it ends, a blocking one within 10 minutes",
            "timeout 11m consul monitor -log-level=debug -log-json | grep '/v1/.*/{service}'  # at every agent",
        ),
        Unseen(
            "who asks by DNS",
            "answers are kept by resolvers on the way, and agents stand for who is behind them",
            "timeout 11m consul monitor -log-level=debug -log-json | grep 'dns.*{service}'  # at every agent",
        ),
    ),
    "eureka": (
        Unseen(
            "which service a client calls (Spring, Netflix)",
            "they read the whole registry; only fargo and some scripts ask for one service",
            "awk '{print $1}' access_log | sort | uniq -c  # with server.tomcat.accesslog.enabled=true: who polls",
        ),
    ),
    "kubernetes": (
        Unseen(
            "which service a client calls",
            "informers filter at their side, and kube-proxy and CoreDNS read for everybody",
            "kubectl -n kube-system logs -l k8s-app=kube-dns | grep {service}  # with CoreDNS's plugin `log`",
        ),
        Unseen(
            "who lists and watches slices",
            "only an audit policy with level Metadata for endpointslices and services tells",
            "jq -r 'select(.objectRef.resource==\"endpointslices\") | .user.username' audit.log | sort | uniq -c",
        ),
    ),
    "nginx": (Unseen("who goes through nginx", "its clients see nothing of the bridge", "tail access.log"),),
}
# Of every kind: the only proof that is valid for all of them.
ANYWHERE = Unseen(
    "whoever keeps an address and calls it",
    "no registry knows of calls",
    "isthmus probe --listening --targets FILE  # at each machine of the old side, while it is left: migrate targets",
)


def unseen_of(kind: str) -> tuple[Unseen, ...]:
    """The readers that a kind of registry cannot tell of."""
    return UNSEEN.get(kind, ())
