"""The fleets that the benchmarks copy: what natives say of themselves, each of another instance."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

SIZE = 10  # instances of a service
_MARK = re.compile(rb'"(?:commit":"[0-9a-f]+|[^"]*":"vm-mark)-(\d+)"')  # in the metadata, or the name of the node

_BEFORE = re.compile("[/:]|%2[Ff]|[.]")
_MADE = re.compile(r"(?<=[0-9a-f]{12})-[0-9a-f]{8}\Z")  # what a layout adds to an id that it cannot spell


class Native(NamedTuple):
    """An instance; every layout that is measured can tell all that changes of it."""

    service: str
    id: str
    host: str
    version: str
    metadata: dict[str, str]


def path(number: int) -> str:
    """`service/id` of the n-th instance."""
    digest = hashlib.md5(b"%d" % number).hexdigest()
    return f"shop-{number // SIZE:05d}-api/{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def short(path: str) -> str:
    """The path without what a bridge has put before the id: where it was copied from."""
    service, _, id = path.partition("/")
    id = _MADE.sub("", id) if "." in id else id
    return path if not _BEFORE.search(id) else f"{service}/{_BEFORE.split(id)[-1]}"


def native(number: int, mark: int) -> Native:
    """Five metadata: three are those of the service's other instances, the host and the mark are its own."""
    service, _, id = path(number).partition("/")
    metadata = {
        "cluster": "blue" if number % 2 else "green",
        "commit": f"{hashlib.md5(service.encode()).hexdigest()[:12]}-{mark}",
        "host": f"vm-{number:06d}",
        "team": f"team-{number // SIZE % 50:02d}",
        "zone": f"eu-west-1{'abc'[number % 3]}",
    }
    return Native(service, id, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "v1", metadata)


def mark(value: bytes) -> int:
    """The mark in a record, whoever wrote it."""
    found = _MARK.search(value)
    return int(found[1]) if found else -1


def lots(records: Iterator[tuple[str, bytes]], size: int) -> Iterator[list[tuple[str, bytes]]]:
    """The same in lists of that size."""
    while lot := list(islice(records, size)):
        yield lot
