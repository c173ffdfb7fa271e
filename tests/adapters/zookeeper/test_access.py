"""Who may come in, what is said where one may not, and how large a registry may be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from kazoo.security import make_acl, make_digest_acl, make_digest_acl_credential

from adapters import zookeeper as adapter
from adapters.zookeeper import acl, wire
from adapters.zookeeper.client import Client
from adapters.zookeeper.config import Config, Digest
from adapters.zookeeper.source import ZooKeeperSource
from adapters.zookeeper.times import Times
from adapters.zookeeper.tree import Tree
from bridge.adapter import Observed
from bridge.errors import ConfigError, Denied, Unavailable
from bridge.model import Service, ServiceName
from tests.adapters.zookeeper.conftest import Open
from tests.adapters.zookeeper.lab import curator, provider, registry_of
from tests.conformance.lab import (
    BRIDGE,
    CART,
    PAY,
    at,
    create,
    instance,
    owners,
    refusals,
    source_of,
    watching,
    write,
)
from tests.conftest import StartZooKeeper
from tests.kit.natives import Kazoo
from tests.kit.proxy import Proxy
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.certificates import Certificates
from tests.servers.zookeeper import ZooKeeper

USER = {"user": "isthmus", "password": "s3cret"}
OPEN = [(31, "world", "anyone")]


@pytest_asyncio.fixture
async def guarded(zookeeper_server: StartZooKeeper) -> AsyncIterator[Guarded]:
    """A server of the test's own, for nodes with rights cannot be wiped."""
    server = await zookeeper_server()
    async with Kazoo(server.address) as native, AsyncExitStack() as opened:

        def open(**config: Any) -> adapter.ZooKeeper:
            registry = registry_of(hosts=[server.address], **config)
            opened.push_async_exit(registry)
            return registry

        yield Guarded(native, open)


class Guarded(NamedTuple):
    """A server with rights: a native, and how to open a registry there."""

    native: Kazoo
    open: Open


async def test_a_user_may_where_its_digest_says_so_and_nobody_else(guarded: Guarded, tmp_path: Path) -> None:
    native, open_registry = guarded
    acl = [make_digest_acl("isthmus", "s3cret", all=True)]
    await native.do(native.zk.create, "/services", b"", acl=acl)
    (tmp_path / "password").write_text("s3cret\n")
    from_file = {"user": "isthmus", "password_file": str(tmp_path / "password")}
    registry = open_registry(auth=Digest(**from_file))
    sink = Seated(registry, BRIDGE)
    async with sink.writer():
        await write(sink, create(PAY, instance(1)))
        assert owners(await sink.held()) == {"i1": BRIDGE}
    reach = await registry.reach()
    assert (reach.may_read, reach.may_write) == (True, True)
    for config in ({}, {"auth": Digest(user="isthmus", password="wrong")}):
        stranger = open_registry(**config)
        with pytest.raises(Denied):
            async with watching(await source_of(stranger)) as watch:
                await watch.until(lambda: watch.synced)
        with pytest.raises(Denied):
            await Seated(stranger, BRIDGE).held()
        assert (await stranger.reach()).may_write is not True


async def test_what_is_created_has_the_rights_of_what_it_is_created_in(guarded: Guarded) -> None:
    """A native that could not delete our node could not register over it."""
    native, open_registry = guarded
    acl = [make_digest_acl("isthmus", "s3cret", all=True), make_digest_acl("team", "pw", read=True)]
    await native.do(native.zk.create, "/services", b"", acl=acl)
    registry = open_registry(auth=Digest(**USER))
    sink = Seated(registry, BRIDGE)
    async with sink.writer():
        await write(sink, create(PAY, instance(1)))
    await native.do(native.zk.add_auth, "digest", "isthmus:s3cret")
    for path in ("/services/pay", "/services/pay/i1"):
        found, _ = await native.do(native.zk.get_acls, path)
        assert sorted(found) == sorted(acl)
    open_to_all, _ = await native.do(native.zk.get_acls, "/isthmus/ledger/services/pay/i1")
    assert [each.id.scheme for each in open_to_all] == ["world"]


async def test_rights_that_are_kept_from_us_are_not_made_up(guarded: Guarded) -> None:
    native, open_registry = guarded
    acl = [make_digest_acl("admin", "pw", all=True), *make_world(read=True, create=True, delete=True)]
    await native.do(native.zk.create, "/services", b"", acl=acl)
    with pytest.raises(Denied, match="administer"):
        async with Seated(open_registry(auth=Digest(**USER)), BRIDGE).writer():
            pass


