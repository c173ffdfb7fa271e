"""How a cluster fools its readers, on real servers: silence and lost history or rights are errors, and remove none."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from adapters.kubernetes.access import Keeper
from adapters.kubernetes.client import SLICES as RESOURCE
from adapters.kubernetes.client import Client, Page
from adapters.kubernetes.times import Times
from adapters.kubernetes.watching import Changed, Everything, Follower
from bridge.adapter import Listing
from bridge.errors import Denied, Expired, Unavailable
from bridge.model import ServiceName
from mappings.kubernetes.objects import Slice
from tests.adapters.kubernetes.cluster import CORE, SLICES, Cluster, fresh, may_read, opened, service, slice_of
from tests.conformance.lab import Watching, instance, watching
from tests.conftest import StartKubernetes
from tests.kit.waiting import until
from tests.servers.kubernetes import Kubernetes

PAY = ServiceName("pay")


async def standing(server: Kubernetes, instances: int = 1) -> Cluster:
    """A namespace with one service."""
    cluster = await fresh(server)
    await cluster.put(CORE, "services", service("pay"))
    for number in range(1, instances + 1):
        await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(number)))
    return cluster


def emptied(watch: Watching) -> bool:
    """Whether a watch said that nothing is left."""
    return any(not one.service.instances for one in watch.observations(PAY))


async def ignore(found: Everything | Changed) -> None:
    """Takes what is told, and does nothing."""


async def test_a_watch_that_the_server_ends_goes_on_unbroken(kubernetes: Kubernetes) -> None:
    cluster = await standing(kubernetes)
    async with opened(cluster, times=Times(watch=5)) as source, watching(source) as watch:
        for number in range(2, 8):
            await watch.until(lambda n=number: len(watch.service(PAY).instances) == n - 1)  # type: ignore[misc]
            await asyncio.sleep(2)  # what is written lies in three watches or more
            await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(number)))
        await watch.until(lambda: len(watch.service(PAY).instances) == 7)
        assert sum(isinstance(word, Listing) for word in watch.said) == 1


async def test_rights_revoked_in_mid_watch_are_denied_and_remove_nothing(
    kubernetes_server: StartKubernetes,
) -> None:
    server = await kubernetes_server(users={"reader-token": ("reader", "")})
    cluster = await standing(server)
    binding, known = await may_read(server, "reader", cluster.namespace)
    kubeconfig = server.configure("reader-token", name="reader")
    async with opened(cluster, kubeconfig, times=Times(watch=3)) as source:
        async with watching(source) as watch:
            await watch.until(lambda: watch.synced)
            await server.call("DELETE", binding)
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Denied)
            assert "cannot list resource" in str(watch.error)
            assert not emptied(watch)
        await server.call("DELETE", known)
        with pytest.raises(Denied, match=r"resources: \[namespaces\], resourceNames: \[kube-system\]"):
            await source.read(PAY)


async def test_silence_without_bookmarks_is_an_error(kubernetes: Kubernetes) -> None:
    cluster = await standing(kubernetes)
    async with opened(cluster, times=Times(silence=2)) as source, watching(source) as watch:
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Unavailable)
        assert watch.synced
        assert not emptied(watch)


async def test_a_frozen_apiserver_is_found_and_takes_nothing_away(kubernetes: Kubernetes) -> None:
    """In mid-watch by its silence, and at the begin of a watch long before that."""
    cluster = await standing(kubernetes, 3)
    async with (
        opened(cluster, times=Times(silence=3600, begins=2)) as patient,
        opened(cluster, times=Times(silence=2)) as source,
    ):
        async with watching(source) as watch:
            await watch.until(lambda: watch.synced)
            with kubernetes.frozen():
                await watch.until(lambda: watch.error is not None)
                async with watching(patient) as late:
                    await late.until(lambda: late.error is not None)
        for each in (watch, late):
            assert isinstance(each.error, Unavailable)
            assert not emptied(each)
        assert not late.said
        await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(4)))
        async with watching(source) as after:
            await after.until(lambda: len(after.service(PAY).instances) == 4)


async def test_a_token_that_ends_in_mid_watch_is_denied_and_takes_nothing_away(
    kubernetes: Kubernetes, tmp_path: Path
) -> None:
    """A service account's, as the cluster signs it; the watch goes on with it until its time is over."""
    cluster = await standing(kubernetes)
    account = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts"
    made = await kubernetes.call("POST", account, {"metadata": {"name": "bridge"}})
    who = f"system:serviceaccount:{cluster.namespace}:bridge"
    await may_read(kubernetes, who, cluster.namespace)
    token, kubeconfig = tmp_path / "token", tmp_path / "kubeconfig"
    kubeconfig.write_text(_with_user(kubernetes, {"tokenFile": str(token)}))
    # The server takes it for a minute longer than it says, and asks again 10 s after it took it.
    claims = {
        "iss": "https://kubernetes.default.svc",
        "aud": ["https://kubernetes.default.svc"],
        "sub": who,
        "exp": int(time.time()) - 60 + 12,
        "kubernetes.io": {
            "namespace": cluster.namespace,
            "serviceaccount": {"name": "bridge", "uid": made["metadata"]["uid"]},
        },
    }
    token.write_text(kubernetes.signed(claims))
    async with opened(cluster, kubeconfig, times=Times(watch=3)) as source:
        async with watching(source) as watch:
            await watch.until(lambda: watch.synced)
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Denied)
            assert "401" in str(watch.error) and f"{kubeconfig}, which ended at" in str(watch.error)
            assert not emptied(watch)
        lasting = await kubernetes.call("POST", f"{account}/bridge/token", {"spec": {"expirationSeconds": 600}})
        token.write_text(lasting["status"]["token"])
        async with watching(source) as again:
            await again.until(lambda: again.synced)
            assert again.service(PAY).instances.keys() == {"i1"}


