"""etcd's own counters of watches and reads: how many there are, but not by client or by key."""

from __future__ import annotations

import re
from collections.abc import Sequence

from adapters.common.credentials import Tls
from adapters.common.http import Http
from bridge.adapter import Certainty, Reader
from bridge.errors import IsthmusError

ANSWER_TIME = 5.0  # seconds
WATCHES = re.compile(rb"^etcd_debugging_mvcc_watcher_total (\S+)$", re.M)
READS = re.compile(rb'^grpc_server_started_total\{[^}]*grpc_method="Range"[^}]*\} (\S+)$', re.M)


class Counters:
    """The counters of each member. Each sample is compared with the one before, so that polling shows."""

    def __init__(self, endpoints: Sequence[str], tls: Tls | None) -> None:
        self._members = {url: Http([url], tls=tls) for url in endpoints}
        self._seen: dict[str, tuple[float, float]] = {}  # the time of the last sample, and the reads counted by then

    async def close(self) -> None:
        """Ends every connection."""
        for member in self._members.values():
            await member.close()

    async def readers(self, now: float) -> list[Reader]:
        """One row for each member: all its readers together, this bridge included."""
        return [await self._member(url, http, now) for url, http in self._members.items()]

    async def _member(self, url: str, http: Http, now: float) -> Reader:
        try:
            text = (await http.call("GET", "/metrics", timeout=ANSWER_TIME)).body
        except IsthmusError as error:
            return Reader(who=f"whoever reads {url}", certainty=Certainty.UNKNOWN, evidence=str(error), at=now)
        watches, reads = _sum(WATCHES, text), _sum(READS, text)
        evidence = f"{reads:.0f} reads since it started"
        if url in self._seen:
            then, before = self._seen[url]
            evidence = f"{reads - before:.0f} reads in the {now - then:.0f} s since the last look"
        self._seen[url] = now, reads
        return Reader(
            who=f"{watches:.0f} watches at {url}",
            certainty=Certainty.POSSIBLE,
            evidence=f"its counters, ours among them: {watches:.0f} watches of any prefix, {evidence}",
            at=now,
        )


def _sum(pattern: re.Pattern[bytes], text: bytes) -> float:
    return sum(float(number) for number in pattern.findall(text))
