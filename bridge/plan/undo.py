"""What puts back what a link changed of late, as far as nobody has changed it since; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from bridge.adapter import Cause, Change, Entry
from bridge.model import Instance, Mark, ServiceName
from bridge.plan.adopt import Left
from bridge.sources.scrub import disclosed


class Step(NamedTuple):
    """One change that was made, as the journal has it."""

    service: ServiceName
    id: str
    before: Instance | None
    after: Instance | None
    mark: Mark | None


class Undo(NamedTuple):
    """What would be written; what of it its source names no more, so that only a probe can say whether it lives."""

    changes: list[Change]
    unnamed: list[Change]
    left: list[Left]


def plan_undo(
    steps: Iterable[Step],
    entries: Mapping[ServiceName, Mapping[str, Entry]],
    owner: str,
    names: Callable[[Mark], bool],
    ttl: int | None = None,
) -> Undo:
    """From steps, the oldest first, to what stood before them. `names(mark)`: whether the source has it now."""
    first: dict[tuple[ServiceName, str], Step] = {}
    last: dict[tuple[ServiceName, str], Step] = {}
    for step in steps:
        first.setdefault((step.service, step.id), step)
        last[step.service, step.id] = step
    undo = Undo([], [], [])
    for (service, id), begun in sorted(first.items()):
        ended, standing = last[service, id], entries.get(service, {})
        now, then = standing.get(id), begun.before
        mark = now.mark if now is not None and now.mark is not None else begun.mark
        if then == ended.after or mark is None:
            continue
        if why := _changed_since(now, ended, mark, owner) or _taken(then, id, standing, owner):
            undo.left.append(Left(service, id, why))
            continue
        change = Change(service, id, now, then, mark, Cause.OPERATOR, ttl)
        (undo.changes if then is None or names(mark) else undo.unnamed).append(change)
    return undo


def spared(undo: Undo, entries: Mapping[ServiceName, Mapping[str, Entry]]) -> Undo:
    """Without what would leave nothing of a service that serves now."""
    kept, left = [], list(undo.left)
    for change in undo.changes:
        mine = {each.id: each.after for each in undo.changes if each.service == change.service}
        standing = {id: entry.instance for id, entry in entries.get(change.service, {}).items()}
        serves = any(one is not None and one.serving for one in {**standing, **mine}.values())
        if serves or not any(one.serving for one in standing.values()):
            kept.append(change)
        else:
            left.append(Left(change.service, change.id, "nothing of the service would serve"))
    return Undo(kept, undo.unnamed, left)


def _changed_since(now: Entry | None, ended: Step, mark: Mark, owner: str) -> str:
    """Why what stands is not what the journal says was written last, "" if it is."""
    if mark.owner != owner or (now is not None and now.mark is None):
        return "it is not ours any more"
    if now is None:
        return "" if ended.after is None else "it is gone: somebody else removed it"
    if ended.after is None or disclosed(now.instance) != ended.after:
        return "it was changed since, and not by what the journal has"
    return ""


def _taken(then: Instance | None, id: str, standing: Mapping[str, Entry], owner: str) -> str:
    """Whether another holds the address that it had (safety rule 6)."""
    for other, entry in standing.items() if then is not None else ():
        foreign = entry.mark is None or entry.mark.owner != owner
        if then is not None and other != id and foreign and then.sockets() & entry.instance.sockets():
            return f"{other} holds its address now, and is not ours"
    return ""
