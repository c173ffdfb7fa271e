"""ZooKeeper's answers as nodes, lists of children, and errors of our classes."""

from __future__ import annotations

from typing import Any, NamedTuple

from kazoo import exceptions as kazoo

from adapters.zookeeper.connection import TooLarge
from adapters.zookeeper.wire import Node
from bridge.errors import Denied, Expired, IsthmusError, Unavailable, reason

TOO_OLD = "ZooKeeper 3.6 or newer is needed: this server does not know persistent watches and reads of many nodes"


class Disconnected(Unavailable):
    """The connection was lost while the request was in flight: its outcome is unknown."""


_OURS: dict[type[Exception], type[IsthmusError]] = {
    kazoo.ConnectionLoss: Disconnected,
    kazoo.ConnectionClosedError: Disconnected,
    kazoo.OperationTimeoutError: Disconnected,
    kazoo.SessionMovedError: Disconnected,
    kazoo.SessionExpiredError: Expired,
    kazoo.AuthFailedError: Denied,
    TooLarge: Unavailable,
}


class Answer(NamedTuple):
    """The answer to a request, and the server's last transaction at that time."""

    value: Any
    zxid: int


class Missing(Unavailable, kazoo.NoNodeError):  # type: ignore[misc]
    """A required node does not exist."""


class Exists(Unavailable, kazoo.NodeExistsError):  # type: ignore[misc]
    """A node exists that must not."""


def error_of(error: Exception, path: str = "", chroot: str = "") -> Exception:
    """Our error for one of kazoo's, with the path of its node; `chroot`: the session's, if any."""
    if isinstance(error, kazoo.UnimplementedError):
        return Unavailable(TOO_OLD)
    path = path or str(error)
    if isinstance(error, kazoo.NoAuthError):
        return Denied(f"{path or 'a node'}: our user may not do this there: grant it r, w, c and d, or r to read")
    if isinstance(error, kazoo.NoNodeError):
        missing = f"{chroot} does not exist, which is the chroot: create it, or mend `hosts`"
        return Missing(missing if chroot and path == chroot else f"{path}: there is no such node")
    if isinstance(error, kazoo.NodeExistsError):
        return Exists(f"{path}: there is such a node already")
    for kind, ours in _OURS.items():
        if isinstance(error, kind):
            return ours(reason(error))
    return error


def nodes_of(answer: Answer) -> list[Node | Denied | None]:
    """As `values_of`, with a Denied in the place of each node that we may not read."""
    nodes: list[Node | Denied | None] = []
    for one in answer.value:
        if isinstance(one, kazoo.NoAuthError):
            nodes.append(Denied(f"{one}: our user may not read it (r)"))
        else:
            nodes.append(one if type(one) is Node or not _missing(one) else None)
    return nodes


def values_of(answer: Answer) -> list[Node | None]:
    """The nodes of an answer, None for those that do not exist. Raises where one may not be read."""
    return [one if type(one) is Node or not _missing(one) else None for one in answer.value]


def lists_of(answer: Answer) -> list[list[str] | None]:
    """The names of the children, None for nodes that do not exist. Raises where one may not be listed."""
    return [one if type(one) is list or not _missing(one) else None for one in answer.value]


def open_lists_of(answer: Answer) -> list[list[str] | Denied | None]:
    """As `lists_of`, with a Denied in the place of each node whose children we may not list."""
    lists: list[list[str] | Denied | None] = []
    for one in answer.value:
        if isinstance(one, kazoo.NoAuthError):
            lists.append(Denied(f"{one}: our user may not list its children (r)"))
        else:
            lists.append(one if type(one) is list or not _missing(one) else None)
    return lists


def _missing(error: Exception) -> bool:
    if isinstance(error, kazoo.NoNodeError):
        return True
    raise error_of(error)
