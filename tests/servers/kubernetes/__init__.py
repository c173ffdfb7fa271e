"""kube-apiserver, kube-controller-manager and kubectl 1.34 built from their Go module: a cluster without nodes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers import provide
from tests.servers.etcd import Etcd
from tests.servers.process import Process
from tests.servers.server import Server

HERE = Path(__file__).parent
VERSION = "1.34.4"
PROGRAMS = ("kube-apiserver", "kubectl", "kube-controller-manager")
ADMIN = "admin-token"  # a member of system:masters
STAMP = f"-X k8s.io/component-base/version.gitVersion=v{VERSION}"


def binaries() -> Path:
    """The folder of the three programs, provided on first use; raises NotProvided."""
    return provide.provided(f"kubernetes-{VERSION}-{provide.digest(HERE / 'go.sum')}", _build)


def _build(folder: Path) -> None:
    packages = {name: f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS}
    provide.go_build(HERE, packages, folder, f"-ldflags=-s -w {STAMP}")


class Kubernetes(Server):
    """An apiserver on an etcd of its own, which goes on when the apiserver is stopped, killed or frozen; with RBAC.

    `users` are further static tokens: token to (user name, groups joined by commas). With `controllers`,
    kube-controller-manager runs these, e.g. "endpointslice-controller". `bind`: the address that it listens on,
    another one for a network namespace.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "kubernetes",
        users: Mapping[str, tuple[str, str]] | None = None,
        flags: tuple[str, ...] = (),
        controllers: tuple[str, ...] = (),
        bind: str = "127.0.0.1",
    ) -> None:
        super().__init__(name, folder, 2)
        self.folder = folder
        self.users = dict(users or {})
        self.flags = flags
        self.controllers = controllers
        self.bind = bind
        self.etcd = Etcd(folder, name=f"{name}-etcd")
        self.manager = Process(f"{name}-controllers", folder)
        self.address = f"{bind}:{self._ports[0]}"
        self.url = f"https://{self.address}"
        self.ca = folder / f"{name}-ca.pem"
        self.kubeconfig = folder / f"{name}.kubeconfig"

    async def __aexit__(self, *_: object) -> None:
        await self.manager.stop()
        await super().__aexit__()
        await self.etcd.__aexit__()

    async def start(self) -> None:
        """Starts all of it, or what is down of it, on the same data and ports; ready when it serves."""
        programs = await asyncio.to_thread(binaries)
        await asyncio.to_thread(self._prepare)
        if not self.etcd.process.running:
            await self.etcd.start()
        await self.process.start([str(programs / "kube-apiserver"), *self._command()], self._ready)
        if self.controllers and not self.manager.running:
            await self.manager.start([str(programs / "kube-controller-manager"), *self._manage()], self._true)

    async def call(
        self, method: str, path: str, body: object = None, *, token: str = ADMIN, content: str = "application/json"
    ) -> Any:
        """One request of the API, with the answer's JSON; raises urllib.error.HTTPError."""
        return await asyncio.to_thread(self._call, method, path, body, token, content)

    def _call(self, method: str, path: str, body: object, token: str, content: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, method=method)
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Content-Type", content)
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith(b"{") else text.decode()

    async def namespace(self, name: str) -> str:
        """Creates a namespace, for one test alone; returns its name."""
        await self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    async def kubectl(self, *words: str, given: str = "", fails: bool = False) -> str:
        """What kubectl prints, as the administrator; raises AssertionError where it complains, unless it may fail."""
        program = await asyncio.to_thread(binaries)
        process = await asyncio.create_subprocess_exec(
            program / "kubectl",
            f"--kubeconfig={self.kubeconfig}",
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"HOME": str(self.folder)},
        )
        said, complained = await process.communicate(given.encode())
        assert fails or process.returncode == 0, complained.decode()
        return said.decode()

    def configure(self, token: str, *, namespace: str = "default", name: str = "") -> Path:
        """Writes a kubeconfig for a token; its one context has the server's name."""
        place = self.folder / f"{self.name}{'-' if name else ''}{name}.kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.name,
            "clusters": [{"name": self.name, "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [
                {"name": self.name, "context": {"cluster": self.name, "user": "user", "namespace": namespace}}
            ],
        }
        place.write_text(json.dumps(content))
        return place

    def signed(self, claims: Mapping[str, Any]) -> str:
        """A token of a service account, as the server signs them, but with any claims (RFC 7519)."""
        key = serialization.load_pem_private_key(self._file("accounts.key").read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        said = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "RS256"}, claims))
        return f"{said}.{_base64(key.sign(said.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def _prepare(self) -> None:
        if self.kubeconfig.exists():
            return
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        leaf = authority.issue_cert(self.bind, "localhost")
        leaf.cert_chain_pems[0].write_to_path(str(self._file("cert.pem")))
        leaf.private_key_pem.write_to_path(str(self._file("key.pem")))
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._file("accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        rows = [f"{ADMIN},admin,admin,system:masters"]
        rows += [f'{token},{user},{user},"{groups}"' for token, (user, groups) in self.users.items()]
        self._file("tokens.csv").write_text("\n".join(rows) + "\n")
        self.configure(ADMIN)

    def _file(self, name: str) -> Path:
        return self.folder / f"{self.name}-{name}"

    def _command(self) -> list[str]:
        accounts = str(self._file("accounts.key"))
        options = {
            "etcd-servers": self.etcd.url,
            "secure-port": str(self._ports[0]),
            "bind-address": self.bind,
            "advertise-address": "192.0.2.1",  # data only: nobody dials it
            "cert-dir": str(self._file("certs")),
            "tls-cert-file": str(self._file("cert.pem")),
            "tls-private-key-file": str(self._file("key.pem")),
            "service-account-key-file": accounts,
            "service-account-signing-key-file": accounts,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-cluster-ip-range": "10.0.0.0/16",
            "token-auth-file": str(self._file("tokens.csv")),
            "authorization-mode": "RBAC",
            "disable-admission-plugins": "ServiceAccount",
            "endpoint-reconciler-type": "none",
        }
        return [*(f"--{name}={value}" for name, value in options.items()), *self.flags]

    def _manage(self) -> list[str]:
        options = {
            "kubeconfig": str(self.kubeconfig),
            "controllers": ",".join(self.controllers),
            "secure-port": str(self._ports[1]),
            "bind-address": self.bind,
            "cert-dir": str(self._file("controllers-certs")),
            "leader-elect": "false",
        }
        return [f"--{name}={value}" for name, value in options.items()]

    async def _ready(self) -> bool:
        try:
            return bool(await self.call("GET", "/readyz") == "ok")
        except OSError:
            return False

    async def _true(self) -> bool:
        return True


def _base64(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()
