"""A user that may read a part of the prefix only: that part is read, and of the rest nothing counts as gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.keys import Range
from adapters.etcd.permissions import gaps, readable
from adapters.etcd.times import Times
from bridge.adapter import Listing
from bridge.model import ServiceName
from tests.adapters.etcd.lab import Watcher, admin, b64, below, registry
from tests.adapters.etcd.test_client import secure
from tests.conftest import StartEtcd
from tests.kit.natives import Etcd as Natives
from tests.kit.natives import record
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.etcd import Etcd

LEDGER = ("READ", "/isthmus/")


def reads(*areas: tuple[bytes, bytes]) -> list[pb.Permission]:
    return [pb.Permission(type=pb.Permission.READ, key=key, range_end=end) for key, end in areas]


ALL_WORDS = (b"/isthmus/", b"/isthmus0")


@pytest.mark.parametrize(
    ("granted", "part", "missing"),
    [
        (reads(ALL_WORDS, (b"/s/", b"/s0")), [(b"/s/", b"/s0")], []),
        (reads(ALL_WORDS, (b"/s/a", b"/s/c")), [(b"/s/a", b"/s/c")], [(b"/s/", b"/s/a"), (b"/s/c", b"/s0")]),
        (reads(ALL_WORDS, (b"/s/", b"/s/c"), (b"/s/b", b"/s0")), [(b"/s/", b"/s0")], []),
        (reads(ALL_WORDS, (b"/s/a", b"")), [(b"/s/a", b"/s/a\0")], [(b"/s/", b"/s/a"), (b"/s/a\0", b"/s0")]),
        (reads(ALL_WORDS, (b"/s/b", b"\0")), [(b"/s/b", b"/s0")], [(b"/s/", b"/s/b")]),
        (reads((b"\0", b"\0")), [(b"/s/", b"/s0")], []),
        (reads((b"/s/", b"/s0")), [], [(b"/s/", b"/s0")]),  # without the ledger nothing is told from a copy
        ([], [], [(b"/s/", b"/s0")]),
    ],
)
def test_the_readable_part_and_what_is_missing(
    granted: list[pb.Permission], part: list[tuple[bytes, bytes]], missing: list[tuple[bytes, bytes]]
) -> None:
    wanted = [Range(b"/s/", b"/s0")]
    found = readable(granted, wanted)
    assert [tuple(one) for one in found] == part
    assert [tuple(one) for one in gaps(wanted, found)] == missing


async def root(server: Etcd) -> str:
    return str((await admin(server, "auth/authenticate", name="root", password="root-secret"))["token"])


async def test_a_part_of_the_prefix_is_read_and_the_rest_is_named(etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    async with Natives(server.address) as natives:
        for service, id in (("pay", "p1"), ("pay", "p2"), ("ship", "s1")):
            await natives.register(service, id, "192.0.2.1", await natives.lease())
    await secure(server, ("READ", "/microservices/pay/"), LEDGER)
    async with registry(server, Times(audit=0.5), user="isthmus", password="secret") as opened:
        async with Watcher(opened.source.watch()) as watcher:
            assert isinstance(watcher.said[0], Listing) and watcher.said[0].partial
            assert set(watcher.addresses(ServiceName("pay"))) == {"p1", "p2"}
            assert (await opened.source.read(ServiceName("ship"))).unreadable == {"*"}
            assert not (await opened.source.read(ServiceName("pay"))).unreadable
            (before, behind) = opened.source.ignored.values()
            assert "the user isthmus may not read up to /microservices/pay/: grant" in before
            assert list(opened.source.ignored) == ["/microservices/", "/microservices/pay0"], behind
            more = {"permType": "READ", **below("/microservices/ship/")}
            await admin(server, "auth/role/grant", token=await root(server), name="bridge", perm=more)
            await until(lambda: watcher.error)
            assert "may read other keys than before" in str(watcher.error)
        async with Watcher(opened.source.watch()) as watcher:
            assert set(watcher.addresses(ServiceName("ship"))) == {"s1"}


async def test_rights_that_are_lost_take_nothing_away(folder: Path, etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    async with Natives(server.address) as natives:
        for service, id in (("pay", "p1"), ("pay", "p2"), ("ship", "s1")):
            await natives.register(service, id, "192.0.2.1", await natives.lease(3600))
    await secure(server, ("READ", "/microservices/"), LEDGER)
    (folder / "cluster").mkdir()
    password = folder / "password"
    password.write_text("secret")
    registries: dict[str, Any] = {
        "core": {
            "kind": "etcd",
            "endpoints": [server.url],
            "layout": "kratos",
            "user": "isthmus",
            "password_file": str(password),
        },
        "cluster": {"kind": "file", "path": str(folder / "cluster")},
    }
    link = {"from": "core", "to": "cluster", "policy": "sync", "services": {"include": ["*"]}}
    async with Bridge(folder, registries, [link]) as bridge:
        await until(lambda: len(list((folder / "cluster").glob("*.yaml"))) == 2, "both are copied")
        await until(bridge.rests, "and settled")
        await bridge.stop()
        token = await root(server)
        await admin(server, "auth/role/revoke", token=token, role="bridge", **_range("/microservices/"))
        mine = {"permType": "READ", **below("/microservices/pay/")}
        await admin(server, "auth/role/grant", token=token, name="bridge", perm=mine)
        await bridge.start()
        new = record("pay", "p2", "192.0.2.9")
        await admin(server, "kv/put", token=token, key=b64("/microservices/pay/p2"), value=b64(new))
        await until(lambda: "192.0.2.9" in _text(folder, "pay"), "its sibling flows")
        assert "192.0.2.1" in _text(folder, "ship")
        ran = await bridge.isthmus("status")
        assert ran.code == 3 and "records-unreadable core" in ran.out, ran.out
        ran = await bridge.isthmus("explain", "ship")
        assert ran.code == 3, ran.out
        assert "the user isthmus may not read /microservices/ship/" in " ".join(ran.out.split()), ran.out
        ran = await bridge.isthmus("plan", "-o", "json")
        assert (ran.code, ran.json["changes"]) == (0, []), ran.out
        ran = await bridge.isthmus("check")
        assert "may not read up to /microservices/pay/" in " ".join(ran.out.split()), ran.out
        assert not await bridge.holds()


def _range(prefix: str) -> dict[str, str]:
    area = below(prefix)
    return {"key": area["key"], "range_end": area["range_end"]}


def _text(folder: Path, service: str) -> str:
    return "".join(path.read_text() for path in (folder / "cluster").glob(f"{service}.*"))
