"""What a user's roles allow, by etcd's rules for ranges (auth/range_perm_cache.go); pure."""

from __future__ import annotations

from collections.abc import Iterable

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.keys import Range

READ = frozenset({pb.Permission.READ, pb.Permission.READWRITE})
WRITE = frozenset({pb.Permission.WRITE, pb.Permission.READWRITE})

_END = b"\0"  # as a range's end: there is none


def allows(permissions: Iterable[pb.Permission], kinds: frozenset[pb.Permission.Type], wanted: Iterable[Range]) -> bool:
    """Whether permissions of these kinds, taken together, cover every wanted range."""
    granted = sorted(_area(each) for each in permissions if each.type in kinds)
    return all(_covered(area, granted) for area in wanted)


def _area(permission: pb.Permission) -> Range:
    key, end = permission.key, permission.range_end
    return Range(key, end or key + b"\0")  # without an end: the one key


def _covered(wanted: Range, granted: list[Range]) -> bool:
    reached = wanted.start
    for area in granted:
        if area.start > reached and area.start != _END:
            return False
        if area.end == _END:
            return True
        reached = max(reached, area.end)
        if wanted.end != _END and reached >= wanted.end:
            return True
    return False
