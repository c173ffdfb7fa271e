"""Migrations as rows: what each step of a move comes to at each place, and where every move is."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping, Sequence

from bridge.consumers import leaving
from bridge.engine import moves
from bridge.engine.engine import Engine
from bridge.link import Item
from bridge.migration.block import Migration, Part
from bridge.migration.intent import Intent
from bridge.migration.natives import batch
from bridge.migration.parity import Report
from bridge.migration.phases import Facts, Looked, Phase, Waits
from bridge.model import ServiceName
from bridge.report.values import Row


class Exit(enum.IntEnum):
    """What the exit codes of `isthmus migrate` say."""

    OK = 0
    FAILED = 1
    BACK = 3  # a gate failed, or it rolls back
    PERSON = 4
    NO_DATA = 5
    NOTHING = 6  # to do in this state
    RUNNING = 7


EXITS = {
    Waits.NOTHING: Exit.OK,
    Waits.FAILED: Exit.BACK,
    Waits.PERSON: Exit.PERSON,
    Waits.TROUBLE: Exit.PERSON,
    Waits.DATA: Exit.NO_DATA,
    Waits.TIME: Exit.RUNNING,
}
# Of several moves the first of these.
WORST = (Exit.FAILED, Exit.BACK, Exit.PERSON, Exit.NO_DATA, Exit.RUNNING, Exit.NOTHING, Exit.OK)


def code_of(waits: Waits, phase: Phase) -> Exit:
    """The exit code that says where a move is."""
    return Exit.BACK if phase in (Phase.ROLLED_BACK, Phase.ROLLING_BACK) else EXITS[waits]


def worst(codes: Sequence[int]) -> int:
    """The exit code of several moves."""
    return next((code for code in WORST if code in codes), Exit.OK)


def plan_rows(engine: Engine, block: Migration, service: ServiceName, probed: Sequence[Report] = ()) -> Row:
    """What a move would do: at each place what each step comes to, who reads it for how long; and what is missing."""
    move = f"{block.name}/{service}"
    found = moves.spots(engine, block, move, service)
    said = [{step: one.fit(step / 100).said for step in block.steps} for one in found]
    places = [_place_row(engine, block, one, move, steps) for one, steps in zip(found, said, strict=True)]
    dosed = [steps for one, steps in zip(found, said, strict=True) if one.attached is None]
    seen = consumer_rows(engine, block, found)
    differences = moves.differences(engine, block, found, time.time(), probed)
    nowhere = [step for step in block.steps if places and all(steps[step] <= 0 for steps in dosed)]
    begun = {Item.parse(end.item).registry for end in block.new} - {*block.attach_at}
    return {
        "move": move,
        "places": places,
        "missing": moves.missing(engine, block, service),
        "already": sorted(begun),
        "parity": [
            {"what": one.what, "severity": str(one.severity), "text": one.text, "subjects": list(one.subjects)}
            for one in differences
        ],
        "refused": moves.refused(engine, found),
        "observed": [row for row in seen if row["observed"]],
        "nowhere": [_nowhere(step, places) for step in nowhere],
    }


def _place_row(engine: Engine, block: Migration, one: moves.Spot, move: str, said: Mapping[float, float]) -> Row:
    """One place. `said`: what each step comes to. `begins`: the percent of the new side before the first step, where
    it is native."""
    is_attached = one.attached is not None
    return {
        "place": one.place,
        "name": str(one.name),
        "from": round(one.old.fixed) + len(one.old.ours) if one.means == "counts" else len(one.old.ours),
        "natives": one.old.fixed,
        "to": len(one.new.ours) + (one.new.natives if is_attached else 0),
        "means": "attached" if is_attached else str(one.means),
        "begins": round(100 * one.fit(0.0).said, 2) if is_attached else None,
        "steps": {f"{step:g}": round(100 * share, 2) for step, share in said.items()},
        "settles": round(one.settle, 1),
        "restarts": one.restarts,
        "lacks": one.lacks,
        "not_steered": [each.name for each in one.consumers if not each.steered],
        "consumers": [each.name for each in one.consumers],
        "natives_go": _natives_go(engine, block, one, move),
    }


def consumer_rows(engine: Engine, block: Migration, found: Sequence[moves.Spot]) -> list[Row]:
    """Who reads each place, as the settle time goes by: how long he needs (None: he never follows), and who says so."""
    return [
        {
            "place": spot.place,
            "consumer": one.name,
            "settles": one.settles,
            "declared": one.key in block.consumers,
            "observed": one.key in engine.observed.get((spot.place, spot.name), ()),
        }
        for spot in found
        for one in spot.consumers
    ]


def _natives_go(engine: Engine, block: Migration, one: moves.Spot, move: str) -> Row:
    """How the natives of a place leave once copies have done what they can: `by` us, or people with `commands`."""
    natives = [each for each in one.fixed[Part.OLD] if each.id not in one.out]
    if not natives:
        return {"by": "", "batches": 0, "commands": []}
    size = len(batch(move, [each.id for each in natives], len(one.out)))
    found: Row = {"by": "people", "batches": -(-len(natives) // size), "commands": []}
    if moves.movable(engine, block, one):
        return {**found, "by": "steer"}
    keeps_last = any(each.keeps_last for each in one.consumers)
    return {**found, "commands": list(leaving(one.layout, one.settle, keeps_last=keeps_last))}


def _nowhere(step: float, places: Sequence[Row]) -> str:
    """Why no place can say a step, and what would make it possible."""
    most = max(int(one["natives"] or 0) + int(one["from"]) for one in places if one["begins"] is None)
    needed = max(1, round(most * step / (100 - step))) if step < 100 else 1
    return (
        f"{step:g} % rounds to nothing at every place: beside {most} instances by counts one of the new side has "
        f"{100 / (most + 1):.1f} %; begin with a greater step, or where weights are obeyed (about {needed} would do)"
    )


def steered_texts(intent: Intent) -> list[str]:
    """The natives that are out of service by a move, in words: by place, with where their levers are."""
    return [
        f"{len(levers)} at {place}: {', '.join(f'{key} ({at})' for key, at in sorted(levers.items()))}"
        for place, out in sorted(intent.out.items())
        if (levers := out.levers)
    ]


def forgotten_text(intent: Intent, links: Mapping[str, float]) -> str:
    """What becomes of the shares of a move that is forgotten. `links`: the share at each place that they make."""
    shares = []
    for place, at in sorted(intent.places.items()):
        after = f"about {100 * links[place]:.3g} %" if place in links else "nothing of it"
        shares.append(f"{place} {100 * at.fit.said:.3g} %, then {after}")
    return f"what links say is true from now on: {'; '.join(shares)}"


def status_row(block: Migration, intent: Intent, stands: Mapping[str, float], facts: Facts, looked: Looked) -> Row:
    """Where a move is: its share as it is meant and as it stands at each place, its gates, and for what it waits."""
    state = intent.state
    return {
        "move": intent.name,
        "phase": str(state.phase),
        "step": state.step,
        "steps": len(block.steps),
        "share": state.share,
        "number": state.number,
        "since": state.since,
        "settled": state.settled,
        "paused": state.paused,
        "waits": str(looked.waits),
        "why": looked.why,
        "reason": state.reason,
        "by": state.by,
        "serves": facts.serves,
        "way_back": _way_back(intent, block, facts),
        "steered": {place: sorted(out.levers) for place, out in sorted(intent.out.items()) if out.levers},
        "batches": state.batches,
        "called": facts.left._asdict() if state.phase is Phase.DRAIN and state.batches else None,
        "places": [
            {
                "place": place,
                "name": str(at.name),
                "means": str(at.fit.means),
                "intended": round(100 * at.fit.said, 2),
                "measured": round(100 * stands[place], 2) if place in stands else None,
            }
            for place, at in sorted(intent.places.items())
        ],
        "gates": [
            {"gate": name, "fails": gate.fails, "seen": gate.seen, "look": gate.look}
            for name, gate in sorted(intent.gates.items())
        ],
        "code": code_of(looked.waits, state.phase),
    }


def _way_back(intent: Intent, block: Migration, facts: Facts) -> str:
    """Whether a rollback is possible, how long it takes, and to what."""
    state = intent.state
    if state.ended:
        return "closed" if state.phase is not Phase.DONE else f"`isthmus migrate reopen {intent.name}`"
    steps = max(1, state.step + state.batches)
    takes = facts.settle * steps
    closed = "" if facts.old_serves else "; CLOSED until the old side serves again"
    return f"takes {takes:.0f} s in {steps} steps{closed}"
