"""Desired against held, for one name at one destination: what to write, and what would be lost and why; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from bridge.adapter import Cause, Change, Entry
from bridge.link import Link
from bridge.model import Instance, Mark, Place, ServiceName
from bridge.plan.causes import MOMENTARY, TREATMENTS
from bridge.plan.evidence import evidence, upsert_only
from bridge.plan.route import Desired, Wanted
from bridge.plan.values import (
    Gone,
    Held,
    Kind,
    Plan,
    Reason,
    Removal,
    Source,
    World,
    scope_of,
    source_of,
)
from bridge.sources.networks import Places

_REMOVES_NOTHING = Reason(Kind.UPSERT_ONLY, "upsert-only: the link removes nothing")


class _Ground(NamedTuple):
    """What a plan is made from. `foreign`: addresses that others hold, and who they are."""

    name: ServiceName
    goal: Desired
    held: Held
    ours: dict[str, Entry]
    foreign: dict[Place, str]
    world: World


def make_plan(name: ServiceName, goal: Desired, held: Held, world: World) -> Plan:
    """The changes that bring what is held under a name to what is desired."""
    entries = held.entries
    ours = {key: entry for key, entry in entries.items() if entry.mark is not None and entry.mark.owner == held.owner}
    serving = sum(1 for entry in entries.values() if entry.instance.serving)
    plan = Plan(name, [], [], {}, {}, goal.parked, serving)
    if goal.parked:
        plan.kept.update(dict.fromkeys(ours, Reason(Kind.COLLISION, goal.parked)))
        return plan
    foreign = _foreign(entries, held.owner, held.places) if len(ours) < len(entries) else {}
    ground = _Ground(name, goal, held, ours, foreign, world)
    displaced = _bring(ground, plan)
    plan.upserts.extend(
        Change(name, key, Entry(Instance(key, ""), None, version), forget=True) for key, version in held.loose.items()
    )
    if displaced or len(ours) > len(goal.wanted.keys() & ours.keys()):
        _take_away(ground, plan, displaced)
        _spare_the_last(entries, plan.removals, plan.kept)
    return plan


def _bring(ground: _Ground, plan: Plan) -> set[str]:
    """Plans what is wanted; returns the ids that another copy of ours holds, which must go first."""
    entries, foreign, places = ground.held.entries, ground.foreign, ground.held.places
    displaced: set[str] = set()
    for key, wanted in ground.goal.wanted.items():
        entry = entries.get(key)
        if entry is not None and entry.instance is wanted.instance and entry.mark is wanted.mark and not foreign:
            continue
        another = entry is not None and entry.mark is not None and _is_another(entry, entry.mark, wanted, places)
        native = foreign and _native(ground, key, wanted)
        if native:
            plan.shadowed[key] = native
            if another:
                displaced.add(key)
            elif key in ground.ours:
                gone = _yields(ground, ground.ours[key], wanted)
                if isinstance(gone, Reason):
                    plan.kept[key] = gone
                else:
                    plan.removals.append(_removal(ground, key, ground.ours[key], gone))
            continue
        if entry is not None and entry.instance == wanted.instance and entry.mark == wanted.mark:
            continue
        if another:
            displaced.add(key)  # another instance has the id: it goes as every other, or stays
        else:
            _write(ground, plan, key, entry, wanted)
    return displaced


def _write(ground: _Ground, plan: Plan, key: str, entry: Entry | None, wanted: Wanted) -> None:
    """Plans one entry as it is wanted, where its source has said so in this process."""
    mark = wanted.mark
    view = ground.world.view(mark)
    if view is not None and not view.heard(mark.service, mark.instance):
        # What the disk remembers may be older than what another process wrote since.
        text = f"it stays as the disk has it: {view!r} has not listed it since the start: {view.reason or 'unreadable'}"
        plan.kept[key] = Reason(Kind.UNHEARD, text)
        return
    change = Change(ground.name, key, entry, wanted.instance, mark, ttl=_ttl(ground.world.links, mark))
    if entry is None or not entry.instance.serving or wanted.instance.serving:
        plan.upserts.append(change)
    elif wanted.order is not None and wanted.order.stops_serving(wanted.source):
        cause, last = wanted.order.cause, wanted.order.including_last
        change = msgspec.structs.replace(change, cause=cause)
        plan.removals.append(Removal(change, cause, scope_of(mark), loses=True, including_last=last))
    else:
        doubt = view.doubt if view is not None else ""
        plan.removals.append(Removal(change, Cause.HEALTH, scope_of(mark), loses=True, doubt=doubt))


def _take_away(ground: _Ground, plan: Plan, displaced: set[str]) -> None:
    """Plans the removal of what is ours and no longer wanted, or says why it stays."""
    wanted, links = ground.goal.wanted, ground.world.links
    standing = _standing(wanted, ground.held.entries, ground.held.places)
    coming = {source_of(one.mark): key for key, one in wanted.items()}
    for key, entry in ground.ours.items():
        if entry.mark is None or (key in wanted and key not in displaced):
            continue
        gone = _gone(ground, key, entry, entry.mark, standing, coming)
        if (
            isinstance(gone, Reason)
            and entry.mark.link in links
            and not ground.held.places.of(entry.instance, entry.mark).isdisjoint(ground.foreign)
        ):
            gone = Gone(Cause.SHADOWED, scope_of(entry.mark))
        if isinstance(gone, Reason):
            plan.kept[key] = gone
        else:
            plan.removals.append(_removal(ground, key, entry, gone))


def _gone(
    ground: _Ground,
    key: str,
    entry: Entry,
    mark: Mark,
    standing: Standing,
    coming: Mapping[Source, str],
) -> Gone | Reason:
    """Why an entry goes, or why it stays: first what replaces it, then what its source says, then what its link may."""
    own, source = ground.held.places.of(entry.instance, mark), source_of(mark)
    if mark.link in ground.world.links:
        if standing.replaces(own, source, serving=entry.instance.serving):
            return Gone(Cause.REPLACED, scope_of(mark))
        if source in standing.sources:  # its replacement does not serve: that is a loss
            return _lost(ground.world, mark)
    if source in coming:
        return Reason(Kind.COMING, f"it stays until it is written as {coming[source]}")
    gone = evidence(key, mark, ground.goal, ground.world)
    if isinstance(gone, Gone) and gone.cause is Cause.REPLACED:
        return Reason(Kind.COMING, "it stays until what replaces it is written")
    return _REMOVES_NOTHING if isinstance(gone, Gone) and upsert_only(ground.world.links.get(mark.link)) else gone


def _is_another(entry: Entry, mark: Mark, wanted: Wanted, places: Places) -> bool:
    """Whether the entry is another running copy; the same copy from another source is an update (merging)."""
    return source_of(mark) != source_of(wanted.mark) and places.of(entry.instance, mark).isdisjoint(
        places.of(wanted.instance, wanted.mark)
    )


def _yields(ground: _Ground, entry: Entry, wanted: Wanted) -> Gone | Reason:
    """Why an entry goes whose new value a native leaves no room for: its own address may be free, and is lost then."""
    own = ground.held.places.of(entry.instance, entry.mark)
    if not own or not own.isdisjoint(ground.foreign):
        return Gone(Cause.SHADOWED, scope_of(wanted.mark))
    return _lost(ground.world, wanted.mark)


def _lost(world: World, mark: Mark) -> Gone | Reason:
    """An entry goes because its source has another value of that instance now: if it said so in this process."""
    if upsert_only(world.links.get(mark.link)):
        return _REMOVES_NOTHING
    view = world.view(mark)
    if view is None or not view.heard(mark.service, mark.instance):
        return Reason(Kind.UNHEARD, f"it stays as the disk has it: {mark.path[-1]} has not listed it since the start")
    dark = "" if view.up else f"{view!r} does not answer: {view.reason}"
    return Gone(Cause.EVENT, scope_of(mark), view.doubt or dark)


class Standing(NamedTuple):
    """The places and the sources of all that is wanted and there already: their other entries may go.

    `serving_*`: of those that serve. Only these replace an entry that serves, without which traffic would be lost.
    """

    places: set[Place]
    sources: set[Source]
    serving_places: set[Place]
    serving_sources: set[Source]

    def replaces(self, own: frozenset[Place], source: Source, *, serving: bool) -> bool:
        """Whether an entry at these places, a copy of that source's instance, is there under another id."""
        places = self.serving_places if serving else self.places
        return (bool(own) and own <= places) or source in (self.serving_sources if serving else self.sources)


