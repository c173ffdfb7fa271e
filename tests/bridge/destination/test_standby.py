"""What one writer knows, the next one knows: freezes, sets shown and approved, and the guard's window."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from adapters.memory import Memory
from adapters.memory.seat import MemorySeat
from adapters.memory.server import Store as Server
from bridge.adapter import Term
from bridge.destination.destination import Destination
from bridge.destination.note import LIMIT, Act, Shared, decode, encode, fitting, followed, pass_on, refusal
from bridge.destination.standby import FORGOTTEN, SAY, Standby
from bridge.destination.writer import Writer
from bridge.engine.stopping import waited
from bridge.errors import ConfigError, Conflict, Superseded, Unavailable
from bridge.guard.losses import Lost
from bridge.model import ServiceName
from bridge.sources.store import Store
from bridge.state.decisions import Decision, Kind, merged, name_of, stricter
from bridge.state.folder import State
from tests.bridge.core import Record
from tests.kit.builders import PAY, link

LINK = "source-to-target"
SCOPE = ("memory:source", "")
ITEM = (LINK, "pay", "i1")


class Clock:
    """One for both: seconds since the epoch, and monotonic ones."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Host:
    """One daemon of the bridge, as far as its destination's note goes."""

    def __init__(
        self,
        name: str,
        folder: Path,
        server: Server,
        clock: Clock,
        file: str = "file",
        to: str = "target",
        state: State | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.name = name
        self.record = Record()
        self.state = state if state is not None else State(folder, clock)
        self.sink = Memory(to, server).sink("bridge")
        self.seat = MemorySeat(server, "bridge")
        self.destination = Destination(
            name=to,
            owner="bridge",
            sink=self.sink,
            links=[link(to)],
            store=Store(clock),
            events=self.record,
            clock=clock,
            frozen=lambda _: False,
        )
        self.destination.inventory.identity = server.identity
        self.standby = Standby(
            self.seat,
            self.destination,
            self.state,
            self.record,
            me=lambda: Writer(name, 1, 0.0, file),
            clock=clock,
            wall=clock,
            keys=lambda: {"links.source-to-target": file, "registries.target": "same"},
            acts=lambda: self.acts,
        )
        self.acts: list[Act] = []
        self.term: Term | None = None

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[None]:
        """The time of one writer."""
        async with self.seat.writer() as term:
            await self.standby.inherit()
            self.term = term
            try:
                yield
            finally:
                self.term = None

    async def look(self) -> None:
        await self.standby.look(self.term)

    @property
    def frozen(self) -> bool:
        return self.state.frozen(LINK) is not None


class Pair:
    """Two hosts and what they share."""

    def __init__(self, folder: Path) -> None:
        self.server = Server("memory:target")
        self.clock = Clock()
        self._folder = folder
        self.one, self.two = (self.host(name) for name in ("one", "two"))

    def host(self, name: str, file: str = "file") -> Host:
        """The daemon of that host, started anew."""
        return Host(name, self._folder / name, self.server, self.clock, file)

    def shared(self) -> Shared:
        found = decode(self.server.recall("bridge"))
        assert found is not None
        return found

    def elsewhere(self, host: Host, server: Server) -> Host:
        """What the daemon of a host knows by the note at another destination."""
        return Host(host.name, self._folder / host.name, server, self.clock, to="elsewhere", state=host.state)

    async def talk(self) -> None:
        """Everybody hears everybody."""
        for _ in range(3):
            for each in (self.one, self.two):
                await each.look()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def freeze(until: float | None = None, reason: str = "why") -> Decision:
    return Decision(kind=Kind.FREEZE, key=LINK, reason=reason, by="somebody", at=1.0, until=until)


def approval(*ids: str) -> Decision:
    items = tuple((LINK, "pay", id) for id in ids)
    return Decision(kind=Kind.APPROVAL, key="digest", at=1.0, until=901.0, items=items)


FROZEN = name_of(Kind.FREEZE, LINK)
ALL_FROZEN = name_of(Kind.FREEZE, "*")


A, B, SHORT, LONG = freeze(), freeze(reason="another"), freeze(5.0), freeze(9.0)


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "wanted"),
    [
        (None, None, None, None),
        (None, A, None, A),
        (None, None, A, A),
        (A, A, None, None),
        (A, None, A, None),
        (A, None, None, None),
        (A, B, A, B),
        (A, A, B, B),
        (A, None, B, B),
        (A, B, None, B),
        (None, SHORT, LONG, LONG),
        (None, LONG, SHORT, LONG),
        (None, SHORT, A, A),
        (None, A, LONG, A),
    ],
)
def test_whoever_changed_a_freeze_has_the_word_and_of_two_the_stricter(
    base: Decision | None, ours: Decision | None, theirs: Decision | None, wanted: Decision | None
) -> None:
    assert merged(base, ours, theirs) == wanted
    strict = [stricter(ours, theirs), stricter(theirs, ours)]
    assert len({one and one.until for one in strict}) == 1