def make_world(**perms: bool) -> list[object]:
    return [make_acl("world", "anyone", **perms)]


async def test_a_write_that_is_not_allowed_is_denied(guarded: Guarded) -> None:
    native, open_registry = guarded
    await native.do(native.zk.ensure_path, "/services")
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        await native.do(native.zk.set_acls, "/services", make_world(read=True))
        assert await refusals(sink, create(PAY, instance(1))) == [Denied]
        reach = await open_registry().reach()
        assert (reach.may_read, reach.may_write) == (True, False)


def test_a_digest_is_what_zookeeper_makes_of_it() -> None:
    assert acl.digest_of("isthmus:s3cret") == make_digest_acl_credential("isthmus", "s3cret")


async def test_a_chroot_is_a_registry_of_its_own(zookeeper: ZooKeeper, native: Kazoo, open_registry: Open) -> None:
    await native.do(native.zk.ensure_path, "/apps/one")
    await native.register("/services/pay/i9", curator(PAY, instance(9)))
    registry = open_registry(hosts=[f"{zookeeper.address}/apps/one"])
    sink = Seated(registry, BRIDGE)
    async with sink.writer(), watching(await source_of(registry)) as watch:
        await watch.until(lambda: watch.synced)
        await write(sink, create(PAY, instance(1)))
        await watch.until(lambda: watch.picture(PAY) == at(instance(1)))
        assert owners(await sink.held()) == {"i1": BRIDGE}
    assert await native.do(native.zk.exists, "/apps/one/services/pay/i1")
    assert await native.do(native.zk.exists, "/apps/one/isthmus/ledger/services/pay/i1")
    assert sorted(await native.do(native.zk.get_children, "/")) == ["apps", "services", "zookeeper"]


async def test_a_chroot_that_does_not_exist_is_an_error_and_not_an_empty_registry(
    zookeeper: ZooKeeper, open_registry: Open
) -> None:
    with pytest.raises(Unavailable, match="/nowhere"):
        async with watching(await source_of(open_registry(hosts=[f"{zookeeper.address}/nowhere"]))) as watch:
            await watch.until(lambda: watch.synced)


async def test_a_destinations_missing_chroot_is_said_and_waited_for(
    zookeeper: ZooKeeper, native: Kazoo, open_registry: Open
) -> None:
    sink = Seated(open_registry(hosts=[f"{zookeeper.address}/nowhere"]), BRIDGE)
    with pytest.raises(Unavailable, match="/nowhere does not exist, which is the chroot"):
        async with sink.writer():
            pass
    await native.do(native.zk.create, "/nowhere", b"")
    async with sink.writer():
        await write(sink, create(PAY, instance(1)))


