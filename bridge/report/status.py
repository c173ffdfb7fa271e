"""One screen of a running bridge: its scopes, its links, and what needs a look."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

import msgspec

from bridge.adapter import Credentialed, Export
from bridge.destination.destination import Destination
from bridge.destination.joint import Joint
from bridge.destination.reconciler import Reconciler
from bridge.destination.writer import Writer
from bridge.engine.engine import Engine
from bridge.link import Link, Policy
from bridge.model import ServiceName
from bridge.report.values import Row
from bridge.shards import whole_of
from bridge.sources.view import View

STATES = ("synced", "stale", "known", "unknown")  # of a scope, the best first
BEGINS = 10.0  # seconds that a shard may take to be read for the first time


def status(engine: Engine) -> Row:
    """One screen of a running bridge."""
    now = engine.clock()
    return {
        "bridge": engine.configuration.bridge.id,
        "configuration": engine.configuration.hash,
        "scopes": scope_rows(engine, now),
        "links": link_rows(engine),
        "credentials": [
            {"registry": name, "credential": each.what, "ends": each.ends}
            for name, registry in engine.registries.items()
            if isinstance(registry, Credentialed)
            for each in registry.credentials()
        ],
    }


def scope_rows(engine: Engine, now: float) -> list[Row]:
    """How each scope does; of one that is read by shards, how those do that are read here, all together."""
    rows: list[Row] = []
    apart: dict[tuple[str, str], list[Row]] = {}
    for view in engine.store.views():
        row = scope_row(engine, view, now)
        if view.shard is None:
            rows.append(row)
        elif not is_beginning(view, now):
            apart.setdefault((view.registry, whole_of(view.scope)), []).append(row)
    return rows + [_together(scope, found) for (_, scope), found in apart.items()]


def is_beginning(view: View, now: float) -> bool:
    """Whether it is of a shard that is read for the first time: that takes its time, and is no trouble."""
    return view.shard is not None and not (view.up or view.out_of_reach) and now - view.made < BEGINS


def _together(scope: str, rows: list[Row]) -> Row:
    """One row of several shards: the worst of what each says."""
    worst = max(rows, key=lambda row: STATES.index(row["state"]))
    sums = ("services", "instances", "unreadable", "unroutable", "left_out")
    return {
        **worst,
        "scope": scope,
        "shards": len(rows),
        "age": max((row["age"] for row in rows if row["age"] is not None), default=None),
        **{key: max(row[key] for row in rows) for key in ("behind", "behind_revisions", "revision", "ignored")},
        **{key: sum(row[key] for row in rows) for key in sums},
        **{key: next((row[key] for row in rows if row[key]), "") for key in ("doubt", "reason")},
    }


def scope_row(engine: Engine, view: View, now: float) -> Row:
    """How one scope does: its state, and in seconds how long ago it was last known to be true.

    `behind`: for how many seconds its store has had changes that its watch has not told yet.
    """
    behind = engine.feeds[view].source.behind if view in engine.feeds and view.up else None
    late = behind.seconds if behind is not None else 0.0
    state = "synced" if view.up else "stale" if view.synced else "known" if view.services else "unknown"
    return {
        "registry": view.registry,
        "scope": view.scope,
        "state": state,
        "age": round(late, 3) if view.up else round(now - view.lost, 3) if view.lost else None,
        "behind": round(late, 3),
        "behind_revisions": behind.revisions if behind is not None else 0,
        "identity": view.identity,
        "incarnation": view.incarnation,
        "revision": view.revision,
        "services": len(view.services),
        "instances": sum(len(service.instances) for service in view.services.values()),
        "doubt": view.doubt,
        "unreadable": view.unread,
        "unroutable": len(view.unroutable),
        "left_out": view.left_out,
        "ignored": len(engine.feeds[view].source.ignored) if view in engine.feeds else 0,
        "reason": view.reason,
    }


def link_rows(engine: Engine) -> list[Row]:
    """How every link does.

    `busy`: whether something is read, planned or written at its destination at this moment, as it also is each resync.
    `fresh`: of how many of the items that it is `from` the first additions by a changed file are not all judged yet.
    """
    rows = []
    for reconciler in engine.reconcilers.values():
        destination = reconciler.destination
        waiting = _waiting(destination)
        names = {link.name for link in destination.links}
        for link in destination.links:
            one = len(names) == 1
            rows.append(
                {
                    "link": link.name,
                    "from": list(link.from_),
                    "to": link.to,
                    "policy": str(link.policy),
                    "role": "observing" if link.policy is Policy.OBSERVE else reconciler.role,
                    "lag": round(reconciler.lag, 3),
                    "waiting": waiting[link.name],
                    "busy": reconciler.busy,
                    "held": destination.holds.count(link.name),
                    "fresh": sum(feed[0] == link.name for feed in destination.additions.fresh),
                    "parked": len(destination.parked) if one else _feeding(reconciler, link.name, destination.parked),
                    "shadowed": sum(len(found) for found in destination.shadowed.values()),
                    "taken": reconciler.destination.taken(link.name),
                    "withdrawn": withdrawn(reconciler, link.name),
                    "frozen": destination.is_frozen(link.name),
                    "writer": msgspec.to_builtins(writer(reconciler)),
                    "differs": _differs(engine, reconciler),
                    "differing": list(reconciler.peers.differing) if reconciler.peers is not None else [],
                    "members": members(reconciler),
                    "pictures": pictures(reconciler),
                    "shards": shards(reconciler),
                    "reused": _reused(reconciler, link),
                    "renewal": msgspec.to_builtins(reconciler.renewals.now),
                    "reason": reconciler.reason,
                }
            )
    return rows


def _waiting(destination: Destination) -> Counter[str]:
    """How many changes may not be made now, by link."""
    return Counter(
        change.mark.link
        for plan in destination.plans.values()
        for change in (*plan.upserts, *(removal.change for removal in plan.removals))
        if change.mark is not None
    )


def withdrawn(reconciler: Reconciler, link: str) -> int:
    """How many instances a link does not write because they may not be called."""
    destination = reconciler.destination
    alone, links_to = len(destination.links) == 1, destination.routing.links_to
    return sum(len(ones) for name, ones in destination.withdrawn.items() if alone or link in links_to(name))


def writer(reconciler: Reconciler) -> Writer | None:
    """Who writes at a destination, as far as is known."""
    return reconciler.peers.writer if reconciler.peers is not None else None


def pictures(reconciler: Reconciler) -> Row:
    """See `Joint.pictures`."""
    peers = reconciler.peers
    return dict(peers.pictures) if isinstance(peers, Joint) else {}


def shards(reconciler: Reconciler) -> Row | None:
    """What this process has as a member of a group: how many shards of each kind; None: it is no group."""
    share = reconciler.lead.share
    if share is None:
        return None
    kinds = ("writes", "should", "cares", "claims", "waits")
    counts = {kind: len(getattr(share, kind)) for kind in kinds}
    return {"of": share.of, **counts, "fault": share.fault, "undivided": share.undivided, "cared": share.cared}


def members(reconciler: Reconciler) -> list[Row]:
    """The other processes of this bridge that do not write at a destination; `seen` in seconds since the epoch."""
    known = reconciler.peers.members if reconciler.peers is not None else ()
    return [{**msgspec.to_builtins(one.process), "role": one.role, "seen": one.seen} for one in known]


def _differs(engine: Engine, reconciler: Reconciler) -> bool:
    """Whether this process stands by for one that runs another file."""
    other = writer(reconciler)
    return reconciler.role == "standby" and other is not None and other.configuration != engine.configuration.hash


def _reused(reconciler: Reconciler, link: Link) -> int:
    """How many copies of what the link reads were withdrawn in its window because their addresses serve elsewhere."""
    views = [
        view for view in reconciler.destination.routing.views() if link.item(view.registry, view.scope) is not None
    ]
    return sum(reconciler.destination.reused((view.identity, view.scope), link.longest_window) for view in views)


def _feeding(reconciler: Reconciler, link: str, parked: Iterable[tuple[ServiceName, str]]) -> int:
    return sum(link in reconciler.destination.routing.links_to(name) for name, _ in parked)


def client_rows(engine: Engine) -> list[Row]:
    """The data planes that exports answer, in the order of the file. Times in seconds."""
    now = time.time()
    return [
        {
            "registry": name,
            "client": one.name,
            "address": one.address,
            "network": one.network,
            "connected": now - one.since,
            "seen_ago": now - one.seen,
            "behind": one.behind,
            "sent": dict(one.sent),
            "refused": dict(one.refused),
        }
        for name, registry in engine.registries.items()
        if isinstance(registry, Export)
        for one in registry.clients()
    ]
