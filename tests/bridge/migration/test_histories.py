"""Random histories of one move at one place: its sides lose and win, it is asked things, and something serves."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge.adapter import Entry
from bridge.migration.block import Migration
from bridge.migration.gates import Gates, Result, Verdict
from bridge.migration.intent import Intent, Placed, Record
from bridge.migration.phases import Facts, Phase, State, look, rolled_back, started
from bridge.migration.shares import Means, Side, fit
from bridge.model import Mark, Service
from bridge.plan.doses import Doses, members, ranked, sides_of
from bridge.plan.route import Supply
from tests.kit.builders import PAY, instance, link

LINK = link("mesh", name="l")
BLOCK = Migration(
    name="pay",
    services=("*",),
    from_=("vms",),
    to=("pods",),
    at=("mesh",),
    steps=(10.0, 30.0, 60.0, 100.0),
    gates=Gates(hold_for=0.0, approve=()),
)
PASS, FAIL, NONE = Verdict(Result.PASS, by_itself=True), Verdict(Result.FAIL, "errors"), Verdict(Result.NO_DATA)


class History:
    """One move, the sources of its sides, and what a place has of them. `asked`: the greatest share since its begin."""

    def __init__(self, means: Means) -> None:
        self.sides = {"vms": {f"v{n}" for n in range(4)}, "pods": {f"p{n}" for n in range(4)}}
        self.there: dict[str, tuple[str, float]] = {}  # by id: the side, and the weight
        self.state = started(BLOCK, 0.0, None, "me", "why")
        self.now = 0.0
        self._means = means
        self._made = 0
        self._doses = Doses([BLOCK])
        self._doses.heard = lambda _: True
        self._fitted()
        self.write()

    # -- what happens

    def joins(self, side: str) -> None:
        self._made += 1
        self.sides[side].add(f"{side[0]}new{self._made}")

    def leaves(self, side: str) -> None:
        if len(self.sides[side]) > 1:
            self.sides[side].remove(min(self.sides[side]))

    def looked(self, gates: Verdict = PASS, trouble: str = "") -> None:
        self.now += 10.0
        facts = Facts(
            now=self.now,
            trouble=trouble,
            serves=len(self.sides["pods"]),
            old_serves=len(self.sides["vms"]) >= 0.9 * 4,
            gates=gates,
            quiet=False,
        )
        before, self.state = self.state, look(self.state, BLOCK, facts).state
        self._moved(before)

    def back(self) -> None:
        if not self.state.ended and self.state.phase is not Phase.ROLLING_BACK:
            before, self.state = self.state, rolled_back(self.state, BLOCK, self.now, reason="r", by="me")
            self._moved(before)

    def _moved(self, before: State) -> None:
        if self.state.number != before.number:
            self._fitted()

    def _fitted(self) -> None:
        sides = members(sides_of(BLOCK, self._supplies()), self._supplies())
        old, new = (
            Side(0.0, tuple(one.instance.weight for one in ranked(f"pay/{PAY} {part}", some)))
            for part, some in sorted(sides.items())
        )
        placed = Placed(PAY, fit(self.state.share / 100, old, new, self._means))
        move = Intent(migration="pay", service=PAY, state=self.state, places={"mesh": placed})
        self._doses.follow(Record().with_moves({move.name: move}, {"pay": BLOCK}))

    # -- what a writer does about it

    def _supplies(self) -> list[Supply]:
        return [
            Supply(LINK, side, "", side, Service(PAY, {one: instance(one) for one in sorted(some)}))
            for side, some in self.sides.items()
        ]

    def _wanted(self) -> dict[str, tuple[str, float]]:
        marks = {
            key: Entry(instance(key), Mark("me", "l", (side,), "", PAY, key), 1)
            for key, (side, _) in self.there.items()
        }
        orders = self._doses.orders("mesh", PAY, self._supplies(), marks)
        said = {origin[3]: order for origin, order in orders.items()}
        return {
            one: (side, (said[one].weight or 1.0) if one in said else 1.0)
            for side, some in self.sides.items()
            for one in some
            if one not in said or not said[one].away
        }

    def write(self) -> None:
        """Adds first; what goes then is planned anew, and is never the last that serves."""
        while True:
            before = dict(self.there)
            self.there.update(self._wanted())
            left = {key: one for key, one in self.there.items() if key in self._wanted()}
            if left:
                self.there = left
            if self.there == before:
                return

    @property
    def weights(self) -> dict[str, float]:
        found = {"vms": 0.0, "pods": 0.0}
        for side, weight in self.there.values():
            found[side] += weight
        return found


EVENTS: dict[str, Callable[[History], None]] = {
    "look": History.looked,
    "look again": History.looked,
    "a gate fails": lambda one: one.looked(FAIL),
    "no data": lambda one: one.looked(NONE),
    "a source is dark": lambda one: one.looked(trouble="vms is dark"),
    "a pod joins": lambda one: one.joins("pods"),
    "a pod leaves": lambda one: one.leaves("pods"),
    "a vm joins": lambda one: one.joins("vms"),
    "a vm leaves": lambda one: one.leaves("vms"),
    "rollback": History.back,
}
HISTORIES = st.lists(st.sampled_from(sorted(EVENTS)), max_size=40)


@settings(max_examples=300)
@given(HISTORIES, st.sampled_from([Means.COUNTS, Means.BOTH]))
def test_a_place_is_never_empty_and_the_new_side_never_has_more_than_its_step(events: list[str], means: Means) -> None:
    history = History(means)
    for event in events:
        number = history.state.number
        EVENTS[event](history)
        history.write()
        assert history.there, event
        weights = history.weights
        if history.state.number != number and history.sides["vms"] and history.state.share < 100:
            assert weights["pods"] / (weights["pods"] + weights["vms"]) <= history.state.share / 100 + 1e-6


@settings(max_examples=300)
@given(HISTORIES, st.sampled_from([Means.COUNTS, Means.BOTH]))
def test_a_way_back_always_ends_where_the_move_began(events: list[str], means: Means) -> None:
    history = History(means)
    for event in events:
        EVENTS[event](history)
        history.write()
    while len(history.sides["vms"]) < 4:
        history.joins("vms")
    history.state = replace(history.state, paused="")
    history.back()
    for _ in range(20):
        history.looked()
        history.write()
    if history.state.phase is not Phase.DONE:
        assert history.state.phase is Phase.ROLLED_BACK
        assert history.there == dict.fromkeys(history.sides["vms"], ("vms", 1.0))


@settings(max_examples=200)
@given(HISTORIES)
def test_before_a_share_is_given_nothing_of_the_new_side_is_there(events: list[str]) -> None:
    history = History(Means.COUNTS)
    for event in events:
        EVENTS[event](history)
        history.write()
        if history.state.share == 0 and history.sides["vms"]:
            assert not history.weights["pods"], event
