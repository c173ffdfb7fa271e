"""The unit's user and what it may read, and that secrets rotate under just that, as far as it goes without systemd."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters.nginx.apply import REQUEST
from tests.adapters.consul.lab import ACL, register, revoke, token
from tests.adapters.consul.lab import ROOT as MANAGER
from tests.conftest import StartConsul
from tests.kit.running import ROOT, Bridge
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.certificates import Certificates, issue

UNIT = ROOT / "deploy/systemd/isthmus.service"
SOMEBODY = 61_234  # the id of a user and a group that nothing here has
READER = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } agent_prefix "" { policy = "read" }'

# What the unit asks of systemd, done by hand: the state folder alone can be written, and the user has no right of root.
CONFINED = """
set -e
umask {UMask}
mount --bind {state} {state}
mount -o remount,bind,ro /
exec setpriv --reuid {id} --regid {id} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""


def service() -> dict[str, str]:
    """The unit's block Service; of a key that is there twice, the last."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read_string(UNIT.read_text())
    return dict(found["Service"])


def test_the_unit_has_a_fixed_user_that_may_write_its_state_alone() -> None:
    unit = service()
    assert (unit["User"], unit["Group"]) == ("isthmus", "isthmus")
    assert "DynamicUser" not in unit
    assert (unit["ReadOnlyPaths"], unit["ProtectSystem"], unit["StateDirectory"]) == (
        "/etc/isthmus",
        "strict",
        "isthmus",
    )
    assert (unit["CapabilityBoundingSet"], unit["NoNewPrivileges"], unit["UMask"]) == ("", "yes", "0077")
    made = (UNIT.parent / "isthmus.sysusers").read_text().split()
    assert made[:2] == ["u", unit["User"]]
    assert f"d /etc/isthmus/secrets 0750 root {unit['Group']} -" in (UNIT.parent / "isthmus.tmpfiles").read_text()


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not here")
def test_systemd_makes_the_user_and_the_folder_for_secrets(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for program, name in (("systemd-sysusers", "isthmus.sysusers"), ("systemd-tmpfiles", "isthmus.tmpfiles")):
        words = [program, f"--root={tmp_path}", *(["--create"] if "tmpfiles" in program else [])]
        ran = subprocess.run([*words, str(UNIT.parent / name)], capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
    assert "isthmus:" in (tmp_path / "etc/passwd").read_text()
    assert (tmp_path / "etc/isthmus/secrets").stat().st_mode & 0o777 == 0o750


def test_the_unit_for_nginx_watches_what_the_bridge_writes() -> None:
    texts = {each.suffix: each.read_text() for each in UNIT.parent.glob("isthmus-nginx.*")}
    assert f"PathChanged=/var/lib/isthmus/nginx/{REQUEST}\n" in texts[".path"]
    assert "/var/lib/isthmus/nginx /etc/nginx/isthmus.d /run/isthmus-nginx/result.json\n" in texts[".service"]
    assert "RuntimeDirectory=isthmus-nginx\n" in texts[".service"]
    assert "d /var/lib/isthmus/nginx 0700 isthmus isthmus -\n" in (UNIT.parent / "isthmus.tmpfiles").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_reads_every_unit_without_a_word(tmp_path: Path) -> None:
    for each in [*UNIT.parent.glob("*.service"), *UNIT.parent.glob("*.path")]:
        text = re.sub(r"/usr/bin/isthmus\S*", "/bin/true", each.read_text())  # which has to be there
        (tmp_path / each.name).write_text(text)
    for each in tmp_path.glob("isthmus*"):
        ran = subprocess.run(
            ["systemd-analyze", "verify", str(each)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")


def runs_confined() -> bool:
    """Whether this process may confine another one, and that one may run this Python."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    user = ["setpriv", "--reuid", str(SOMEBODY), "--clear-groups"]
    words = ["unshare", "-m", *user, sys.executable, "-c", "import bridge"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 0


class Secrets:
    """/etc/isthmus/secrets: root's, and readable for the group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o750)
        os.chown(folder, 0, SOMEBODY)

    def put(self, **contents: bytes) -> None:
        """Each file replaced at once, as whoever rotates secrets does."""
        for name, content in contents.items():
            draft = self.folder / f".{name}"
            draft.write_bytes(content)
            draft.chmod(0o640)
            os.chown(draft, 0, SOMEBODY)
            draft.replace(self.folder / name)

    def put_tls(self, made: Certificates) -> None:
        self.put(ca=made.ca.read_bytes(), cert=made.client.cert.read_bytes(), key=made.client.key.read_bytes())


def serve_with(folder: Path, made: Certificates) -> None:
    """The files of the server."""
    for name, source in (("ca", made.ca), ("cert", made.server.cert), ("key", made.server.key)):
        shutil.copy(source, folder / name)


async def test_key_token_and_authority_rotate_under_the_settings_of_the_unit(
    consul_server: StartConsul, folder: Path, tmp_path: Path
) -> None:
    if not runs_confined():
        pytest.skip("needs root, setpriv, and a Python that other users may run")
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = issue(tmp_path / "old"), issue(tmp_path / "new")
    (port,) = ports.reserve(1)
    serve_with(tmp_path, old)
    files = " ".join(f'{key}_file = "{tmp_path / key}"' for key in ("ca", "cert", "key"))
    https = [f"ports {{ https = {port} }}", f"tls {{ https {{ {files} verify_incoming = true }} }}"]
    server = await consul_server(settings=[ACL, *https], token=MANAGER)
    secrets, state = Secrets(folder / "secrets"), folder / "bridge.state"
    bridge = confined(folder, state, consul_of(port, secrets.folder))
    secrets.put_tls(old)
    first, second = await token(server, READER), await token(server, READER + " ")
    secrets.put(token=first.encode())

    async def copied(number: int) -> None:
        """What is registered now arrives, and nothing that came before it goes."""

        async def there() -> bool:
            found = "".join(path.read_text() for path in state.glob("*isthmus.yaml"))
            assert all(f"192.0.2.{before}" in found for before in range(1, number))
            return f"192.0.2.{number}" in found

        await register(server, f"i{number}", Address=f"192.0.2.{number}")
        await until(there, f"what was registered after {number - 1} rotations")

    try:
        async with bridge:
            await copied(1)
            secrets.put(token=second.encode())
            await revoke(server, first)
            await copied(2)
            secrets.put_tls(new)
            serve_with(tmp_path, new)
            await server.call("PUT", "/v1/agent/reload")
            await copied(3)
            status = Path(f"/proc/{bridge.process.pid}/status").read_text()
            assert f"Uid:\t{SOMEBODY}\t{SOMEBODY}\t{SOMEBODY}" in status and "CapEff:\t0000000000000000" in status
    finally:
        ports.release([port])


def consul_of(port: int, secrets: Path) -> dict[str, Any]:
    """A registry's block whose secrets are files there."""
    tls = {name: str(secrets / name) for name in ("ca", "cert", "key")}
    block = {"kind": "consul", "address": f"https://127.0.0.1:{port}", "datacenters": ["dc1"], "wait": 2}
    return {**block, "tls": tls, "token_file": str(secrets / "token")}


def confined(folder: Path, state: Path, source: dict[str, Any]) -> Bridge:
    """A bridge that copies into its own state folder, where alone it may write, as the unit runs it."""
    folder.chmod(0o711)
    state.mkdir(mode=0o700)
    os.chown(state, SOMEBODY, SOMEBODY)
    link = {"from": "core", "to": "mirror", "policy": "sync", "services": {"include": ["*"]}}
    bridge = Bridge(folder, {"core": source, "mirror": {"kind": "file", "path": str(state)}}, [link])
    bridge.file.chmod(0o644)
    (folder / "bridge.notify").chmod(0o777)
    script = CONFINED.format(UMask=service()["UMask"], state=state, id=SOMEBODY)
    bridge.within = ["unshare", "-m", "sh", "-c", script, "sh"]
    return bridge
