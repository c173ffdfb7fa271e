"""An export over https: its certificate is replaced while it answers, also where the two files come one by one."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import urllib.request
from pathlib import Path

from adapters import prometheus
from tests.kit.waiting import steady, until
from tests.servers import ports
from tests.servers.certificates import Certificates, issue


async def test_a_certificate_is_replaced_file_by_file_while_it_answers(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    before, after = issue(old), issue(new)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(before.server.cert, cert)
    shutil.copy(before.server.key, key)
    (port,) = ports.reserve(1)
    config = prometheus.Config(listen=f"127.0.0.1:{port}", cert=str(cert), key=str(key))
    registry = prometheus.create("lab", config, tmp_path)
    registry.sink("b1").missing(frozenset())
    serving = asyncio.create_task(registry.serve())

    async def shown(by: Certificates) -> bool:
        """Whether it answers with a certificate of that authority."""

        def ask() -> bool:
            context = ssl.create_default_context(cafile=str(by.ca))
            try:
                with urllib.request.urlopen(f"https://127.0.0.1:{port}/targets", timeout=5, context=context) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        return await asyncio.to_thread(ask)

    try:
        await until(lambda: shown(before), "it answers")
        shutil.copy(after.server.cert, cert)
        assert await steady(lambda: shown(before), 2.5), "the new certificate has no key yet"
        shutil.copy(after.server.key, key)
        await until(lambda: shown(after), "the new pair is shown")
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        ports.release([port])
