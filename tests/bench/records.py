"""The fleets that the benchmarks copy: records as go-kratos writes them, each of another instance."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import islice

import msgspec

SIZE = 10  # instances of a service
_MARK = re.compile(rb'"version":"v(\d+)"')


def path(number: int) -> str:
    """`service/id` of the n-th instance."""
    digest = hashlib.md5(b"%d" % number).hexdigest()
    return f"shop-{number // SIZE:05d}-api/{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def value(number: int, mark: int = 0) -> bytes:
    """Its record, in which `mark` can be found again.

    Two ports, five metadata: four are those of the service's other instances, the host is its own.
    """
    service, _, id = path(number).partition("/")
    host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    record = {
        "id": id,
        "name": service,
        "version": f"v{mark}",
        "metadata": {
            "cluster": "blue" if number % 2 else "green",
            "commit": hashlib.md5(service.encode()).hexdigest()[:12],
            "host": f"vm-{number:06d}",
            "team": f"team-{number // SIZE % 50:02d}",
            "zone": f"eu-west-1{'abc'[number % 3]}",
        },
        "endpoints": [f"grpc://{host}:9000", f"http://{host}:8000"],
    }
    return msgspec.json.encode(record)


def mark(value: bytes) -> int:
    """The mark in a record, whoever wrote it."""
    found = _MARK.search(value)
    return int(found[1]) if found else -1


def fleet(count: int) -> Iterator[tuple[str, bytes]]:
    """So many instances: (path, record)."""
    return ((path(number), value(number)) for number in range(count))


def lots(records: Iterator[tuple[str, bytes]], size: int) -> Iterator[list[tuple[str, bytes]]]:
    """The same in lists of that size."""
    while lot := list(islice(records, size)):
        yield lot
