"""What ZooKeeper answers, in our words: nodes, lists of children, and errors of the class that says the reaction."""

from __future__ import annotations

from typing import Any, NamedTuple

from kazoo import exceptions as kazoo

from adapters.zookeeper.connection import TooLarge
from adapters.zookeeper.wire import Node
from bridge.errors import Denied, Expired, IsthmusError, Unavailable

TOO_OLD = "ZooKeeper 3.6 or newer is needed: this server does not know persistent watches and reads of many nodes"


class Disconnected(Unavailable):
    """The connection was lost with the request under way: what became of it is not known."""


_OURS: dict[type[Exception], type[IsthmusError]] = {
    kazoo.ConnectionLoss: Disconnected,
    kazoo.ConnectionClosedError: Disconnected,
    kazoo.OperationTimeoutError: Disconnected,
    kazoo.SessionMovedError: Disconnected,
    kazoo.SessionExpiredError: Expired,
    kazoo.AuthFailedError: Denied,
    kazoo.NoAuthError: Denied,
    TooLarge: Unavailable,
}


class Answer(NamedTuple):
    """What a request brought, and the last transaction that the server had made by then."""

    value: Any
    zxid: int


def error_of(error: Exception) -> Exception:
    """Our error for one of kazoo's; those that are about one node stay what they are."""
    if isinstance(error, kazoo.UnimplementedError):
        return Unavailable(TOO_OLD)
    for kind, ours in _OURS.items():
        if isinstance(error, kind):
            return ours(str(error) or kind.__name__)
    return error


def values_of(answer: Answer) -> list[Node | None]:
    """The nodes of an answer, None for those that are not there; raises where one could not be read."""
    return [one if type(one) is Node or not _missing(one) else None for one in answer.value]


def lists_of(answer: Answer) -> list[list[str] | None]:
    """The names of the children, None for nodes that are not there; raises where one could not be read."""
    return [one if type(one) is list or not _missing(one) else None for one in answer.value]


def _missing(error: Exception) -> bool:
    if isinstance(error, kazoo.NoNodeError):
        return True
    raise error_of(error)
