"""Desired against held, for one name at one destination: what to write, and what would be lost and why; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from bridge.adapter import Cause, Change, Entry
from bridge.link import Link, Policy
from bridge.model import Instance, Mark, ServiceName
from bridge.route import Desired, Wanted
from bridge.store import EVERY_ID, View

MOMENTARY = (Cause.REPLACED, Cause.SHADOWED)  # nothing is lost by these, as long as they are true
LEFT = ("upsert-only: ", "orphan: ")  # the beginnings of the reasons for which what has ended stands for ever
Scope = tuple[str, str]  # (identity, scope): the part of the world that an entry came from
Source = tuple[str, str, ServiceName, str]  # that, with the service and the instance there


class Removal(NamedTuple):
    """One change that takes something away, for the guard to judge. `loses`: a serving instance stops serving.

    `doubt`: why its cause is not believed without the operator, "" if it is.
    """

    change: Change
    cause: Cause
    scope: Scope
    loses: bool
    doubt: str = ""


class Plan(NamedTuple):
    """What to do under one name. `kept`: ours, wanted no more, and left standing, each with the reason."""

    name: ServiceName
    upserts: list[Change]
    removals: list[Removal]
    shadowed: dict[str, str]
    kept: dict[str, str]
    parked: str
    serving: int  # entries that serve there now, whoever owns them

    @property
    def quiet(self) -> bool:
        """Nothing to do."""
        return not (self.upserts or self.removals)

    def ends_with(self, upserts: int) -> bool:
        """Whether there is nothing left to do, and nothing to say, once so many upserts are made."""
        return upserts == len(self.upserts) and not (self.removals or self.shadowed or self.kept)


class Gone(NamedTuple):
    """Why an entry of ours is no longer wanted."""

    cause: Cause
    scope: Scope
    doubt: str = ""


class Ground(NamedTuple):
    """What a plan is made from: what is desired under a name, what is held there, and who may say what became of it."""

    name: ServiceName
    goal: Desired
    entries: Mapping[str, Entry]
    ours: dict[str, Entry]
    owner: str
    foreign: dict[tuple[str, int], str]  # addresses that others hold
    links: Mapping[str, Link]
    views: list[View]
    causes: Mapping[str, Cause]


def make_plan(
    name: ServiceName,
    goal: Desired,
    entries: Mapping[str, Entry],
    loose: Mapping[str, object],
    owner: str,
    links: Mapping[str, Link],
    views: Iterable[View],
    causes: Mapping[str, Cause],
) -> Plan:
    """The changes that bring what is held under a name to what is desired.

    `causes`: what was found before to be the cause of an entry's removal, by entry id; a cause once found stands.
    """
    ours = {key: entry for key, entry in entries.items() if entry.mark is not None and entry.mark.owner == owner}
    serving = sum(1 for entry in entries.values() if entry.instance.serving)
    plan = Plan(name, [], [], {}, {}, goal.parked, serving)
    if goal.parked:
        plan.kept.update(dict.fromkeys(ours, goal.parked))
        return plan
    foreign = _foreign(entries, owner) if len(ours) < len(entries) else {}
    ground = Ground(name, goal, entries, ours, owner, foreign, links, list(views), causes)
    displaced = _bring(ground, plan)
    plan.upserts.extend(
        Change(name, key, Entry(Instance(key, ""), None, version), forget=True) for key, version in loose.items()
    )
    if displaced or len(ours) > len(goal.wanted.keys() & ours.keys()):
        _take_away(ground, plan, displaced)
    _spare_the_last(name, entries, plan.removals, plan.kept)
    return plan


def _bring(ground: Ground, plan: Plan) -> set[str]:
    """Plans what is wanted; returns the ids at which another copy of ours stands, which must go first."""
    name, entries, foreign, links, views = ground.name, ground.entries, ground.foreign, ground.links, ground.views
    displaced: set[str] = set()
    for key, wanted in ground.goal.wanted.items():
        entry = entries.get(key)
        if entry is not None and entry.instance is wanted.instance and entry.mark is wanted.mark and not foreign:
            continue
        another = entry is not None and entry.mark is not None and _is_another(entry, entry.mark, wanted)
        native = foreign and _native(foreign, entries, key, wanted.instance, ground.owner)
        if native:
            plan.shadowed[key] = native
            if another:
                displaced.add(key)
            elif key in ground.ours:
                gone = _yields(ground.ours[key], foreign, wanted, links, views)
                plan.removals.append(_removal(name, key, ground.ours[key], gone, links))
            continue
        if entry is not None and entry.instance == wanted.instance and entry.mark == wanted.mark:
            continue
        if another:
            displaced.add(key)  # another instance has the id: it goes as every other, or stays
            continue
        view = _view(views, links, wanted.mark)
        if view is not None and not view.heard(wanted.mark.service, wanted.mark.instance):
            # What the disk remembers may be older than what another process wrote since.
            plan.kept[key] = f"what is known of it is old, {view!r} has not told it anew: {view.reason or 'unreadable'}"
            continue
        change = Change(name, key, entry, wanted.instance, wanted.mark, ttl=_ttl(links, wanted.mark))
        if entry is not None and entry.instance.serving and not wanted.instance.serving:
            doubt = view.doubt if view is not None else ""
            plan.removals.append(Removal(change, Cause.HEALTH, _scope(wanted.mark), loses=True, doubt=doubt))
        else:
            plan.upserts.append(change)
    return displaced


def _take_away(ground: Ground, plan: Plan, displaced: set[str]) -> None:
    """Plans the removal of what is ours and wanted no more, or says why it stays."""
    wanted, links = ground.goal.wanted, ground.links
    standing = _standing(wanted, ground.entries)
    coming = {source_of(one.mark): key for key, one in wanted.items()}
    for key, entry in ground.ours.items():
        if entry.mark is None or (key in wanted and key not in displaced):
            continue
        gone = _gone(ground, key, entry, entry.mark, standing, coming)
        if (
            isinstance(gone, str)
            and entry.mark.link in links
            and not entry.instance.sockets().isdisjoint(ground.foreign)
        ):
            gone = Gone(Cause.SHADOWED, _scope(entry.mark))
        if isinstance(gone, str):
            plan.kept[key] = gone
        else:
            plan.removals.append(_removal(ground.name, key, entry, gone, links))


def _gone(
    ground: Ground,
    key: str,
    entry: Entry,
    mark: Mark,
    standing: tuple[set[tuple[str, int]], set[Source]],
    coming: Mapping[Source, str],
) -> Gone | str:
    """Why an entry goes, or why it stays: first what replaces it, then what its source says, then what its link may."""
    own, source = entry.instance.sockets(), source_of(mark)
    sockets, sources = standing
    if mark.link in ground.links and ((own and own <= sockets) or source in sources):
        return Gone(Cause.REPLACED, _scope(mark))
    if source in coming:
        return f"stands until it is written as {coming[source]}"
    gone = _evidence(ground.name, key, mark, ground.goal, ground.links, ground.views, ground.causes)
    if isinstance(gone, Gone) and gone.cause is Cause.REPLACED:
        return "stands until what replaces it is written"
    if isinstance(gone, Gone) and _upsert_only(ground.links, mark):
        return "upsert-only: the link removes nothing"
    return gone


def _evidence(
    name: ServiceName,
    key: str,
    mark: Mark,
    goal: Desired,
    links: Mapping[str, Link],
    views: list[View],
    causes: Mapping[str, Cause],
) -> Gone | str:
    """Why an entry is not wanted any more, or why that cannot be said and it stays (rules 2 and 3)."""
    link = links.get(mark.link)
    if link is None:
        return f"orphan: no link {mark.link!r} leads here; it goes by `isthmus purge --orphans` only"
    scope = _scope(mark)
    view = _view(views, links, mark)
    if view is None:
        mine = [view for view in views if view.registry in link.from_]
        silent = [repr(view) for view in mine if not view.synced]
        if silent or not mine:
            return f"its source {mark.path[-1]} has not been heard in this process"
        answering = ", ".join(sorted(view.identity for view in mine))
        return Gone(Cause.ABSENCE, scope, f"its source {mark.path[-1]} answers no more; there is {answering}")
    if not view.synced:
        return f"{view!r} has not listed everything in this process: {view.reason}"
    # While it is dark, what it said may be over: what went may be back, and nobody would tell.
    dark = "" if view.up else f"{view!r} does not answer: {view.reason}"
    service = view.services.get(mark.service)
    if service is not None and mark.instance in service.instances:
        refusal = goal.refused.get((view.registry, view.scope, mark.service, mark.instance))
        if refusal is not None and refusal.parked:
            return f"parked: {refusal.reason}"
        cause = refusal.cause if refusal is not None else Cause.CONFIG
        # It is there, so whatever ended it before is undone; only what the file says is told from what its source says.
        return Gone(causes.get(key, cause) if cause is Cause.CONFIG else cause, scope, view.doubt or dark)
    unreadable = view.unreadable.get(mark.service, ())
    if mark.instance in unreadable or EVERY_ID in unreadable:
        return f"its record in {view!r} cannot be read"
    if view.ended(mark.service, mark.instance):
        return Gone(Cause.EVENT, scope, dark)
    empty = "" if view.services else f"{view!r} lists nothing at all"
    return Gone(Cause.ABSENCE, scope, view.doubt or dark or empty)


def _is_another(entry: Entry, mark: Mark, wanted: Wanted) -> bool:
    """Whether the entry is another running copy; the same copy by another source's word is an update (merging)."""
    return source_of(mark) != source_of(wanted.mark) and not entry.instance.sockets() & wanted.instance.sockets()


