"""The content of all files of a folder: a service may be in a person's file and in files of bridges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from adapters.file import folder
from adapters.file.folder import Signature
from adapters.file.track import UNKNOWN
from bridge.errors import Undecodable
from bridge.model import Instance, Mark, Service, ServiceName
from mappings.file import CONTROL, UNKNOWN_ID, Decoded, decode

NOTHING = Decoded()
SHOWN = 20  # faults of one file


class File(msgspec.Struct, frozen=True):
    """One file as last read: its records, with the last known one of each record that is unreadable now."""

    signature: Signature
    decoded: Decoded


class Stands(NamedTuple):
    """One service, merged from all its files: people's before bridges', by name.

    `holder`: by id, the path of the file that an instance is taken from. `unreadable`: see `Observed`.
    """

    service: Service
    holder: dict[str, str]
    unreadable: frozenset[str]


class View:
    """The files of a folder, each read once for each of its states. `ignored`: faults by path, for people.

    An unreadable record keeps its last known state, except in files of the bridge `own`, which repairs them.
    """

    def __init__(self, root: str, ignored: dict[str, str] | None = None, own: str = "") -> None:
        self.files: dict[str, File] = {}
        self.ignored = {} if ignored is None else ignored
        self._root = root
        self._own = own
        self._paths: dict[ServiceName, set[str]] = {}

    def paths(self, name: ServiceName) -> frozenset[str]:
        """The known files of a service."""
        return frozenset(self._paths.get(name, ()))

    def services(self) -> list[ServiceName]:
        """The services that have a file."""
        return list(self._paths)

    def decoded(self, path: str) -> Decoded:
        """The content of a file; empty where it is not known."""
        file = self.files.get(path)
        return file.decoded if file else NOTHING

    def put(self, path: str, signature: Signature | None, decoded: Decoded) -> None:
        """Sets the content of a file; signature None: it is gone."""
        there = folder.place(path)
        if there is None:
            raise ValueError(path)
        if signature is None:
            self.files.pop(path, None)
            self._paths.get(there.service, set()).discard(path)
            if not self._paths.get(there.service):
                self._paths.pop(there.service, None)
        else:
            self.files[path] = File(signature, decoded)
            self._paths.setdefault(there.service, set()).add(path)
        if decoded.faults:
            shown = [f"{os.path.join(self._root, path)}:{fault}" for fault in decoded.faults[:SHOWN]]
            more = len(decoded.faults) - SHOWN
            self.ignored[path] = "\n".join(shown + ([f"and {more} more"] if more > 0 else []))
        else:
            self.ignored.pop(path, None)

    def refresh(self, paths: Iterable[str]) -> set[ServiceName]:
        """Reads the files that have changed. Returns the services that changed."""
        return self.read((path for path in paths if not self._is_current(path)), lambda path: None)

    def read(self, paths: Iterable[str], doubt: Callable[[str], None]) -> set[ServiceName]:
        """Reads files. Returns the services that changed. `doubt` is called with the paths that are being written."""
        changed = set()
        for path in paths:
            before = self.decoded(path)
            self._read(path, doubt)
            there = folder.place(path)
            if there and self.decoded(path) != before:
                changed.add(there.service)
        return changed

    def _is_current(self, path: str) -> bool:
        file = self.files.get(path)
        return file is not None and file.signature == folder.signature(self._root, path)

    def _read(self, path: str, doubt: Callable[[str], None]) -> None:
        signature = folder.signature(self._root, path)
        old = self.files.get(path)
        if signature is None:
            self.put(path, None, NOTHING)
            return
        there = folder.place(path)
        owner = there.owner if there else ""
        kept = old.decoded if old and not (owner and owner == self._own) else NOTHING
        try:
            signature, content = folder.read(self._root, path)
            if there and not owner and (found := CONTROL(str(there.service))):
                raise Undecodable(f"1: the file's name has the character {found[0]!r}, which no service has: rename it")
            decoded = _with_what_was_known(decode(content, owner), kept)
        except BlockingIOError:
            doubt(path)
            signature, decoded = UNKNOWN, _unreadable(kept, "1: it is written at this moment")
        except FileNotFoundError:
            if os.path.islink(os.path.join(self._root, path)):
                decoded = _unreadable(kept, "1: it is a link to nothing")
            else:
                signature, decoded = None, NOTHING
        except OSError as error:
            decoded = _unreadable(kept, f"1: it cannot be read: {error.strerror}")
        except Undecodable as error:
            decoded = _unreadable(kept, str(error))
        self.put(path, signature, decoded)

    def stands(self, name: ServiceName) -> Stands:
        """The service, merged from all its files."""
        instances: dict[str, Instance] = {}
        marks: dict[str, Mark] = {}
        holder: dict[str, str] = {}
        unreadable: set[str] = set()
        for path in sorted(self._paths.get(name, ()), key=_rank):
            decoded = self.files[path].decoded
            unreadable |= decoded.unreadable
            for id, instance in decoded.instances.items():
                if id not in instances:
                    instances[id], holder[id] = instance, path
                    if id in decoded.marks:
                        marks[id] = decoded.marks[id]
        return Stands(Service(name, instances, marks), holder, frozenset(unreadable))


def _rank(path: str) -> tuple[str, str]:
    there = folder.place(path)
    return (there.owner if there else "", path)


def _unreadable(kept: Decoded, fault: str) -> Decoded:
    return Decoded(kept.instances, kept.marks, kept.unreadable | {UNKNOWN_ID}, faults=(fault,))


def _with_what_was_known(decoded: Decoded, kept: Decoded) -> Decoded:
    """Adds the last known record for each that is unreadable now."""
    every = UNKNOWN_ID in decoded.unreadable
    back = {id for id in kept.instances if id not in decoded.instances and (every or id in decoded.unreadable)}
    if not back:
        return decoded
    return Decoded(
        decoded.instances | {id: kept.instances[id] for id in back},
        decoded.marks | {id: kept.marks[id] for id in back if id in kept.marks},
        decoded.unreadable,
        decoded.strays,
        decoded.faults,
    )
