"""The plan as a table: desired, held and views, against what is written, what goes and why, and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from bridge.adapter import Cause, Entry, Listing, Observed, Synced
from bridge.link import Link, Policy
from bridge.model import Health, Instance, Mark, Service, ServiceName
from bridge.plan.diff import make_plan, settled_causes, with_causes
from bridge.plan.route import Desired, Refusal, Wanted
from bridge.plan.values import Held, Kind, Plan, World
from bridge.sources.store import Store
from bridge.sources.view import View
from tests.kit.builders import PAY, instance, link

ONE, TWO, THREE = instance("i1"), instance("i2"), instance("i3")
ILL = instance("i1", health=Health.UNHEALTHY)
MOVED = instance("i1", "198.51.100.1")
SAME_PLACE = instance("n1", ONE.address)
LINK = link("target", name="l")
UPSERT_ONLY = link("target", name="l", policy=Policy.UPSERT_ONLY)


def of(id: str, link: str = "l", origin: str = "a", owner: str = "me") -> Mark:
    """The mark of a copy of that instance."""
    return Mark(owner, link, (origin,), "", PAY, id)


def ours(*instances: Instance) -> dict[str, Entry]:
    """Copies of instances that the source calls by the same ids."""
    return {one.id: Entry(one, of(one.id)) for one in instances}


def natives(*instances: Instance) -> dict[str, Entry]:
    return {one.id: Entry(one) for one in instances}


def view(
    *instances: Instance, identity: str = "a", seen: tuple[str, ...] = (), bad: tuple[str, ...] = (), state: str = "up"
) -> View:
    """What a source said: `seen` have ended as events, `bad` cannot be read, `state` up, dark, unsynced or doubted."""
    made = Store(lambda: 0.0).view("source", "")
    first = {**{one.id: one for one in instances}, **{id: instance(id) for id in seen}}
    made.begin(Listing(identity, "life", 9))
    made.observe(Observed(Service(PAY, first)))
    made.observe(Observed(Service(ServiceName("other"), {"x": instance("x")})))
    if state == "unsynced":
        return made
    made.sync(Synced())
    left = {id: one for id, one in first.items() if id not in seen}
    if seen or bad:
        made.observe(Observed(Service(PAY, left), frozenset(bad)))
    if state == "dark":
        made.down("reset", 0.0)
    if state == "doubted":
        made.begin(Listing(identity, "another", 9))
        for service in list(made.services.values()):
            made.observe(Observed(service))
        made.sync(Synced())
    return made


class Row(NamedTuple):
    """One row: `refused` has the cause for which an instance of the source is not wanted."""

    wanted: tuple[Instance, ...] = ()
    held: Mapping[str, Entry] = {}
    view: View | None = None
    link: Link | None = LINK
    refused: Mapping[str, Refusal] = {}
    ill: tuple[Instance, ...] = ()
    loose: tuple[str, ...] = ()
    causes: Mapping[str, Cause] = {}
    ended: bool = False
    parked: str = ""
    upserts: tuple[str, ...] = ()
    removals: Mapping[str, Cause] = {}
    doubted: bool = False
    kept: Mapping[str, Kind] = {}
    shadowed: tuple[str, ...] = ()


E, A, H, C = Cause.EVENT, Cause.ABSENCE, Cause.HEALTH, Cause.CONFIG
NOT_SENT = Refusal("where team: 'pay'", C)
HEALTH = Refusal("UNHEALTHY, and the link withdraws", H)

ROWS = {
    "nothing at all": Row(),
    "a new one is written": Row((ONE,), view=view(ONE), upserts=("i1",)),
    "an equal one is left alone": Row((ONE,), ours(ONE), view(ONE)),
    "a changed one is written": Row((MOVED,), ours(ONE), view(MOVED), upserts=("i1",)),
    "what the disk alone knows is not written": Row(
        (ONE,), view=view(TWO, state="unsynced"), kept={"i1": Kind.UNHEARD}
    ),
    "what half a listing has is written": Row((ONE,), view=view(ONE, state="unsynced"), upserts=("i1",)),
    "what turns ill loses": Row((ILL,), ours(ONE), view(ILL), removals={"i1": H}),
    "what turns ill in a doubted life is doubted": Row(
        (ILL,), ours(ONE), view(ILL, state="doubted"), removals={"i1": H}, doubted=True
    ),
    "what gets well is written": Row((ONE,), ours(ILL), view(ONE), upserts=("i1",)),
    "a native's id is shadowed": Row((ONE,), natives(instance("i1", "198.51.100.7")), view(ONE), shadowed=("i1",)),
    "a native's address is shadowed": Row((ONE,), natives(SAME_PLACE), view(ONE), shadowed=("i1",)),
    "ours yields to a native that took its address": Row(
        (ONE,),
        {**ours(ONE), **natives(SAME_PLACE)},
        view(ONE),
        shadowed=("i1",),
        removals={"i1": Cause.SHADOWED},
    ),
    "what moves to a native's address is lost where it was": Row(
        (MOVED,),
        {**ours(ONE), **natives(instance("n1", MOVED.address))},
        view(MOVED),
        shadowed=("i1",),
        removals={"i1": E},
    ),
    "but not while only the disk says that it moves": Row(
        (MOVED,),
        {**ours(ONE), **natives(instance("n1", MOVED.address))},
        view(TWO, state="unsynced"),
        shadowed=("i1",),
        kept={"i1": Kind.UNHEARD},
    ),
    "and with doubt while its source is dark": Row(
        (MOVED,),
        {**ours(ONE), **natives(instance("n1", MOVED.address))},
        view(MOVED, state="dark"),
        shadowed=("i1",),
        removals={"i1": E},
        doubted=True,
    ),
    "but not over a link that removes nothing": Row(
        (MOVED,),
        {**ours(ONE), **natives(instance("n1", MOVED.address))},
        view(MOVED),
        link=UPSERT_ONLY,
        shadowed=("i1",),
        kept={"i1": Kind.UPSERT_ONLY},
    ),
    "an event": Row(held=ours(ONE), view=view(TWO, seen=("i1",)), removals={"i1": E}),
    "an event before it went dark is doubted": Row(
        held=ours(ONE), view=view(TWO, seen=("i1",), state="dark"), removals={"i1": E}, doubted=True
    ),
    "an absence": Row(held=ours(ONE), view=view(TWO), removals={"i1": A}),
    "an absence in a doubted life is doubted": Row(
        held=ours(ONE), view=view(TWO, state="doubted"), removals={"i1": A}, doubted=True
    ),
    "no absence before the listing is whole": Row(
        held=ours(ONE), view=view(TWO, state="unsynced"), kept={"i1": Kind.UNHEARD}
    ),
    "no absence of a source that was never heard": Row(held=ours(ONE), kept={"i1": Kind.UNHEARD}),
    "another store in its place is doubted": Row(
        held=ours(ONE), view=view(TWO, identity="b"), removals={"i1": A}, doubted=True
    ),
    "what cannot be read stays": Row(held=ours(ONE), view=view(TWO, bad=("i1",)), kept={"i1": Kind.UNREADABLE}),
    "an orphan stays": Row(held=ours(ONE), view=view(TWO), link=None, kept={"i1": Kind.ORPHAN}),
    "upsert-only removes nothing": Row(
        held=ours(ONE), view=view(TWO, seen=("i1",)), link=UPSERT_ONLY, kept={"i1": Kind.UPSERT_ONLY}
    ),
    "what the file does not send goes by the file": Row(
        held=ours(ONE, TWO), view=view(ONE, TWO), refused={"i1": NOT_SENT, "i2": NOT_SENT}, removals={"i1": C, "i2": C}
    ),
    "a cause that was found is kept": Row(
        held=ours(ONE), view=view(ONE), refused={"i1": NOT_SENT}, causes={"i1": E}, removals={"i1": E}
    ),
    "what is parked stays": Row(
        held=ours(ONE), view=view(ONE), refused={"i1": Refusal("no port", C, parked=True)}, kept={"i1": Kind.RULE}
    ),
    "what is ill is withdrawn": Row((TWO,), ours(ONE, TWO), view(ILL, TWO), refused={"i1": HEALTH}, removals={"i1": H}),
    "the last that is ill stays": Row(held=ours(ONE), view=view(ILL), refused={"i1": HEALTH}, kept={"i1": Kind.LAST}),
    "the last that is ill is marked so": Row(
        held=ours(ONE), view=view(ILL), refused={"i1": HEALTH}, ill=(ILL,), kept={"i1": Kind.LAST}, removals={"i1": H}
    ),
    "the last that is marked ill is left alone": Row(
        held=ours(ILL), view=view(ILL), refused={"i1": HEALTH}, ill=(ILL,), kept={"i1": Kind.LAST}
    ),
    "what has another id now is replaced": Row(
        (instance("new", ONE.address),),
        {**ours(ONE), "new": Entry(instance("new", ONE.address), of("new"))},
        view(instance("new", ONE.address)),
        removals={"i1": Cause.REPLACED},
    ),
    "what will have another id stays until then": Row(
        (instance("i1-a", ONE.address),), ours(ONE), view(ONE), upserts=("i1-a",), kept={"i1": Kind.COMING}
    ),
    "a name where two origins meet is left alone": Row(
        held=ours(ONE), view=view(ONE), parked="collision", kept={"i1": Kind.COLLISION}
    ),
    "a source that was accepted as ended takes nothing": Row(
        held=ours(ONE), view=view(TWO), ended=True, kept={"i1": Kind.ACCEPTED}
    ),
    "what is back at such a source is as any other": Row((MOVED,), ours(ONE), view(MOVED), ended=True, upserts=("i1",)),
    "the entry of another bridge is not touched": Row(
        held={"i1": Entry(ONE, of("i1", owner="they"))}, view=view(TWO, seen=("i1",))
    ),
    "a ledger entry without data is forgotten": Row(loose=("i1",), view=view(TWO), upserts=("i1",)),
}


def planned(row: Row) -> Plan:
    wanted = {}
    for one in row.wanted:
        source = next((id for id in ("i1", "new") if id != one.id and one.id.startswith(id)), one.id)
        wanted[one.id] = Wanted(one, one, of(source))
    refused = {("source", "", PAY, id): refusal for id, refusal in row.refused.items()}
    ill = {one.id: Wanted(one, one, of(one.id)) for one in row.ill}
    goal = Desired(wanted, refused, row.parked, ill)
    held = Held(row.held, dict.fromkeys(row.loose, 1), "me")
    links = {row.link.name: row.link} if row.link is not None else {}
    views = (row.view,) if row.view is not None else ()
    ended = frozenset({("a", "")}) if row.ended else frozenset[tuple[str, str]]()
    return make_plan(PAY, goal, held, World(links, views, row.causes, ended))


@pytest.mark.parametrize("name", ROWS)
def test_the_plan_is_as_the_table_says(name: str) -> None:
    row = ROWS[name]
    plan = planned(row)
    assert tuple(change.id for change in plan.upserts) == row.upserts
    assert {one.change.id: one.cause for one in plan.removals} == row.removals
    assert all(bool(one.doubt) == row.doubted for one in plan.removals)
    assert {key: reason.kind for key, reason in plan.kept.items()} == row.kept
    assert tuple(plan.shadowed) == row.shadowed


def test_an_entry_that_serves_and_goes_is_a_loss_and_a_replaced_one_is_none() -> None:
    losses = {name: [one.loses for one in planned(row).removals] for name, row in ROWS.items()}
    assert losses["an event"] == losses["an absence"] == losses["what turns ill loses"] == [True]
    assert losses["what has another id now is replaced"] == [False]
    assert losses["ours yields to a native that took its address"] == [False]


def test_a_withdrawal_says_what_would_leave_the_entry_with_its_true_health() -> None:
    row = Row((TWO,), ours(ONE, TWO), view(ILL, TWO), refused={"i1": HEALTH}, ill=(ILL,))
    (removal,) = planned(row).removals
    assert removal.withdraws and removal.change.after is None
    assert removal.instead is not None and removal.instead.after is ILL
    (marked,) = planned(row._replace(held=ours(ILL, TWO))).removals
    assert not marked.loses and marked.instead is None


def test_what_was_wanted_under_this_file_goes_by_its_source() -> None:
    plan = planned(ROWS["what the file does not send goes by the file"])
    known: dict[str, Any] = {"i1": Wanted(ONE, ONE, of("i1"))}
    settled = with_causes(plan, settled_causes(plan, known, {}))
    assert {one.change.id: one.cause for one in settled.removals} == {"i1": E, "i2": C}


def test_what_the_file_takes_away_goes_by_it_though_another_had_its_id() -> None:
    """After a rename, another instance with that id was wanted under the name, and ended by itself."""
    plan = planned(ROWS["what the file does not send goes by the file"])
    known = {"i1": Wanted(MOVED, MOVED, of("i1", origin="b"))}
    assert settled_causes(plan, known, {}) == {}