async def test_a_freeze_reaches_every_host_wherever_it_was_made(pair: Pair) -> None:
    async with pair.one.lead():
        await pair.talk()
        pair.two.state.decisions.freeze(LINK, "on the standby", "operator")
        await pair.talk()
        assert pair.one.frozen
        pair.one.state.decisions.unfreeze(LINK)
        await pair.talk()
        assert not pair.two.frozen
        pair.one.state.decisions.freeze("*", "on the writer", "operator", lasting=60.0)
        await pair.talk()
        assert pair.two.frozen
        pair.clock.now += 61.0
        await pair.talk()
        assert not (pair.one.frozen or pair.two.frozen)
    assert pair.one.record.count("freeze") == 1
    assert pair.two.record.count("freeze") == 1


async def test_the_next_writer_inherits_a_freeze_before_it_writes(pair: Pair) -> None:
    async with pair.one.lead():
        pair.one.state.decisions.freeze(LINK, "why", "operator")
        await pair.one.look()
    async with pair.two.lead():
        assert pair.two.frozen


async def test_what_an_operator_undid_without_a_daemon_stays_undone(pair: Pair) -> None:
    async with pair.one.lead():
        pair.one.state.decisions.freeze(LINK, "why", "operator")
        await pair.talk()
    assert pair.one.state.save()
    command = State(pair.one.state.folder, pair.clock)
    assert command.decisions.unfreeze(LINK)
    assert command.save()
    pair.one = pair.host("one")
    async with pair.one.lead():
        assert not pair.one.frozen
        await pair.talk()
        assert not pair.two.frozen


@pytest.mark.parametrize("how", ["emptied", "restored"])
async def test_a_destination_that_lost_the_note_thaws_nothing(pair: Pair, how: str) -> None:
    async with pair.one.lead():
        await pair.talk()
        backup = pair.server.save()
        pair.one.state.decisions.freeze(LINK, "why", "operator")
        await pair.talk()
    if how == "restored":
        pair.server.restore(backup)
    else:
        pair.server.empty()
    async with pair.two.lead():
        assert pair.two.frozen
        await pair.talk()
        assert FROZEN in pair.shared().decisions
        assert pair.one.frozen


@pytest.mark.parametrize("how", ["emptied", "restored"])
async def test_a_freeze_outlives_a_note_that_only_its_own_host_has_read(pair: Pair, how: str) -> None:
    async with pair.one.lead():
        await pair.talk()
        backup = pair.server.save()
        pair.one.state.decisions.freeze(LINK, "why", "operator")
        await pair.one.look()
    if how == "restored":
        pair.server.restore(backup)
    else:
        pair.server.empty()
    async with pair.two.lead():
        await pair.two.look()
        await pair.talk()
        assert pair.one.frozen
        assert pair.two.frozen


