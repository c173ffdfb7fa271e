"""What became of one instance by a moment, and why: one story, put together from lines of the journal; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from bridge.guard.gate import Freed
from bridge.model import ServiceName
from bridge.report.values import Row
from bridge.sources.view import Told
from bridge.state.record import STANDBY, START, WRITER, Record

DONE = ("add", "update", "remove", "forget", "taken")  # what changed an entry
KEPT = ("hold", "release", "park", "shadow")  # what kept it from being changed
FILE = (START, "config")  # lines with the hash of the file that runs from then on
BESIDE = (*FILE, WRITER, STANDBY, "approve")  # lines of no instance that a story needs

FREED = {
    Freed.LIMITS: "it is within the limits",
    Freed.OPINION: "its source, asked once more, agreed",
    Freed.APPROVAL: "an operator approved the set",
    Freed.EXPECTED: "an operator had stated the loss",
}
SAID = {(True, False): "registered", (False, False): "changed", (False, True): "gone"}


class Line(NamedTuple):
    """A line, and whose it is: host and state folder."""

    record: Record
    daemon: str


def is_about(record: Record, subject: str) -> bool:
    """Whether a line is about SERVICE/INSTANCE, at its source or at a destination, with or without the namespace."""
    mark = record.mark
    named = [(record.service, record.instance), *([(str(mark.service), mark.instance)] if mark is not None else [])]
    return any(
        subject in (f"{service}/{instance}", f"{ServiceName.parse(service).name}/{instance}")
        for service, instance in named
        if service and instance
    )


def story(lines: Iterable[Line], subject: str, at: float) -> list[Row]:
    """What a destination had of SERVICE/INSTANCE at that time (seconds since the epoch): one story a destination.

    `lines`: in their order. A row has `at`, `step`, `to`, `what`, `why` for people, and the `line` itself. A story
    begins with the file and the writer, then has what the source said, what was held and approved, and what was done.
    """
    before = [line for line in lines if line.record.at <= at]
    mine = [line for line in before if is_about(line.record, subject)]
    rows: list[Row] = []
    for to in sorted({line.record.destination for line in mine if line.record.destination}):
        rows += _story(before, [line for line in mine if line.record.destination == to], to)
    return rows or [_row(line, "") for line in mine if line.record.kind == Told.OBSERVED][-1:]


def _story(before: list[Line], mine: list[Line], to: str) -> Iterator[Row]:
    done = max((n for n, line in enumerate(mine) if line.record.kind in DONE), default=-1)
    earlier = max((n for n, line in enumerate(mine[: max(done, 0)]) if line.record.kind in DONE), default=-1)
    kept = [line for line in mine[earlier + 1 :] if line.record.kind in KEPT]
    acts = [mine[done]] if done >= 0 else []
    last = max((*acts, *kept), key=_place)
    yield from _frame(before, last, to)
    said = [_said_before(before, each) for each in (*acts, last)]
    chosen = {_place(line): line for line in (*filter(None, said), *kept, *_approvals(before, [*acts, *kept]), *acts)}
    for place in sorted(chosen):
        yield _row(chosen[place], to)


def _place(line: Line) -> tuple[float, int, str]:
    return line.record.at, line.record.seq, line.daemon


def _said_before(before: list[Line], done: Line) -> Line | None:
    """What its source had said last of what an entry is a copy of."""
    found = [line for line in before if _place(line) <= _place(done) and _is_source_of(line.record, done.record)]
    return found[-1] if found else None


def _is_source_of(told: Record, done: Record) -> bool:
    """Whether a source said that of what an entry is a copy of."""
    mark = done.mark
    if told.kind != Told.OBSERVED:
        return False
    if mark is None:
        return told.instance == done.instance
    return (told.service, told.instance) == (str(mark.service), mark.instance)


def _frame(before: list[Line], last: Line, to: str) -> Iterator[Row]:
    """The file that ran at the daemon that did it, and the term in which it did."""
    own = [line for line in before if line.daemon == last.daemon and _place(line) <= _place(last)]
    files = [line for line in own if line.record.kind in FILE and line.record.file]
    terms = [line for line in own if line.record.kind == WRITER and line.record.destination == to]
    for line in (*files[-1:], *terms[-1:]):
        yield _row(line, to)


def _approvals(before: list[Line], mine: list[Line]) -> Iterator[Line]:
    """Who approved the set that a removal was in."""
    holds = {line.record.hold for line in mine if line.record.hold}
    yield from (line for line in before if line.record.kind == "approve" and line.record.hold in holds)


def _row(line: Line, to: str) -> Row:
    record = line.record
    step, what, why = _told(line)
    return {
        "at": record.at,
        "step": step,
        "to": to,
        "what": what,
        "why": why,
        "line": {**msgspec.to_builtins(record), "daemon": line.daemon},
    }


def _told(line: Line) -> tuple[str, str, str]:
    """Step, what and why."""
    record = line.record
    position = f" at revision {record.revision}" if record.revision else ""
    if record.kind in FILE:
        return "file", f"{record.file}, isthmus {record.version}", record.reason
    if record.kind == WRITER:
        return "writer", line.daemon, record.reason
    if record.kind == Told.OBSERVED:
        said = SAID[record.before is None, record.after is None]
        where = "/".join(filter(None, (record.registry, record.scope[1])))
        return "source", f"{where}: {record.service}/{record.instance} {said}{position}", record.cause
    if record.kind == "approve":
        return "approved", record.hold, f"{record.by}: {record.reason}"
    if record.kind in DONE:
        serving = f"{record.serving[0]} -> {record.serving[1]} serving" if any(record.serving) else ""
        origin = f"from {record.mark.path[0]}{position}" if record.mark is not None and record.mark.path else ""
        return record.kind, " ".join(filter(None, (origin, serving))), _ground(record)
    return record.kind, f"{record.service}/{record.instance}", " ".join(filter(None, (record.cause, record.reason)))


def _ground(record: Record) -> str:
    freed = FREED[Freed(record.freed)] if record.freed else ""
    if record.hold:
        freed = f"{freed} {record.hold}"
    return "; ".join(filter(None, (record.cause, freed, record.rule, record.reason)))
