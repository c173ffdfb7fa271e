"""What a bridge would change, what its guard holds, and what is not written, with the reasons."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from bridge.adapter import Adviser
from bridge.destination.exchange import told
from bridge.destination.joint import GROUP, Joint
from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.errors import Denied, Unavailable
from bridge.guard.holds import HeldRemoval, Hold, united
from bridge.model import ServiceName
from bridge.plan.values import Plan, Removal
from bridge.report.values import Row, plain, value_hash


def plan_rows(engine: Engine) -> list[Row]:
    """Every change that is not made yet, with the reason where it may not be: one row an entry."""
    rows = []
    for reconciler in engine.reconcilers.values():
        for name, plan in sorted(reconciler.destination.plans.items()):
            rows += _plan_rows(reconciler, name, plan)
    return rows


def _plan_rows(reconciler: Reconciler, name: ServiceName, plan: Plan) -> list[Row]:
    held = reconciler.destination.holds.of(name)
    rows = []
    for change in plan.upserts:
        if change.forget:
            continue
        rows.append(
            {
                "action": "update" if change.before else "add",
                "link": change.mark.link if change.mark else "",
                "to": reconciler.name,
                "service": str(name),
                "instance": change.id,
                "cause": "",
                "held": held[change.id].verdict.rule
                if change.id in held
                else str(reconciler.destination.parked.get((name, change.id), "")),
                "before": plain(change.before.instance) if change.before else None,
                "after": plain(change.after),
            }
        )
    waits = reconciler.lead.waits_in(reconciler.lead.shard_of(name))
    rows += [
        _removal_row(reconciler, one, held[key].verdict.rule if (key := one.change.id) in held else waits)
        for one in plan.removals
    ]
    return rows


def removal_row(reconciler: Reconciler, one: HeldRemoval) -> Row:
    """A removal that the guard holds, as a row of the plan."""
    return _removal_row(reconciler, one.removal, one.verdict.rule)


def _removal_row(reconciler: Reconciler, removal: Removal, held: str) -> Row:
    change = removal.change
    return {
        "action": "remove" if change.after is None else "update",
        "link": change.mark.link if change.mark else "",
        "to": reconciler.name,
        "service": str(change.service),
        "instance": change.id,
        "cause": str(removal.cause),
        "held": held,
        "before": plain(change.before.instance) if change.before else None,
        "after": plain(change.after),
    }


def hold_rows(engine: Engine) -> list[Row]:
    """What is held, as the sets that `approve` takes; in a group with what other members hold for the same reason."""
    return [
        {**msgspec.to_builtins(hold), "to": reconciler.name}
        for reconciler in engine.reconcilers.values()
        for hold in sets_of(reconciler, engine.clock())
    ]


def sets_of(reconciler: Reconciler, now: float) -> list[Hold]:
    """The sets that are held at a destination, each of which may be approved from now on."""
    holds, peers = reconciler.destination.holds, reconciler.peers
    found = holds.show(now)
    if isinstance(peers, Joint) and peers.kind == GROUP:
        apart = {one.id for one in told(found) if not one.items}
        for host, theirs in peers.held_elsewhere.items():
            there = f"; more than fits a note: approve it at {host}"
            found += [one if one.items else replace(one, rule=one.rule + there) for one in theirs]
        found = united(found, apart)
        for one in found:
            if one.items:
                holds.remember(one.id, one.items)
    return found


def unwritten_rows(engine: Engine) -> list[Row]:
    """Everything that is not written though it is there: parked, shadowed, withdrawn, or kept though no longer wanted.

    `age`: seconds since the target refused it, None where that is not the reason.
    """
    now = engine.clock()
    rows: list[Row] = []
    for reconciler in engine.reconcilers.values():
        destination = reconciler.destination
        found: list[tuple[str, ServiceName, str, object]] = [
            ("parked", *at, reason) for at, reason in sorted(destination.parked.items())
        ]
        states = {"shadowed": destination.shadowed, "withdrawn": destination.withdrawn, "kept": destination.kept}
        for state, by_name in states.items():
            found += [(state, name, *one) for name, reasons in sorted(by_name.items()) for one in reasons.items()]
        for state, name, key, reason in found:
            refused = destination.refused.get((name, key)) if state == "parked" else None
            rows.append(
                {
                    "state": state,
                    "to": reconciler.name,
                    "service": str(name),
                    "instance": key,
                    "age": round(now - refused.at, 3) if refused is not None else None,
                    "reason": str(reason),
                }
            )
    return rows


def refused_rows(engine: Engine) -> list[Row]:
    """What is parked because a target did not take it: the row of `unwritten_rows`, with a hash of the value."""
    rows = []
    for row in unwritten_rows(engine):
        at = ServiceName.parse(row["service"]), row["instance"]
        refused = engine.reconcilers[row["to"]].destination.refused.get(at)
        if row["age"] is not None and refused is not None:
            rows.append({**row, "value": value_hash(refused.value)})
    return rows


async def advice_rows(engine: Engine) -> list[Row]:
    """What the destinations say of the changes that are not made yet."""
    rows: list[Row] = []
    for to, reconciler in engine.reconcilers.items():
        if not isinstance(reconciler.sink, Adviser):
            continue
        changes = {
            name: [*plan.upserts, *(removal.change for removal in plan.removals)]
            for name, plan in sorted(reconciler.destination.plans.items())
        }
        try:
            found = await reconciler.sink.advise(changes)
        except (Unavailable, Denied) as error:
            rows.append({"to": to, "service": "", "warning": True, "text": f"not known what it does there: {error}"})
            continue
        rows += [{"to": to, "service": str(each.service), "warning": each.warning, "text": each.text} for each in found]
    return rows


def pending(engine: Engine) -> dict[str, list[Row]]:
    """A plan as `isthmus plan` prints it."""
    return {
        "changes": plan_rows(engine),
        "holds": hold_rows(engine),
        "not_written": unwritten_rows(engine),
    }
