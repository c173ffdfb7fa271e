"""The client on real servers: failover, authentication, TLS, a full disk, and what `check` says of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import grpc
import msgspec
import pytest

from adapters import etcd as adapter
from adapters.common import credentials
from adapters.etcd.client import error_of
from bridge.errors import ConfigError, Denied, Expired, IsthmusError, Rejected, Unavailable
from tests.adapters.etcd.lab import (
    USER,
    Natives,
    Watcher,
    admin,
    below,
    create,
    errors,
    key,
    kind,
    record,
    registry,
)
from tests.conftest import StartEtcd
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.certificates import Certificates
from tests.servers.etcd import Etcd, Tls, cluster


@pytest.mark.parametrize(
    ("code", "said", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader", Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Unavailable),
        (grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Expired),
        (grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", Expired),
        (grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Denied),
        (grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", Denied),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password", Denied),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", Denied),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", Rejected),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (3 vs. 2)", Rejected),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Unavailable),
        (grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found", Unavailable),
        (grpc.StatusCode.DATA_LOSS, "etcdserver: corrupt cluster", Unavailable),
        (grpc.StatusCode.UNKNOWN, "", Unavailable),
    ],
)
def test_every_refusal_has_its_class(code: grpc.StatusCode, said: str, error: type[IsthmusError]) -> None:
    assert kind(error_of(code, said)) is error


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"endpoints": []}, "at least one"),
        ({"endpoints": ["127.0.0.1:2379"]}, "is not http"),
        ({"endpoints": ["http://a:1/path"]}, "is not http"),
        ({"tls": credentials.Tls(ca="ca.pem")}, "no endpoint begins with https"),
        ({"endpoints": ["https://a:1"], "tls": credentials.Tls(cert="c.pem")}, "cert and key"),
        ({"user": "isthmus"}, "goes together"),
        ({"password": "secret"}, "goes together"),
        ({"user": "u", "password": "p", "password_file": "f"}, "goes together"),
        ({"prefix": "/isthmus/x/"}, "ledger"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config: dict[str, object], fault: str) -> None:
    settings = msgspec.convert({"endpoints": ["http://a:1"], "layout": "kratos"}, adapter.Config)
    with pytest.raises(ConfigError, match=fault):
        adapter.create("lab", msgspec.structs.replace(settings, **config), None)


@pytest.mark.parametrize("layout", list(adapter.LAYOUTS))
def test_every_layout_has_its_own_prefix_unless_one_is_given(layout: str) -> None:
    config = msgspec.convert({"endpoints": ["http://a:1"], "layout": layout}, adapter.Config)
    opened = adapter.create("lab", config, None)
    assert opened._space.prefix == opened._space.layout.PREFIX
    assert layout == opened._space.layout.NAME
    given = msgspec.structs.replace(config, prefix="/here/", protocol="tcp")
    assert adapter.create("lab", given, None)._space.prefix == "/here/"


async def test_an_endpoint_that_does_not_answer_is_passed_over(etcd: Etcd) -> None:
    (dead,) = ports.reserve(1)
    try:
        async with registry(etcd, endpoints=[f"http://127.0.0.1:{dead}", etcd.url]) as opened:
            assert (await opened.reach()).version == "etcd 3.6.5"
            async with Watcher(opened.source.watch()) as watcher:
                assert watcher.synced
    finally:
        ports.release([dead])


async def test_the_loss_of_a_member_costs_one_watch_and_nothing_else(tmp_path: Path) -> None:
    async with (
        cluster(tmp_path) as members,
        registry(members[0], endpoints=[member.url for member in members]) as opened,
    ):
        async with Watcher(opened.source.watch()) as watcher:
            await members[0].kill()
            await until(lambda: watcher.error)
            assert kind(watcher.error) is Unavailable
        async with Watcher(opened.source.watch()) as watcher, Natives(members[1]) as natives:
            assert watcher.synced, "it is on another member"
            await natives.put((key("i1"), record("i1")))
            await until(watcher.addresses)


async def secure(server: Etcd, *grants: tuple[str, str], user: str = "isthmus") -> None:
    """Authentication with a root user, and one user with a role of its own."""
    await admin(server, "auth/user/add", name="root", password="root-secret")
    await admin(server, "auth/user/grant", user="root", role="root")
    await admin(server, "auth/role/add", name="bridge")
    for permission, prefix in grants:
        await admin(server, "auth/role/grant", name="bridge", perm={"permType": permission, **below(prefix)})
    await admin(server, "auth/user/add", name=user, password="secret")
    await admin(server, "auth/user/grant", user=user, role="bridge")
    await admin(server, "auth/enable")


FULL = (("READWRITE", "/microservices/"), ("READWRITE", "/isthmus/"))


@pytest.mark.parametrize("version", ["3.6", "3.4"])
async def test_a_token_that_is_not_accepted_any_more_is_renewed(etcd_server: StartEtcd, version: str) -> None:
    server = await etcd_server(version=version)
    await secure(server, *FULL)
    async with registry(server, user="isthmus", password="secret") as opened:
        await opened.raw(USER)
        token = (await admin(server, "auth/authenticate", name="root", password="root-secret"))["token"]
        for _ in range(2):  # a new password, though it be the same, ends the user's tokens
            await admin(server, "auth/user/changepw", token=token, name="isthmus", password="secret")
            await opened.raw(USER)
        sink = Seated(opened, "b1")
        async with sink.writer():
            await admin(server, "auth/user/changepw", token=token, name="isthmus", password="secret")
            assert errors(await sink.apply([create("i1")])) == [None]
            await admin(server, "auth/user/changepw", token=token, name="isthmus", password="secret")
            async with Watcher(opened.source.watch()) as watcher:
                assert watcher.addresses()


@pytest.mark.parametrize("version", ["3.6", "3.4"])
async def test_a_restart_of_a_server_with_authentication_ends_nothing_but_the_watch(
    etcd_server: StartEtcd, version: str
) -> None:
    server = await etcd_server(version=version)
    await secure(server, *FULL)
    async with registry(server, user="isthmus", password="secret") as opened:
        sink = Seated(opened, "b1")
        async with sink.writer():
            assert errors(await sink.apply([create("i1")])) == [None]
            await server.kill()
            await server.start()
            assert errors(await sink.apply([create("i2")])) in ([None], [Unavailable])
            async with Watcher(opened.source.watch()) as watcher:
                assert watcher.addresses()
            assert errors(await sink.apply([create("i3")])) == [None]


async def test_a_password_that_was_rotated_is_read_again(etcd_server: StartEtcd, tmp_path: Path) -> None:
    server = await etcd_server()
    await secure(server, *FULL)
    password = tmp_path / "password"
    password.write_text("wrong\n")
    async with registry(server, user="isthmus", password_file=str(password)) as opened:
        with pytest.raises(Denied):
            await opened.source.read(USER)
        password.write_text("secret\n")
        assert (await opened.source.read(USER)).service.instances == {}
        password.unlink()
        opened._client.forget()
        with pytest.raises(Denied, match="cannot be read"):
            await opened.source.read(USER)


async def test_a_user_may_be_configured_before_authentication_is_switched_on(etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    async with registry(server, user="isthmus", password="secret") as opened:
        assert (await opened.source.read(USER)).service.instances == {}
        await secure(server, *FULL)
        assert (await opened.source.read(USER)).service.instances == {}


async def test_without_a_user_a_server_with_authentication_denies(etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    await secure(server, *FULL)
    async with registry(server) as opened:
        with pytest.raises(Denied):
            await opened.source.read(USER)
        with pytest.raises(Denied):
            await opened.reach()


@pytest.mark.parametrize(
    ("version", "grants", "may_read", "may_write"),
    [
        ("3.4", FULL, True, True),
        ("3.6", FULL, True, True),
        ("3.6", (("READ", "/microservices/"), ("READ", "/isthmus/")), True, False),
        ("3.6", (("READWRITE", "/microservices/"), ("READ", "/isthmus/")), True, False),
        ("3.6", (("READWRITE", "/microservices/user/"), ("READWRITE", "/isthmus/")), False, False),
        ("3.6", (), False, False),
    ],
)
async def test_check_says_what_the_users_roles_allow(
    etcd_server: StartEtcd, version: str, grants: tuple[tuple[str, str], ...], may_read: bool, may_write: bool
) -> None:
    server = await etcd_server(version=version)
    await secure(server, *grants)
    async with registry(server, user="isthmus", password="secret") as opened:
        reach = await opened.reach()
        assert (reach.may_read, reach.may_write) == (may_read, may_write)
        assert reach.identity.endswith(":kratos:/microservices/")
    async with registry(server, user="root", password="root-secret") as opened:
        reach = await opened.reach()
        assert (reach.may_read, reach.may_write) == (True, True)


async def test_a_change_that_is_denied_does_not_spoil_the_others(etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    await secure(server, ("READWRITE", "/microservices/user/"), ("READWRITE", "/isthmus/"))
    async with registry(server, user="isthmus", password="secret") as opened:
        sink = Seated(opened, "b1")
        other = msgspec.structs.replace(create("i2"), service=USER._replace(name="other"))
        async with sink.writer():
            assert errors(await sink.apply([create("i1"), other, create("i3")])) == [None, Denied, None]


async def test_client_certificates_may_be_rotated_without_a_restart(
    etcd_server: StartEtcd, certificates: Certificates, tmp_path: Path
) -> None:
    server = await etcd_server(tls=Tls(*certificates.server[:2], ca=certificates.ca))
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"

    def rotate(given: Tls) -> None:
        for source, target in ((given.cert, cert), (given.key, key)):
            shutil.copy(source, tmp_path / "new")
            os.replace(tmp_path / "new", target)

    tls = credentials.Tls(ca=str(certificates.ca), cert=str(cert), key=str(key))
    async with registry(server, tls=tls) as opened:
        with pytest.raises(Unavailable, match="cannot read a TLS file"):
            await opened.reach()
        rotate(certificates.stranger)
        with pytest.raises(Unavailable):
            await opened.reach()
        rotate(certificates.expired)
        with pytest.raises(Denied, match=r"client\.pem ended at"):
            await opened.reach()
        rotate(certificates.client)
        assert (await opened.reach()).version == "etcd 3.6.5"
        async with Watcher(opened.source.watch()) as watcher:
            rotate(certificates.stranger)
            with pytest.raises(Unavailable):
                await opened.reach()
            assert watcher.error is None, "what is connected goes on"
            rotate(certificates.client)
            await opened.reach()
            assert watcher.error is None


async def test_a_server_of_another_name_is_not_trusted_unless_that_name_is_expected(
    etcd_server: StartEtcd, certificates: Certificates
) -> None:
    server = await etcd_server(tls=Tls(*certificates.server[:2]))
    url = server.url.replace("127.0.0.1", "127.0.0.2")
    assert url != server.url
    for name, trusted in (("localhost", True), ("elsewhere.test", False)):
        tls = credentials.Tls(ca=str(certificates.ca), server_name=name)
        async with registry(server, tls=tls) as opened:
            if trusted:
                assert (await opened.reach()).identity
            else:
                with pytest.raises(Unavailable):
                    await opened.reach()


async def test_a_full_database_is_said_in_words_and_reads_go_on(etcd_server: StartEtcd) -> None:
    server = await etcd_server(flags=["--quota-backend-bytes=4194304"])
    async with registry(server) as opened:
        sink = Seated(opened, "b1")
        async with sink.writer():
            for n in range(40):
                (outcome,) = await sink.apply([create(f"i{n}", metadata={"text": "x" * 500_000})])
                if outcome.error:
                    break
            assert kind(outcome.error) is Unavailable
            assert "NOSPACE" in str(outcome.error)
            assert any("NOSPACE" in note for note in (await opened.reach()).notes)
            assert (await sink.held()).services


async def test_a_prefix_without_its_last_slash_is_hinted_at(etcd: Etcd) -> None:
    async with registry(etcd, prefix="/x") as opened:
        assert "is /x/ meant?" in (await opened.reach()).notes[0]
    for prefix in ("/x/", ""):
        async with registry(etcd, prefix=prefix) as opened:
            assert (await opened.reach()).notes == ()
