"""Compares what two daemons serve, by digests of 256 parts, and tells how long each part has differed. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from bridge.adapter import Entry
from bridge.model import ServiceName

PARTS = 256
WIDTH = 4  # bytes of a part's digest
DIFFERENT = 10.0  # seconds that two pictures may differ: changes reach one daemon before the other

_EMPTY = bytes(PARTS * WIDTH)


class Likeness:
    """The digests of one picture, updated for the services that change."""

    def __init__(self) -> None:
        self._of: dict[ServiceName, int] = {}
        self._by_part: list[set[ServiceName]] = [set() for _ in range(PARTS)]
        self._sums = [0] * PARTS

    def take(self, names: Iterable[ServiceName], entries: Mapping[ServiceName, Mapping[str, Entry]]) -> None:
        """Updates the digests of these names to what is served now."""
        for name in names:
            part = part_of(name)
            self._sums[part] ^= self._of.pop(name, 0)
            self._by_part[part].discard(name)
            if held := entries.get(name):
                self._of[name] = _digest(name, held)
                self._by_part[part].add(name)
                self._sums[part] ^= self._of[name]

    @property
    def text(self) -> str:
        """All digests as text; equal for equal pictures."""
        return base64.b64encode(b"".join(one.to_bytes(WIDTH, "big") for one in self._sums)).decode()

    def services(self, part: int) -> dict[str, str]:
        """The digest of each service in a part."""
        return {str(name): f"{self._of[name]:08x}" for name in sorted(self._by_part[part])}


class Period(msgspec.Struct):
    """A part that differs since then. `ours`, `theirs`: its digests then; `moved`: which of them changed since."""

    since: float
    ours: bytes
    theirs: bytes
    moved: set[str]


class Comparison:
    """For how long each part has differed from that of another daemon."""

    def __init__(self) -> None:
        self._periods: dict[int, Period] = {}

    def look(self, ours: str, theirs: str, now: float) -> list[int]:
        """The parts that differ, the longest first; to be called about once a second."""
        one, other = _parts(ours), _parts(theirs)
        found: dict[int, Period] = {}
        for part in range(PARTS):
            if one[part] == other[part]:
                continue
            period = self._periods.get(part) or Period(now, one[part], other[part], set())
            period.moved |= {"ours"} if period.ours != one[part] else set()
            period.moved |= {"theirs"} if period.theirs != other[part] else set()
            # If both digests changed, both daemons may follow the same changes, one of them later: begin anew.
            found[part] = period if len(period.moved) < 2 else Period(now, one[part], other[part], set())
        self._periods = found
        return sorted(found, key=lambda part: found[part].since)

    def lasting(self, now: float) -> list[int]:
        """The parts that have differed for longer than `DIFFERENT`."""
        return [part for part, period in self._periods.items() if now - period.since > DIFFERENT]


def part_of(name: ServiceName) -> int:
    """The part of a picture to which a service belongs."""
    return hashlib.blake2b(str(name).encode(), digest_size=1).digest()[0]


def summary(text: str) -> str:
    """A digest of all digests, 8 hex digits, for people."""
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def unlike(ours: Mapping[str, str], theirs: Mapping[str, str], most: int) -> list[str]:
    """The services that differ between two parts; `theirs` has at most the first `most` by name."""
    last = max(theirs) if len(theirs) >= most else None
    names = [name for name in ours.keys() | theirs.keys() if last is None or name <= last]
    return sorted(name for name in names if ours.get(name) != theirs.get(name))


def _digest(name: ServiceName, entries: Mapping[str, Entry]) -> int:
    said = "\n".join((str(name), *(f"{id} {entries[id].version}" for id in sorted(entries))))
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=WIDTH).digest(), "big")


def _parts(text: str) -> list[bytes]:
    try:
        digests = base64.b64decode(text)
    except ValueError:
        digests = b""
    digests = digests if len(digests) == len(_EMPTY) else _EMPTY
    return [digests[at : at + WIDTH] for at in range(0, len(digests), WIDTH)]
