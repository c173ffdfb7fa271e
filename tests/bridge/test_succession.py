"""What one writer knows, the next one knows: freezes, sets shown and approved, and the guard's window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.memory import Memory
from adapters.memory.server import Store as Server
from bridge.desk import Desk
from bridge.errors import Conflict, Superseded
from bridge.model import ServiceName
from bridge.reconcile import Writer
from bridge.state import Approval, Freeze, State
from bridge.store import Store
from bridge.succession import LIMIT, Shared, Succession, decode, encode, merged, stricter
from tests.bridge.core import PAY, Ear, link

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

    def __init__(self, name: str, folder: Path, server: Server, clock: Clock, file: str = "file") -> None:
        folder.mkdir(exist_ok=True)
        self.name = name
        self.ear = Ear()
        self.state = State(folder, clock)
        self.sink = Memory("target", server).sink("bridge")
        self.desk = Desk(
            owner="bridge",
            sink=self.sink,
            links=[link()],
            store=Store(clock),
            ear=self.ear,
            clock=clock,
            frozen=lambda _: False,
        )
        self.desk.identity = server.identity
        self.succession = Succession(
            "target",
            self.sink,
            self.desk,
            self.state,
            self.ear,
            me=lambda: Writer(name, 1, 0.0, file),
            clock=clock,
            wall=clock,
        )
        self.writing = False

    @asynccontextmanager
    async def reign(self) -> AsyncIterator[None]:
        """The time of one writer."""
        async with self.sink.writer():
            await self.succession.inherit()
            self.writing = True
            try:
                yield
            finally:
                self.writing = False

    async def look(self) -> None:
        await self.succession.look(self.writing)

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

    async def talk(self) -> None:
        """Everybody hears everybody."""
        for _ in range(3):
            for each in (self.one, self.two):
                await each.look()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def freeze(until: float | None = None, reason: str = "why") -> Freeze:
    return Freeze(reason=reason, by="somebody", since=1.0, until=until)


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
    base: Freeze | None, ours: Freeze | None, theirs: Freeze | None, wanted: Freeze | None
) -> None:
    assert merged(base, ours, theirs) == wanted
    strict = [stricter(ours, theirs), stricter(theirs, ours)]
    assert len({one and one.until for one in strict}) == 1


async def test_a_freeze_reaches_every_host_wherever_it_was_made(pair: Pair) -> None:
    async with pair.one.reign():
        await pair.talk()
        pair.two.state.freeze(LINK, "on the standby", "operator")
        await pair.talk()
        assert pair.one.frozen
        pair.one.state.unfreeze(LINK)
        await pair.talk()
        assert not pair.two.frozen
        pair.one.state.freeze("*", "on the writer", "operator", lasting=60.0)
        await pair.talk()
        assert pair.two.frozen
        pair.clock.now += 61.0
        await pair.talk()
        assert not (pair.one.frozen or pair.two.frozen)
    assert pair.one.ear.count("freeze") == 1
    assert pair.two.ear.count("freeze") == 1


async def test_the_next_writer_inherits_a_freeze_before_it_writes(pair: Pair) -> None:
    async with pair.one.reign():
        pair.one.state.freeze(LINK, "why", "operator")
        await pair.one.look()
    async with pair.two.reign():
        assert pair.two.frozen


async def test_what_an_operator_undid_without_a_daemon_stays_undone(pair: Pair) -> None:
    async with pair.one.reign():
        pair.one.state.freeze(LINK, "why", "operator")
        await pair.talk()
    State(pair.one.state.folder, pair.clock).unfreeze(LINK)
    pair.one = pair.host("one")
    async with pair.one.reign():
        assert not pair.one.frozen
        await pair.talk()
        assert not pair.two.frozen


@pytest.mark.parametrize("how", ["emptied", "restored"])
async def test_a_destination_that_lost_the_note_thaws_nothing(pair: Pair, how: str) -> None:
    async with pair.one.reign():
        await pair.talk()
        backup = pair.server.save()
        pair.one.state.freeze(LINK, "why", "operator")
        await pair.talk()
    if how == "restored":
        pair.server.restore(backup)
    else:
        pair.server.empty()
    async with pair.two.reign():
        assert pair.two.frozen
        await pair.talk()
        assert LINK in pair.shared().freezes
        assert pair.one.frozen


@pytest.mark.parametrize("content", [b"{", b'{"format": 2, "turn": 9, "writer": null}'])
async def test_a_note_that_cannot_be_read_stops_all_writes(pair: Pair, content: bytes) -> None:
    await pair.one.sink.note(content, None, writer=False)
    with pytest.raises(ValueError, match=r"truncated|format is 2"):
        await pair.two.look()
    async with pair.one.reign():
        assert pair.one.frozen
        await pair.one.look()
    assert "*" in pair.shared().freezes


async def test_a_set_shown_by_one_writer_is_approved_at_the_next(pair: Pair) -> None:
    async with pair.one.reign():
        pair.one.state.show("digest", (ITEM,))
        pair.one.state.show("of another destination", (("elsewhere", "pay", "i1"),))
        await pair.one.look()
    async with pair.two.reign():
        assert pair.two.state.shown.entries.keys() == {"digest"}
        assert pair.two.desk.holds.approve("digest", 0.0) == ()  # nothing of it is asked any more
    with pytest.raises(KeyError):
        pair.host("three").desk.holds.approve("digest", 0.0)


async def test_what_was_approved_and_has_not_gone_yet_may_go_under_the_next_writer(pair: Pair) -> None:
    gone = (LINK, "pay", "gone")
    async with pair.one.reign():
        pair.one.state.approve("digest", (ITEM, gone), "why", "operator")
        pair.one.desk.holds.free([ITEM])
        await pair.one.look()
    async with pair.two.reign():
        assert pair.two.desk.holds.waits_for([ITEM])
        assert not pair.two.desk.holds.waits_for([gone])
        assert pair.two.state.approvals.entries["digest"].items == (ITEM,)


async def test_what_the_last_writer_took_away_counts_for_the_next_and_only_once(pair: Pair) -> None:
    now = pair.clock.now
    async with pair.one.reign():
        pair.one.desk.windows.add(PAY, now - 300.0, -2)
        pair.one.desk.windows.add(SCOPE, now - 300.0, -2)
        pair.one.desk.windows.add(ServiceName("grown"), now - 10.0, 5)
        await pair.one.look()
    pair.two.desk.windows.add(SCOPE, now - 290.0, -1)  # of which it saw one
    async with pair.two.reign():
        windows = pair.two.desk.windows
        assert windows.start(PAY, 3, now, 600.0) == 5
        assert windows.start(SCOPE, 3, now, 600.0) == 5
        assert windows.start(ServiceName("grown"), 8, now, 600.0) == 8
        assert windows.start(PAY, 3, now + 361.0, 600.0) == 3  # it was told by the minute


async def test_what_a_standby_has_seen_itself_it_knows_better_than_the_note(pair: Pair) -> None:
    """Notes are old by seconds: taken over at each turn, what was lost for a moment would never be won back."""
    now = pair.clock.now
    pair.two.desk.since = now - 120.0
    async with pair.one.reign():
        pair.one.desk.windows.add(PAY, now - 300.0, -2)
        pair.one.desk.windows.add(PAY, now - 1.0, -3)
        await pair.one.look()
    for _ in range(2):
        async with pair.two.reign():
            assert pair.two.desk.windows.start(PAY, 3, now, 600.0) == 5


async def test_the_first_copies_that_are_done_are_done_for_the_next_writer(pair: Pair) -> None:
    done = ("memory:target", "memory:source", "")
    async with pair.one.reign():
        pair.one.desk.settled.add(done)
        await pair.talk()
        assert done in pair.two.desk.settled
    async with pair.two.reign():
        assert done in pair.two.state.settled()


async def test_nothing_is_noted_while_nothing_changes(pair: Pair) -> None:
    async with pair.one.reign():
        await pair.talk()
        note = pair.server.recall("bridge")
        for _ in range(20):
            pair.clock.now += 1.0
            await pair.talk()
        assert pair.server.recall("bridge") == note
        pair.one.desk.windows.add(PAY, pair.clock.now, -1)
        await pair.talk()
        noted = pair.server.recall("bridge")
        assert noted != note
        for _ in range(9):
            pair.one.desk.windows.add(PAY, pair.clock.now, -1)
            await pair.talk()
            pair.clock.now += 1.0
        assert pair.server.recall("bridge") == noted  # losses are told every ten seconds, if there are any
        pair.clock.now += 1.0
        await pair.talk()
        assert pair.server.recall("bridge") != noted


async def test_a_standby_knows_who_writes_and_by_which_file(pair: Pair) -> None:
    assert pair.two.succession.writer is None
    pair.clock.now += 5.0
    async with pair.one.reign():
        await pair.talk()
        assert pair.two.succession.writer == Writer("one", 1, pair.clock.now, "file")
    pair.one = pair.host("one", file="new file")
    async with pair.one.reign():
        await pair.talk()
    assert pair.two.succession.writer is not None
    assert pair.two.succession.writer.configuration == "new file"


async def test_a_writer_without_its_lock_notes_nothing(pair: Pair) -> None:
    async with pair.one.reign():
        await pair.one.look()
        note = pair.server.recall("bridge")
        pair.server.take_lock("bridge")
        pair.one.state.show("digest", (ITEM,))
        with pytest.raises(Superseded):
            await pair.one.look()
    assert pair.server.recall("bridge") == note


async def test_two_who_note_at_once_lose_nothing(pair: Pair) -> None:
    async with pair.one.reign():
        await pair.talk()
        pair.one.state.freeze("*", "one", "operator")
        pair.two.state.freeze(LINK, "two", "operator")
        results = await asyncio.gather(pair.one.look(), pair.two.look(), return_exceptions=True)
        assert [type(result) for result in results if result] in ([], [Conflict])
        await pair.talk()
        assert pair.shared().freezes.keys() == {"*", LINK}


def test_freezes_find_room_where_the_rest_does_not() -> None:
    items = tuple((LINK, "pay", f"i{number}") for number in range(20_000))
    approvals = {str(n): Approval(items=items, reason="why", by="x", at=float(n)) for n in range(3)}
    whole = Shared(format=1, turn=1, writer=Writer("one", 1, 0.0, ""), freezes={LINK: A}, approvals=approvals)
    content = encode(whole)
    assert len(content) <= LIMIT
    assert b'"2":{"items"' not in content
    assert b'"freezes":{"source-to-target"' in content