async def test_a_history_that_is_gone_is_expired_also_inside_a_good_answer(
    kubernetes_server: StartKubernetes,
) -> None:
    server = await kubernetes_server()
    cluster = await standing(server, 3)
    client = Client(Keeper(str(server.kubeconfig), None))
    first = (await client.call("GET", RESOURCE.path(cluster.namespace), query={"limit": "1"})).json(Page[Slice])
    await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(4)))
    await server.kill()
    await server.start()
    follower = Follower(client, RESOURCE.path(cluster.namespace), Slice, random.Random(1), _stands)
    try:
        with pytest.raises(Expired, match="410 too old resource version"):
            await follower.follow("1", ignore)
        await server.etcd.compact(await _revision(client, cluster))
        with pytest.raises(Expired, match="410"):  # the rest of a list, from before the restart
            await client.call("GET", RESOURCE.path(cluster.namespace), query={"continue": first.metadata.continue_})
        query = {"resourceVersion": "2", "resourceVersionMatch": "Exact"}
        with pytest.raises(Expired, match="410"):
            await client.call("GET", RESOURCE.path(cluster.namespace), query=query)
        with pytest.raises(Expired, match="Too large resource version"):
            await follower.check("99999999")
        query = {"resourceVersionMatch": "NotOlderThan", "sendInitialEvents": "true"}
        with pytest.raises(Expired, match="Too large resource version"):
            await follower.follow("99999999", ignore, query)
    finally:
        await client.close()


async def test_a_watch_that_lost_a_change_is_found_by_its_audit(kubernetes: Kubernetes) -> None:
    cluster = await standing(kubernetes, 2)
    client = Client(Keeper(str(kubernetes.kubeconfig), None), Times(watch=3, audit=0))
    told: list[Everything | Changed] = []

    async def hear(found: Everything | Changed) -> None:
        told.append(found)

    path = RESOURCE.path(cluster.namespace)
    whole = Follower(client, path, Slice, random.Random(1), _stands)
    try:
        running = asyncio.create_task(whole.run(hear))
        for number in range(3, 8):  # over several watches, each audited
            await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(number)))
            await until(lambda n=number: _heard(told, f"pay-i{n}"))
            await asyncio.sleep(1)  # what is written lies in two watches or more
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        deaf = Follower(client, path, Slice, random.Random(1), _stands)
        with pytest.raises(Expired, match="the watch lost 7 changes"):
            await deaf.audit(str(await _revision(client, cluster)))
    finally:
        await client.close()


async def _heard(told: list[Everything | Changed], name: str) -> bool:
    found = [each.object for each in told if isinstance(each, Changed) and each.object is not None]
    listed = [each for found in told if isinstance(found, Everything) for each in found.objects]
    return name in {each.metadata.name for each in (*found, *listed)}


