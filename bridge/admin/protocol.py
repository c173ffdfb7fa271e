"""The admin protocol: one JSON line asks, one answers."""

from __future__ import annotations

import pwd
import socket
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from bridge.errors import IsthmusError, Unavailable

LONGEST = 1024 * 1024  # bytes of a request

LONGEST_PATH = 107  # bytes that the kernel takes for a socket's address


NOT_PERMITTED = 4  # the code of an answer, and of a command that gets it
LONGEST_CLAIM = 100  # characters of `--by`


class Peer(msgspec.Struct, frozen=True):
    """Who asks, as the kernel says; `gids` are the groups of the process. `claimed`: as it says itself (`--by`)."""

    uid: int
    pid: int
    gids: frozenset[int] = frozenset()
    claimed: str = ""

    def __str__(self) -> str:
        try:
            user = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            user = "?"
        return f"uid={self.uid} pid={self.pid} user={user} host={socket.gethostname()}{claim(self.claimed)}"


def claim(name: str) -> str:
    """What a name that somebody claims adds to what the kernel says; quoted, so that it cannot look like that."""
    return f" claims={name!a}" if name else ""


Command = Callable[[dict[str, Any], Peer], Awaitable[Any]]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client sends."""

    command: str
    arguments: dict[str, Any] = {}
    by: Annotated[str, msgspec.Meta(max_length=LONGEST_CLAIM)] = ""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it gets: a result, or an error with the exit code that fits it."""

    ok: bool
    result: Any = None
    error: str = ""
    code: int = 0


class RefusedError(IsthmusError):
    """`bridge.access` does not let this process do that."""


class SilentDaemonError(Unavailable):
    """A daemon is there and does not answer: it is stopped, or ends."""


class NoDaemonError(IsthmusError):
    """Nobody answers at the socket."""
