"""Whether the old side of a move is left, by the connection tables of its machines: what was watched there; pure.

No registry knows of calls, and no list of readers is complete: who still talks to a machine is seen at that machine
alone. A port counts as quiet only for as long as somebody looked without a gap and saw no connection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

GAP = 90.0  # seconds between two looks of one watch: Linux shows a connection for 60 s after its server has closed it
COUNTS = 86_400.0  # seconds that a report counts
PEERS = 5  # addresses that are named of those that were connected

Address = tuple[str, int]


class Watch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One port that somebody listens at. Times in seconds since the epoch by the clock of its machine.

    `since`: from then on it was looked at without a gap. `last`: of the last look that saw a connection, None: none
    did; `peers`: from where that was.
    """

    address: str
    port: int
    since: float
    last: float | None = None
    peers: tuple[str, ...] = ()


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """What `isthmus probe --listening --report` found at one machine, until `at`.

    `of`: what the targets were made of. `ignored`: globs of addresses whose connections do not count.
    """

    of: str
    host: str
    at: float
    watched: tuple[Watch, ...]
    ignored: tuple[str, ...] = ()


def looked(before: Listening | None, fresh: Listening) -> Listening:
    """The watch goes on: what an earlier report of the same machine says, with one more look (`fresh`).

    What was not looked at in between, or with other addresses ignored, is watched from now on.
    """
    known = {(one.address, one.port): one for one in before.watched} if before is not None else {}
    goes_on = before is not None and before.ignored == fresh.ignored and 0 <= fresh.at - before.at <= GAP
    watched = []
    for one in fresh.watched:
        earlier = known.get((one.address, one.port))
        since = earlier.since if earlier is not None and goes_on else one.since
        seen = one if one.last is not None or earlier is None else earlier
        watched.append(msgspec.structs.replace(one, since=since, last=seen.last, peers=seen.peers))
    return msgspec.structs.replace(fresh, watched=tuple(watched))


class Quiet(NamedTuple):
    """Whether an old side had no request for long enough; None: nobody knows, and `why` says what is missing."""

    quiet: bool | None
    why: str = ""


def quiet(old: Collection[Address], reports: Iterable[Listening], *, for_: float, since: float, now: float) -> Quiet:
    """Of every address and port of an old side. `for_`: seconds that it has to be; `since`: when it was left.

    A report from before that says nothing: it saw what the share was then.
    """
    newest: dict[Address, tuple[Listening, Watch]] = {}
    for report in sorted(reports, key=lambda one: one.at):
        if now - report.at <= COUNTS:
            newest |= {(one.address, one.port): (report, one) for one in report.watched}
    if not old:
        return Quiet(None, "nothing of the old side serves, so there is no machine to look at")
    if missing := sorted(set(old) - newest.keys()):
        return Quiet(None, f"nobody looked at {_some(missing)} within a day: `isthmus probe --listening` there")
    if early := sorted(one for one in old if newest[one][0].at < since):
        return Quiet(None, f"{_some(early)} was looked at before the old side was left: report it anew")
    left = {one: _left(*newest[one], for_) for one in old}
    for (report, watch), seconds in ((newest[one], left[one]) for one in sorted(left)):
        if seconds > 0 and watch.last is not None and report.at - watch.last < for_:
            peers = ", ".join(watch.peers)
            return Quiet(
                False, f"{_said((watch.address, watch.port))} had a connection from {peers}, seen at {report.host}"
            )
    slowest = max(left, key=lambda one: left[one])
    if left[slowest] > 0:
        return Quiet(None, f"{_said(slowest)} is to be watched for {left[slowest]:.0f} s more")
    return Quiet(True)


def _left(report: Listening, watch: Watch, for_: float) -> float:
    """Seconds without a connection that are missing."""
    begun = watch.since if watch.last is None else max(watch.since, watch.last)
    return for_ - (report.at - begun)


def _some(addresses: Sequence[Address]) -> str:
    return _said(addresses[0]) + (f" and {len(addresses) - 1} more" if len(addresses) > 1 else "")


def _said(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def both(requests: Quiet, connections: Quiet) -> Quiet:
    """By what counts requests, and by connection tables: one that sees the old side used is enough to say so."""
    known = [one for one in (requests, connections) if one.quiet is not None]
    return min(known, key=lambda one: bool(one.quiet), default=connections)
