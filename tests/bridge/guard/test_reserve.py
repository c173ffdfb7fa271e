"""The note of a shard, and the guard's limits over all members of a group, whoever comes first."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import msgspec
import pytest

from bridge.adapter import Cause, Change, Entry, Note
from bridge.errors import ConfigError
from bridge.guard.additions import Additions
from bridge.guard.gate import Gate
from bridge.guard.holds import Holds
from bridge.guard.limits import Limit
from bridge.guard.losses import Losses, Lost
from bridge.guard.reserve import Elsewhere, Reserve, ShardNote, decode, elsewhere, encode, net
from bridge.link import Guard
from bridge.model import Health, ServiceName
from bridge.plan.values import Plan, Removal
from bridge.shards import LONGEST_NOTE
from tests.kit.builders import PAY, instance, mark
from tests.kit.builders import link as linked

NOW, AHEAD = 10_000.0, 1_700_000_000.0
TODAY = int((NOW + AHEAD) // 60)
SCOPE = ("origin", "")
GUARD = Guard(source_count=20, source_share=0.1, service_share=0.0, last_instance="pass", hard_count=100)
MEMBERS, SERVING = 6, 30  # of the scope, in each shard


class Member:
    """One member with a shard of its own: the daemon's own gate, and as many services as it has instances."""

    def __init__(self, shard: int, serving: int = SERVING, limits: Guard = GUARD) -> None:
        self.shard = shard
        self.serving = serving
        links, losses = {"link": linked("target", name="link", guard=limits)}, Losses()
        losses.mine = lambda: (shard,)
        self.gate = Gate(
            lambda: links, lambda _: self.serving, losses, Holds(), Additions(lambda _: None), lambda _: False
        )
        self.plans = [self.plan(number) for number in range(serving)]

    def plan(self, number: int, cause: Cause = Cause.EVENT) -> Plan:
        """One instance of a service goes."""
        name, id = ServiceName(f"s{self.shard}-{number}"), f"i{number}"
        change = Change(name, id, Entry(instance(id), mark(id), 1), None, mark(id), cause)
        return Plan(name, [], [Removal(change, cause, SCOPE, loses=True)], {}, {}, "", 1)

    def note(self) -> bytes:
        """What it leaves beside its lock."""
        found = self.gate.reserves(self.shard, {SCOPE: self.serving}, lambda _: self.shard, NOW, AHEAD)
        assert found.keys() == {SCOPE}
        return encode(ShardNote(reserves={SCOPE[0]: {SCOPE[1]: found[SCOPE]}}))

    def hear(self, notes: dict[int, bytes]) -> set[ServiceName]:
        """It reads all notes."""
        read = {shard: Note(content) for shard, content in notes.items()}
        return self.gate.hear(elsewhere(read, {self.shard}, AHEAD), NOW)

    def ask(self, plan: Plan) -> None:
        self.gate.holds.ask(plan.name, plan.removals)

    def lets(self, plan: Plan) -> bool:
        """Whether its gate lets a plan go, at the first look."""
        allowed, _, _ = self.gate.allowed(plan, True, NOW)
        return bool(allowed.changes)

    def stands(self, plan: Plan) -> bool:
        return self.gate.stands(plan, plan.removals[0].change, NOW)

    def made(self, plan: Plan) -> None:
        self.serving -= 1
        self.gate.losses.made(plan.name, SCOPE, -1, NOW, replaces=False, late=False, shard=self.shard)
        self.gate.holds.ask(plan.name, [])


# -- the limits over all members


class Group:
    """Members that lose at once; `removed` is what they took from the destination together."""

    def __init__(self) -> None:
        self.members = [Member(shard) for shard in range(MEMBERS)]
        self.notes: dict[int, bytes] = {one.shard: one.note() for one in self.members}
        self.removed = 0


Steps = Callable[[Group, Member, int], Iterator[None]]


def reserves(group: Group, member: Member, count: int) -> Iterator[None]:
    """One member's way to the removal of so many; between any two steps the others may take theirs."""
    plans = member.plans[:count]
    for plan in plans:
        member.ask(plan)
    going = [plan for plan in plans if member.lets(plan)]
    yield
    group.notes[member.shard] = member.note()
    yield
    notes = dict(group.notes)
    yield
    member.hear(notes)
    for plan in going:
        if member.stands(plan):
            yield
            group.removed += 1
            member.made(plan)
    yield
    group.notes[member.shard] = member.note()


def checks_then_acts(group: Group, member: Member, count: int) -> Iterator[None]:
    """The fault that reserving is there for: it reads and judges before it says what it is about to do."""
    yield
    notes = dict(group.notes)
    yield
    member.hear(notes)
    for plan in member.plans[:count]:
        member.ask(plan)
        if member.lets(plan) and member.stands(plan):
            yield
            group.removed += 1
            member.made(plan)
    yield
    group.notes[member.shard] = member.note()


