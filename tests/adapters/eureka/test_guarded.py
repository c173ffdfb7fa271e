"""A Eureka behind TLS, client certificates and a password, all of which change while it is read."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from adapters.common.credentials import Tls
from adapters.eureka import Config, create
from adapters.eureka.source import EurekaSource
from bridge.errors import Denied
from bridge.model import ServiceName
from tests.adapters.eureka.test_sink import copy, write
from tests.conformance.lab import BRIDGE, watching
from tests.conformance.lab import create as creation
from tests.conftest import StartEureka
from tests.kit.eureka import Native
from tests.kit.waiting import until
from tests.servers.certificates import Certificates
from tests.servers.etcd import Tls as Certificate
from tests.servers.eureka import Guard

PAY = ServiceName("pay")


async def refused(source: EurekaSource, why: str) -> bool:
    """Whether a read is denied for that."""
    try:
        await source.read(PAY)
    except Denied as error:
        return why in str(error)
    return False


async def test_passwords_and_certificates_rotate_and_what_is_refused_is_named(
    eureka_server: StartEureka, certificates: Certificates, tmp_path: Path
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "password"
    for path in (theirs, ours):
        path.write_text("first")
    server = await eureka_server(guard=Guard(certificates, theirs))
    await Native(server).register("pay", "i1")

    def show(given: Certificate) -> Tls:
        shutil.copy(given.cert, tmp_path / "cert.pem")
        shutil.copy(given.key, tmp_path / "cert.key")
        return Tls(ca=str(certificates.ca), cert=str(tmp_path / "cert.pem"), key=str(tmp_path / "cert.key"))

    settings = Config(
        urls=[server.url], poll=0.1, tls=show(certificates.client), username="isthmus", password_file=str(ours)
    )
    async with create("old", settings, None) as registry:
        both = {"i1", copy(1).id}
        await write(registry.sink(BRIDGE), creation(PAY, copy(1)))
        async with watching(registry.source) as watch:
            await watch.until(lambda: watch.service(PAY).instances.keys() == both)
            theirs.write_text("second")
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Denied)
            assert "the password of isthmus" in str(watch.error)
            assert all(one.service.instances for one in watch.observations(PAY))
        ours.write_text("second")
        assert (await registry.source.read(PAY)).service.instances.keys() == both
        for given, why in ((certificates.expired, "ended at"), (certificates.stranger, "is not taken")):
            show(given)
            await until(partial(refused, registry.source, f"cert.pem {why}"), "it is shown within a second")
        show(certificates.client)
        assert (await registry.source.read(PAY)).service.instances.keys() == both
