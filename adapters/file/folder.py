"""The layout of a folder of service files: paths, listing, reading, and the folder's identity.

    <service>.yaml                            a person's file; the stem is the service's name
    <namespace>/<service>.yaml                the same in a namespace
    <service>.<bridge>.isthmus.yaml           what one bridge wrote for that service
    .isthmus/identity                         who this folder is (see `who`)
    .isthmus/lock.<bridge>                    held by the one writer of that bridge
    .isthmus/note.<bridge>                    the note that its daemons keep for each other
    .isthmus/seat.<bridge>;<destination>      the lock of a destination elsewhere that has none of its own
    .isthmus/note.<bridge>;<destination>      and its note
    .isthmus/key.<bridge>;<key>               a note of its daemons that is of no destination

Names are percent-encoded where a file's name cannot hold them. What begins with a dot, has another ending, or lies
deeper, is nobody's service.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from bridge.errors import Denied, IsthmusError, Rejected, Unavailable, Undecodable
from bridge.model import ServiceName

ENDINGS = (".yaml", ".yml")
BRIDGED = ".isthmus"
OURS = ".isthmus"  # the folder for our own files
DRAFT = ".new"
LOCK, NOTE = "lock.", "note."
LENT = "seat."  # instead of LOCK, for a destination without a seat of its own
KEYED = "key."  # a note by key, of no destination
SEP = ";"  # never in a quoted name
LONGEST = 255 - len(f".{DRAFT}")  # bytes of a file's name
LIMIT = 4 << 20  # bytes of one file: some 15,000 instances

Signature = tuple[int, ...]  # identifies a state of a file without reading it

REACTIONS: dict[int, type[IsthmusError]] = {
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EROFS: Denied,
    errno.ENAMETOOLONG: Rejected,
}


class Place(NamedTuple):
    """The meaning of a path: a service, as written by a bridge or by people (`owner` "")."""

    service: ServiceName
    owner: str


def trouble(error: OSError) -> IsthmusError:
    """Our error for an OSError: Unavailable, or Denied where permissions are missing."""
    said = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
    return REACTIONS.get(error.errno or 0, Unavailable)(said)


@lru_cache(maxsize=65536)
def place(path: str) -> Place | None:
    """The meaning of a path relative to the folder; None: it is no service file."""
    folder, _, name = path.rpartition("/")
    stem, ending = os.path.splitext(name)
    if ending not in ENDINGS or name.startswith(".") or folder.startswith(".") or "/" in folder:
        return None
    owner = ""
    if stem.endswith(BRIDGED):
        stem, _, owner = stem.removesuffix(BRIDGED).rpartition(".")
        if not owner:
            return None
    try:
        path.encode()
    except UnicodeEncodeError:
        return None  # a name that is not UTF-8 is no name of a service
    if not stem:
        return None
    return Place(ServiceName(unquote(stem), unquote(folder)), unquote(owner))


def path_of(name: ServiceName, owner: str) -> str:
    """The file of a bridge for a service, relative to the folder. Raises Rejected where no file can have that name."""
    file = f"{_quoted(name.name)}.{_quoted(owner).replace('.', '%2E')}{BRIDGED}{ENDINGS[0]}"
    if not name.name or max(len(file), len(_quoted(name.namespace))) > LONGEST:
        raise Rejected(f"no file can be named after the service {str(name)!r}")
    return f"{_quoted(name.namespace)}/{file}" if name.namespace else file


def _quoted(text: str) -> str:
    text = quote(text, safe="@:+=,~ ()")
    return f"%2E{text[1:]}" if text.startswith(".") else text


def paths(root: str, follow: Callable[[str], None] = lambda folder: None) -> Iterator[str]:
    """Every path of a service file. `follow` is called with each folder ("" is the root) before it is listed.

    Raises OSError where a part of the folder cannot be listed: a partial listing is not used.
    """
    namespaces = []
    follow("")
    with os.scandir(root) as entries:
        for entry in entries:
            if place(entry.name):
                yield entry.name
            elif not entry.name.startswith(".") and os.path.isdir(entry.path):
                namespaces.append(entry.name)
    for namespace in namespaces:
        try:
            follow(namespace)
            names = os.listdir(os.path.join(root, namespace))
        except (FileNotFoundError, NotADirectoryError):
            continue  # it was removed meanwhile
        yield from (path for name in names if place(path := f"{namespace}/{name}"))


def paths_of(root: str, names: Collection[ServiceName] | None) -> list[str]:
    """The paths of the files of these services; None: of all."""
    found = [(path, place(path)) for path in paths(root)]
    return [path for path, there in found if there and (names is None or there.service in names)]


def signature(root: str, path: str) -> Signature | None:
    """The state of a file, None: it does not exist. A dangling link is an unreadable file, not a missing one."""
    full = os.path.join(root, path)
    try:
        return _signature(os.stat(full))
    except (FileNotFoundError, NotADirectoryError) as error:
        return (error.errno or 0,) if os.path.islink(full) else None
    except OSError as error:
        return (error.errno or 0,)


def read(root: str, path: str) -> tuple[Signature, bytes]:
    """A file's content and its state. Raises OSError, or Undecodable with a line number (too long, no regular file).

    Raises BlockingIOError where it was written meanwhile.
    """
    # Non-blocking: opening a named pipe would wait for its writer.
    descriptor = os.open(os.path.join(root, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise Undecodable("1: it is no regular file")
        content = file.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise Undecodable(f"1: it is longer than {LIMIT} bytes")
        if _signature(os.fstat(descriptor)) != _signature(before):
            raise BlockingIOError(errno.EAGAIN, "it was written while it was read", path)
        return _signature(before), content


def _signature(status: os.stat_result) -> Signature:
    return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev, status.st_mode)


def inode(root: str) -> int:
    """The inode of the folder. Raises OSError."""
    return os.stat(root).st_ino


def who(root: str) -> tuple[str, str]:
    """Identity and incarnation: what `.isthmus/identity` says in its two lines, else what can be told without it.

    A folder without it is known by host, path and inode: the empty folder below a volume that is not mounted is
    another life. Not by its device, whose number changes with a reboot. A folder whose inode changes for good reasons
    (git-sync, the volume of a new pod) should bring the file with it. Raises OSError.
    """
    try:
        _, content = read(root, f"{OURS}/identity")
    except (FileNotFoundError, NotADirectoryError):
        return f"file:{socket.gethostname()}:{os.path.realpath(root)}", str(inode(root))
    lines = content.decode(errors="replace").splitlines()
    return lines[0].strip() if lines else "", lines[1].strip() if len(lines) > 1 else ""


def settle_identity(root: str, bridge: str) -> None:
    """Writes the folder's identity file, unless there is one. Neither identity nor incarnation changes by that.

    Only the writer of a bridge may: two bridges may write the same content, each through its own draft.
    """
    path = f"{OURS}/identity"
    if not os.path.exists(os.path.join(root, path)):
        replace(root, path, "\n".join((*who(root), "")).encode(), draft=f".identity.{_quoted(bridge)}{DRAFT}")


def make_ours(root: str) -> None:
    """Makes the folder for our own files. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(root, OURS))


