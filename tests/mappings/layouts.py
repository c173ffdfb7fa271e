"""What the tests of the mappings share: the layouts by name, and their golden records."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bridge.model import Instance, ServiceName
from mappings import dubbo2
from mappings.layout import Layout
from mappings.pairs import LAYOUTS

GOLDEN = Path(__file__).parent / "golden"
WRITABLE = sorted(LAYOUTS.keys() - {"dubbo3"})


class Golden(NamedTuple):
    """A record that a stock client wrote: its key or path below the layout's default prefix, and its bytes."""

    layout: str
    key: str
    value: bytes


def golden(layout: str) -> list[Golden]:
    """The records of one layout: `whole key → value` a line, as the facts pages have them."""
    records = []
    for line in (GOLDEN / f"{layout.replace('-', '')}.txt").read_text(encoding="utf-8").split("\n"):
        if line:
            key, _, value = line.partition(" → ")
            prefix = LAYOUTS[layout].PREFIX
            assert key.startswith(prefix), f"{key} is not below {prefix}"
            records.append(Golden(layout, key[len(prefix) :].removeprefix("/"), value.encode()))
    return records


def stored(layout: Layout, key: str, value: bytes) -> bytes:
    """What `decode` takes as the value of the record with that key."""
    return key.rpartition("/")[2].encode() if layout is LAYOUTS["dubbo2"] and dubbo2.IN_NAME else value


def read(layout: str, key: str, value: bytes) -> tuple[ServiceName, str, Instance]:
    """Locates and decodes a record, with the layout's default protocol."""
    module = LAYOUTS[layout]
    place = module.locate(key)
    assert place is not None, f"{layout} does not know {key}"
    return *place, module.decode(*place, stored(module, key, value), module.PROTOCOL)