@pytest_asyncio.fixture
async def hidden(native: Kazoo) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Creates a node, or takes one, and lets nobody read it; at the end everybody may again."""
    paths: list[str] = []

    async def hide(path: str) -> None:
        await native.do(native.zk.ensure_path, path)
        await native.do(native.zk.set_acls, path, [make_digest_acl("admin", "pw", all=True)])
        paths.append(path)

    yield hide
    await native.do(native.zk.add_auth, "digest", "admin:pw")
    for path in paths:
        await native.do(native.zk.set_acls, path, make_world(all=True))


async def test_a_node_that_may_not_be_read_is_unreadable_and_its_siblings_flow(
    native: Kazoo, open_registry: Open, hidden: Callable[[str], Awaitable[None]]
) -> None:
    for number in (1, 2):
        record = curator(PAY, instance(number)).encode()
        await native.do(native.zk.create, f"/services/pay/i{number}", record, makepath=True)
    await hidden("/services/pay/i1")
    source = await source_of(open_registry())
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        first = watch.observations(PAY)[-1]
        assert set(first.service.instances) == {"i2"}
        assert first.unreadable == {"i1"}
        assert source.ignored["pay/i1"].startswith("/services/pay/i1: our user may not read it (r)")
        # Likewise while it runs: a node that may not be read arrives, and its siblings go on.
        await hidden("/services/pay/i3")
        await native.do(native.zk.create, "/services/pay/i4", curator(PAY, instance(4)).encode())
        await watch.until(lambda: "i4" in watch.service(PAY).instances)
        assert set(watch.service(PAY).instances) == {"i2", "i4"}
        assert "i1" in watch.observations(PAY)[-1].unreadable
    held = (await Seated(open_registry(), BRIDGE).held()).services[PAY]
    assert {id for id, each in held.items() if not each.instance.address} == {"i1", "i3"}
    assert all(each.mark is None for each in held.values())


async def test_a_folder_that_may_not_be_listed_is_one_service_that_cannot_be_read(
    native: Kazoo, open_registry: Open, hidden: Callable[[str], Awaitable[None]]
) -> None:
    for name in (PAY, CART):
        record = curator(name, instance(1)).encode()
        await native.do(native.zk.create, f"/services/{name}/i1", record, makepath=True)
    await hidden("/services/pay")
    registry = open_registry(times=Times(look_again=0.0))
    source = await source_of(registry)
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert set(watch.service(CART).instances) == {"i1"}
        first = watch.observations(PAY)[-1]
        assert first == Observed(Service(PAY), frozenset("*"), first.revision)
        assert source.ignored["pay"].startswith("/services/pay: our user may not list its children (r)")
        assert (await source.read(PAY)).unreadable == {"*"}
        assert [one.fault for one in await registry.raw(PAY)] == [source.ignored["pay"]]
        await native.do(native.zk.create, "/services/cart/i2", curator(CART, instance(2)).encode())
        await watch.until(lambda: "i2" in watch.service(CART).instances)
        held = await Seated(open_registry(), BRIDGE).held()
        assert set(held.services) == {PAY, CART}
        assert [(id, each.instance.address, each.mark) for id, each in held.services[PAY].items()] == [("*", "", None)]
        # Rights change without an event: it is looked at again.
        await native.do(native.zk.add_auth, "digest", "admin:pw")
        await native.do(native.zk.set_acls, "/services/pay", make_world(all=True))
        await native.do(native.zk.create, "/services/cart/i3", curator(CART, instance(3)).encode())
        await watch.until(lambda: not watch.observations(PAY)[-1].unreadable)
        assert set(watch.service(PAY).instances) == {"i1"}
        assert not source.ignored


async def test_a_service_with_a_name_of_two_levels_is_named_where_it_is_not_read(
    native: Kazoo, open_registry: Open
) -> None:
    record = curator(PAY, instance(1)).encode()
    await native.do(native.zk.create, "/services/team/pay/i1", record, makepath=True)
    await native.do(native.zk.create, "/services/cart/i1", curator(CART, instance(1)).encode(), makepath=True)
    source = await source_of(open_registry())
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert list(source.ignored) == ["team/pay"]
        assert "more levels" in source.ignored["team/pay"]
        await native.do(native.zk.delete, "/services/team/pay", recursive=True)
        await until(lambda: not source.ignored, "it is gone")


@pytest_asyncio.fixture
async def secure(zookeeper_server: StartZooKeeper, certificates: Certificates, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a server that takes TLS alone, from clients with a certificate."""
    (port,) = ports.reserve(1)
    key = tmp_path / "server.both.pem"  # Java wants PKCS 8, and ZooKeeper both in one file
    private = serialization.load_pem_private_key(certificates.server.key.read_bytes(), None)
    pkcs8 = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key.write_bytes(pkcs8 + certificates.server.cert.read_bytes())
    settings = {
        "secureClientPort": str(port),
        "secureClientPortAddress": "127.0.0.1",
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.clientAuth": "need",
        "ssl.keyStore.location": str(key),
        "ssl.keyStore.type": "PEM",
        "ssl.trustStore.location": str(certificates.ca),
        "ssl.trustStore.type": "PEM",
        "ssl.hostnameVerification": "false",
    }
    await zookeeper_server(settings=settings)
    # The server is ready when its plain port is; the secure one opens after it.
    await until(lambda: _listens(port), "the secure port is open")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        ports.release([port])


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def test_a_client_certificate_opens_the_door(secure: str, certificates: Certificates) -> None:
    tls = {"ca": str(certificates.ca), "cert": str(certificates.client.cert), "key": str(certificates.client.key)}
    config = msgspec.convert({"hosts": [secure], "layout": "curator", "protocol": "grpc", "tls": tls}, Config)
    async with registry_of(hosts=[secure], tls=config.tls) as registry:
        sink = Seated(registry, BRIDGE)
        async with sink.writer(), watching(await source_of(registry)) as watch:
            await write(sink, create(PAY, instance(1, blob="x" * 200_000)))
            await watch.until(lambda: watch.picture(PAY) == at(instance(1)))
        assert (await registry.reach()).version == ""


