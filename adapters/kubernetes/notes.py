"""A note in an annotation of a Lease: of the whole's, or of a shard's; its number grows with each new note."""

from __future__ import annotations

import base64
import contextlib

from adapters.common.seat import in_force
from adapters.kubernetes.lease import NOTE, Lease, Lock
from bridge.adapter import Note, Term
from bridge.errors import Conflict, Rejected, Superseded, Unavailable

ATTEMPTS = 10  # at a Lease that its holder renews meanwhile, which is no other note


async def noted(lock: Lock, name: str, content: bytes, before: Note | None, term: Term | None) -> Note:
    """Puts a note at the Lease of that name, as `Seat.note` does.

    Note and lock are one object, so that who writes the note of its own lock compares the holder in the same write.
    """
    for _ in range(ATTEMPTS):
        in_force(term)
        lease = await lock.leases.get(name)
        if term is not None and not is_held(name, lease, term):
            raise Superseded(f"the lock {name} is not ours any more")
        stands = note_of(lease)
        if (stands and stands.version) != (before and before.version):
            raise Conflict(f"the note at the Lease {name} is not what it was")
        number = (stands.version if stands else 0) + 1
        with contextlib.suppress(Conflict):
            return await _put(lock, lease, content, number)
    raise Unavailable(f"the Lease {name} changes faster than a note can be written")


async def _put(lock: Lock, lease: Lease | None, content: bytes, number: int) -> Note:
    text = f"{number}:{base64.b64encode(content).decode()}"
    if lease is None:
        await lock.leases.create(lock.name, lock.kind, lock.bridge, {}, **{NOTE: text})
    else:
        await lock.leases.patch(lease, annotations={NOTE: text})
    return Note(content, number)


def note_of(lease: Lease | None) -> Note | None:
    """The note at a Lease, with its number. Raises Rejected."""
    text = lease.metadata.annotations.get(NOTE) if lease is not None else None
    if text is None:
        return None
    number, _, content = text.partition(":")
    try:
        return Note(base64.b64decode(content, validate=True), int(number))
    except ValueError as error:
        raise Rejected(
            f"the note at the Lease {lease.metadata.name if lease else ''} cannot be read: {error}"
        ) from error


def is_held(name: str, lease: Lease | None, term: Term) -> bool:
    """Whether the Lease is still held under that term.

    One of a shard, whose own Lease is another one, is seen by its deadline: its life is renewed elsewhere.
    """
    fence = term.fence
    if fence.lease != name:
        return True
    return lease is not None and (lease.spec.holder_identity, lease.spec.lease_transitions) == fence[1:]
