"""The requests that kazoo does not have: recursive watches, and reads and writes of many nodes in one packet.

Source: zookeeper.jute and MultiOperationRecord, MultiResponse of Apache ZooKeeper 3.9; 106 and 22 came with 3.6.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from kazoo.exceptions import EXCEPTIONS

_INT = struct.Struct("!i")
_HEADER = struct.Struct("!iBi")  # header of one operation of a multi: type, done, error
_RESULT = struct.Struct("!i5xi")  # the type from such a header, and what it begins: a length, a count, a code
_STAT = struct.Struct("!8xq16xi8xq4xi8x")  # mzxid, version, ephemeralOwner, numChildren
_END = _HEADER.pack(-1, True, -1)

_DELETE, _GET_DATA, _SET_DATA, _GET_CHILDREN, _CHECK, _CREATE, _CREATE_CONTAINER = 2, 4, 5, 8, 13, 15, 19
_ERROR = -1
_OK, _ROLLED_BACK = 0, -2  # the results of the operations before and after the one that failed

PERSISTENT, EPHEMERAL, SEQUENTIAL, CONTAINER = 0, 1, 2, 4  # flags of `create`

CREATED, DELETED, CHANGED = 1, 2, 3  # kinds of events

Acl = tuple[int, str, str]  # permissions, scheme, id


class Node(msgspec.Struct, frozen=True, gc=False):
    """A node: its value, and the fields of its Stat that we compare.

    `owner` is the session that an ephemeral node dies with, 0 for all others; `children` how many it has.
    """

    value: bytes
    mzxid: int
    version: int
    owner: int
    children: int


class AddWatch(NamedTuple):
    """Watches every creation, change and deletion at `path` and below it, until the connection ends."""

    path: str
    type: int = 106

    def serialize(self) -> bytes:
        return _text(self.path) + _INT.pack(1)  # 1: persistent and recursive

    @classmethod
    def deserialize(cls, buffer: bytes, offset: int) -> None:
        return None


class MultiRead(NamedTuple):
    """Values and lists of children as of one transaction: the server processes them as one request."""

    chroot: str
    values: Sequence[str] = ()
    lists: Sequence[str] = ()
    type: int = 22

    def serialize(self) -> bytes:
        parts: list[bytes] = []
        for kind, paths in ((_GET_DATA, self.values), (_GET_CHILDREN, self.lists)):
            header = _HEADER.pack(kind, False, -1)
            for path in paths:
                text = (self.chroot + path).encode()
                parts += (header, _INT.pack(len(text)), text, b"\0")
        parts.append(_END)
        return b"".join(parts)

    def deserialize(self, buffer: bytes, offset: int) -> list[Node | list[str] | Exception]:
        """One result for each, values first; an error says the path."""
        results: list[Node | list[str] | Exception] = []
        end = len(buffer) - len(_END)
        while offset < end:
            kind, said = _RESULT.unpack_from(buffer, offset)
            start = offset = offset + _RESULT.size
            if kind == _GET_DATA:
                offset += max(0, said)
                results.append(Node(buffer[start:offset], *_STAT.unpack_from(buffer, offset)))
                offset += _STAT.size
            elif kind == _GET_CHILDREN:
                names = []
                for _ in range(said):
                    start = offset + 4
                    offset = start + _INT.unpack_from(buffer, offset)[0]
                    names.append(buffer[start:offset].decode())
                results.append(names)
            else:
                at = len(results) - len(self.values)
                path = self.values[at] if at < 0 else self.lists[at]
                results.append(EXCEPTIONS[said](self.chroot + path))
        return results


class Create(NamedTuple):
    path: str
    value: bytes
    acl: Sequence[Acl]
    flags: int = PERSISTENT

    def pack(self, chroot: str) -> bytes:
        acl = b"".join(_INT.pack(perms) + _text(scheme) + _text(id) for perms, scheme, id in self.acl)
        kind = _CREATE_CONTAINER if self.flags == CONTAINER else _CREATE
        parts = (_head(kind), _text(chroot + self.path), _bytes(self.value), _INT.pack(len(self.acl)), acl)
        return b"".join(parts) + _INT.pack(self.flags)


class SetData(NamedTuple):
    path: str
    value: bytes
    version: int

    def pack(self, chroot: str) -> bytes:
        return _head(_SET_DATA) + _text(chroot + self.path) + _bytes(self.value) + _INT.pack(self.version)


class Delete(NamedTuple):
    path: str
    version: int

    def pack(self, chroot: str) -> bytes:
        return _head(_DELETE) + _text(chroot + self.path) + _INT.pack(self.version)


class Check(NamedTuple):
    """Fails the transaction unless the node exists with this version; -1: with any."""

    path: str
    version: int = -1

    def pack(self, chroot: str) -> bytes:
        return _head(_CHECK) + _text(chroot + self.path) + _INT.pack(self.version)


Op = Create | SetData | Delete | Check


class Failed(NamedTuple):
    """A transaction that failed: the operation that failed, and why."""

    at: int
    error: Exception


class Multi(NamedTuple):
    """A transaction of packed operations: all or nothing."""

    packed: bytes
    type: int = 14

    def serialize(self) -> bytes:
        return self.packed + _END

    @classmethod
    def deserialize(cls, buffer: bytes, offset: int) -> list[Failed]:
        """What failed; empty: all was done."""
        index = 0
        while True:
            kind, done, _ = _HEADER.unpack_from(buffer, offset)
            offset += _HEADER.size
            if done or kind != _ERROR:
                return []  # the results of one that failed are errors throughout
            (code,) = _INT.unpack_from(buffer, offset)
            offset += 4
            if code not in (_OK, _ROLLED_BACK):
                return [Failed(index, EXCEPTIONS[code]())]
            index += 1


def _head(kind: int) -> bytes:
    return _HEADER.pack(kind, False, -1)


def _text(text: str) -> bytes:
    return _bytes(text.encode())


def _bytes(value: bytes) -> bytes:
    return _INT.pack(len(value)) + value