async def test_a_freeze_in_a_note_that_was_begun_anew_counts(pair: Pair) -> None:
    """The destination lost its note, and a host that had read little of it freezes before the others look again."""
    async with pair.one.lead():
        for _ in range(5):
            pair.one.state.decisions.freeze(LINK, "why", "operator")
            await pair.talk()
            pair.one.state.decisions.unfreeze(LINK)
            await pair.talk()
    pair.server.empty()
    pair.two = pair.host("new")
    pair.clock.now += 1.0
    pair.two.state.decisions.freeze(LINK, "again", "operator")
    began = await pair.two.standby.pass_on()
    assert began.turn < pair.one.state.told.entries["target"].turn
    async with pair.two.lead():
        await pair.talk()
        assert pair.two.frozen
        assert pair.one.frozen


async def test_a_freeze_that_has_ended_does_not_return_with_a_backup(pair: Pair) -> None:
    async with pair.one.lead():
        pair.one.state.decisions.freeze(LINK, "why", "operator")
        await pair.talk()
        backup = pair.server.save()
        pair.one.state.decisions.unfreeze(LINK)
        await pair.talk()
    pair.server.restore(backup)
    pair.one = pair.host("one")  # it ended before this process began
    async with pair.one.lead():
        await pair.talk()
        assert not (pair.one.frozen or pair.two.frozen)
        assert FROZEN not in pair.shared().decisions


async def test_what_is_taken_back_ends_in_every_note_though_one_still_has_it(pair: Pair) -> None:
    """Who had not heard of it yet carries it from one note into the other: each of the two would undo the other."""
    server = Server("memory:elsewhere")
    there = pair.elsewhere(pair.one, server)
    async with pair.one.lead(), there.lead():
        pair.one.state.decisions.freeze("*", "why", "operator")
        await pair.one.look()
        await there.look()
        pair.one.state.decisions.unfreeze("*")
        await pair.one.look()
        other = pair.elsewhere(pair.two, server)
        await other.look()
        assert pair.two.frozen, "as the one note says still"
        await pair.two.look()
        for _ in range(4):
            for each in (pair.one, there, pair.two, other):
                await each.look()
            assert not (pair.one.frozen or pair.two.frozen)
    assert pair.one.record.count("freeze") == 0
    assert pair.two.record.count("unfreeze") + other.record.count("unfreeze") == 1


@pytest.mark.parametrize("content", [b"{", b'{"format": 2, "turn": 9, "writer": null}', b'{"format": -5}'])
async def test_a_note_that_cannot_be_read_stops_all_writes(pair: Pair, content: bytes) -> None:
    await pair.one.seat.note(content, None, term=None)
    with pytest.raises(ValueError, match=r"truncated|Expected|no note has the format -5"):
        await pair.two.look()
    async with pair.one.lead():
        assert pair.one.frozen
        await pair.one.look()
    assert ALL_FROZEN in pair.shared().decisions


async def test_a_set_shown_by_one_writer_is_approved_at_the_next(pair: Pair) -> None:
    async with pair.one.lead():
        pair.one.state.decisions.show("digest", (ITEM,))
        pair.one.state.decisions.show("of another destination", (("elsewhere", "pay", "i1"),))
        await pair.one.look()
    async with pair.two.lead():
        assert pair.two.state.decisions.of(Kind.SHOWN).keys() == {"digest"}
        with pytest.raises(ValueError, match="nothing of digest is held any more"):
            pair.two.destination.holds.approve("digest", 0.0)
    with pytest.raises(KeyError):
        pair.host("three").destination.holds.approve("digest", 0.0)


async def test_what_was_approved_and_has_not_gone_yet_may_go_under_the_next_writer(pair: Pair) -> None:
    gone = (LINK, "pay", "gone")
    async with pair.one.lead():
        pair.one.state.decisions.approve("digest", (ITEM, gone), "why", "operator")
        await pair.talk()
        assert pair.two.state.decisions.of(Kind.APPROVAL)["digest"].items == (ITEM, gone)
        await pair.one.state.spend([gone])
        await pair.one.look()
    async with pair.two.lead():
        assert pair.two.destination.holds.granted()[ITEM].until == pair.clock.now + 900.0
        assert gone not in pair.two.destination.holds.granted()
        assert pair.two.state.decisions.of(Kind.APPROVAL)["digest"].items == (ITEM,)


