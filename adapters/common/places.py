"""Where a bridge keeps what is its own in a store that has paths: the ledger, locks, notes and the store's identity.

All of it is below one fixed root, the same for every bridge, so that each of them knows the copies of all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote

from bridge.adapter import Trace

ROOT = "/isthmus"
LEDGER = f"{ROOT}/ledger"  # below it the path of the record that an entry of the ledger is about
LOCKS = f"{ROOT}/lock"
NOTES = f"{ROOT}/note"
OLD_NOTES = f"{ROOT}/desk"  # where they were before the format 2 of notes
IDENTITY = f"{ROOT}/identity"
KEYED = "key:"  # below the notes of a bridge, before the key of one that is of no destination
SHARDS = "shards"  # below a lock: into how many shards the destination is divided, and above the lock of each
SHARDED = "shards:"  # below the notes of a bridge, before the destination: above the note of each shard


class Own:
    """The places of one destination: one layout below one root or prefix."""

    def __init__(self, layout: str, root: str) -> None:
        self._destination = f"{layout}:{quote(root, safe='')}"

    def lock(self, bridge: str, lent: str = "") -> str:
        """Of the lock of one bridge id, for this destination or for one that has none of its own (`lent`)."""
        return f"{LOCKS}/{quote(bridge, safe='')}/{self._seat(lent)}"

    def note(self, bridge: str, lent: str = "") -> str:
        """Of the note that the daemons of one bridge id keep, likewise."""
        return f"{NOTES}/{quote(bridge, safe='')}/{self._seat(lent)}"

    def shards(self, bridge: str, lent: str = "") -> str:
        """Of the key that says into how many shards the destination is divided; the locks of the shards are below."""
        return f"{self.lock(bridge, lent)}/{SHARDS}"

    def shard_notes(self, bridge: str, lent: str = "") -> str:
        """Of what is above the notes of the shards."""
        return f"{NOTES}/{quote(bridge, safe='')}/{SHARDED}{self._seat(lent)}"

    def noted(self, bridge: str, key: str) -> str:
        """Of the note that they keep under a key, for no destination in particular; of a key's beginning likewise."""
        return f"{NOTES}/{quote(bridge, safe='')}/{KEYED}{quote(key, safe='')}"

    def key_of(self, bridge: str, place: str) -> str | None:
        """The key of a note, None: it is no place of one."""
        start = self.noted(bridge, "")
        return unquote(place.removeprefix(start)) if place.startswith(start) else None

    def old_note(self, bridge: str) -> str:
        """Of the note of this destination that older versions kept, which lent no seats."""
        return f"{OLD_NOTES}/{quote(bridge, safe='')}/{self._destination}"

    def bridge_of(self, lock: str) -> str | None:
        """The bridge id whose lock for this destination, or for a shard of it, a place is; None: it is none."""
        bridge, _, rest = lock.removeprefix(f"{LOCKS}/").partition("/")
        destination, *below = rest.split("/")
        is_lock = not below or (len(below) == 2 and below[0] == SHARDS)
        ours = lock.startswith(f"{LOCKS}/") and destination == self._destination and is_lock
        return unquote(bridge) if ours else None

    def traces(self, bridge: str, places: Iterable[str]) -> list[Trace]:
        """What the locks and notes of a bridge are, of all these places below the root."""
        found = []
        for place in sorted(places):
            for area, kind in ((LOCKS, "lock"), (NOTES, "note"), (OLD_NOTES, "note")):
                whose, _, rest = place.removeprefix(f"{area}/").partition("/")
                destination, *below = rest.split("/")
                if not place.startswith(f"{area}/") or unquote(whose) != bridge or not destination:
                    continue
                is_shards = below[:1] == [SHARDS] or destination.startswith(SHARDED)
                if not below or is_shards:  # what else is below a lock are those who want it
                    found.append(self._trace(kind, place, destination, *below))
        return found

    def _trace(self, kind: str, place: str, destination: str, *below: str) -> Trace:
        kind = "shards" if SHARDS in below or destination.startswith(SHARDED) else kind
        destination = destination.removeprefix(SHARDED)
        if destination == self._destination or destination.startswith(KEYED):
            return Trace(kind, place)
        if destination.startswith("seat:"):
            return Trace(kind, place, f"it is of the destination {unquote(destination[5:])}: leave that first")
        return Trace(kind, place, f"it is of {unquote(destination)} in this store: name that in the file, and leave it")

    def _seat(self, lent: str) -> str:
        return f"seat:{quote(lent, safe='')}" if lent else self._destination


def is_own(path: str) -> bool:
    """Whether a path is where bridges keep what is theirs, or below."""
    return f"{path}/".startswith(f"{ROOT}/")


def is_divided(place: str) -> str:
    """Why nobody may write the whole; `place`: of what says that there are shards."""
    return f"shards are marked beside the lock ({place}): the daemons of a group write one shard each"
