"""`python -m tests.servers`: provides every server that the tests use, and says what it did."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.servers import etcd, zookeeper
from tests.servers.provide import NotProvided
from tests.witness import apart

SERVERS: dict[str, Callable[[], Path]] = {
    "etcd 3.6": lambda: etcd.binary("3.6"),
    "etcd 3.4": lambda: etcd.binary("3.4"),
    "ZooKeeper 3.9": zookeeper.library,
    "etcd3, the client": apart.python,
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