@pytest.mark.parametrize("fault", ["no certificate", "stranger", "other name", "other authority"])
async def test_a_door_that_stays_shut_says_so(secure: str, certificates: Certificates, fault: str) -> None:
    good = {"ca": str(certificates.ca), "cert": str(certificates.client.cert), "key": str(certificates.client.key)}
    stranger = {"cert": str(certificates.stranger.cert), "key": str(certificates.stranger.key)}
    tls = {
        "no certificate": {"ca": str(certificates.ca)},
        "stranger": good | stranger,
        "other name": good | {"server_name": "elsewhere.test"},
        "other authority": good | {"ca": str(certificates.stranger.cert)},
    }[fault]
    config = msgspec.convert({"hosts": [secure], "layout": "curator", "tls": tls}, Config)
    async with registry_of(hosts=[secure], tls=config.tls) as registry:
        with pytest.raises(Unavailable, match=secure):
            await registry.reach()


async def test_a_server_out_of_reach_is_named(open_registry: Open) -> None:
    (port,) = ports.reserve(1)
    try:
        with pytest.raises(Unavailable, match=rf"127.0.0.1:{port}.*refused"):
            await open_registry(hosts=[f"127.0.0.1:{port}"]).reach()
    finally:
        ports.release([port])


async def test_reach_says_what_the_server_grants(open_registry: Open) -> None:
    reach = await open_registry(session_timeout=60).reach()
    assert reach.version.startswith("ZooKeeper 3.9")
    assert (reach.may_read, reach.may_write) == (True, True)
    assert any("end after 10 s" in note for note in reach.notes)  # 20 ticks of 500 ms
    assert any("/services does not exist" in note for note in reach.notes)


async def test_ten_thousand_children_of_one_node(zookeeper: ZooKeeper, native: Kazoo, open_registry: Open) -> None:
    """Fault 25."""
    await fill(zookeeper, 10_000)
    registry = open_registry()
    async with watching(await source_of(registry)) as watch:
        await watch.until(lambda: watch.synced)
        assert len(watch.service(PAY).instances) == 10_000
        await native.register("/services/pay/new", curator(PAY, instance(1)))
        await watch.until(lambda: "new" in watch.service(PAY).instances)
        await native.delete("/services/pay/new")
        await watch.until(lambda: "new" not in watch.service(PAY).instances)
        sink = Seated(registry, BRIDGE)
        async with sink.writer():
            await write(sink, *(create(PAY, instance(number)) for number in range(1, 200)))
            assert len((await sink.held([PAY])).services[PAY]) == 10_199
            await watch.until(lambda: len(watch.service(PAY).instances) == 10_199)


async def test_names_are_read_however_long_they_are(native: Kazoo, open_registry: Open) -> None:
    """A server takes no packet of more than 1 MiB, and closes the connection (jute.maxbuffer)."""
    folder, count = "/dubbo/pay.Api/providers", 300
    names = [provider("pay.Api", f"10.0.{n >> 8}.{n & 255}", note="x" * 8_000) for n in range(count)]
    await native.do(native.zk.ensure_path, folder)
    for name in names:
        await native.do(native.zk.create, f"{folder}/{name}")
    async with watching(await source_of(open_registry(layout="dubbo2"))) as watch:
        await watch.until(lambda: watch.synced)
        assert len(watch.service(ServiceName("pay.Api")).instances) == count


async def test_an_answer_beyond_the_limit_is_an_error_that_says_so(zookeeper: ZooKeeper) -> None:
    """Fault 25: kazoo itself would take any length."""
    await fill(zookeeper, 5_000)
    config = Config(hosts=[zookeeper.address], layout="curator")
    client = Client(config, answer_limit=50_000)
    try:
        source = ZooKeeperSource(client, Tree(client, config))
        with pytest.raises(Unavailable, match="50,000 are the limit"):
            async with watching(source) as watch:
                await watch.until(lambda: watch.synced)

        async def answers() -> bool:  # over a connection that was made anew
            try:
                return await client.exists("/services")
            except Unavailable:
                return False

        await until(answers)
    finally:
        await client.close()


async def test_requests_in_flight_are_bounded(zookeeper: ZooKeeper) -> None:
    """Fault 25: kazoo died of 64k queued requests (Platform.sh, 2016-08-18)."""
    client = Client(Config(hosts=[zookeeper.address], layout="curator"))
    try:
        await client.connected()
        answers = [client.reads(["/zookeeper"]) for _ in range(5_000)]
        connection = client._connection
        assert connection is not None
        assert len(connection._queue) + len(connection._pending) <= 64
        await asyncio.gather(*answers)
    finally:
        await client.close()


