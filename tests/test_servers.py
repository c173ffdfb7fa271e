"""The real servers keep what the other tests rely on: their port, their data, and never a life beyond the tests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tests.conftest import StartConsul, StartEtcd, StartEureka, StartKubernetes, StartZooKeeper, provided
from tests.servers import etcd as etcds
from tests.servers import ports
from tests.servers import zookeeper as zookeepers
from tests.servers.certificates import Certificates
from tests.servers.consul import datacenters
from tests.servers.etcd import Etcd
from tests.servers.process import NotReady, said
from tests.servers.zookeeper import ZooKeeper


def gateway(etcd: Etcd, path: str, **body: object) -> dict[str, object]:
    """One call of etcd's JSON gateway."""
    request = urllib.request.Request(f"{etcd.url}/v3/{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.loads(answer.read()))


def put(etcd: Etcd, key: bytes) -> None:
    gateway(etcd, "kv/put", key=b64encode(key).decode(), value="")


def count(etcd: Etcd, key: bytes) -> int:
    return int(str(gateway(etcd, "kv/range", key=b64encode(key).decode()).get("count", 0)))


async def gone(alive: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something ends before the deadline."""
    deadline = time.monotonic() + seconds
    while alive() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not alive()


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [1, 2])
async def test_each_test_finds_the_shared_etcd_empty(etcd: Etcd, etcd34: Etcd, number: int) -> None:
    for server in (etcd, etcd34):
        assert count(server, b"left") == 0
        put(server, b"left")
        assert count(server, b"left") == 1


@pytest.mark.parametrize("version", ["3.4", "3.6"])
async def test_an_etcd_that_was_killed_comes_back_with_its_port_and_its_data(
    etcd_server: StartEtcd, version: str
) -> None:
    server = await etcd_server(version=version)
    put(server, b"kept")
    await server.kill()
    assert not await said(int(server.address.partition(":")[2]), b"GET /version HTTP/1.0\r\n\r\n")
    await server.start()
    assert count(server, b"kept") == 1


async def test_an_etcd_that_forgets_comes_back_empty(etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    put(server, b"lost")
    await server.stop()
    server.forget()
    await server.start()
    assert count(server, b"lost") == 0


async def test_a_frozen_etcd_accepts_and_does_not_answer(etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    port = int(server.address.partition(":")[2])
    server.freeze()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /version HTTP/1.0\r\n\r\n")
    answer = asyncio.ensure_future(reader.read())
    assert not (await asyncio.wait([answer], timeout=0.2))[0]
    server.thaw()
    assert b"etcdserver" in await asyncio.wait_for(answer, 20)
    writer.close()


async def test_an_etcd_with_an_authority_asks_for_a_certificate(
    etcd_server: StartEtcd, certificates: Certificates
) -> None:
    server = await etcd_server(tls=certificates.server._replace(ca=certificates.ca))
    assert server.url.startswith("https://")
    curl = [sys.executable, "-c", TLS_PROBE, server.address, str(certificates.ca)]
    trusted = [*curl, str(certificates.client.cert), str(certificates.client.key)]
    stranger = [*curl, str(certificates.stranger.cert), str(certificates.stranger.key)]
    assert (await asyncio.to_thread(subprocess.run, trusted, check=False)).returncode == 0
    assert (await asyncio.to_thread(subprocess.run, stranger, check=False, stderr=-3)).returncode != 0


TLS_PROBE = """
import ssl, sys, urllib.request
address, ca, cert, key = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
urllib.request.urlopen(f"https://{address}/version", context=context, timeout=10).read()
"""


async def test_a_cluster_outlives_one_member(tmp_path: Path) -> None:
    with provided():
        async with etcds.cluster(tmp_path) as members:
            put(members[0], b"before")
            await members[0].kill()
            deadline = time.monotonic() + 30
            while True:  # until the two that are left have a leader
                try:
                    put(members[1], b"after")
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
            assert count(members[2], b"before") == 1


async def test_an_ensemble_outlives_one_node(tmp_path: Path) -> None:
    with provided():
        async with zookeepers.ensemble(tmp_path) as nodes:
            await nodes[0].kill()
            await asyncio.to_thread(create, ",".join(node.address for node in nodes), "/after")


def create(hosts: str, path: str) -> None:
    client = KazooClient(hosts)
    client.start(timeout=30)
    try:
        client.ensure_path(path)
    finally:
        client.stop()
        client.close()


@pytest.mark.parametrize("number", [1, 2])
async def test_each_test_finds_the_shared_zookeeper_empty(zookeeper: ZooKeeper, number: int) -> None:
    assert children(zookeeper) == ["zookeeper"]
    await asyncio.to_thread(create, zookeeper.address, "/left/behind")
    assert children(zookeeper) == ["left", "zookeeper"]


def children(zookeeper: ZooKeeper) -> list[str]:
    client = KazooClient(zookeeper.address)
    client.start(timeout=30)
    try:
        return sorted(client.get_children("/"))
    finally:
        client.stop()
        client.close()


async def test_a_zookeeper_that_was_killed_comes_back_with_its_port_and_its_data(
    zookeeper_server: StartZooKeeper,
) -> None:
    server = await zookeeper_server()
    await asyncio.to_thread(create, server.address, "/kept")
    await server.kill()
    await server.start()
    assert "kept" in children(server)


async def test_a_server_that_will_not_run_shows_its_log(etcd_server: StartEtcd) -> None:
    with pytest.raises(NotReady, match="no-such-flag"):
        await etcd_server(flags=["--no-such-flag"])


async def test_a_server_dies_with_the_tests_however_they_end(tmp_path: Path) -> None:
    with provided():
        await asyncio.to_thread(etcds.binary)
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    assert child.stdout is not None
    pid = int(await asyncio.to_thread(child.stdout.readline))
    assert exists(pid)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(20)
    child.stdout.close()
    assert await gone(lambda: exists(pid))


OWNER = """
import asyncio, sys, pathlib
from tests.servers.etcd import Etcd

async def own():
    async with Etcd(pathlib.Path(sys.argv[1])) as server:
        print(server.process.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(own())
"""


def test_two_processes_are_never_given_the_same_port() -> None:
    """Both see the same short list of ports, and both want most of it."""
    few = range(14900, 14920)
    mine = ports.reserve(12, few)
    try:
        code = f"from tests.servers import ports; print(*ports.reserve(20, {few}))"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        theirs = {int(word) for word in other.stdout.split()}
        assert theirs
        assert not theirs & set(mine)
    finally:
        ports.release(mine)


async def test_a_consul_that_was_killed_comes_back_with_its_data(consul_server: StartConsul) -> None:
    server = await consul_server()
    await server.call("PUT", "/v1/kv/left", "here")
    await server.kill()
    assert await server.answers("/v1/status/leader") == 0
    await server.start()
    assert await server.answers("/v1/kv/left") == 200


async def test_joined_datacenters_answer_for_each_other(tmp_path: Path) -> None:
    with provided():
        async with datacenters(tmp_path, "dc1", "dc2") as (first, second):
            await second.call("PUT", "/v1/catalog/register", {"Node": "n", "Address": "192.0.2.1"})
            nodes = await first.call("GET", "/v1/catalog/nodes?dc=dc2")
            assert {node["Node"] for node in nodes} == {"consul-dc2", "n"}


async def test_a_eureka_lists_past_its_cache_and_comes_back_empty(eureka_server: StartEureka) -> None:
    never = {"use-read-only-response-cache": "true", "response-cache-update-interval-ms": "1000000000"}
    server = await eureka_server(settings={f"eureka.server.{key}": text for key, text in never.items()})
    assert (await server.call("GET", "/apps"))["applications"]["application"] == []
    instance = {
        "instanceId": "i1",
        "app": "PAY",
        "hostName": "192.0.2.1",
        "ipAddr": "192.0.2.1",
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
    }
    await server.call("POST", "/apps/PAY", {"instance": instance})
    assert (await server.call("GET", "/apps/PAY/i1"))["instance"]["hostName"] == "192.0.2.1"
    assert (await server.call("GET", "/apps"))["applications"]["application"] == []
    assert (await server.listed()).keys() == {("PAY", "i1")}
    await server.kill()
    await server.start()
    assert (await server.call("GET", "/apps"))["applications"]["application"] == []


async def test_a_kube_apiserver_keeps_its_data_and_its_users_rights(kubernetes_server: StartKubernetes) -> None:
    server = await kubernetes_server(users={"reader-token": ("reader", "")})
    await server.namespace("shop")
    await server.kill()
    await server.start()
    assert "shop" in await server.kubectl("get", "namespaces", "-o", "name")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await server.call("GET", "/api/v1/namespaces", token="reader-token")
