"""Faults of load and of strange fleets (41 to 43), of credentials (45), and of loops."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

from tests.adapters.etcd.lab import admin, b64
from tests.conftest import StartEtcd
from tests.faults.world import LIMITS, world
from tests.kit.natives import Etcd as Natives
from tests.kit.natives import Folder, key
from tests.kit.proxy import Proxy
from tests.kit.running import Bridge
from tests.kit.waiting import steady, until
from tests.servers.certificates import issue
from tests.servers.etcd import Etcd, Tls


async def test_fault_41_a_slow_target_coalesces_and_slows_nobody_else(
    folder: Path, etcd: Etcd, etcd34: Etcd, etcd_server: StartEtcd
) -> None:
    slow = await etcd_server()
    async with Proxy(slow.address) as thin, world(folder, etcd, etcd34) as made, Natives(slow.address) as late:
        made.bridge.registries["slow"] = {"kind": "etcd", "endpoints": [f"http://{thin.address}"], "layout": "kratos"}
        made.bridge.links.append({**made.bridge.links[0], "to": "slow", "name": "slow"})
        await made.bridge.hup()

        async def both() -> bool:
            return await late.records() == made.source.truth.now

        await until(both, "the first copy")
        revision = await late.revision()
        thin.delay(0.5)
        changes = 0
        began = time.monotonic()
        while time.monotonic() - began < 4.0:
            for service in range(6):
                for each in range(4):
                    await made.put(f"pay-{service}", f"i{each}")
                    changes += 1
        ended = time.monotonic()
        await made.in_step()
        assert time.monotonic() - ended < 3.0  # the quick target was not held up
        await until(both, "the newest wins")
        assert await late.revision() - revision < changes / 2
        assert (await made.bridge.link("slow"))["waiting"] == 0


async def test_fault_42_a_flapping_instance_is_damped_and_delays_nobody(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        flapping = key("pay-0", "flapping")
        began = time.monotonic()
        delays = []
        for number in range(50):
            await made.put("pay-0", "flapping")
            await asyncio.sleep(0.05)
            await made.source.delete(flapping)
            await asyncio.sleep(0.05)
            if number % 10 == 5:
                where = await made.put("pay-1", "i0")
                at = time.monotonic()
                await until(lambda: _there(made.target, where, made.source.truth.now[where]), "others flow", every=0.01)  # noqa: B023
                delays.append(time.monotonic() - at)
        took = time.monotonic() - began
        writes = [event for event in await made.history.caught_up() if event.key == flapping]
        assert len(writes) <= 2 * (6 + took)  # a few are free, then it comes and goes once a second
        assert max(delays) < 2.0
        await made.in_step()


async def _there(target: Natives, where: str, value: str) -> bool:
    return (await target.records()).get(where) == value


async def test_fault_43_strange_instances_have_a_rule_or_are_parked_and_told(folder: Path, etcd: Etcd) -> None:
    inventory = Folder(folder / "inventory")
    registries = {
        "old": {"kind": "file", "path": str(inventory.path)},
        "new": {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"},
    }
    inventory.set(
        "pay",
        plain="192.0.2.1",
        huge={"address": "192.0.2.2", "metadata": {"blob": "x" * 1_000_000}},
        labels={"address": "192.0.2.3", "metadata": {f"label{n}": str(n) for n in range(1_000)}},
        same="192.0.2.4",
        Same="192.0.2.5",
        twin={"address": "192.0.2.1"},
    )
    # Two records of one id, and one without: written by hand.
    (inventory.path / "shop.yaml").write_text(
        "instances:\n"
        "  - {id: a, address: 192.0.2.11, port: 1, metadata: {n: one}}\n"
        "  - {id: a, address: 192.0.2.12, port: 2}\n"
        "  - {address: 192.0.2.13, ports: [{number: 3, protocol: grpc}]}\n"
        "  - {id: '', address: 192.0.2.14, ports: [{number: 4, protocol: grpc}]}\n"
    )
    link = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["*"]}, "guard": LIMITS}
    async with Natives(etcd.address) as target, Bridge(folder, registries, [link]) as bridge:

        async def names() -> set[str]:
            return {where.removeprefix("/microservices/") for where in await target.records()}

        wanted = {"pay/plain", "pay/huge", "pay/labels", "pay/same", "pay/Same"}
        await until(lambda: _covers(names, wanted), "what can be written is written")
        labels = json.loads((await target.records())[key("pay", "labels")])["metadata"]
        assert len(labels) == 1_000
        await steady(target.versions, 1.0)
        status = await bridge.ask("status")
        scopes = {row["registry"]: row for row in status["scopes"]}
        unwritten = (await bridge.ask("plan"))["not_written"]
        # What is not there is told, be it as a record that cannot be read or as one that is parked.
        missing = {"pay/twin", "shop/a"} - await names()
        for each in missing:
            service, _, id = each.partition("/")
            parked = any((row["service"], row["instance"]) == (service, id) for row in unwritten)
            assert parked or scopes["old"]["ignored"] > 0, each


async def _covers(names: Any, wanted: set[str]) -> bool:
    return bool(wanted <= await names())


async def test_fault_45_tokens_that_expire_and_passwords_that_change_cost_no_entry(
    folder: Path, etcd: Etcd, etcd_server: StartEtcd
) -> None:
    guarded = await etcd_server(flags=["--auth-token-ttl=2"])
    everything = {"key": b64("\0"), "rangeEnd": b64("\0"), "permType": "READWRITE"}
    await admin(guarded, "auth/user/add", name="root", password="root")
    await admin(guarded, "auth/role/add", name="root")
    await admin(guarded, "auth/user/grant", user="root", role="root")
    await admin(guarded, "auth/role/add", name="bridges")
    await admin(guarded, "auth/role/grant", name="bridges", perm=everything)
    await admin(guarded, "auth/user/add", name="isthmus", password="one")
    await admin(guarded, "auth/user/grant", user="isthmus", role="bridges")
    await admin(guarded, "auth/enable")
    password = folder / "password"
    password.write_text("one\n")
    registries = {
        "old": {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"},
        "new": {
            "kind": "etcd",
            "endpoints": [guarded.url],
            "layout": "kratos",
            "user": "isthmus",
            "password_file": str(password),
        },
    }
    link = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["*"]}, "guard": LIMITS}

    async def token() -> str:
        return str((await admin(guarded, "auth/authenticate", name="root", password="root"))["token"])

    async def keys() -> int:
        answer = await admin(guarded, "kv/range", await token(), key=b64("/microservices/"), range_end=b64("/n"))
        return int(answer.get("count", 0))

    async with Natives(etcd.address) as source, Bridge(folder, registries, [link]) as bridge:
        for number in range(4):
            await source.register("pay", f"i{number}", f"192.0.2.{number + 1}")
        await until(lambda: _is(keys, 4), "the first copy")
        check = await bridge.isthmus("check", "-o", "json")
        rows = {row["registry"]: row for row in check.json["registries"]}
        assert (rows["new"]["may_read"], rows["new"]["may_write"]) == (True, True)
        await asyncio.sleep(3.0)  # no condition to poll: the token, which only the daemon has, must grow old
        await source.register("pay", "i4", "192.0.2.5")
        await until(lambda: _is(keys, 5), "a change after the token's end")
        await admin(guarded, "auth/user/changepw", await token(), name="isthmus", password="two")
        password.write_text("two\n")
        await source.register("pay", "i5", "192.0.2.6")
        await until(lambda: _is(keys, 6), "a change after the password's")
        # A right that is taken away is a matter for the operator, and removes nothing.
        reader = {**everything, "permType": "READ"}
        await admin(guarded, "auth/role/revoke", await token(), role="bridges", key=b64("\0"), rangeEnd=b64("\0"))
        await admin(guarded, "auth/role/grant", await token(), name="bridges", perm=reader)
        check = await bridge.isthmus("check", "-o", "json")
        rows = {row["registry"]: row for row in check.json["registries"]}
        assert (rows["new"]["may_read"], rows["new"]["may_write"]) == (True, False)
        await source.register("pay", "i6", "192.0.2.7")

        async def told() -> str:
            return str((await bridge.link())["reason"])

        await until(told, "the daemon says so")
        assert await keys() == 6


async def _is(number: Any, wanted: int) -> bool:
    return bool(await number() == wanted)


async def test_fault_45_certificates_are_rotated_without_a_restart_and_without_a_loss(
    folder: Path, etcd_server: StartEtcd
) -> None:
    first, second = folder / "first", folder / "second"
    first.mkdir()
    second.mkdir()
    ones, others = issue(first), issue(second)
    in_use = folder / "in-use"
    in_use.mkdir()

    def use(certificates: Any) -> None:
        for name, path in {
            "ca": certificates.ca,
            "cert": certificates.client.cert,
            "key": certificates.client.key,
            "server-cert": certificates.server.cert,
            "server-key": certificates.server.key,
        }.items():
            shutil.copy(path, in_use / f".{name}")
            (in_use / f".{name}").rename(in_use / f"{name}.pem")

    use(ones)
    secure = await etcd_server(tls=Tls(in_use / "server-cert.pem", in_use / "server-key.pem", in_use / "ca.pem"))
    inventory = Folder(folder / "inventory")
    inventory.set("pay", i1="192.0.2.1")
    tls = {name: str(in_use / f"{name}.pem") for name in ("ca", "cert", "key")}
    registries = {
        "old": {"kind": "file", "path": str(inventory.path)},
        "new": {"kind": "etcd", "endpoints": [secure.url], "layout": "kratos", "tls": tls},
    }
    link = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["*"]}, "guard": LIMITS}
    async with Bridge(folder, registries, [link]) as bridge:
        await until(lambda: _adds(bridge, 1), "the first copy")
        use(others)  # another authority altogether; etcd reads the server's files anew, and its authority at a start
        await secure.stop()
        await secure.start()
        inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
        await until(lambda: _adds(bridge, 2), "a change over the new certificates")
        lines = (await bridge.isthmus("log", "-o", "json")).json
        assert [line["kind"] for line in lines if line["kind"] in ("remove", "forget")] == []


async def _adds(bridge: Bridge, count: int) -> bool:
    lines = (await bridge.isthmus("log", "-o", "json")).json
    return len([line for line in lines if line["kind"] == "add"]) == count


async def test_a_two_way_link_and_a_ring_of_daemons_echo_nothing(
    folder: Path, etcd: Etcd, etcd34: Etcd, etcd_server: StartEtcd
) -> None:
    third = await etcd_server()
    servers = {"a": etcd, "b": etcd34, "c": third}
    registries = {
        name: {"kind": "etcd", "endpoints": [server.url], "layout": "kratos"} for name, server in servers.items()
    }

    def link(one: str, other: str) -> dict[str, Any]:
        return {"from": one, "to": other, "policy": "sync", "services": {"include": ["*"]}, "guard": LIMITS}

    ring = [link("a", "b"), link("b", "c"), link("c", "a")]
    daemons = [
        Bridge(folder, registries, [each], name=f"d{number}", id=f"d{number}") for number, each in enumerate(ring)
    ]
    back = Bridge(folder, registries, [link("b", "a")], name="back", id="back")
    async with Natives(etcd.address) as a, Natives(etcd34.address) as b, Natives(third.address) as c:
        places = (a, b, c)
        async with daemons[0], daemons[1], daemons[2], back:
            await a.register("pay", "from-a", "192.0.2.1")
            await b.register("pay", "from-b", "192.0.2.2")
            await c.register("pay", "from-c", "192.0.2.3")
            everything = {key("pay", id) for id in ("from-a", "from-b", "from-c")}

            async def everywhere() -> bool:
                return all([set(await place.records()) == everything for place in places])

            async def versions() -> list[dict[str, int]]:
                return [await place.versions() for place in places]

            await until(everywhere, "everybody has everything")
            await steady(versions, 2.0)
            await a.delete(key("pay", "from-a"))

            async def gone() -> bool:
                found = [set(await place.records()) for place in places]
                return all(each == everything - {key("pay", "from-a")} for each in found)

            await until(gone, "what left its origin leaves everywhere")
            await steady(versions, 2.0)
