"""Who may do what: `bridge.access`, judged on what the kernel says of the process that asks (ADR 24)."""

from __future__ import annotations

import enum
import grp
import pwd
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from bridge.config.schema import Access
from bridge.link import Services, glob, named
from bridge.model import ServiceName

ROOT = 0


class Right(enum.StrEnum):
    """What `may` lists. Each of the others has `read` of the same services in it, and `admin` has all."""

    READ = "read"
    APPROVE = "approve"
    FREEZE = "freeze"
    ADMIN = "admin"


class Need(NamedTuple):
    """What a command needs. `right` None: nothing of the daemon, it goes by the file and the secrets that it names.

    `over`: on which services, for people; `whole`: to read anything of it needs the right on everything.
    """

    right: Right | None
    over: str
    whole: bool = False


_OWN = Need(None, "it asks registries with what the file and its secrets let its user do")
_SHOWN = Need(Right.READ, "what is of other services is not shown")
_LINK = Need(Right.FREEZE, "all that the link takes; `--all` needs `admin`")
_ALL = Need(Right.ADMIN, "everything")

# By command; those of the socket alone are the last three. `isthmus` and docs/commands.md go by this table.
NEEDS = {
    **dict.fromkeys(
        ("init", "run", "check", "plan", "diff", "services", "explain", "footprint", "probe", "events"), _OWN
    ),
    **dict.fromkeys(("status", "members", "log", "holds"), _SHOWN),
    "group": Need(Right.READ, "everything; `init` and `end` need `admin`", whole=True),
    **dict.fromkeys(("group init", "group end"), _ALL),
    "clients": Need(Right.READ, "everything", whole=True),
    "ack": Need(Right.APPROVE, "all that the link takes that it is about, else everything"),
    "approve": Need(Right.APPROVE, "every service of the set"),
    "accept": _ALL,
    "expect": Need(Right.APPROVE, "the service, or all that the link takes; of a registry everything"),
    **dict.fromkeys(("set", "unset", "drain"), Need(Right.APPROVE, "the service that it is of")),
    "overrides": _SHOWN,
    "undo": _ALL,
    "freeze": _LINK,
    "unfreeze": _LINK,
    "seed": Need(None, "the token of `bridge.token_file`, which the other daemon asks for"),
    **dict.fromkeys(("purge", "adopt", "release", "leave"), _ALL),
    **dict.fromkeys(("bootstrap", "completion", "schema", "version"), Need(None, "it asks nobody")),
    "migrate": Need(Right.ADMIN, "everything; `plan` and `status` need `read`"),
    "refused": _SHOWN,
    **dict.fromkeys(
        ("migrate-plan", "migrate-status", "migrate-readers", "migrate-targets"),
        Need(Right.READ, "everything", whole=True),
    ),
    "configuration": Need(Right.READ, "everything (for `plan --running`)", whole=True),
    "reload": _ALL,
}


class May:
    """What one process may: by right, globs of the services on which it has that."""

    def __init__(self, globs: dict[Right, frozenset[str]]) -> None:
        self._globs = globs

    def has(self, right: Right) -> bool:
        """Whether it has the right on anything."""
        return right in self._globs

    def on_all(self, right: Right) -> bool:
        """Whether it has the right on everything."""
        return "*" in self._globs.get(right, ())

    def on(self, right: Right, name: ServiceName) -> bool:
        """Whether it has the right on one service."""
        return any(named(pattern, name) for pattern in self._globs.get(right, ()))

    def on_whole(self, right: Right, services: Services) -> bool:
        """Whether it has the right on whatever a link takes, be it there today or not."""
        given = self._globs.get(right, frozenset())
        return all(any(_covers(pattern, taken) for pattern in given) for taken in services.include)


EVERYTHING = May(dict.fromkeys(Right, frozenset({"*"})))


def may(access: Iterable[Access], uid: int, gids: Collection[int], owner: int) -> May:
    """What a process with that user and these groups may. Root and the daemon's own user (`owner`) may everything.

    Asks the system's database of users and groups, which may wait for the network.
    """
    if uid in (ROOT, owner):
        return EVERYTHING
    globs: dict[Right, set[str]] = {}
    for one in access:
        if any(_is(who, uid, gids) for who in one.who):
            for right in _implied(one.may):
                globs.setdefault(right, set()).update(one.services)
    return May({right: frozenset(patterns) for right, patterns in globs.items()})


def _implied(given: Sequence[str]) -> frozenset[Right]:
    rights = frozenset(map(Right, given))
    return frozenset(Right) if Right.ADMIN in rights else rights | {Right.READ}


def _is(who: str, uid: int, gids: Collection[int]) -> bool:
    """Whether `user:NAME` or `group:NAME` means them; a name that this host does not know means nobody."""
    kind, _, name = who.partition(":")
    try:
        if kind == "user":
            return uid == (int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid)
        return (int(name) if name.isdigit() else grp.getgrnam(name).gr_gid) in gids
    except KeyError:
        return False


def _covers(pattern: str, taken: str) -> bool:
    """Whether a glob means every name that another one means; False where that cannot be told from their texts."""
    if pattern in ("*", taken):
        return True
    if ":" in taken and ":" not in pattern:
        taken = taken.partition(":")[2]
    elif ":" in pattern and ":" not in taken:
        return False
    # A `*` means whatever a `*` or `?` of the other one does; what a set of characters means is not in its text.
    return not set("?[") & set(pattern) and "[" not in taken and glob(pattern, taken)