def test_of_an_approval_only_what_no_host_has_used_is_left() -> None:
    both, one, other = approval("i1", "i2"), approval("i1"), approval("i2")
    assert merged(both, one, both) == one
    assert merged(both, one, other) is None
    assert merged(both, None, one) is None
    left = merged(both, approval("i1", "i2", "i3"), approval("i2", "i3"))
    assert left is not None and left.items == approval("i2", "i3").items


async def test_a_note_of_a_newer_isthmus_stops_this_one_and_freezes_nobody(pair: Pair) -> None:
    await pair.one.seat.note(b'{"format": 3, "version": "9.1.0"}', None, term=None)
    with pytest.raises(ConfigError, match=r"run isthmus 9\.1\.0"):
        await pair.two.look()
    with pytest.raises(Unavailable, match=r"run isthmus 9\.1\.0"):
        async with pair.one.lead():
            pass
    assert not pair.one.frozen


async def test_a_command_on_any_host_freezes_the_writer_and_hears_of_it(pair: Pair) -> None:
    seat = pair.host("command").seat
    made = freeze()
    assert await pass_on(seat, made.name, None) is None, "nobody has ever written there"
    async with pair.one.lead():
        await pair.talk()
        told = await pass_on(seat, made.name, made)
        assert told is not None and told.seen < told.turn
        following = asyncio.create_task(followed(seat, told.turn))
        await asyncio.sleep(0)
        assert not pair.one.frozen
        await pair.one.look()
        assert pair.one.frozen
        heard = await following
        assert heard is not None and heard.writer.host == "one"
        await pass_on(seat, made.name, None)
        await pair.talk()
        assert not (pair.one.frozen or pair.two.frozen)


@pytest.mark.parametrize("who", ["a standby", "a command"])
async def test_a_freeze_where_there_is_no_note_waits_for_the_next_writer(pair: Pair, who: str) -> None:
    made = pair.two.state.decisions.freeze(LINK, "why", "operator")
    if who == "a standby":
        told = await pair.two.standby.pass_on()
    else:
        found = await pass_on(pair.two.seat, made.name, made)
        assert found is not None
        told = found
    assert told.author is None and told.seen < told.turn
    assert (await waited(pair.two.seat, "target", told, patience=0.01)).row["followed"], "nobody writes"
    async with pair.one.lead():
        assert pair.one.frozen, "before it writes"
        await pair.one.look()
        assert pair.shared().seen >= told.turn
        assert pair.shared().standbys == {}
        await pair.two.look()
        assert pair.two.standby.writer is not None


async def test_the_note_of_format_1_is_taken_over_as_a_whole(pair: Pair) -> None:
    old = {
        "format": 1,
        "turn": 7,
        "writer": {"host": "old", "pid": 1, "since": 1.0, "configuration": "x"},
        "freezes": {LINK: {"reason": "why", "by": "me", "since": 5.0, "until": None}},
        "approvals": {"a1": {"items": [ITEM], "reason": "ok", "by": "me", "at": pair.clock.now}},
        "shown": {"s1": {"items": [ITEM], "at": pair.clock.now}},
        "losses": [{"won": {"16666": -1}, "service": "pay"}],
        "settled": [["memory:target", "id", ""]],
    }
    await pair.one.seat.note(json.dumps(old).encode(), None, term=None)
    pair.one.state.decisions.freeze("*", "new", "operator")
    with pytest.raises(Unavailable, match=r"old \(pid 1\) runs an older isthmus"):
        await pair.one.look()
    async with pair.two.lead():
        freeze = pair.two.state.frozen(LINK)
        assert freeze is not None and (freeze.reason, freeze.at) == ("why", 5.0)
        assert ITEM in pair.two.destination.holds.granted()
        assert ("memory:target", "id", "") in pair.two.destination.settled
        await pair.two.look()
        shared = pair.shared()
        assert (shared.format, shared.turn) == (2, 7)
        assert shared.decisions.keys() == {FROZEN, "approval a1", "shown s1"}