def rounds(steps: Steps, number: int) -> Iterator[int]:
    """What was removed in each round, in as many orders of the members' steps; each asks for what may just go."""
    for seed in range(number):
        rng = random.Random(seed)
        group = Group()
        under_way = [steps(group, one, rng.randint(2, 5)) for one in group.members]
        while under_way:
            one = rng.choice(under_way)
            if next(one, under_way) is under_way:
                under_way.remove(one)
        yield group.removed


def test_members_that_lose_at_once_never_pass_the_limit_together() -> None:
    limit = max(GUARD.source_count, int(GUARD.source_share * SERVING * MEMBERS))
    removed = [*rounds(reserves, 100)]
    assert max(removed) <= limit
    assert max(removed) > limit // 2, "they do remove"


def test_whoever_checks_before_it_says_so_passes_the_limit() -> None:
    limit = max(GUARD.source_count, int(GUARD.source_share * SERVING * MEMBERS))
    assert max(rounds(checks_then_acts, 30)) > limit


def test_a_loss_of_all_is_judged_as_a_whole_though_each_has_a_part() -> None:
    members = [Member(shard, 4) for shard in range(MEMBERS)]
    for one in members:
        for plan in one.plans:
            one.ask(plan)
    notes = {one.shard: one.note() for one in members}
    for one in members:
        one.hear(notes)
        _, judged, _ = one.gate.allowed(one.plans[0], True, NOW)
        (held,) = judged.held.values()
        assert (held.verdict.limit, held.verdict.operator) == (Limit.EMPTIED, True)
        assert "none of 24" in held.verdict.text


def test_the_share_of_a_scope_is_of_all_its_shards() -> None:
    """Eleven of a member's 30 would be too many for it alone; of 630 they are not."""
    alone, one, other = Member(0), Member(0), Member(1, 600)
    one.hear({1: other.note()})
    for member in (alone, one):
        for plan in member.plans[:21]:
            member.ask(plan)
    assert not alone.lets(alone.plans[0])
    assert one.lets(one.plans[0])


def test_the_last_of_one_shard_is_not_the_last_of_its_scope() -> None:
    one, other = Member(0, 2), Member(1)
    one.hear({1: other.note()})
    for plan in one.plans:
        one.ask(plan)
    assert one.lets(one.plans[0])


def test_what_is_held_elsewhere_eases_when_it_is_no_longer_asked_for() -> None:
    one, other = Member(0), Member(1)
    for plan in other.plans[:20]:
        other.ask(plan)
    assert one.hear({1: other.note()}) == set()
    one.ask(one.plans[0])
    assert not one.lets(one.plans[0])
    assert one.hear({1: other.note()}) == set()
    for plan in other.plans[:20]:
        other.ask(plan._replace(removals=[]))
    assert one.hear({1: other.note()}) == {one.plans[0].name}
    assert one.lets(one.plans[0])


@pytest.mark.parametrize("content", [b"{}", b"nonsense", b'{"format":99,"version":"9"}', b'{"format":1,"cut":true}'])
def test_a_note_that_cannot_be_read_counts_as_everything(content: bytes) -> None:
    one = Member(0)
    one.ask(one.plans[0])
    assert one.lets(one.plans[0])
    one.hear({1: content})
    assert not one.stands(one.plans[0])
    _, judged, _ = one.gate.allowed(one.plans[0], True, NOW)
    (held,) = judged.held.values()
    assert held.verdict.operator and "shard 1" in held.verdict.text
    assert one.hear({1: Member(1).note()}) == {one.plans[0].name}
    assert one.lets(one.plans[0])


def test_what_only_turns_unhealthy_does_not_wait_for_a_note() -> None:
    one = Member(0)
    plan = one.plan(0, Cause.HEALTH)
    (removal,) = plan.removals
    ill = instance("i0", health=Health.UNHEALTHY)
    plan = plan._replace(removals=[removal._replace(change=msgspec.structs.replace(removal.change, after=ill))])
    one.hear({1: b"nonsense"})
    one.ask(plan)
    _, judged, _ = one.gate.allowed(plan, True, NOW)
    (held,) = judged.held.values()
    assert not held.verdict.operator and held.due is not None


def test_what_serves_elsewhere_counts_over_all_members() -> None:
    one, other = Member(0), Member(1)
    plan = one.plan(0, Cause.REUSED)
    for _ in range(GUARD.source_count):
        other.gate.losses.withdrawn(SCOPE, NOW, shard=1)
    one.ask(plan)
    assert one.lets(plan)
    one.hear({1: other.note()})
    assert not one.stands(plan) and not one.lets(plan)


