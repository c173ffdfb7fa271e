"""The errors that adapters and mappings raise: one class, one reaction."""

from __future__ import annotations

import re
from typing import NamedTuple

_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z0-9]+|[A-Z]+").findall
_NUMBER = re.compile(r"\[Error \d+\] ")  # of Kafka's protocol, before the name that says the same


class IsthmusError(Exception):
    """The root of every error that Isthmus raises on purpose."""


class Fault(NamedTuple):
    """What is wrong in one block of the file, and under which of its keys, e.g. ("tls", "ca"); (): the whole block."""

    text: str
    key: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return ": ".join(filter(None, (".".join(map(str, self.key)), self.text)))


class ConfigError(IsthmusError):
    """The operator must edit the file: exit 2, nothing touched. All faults at once.

    An adapter gives a Fault for each, which the reader of the file shows with its line.
    """

    def __init__(self, *faults: str | Fault) -> None:
        self.found = tuple(one if isinstance(one, Fault) else Fault(one) for one in faults)
        self.faults = tuple(map(str, self.found))
        super().__init__("\n".join(self.faults))


class Unavailable(IsthmusError):
    """No answer, a server's error, a throttled or a partial answer: back off and serve what is known.

    `retry_after` is in seconds, where the registry named a time, else None.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Expired(IsthmusError):
    """The place in the history is lost (compacted, 410, session gone): start the watch over at once."""


class Denied(IsthmusError):
    """Not allowed (401, 403, ACL): retry slowly, not ready, alert."""


class Conflict(IsthmusError):
    """A compare-and-set was lost or the entry is someone else's: read that service again and plan again."""


class Superseded(IsthmusError):
    """The writer's lock is no longer ours: stop writing at once, stand by, and compete for it again."""


class Rejected(IsthmusError):
    """The value is not accepted or would break stock readers: park this instance until it changes.

    `again`: seconds until it is tried again as it is, where what stands in its way is not the value but something at
    the destination that others may change; None: never.
    """

    def __init__(self, reason: str, again: float | None = None) -> None:
        super().__init__(reason)
        self.again = again


class Undecodable(IsthmusError):
    """One record makes no sense: count it, name it in `Observed.unreadable`, go on with the others."""


class Stray(Undecodable):
    """The key may be of this layout and the value is none of its records: counted and named, but no instance."""


def reason(error: BaseException) -> str:
    """What an error says, in words: of one that says nothing, or its class's name alone, the words of that name."""
    name = type(error).__name__
    words = " ".join(_WORDS(name.removesuffix("Error").removesuffix("Exception"))).lower() or name
    words = "no answer in time" if isinstance(error, TimeoutError) else words
    return _NUMBER.sub("", str(error)).replace(name, words) or words
