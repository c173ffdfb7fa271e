"""When the `complete` records of a scope are due, and what they say; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from adapters.kafka.working_copy import Scope, WorkingCopy
from bridge.adapter import Whole
from mappings import kafka as mapping
from mappings.kafka import Complete


class Completes:
    """What the writer has to say of the scopes that it holds whole, from the first word of its term on.

    A generation is one more whenever the writer has listed the scope anew; where a new writer finds the topic as it
    should be, and has written nothing of the scope, it goes on with the generation that is there.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._said: dict[str, Whole] = {}  # by the scope's name: what its last generation was for
        self._touched: set[tuple[Scope, int]] = set()  # partitions that were written since their last `complete`
        self._written: set[Scope] = set()  # scopes that this process wrote to before they were whole

    def wrote(self, scope: Scope | None, partition: int) -> None:
        """A record of that scope was written."""
        if scope is not None:
            self._touched.add((scope, partition))
            self._written.add(scope)

    def due(self, scopes: Iterable[Whole], copy: WorkingCopy) -> list[Complete]:
        """What is to be said because these scopes were listed, or are whole for the first time."""
        return [one for whole in sorted(scopes, key=name_of) for one in self._due(whole, copy)]

    def audits(self, scopes: Iterable[Whole], copy: WorkingCopy) -> list[Complete]:
        """The same again, without a new generation, where something has changed since."""
        found: list[Complete] = []
        for whole in sorted(scopes, key=name_of):
            there = copy.whole(name_of(whole))
            if there is not None and whole == self._said.get(name_of(whole)):
                parts = [number for number in range(copy.partitions) if (_scope(whole), number) in self._touched]
                found += self._made(whole, copy, there.generation, parts)
        return found

    def said(self, complete: Complete) -> None:
        """It was written."""
        self._touched.discard((Scope(complete.picture, complete.identity, complete.part), complete.partition))

    def settled(self, scopes: Iterable[Whole]) -> None:
        """All that was due for these is said."""
        for whole in scopes:
            self._said[name_of(whole)] = whole
            self._written.discard(_scope(whole))

    def _due(self, whole: Whole, copy: WorkingCopy) -> Iterator[Complete]:
        name = name_of(whole)
        there = copy.whole(name)
        if there is not None and self._said.get(name) == whole:
            return
        same = (
            there is not None
            and name not in self._said
            and (there.identity, there.incarnation) == (whole.identity, whole.incarnation)
            and _scope(whole) not in self._written
        )
        if not same:
            last = max((one.generation for one in copy.completes(name).values()), default=0)
            yield from self._made(whole, copy, last + 1, range(copy.partitions))

    def _made(self, whole: Whole, copy: WorkingCopy, generation: int, parts: Iterable[int]) -> Iterator[Complete]:
        for partition in parts:
            total = copy.total(_scope(whole), partition)
            yield Complete(
                scope=name_of(whole),
                picture=whole.picture,
                registry=whole.registry,
                part=whole.scope,
                identity=whole.identity,
                incarnation=whole.incarnation,
                generation=generation,
                partition=partition,
                partitions=copy.partitions,
                count=total.records,
                digest=f"{total.digest:016x}",
                sequence=copy.sequence,
                owner=self._owner,
            )


def name_of(whole: Whole) -> str:
    """By what name readers know the scope."""
    return mapping.scope_name(whole.picture, whole.registry, whole.scope)


def _scope(whole: Whole) -> Scope:
    return Scope(whole.picture, whole.identity, whole.scope)
