"""From records to services: each record by itself, so that one that makes no sense holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec

import msgspec

from bridge.adapter import Entry, Observed
from bridge.errors import Stray, Undecodable
from bridge.model import Instance, Mark, Service, ServiceName

REASONS = 100  # records that cannot be read of which the reason is kept
EVERY = "*"  # in `Observed.unreadable`: nothing of the service can be read
P = ParamSpec("P")
UNKNOWN = Mark(owner="", link="", path=(), scope="", service=ServiceName(""), instance="")  # of an unreadable ledger


class Record(msgspec.Struct, frozen=True, gc=False):
    """What one record says. `instance` None: nobody can read it, or who wrote it, and `why`.

    `stray`: its key may be of the layout and its value is not; it stands for no instance.
    """

    instance: Instance | None
    mark: Mark | None = None
    why: str = ""
    stray: bool = False


def decoded(mark: Mark | None, decode: Callable[P, Instance], *record: P.args, **said: P.kwargs) -> Record:
    """One record by its layout's `decode`, whatever a mapping does with it."""
    try:
        return Record(decode(*record, **said), mark)
    except Stray as error:
        return Record(None, mark, str(error), stray=mark is None)
    except Undecodable as error:
        return Record(None, mark, str(error))
    except Exception as bug:
        return Record(None, mark, f"a bug in the mapping: {bug!r}")


def entry(id: str, record: Record | None, version: Any, *, ledgered: bool) -> Entry:
    """What a destination holds there: what cannot be read is an instance without an address.

    `ledgered`: a bridge wrote it, which counts also where its mark cannot be read.
    """
    instance = record.instance if record is not None else None
    mark = record.mark if record is not None else None
    return Entry(instance or Instance(id, ""), UNKNOWN if mark is None and ledgered else mark, version)


def observed(name: ServiceName, records: Mapping[str, Record | None], revision: int = 0) -> Observed:
    """A service of which these are all the records, by id; None: there is none."""
    return _with(Observed(Service(name)), records, revision)


def changed(before: Observed, records: Mapping[str, Record | None], revision: int = 0) -> Observed | None:
    """The service after some of its records were read again; None: it is as it was."""
    after = _with(before, records, revision)
    return after if differ(before, after) else None


def differ(one: Observed, other: Observed) -> bool:
    """Whether two observations of a service say different things."""
    return one.service != other.service or one.unreadable != other.unreadable


def _with(before: Observed, records: Mapping[str, Record | None], revision: int) -> Observed:
    instances, marks = before.service.instances.copy(), before.service.marks.copy()
    unreadable = set(before.unreadable)
    for id, record in records.items():
        instances.pop(id, None)
        marks.pop(id, None)
        unreadable.discard(id)
        if record is None:
            continue
        if record.instance is None:
            if not record.stray:
                unreadable.add(id)
            continue
        instances[id] = record.instance
        if record.mark is not None:
            marks[id] = record.mark
    return Observed(Service(before.service.name, instances, marks), frozenset(unreadable), revision)


class Ignored(Mapping[str, str]):
    """The reasons of the records that cannot be read, by their place in the store: the latest `REASONS` of them."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def __getitem__(self, place: str) -> str:
        return self._reasons[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reasons)

    def __len__(self) -> int:
        return len(self._reasons)

    def put(self, place: str, reason: str) -> None:
        """This one cannot be read."""
        self._reasons.pop(place, None)
        while len(self._reasons) >= REASONS:
            del self._reasons[next(iter(self._reasons))]
        self._reasons[place] = reason

    def pass_over(self, place: str, reason: str) -> None:
        """This one is not of the layout: it is named where there is room, and pushes out nothing that is."""
        if len(self._reasons) < REASONS:
            self._reasons[place] = reason

    def drop(self, place: str) -> None:
        """This one can be read, or is gone."""
        if self._reasons:
            self._reasons.pop(place, None)

    def clear(self) -> None:
        """Everything is listed anew."""
        self._reasons.clear()