def _view(views: Iterable[View], links: Mapping[str, Link], mark: Mark) -> View | None:
    """The view of the scope that an entry came from, among those that its link reads."""
    registries, identity, scope = links[mark.link].from_, mark.path[-1], mark.scope
    for view in views:
        if view.identity == identity and view.scope == scope and view.registry in registries:
            return view
    return None


def _yields(
    entry: Entry,
    foreign: Mapping[tuple[str, int], str],
    wanted: Wanted,
    links: Mapping[str, Link],
    views: list[View],
) -> Gone:
    """Why an entry goes whose new value a native leaves no room for: its own address may be free, and is lost then."""
    own = entry.instance.sockets()
    if not own or not own.isdisjoint(foreign):
        return Gone(Cause.SHADOWED, _scope(wanted.mark))
    view = _view(views, links, wanted.mark)
    return Gone(Cause.EVENT, _scope(wanted.mark), view.doubt if view is not None else "")


def _standing(wanted: Mapping[str, Wanted], entries: Mapping[str, Entry]) -> tuple[set[tuple[str, int]], set[Source]]:
    """The addresses and the sources of all that is wanted and stands there already: their other entries may go."""
    sockets: set[tuple[str, int]] = set()
    sources: set[Source] = set()
    for key, one in wanted.items():
        entry = entries.get(key)
        if entry is not None and entry.mark is not None and source_of(entry.mark) == source_of(one.mark):
            sockets |= entry.instance.sockets() & one.instance.sockets()
            sources.add(source_of(one.mark))
    return sockets, sources