def _standing(wanted: Mapping[str, Wanted], entries: Mapping[str, Entry], places: Places) -> Standing:
    found = Standing(set(), set(), set(), set())
    for key, one in wanted.items():
        entry = entries.get(key)
        if entry is not None and entry.mark is not None and source_of(entry.mark) == source_of(one.mark):
            shared = places.of(entry.instance, entry.mark) & places.of(one.instance, one.mark)
            source = source_of(one.mark)
            found.places.update(shared)
            found.sources.add(source)
            if entry.instance.serving and one.instance.serving:
                found.serving_places.update(shared)
                found.serving_sources.add(source)
    return found


def _foreign(entries: Mapping[str, Entry], owner: str, places: Places) -> dict[Place, str]:
    """Who else holds which address and port, and what else tells entries there apart."""
    return {
        place: f"{':'.join(map(str, place[:2]))}{_finer(place)} belongs to {_whose(entry)}, {key}"
        for key, entry in entries.items()
        if entry.mark is None or entry.mark.owner != owner
        for place in places.of(entry.instance, entry.mark) or [("", 0)]
    }


def _finer(place: Place) -> str:
    more = ", ".join(str(word) for word in place[2:] if word)
    return f" ({more})" if more else ""


def _native(ground: _Ground, key: str, wanted: Wanted) -> str:
    """Who holds the id or a place of what is wanted, "" if nobody else does."""
    entry, places = ground.held.entries.get(key), ground.held.places.of(wanted.instance, wanted.mark)
    if entry is not None and (entry.mark is None or entry.mark.owner != ground.held.owner):
        return f"the id {key} belongs to {_whose(entry)}"
    return next((ground.foreign[place] for place in places if place in ground.foreign), "")


