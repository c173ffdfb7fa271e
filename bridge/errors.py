"""The errors that adapters and mappings raise: one class, one reaction (see `bridge.feed` and `bridge.reconcile`)."""

from __future__ import annotations


class IsthmusError(Exception):
    """The root of every error that Isthmus raises on purpose."""


class ConfigError(IsthmusError):
    """The operator must edit the file: exit 2, nothing touched. One text per fault, all faults at once."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


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
    """The value will never be accepted or would break stock readers: park this instance until it changes."""


class Undecodable(IsthmusError):
    """One record makes no sense: count it, name it in `Observed.unreadable`, go on with the others."""