async def test_what_the_last_writer_took_away_counts_for_the_next_and_only_once(pair: Pair) -> None:
    now = pair.clock.now
    async with pair.one.lead():
        pair.one.destination.losses.windows.add(PAY, now - 300.0, -2)
        pair.one.destination.losses.windows.add(SCOPE, now - 300.0, -2)
        pair.one.destination.losses.windows.add(ServiceName("grown"), now - 10.0, 5)
        await pair.one.look()
    pair.two.destination.losses.windows.add(SCOPE, now - 290.0, -1)  # of which it saw one
    async with pair.two.lead():
        windows = pair.two.destination.losses.windows
        assert windows.start(PAY, 3, now, 600.0) == 5
        assert windows.start(SCOPE, 3, now, 600.0) == 5
        assert windows.start(ServiceName("grown"), 8, now, 600.0) == 8
        assert windows.start(PAY, 3, now + 361.0, 600.0) == 3  # it was told by the minute


async def test_a_loss_after_a_larger_gain_counts_for_the_next_writer(pair: Pair) -> None:
    """A window shorter than the longest one holds the loss alone."""
    now = pair.clock.now
    async with pair.one.lead():
        pair.one.destination.losses.windows.add(PAY, now - 500.0, 5)
        pair.one.destination.losses.windows.add(PAY, now - 70.0, -3)
        await pair.one.look()
    async with pair.two.lead():
        assert pair.two.destination.losses.windows.start(PAY, 7, now, 180.0) == 10


async def test_what_a_standby_has_seen_itself_it_knows_better_than_the_note(pair: Pair) -> None:
    """Notes are old by seconds: taken over at each turn, what was lost for a moment would never be won back."""
    now = pair.clock.now
    pair.two.destination.since = now - 120.0
    async with pair.one.lead():
        pair.one.destination.losses.windows.add(PAY, now - 300.0, -2)
        pair.one.destination.losses.windows.add(PAY, now - 1.0, -3)
        await pair.one.look()
    for _ in range(2):
        async with pair.two.lead():
            assert pair.two.destination.losses.windows.start(PAY, 3, now, 600.0) == 5


async def test_the_first_copies_that_are_done_are_done_for_the_next_writer(pair: Pair) -> None:
    done = ("memory:target", "memory:source", "")
    async with pair.one.lead():
        pair.one.destination.settled.add(done)
        await pair.talk()
        assert done in pair.two.destination.settled
    async with pair.two.lead():
        assert done in pair.two.state.settled()


async def test_nothing_is_noted_while_nothing_changes(pair: Pair) -> None:
    async with pair.one.lead():
        await pair.talk()
        note = pair.server.recall("bridge")
        for _ in range(20):
            pair.clock.now += 1.0
            await pair.talk()
        assert pair.server.recall("bridge") == note
        pair.one.destination.losses.windows.add(PAY, pair.clock.now, -1)
        await pair.talk()
        noted = pair.server.recall("bridge")
        assert noted != note
        for _ in range(9):
            pair.one.destination.losses.windows.add(PAY, pair.clock.now, -1)
            await pair.talk()
            pair.clock.now += 1.0
        assert pair.server.recall("bridge") == noted  # losses are told every ten seconds, if there are any
        pair.clock.now += 1.0
        await pair.talk()
        assert pair.server.recall("bridge") != noted


async def test_a_standby_knows_who_writes_and_by_which_file(pair: Pair) -> None:
    assert pair.two.standby.writer is None
    pair.clock.now += 5.0
    async with pair.one.lead():
        await pair.talk()
        assert pair.two.standby.writer == Writer("one", 1, pair.clock.now, "file")
    pair.one = pair.host("one", file="new file")
    async with pair.one.lead():
        await pair.talk()
    assert pair.two.standby.writer is not None
    assert pair.two.standby.writer.configuration == "new file"


async def test_every_host_knows_who_stands_by_and_since_when_it_said_so(pair: Pair) -> None:
    async with pair.one.lead():
        await pair.talk()
        said = pair.clock.now
        (standby,) = pair.one.standby.members
        assert (standby.role, standby.seen, standby.process) == ("standby", said, Writer("two", 1, 0.0, "file"))
        pair.clock.now += SAY
        await pair.talk()
        assert [one.seen for one in pair.one.standby.members] == [said + SAY]
        pair.clock.now += FORGOTTEN
        await pair.one.look()
        assert pair.one.standby.members == ()


