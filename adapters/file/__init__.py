"""A folder of YAML files as a registry: one file for each service, watched by inotify.

`folder` defines the names of files, `mappings.file` their content. Each bridge writes files of its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Self

import msgspec

from adapters.common.seat import MovedSeat
from adapters.file import folder, lock
from adapters.file.checks import Check, Checks
from adapters.file.disk import Disk
from adapters.file.seat import FileNotes, FileSeat
from adapters.file.sink import FileSink
from adapters.file.source import FileSource
from bridge.adapter import Concern, Notes, Raw, Reach, Right, Seat, Source, Trace
from bridge.errors import Undecodable
from bridge.model import Instance, ServiceName, Traits
from mappings.file import UNKNOWN_ID, decode

LIMITS = (f"a file has at most {folder.LIMIT:,} bytes",)
TRAITS = Traits(frozenset(Instance.__struct_fields__), namespaces=True, leases=False)


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """`path`: of an existing folder. `rescan`: seconds between two full scans."""

    path: str
    rescan: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    check: Check | None = None


class FileRegistry:
    """One folder. `source`: its one scope, whose `ignored` has the unreadable records."""

    def __init__(self, name: str, config: Config, state: Path | None = None) -> None:
        self.name = name
        self.traits = TRAITS
        self._disk = Disk(config.path)
        self._checks = Checks(name, config.check, state) if config.check is not None else None
        self.source = FileSource(self._disk, config.path, config.rescan, self._checks)
        self._config = config

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def scopes(self) -> AsyncIterator[Source]:
        """One source: the folder."""
        yield self.source

    def sink(self, bridge: str) -> FileSink:
        """The files of this bridge in the folder."""
        return FileSink(self._disk, self._config.path, self._config.rescan, self.traits, bridge)

    def seat(self, bridge: str, destination: str) -> Seat:
        """Files in the folder's own `.isthmus`."""
        if destination != self.name:
            return FileSeat(self._disk, self._config.path, bridge, folder.seat_of(bridge, destination))
        own = folder.seat_of(bridge)
        old = FileSeat(self._disk, self._config.path, bridge, own._replace(note=folder.old_note(bridge)))
        return MovedSeat(FileSeat(self._disk, self._config.path, bridge, own, is_own=True), old)

    def notes(self, bridge: str) -> Notes:
        """See `bridge.adapter.Keeper`."""
        return FileNotes(self._disk, self._config.path, bridge)

    async def reach(self) -> Reach:
        """The folder's identity and our permissions. Raises Unavailable or Denied."""
        found = await self._disk.look(_reach, self._config.path)
        if self._checks is None:
            return found
        await self._checks.restore()
        return msgspec.structs.replace(found, notes=tuple(self._checks.notes))

    def concerns(self) -> list[Concern]:
        """See `Concerned`."""
        return self._checks.concerns() if self._checks is not None else []

    async def traces(self, bridge: str) -> list[Trace]:
        """See `Tracer`."""
        return await self._disk.look(_traces, self._config.path, bridge)

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`: each record of the service's files, with the whole file as its text."""
        return await self._disk.look(_raw, self._config.path, name)


def create(name: str, config: Config, state: Path | None) -> FileRegistry:
    """The registry of a folder, which need not exist yet."""
    return FileRegistry(name, config, state)


def _reach(root: str) -> Reach:
    identity, _ = folder.who(root)
    readable, writable = (os.access(root, mode | os.X_OK) for mode in (os.R_OK, os.W_OK))
    locks = folder.locks(root).items()
    writers = frozenset(bridge for bridge, path in locks if lock.is_held(os.path.join(root, path)))
    rights = (Right("list and read", readable), Right("create and delete", writable))
    return Reach(identity, "files", readable, writable, writers=writers, rights=rights, limits=LIMITS)


def _traces(root: str, bridge: str) -> list[Trace]:
    found = []
    for path, what in folder.left_of(root, bridge).items():
        kind, _, lent = what.partition(" ")
        needed = f"it is of the destination {lent}: leave that first" if lent else ""
        found.append(Trace(kind, path, needed))
    there = os.path.join(root, folder.OURS)
    if os.path.isdir(there) and not folder.is_shared(root, bridge):
        if os.path.exists(os.path.join(there, "identity")):
            found.append(Trace("identity", f"{folder.OURS}/identity"))
        found.append(Trace("folder", folder.OURS))
    return found


def _raw(root: str, name: ServiceName) -> list[Raw]:
    found: list[Raw] = []
    for path in folder.paths_of(root, {name}):
        whole, there = os.path.join(root, path), folder.place(path)
        text = ""
        try:
            content = folder.read(root, path)[1]
            text = content.decode(errors="replace")
            decoded = decode(content, there.owner if there else "")
        except (OSError, Undecodable) as error:
            found.append(Raw(whole, text, UNKNOWN_ID, str(error)))
            continue
        found += [Raw(whole, text, id) for id in decoded.instances]
        found += [Raw(whole, text, id, "; ".join(decoded.faults)) for id in sorted(decoded.unreadable)]
    return found