async def test_fault_34_a_killed_server_is_listed_anew_without_a_gap(kubernetes_server: StartKubernetes) -> None:
    server = await kubernetes_server()
    cluster = await standing(server, 3)
    async with opened(cluster) as source:
        async with watching(source) as before:
            await before.until(lambda: before.synced)
            await server.kill()
            await before.until(lambda: before.error is not None)
            assert isinstance(before.error, Unavailable)
            assert not emptied(before)
        async with watching(source) as down:
            await down.until(lambda: down.error is not None)
            assert isinstance(down.error, Unavailable)
            assert not down.said
        await server.start()
        await cluster.remove(SLICES, "endpointslices", "pay-i1")
        async with watching(source) as after:
            await after.until(lambda: after.synced)
            assert after.service(PAY).instances.keys() == {"i2", "i3"}
    assert isinstance(before.said[0], Listing)
    assert isinstance(after.said[0], Listing)
    assert after.said[0].identity == before.said[0].identity
    assert after.said[0].revision >= before.said[0].revision


async def _revision(client: Client, cluster: Cluster) -> int:
    answer = await client.call("GET", RESOURCE.path(cluster.namespace))
    return int(answer.json(Page[Slice]).metadata.resource_version)


async def _stands() -> None:
    """The same cluster."""


@pytest.mark.parametrize("running", [False, True], ids=["restarted with it", "running on"])
async def test_an_etcd_restored_below_the_apiserver_is_an_older_life(
    kubernetes_server: StartKubernetes, tmp_path: Path, running: bool
) -> None:
    """An apiserver that runs on answers from its cache, and its watches say nothing, until it is restarted."""
    server = await kubernetes_server()
    cluster = await standing(server)
    data = server.etcd.data
    await server.kill()
    await server.etcd.stop()
    shutil.copytree(data, tmp_path / "backup")
    await server.start()
    async with opened(cluster) as source:
        async with watching(source) as before:
            await before.until(lambda: before.synced)
            for number in range(2, 30):
                await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(number)))
            await before.until(lambda: len(before.service(PAY).instances) == 29)
            if running:
                await _swap(server, tmp_path / "backup")
                await server.etcd.start()
                with suppress(Unavailable, Expired):
                    assert (await source.read(PAY)).service.instances
            await server.kill()
            await before.until(lambda: before.error is not None)
            assert not emptied(before)
        if not running:
            await _swap(server, tmp_path / "backup")
        await server.start()
        async with watching(source) as after:
            await after.until(lambda: after.synced)
    old, new = before.observed[PAY], after.said[0]
    assert isinstance(new, Listing)
    assert isinstance(before.said[0], Listing)
    assert new.identity == before.said[0].identity
    assert new.revision < old.revision  # which the core does not believe


async def _swap(server: Kubernetes, backup: Path) -> None:
    """Its etcd is down, and has the data of the backup."""
    await server.etcd.kill()
    shutil.rmtree(server.etcd.data)
    shutil.copytree(backup, server.etcd.data)


async def test_a_server_without_watch_list_is_listed_in_pages(kubernetes_server: StartKubernetes) -> None:
    server = await kubernetes_server(flags=("--feature-gates=WatchList=false",))
    cluster = await standing(server)
    many = [slice_of("pay", instance(1)) for _ in range(510)]
    for number, each in enumerate(many):
        each["metadata"]["name"] = f"s{number}"
        each["endpoints"][0]["targetRef"]["name"] = f"p{number}"
    for start in range(0, len(many), 30):
        await asyncio.gather(*(cluster.put(SLICES, "endpointslices", each) for each in many[start : start + 30]))
    async with opened(cluster, times=Times(watch=2)) as source, watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert len(watch.service(PAY).instances) == 511
        await cluster.remove(SLICES, "endpointslices", "s7")
        await watch.until(lambda: len(watch.service(PAY).instances) == 510)
        assert len((await source.read(PAY)).service.instances) == 510


async def test_a_token_and_an_exec_plugin_rotate_without_a_restart(kubernetes: Kubernetes, tmp_path: Path) -> None:
    cluster = await standing(kubernetes)
    token = tmp_path / "token"
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        'printf \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
        f'"status":{{"token":"%s"}}}}\' "$(cat {token})"\n'
    )
    plugin.chmod(0o755)
    api = "client.authentication.k8s.io/v1"
    users = {
        "file": {"tokenFile": str(token)},
        "exec": {"exec": {"apiVersion": api, "command": str(plugin), "interactiveMode": "Never"}},
    }
    for name, user in users.items():
        token.write_text("wrong")
        kubeconfig = tmp_path / name
        kubeconfig.write_text(_with_user(kubernetes, user))
        async with opened(cluster, kubeconfig) as source:
            with pytest.raises(Denied, match="401"):
                await source.read(PAY)
            token.write_text("admin-token")
            assert (await source.read(PAY)).service.instances.keys() == {"i1"}


