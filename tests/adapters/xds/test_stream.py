"""What one client is told, request by request, without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from hypothesis import given
from hypothesis import strategies as st

from adapters.xds.resources import Kind
from adapters.xds.stream import Asking, Stream
from bridge.model import Instance, Port
from mappings import xds_resources as mapping
from mappings.xds import EGRESS
from mappings.xds_resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, TYPES, Resource, Upstream


class Told(NamedTuple):
    """One response, decoded. `names` in a state-of-the-world response are those of the bodies."""

    type: str
    names: list[str]
    gone: list[str]
    nonce: str
    version: str


class Client:
    """Both ends of a stream."""

    def __init__(self, kinds: Mapping[str, Kind], *, delta: bool) -> None:
        self.stream = Stream(kinds, lambda: 0.0, delta=delta)
        self.delta = delta
        self.names: dict[str, list[str]] = {}
        self.ready: Callable[[str], bool] | None = None

    def ask(self, type: str, *names: str, gone: Sequence[str] = (), known: Mapping[str, str] | None = None) -> None:
        self.names[type] = list(names)
        self.stream.take(Asking(type, "", None, names, gone, known or {}))

    def told(self) -> Told | None:
        """The next response, not yet answered."""
        body = self.stream.next(self.ready)
        if body is None:
            return None
        if self.delta:
            made: Any = discovery.DeltaDiscoveryResponse.FromString(body)
            names = [one.name for one in made.resources]
            return Told(made.type_url, names, list(made.removed_resources), made.nonce, made.system_version_info)
        made = discovery.DiscoveryResponse.FromString(body)
        return Told(made.type_url, [_name(one) for one in made.resources], [], made.nonce, made.version_info)

    def answer(self, told: Told, refusal: str | None = None) -> None:
        names = () if self.delta else self.names.get(told.type, ())
        self.stream.take(Asking(told.type, told.nonce, refusal, names))

    def all(self) -> list[tuple[str, list[str], list[str]]]:
        """Everything that comes, each accepted at once: type, names and what is gone."""
        found = []
        while (told := self.told()) is not None:
            found.append((told.type, sorted(told.names), sorted(told.gone)))
            self.answer(told)
        return found


def _name(one: Any) -> str:
    message: Any = {
        CLUSTER: Cluster,
        ENDPOINTS: ClusterLoadAssignment,
        LISTENER: Listener,
        ROUTES: RouteConfiguration,
    }[one.type_url]
    made = message.FromString(one.value)
    return str(made.cluster_name if one.type_url == ENDPOINTS else made.name)


def served(*names: str, egress: bool = False) -> dict[str, Kind]:
    """What a picture of these services is."""
    kinds = {type: Kind() for type in TYPES}
    for name in names:
        serve(kinds, name, 1)
    if egress:
        kinds[LISTENER].put(mapping.egress("127.0.0.1", 15001))
        kinds[ROUTES].put(mapping.routes(names))
    return kinds


def serve(kinds: Mapping[str, Kind], name: str, *numbers: int, protocol: str = "http") -> None:
    some = [Instance(f"i{number}", f"192.0.2.{number}", (Port(80, "web", protocol),)) for number in numbers]
    kinds[CLUSTER].put(mapping.cluster(name, some, Upstream()))
    kinds[ENDPOINTS].put(mapping.assignment(name, some))
    kinds[LISTENER].put(mapping.listener(name))


def end(kinds: Mapping[str, Kind], name: str) -> None:
    for type in (LISTENER, ENDPOINTS, CLUSTER):
        kinds[type].drop(name)


def test_a_proxy_is_told_clusters_then_endpoints_then_what_refers_to_them() -> None:
    client = Client(served("pay", "cart", egress=True), delta=True)
    client.ask(LISTENER)
    client.ask(CLUSTER)
    assert client.all() == [(CLUSTER, ["cart", "pay"], []), (LISTENER, [EGRESS], [])]
    client.ask(ENDPOINTS, "pay", "cart")
    client.ask(ROUTES, EGRESS)
    assert client.all() == [(ENDPOINTS, ["cart", "pay"], []), (ROUTES, [EGRESS], [])]


def test_whoever_asks_for_all_is_answered_also_where_there_is_nothing() -> None:
    for delta in (True, False):
        client = Client(served(), delta=delta)
        client.ask(CLUSTER)
        assert client.all() == [(CLUSTER, [], [])]
        client.ask(LISTENER)
        assert client.all() == [(LISTENER, [], [])]


def test_a_name_that_nobody_serves_is_answered_at_once() -> None:
    for delta in (True, False):
        client = Client(served("pay"), delta=delta)
        client.ask(ENDPOINTS, "pay", "nobody")
        assert client.all() == [(ENDPOINTS, ["nobody", "pay"], [])]
    client = Client(served("pay"), delta=True)
    client.ask(CLUSTER, "nobody")
    assert client.all() == [(CLUSTER, [], ["nobody"])]


def test_a_slow_client_is_told_the_newest_when_it_is_ready() -> None:
    for delta in (True, False):
        kinds = served("pay", "cart")
        client = Client(kinds, delta=delta)
        client.ask(ENDPOINTS, "pay", "cart")
        first = client.told()
        assert first is not None
        for number in range(2, 50):
            serve(kinds, "pay", number)
        assert client.told() is None, "one response is under way at a time"
        client.answer(first)
        assert client.all() == [(ENDPOINTS, ["pay"], [])]


def test_an_endpoint_that_changes_is_one_resource_in_both_variants() -> None:
    for delta in (True, False):
        kinds = served(*(f"s{number}" for number in range(100)))
        client = Client(kinds, delta=delta)
        client.ask(ENDPOINTS, *kinds[CLUSTER].there)
        client.all()
        serve(kinds, "s7", 1, 2)
        assert client.all() == [(ENDPOINTS, ["s7"], [])]
        serve(kinds, "s7", 1, 2)
        assert client.all() == [], "equal bytes are not pushed"


def test_a_refused_response_is_said_again_in_halves_until_the_culprit_is_alone() -> None:
    names = [f"s{number}" for number in range(8)]
    for delta in (True, False):
        kinds = served(*names)
        client = Client(kinds, delta=delta)
        client.ask(ENDPOINTS, *names)
        accepted: set[str] = set()
        while (told := client.told()) is not None:
            if "s3" in told.names:
                client.answer(told, "s3 is bad")
            else:
                client.answer(told)
                accepted |= set(told.names)
        assert accepted == {*names} - {"s3"}
        assert {name: reason for name, (_, reason) in client.stream.topics[ENDPOINTS].refused.items()} == {
            "s3": "s3 is bad"
        }
        serve(kinds, "s4", 2)
        assert client.all() == [(ENDPOINTS, ["s4"], [])], "what was refused is not said again as it is"
        serve(kinds, "s3", 2)
        assert client.all() == [(ENDPOINTS, ["s3"], [])]
        assert not client.stream.topics[ENDPOINTS].refused


def test_a_client_that_comes_back_is_told_what_differs_alone() -> None:
    kinds = served("pay", "cart", "old")
    client = Client(kinds, delta=True)
    client.ask(CLUSTER)
    client.ask(ENDPOINTS, "pay", "cart", "old")
    client.all()
    known = {type: client.stream.topics[type].has.all() for type in (CLUSTER, ENDPOINTS)}
    again = Client(kinds, delta=True)
    again.ask(CLUSTER, known=known[CLUSTER])
    again.ask(ENDPOINTS, "pay", "cart", "old", known=known[ENDPOINTS])
    assert again.all() == [(CLUSTER, [], [])], "nothing changed, and nothing is sent"
    end(kinds, "old")
    serve(kinds, "pay", 1, 2)
    third = Client(kinds, delta=True)
    third.ask(CLUSTER, known=known[CLUSTER])
    third.ask(ENDPOINTS, "pay", "cart", "old", known=known[ENDPOINTS])
    assert third.all() == [(CLUSTER, [], ["old"]), (ENDPOINTS, ["old", "pay"], [])]


def test_a_cluster_known_by_its_endpoints_alone_is_removed_when_it_is_gone() -> None:
    client = Client(served("pay"), delta=True)
    client.ask(CLUSTER, known={})
    client.all()
    client.ask(ENDPOINTS, "pay", "ghost")
    assert (CLUSTER, [], ["ghost"]) in client.all()


def test_a_cluster_that_changes_is_followed_by_its_endpoints() -> None:
    kinds = served("pay", "cart")
    client = Client(kinds, delta=True)
    client.ask(CLUSTER)
    client.ask(ENDPOINTS, "pay", "cart")
    client.all()
    serve(kinds, "pay", 1, protocol="grpc")
    told = client.told()
    assert told is not None
    assert (told.type, told.names) == (CLUSTER, ["pay"])
    after = client.told()  # before the first is accepted: a proxy accepts a cluster when it has its endpoints
    assert after is not None
    assert (after.type, after.names) == (ENDPOINTS, ["pay"])


def test_a_proxy_asks_again_for_endpoints_of_a_cluster_and_gets_them() -> None:
    client = Client(served("pay"), delta=False)
    client.ask(ENDPOINTS, "pay")
    told = client.told()
    assert told is not None
    client.answer(told)
    assert client.told() is None
    client.stream.take(Asking(ENDPOINTS, told.nonce, None, ["pay"]))  # word for word, as when it warms a cluster
    assert client.all() == [(ENDPOINTS, ["pay"], [])]


def test_a_route_goes_before_its_cluster_and_comes_after_it() -> None:
    for delta in (True, False):
        kinds = served("pay", "old", egress=True)
        client = Client(kinds, delta=delta)
        client.ask(CLUSTER)
        client.ask(ENDPOINTS, "pay", "old")
        client.ask(LISTENER)
        client.ask(ROUTES, EGRESS)
        client.all()
        end(kinds, "old")
        serve(kinds, "new", 1)
        kinds[ROUTES].put(mapping.routes(["pay", "new"]))
        said = client.all()
        types = [type for type, _, _ in said]
        goes = said.index((CLUSTER, [], ["old"])) if delta else types.index(CLUSTER, types.index(ROUTES))
        comes = next(at for at, (type, names, _) in enumerate(said) if type == CLUSTER and "new" in names)
        assert comes < types.index(ROUTES) < goes


def test_a_state_of_the_world_keeps_what_may_not_go_yet() -> None:
    kinds = served("pay", "old", egress=True)
    client = Client(kinds, delta=False)
    client.ask(CLUSTER)
    client.ask(ROUTES, EGRESS)
    client.all()
    end(kinds, "old")
    serve(kinds, "new", 1)
    kinds[ROUTES].put(mapping.routes(["pay", "new"]))
    assert client.all() == [
        (CLUSTER, ["new", "old", "pay"], []),
        (ROUTES, [EGRESS], []),
        (CLUSTER, ["new", "pay"], []),
    ]


def test_a_grpc_client_asks_by_name_from_listener_to_endpoints() -> None:
    kinds = served("pay", "cart", egress=True)
    client = Client(kinds, delta=False)
    for type in (LISTENER, CLUSTER, ENDPOINTS):
        client.ask(type, "pay")
        assert client.all() == [(type, ["pay"], [])]
    serve(kinds, "cart", 5)
    assert client.all() == [], "what it did not ask for is none of its business"


def test_what_is_unsubscribed_from_is_told_no_more() -> None:
    kinds = served("pay", "cart")
    client = Client(kinds, delta=True)
    client.ask(ENDPOINTS, "pay", "cart")
    client.all()
    client.ask(ENDPOINTS, gone=["cart"])
    serve(kinds, "cart", 9)
    serve(kinds, "pay", 9)
    assert client.all() == [(ENDPOINTS, ["pay"], [])]


def test_a_large_answer_comes_in_parts_that_every_client_takes() -> None:
    kinds = {type: Kind() for type in TYPES}
    for number in range(30):
        kinds[ENDPOINTS].put(Resource(f"s{number}", "1", b"\0" * 200_000))
    client = Client(kinds, delta=True)
    client.ask(ENDPOINTS, *(f"s{number}" for number in range(30)))
    said = client.all()
    assert sorted(name for _, names, _ in said for name in names) == sorted(f"s{number}" for number in range(30))
    assert max(len(names) for _, names, _ in said) <= 10


TYPE = st.sampled_from([*TYPES, "type.googleapis.com/unknown", ""])
NAME = st.sampled_from(["pay", "cart", "*", "", "nobody", EGRESS])
ASKING = st.builds(
    Asking,
    TYPE,
    st.sampled_from(["", "1", "2", "3", "x"]),
    st.none() | st.text(max_size=3),
    st.lists(NAME, max_size=3),
    st.lists(NAME, max_size=2),
    st.dictionaries(NAME, st.text(max_size=2), max_size=2),
)


@given(delta=st.booleans(), steps=st.lists(ASKING | st.integers(1, 5), max_size=30))
def test_no_sequence_of_requests_breaks_a_stream_or_makes_it_babble(delta: bool, steps: list[Asking | int]) -> None:
    kinds = served("pay", "cart", egress=True)
    client = Client(kinds, delta=delta)
    for step in steps:
        if isinstance(step, int):
            serve(kinds, "pay", step)
        else:
            client.stream.take(step)
        for _ in range(2 * len(TYPES) + 1):
            if client.stream.next() is None:
                break
        else:
            raise AssertionError("it says more than one response of a type that is not answered")
    for _ in range(100):
        if not client.all():
            return
    raise AssertionError("it never comes to rest")


def test_what_many_begin_with_is_put_together_once_and_followed_by_each() -> None:
    kinds = {type: Kind() for type in TYPES}
    names = [f"cluster-{number}" for number in range(9)]
    for name in names[:8]:  # nobody serves the last one
        kinds[ENDPOINTS].put(Resource(name, "1", b"x" * (1 << 20)))
    one, other = Client(kinds, delta=True), Client(kinds, delta=True)
    told = []
    for client in (one, other):
        client.ask(ENDPOINTS, *names)
        first = client.told()
        assert first is not None
        assert first.names == names[:2]
        told.append(first)
    kinds[ENDPOINTS].put(Resource(names[0], "2", b"y"))
    kinds[ENDPOINTS].put(Resource(names[5], "2", b"y"))
    other.ask(ENDPOINTS, gone=[names[4]])
    for client, first in zip((one, other), told, strict=True):
        client.answer(first)
    said = [[name for _, some, _ in client.all() for name in some] for client in (one, other)]
    assert set(said[0]) == {names[0], *names[2:]}, "what changed meanwhile is told again"
    assert set(said[1]) == {names[0], *names[2:]} - {names[4]}, "what it unsubscribed from is not"


def test_a_response_that_many_are_told_is_the_same_bytes_for_all() -> None:
    for delta in (True, False):
        kinds = served("pay")
        one, other = (Client(kinds, delta=delta).stream for _ in range(2))
        said = []
        for stream in (one, other):
            stream.take(Asking(ENDPOINTS, "", None, ["pay"]))
            said.append(stream.next())
        assert said[0] is not None
        assert said[0] is said[1]
        kind = discovery.DeltaDiscoveryResponse if delta else discovery.DiscoveryResponse
        nonces = [kind.FromString(said[0]).nonce]
        for _ in range(3):  # said again to one of them: never by the nonce of the response before
            one.take(Asking(ENDPOINTS, nonces[-1], None, () if delta else ["pay"]))
            one.take(Asking(ENDPOINTS, nonces[-1], None, ["pay"]))
            again = one.next()
            assert again is not None
            nonces.append(kind.FromString(again).nonce)
        assert all(before != after for before, after in pairwise(nonces))


def test_a_name_that_is_asked_for_twice_is_told_once() -> None:
    kinds = {type: Kind() for type in TYPES}
    kinds[ENDPOINTS].put(Resource("pay", "1", b""))
    client = Client(kinds, delta=True)
    client.ask(ENDPOINTS, "pay", "nobody", "pay", "nobody")
    assert client.all() == [(ENDPOINTS, ["nobody", "pay"], [])]


def test_only_names_of_which_all_is_known_are_told_while_others_are_not() -> None:
    made = served("pay", "web", egress=True)
    known = {"pay", "nobody"}
    world, delta, proxy = Client(made, delta=False), Client(made, delta=True), Client(made, delta=True)
    for client in (world, delta, proxy):
        client.ready = known.__contains__
    for client in (world, delta):
        client.ask(ENDPOINTS, "pay", "web", "nobody")
        assert client.all() == [(ENDPOINTS, ["nobody", "pay"], [])]
    world.ask(LISTENER, "pay")
    world.ask(CLUSTER, "pay", "web")  # a response without one of them would say that it is gone
    assert world.all() == [(LISTENER, ["pay"], [])]
    delta.ask(CLUSTER, "pay", "web", "nobody", "more")
    assert delta.all() == [(CLUSTER, ["pay"], ["nobody"]), (ENDPOINTS, ["pay"], [])]
    proxy.ask(CLUSTER)
    proxy.ask(ENDPOINTS, "web")
    proxy.ask(LISTENER)
    proxy.ask(ROUTES, EGRESS)
    assert proxy.told() is None
    known.add("web")
    assert world.all() == [(CLUSTER, ["pay", "web"], []), (ENDPOINTS, ["web"], [])]
    assert delta.all() == [(CLUSTER, ["web"], []), (ENDPOINTS, ["web"], [])]
    assert proxy.all() == [(ENDPOINTS, ["web"], [])]
    for client in (world, delta, proxy):
        client.ready = None
    assert [type for type, _, _ in proxy.all()] == [CLUSTER, ENDPOINTS, LISTENER, ROUTES]
    assert delta.all() == [(CLUSTER, [], ["more"])]
    assert world.all() == []
