"""The xDS port over the network: who is answered there, and what becomes of those that say nonsense or nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from msgspec.structs import replace

from adapters import xds
from adapters.common.export import ExportRegistry
from adapters.xds.resources import VIEWS
from bridge.adapter import Change, Observer
from bridge.errors import Denied
from bridge.model import Instance, Locality, Mark, Port, ServiceName
from tests.kit.ads import CLUSTER, ENDPOINTS, SERVICE, Ads, Told
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.certificates import Certificates, issue

PAY = ServiceName("pay")
IDLE = 1000  # connections that say nothing
ONE = Instance("i1", "192.0.2.1", (Port(80, "web", "http"),))


class Served(NamedTuple):
    """An export that serves one instance of `pay`."""

    registry: ExportRegistry
    address: str

    async def change(self, instance: Instance) -> None:
        """Another one in its place, or the first."""
        sink = self.registry.sink("b1")
        held = (await sink.held([PAY])).services.get(PAY, {})
        mark = Mark("b1", "link", ("origin",), "", PAY, instance.id)
        (outcome,) = await sink.apply([Change(PAY, instance.id, held.get(instance.id), instance, mark)], None)
        assert outcome.error is None


@asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[Served]:
    (port,) = ports.reserve(1)
    address = f"127.0.0.1:{port}"
    registry = xds.create("mesh", xds.Config(listen=address, **options), folder)
    made = Served(registry, address)
    await made.change(ONE)
    registry.sink("b1").missing(frozenset())
    serving = asyncio.create_task(registry.serve())

    async def answers() -> bool:
        with suppress(OSError):
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
            return True
        return serving.done() and serving.result() is None

    try:
        await until(answers, "it listens")
        yield made
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        ports.release([port])


async def asked(channel: grpc.aio.Channel) -> list[str]:
    """The names of the clusters that are told first."""
    async with channel, Ads(channel).delta() as stream:
        await stream.ask(CLUSTER)
        return [*(await stream.next()).found]


def identity(certificates: Certificates, who: str) -> grpc.ChannelCredentials:
    shown = getattr(certificates, who)
    return grpc.ssl_channel_credentials(certificates.ca.read_bytes(), shown.key.read_bytes(), shown.cert.read_bytes())


async def test_who_shows_no_certificate_of_the_authority_is_told_nothing(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = xds.Security(
        cert=str(certificates.server.cert), key=str(certificates.server.key), client_ca=str(certificates.ca)
    )
    async with served(tmp_path, tls=tls) as at:

        def secure(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
            return grpc.aio.secure_channel(at.address, credentials)

        assert await asked(secure(identity(certificates, "client"))) == ["pay"]
        nobody = grpc.ssl_channel_credentials(certificates.ca.read_bytes())
        for channel in (
            secure(identity(certificates, "stranger")),
            secure(nobody),
            grpc.aio.insecure_channel(at.address),
        ):
            with pytest.raises((grpc.aio.AioRpcError, AssertionError, asyncio.InvalidStateError)):
                await asked(channel)


async def test_a_certificate_that_is_replaced_is_shown_to_who_connects_from_then_on(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    old, new = issue(first), issue(second)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def show(certificates: Certificates) -> None:
        for source, target in ((certificates.server.cert, cert), (certificates.server.key, key)):
            shutil.copy(source, tmp_path / "draft")
            (tmp_path / "draft").replace(target)

    show(old)
    async with served(tmp_path, tls=xds.Security(cert=str(cert), key=str(key))) as at:

        def channel(certificates: Certificates) -> grpc.aio.Channel:
            return grpc.aio.secure_channel(at.address, grpc.ssl_channel_credentials(certificates.ca.read_bytes()))

        before = channel(old)
        async with before, Ads(before).delta() as stream:
            await stream.ask(ENDPOINTS, "pay")
            await stream.next()
            show(new)
            assert await asked(channel(new)) == ["pay"]
            await at.change(Instance("i1", "192.0.2.2", ONE.ports))
            assert [*(await stream.next()).found] == ["pay"], "who was connected stays"


async def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    registry = xds.create(
        "mesh",
        xds.Config(listen="127.0.0.1:1", tls=xds.Security(cert=str(tmp_path / "none.pem"), key="none.key")),
        tmp_path,
    )
    with pytest.raises(ExceptionGroup) as raised:
        await registry.serve()
    assert raised.group_contains(Denied, match=r"none\.pem")


NONSENSE = [
    b"",
    b"\0",
    b"\xff" * 64,
    b"\x0a\xff\xff\xff\xff\x0f",
    "é".encode() * 100,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("method", ["DeltaAggregatedResources", "StreamAggregatedResources", "Nothing"])
async def test_bytes_that_mean_nothing_end_their_own_stream_and_no_other(tmp_path: Path, method: str) -> None:
    async with (
        served(tmp_path) as at,
        grpc.aio.insecure_channel(at.address) as channel,
        Ads(channel).delta("the other") as stream,
    ):
        await stream.ask(ENDPOINTS, "pay")
        await stream.next()
        for body in NONSENSE:
            stub: Any = channel.stream_stream(
                SERVICE + method, request_serializer=_as_it_is, response_deserializer=_as_it_is
            )
            call = stub()
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(body)
                await call.done_writing()
                await asyncio.wait_for(call.read(), 5)
            call.cancel()
        reader, writer = await asyncio.open_connection(*at.address.split(":"))
        writer.write(b"\xff".join(NONSENSE))
        await asyncio.wait((asyncio.ensure_future(reader.read()),), timeout=1)
        writer.close()
        await at.change(Instance("i1", "192.0.2.3", ONE.ports))
        assert [*(await stream.next()).found] == ["pay"]

        async def alone() -> bool:
            return [one.name for one in at.registry.clients()] == ["the other"]

        await until(alone, "the others are gone")


async def test_a_client_that_never_answers_costs_one_response_and_is_shown(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as at,
        grpc.aio.insecure_channel(at.address) as channel,
        Ads(channel).delta("mute") as stream,
    ):
        await stream.ask(ENDPOINTS, "pay")
        first = await stream.told()
        for number in range(2, 30):
            await at.change(Instance("i1", f"192.0.2.{number}", ONE.ports))
        (shown,) = at.registry.clients()
        assert shown.behind > 0
        await stream.refuse(first, "no")
        newest = await stream.next()
        assert b"192.0.2.29" in newest.found["pay"]


async def test_clients_are_told_before_the_outcome_is_known(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as at,
        grpc.aio.insecure_channel(at.address) as channel,
        Ads(channel).delta() as stream,
    ):
        await stream.ask(ENDPOINTS, "pay")
        await stream.next()
        await until(lambda: [one.behind for one in at.registry.clients()] == [0.0], "it has accepted all")
        await at.change(replace(ONE, address="192.0.2.2"))
        (shown,) = at.registry.clients()
        assert shown.behind > 0
        assert b"192.0.2.2" in (await stream.next()).found["pay"]


async def test_connections_that_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    async with served(tmp_path) as at:
        host, port = at.address.split(":")
        idle = [await asyncio.open_connection(host, port) for _ in range(IDLE)]
        assert await asked(grpc.aio.insecure_channel(at.address)) == ["pay"]
        for _, writer in idle:
            writer.close()


async def test_a_client_that_never_reads_holds_up_nobody_and_is_named(tmp_path: Path) -> None:
    async with served(tmp_path) as at, grpc.aio.insecure_channel(at.address) as channel:
        sink = at.registry.sink("b1")
        many = [Instance(f"n{n}", f"198.51.{n // 250}.{n % 250 + 1}", ONE.ports) for n in range(5000)]
        mark = Mark("b1", "link", ("origin",), "", PAY, "n")
        outcomes = await sink.apply([Change(PAY, one.id, None, one, mark) for one in many], None)
        assert all(one.error is None for one in outcomes)  # far more than the window of an HTTP/2 stream
        async with Ads(channel).delta("mute") as mute, Ads(channel).delta("other") as other:
            await mute.ask(ENDPOINTS, "pay")

            async def behind() -> bool:
                return any(one.name == "mute" and one.behind > 0 for one in at.registry.clients())

            await until(behind, "it is named")
            await other.ask(ENDPOINTS, "pay")
            await other.next()
            for number in range(2, 12):
                await at.change(Instance("i1", f"192.0.2.{number}", ONE.ports))
                assert f"192.0.2.{number}".encode() in (await other.next()).found["pay"]
            assert await behind()


async def test_a_certificate_that_rotates_while_clients_come_costs_none_of_them(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    old, new = issue(first), issue(second)
    both = old.ca.read_bytes() + new.ca.read_bytes()
    cert, key, ca = (tmp_path / f"{name}.pem" for name in ("cert", "key", "ca"))
    ca.write_bytes(both)

    def put(pair: Certificates) -> None:
        shutil.copy(pair.server.cert, cert)
        shutil.copy(pair.server.key, key)

    put(old)
    async with served(tmp_path, tls=xds.Security(cert=str(cert), key=str(key), client_ca=str(ca))) as at:
        shown = grpc.ssl_channel_credentials(both, old.client.key.read_bytes(), old.client.cert.read_bytes())
        done: list[list[str]] = []

        async def come() -> None:
            while len(done) < 60:
                options = [("grpc.use_local_subchannel_pool", 1)]
                done.append(await asked(grpc.aio.secure_channel(at.address, shown, options=options)))
                if (
                    len(done) % 10 == 0
                ):  # half of a pair is there for a moment, as with every tool that writes two files
                    put(new if len(done) % 20 else old)

        await asyncio.gather(come(), come(), come())
        assert all(each == ["pay"] for each in done)


def _as_it_is(body: bytes) -> bytes:
    return body


async def test_a_cluster_is_told_anew_for_what_its_ports_speak_and_not_for_addresses(tmp_path: Path) -> None:
    async with served(tmp_path) as at, grpc.aio.insecure_channel(at.address) as channel, Ads(channel).delta() as stream:
        await stream.ask(CLUSTER)
        await stream.next()
        await stream.ask(ENDPOINTS, "pay")
        await stream.next()
        await at.change(replace(ONE, address="192.0.2.9"))
        assert (await stream.next()).type == ENDPOINTS
        await at.change(replace(ONE, ports=(Port(80, "web", "grpc"),)))
        told = await stream.next()
        assert told.type == CLUSTER
        assert Cluster.FromString(told.found["pay"]).typed_extension_protocol_options
        await stream.next()
        await at.change(replace(ONE, ports=(Port(80, "web", "http", tls=True),)))
        told = await stream.next()
        assert Cluster.FromString(told.found["pay"]).transport_socket.name


async def test_a_name_that_two_services_have_is_the_lessers_until_that_goes(tmp_path: Path) -> None:
    first, second = sorted((ServiceName("b-c", "a"), ServiceName("c", "a-b")))
    async with served(tmp_path, cluster="{namespace}-{name}") as at:
        sink = at.registry.sink("b1")

        async def told() -> bytes:
            async with grpc.aio.insecure_channel(at.address) as channel, Ads(channel).delta() as stream:
                await stream.ask(ENDPOINTS, "a-b-c")
                return (await stream.next()).found["a-b-c"]

        for number, name in ((2, second), (1, first)):
            one = replace(ONE, address=f"192.0.2.{number}")
            mark = Mark("b1", "link", ("origin",), "", name, one.id)
            await sink.apply([Change(name, one.id, None, one, mark)], None)
            assert one.address.encode() in await told()
        assert any(f"{second} is not told as a-b-c" in note for note in (await at.registry.reach()).notes)
        entry = (await sink.held([first])).services[first][ONE.id]
        await sink.apply([Change(first, ONE.id, entry, None, entry.mark)], None)

        async def the_seconds() -> bool:
            return b"192.0.2.2" in await told()

        await until(the_seconds, "the second one has the name")
        assert not any("is not told" in note for note in (await at.registry.reach()).notes)


async def test_only_clients_that_ask_for_a_service_are_its_readers(tmp_path: Path) -> None:
    async with served(tmp_path) as at, grpc.aio.insecure_channel(at.address) as channel:
        ads = Ads(channel)
        assert await at.registry.readers(PAY) == []
        async with ads.delta("all") as everything, ads.world("one") as one, ads.world("another") as other:
            for conversation, wanted in ((everything, ()), (one, ("pay",)), (other, ("ship",))):
                await conversation.ask(CLUSTER if not wanted else ENDPOINTS, *wanted)

            async def connected() -> bool:
                return len([each for each in at.registry.clients() if each.sent]) == 3

            await until(connected, "all three have asked")
            found = await at.registry.readers(PAY)
            assert sorted(each.who.partition(" at ")[0] for each in found) == ["all", "one"]
            assert {(each.certainty, each.evidence) for each in found} == {("known", "has asked for pay")}
            assert await at.registry.readers(ServiceName("ship")) == []
            assert isinstance(at.registry, Observer)
            assert await at.registry.consumers(PAY) == {"envoy"}
            assert await at.registry.consumers(ServiceName("ship")) == set()


def elsewhere(instance: Instance, mark: Mark | None) -> str:
    """Addresses of 198.51.100.0/24 are those of pods."""
    return "pods" if instance.address.startswith("198.51.100.") else "vm"


def told(told: Told) -> list[list[tuple[str, int]]]:
    """The addresses of `pay` by priority, each with its weight."""
    made = ClusterLoadAssignment.FromString(told.found["pay"])
    found: dict[int, list[tuple[str, int]]] = {}
    for group in made.endpoints:
        for one in group.lb_endpoints:
            place = one.endpoint.address.socket_address.address, one.load_balancing_weight.value
            found.setdefault(group.priority, []).append(place)
    return [found[priority] for priority in range(len(found))]


async def test_a_client_of_another_network_is_told_its_addresses_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as at, grpc.aio.insecure_channel(at.address) as channel:
        at.registry.sink("b1").place("vm", elsewhere)
        pod = Instance("i2", "198.51.100.1", (Port(80, "web", "http"),))
        await at.change(pod)
        ads = Ads(channel)
        async with ads.delta() as own, ads.delta(network="vm") as vm, ads.delta(network="pods") as pods:
            for conversation, wanted in (
                (own, [[("192.0.2.1", 100), ("198.51.100.1", 100)]]),
                (vm, [[("192.0.2.1", 100), ("198.51.100.1", 100)]]),
                (pods, [[("198.51.100.1", 100)]]),
            ):
                await conversation.ask(ENDPOINTS, "pay")
                assert told(await conversation.next()) == wanted
            at.registry.sink("b1").place("vm", lambda instance, mark: "vm")
            assert told(await pods.next()) == [], "the file says that it is none of theirs"
            assert sorted(one.network for one in at.registry.clients()) == ["", "", "pods"]


async def test_clients_in_one_zone_share_what_is_nearest_to_them(tmp_path: Path) -> None:
    async with served(tmp_path, priority="zone") as at, grpc.aio.insecure_channel(at.address) as channel:
        for number, zone in enumerate(("eu-1", "eu-2", "us-1"), 1):
            there = Locality(zone.partition("-")[0], zone)
            await at.change(Instance(f"i{number}", f"192.0.2.{number}", ONE.ports, locality=there))
        ads = Ads(channel)
        one, two, three = (f"192.0.2.{number}" for number in (1, 2, 3))
        async with (
            ads.delta(region="eu", zone="eu-2") as near,
            ads.delta(region="eu", zone="eu-2") as beside,
            ads.delta(region="us", zone="us-1") as far,
            ads.delta() as nowhere,
        ):
            for conversation, wanted in (
                (near, [[two], [one], [three]]),
                (beside, [[two], [one], [three]]),
                (far, [[three], [one, two]]),
                (nowhere, [[one, two, three]]),
            ):
                await conversation.ask(ENDPOINTS, "pay")
                found = told(await conversation.next())
                assert [[address for address, _ in group] for group in found] == wanted


async def test_a_client_of_one_more_network_than_there_is_room_for_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as at, grpc.aio.insecure_channel(at.address) as channel, AsyncExitStack() as stack:
        for number in range(VIEWS):
            one = await stack.enter_async_context(Ads(channel).delta(network=f"n{number}"))
            await one.ask(ENDPOINTS, "pay")
            await one.next()
        async with Ads(channel).delta(network="one-more") as more:
            await more.ask(ENDPOINTS, "pay")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await more.told()
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with Ads(channel).delta(network="n0") as known:
            await known.ask(ENDPOINTS, "pay")
            await known.next()


async def test_host_names_are_for_envoy_and_a_client_of_grpc_is_shown_to_have_none(tmp_path: Path) -> None:
    async with served(tmp_path) as at, grpc.aio.insecure_channel(at.address) as channel:
        await at.change(Instance("i2", "pay.example", ONE.ports))
        async with Ads(channel).delta(agent="envoy") as envoy, Ads(channel).delta(agent="gRPC C-core linux") as client:
            for conversation, looks_up in ((envoy, True), (client, False)):
                await conversation.ask(CLUSTER, "pay")
                cluster = Cluster.FromString((await conversation.next()).found["pay"])
                assert (cluster.type == Cluster.STRICT_DNS) is looks_up
                inside = [one for group in cluster.load_assignment.endpoints for one in group.lb_endpoints]
                assert len(inside) == (2 if looks_up else 0)
                await conversation.ask(ENDPOINTS, "pay")
                assert told(await conversation.next()) == []
            empty = [one.sent.get("empty", "") for one in at.registry.clients()]
            assert sorted(empty) == ["", "pay: gRPC looks no host name up"]
            assert "Envoy alone is told the addresses of pay: they have host names" in (await at.registry.reach()).notes
            held = (await at.registry.sink("b1").held([PAY])).services[PAY]["i2"]
            gone = Change(PAY, "i2", held, None, held.mark)
            (outcome,) = await at.registry.sink("b1").apply([gone], None)
            assert outcome.error is None
            assert Cluster.FromString((await envoy.next()).found["pay"]).type == Cluster.EDS
            assert told(await client.next()) == [[("192.0.2.1", 100)]]