async def test_what_is_wrong_with_a_kubeconfig_is_denied_by_name(kubernetes: Kubernetes, tmp_path: Path) -> None:
    cluster = await standing(kubernetes)
    broken = tmp_path / "broken"
    api = "client.authentication.k8s.io/v1"
    texts = {
        "broken cannot be used": "{",
        "exec plugin /nowhere gave no credential": _with_user(
            kubernetes, {"exec": {"apiVersion": api, "command": "/nowhere", "interactiveMode": "Never"}}
        ),
        "insecure-skip-tls-verify is not supported": kubernetes.kubeconfig.read_text().replace(
            '"certificate-authority":', '"insecure-skip-tls-verify": true, "certificate-authority":'
        ),
    }
    for why, text in texts.items():
        broken.write_text(text)
        async with opened(cluster, broken) as source:
            with pytest.raises(Denied, match=why):
                await source.read(PAY)
            broken.write_text(kubernetes.kubeconfig.read_text())
            assert (await source.read(PAY)).service.instances.keys() == {"i1"}
    async with opened(cluster, tmp_path / "nothing") as source:
        with pytest.raises(Denied, match="nothing cannot be used"):
            await source.read(PAY)


def _with_user(server: Kubernetes, user: object) -> str:
    config = json.loads(server.kubeconfig.read_text())
    config["users"] = [{"name": "user", "user": user}]
    return json.dumps(config)


async def test_an_etcd_that_is_restored_under_a_running_apiserver_is_found(
    kubernetes_server: StartKubernetes, tmp_path: Path
) -> None:
    """Lists and watches go on from the server's cache, and nothing but a look at one object shows it."""
    server = await kubernetes_server()
    cluster = await standing(server)
    data = server.etcd.data
    await server.etcd.stop()
    shutil.copytree(data, tmp_path / "backup")
    await server.etcd.start()
    async with opened(cluster, times=Times(watch=3)) as source:
        async with watching(source) as before:
            for number in range(2, 6):
                await until(lambda n=number: _put(cluster, n), "the apiserver has its etcd again")
            await before.until(lambda: len(before.service(PAY).instances) == 5)
            await server.etcd.stop()
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "backup", data)
            await server.etcd.start()
            await before.until(lambda: before.error is not None and "older state" in str(before.error))
            assert isinstance(before.error, Unavailable)
            assert not emptied(before)
        async with watching(source) as after:  # which lists what is not there, and is not believed
            await after.until(lambda: after.error is not None)
            assert "older state" in str(after.error) and not after.synced


async def _put(cluster: Cluster, number: int) -> bool:
    with suppress(OSError):
        await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(number)))
        return True
    return False


async def test_a_client_certificate_rotates_and_its_end_is_named(
    kubernetes_server: StartKubernetes, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    server = await kubernetes_server(flags=(f"--client-ca-file={tmp_path / 'clients.pem'}",))
    cluster = await standing(server)
    paths = {"client-certificate": tmp_path / "client.pem", "client-key": tmp_path / "client.key"}

    def rotate(lasting: timedelta) -> None:
        now = datetime.now(UTC)
        names = {"common_name": "isthmus", "organization_name": "system:masters"}
        times = {"not_before": now - timedelta(days=1), "not_after": now + lasting}
        made = authority.issue_cert("isthmus.test", **names, **times)  # type: ignore[arg-type]
        made.private_key_pem.write_to_path(str(paths["client-key"]))
        made.cert_chain_pems[0].write_to_path(str(paths["client-certificate"]))

    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(_with_user(server, {key: str(path) for key, path in paths.items()}))
    rotate(timedelta(seconds=6))
    async with opened(cluster, kubeconfig, times=Times(watch=2)) as source:
        async with watching(source) as watch:
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Denied)
            assert f"the client certificate of {kubeconfig}, which ended at" in str(watch.error)
            assert watch.synced and not emptied(watch)
        rotate(timedelta(days=365))
        assert (await source.read(PAY)).service.instances.keys() == {"i1"}
        (shown,) = source._client.credentials()
        assert shown.ends > datetime.now(UTC).timestamp() + 300 * 86_400
