"""The sink: each bridge writes files of its own, so that a person's file is never touched.

The mark is in the record. An entry is ours while it is in our file and no file before it (people's, then bridges' by
name) has the same id; where one has, ours proves nothing any more and is `loose`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Collection, Sequence

import msgspec

from adapters.common.changes import Outcomes, judge
from adapters.file import folder
from adapters.file.disk import Disk
from adapters.file.folder import Signature
from adapters.file.follow import follow
from adapters.file.seat import Fence
from adapters.file.view import Stands, View
from bridge.adapter import Change, Entry, Held, Outcome, Term
from bridge.errors import Conflict, IsthmusError, Rejected, Superseded
from bridge.model import Instance, Mark, ServiceName, Traits
from mappings import file as mapping

Entries = dict[str, tuple[Instance, Mark | None]]


class FileSink:
    """The files of one bridge in a folder."""

    def __init__(self, disk: Disk, root: str, rescan: float, traits: Traits, bridge: str) -> None:
        self.traits = traits
        self._disk = disk
        self._root = root
        self._rescan = rescan
        self._bridge = bridge
        self._view = View(root, own=bridge)
        self._turn = asyncio.Lock()  # for the view, which one thread at a time may use
        self._written: dict[str, Signature | None] = {}

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """The instance with its address as in RFC 5952. Raises Rejected for what a file cannot hold."""
        folder.path_of(name, self._bridge)
        return mapping.canonical(instance)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """What the files hold. An undecodable record is shown as a native's without an address."""
        wanted = None if names is None else frozenset(names)
        async with self._turn:
            try:
                return await self._disk.run(self._held, wanted)
            except OSError as error:
                raise folder.trouble(error) from error

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """One atomic write for each service, or two where there are several services: all adds before any removal."""
        fence = Fence(self._bridge, self._root, term)
        outcomes = Outcomes(changes)
        several = len({change.service for change in changes}) > 1
        batches: dict[tuple[bool, ServiceName], list[Change]] = {}
        for change in changes:
            batches.setdefault((several and change.after is None, change.service), []).append(change)
        for (_, name), some in sorted(batches.items(), key=lambda batch: batch[0][0]):
            async with self._turn:
                outcomes.put(*await self._disk.run(self._apply, fence, name, some))
        return outcomes.in_order()

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """The empty set when the watch has begun, then services whose files others wrote. Raises as a watch does."""
        first = True
        async with contextlib.aclosing(follow(self._disk, self._root, self._rescan)) as looks:
            async for track, paths in looks:
                others = (path for path in paths if self._written.get(path, ()) != track.known.get(path))
                names = frozenset(there.service for path in others if (there := folder.place(path)))
                if first or names:
                    yield frozenset() if first else names
                first = False

    def _held(self, names: frozenset[ServiceName] | None) -> Held:
        self._look(names)
        services: dict[ServiceName, dict[str, Entry]] = {}
        loose: dict[ServiceName, dict[str, str]] = {}
        for name in self._view.services() if names is None else names:
            stands = self._view.stands(name)
            ours = self._own(name)
            marks = stands.service.marks
            entries = {
                id: Entry(instance, marks.get(id), _version(instance, marks.get(id)))
                for id, instance in stands.service.instances.items()
            }
            for id in stands.unreadable - entries.keys() - {mapping.UNKNOWN_ID}:
                entries[id] = Entry(Instance(id, ""))
            if entries:
                services[name] = entries
            if lost := {
                id: _version(*ours[id]) for id in ours if ours[id][1] and not self._is_ours(stands.holder, name, id)
            }:
                loose[name] = lost
        return Held(folder.who(self._root)[0], services, loose)

    def _look(self, names: frozenset[ServiceName] | None) -> None:
        known = self._view.files if names is None else {path for name in names for path in self._view.paths(name)}
        self._view.refresh({*known, *folder.paths_of(self._root, names)})

    def _own(self, name: ServiceName) -> Entries:
        with contextlib.suppress(Rejected):
            decoded = self._view.decoded(folder.path_of(name, self._bridge))
            return {id: (instance, decoded.marks.get(id)) for id, instance in decoded.instances.items()}
        return {}

    def _is_ours(self, holder: dict[str, str], name: ServiceName, id: str) -> bool:
        return holder.get(id) == folder.path_of(name, self._bridge)

    def _apply(self, fence: Fence, name: ServiceName, changes: Sequence[Change]) -> list[Outcome]:
        """Makes the changes of one service in one write. Raises Superseded."""
        try:
            fence.stand()
            path = folder.path_of(name, self._bridge)
            self._look(frozenset({name}))
            before = self._own(name)
            after = dict(before)
            holder = self._view.stands(name).holder
            outcomes = [self._decide(after, change) for change in changes]
            if after != before:
                self._write(fence, path, after, self._bridge)
            self._take_out(
                fence, path, {each.change.id: holder[each.change.id] for each in outcomes if _is_adopted(each)}
            )
        except Superseded:
            raise
        except IsthmusError as error:
            return [Outcome(change, error=error) for change in changes]
        except OSError as error:
            return [Outcome(change, error=folder.trouble(error)) for change in changes]
        return outcomes

    def _decide(self, entries: Entries, change: Change) -> Outcome:
        """Makes one change in `entries`, or returns its error."""
        try:
            return Outcome(change, self._change(entries, change))
        except IsthmusError as error:
            return Outcome(change, error=error)

    def _change(self, entries: Entries, change: Change) -> str | None:
        """Makes the change in `entries`. Returns the new version, None: the entry is gone. Raises IsthmusError."""
        judge(self._bridge, change)
        stands = self._view.stands(change.service)
        path = folder.path_of(change.service, self._bridge)
        ours = entries.get(change.id)
        if change.forget:
            _forget(entries, change, path, is_shown=stands.holder.get(change.id) == path)
            return None
        if change.after is None and not (ours or change.id in stands.holder):
            return None  # it is gone already
        self._compare(change, stands, ours, path)
        if change.after is None:
            del entries[change.id]
            return None
        if change.ttl is not None:
            raise Rejected("a file outlives whoever wrote it: make the link lasting")
        entries[change.id] = self.canonical(change.service, change.after), change.mark
        return _version(*entries[change.id])

    def _compare(self, change: Change, stands: Stands, ours: tuple[Instance, Mark | None] | None, path: str) -> None:
        """Raises Conflict where the entry is not the one to be replaced, Rejected where it is in a person's file."""
        held = stands.holder.get(change.id)
        if change.before is None:
            if held or ours or change.id in stands.unreadable:
                raise Conflict(f"{held or path}: {change.id} stands there")
        elif change.adopt and held is not None and held != path:
            if not _owner(held):
                raise Rejected(f"{held} is kept by people: remove {change.id} there, and it will be written")
            theirs = stands.service.instances[change.id], stands.service.marks.get(change.id)
            if _version(*theirs) != change.before.version:
                raise Conflict(f"{held}: {change.id} is not what it was")
        elif held != path or not ours or not (ours[1] or change.adopt) or _version(*ours) != change.before.version:
            raise Conflict(f"{held or path}: {change.id} is not what it was")

    def _take_out(self, fence: Fence, path: str, adopted: dict[str, str]) -> None:
        """Removes entries that are now in our file, `path`, from the files that they were adopted from, by id.

        Both files had it for a moment, so that no reader missed it. The caller holds those files' bridges still.
        """
        for theirs in sorted(set(adopted.values()) - {path}):
            if folder.signature(self._root, theirs) != self._view.files[theirs].signature:
                raise Conflict(f"{theirs} was written a moment ago")
            decoded = self._view.decoded(theirs)
            rest = {
                id: (instance, decoded.marks.get(id))
                for id, instance in decoded.instances.items()
                if adopted.get(id) != theirs
            }
            self._write(fence, theirs, rest, _owner(theirs))

    def _write(self, fence: Fence, path: str, entries: Entries, owner: str) -> None:
        """Writes our file. Raises OSError, Superseded, Conflict (written since we read it), Rejected (too long)."""
        file = self._view.files.get(path)
        strays = file.decoded.strays if file else ()
        if file and mapping.UNKNOWN_ID in file.decoded.unreadable and not strays:
            self._put_aside(path)
        if not entries and not strays:
            fence.stand()
            self._written[path] = None
            os.unlink(os.path.join(self._root, path))
            self._view.put(path, None, mapping.Decoded())
            return
        content = mapping.encode(owner, entries, strays)
        if len(content) > folder.LIMIT:
            raise Rejected(f"{path} would be longer than {folder.LIMIT} bytes")

        def ready(new: Signature) -> None:
            fence.stand()
            if folder.signature(self._root, path) != (file.signature if file else None):
                raise Conflict(f"{path} was written a moment ago")
            self._written[path] = new

        if namespace := os.path.dirname(path):
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.join(self._root, namespace))
        new = folder.replace(self._root, path, content, ready)
        if not strays:  # our own write need not be read again, except for strays, whose faults are needed
            instances = {id: instance for id, (instance, _) in entries.items()}
            marks = {id: mark for id, (_, mark) in entries.items() if mark}
            self._view.put(path, new, mapping.Decoded(instances, marks))

    def _put_aside(self, path: str) -> None:
        """Keeps a copy of our file where somebody has made it unreadable, before it is written anew."""
        aside = os.path.join(self._root, folder.OURS, f"damaged {os.path.basename(path)}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        os.link(os.path.join(self._root, path), aside)


def _forget(entries: Entries, change: Change, path: str, *, is_shown: bool) -> None:
    """Removes our mark from an entry, or the whole record where another file's record is shown. Raises Conflict."""
    ours, release = entries.get(change.id), change.before is not None and change.before.mark is not None
    if ours is None or change.before is None or _version(*ours) != change.before.version or is_shown != release:
        raise Conflict(f"{path}: the record of {change.id} is not what it was")
    if release:
        entries[change.id] = ours[0], None  # without a mark it is nobody's, though it is in our file
    else:
        del entries[change.id]


def _owner(path: str) -> str:
    """The bridge that writes a file, "" where people do."""
    there = folder.place(path)
    return there.owner if there else ""


def _is_adopted(outcome: Outcome) -> bool:
    return outcome.change.adopt and outcome.error is None


def _version(instance: Instance, mark: Mark | None) -> str:
    # As tuples: whether a struct leaves out a default depends on which of two equal floats it holds.
    fields = msgspec.structs.astuple(instance), mark and msgspec.structs.astuple(mark)
    return hashlib.blake2b(msgspec.json.encode(fields, order="deterministic"), digest_size=12).hexdigest()