def test_what_an_operator_approved_goes_whatever_others_ask() -> None:
    one = Member(0)
    plan = one.plans[0]
    one.hear({1: b"nonsense"})
    one.ask(plan)
    one.gate.allowed(plan, True, NOW)
    (shown,) = one.gate.holds.show(NOW)
    one.gate.holds.approve(shown.id, NOW)
    assert one.lets(plan) and one.stands(plan)


# -- the note


def test_a_note_says_what_was_written_and_no_other_format_is_read() -> None:
    reserve = Reserve(serving=7, won={TODAY: -2}, reused={TODAY: -1}, asked={"event": 3}, settled=True)
    lost = Lost({TODAY: -2}, str(PAY))
    note = ShardNote(who="a:1", generations={"core": 4}, reserves={"id": {"": reserve}}, losses=(lost,))
    assert decode(Note(encode(note))) == note
    assert decode(None) is None
    with pytest.raises(ConfigError, match=r"run isthmus 9\.9"):
        decode(Note(b'{"format":2,"version":"9.9"}'))
    for content in (b"", b"[]", b'{"format":0}', b'{"format":1,"reserves":3}'):
        with pytest.raises(ValueError):  # noqa: PT011  of whichever kind
            decode(Note(content))


@pytest.mark.parametrize("scopes", [1, 50, 150, 400, 4000])
def test_a_note_fits_and_what_gives_way_never_hides_a_loss(scopes: int) -> None:
    losing = Reserve(serving=9, won={TODAY - n: -1 for n in range(10)}, asked={"event": 2}, settled=True)
    reserves = {f"ns-{n}": losing if n % 2 else Reserve(serving=9, won={TODAY: 3}) for n in range(scopes)}
    losses = tuple(Lost({TODAY: -n}, f"service-{n}") for n in range(1000))
    content = encode(ShardNote(generations={"core": 1}, reserves={"cluster": reserves}, losses=losses))
    assert len(content) <= LONGEST_NOTE
    note = decode(Note(content))
    assert note is not None
    if scopes == 1:
        assert note.losses[0].service == "service-999"
        assert 100 < len(note.losses) < 1000
    read = Elsewhere({0: note}, AHEAD)
    for name, one in reserves.items():
        found = read.of(("cluster", name), 600.0, NOW)
        if not (read.unread or one.quiet):
            assert found.asked == {"event": 2}
            assert found.start - found.serving == 10
    assert bool(read.unread) == (scopes == 4000)


def test_losses_of_a_minute_count_as_long_as_any_of_it_does() -> None:
    assert net({10: -3}, 10 * 60 + 59) == -3
    assert net({10: -3}, 11 * 60 + 1) == 0
    assert net({10: 3}, 10 * 60) == 3
    assert net({10: 3}, 10 * 60 + 1) == 0


def test_what_was_lost_before_the_window_is_no_more_in_the_sum() -> None:
    one = Member(0)
    for plan in one.plans[:5]:
        one.made(plan)
    notes = {0: Note(one.note())}
    read = elsewhere(notes, (), AHEAD)
    assert read.of(SCOPE, 600.0, NOW).start == SERVING
    assert read.of(SCOPE, 600.0, NOW + 700.0).start == SERVING - 5
    assert elsewhere(notes, {0}, AHEAD).of(SCOPE, 600.0, NOW).start == 0


def test_who_takes_a_shard_over_counts_what_the_one_before_lost() -> None:
    before, after = Member(0), Member(0, SERVING - 3)
    for plan in before.plans[:3]:
        before.made(plan)
    note = decode(Note(before.note()))
    assert note is not None
    reserve = note.of(SCOPE)
    assert reserve is not None
    losses = after.gate.losses
    losses.enter(0, SCOPE, reserve.won, reserve.reused, AHEAD)
    losses.enter_service(Lost({TODAY: -2}, str(PAY)), AHEAD)
    assert (losses.net(SCOPE, NOW - 600.0), losses.windows.net(PAY)) == (-3, -2)
    losses.leave(0, lambda name: name == PAY)
    assert (losses.net(SCOPE, NOW - 600.0), losses.windows.net(PAY)) == (0, 0)


def test_only_the_shards_that_are_written_here_are_counted_here() -> None:
    losses = Losses()
    losses.made(PAY, SCOPE, -1, NOW, replaces=False, late=False, shard=0)
    losses.made(PAY, SCOPE, -2, NOW, replaces=False, late=False, shard=1)
    losses.withdrawn(SCOPE, NOW, shard=1)
    held = {0}
    losses.mine = lambda: held
    assert (losses.net(SCOPE, 0.0), losses.reused(SCOPE, 0.0)) == (-1, 0)
    held.add(1)
    assert (losses.net(SCOPE, 0.0), losses.reused(SCOPE, 0.0)) == (-3, 1)
    assert losses.whole(SCOPE, 10, 8, NOW, 600.0).lost == 5
