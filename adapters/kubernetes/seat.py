"""The seat of one bridge at one destination: a Lease, and the note in an annotation of it.

Note and lock are one object: a note that is written as the writer compares the holder in the same write.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator

from adapters.common.seat import in_force, within
from adapters.common.shards import DividedSeat
from adapters.kubernetes.lease import KEY, KIND, NOTE, NOTED, Lease, Leases, LeaseTerm, Lock, locked, note_name
from adapters.kubernetes.notes import ATTEMPTS, is_held, note_of, noted
from adapters.kubernetes.shards import LeaseArea, LeaseLife, LeaseShardTerm
from bridge.adapter import Note, Term
from bridge.errors import Conflict, Rejected, Superseded
from mappings.common.slice_entry import BRIDGE

LONGEST_NOTE = 128 * 1024  # bytes: annotations have 256 KiB together, and base64 makes four bytes of three


class LeaseNotes:
    """The notes by key of one bridge: a Lease each, which nobody holds."""

    def __init__(self, leases: Leases, bridge: str) -> None:
        self._leases = leases
        self._bridge = bridge

    async def read(self, key: str) -> Note | None:
        """See `Notes.read`."""
        lease = await self._leases.get(note_name(self._bridge, key))
        return _keyed(lease) if lease is not None else None

    async def below(self, start: str) -> dict[str, Note]:
        """See `Notes.below`."""
        ours = [one for one in await self._leases.listed() if one.metadata.annotations.get(BRIDGE) == self._bridge]
        keys = [(one.metadata.annotations.get(KEY), one) for one in ours if one.metadata.labels[KIND] == NOTED]
        return {key: _keyed(one) for key, one in keys if key is not None and key.startswith(start)}

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        """See `Notes.write`."""
        within(content)
        text = {NOTE: base64.b64encode(content).decode()}
        if before is None:
            name = note_name(self._bridge, key)
            return _keyed(await self._leases.create(name, NOTED, self._bridge, {}, **text, **{KEY: key}))
        return _keyed(await self._leases.patch(await self._standing(key, before), annotations=text))

    async def remove(self, key: str, before: Note) -> None:
        """See `Notes.remove`."""
        await self._leases.delete(await self._standing(key, before))

    async def _standing(self, key: str, before: Note) -> Lease:
        lease = await self._leases.get(note_name(self._bridge, key))
        if lease is None or lease.metadata.resource_version != before.version:
            raise Conflict(f"the note {key} is not what it was")
        return lease


def _keyed(lease: Lease) -> Note:
    """The note of a Lease that has nothing else, by the version of the Lease."""
    try:
        content = base64.b64decode(lease.metadata.annotations.get(NOTE, ""), validate=True)
    except ValueError as error:
        raise Rejected(f"the note at the Lease {lease.metadata.name} cannot be read: {error}") from error
    return Note(content, lease.metadata.resource_version)


class LeaseSeat(DividedSeat[LeaseLife, LeaseShardTerm]):
    """The Lease of one seat."""

    def __init__(self, lock: Lock) -> None:
        super().__init__(LeaseArea(lock))
        self._lock = lock

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[LeaseTerm]:
        """See `Seat.writer`."""
        async with locked(self._lock) as term:
            yield term

    async def recall(self) -> Note | None:
        """The note of this seat, with its number."""
        return note_of(await self._lock.leases.get(self._lock.name))

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """See `Seat.note`."""
        if len(content) > LONGEST_NOTE:
            raise Rejected(f"a note of {len(content)} bytes: an annotation has room for {LONGEST_NOTE}")
        return await noted(self._lock, self._lock.name, content, before, term)

    async def leave(self, term: Term) -> None:
        """See `Seat.leave`; the Lease goes with the end of the term."""
        in_force(term)
        lease = await self._lock.leases.get(self._lock.name)
        if not isinstance(term, LeaseTerm) or not is_held(self._lock.name, lease, term):
            raise Superseded(f"the lock {self._lock.name} is not ours any more")
        await self._lock.leases.may_delete(self._lock.name)
        if lease is not None and NOTE in lease.metadata.annotations:
            await self._without_note(lease, term)
        term.is_last = True

    async def _without_note(self, lease: Lease, term: Term) -> None:
        """Raises Conflict where the note changes meanwhile; a renewal does not count."""
        note = note_of(lease)
        for _ in range(ATTEMPTS):
            with contextlib.suppress(Conflict):
                await self._lock.leases.patch(lease, annotations={NOTE: None})
                return
            found = await self._lock.leases.get(self._lock.name)
            if found is None or not is_held(self._lock.name, found, term):
                raise Superseded(f"the lock {self._lock.name} is not ours any more")
            if note_of(found) != note:
                raise Conflict(f"the note at the Lease {self._lock.name} changes")
            lease = found
