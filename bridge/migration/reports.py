"""What `isthmus probe` found at other hosts, as files and as the daemons of a bridge keep it for each other; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from bridge.migration import parity, quiet

BELOW = "reports/"  # the key of each in the notes of the bridge begins so
MOST = 500  # reports that are kept: one a host and link, or a machine of the old side

One = parity.Report | quiet.Listening


class Reports(NamedTuple):
    """What consumers reached, and who was connected to the old side."""

    reached: tuple[parity.Report, ...] = ()
    listening: tuple[quiet.Listening, ...] = ()

    @classmethod
    def of(cls, some: Iterable[One]) -> Reports:
        """Each where it belongs."""
        all_ = tuple(some)
        return cls(
            tuple(one for one in all_ if isinstance(one, parity.Report)),
            tuple(one for one in all_ if isinstance(one, quiet.Listening)),
        )


def decoded(content: bytes) -> One:
    """A report, by what it has; only what is asked for here is taken of it. Raises ValueError where it is none."""
    raw = msgspec.json.decode(content)
    if not isinstance(raw, dict):
        raise ValueError("it is no JSON object")
    return converted(raw)


def converted(raw: dict[str, object]) -> One:
    """The same, of values. Raises ValueError."""
    if "watched" in raw:
        return msgspec.convert(raw, quiet.Listening)
    found = msgspec.convert(raw, parity.Report)
    rows = tuple({key: row[key] for key in ("address", "port") if key in row} for row in found.unreached)
    return replace(found, unreached=rows)


def key(report: One) -> str:
    """Under which it is kept: a newer one of the same host takes its place."""
    said = (report.link, report.from_) if isinstance(report, parity.Report) else (report.of, report.host)
    text = "\t".join((type(report).__name__, *said))
    return BELOW + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def is_old(report: One, now: float) -> bool:
    """Whether it says nothing any more."""
    return now - report.at > (parity.PROBED if isinstance(report, parity.Report) else quiet.COUNTS)
