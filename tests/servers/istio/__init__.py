"""istiod built from its Go module, on the apiserver of a `tests.servers.kubernetes.Kubernetes`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.servers import provide
from tests.servers.kubernetes import Kubernetes
from tests.servers.process import said
from tests.servers.server import Server

HERE = Path(__file__).parent
VERSION = "20260827"
NAMESPACE = "istio-system"
DEFINITIONS = "definitions.yaml"


def binaries() -> Path:
    """The folder of `istiod` and of its custom resource definitions, provided on first use; raises NotProvided."""
    return provide.provided(f"istio-{VERSION}-{provide.digest(HERE / 'go.sum')}", _build)


def _build(folder: Path) -> None:
    provide.go_build(HERE, {"istiod": "istio.io/istio/pilot/cmd/pilot-discovery"}, folder, "-ldflags=-s -w")
    api = provide.run("go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "istio.io/api", folder=HERE).strip()
    shutil.copyfile(Path(api) / "kubernetes" / "customresourcedefinitions.gen.yaml", folder / DEFINITIONS)


async def define(cluster: Kubernetes) -> None:
    """Istio's kinds of object in a cluster; raises NotProvided."""
    await cluster.kubectl("apply", "--server-side", "-f", str(binaries() / DEFINITIONS))
    await cluster.namespace(NAMESPACE)
    names = ("serviceentries", "workloadentries", "destinationrules")
    names_of = [f"crd/{each}.networking.istio.io" for each in names]
    await cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names_of)


class Istiod(Server):
    """istiod on a cluster that has its definitions: plain text, for what is not mutual TLS of a mesh is tested."""

    def __init__(self, cluster: Kubernetes, folder: Path) -> None:
        super().__init__("istiod", folder, 3)
        self.cluster = cluster
        self.address = f"127.0.0.1:{self._ports[0]}"

    async def start(self) -> None:
        program = str(binaries() / "istiod")
        grpc, http, metrics = (f"127.0.0.1:{port}" for port in self._ports)
        flags = {
            "kubeconfig": str(self.cluster.kubeconfig),
            "grpcAddr": grpc,
            "httpAddr": http,
            "monitoringAddr": metrics,
            "httpsAddr": "",
            "secureGRPCAddr": "",
            "ctrlz_port": "0",
            "registries": "Kubernetes",
        }
        environment = {
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": "istiod-1",
            "ENABLE_CA_SERVER": "false",
            "PILOT_ENABLE_ANALYSIS": "false",
        }
        words = [program, "discovery", *(f"--{name}={value}" for name, value in flags.items())]
        await self.process.start(words, self._ready, **environment)

    async def _ready(self) -> bool:
        answer = await said(self._ports[1], b"GET /ready HTTP/1.0\r\n\r\n")
        return answer.partition(b"\r\n")[0].endswith(b"200 OK")
