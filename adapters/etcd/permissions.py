"""What a user's roles allow, by etcd's rules for ranges (auth/range_perm_cache.go). Pure, except `granted`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.client import ROLE, USER, Client
from adapters.etcd.keys import Range

READ = frozenset({pb.Permission.READ, pb.Permission.READWRITE})
WRITE = frozenset({pb.Permission.WRITE, pb.Permission.READWRITE})

_END = b"\0"  # as a range's end: there is none


def allows(permissions: Iterable[pb.Permission], kinds: frozenset[pb.Permission.Type], wanted: Iterable[Range]) -> bool:
    """Whether permissions of these kinds, taken together, cover every wanted range."""
    granted = sorted(_area(each) for each in permissions if each.type in kinds)
    return all(_covered(area, granted) for area in wanted)


class Granted(NamedTuple):
    """What our user may do; `permissions` None: everything."""

    header: pb.Header
    permissions: Sequence[pb.Permission] | None


async def granted(client: Client) -> Granted:
    """Asks etcd for the roles of our user, as any user may. Raises Denied, NoUser, Unavailable."""
    # Without a user name the request itself is refused where authentication is enabled.
    user = await client.call(USER, pb.UserGetRequest(name=client.user or "root"))
    if client.user is None or "root" in user.roles:
        return Granted(user.header, None)
    found: list[pb.Permission] = []
    for role in user.roles:
        found += (await client.call(ROLE, pb.RoleGetRequest(role=role))).permissions
    return Granted(user.header, found)


def readable(permissions: Iterable[pb.Permission], wanted: Iterable[Range]) -> tuple[Range, ...]:
    """The readable parts of some ranges of entries, in their order, for which the ledger is readable, too.

    Without those, a bridge's copy could not be told from a native's entry.
    """
    areas = _joined(_area(each) for each in permissions if each.type in READ)
    common = (_common(want, area) for want in wanted for area in areas)
    return tuple(one for one in common if one is not None and covers(areas, [ledger.about(one)]))


def covers(areas: Iterable[Range], wanted: Iterable[Range]) -> bool:
    """Whether some ranges together cover every wanted one."""
    found = sorted(areas)
    return all(_covered(one, found) for one in wanted)


def gaps(wanted: Iterable[Range], areas: Iterable[Range]) -> list[Range]:
    """The parts of some ranges that the areas do not cover."""
    found, having = [], sorted(areas)
    for want in wanted:
        start = want.start
        for area in (one for one in having if _common(want, one) is not None):
            if start < area.start:
                found.append(Range(start, area.start))
            start = area.end
            if start == _END:
                break
        if start != _END and (want.end == _END or start < want.end):
            found.append(Range(start, want.end))
    return found


def _joined(areas: Iterable[Range]) -> list[Range]:
    """The same keys in the smallest number of ranges."""
    found: list[Range] = []
    for area in sorted(areas):
        if found and (found[-1].end == _END or area.start <= found[-1].end):
            found[-1] = Range(found[-1].start, max(found[-1].end, area.end, key=_reach))
        else:
            found.append(area)
    return found


def _common(one: Range, other: Range) -> Range | None:
    start, end = max(one.start, other.start), min(one.end, other.end, key=_reach)
    return Range(start, end) if end == _END or start < end else None


def _reach(end: bytes) -> tuple[bool, bytes]:
    return end == _END, end


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