async def test_a_writer_that_lost_its_lock_is_gone_until_it_stands_by(pair: Pair) -> None:
    async with pair.one.lead():
        await pair.talk()
    async with pair.two.lead():
        await pair.two.look()
        assert [(one.role, one.process.host) for one in pair.two.standby.members] == [("gone", "one")]
        await pair.talk()
        assert [(one.role, one.process.host) for one in pair.two.standby.members] == [("standby", "one")]
        assert pair.one.standby.members == ()


async def test_a_standby_names_the_keys_that_differ_from_the_writers_file(pair: Pair) -> None:
    pair.two = pair.host("two", file="another")
    async with pair.one.lead():
        await pair.talk()
        assert list(pair.two.standby.differing) == ["links.source-to-target"]
        assert list(pair.one.standby.differing) == []
    async with pair.two.lead():
        await pair.talk()
        assert list(pair.two.standby.differing) == []


async def test_what_operators_did_at_the_writer_is_told_on_every_host_once(pair: Pair) -> None:
    async with pair.one.lead():
        pair.one.acts.append(Act(at=pair.clock.now, kind="approve", link=LINK, by="uid=0", reason="CHG-1"))
        await pair.talk()
    told = ("approve", {"link": LINK, "by": "uid=0", "reason": "CHG-1", "host": "one"})
    assert [one for one in pair.two.record.happened if one[0] == "approve"] == [told]
    pair.two.state.save()
    pair.two = pair.host("two")
    async with pair.two.lead():
        await pair.talk()
    for host in (pair.one, pair.two):
        assert [one for one in host.record.happened if one[0] == "approve"] == []


async def test_a_writer_without_its_lock_notes_nothing(pair: Pair) -> None:
    async with pair.one.lead():
        await pair.one.look()
        note = pair.server.recall("bridge")
        pair.server.take_lock("bridge")
        pair.one.state.decisions.show("digest", (ITEM,))
        with pytest.raises(Superseded):
            await pair.one.look()
    assert pair.server.recall("bridge") == note


async def test_two_who_note_at_once_lose_nothing(pair: Pair) -> None:
    async with pair.one.lead():
        await pair.talk()
        pair.one.state.decisions.freeze("*", "one", "operator")
        pair.two.state.decisions.freeze(LINK, "two", "operator")
        results = await asyncio.gather(pair.one.look(), pair.two.look(), return_exceptions=True)
        assert [type(result) for result in results if result] in ([], [Conflict])
        await pair.talk()
        assert pair.shared().decisions.keys() == {ALL_FROZEN, FROZEN}


def test_freezes_find_room_where_the_rest_does_not() -> None:
    ids = [f"i{number}" for number in range(2_000)]
    sets = {f"approval {n}": replace(approval(*ids), key=str(n), at=float(n)) for n in range(30)}
    decisions = fitting({FROZEN: A, **sets})
    assert FROZEN in decisions and "approval 29" in decisions and "approval 0" not in decisions
    losses = tuple(Lost(dict.fromkeys(range(60), -1), f"s{n}") for n in range(1000) for number in [n])
    content = encode(Shared(turn=1, writer=Writer("one", 1, 0.0, ""), decisions=decisions, losses=losses))
    assert len(content) <= LIMIT
    assert b'"freeze source-to-target"' in content


def test_a_freeze_that_finds_no_room_in_a_note_is_refused_with_the_number() -> None:
    freezes = [replace(A, key=f"link{number}", reason="r" * 1000) for number in range(60)]
    assert refusal(freezes[:50], "another", "why") == ""
    assert refusal(freezes * 2, "another", "why") == ""
    many = [replace(A, key=f"link{number}", reason="r" * 1000) for number in range(70)]
    assert "there are 71 decisions in force" in refusal(many, "another", "why")
