"""What `check` says of a Consul: its version, who may do what, datacenters, polls."""

from __future__ import annotations

import pytest
import pytest_asyncio
from msgspec.structs import replace

from adapters import consul as adapter
from adapters.common.credentials import Tls
from adapters.consul.reach import notes_on
from bridge.errors import Denied, Unavailable
from tests.adapters.consul.lab import ACL, PAY, ROOT, register, registry, token
from tests.conformance.lab import create, instance, watching, write
from tests.conftest import StartConsul
from tests.kit.running import ROOT as ROOT_FOLDER
from tests.kit.seated import Seated
from tests.servers import ports
from tests.servers.certificates import Certificates
from tests.servers.consul import Consul, datacenters
from tests.servers.etcd import Tls as Certificate

READ = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } '
WRITE = (
    (ROOT_FOLDER / "docs" / "consul.md").read_text().partition("```hcl\n")[2].partition("```")[0]
)  # as users read it


@pytest_asyncio.fixture
async def guarded(consul_server: StartConsul) -> Consul:
    return await consul_server(settings=[ACL], token=ROOT)


async def test_it_says_the_version_and_how_many_services_there_are(consul: Consul) -> None:
    for name in ("pay", "cart"):
        await register(consul, "a", name)
    async with registry(consul, max_polls=1) as opened:
        sink = Seated(opened, "b1")
        async with sink.writer():
            reach = await opened.reach()
        assert reach.version == "Consul 1.20.6"
        assert (reach.may_read, reach.may_write, reach.writers) == (True, True, frozenset({"b1"}))
        said = " / ".join(reach.limits)
        assert "dc1: 2 services, at most 1 of those that links ask for polled" in said
        assert "http_max_conns_per_client" in said
        assert reach.unnamed == ()


@pytest.mark.parametrize(("version", "said"), [("1.20.6", 0), ("1.20.6+ent", 1), ("1.21.0+ent.fips1402", 1)])
def test_it_says_that_enterprise_is_read_in_part(version: str, said: int) -> None:
    notes = notes_on(version)
    assert len(notes) == said and all("only the default namespace of the default partition" in note for note in notes)


async def test_it_names_datacenters_that_the_file_does_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with datacenters(tmp_path_factory.mktemp("pair")) as (here, _), registry(here, "dc1", "dc3") as opened:
        reach = await opened.reach()
    said = " / ".join(reach.notes)
    assert reach.unnamed == ("dc2",)
    assert "datacenters that the file does not name are not read: dc2" in said
    assert "there is no datacenter dc3: there is dc1, dc2" in said


@pytest.mark.parametrize(
    ("rules", "rights", "lacks"),
    [
        (WRITE, (True, True), ""),
        (READ, (True, False), "the token lacks key:write below isthmus/, node:write on isthmus-*, service:write"),
        (WRITE.replace("key_prefix", "event_prefix"), (True, False), "the token lacks key:write"),
    ],
    ids=["write", "read", "no keys"],
)
async def test_it_names_the_rights_that_a_token_lacks(
    guarded: Consul, rules: str, rights: tuple[bool, bool], lacks: str
) -> None:
    async with registry(guarded, token=await token(guarded, rules)) as opened:
        reach = await opened.reach()
    assert (reach.may_read, reach.may_write) == rights
    assert lacks in " / ".join(reach.notes)
    lacking = [right.verb for right in reach.rights if not right.may]
    assert bool(lacking) == bool(lacks) and all(verb in " / ".join(reach.notes) for verb in lacking)
    assert "agent:read" in " / ".join(reach.notes)


async def test_the_least_rights_that_check_asks_for_are_enough_to_write(guarded: Consul) -> None:
    async with registry(guarded, token=await token(guarded, WRITE)) as opened:
        sink = Seated(opened, "bridge-a")
        async with sink.writer():
            await write(sink, create(PAY, instance(1)))


async def test_a_token_that_is_unknown_is_denied(guarded: Consul) -> None:
    async with registry(guarded, token="22222222-1111-1111-1111-111111111111") as opened:
        with pytest.raises(Denied):
            await opened.reach()


async def test_it_says_where_nothing_tells_two_consuls_apart(consul_server: StartConsul) -> None:
    server = await consul_server(settings=["connect { enabled = false }"])
    async with registry(server) as opened, watching(opened.sources["dc1"]) as watch:
        await watch.until(lambda: watch.synced)
        reach = await opened.reach()
    assert reach.identity == "consul::dc1"
    assert "Connect is disabled" in " / ".join(reach.notes)


async def test_an_agent_that_wants_certificates_is_reached_and_says_which_it_refuses(
    consul_server: StartConsul, certificates: Certificates
) -> None:
    (port,) = ports.reserve(1)
    files = f'cert_file = "{certificates.server.cert}" key_file = "{certificates.server.key}"'
    files += f' ca_file = "{certificates.ca}" verify_incoming = true'
    await consul_server(settings=[f"ports {{ https = {port} }}", f"tls {{ https {{ {files} }} }}"])
    url = f"https://127.0.0.1:{port}"
    unknown = adapter.Config(address=url, datacenters=["dc1"])

    def shows(given: Certificate | None) -> adapter.Config:
        pair = (str(given.cert), str(given.key)) if given is not None else (None, None)
        return replace(unknown, tls=Tls(ca=str(certificates.ca), cert=pair[0], key=pair[1]))

    refused = [
        (certificates.expired, r"expired\.pem ended at"),
        (certificates.stranger, r"stranger\.pem is not taken"),
        (None, r"name `tls\.cert`"),
    ]
    try:
        async with adapter.create("core", shows(certificates.client), None) as opened:
            assert (await opened.reach()).version == "Consul 1.20.6"
            assert [each.what for each in opened.credentials()] == [
                f"the client certificate {certificates.client.cert}"
            ]
        for given, why in refused:
            async with adapter.create("core", shows(given), None) as opened:
                with pytest.raises(Denied, match=why):
                    await opened.reach()
        async with adapter.create("core", unknown, None) as stranger:
            with pytest.raises(Unavailable, match="not trusted"):
                await stranger.reach()
    finally:
        ports.release([port])
