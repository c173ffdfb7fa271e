"""Natives that a migration takes out of service and puts back: in which batches, and what is written for it; pure.

What stood at a lever before is kept, and is put back byte for byte as long as what we wrote stands there. What somebody
else wrote meanwhile stays: only our part is taken out of it. Nothing is ever written where nothing was kept first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bridge.migration.shares import in_order
from bridge.model import ServiceName

PARTS = 10  # the natives of a place go in so many batches, or one by one where there are fewer
FADES = 120.0  # seconds after it was put back in which a source may still tell that a native is out: caches, and polls
KEPT = "steered/"  # the notes at the seat with what stood at each lever


class Out(msgspec.Struct, frozen=True, omit_defaults=True):
    """The natives of one move that are out at one place.

    `identity`: of the store. `name`: the service there. `batches`: as they went, each the place of the lever by the
    native's key. `back`: those that were put back, by key, and until when that may not show yet (seconds since the
    epoch).
    """

    identity: str
    name: ServiceName
    batches: tuple[dict[str, str], ...] = ()
    back: dict[str, float] = {}

    @property
    def levers(self) -> dict[str, str]:
        """The place of the lever of every native that is out, by key."""
        return {key: place for batch in self.batches for key, place in batch.items()}

    def plus(self, batch: Mapping[str, str]) -> Out:
        """One batch more."""
        back = {key: until for key, until in self.back.items() if key not in batch}
        return msgspec.structs.replace(self, batches=(*self.batches, dict(batch)), back=back)

    def less(self, count: int, now: float) -> Out:
        """The first so many batches alone; the others are put back."""
        gone = {key: now + FADES for batch in self.batches[count:] for key in batch}
        left = {key: until for key, until in self.back.items() if until > now}
        return msgspec.structs.replace(self, batches=self.batches[:count], back={**left, **gone})

    def shows(self, now: float) -> frozenset[str]:
        """The natives that may read as out because of us."""
        return frozenset(self.levers) | {key for key, until in self.back.items() if until > now}


class Gone(NamedTuple):
    """The natives that are out of service and that nobody should call any more: their addresses and ports.

    `alone`: no other native of the old side serves at a place of the move.
    """

    addresses: frozenset[tuple[str, int]] = frozenset()
    alone: bool = False


class Left(NamedTuple):
    """What is measured of them since their last consumer should have followed.

    `counted`: something counts their requests; where nothing does, `why` says so and a batch goes by its settle time.
    `requests` None: not known, and `why` says why, "" where it is too early.
    """

    counted: bool
    requests: float | None = None
    why: str = ""


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept at the seat of one lever; None: nothing stands there.

    `before`: what stood there without us, `written`: what we put there last, and `stood` what that replaced, which is
    there still where the daemon died between note and write. `registry`: by its name in the file, `place`: in its
    store. `out`: the natives' keys.
    """

    move: str
    registry: str
    place: str
    service: ServiceName
    out: tuple[str, ...]
    before: bytes | None = None
    stood: bytes | None = None
    written: bytes | None = None

    @property
    def key(self) -> str:
        """Of its note."""
        return key_of(self.registry, self.place)

    def is_ours(self, stands: bytes | None) -> bool:
        """Whether nobody else has written there since."""
        return stands in (self.written, self.stood)


def key_of(registry: str, place: str) -> str:
    """The key of the note about a lever."""
    return KEPT + hashlib.blake2b(f"{registry}\t{place}".encode(), digest_size=12).hexdigest()


class Write(NamedTuple):
    """What becomes of one lever. `content`: what is put there, None: nothing stays. `kept`: what is noted before that.

    `kept` None: nothing of ours is left, and the note goes, after the write.
    """

    content: bytes | None
    kept: Kept | None


def write(
    kept: Kept | None, wanted: Kept, stands: bytes | None, with_ours: bytes | None, without_ours: bytes | None
) -> Write | None:
    """What is to be written where some natives must be out; None: all is as it should be.

    `wanted` names the move, the lever and the natives. `stands`: what is there, `with_ours` and `without_ours`: what
    the lever says must be there for these natives to be out, and for none.
    """
    if with_ours == stands:
        return None  # by us, or somebody else has put it there: then it is not ours to put back
    before = kept.before if kept is not None and kept.is_ours(stands) else without_ours
    return Write(with_ours, msgspec.structs.replace(wanted, before=before, stood=stands, written=with_ours))


def put_back(kept: Kept, stands: bytes | None, without_ours: bytes | None) -> Write:
    """What is to be written where no native of a lever must be out any more."""
    return Write(kept.before if kept.is_ours(stands) else without_ours, None)


def batch(move: str, keys: Iterable[str], out: int) -> list[str]:
    """The natives of a place that go next, of those that serve; `out`: how many have gone before."""
    left = in_order(f"{move} natives", keys)
    return left[: math.ceil((out + len(left)) / PARTS)]


class Other(NamedTuple):
    """The newest batch of another move at a place. `settles`: seconds that the slowest reader there needs."""

    move: str
    place: str
    at: float
    settles: float


def crowded(others: Sequence[Other], now: float) -> str:
    """Why no batch goes now: readers of a place take their subsets anew at each event, so one goes at a time."""
    for one in others:
        if (left := one.at + one.settles - now) > 0:
            return f"a batch of {one.move} settles at {one.place}: {left:.0f} s more"
    return ""