def _whose(entry: Entry) -> str:
    return f"the bridge {entry.mark.owner}" if entry.mark else "a native"


def _spare_the_last(entries: Mapping[str, Entry], removals: list[Removal], kept: dict[str, Reason]) -> None:
    """The last serving instances of a service are never withdrawn for their health; they stand with it if they can."""
    ill = {removal.change.id: removal for removal in removals if removal.withdraws}
    if not ill:
        return
    going = {removal.change.id for removal in removals}
    if any(entry.instance.serving for key, entry in entries.items() if key not in going):
        return
    removals[:] = [removal for removal in removals if removal.change.id not in ill] + [
        removal._replace(change=removal.instead, instead=None)
        for removal in ill.values()
        if removal.instead is not None
    ]
    kept.update(dict.fromkeys(ill, Reason(Kind.LAST, "unhealthy, and kept: nothing else serves")))


def _removal(ground: _Ground, key: str, entry: Entry, gone: Gone) -> Removal:
    change = Change(ground.name, key, entry, None, entry.mark, gone.cause)
    loses = entry.instance.serving and TREATMENTS[gone.cause].loses
    instead = None
    if gone.cause is Cause.HEALTH and (ill := ground.goal.ill.get(key)) is not None and entry.instance != ill.instance:
        ttl = _ttl(ground.world.links, ill.mark)
        instead = Change(ground.name, key, entry, ill.instance, ill.mark, Cause.HEALTH, ttl=ttl)
    reused = ground.world.elsewhere(entry, ground.name) if TREATMENTS[gone.cause].asks else ""
    return Removal(change, gone.cause, gone.scope, loses, gone.doubt, instead, reused, gone.including_last)


def _ttl(links: Mapping[str, Link], mark: Mark) -> int | None:
    link = links.get(mark.link)
    return link.ttl if link else None


def settled_causes(plan: Plan, known: Mapping[str, Wanted], causes: Mapping[str, Cause]) -> dict[str, Cause]:
    """The entries, by id, that are not wanted any more because of a change of their own, not because of the file.

    The source still has them, and the routes refuse them: an entry that was wanted under this very configuration (it is
    in `known`, as a copy of the same instance) has left a link's `where` by an event. Nothing else is remembered: what
    a source lacked for a while and has again goes by what the file says now.
    """
    found = {}
    for removal in plan.removals:
        key = removal.change.id
        if (removal.cause is Cause.CONFIG and _was_wanted(removal, known.get(key))) or (
            key in causes and removal.cause in (*MOMENTARY, Cause.EVENT)
        ):
            found[key] = Cause.EVENT
    return found


def _was_wanted(removal: Removal, wanted: Wanted | None) -> bool:
    """Whether what was wanted under that id is what goes: another instance may have the id by the changed file.

    What is only marked is wanted all the time, as the file has it.
    """
    mark = removal.change.mark
    if wanted is None or mark is None or removal.change.after is not None:
        return False
    return source_of(wanted.mark) == source_of(mark)


def with_causes(plan: Plan, causes: Mapping[str, Cause]) -> Plan:
    """The plan with the causes that are remembered, in place of what looks like a changed file."""
    return plan._replace(
        removals=[
            one._replace(cause=cause, change=msgspec.structs.replace(one.change, cause=cause))
            if one.cause is Cause.CONFIG and (cause := causes.get(one.change.id)) is not None
            else one
            for one in plan.removals
        ]
    )