async def test_answers_that_come_together_are_all_heard(zookeeper: ZooKeeper) -> None:
    """The last ones are received with the first, and nothing more comes to wake us for them."""
    async with Proxy(zookeeper.address) as proxy:
        config = Config(hosts=[proxy.address], layout="curator")
        client = Client(config)
        try:
            await client.connected()
            sent = proxy.pipes["up"].bytes
            proxy.freeze("down")
            answers = [client.reads(["/zookeeper"]) for _ in range(50)]
            await until(lambda: proxy.pipes["up"].bytes >= sent + 50 * len("/zookeeper"), "all requests are sent")
            await fill(zookeeper, 100)  # the server answers one after the other
            sent = proxy.pipes["up"].bytes
            await proxy.heal()
            await asyncio.gather(*answers)
            assert proxy.pipes["up"].bytes == sent  # no heartbeat was needed
        finally:
            await client.close()


class Told:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def lost(self, reason: str) -> None: ...

    def told(self, kind: int, path: str) -> None:
        self.events.append((kind, path))


async def test_events_that_come_together_are_told_before_the_answer_that_follows(
    zookeeper: ZooKeeper, native: Kazoo
) -> None:
    """What a sink writes is its own doing until the answer is in, and others' from then on."""
    paths = [f"/apps/services/{number}" for number in range(30)]
    await native.do(native.zk.ensure_path, "/apps/services")
    async with Proxy(zookeeper.address) as proxy:
        client, told = Client(Config(hosts=[f"{proxy.address}/apps"], layout="curator")), Told()
        try:
            await client.connected()
            client.listen(told)
            await client.watch("/services")
            proxy.freeze("down")
            for path in paths:
                await native.register(path, "")
            answer = client.reads(["/services"])
            await proxy.heal()
            await answer
            assert told.events == [(wire.CREATED, path.removeprefix("/apps")) for path in paths]
        finally:
            await client.close()


async def fill(zookeeper: ZooKeeper, count: int) -> None:
    client = Client(Config(hosts=[zookeeper.address], layout="curator"))
    try:
        await client.connected()
        value = curator(PAY, instance(1)).encode()
        ops: list[wire.Op] = [wire.Create("/services", b"", OPEN), wire.Create("/services/pay", b"", OPEN)]
        ops += [wire.Create(f"/services/pay/child-{number:06}", value, OPEN) for number in range(count)]
        for first in range(0, len(ops), 1000):
            assert (await client.multi(client.pack(ops[first : first + 1000]))).value == []
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hosts": []}, "at least one"),
        ({"hosts": ["zk:port"]}, "not host:port"),
        ({"hosts": ["zk:2181/apps", "zk2:2181"]}, "chroot, which comes last"),
        ({"hosts": ["zk:2181/apps/"]}, "chroot"),
        ({"hosts": ["zk"], "root": "services"}, "root"),
        ({"hosts": ["zk"], "root": "/isthmus/x"}, "not a place for services"),
        ({"hosts": ["zk"], "root": "/"}, "not a place for services"),
        ({"hosts": ["zk"], "session_timeout": 0}, "session_timeout"),
        ({"hosts": ["zk"], "layout": "eureka"}, "Invalid enum value"),
        ({"hosts": ["zk"], "auth": {"user": "u"}}, "password"),
        ({"hosts": ["zk"], "tls": {"verify": False}}, "unknown field"),
    ],
)
def test_a_faulty_block_is_refused_with_the_reason(config: dict[str, object], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({"layout": "curator"} | config, Config)


def test_a_certificate_without_its_key_and_a_missing_password_are_both_named(tmp_path: Path) -> None:
    block = {"hosts": ["zk"], "layout": "curator", "tls": {"cert": "c"}}
    block["auth"] = {"user": "u", "password_file": str(tmp_path / "none")}
    with pytest.raises(ConfigError) as refused:
        adapter.create("lab", msgspec.convert(block, Config), None)
    assert [fault.key for fault in refused.value.found] == [("tls",), ("auth", "password_file")]


def test_hosts_may_name_ports_and_a_chroot() -> None:
    config = Config(hosts=["zk1", "[2001:db8::1]:2182,zk2:2183/apps/one"], layout="curator")
    assert config.ensemble() == (("zk1:2181", "[2001:db8::1]:2182", "zk2:2183"), "/apps/one")


def test_a_layout_that_is_only_read_is_no_destination() -> None:
    with pytest.raises(ConfigError, match="only read"):
        Seated(registry_of(hosts=["127.0.0.1:1"], layout="dubbo3"), BRIDGE)


def test_a_password_file_that_is_missing_is_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="password_file"):
        registry_of(hosts=["127.0.0.1:1"], auth=Digest(user="u", password_file=str(tmp_path / "none")))
