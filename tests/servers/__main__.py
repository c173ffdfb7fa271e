"""`python -m tests.servers`: provides every server that the tests use, and says what it did."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.servers import (
    consul,
    envoy,
    etcd,
    eureka,
    istio,
    kafka,
    kcat,
    kubernetes,
    nginx,
    prometheus,
    spin,
    traefik,
    zookeeper,
)
from tests.servers.provide import NotProvided
from tests.witness import apart

SERVERS: dict[str, Callable[[], Path]] = {
    "etcd 3.6": lambda: etcd.binary("3.6"),
    "etcd 3.4": lambda: etcd.binary("3.4"),
    "ZooKeeper 3.9": zookeeper.library,
    "ZooKeeper 3.9, what its admin server needs": zookeeper.admin_library,
    "Eureka 4.3": eureka.library,
    "Eureka 4.3 with Spring Security": partial(eureka.library, eureka.GUARDED),
    "Kafka 4.1": kafka.library,
    "Consul 1.20": consul.binary,
    "Kubernetes 1.34": kubernetes.binaries,
    "istiod of 2026-08": istio.binaries,
    "Prometheus 2.42": prometheus.programs,
    "Envoy 1.40": envoy.program,
    "Traefik 3.7": traefik.program,
    "nginx 1.22": nginx.program,
    "kcat 1.7, a client": kcat.program,
    "Spin 6.5, a model checker": spin.program,
    **{f"{each.package}, the client": each.python for each in apart.APART},
    **{f"{each.folder} {each.version}, the client": each.library for each in apart.DUBBO},
}


def main() -> int:
    """Exit status 1 where a server could not be provided: its tests will be skipped here, and fail in CI."""
    missing = 0
    for name, provide in SERVERS.items():
        begun = time.monotonic()
        try:
            print(f"{name}: {provide()} ({time.monotonic() - begun:.1f} s)", flush=True)
        except NotProvided as reason:
            print(f"{name}: NOT PROVIDED: {reason}", flush=True)
            missing += 1
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