def remove(path: str) -> None:
    """Removes a file, if it exists. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class SeatFiles(NamedTuple):
    """The paths of one seat, relative to the folder: lock and note."""

    lock: str
    note: str


def seat_of(bridge: str, lent: str = "") -> SeatFiles:
    """The seat of a bridge for this folder, or for the destination that it is lent to."""
    own = f"{_quoted(bridge)}{SEP}{_quoted(lent)}".removesuffix(SEP)
    return SeatFiles(f"{OURS}/{LENT if lent else LOCK}{own}", f"{OURS}/{NOTE}{own}")


def noted(bridge: str, key: str = "") -> str:
    """The file of a bridge's note by key; without a key, the prefix of all its notes. Raises Rejected."""
    path = f"{OURS}/{KEYED}{_quoted(bridge)}{SEP}{quote(key, safe='')}"
    if len(os.path.basename(path)) > LONGEST:
        raise Rejected(f"no file can be named after the key {key!r}")
    return path


def keys(root: str, bridge: str) -> list[str]:
    """The keys of a bridge's notes. Raises OSError."""
    start = os.path.basename(noted(bridge))
    return [unquote(name.removeprefix(start)) for name in _ours(root) if name.startswith(start)]


def old_note(bridge: str) -> str:
    """The place of a bridge's note in older versions."""
    return f"{OURS}/desk.{_quoted(bridge)}"


def locks(root: str) -> dict[str, str]:
    """The existing locks by bridge id: paths relative to the folder. Raises OSError."""
    return {unquote(name.removeprefix(LOCK)): f"{OURS}/{name}" for name in _ours(root) if name.startswith(LOCK)}


def left_of(root: str, bridge: str) -> dict[str, str]:
    """By path, the files of a bridge besides service files: lock or note. Raises OSError."""
    own, found = seat_of(bridge), {}
    for name in _ours(root):
        words = ("lock", "seat", "note", "desk", "key")
        kind = next((word for word in words if name.startswith(f"{word}.")), "")
        whose, lent, *_ = f"{name.removeprefix(f'{kind}.')}{SEP}".split(SEP)
        if kind and unquote(whose) == bridge:
            path = f"{OURS}/{name}"
            kinds = {"seat": "lock", "desk": "note", "key": "note"}
            is_own = not lent or path in own or kind == "key"
            found[path] = kinds.get(kind, kind) if is_own else f"{kinds.get(kind, kind)} {unquote(lent)}"
    return found


def is_shared(root: str, bridge: str) -> bool:
    """Whether another bridge has files in the folder. Raises OSError."""
    mine = {"identity", *(os.path.basename(path) for path in left_of(root, bridge))}
    owners = {there.owner for path in paths(root) if (there := place(path))} - {"", bridge}
    return bool(owners or set(_ours(root)) - mine)


def remove_shared(root: str) -> None:
    """Removes the folder's identity, and the folder that it is in, unless a bridge has files there. Raises OSError."""
    if _ours(root) == ["identity"] and not any(there.owner for path in paths(root) if (there := place(path))):
        remove(os.path.join(root, OURS, "identity"))
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(root, OURS))


def _ours(root: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(root, OURS)))
    except FileNotFoundError:
        return []


def replace(
    root: str, path: str, content: bytes, ready: Callable[[Signature], None] = lambda new: None, draft: str = ""
) -> Signature:
    """Writes a file atomically, by renaming a draft in the same folder. Returns its new state. Raises OSError.

    `ready` is called with the new state before it takes effect, and may raise to prevent it.
    """
    folder, name = os.path.split(os.path.join(root, path))
    draft = os.path.join(folder, draft or f".{name}{DRAFT}")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            new = _signature(os.fstat(file.fileno()))
        ready(new)
        os.replace(draft, os.path.join(folder, name))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    return new
