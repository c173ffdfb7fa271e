"""Times and sizes as a configuration says them: a number of seconds or bytes, or text with units."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+")
UNIT = {"unit": "s"}
BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
AMOUNT = re.compile(r"(\d+)(B|KiB|MiB|GiB|TiB)")

ALSO = "also"  # in an extra_json_schema: another type that the file may use (msgspec lets nobody replace "type")
# Beside a float, also in an adapter's Config: the file may say it as text with a unit.
TIME = msgspec.Meta(
    extra=UNIT,
    extra_json_schema={ALSO: "string", "pattern": f"^{DURATION.pattern}$", "examples": ["30s", "10m", "1h30m", 90]},
)
# Beside an int, likewise, of bytes.
SIZE = msgspec.Meta(
    extra={"unit": "B"},
    extra_json_schema={ALSO: "string", "pattern": f"^{AMOUNT.pattern}$", "examples": ["512MiB", "4GiB"]},
)
Duration = Annotated[float, msgspec.Meta(ge=0), TIME]


def seconds(text: str) -> float:
    """ "1h30m" -> 5400.0. Raises ValueError where the text is no duration."""
    if not DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; write 500ms, 30s, 10m, 1h30m, 2d or a number of seconds")
    return sum(float(number) * SECONDS[unit] for number, unit in PART.findall(text))


def size(text: str) -> int:
    """ "4GiB" -> 4294967296. Raises ValueError where the text is no size."""
    found = AMOUNT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no size; write 512MiB, 4GiB or a number of bytes")
    return int(found[1]) * BYTES[found[2]]


# How a text is read where the file may say one in the place of a number, by the unit.
READERS = {UNIT["unit"]: seconds, "B": size}