def _foreign(entries: Mapping[str, Entry], owner: str) -> dict[tuple[str, int], str]:
    """Who else holds which address and port."""
    return {
        socket: f"{socket[0]}:{socket[1]} is held by {_whose(entry)} as {key}"
        for key, entry in entries.items()
        if entry.mark is None or entry.mark.owner != owner
        for socket in entry.instance.sockets() or [("", 0)]
    }


def _native(
    foreign: dict[tuple[str, int], str], entries: Mapping[str, Entry], key: str, instance: Instance, owner: str
) -> str:
    entry = entries.get(key)
    if entry is not None and (entry.mark is None or entry.mark.owner != owner):
        return f"the id {key} is held by {_whose(entry)}"
    return next((foreign[socket] for socket in instance.sockets() if socket in foreign), "")


def _whose(entry: Entry) -> str:
    return f"the bridge {entry.mark.owner}" if entry.mark else "a native"


def _spare_the_last(
    name: ServiceName, entries: Mapping[str, Entry], removals: list[Removal], kept: dict[str, str]
) -> None:
    """The last serving instances of a service are never withdrawn for their health."""
    ill = {removal.change.id for removal in removals if removal.cause is Cause.HEALTH and removal.change.after is None}
    if not ill:
        return
    going = {removal.change.id for removal in removals}
    if any(entry.instance.serving for key, entry in entries.items() if key not in going):
        return
    removals[:] = [removal for removal in removals if removal.change.id not in ill]
    kept.update(dict.fromkeys(ill, "unhealthy, and kept: nothing else serves"))


def _removal(name: ServiceName, key: str, entry: Entry, gone: Gone, links: Mapping[str, Link]) -> Removal:
    change = Change(name, key, entry, None, entry.mark, gone.cause)
    loses = entry.instance.serving and gone.cause not in MOMENTARY
    return Removal(change, gone.cause, gone.scope, loses, gone.doubt)


def _scope(mark: Mark) -> Scope:
    return mark.path[-1], mark.scope


def source_of(mark: Mark) -> Source:
    """Which instance of which registry an entry is a copy of."""
    return mark.path[-1], mark.scope, mark.service, mark.instance


def _ttl(links: Mapping[str, Link], mark: Mark) -> int | None:
    link = links.get(mark.link)
    return link.ttl if link else None


def _upsert_only(links: Mapping[str, Link], mark: Mark) -> bool:
    link = links.get(mark.link)
    return link is not None and link.policy is Policy.UPSERT_ONLY


def settled_causes(plan: Plan, known: Mapping[str, Wanted], causes: Mapping[str, Cause]) -> dict[str, Cause]:
    """The causes that stand from now on: what was wanted under this very configuration goes by its source's word.

    Without this, an instance whose metadata changed out of a link's `where` would be taken for a changed file.
    """
    found = {}
    for removal in plan.removals:
        key = removal.change.id
        if removal.cause in MOMENTARY:
            if key in causes:
                found[key] = causes[key]
            continue
        cause = removal.cause if removal.cause is Cause.HEALTH else causes.get(key, removal.cause)
        if key not in causes and cause is Cause.CONFIG and key in known:
            cause = Cause.EVENT
        found[key] = cause
    return found


def with_causes(plan: Plan, causes: Mapping[str, Cause]) -> Plan:
    """The plan by the causes that stand; what is true of the target at this moment alone stands by itself."""
    return plan._replace(
        removals=[
            one
            if one.cause in MOMENTARY or one.cause is causes[one.change.id]
            else one._replace(
                cause=causes[one.change.id], change=msgspec.structs.replace(one.change, cause=causes[one.change.id])
            )
            for one in plan.removals
        ]
    )
