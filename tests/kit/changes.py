"""The log of a stream as a reader judges it: what it says twice, out of order, or with something left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

PREFIX = "io.isthmus."
OBSERVED = "observed"


class Told(NamedTuple):
    """One event, as its first record says it. `kind` and `line`: of the journal that it comes from."""

    sequence: int
    id: str
    partition: int
    type: str
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.data["kind"])

    @property
    def line(self) -> tuple[str, int]:
        return self.data["daemon"], self.data["number"]

    @property
    def instance(self) -> tuple[str, str]:
        return self.data["service"], self.data["instance"]


def told(records: Iterable[Any]) -> tuple[list[Told], list[str]]:
    """The events by their sequence, each once; and what is wrong with the records that repeat one."""
    found: dict[str, tuple[Told, Any]] = {}
    last: dict[int, int] = {}
    faults = []
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        said = {name: text.decode() for name, text in record.headers}
        one = Told(
            int(said["ce_sequence"]),
            said["ce_id"],
            record.partition,
            said["ce_type"].removeprefix(PREFIX),
            json.loads(record.value),
        )
        first = found.setdefault(one.id, (one, record))[1]
        if first is record:
            if one.sequence <= last.get(record.partition, 0):
                faults.append(f"{one} comes after sequence {last[record.partition]}")
            last[record.partition] = one.sequence
        # What a registry said has one id whoever heard it, so that who heard it may differ.
        if (_what(first), first.key) != (_what(record), record.key):
            faults.append(f"{one.id} says two things: {first.value!r} and {record.value!r}")
    return sorted(one for one, _ in found.values()), faults


def _what(record: Any) -> dict[str, Any]:
    data = json.loads(record.value)
    return {k: v for k, v in data.items() if data["kind"] != OBSERVED or k not in ("daemon", "number")}


def terms(events: Iterable[Told]) -> Iterator[list[Told]]:
    """The events in parts: each begins where what lay before is said to be unknown."""
    part: list[Told] = []
    for one in events:
        if one.kind == "resynced" and any(each.kind != "resynced" for each in part):
            yield part
            part = []
        part.append(one)
    yield part


def broken(events: Iterable[Told]) -> list[str]:
    """Within one part: where an instance is not, before a change, what it was after the last one; or goes back."""
    last: dict[tuple[str, str], Told] = {}
    faults = []
    for one in events:
        if one.kind != OBSERVED:
            continue
        before = last.get(one.instance)
        if before is not None and before.data.get("after") != one.data.get("before"):
            faults.append(f"{one.instance}: something is left out between {before} and {one}")
        if before is not None and before.data.get("revision", 0) >= one.data.get("revision", 1):
            faults.append(f"{one.instance}: {one} comes after {before}")
        last[one.instance] = one
    return faults


def disordered(events: Iterable[Told]) -> list[str]:
    """Of one daemon the lines of a partition are in their order, and no line is told as two events."""
    last: dict[tuple[str, int], int] = {}
    lines: dict[tuple[str, int], str] = {}
    faults = []
    for one in events:
        daemon, number = one.line
        if one.kind == "resynced":  # told by the stream, and no line of a journal
            continue
        if number <= last.get((daemon, one.partition), 0):
            faults.append(f"{one} comes after line {last[daemon, one.partition]}")
        last[daemon, one.partition] = number
        if lines.setdefault(one.line, one.id) != one.id:
            faults.append(f"{one.line} is told as {lines[one.line]} and as {one.id}")
    return faults
