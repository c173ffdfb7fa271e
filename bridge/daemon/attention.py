"""Since when each trouble lasts, and what an operator has acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from bridge.errors import Unavailable
from bridge.report.attention import KINDS, Finding, Level, attention_row
from bridge.state.table import Table

Row = dict[str, Any]
KEPT = 100  # acknowledgements


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """A trouble that is known: silent until then (seconds since the epoch), or until there is more of it."""

    code: str
    subject: str
    count: int
    until: float
    reason: str
    by: str


class Attention:
    """`found` gives the findings of this moment. With folder None acknowledgements end with the process."""

    def __init__(
        self, found: Callable[[], Iterable[Finding]], folder: Path | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._found = found
        self._clock = clock
        self._since: dict[tuple[str, str], float] = {}
        self._acks = Table(folder / "acks.json" if folder else None, Ack, clock, KEPT)

    def rows(self) -> list[Row]:
        """Everything, what calls for somebody first; `acknowledged` is the Ack in force, None where there is none."""
        now = self._clock()
        found = {(one.code, one.subject): one for one in self._found()}
        self._since = {key: self._since.get(key, now) for key in found}
        rows = [
            {**attention_row(one, self._since[key]), "acknowledged": self._ack(one, now)} for key, one in found.items()
        ]
        return sorted(rows, key=lambda row: (row["acknowledged"] is not None, row["level"] != Level.ACT))

    def open(self) -> list[Row]:
        """What nobody has acknowledged."""
        return [row for row in self.rows() if row["acknowledged"] is None]

    def counts(self) -> dict[tuple[str, str], int]:
        """By code and level, how many subjects are open: 0 for those that are well."""
        found = {(code, str(kind.level)): 0 for code, kind in KINDS.items()}
        for row in self.open():
            found[row["code"], row["level"]] += 1
        return found

    def _ack(self, one: Finding, now: float) -> Row | None:
        ack = self._acks.entries.get(f"{one.code} {one.subject}")
        if ack is None or now >= ack.until or one.count > ack.count:
            return None
        return {"until": ack.until, "reason": ack.reason, "by": ack.by}

    async def acknowledge(self, code: str, subject: str, lasting: float, reason: str, by: str) -> Row:
        """Silences one trouble for so many seconds, or until it grows. Raises LookupError where there is none such."""
        one = next((one for one in self._found() if (one.code, one.subject) == (code, subject)), None)
        if one is None:
            there = ", ".join(sorted(f"{one.code} {one.subject}" for one in self._found())) or "nothing"
            raise LookupError(f"there is no {code} {subject}; there is {there}")
        until = self._clock() + lasting
        ack = Ack(code=code, subject=subject, count=one.count, until=until, reason=reason, by=by)
        self._acks.put(f"{code} {subject}", ack)
        if not await asyncio.to_thread(self._acks.save) and self._acks.fault is not None:
            raise Unavailable(f"not on the disk: {self._acks.fault.reason}; it ends with this process")
        return msgspec.to_builtins(ack)  # type: ignore[no-any-return]
