"""Natives that migrations take out of service, in the daemon that moves the steps: which go next, and their levers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bridge.adapter import Lever, Levers, Note, Notes, Term
from bridge.engine import moves
from bridge.engine.engine import Engine
from bridge.errors import Conflict, Denied, Rejected, Unavailable
from bridge.migration.block import Migration
from bridge.migration.intent import Intent, Record
from bridge.migration.natives import KEPT, Kept, Other, Out, Write, batch, crowded, put_back, write
from bridge.migration.phases import Phase
from bridge.model import ServiceName
from bridge.report.attention import Finding, few
from bridge.state.journal import Journal

log = logging.getLogger("isthmus.daemon")

EVERY = 1.0  # seconds between two looks
ASSERT = 10.0  # seconds between two looks at a lever that stood as it should: owners and servers forget it
AT_ONCE = 16  # levers that are looked at at a time
SAID = 600.0  # seconds for which it is said that a native was back in service

Place = tuple[str, str]  # the registry, and the place of the lever in its store


class Wanted(NamedTuple):
    """The natives that must be out by one lever, by key."""

    move: str
    service: ServiceName
    keys: tuple[str, ...]


class Held(NamedTuple):
    """How a lever was found last: as it should be for these natives, at that time of the loop's clock."""

    keys: tuple[str, ...]
    at: float


class Natives:
    """`follows`: whether every daemon follows a move as it is; before that no lever is moved for it."""

    def __init__(
        self, engine: Engine, journal: Journal, follows: Callable[[Intent], bool], every: float = ASSERT
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._follows = follows
        self._every = every
        self._kept: dict[Place, tuple[Kept, Note]] = {}
        self._read = False  # whether that is what the notes say
        self._turn = -1  # of the record by which all levers were looked at last
        self._held: dict[Place, Held] = {}
        self._why: dict[Place, str] = {}
        self._tried: dict[str, float] = {}  # by move: when a batch was chosen last
        self._returned: dict[str, tuple[float, str]] = {}  # by move: when a native was found back, and which

    def begin(self) -> None:
        """A term begins: another daemon may have moved any lever."""
        self._read, self._turn = False, -1
        self._held.clear()
        self._why.clear()

    async def keep(self, record: Callable[[], Record], notes: Callable[[], Notes | None], term: Term) -> None:
        """Holds the levers for as long as a term lasts; what is out of reach is looked at again. Never returns."""
        self.begin()
        while True:
            at = notes()
            if at is not None:
                try:
                    await self.hold(record(), at, term)
                except (Unavailable, Denied) as error:
                    log.warning("%s what=natives reason=%r", type(error).__name__, str(error))
            await asyncio.sleep(EVERY)

    # -- which natives go

    async def chosen(self, block: Migration, intent: Intent, found: Sequence[moves.Spot]) -> dict[str, Out]:
        """The natives that are out after one more batch, at every place. Raises Rejected, Unavailable, Denied."""
        self._tried[intent.name] = time.time()
        after: dict[str, Out] = {}
        for one in found:
            identity = self._engine.reconcilers[one.place].destination.identity
            before = intent.out.get(one.place) or Out(identity, one.name, ({},) * intent.state.batches)
            levers, left = moves.levers_of(self._engine, one.place), moves.movable(self._engine, block, one)
            places: Mapping[str, str] = {}
            if levers is not None and left:
                by_key = {levers.key_of(each): each for each in left}
                keys = batch(intent.name, by_key, len(before.levers))
                places = await levers.places(one.name, [by_key[key] for key in keys])
            after[one.place] = before.plus(places)
        return after

    def may_try(self, move: str) -> bool:
        """Whether a batch that could not go is to be tried again now."""
        return time.time() - self._tried.get(move, 0.0) >= self._every

    # -- their levers

    async def hold(self, record: Record, notes: Notes, term: Term) -> None:
        """One look at every lever that is due: natives that must be out are, and all others are back."""
        if not self._read:
            self._kept, self._read = await _read(notes), True
        wanted = _wanted(record)
        for place in self._held.keys() - wanted.keys():
            del self._held[place]
        self._why = {place: why for place, why in self._why.items() if place in wanted or place in self._kept}
        now = asyncio.get_running_loop().time()
        due = [place for place, one in wanted.items() if self._is_due(place, one, now)]
        due += [place for place in self._kept if place not in wanted]
        room = asyncio.Semaphore(AT_ONCE)

        async def work(place: Place) -> None:
            async with room:
                await self._look(place, wanted.get(place), record, notes, term)

        await asyncio.gather(*(work(place) for place in due))
        self._turn = record.turn

    def _is_due(self, place: Place, wanted: Wanted, now: float) -> bool:
        held = self._held.get(place)
        return held is None or held.keys != wanted.keys or now - held.at >= self._every

    async def _look(self, place: Place, wanted: Wanted | None, record: Record, notes: Notes, term: Term) -> None:
        try:
            done = await self._set(place, wanted, record, notes, term)
        except Conflict:
            self._read = False  # another daemon noted something, or somebody else writes there: looked at anew
            return
        except (Unavailable, Denied, Rejected) as error:
            self._why[place] = str(error)
            if wanted is not None and isinstance(error, Rejected):
                self._note_refused(place, wanted, str(error))
            return
        self._why.pop(place, None)
        if wanted is not None and done:
            self._held[place] = Held(wanted.keys, asyncio.get_running_loop().time())

    async def _set(self, place: Place, wanted: Wanted | None, record: Record, notes: Notes, term: Term) -> bool:
        """Has one lever stand as it should; whether it does. Raises what levers and notes do."""
        kept, note = self._kept.get(place, (None, None))
        levers = moves.levers_of(self._engine, place[0])
        intent = record.moves.get(wanted.move if wanted is not None else kept.move if kept is not None else "")
        if wanted is None and (intent is None or intent.state.phase is Phase.ABORTED):
            if intent is None and kept is not None and note is not None:  # forgotten: the engine has let go
                await notes.remove(kept.key, note)
                del self._kept[place]
            return True
        if levers is None:
            raise Unavailable(f"{place[0]} is no registry with levers in the file that runs")
        made, stands = await self._decided(levers, place, wanted, kept)
        if made is None:
            return True
        if wanted is not None and place in self._held and self._held[place].keys == wanted.keys:
            self._note_returned(wanted, f"{few(wanted.keys)} at {place[0]}")
        elif wanted is not None and intent is not None and not self._follows(intent):
            return False
        if asyncio.get_running_loop().time() >= term.until:
            return False
        if made.kept is not None:
            note = await notes.write(made.kept.key, msgspec.json.encode(made.kept), note)
            self._kept[place] = made.kept, note
        if made.content != stands.content:
            await levers.put(stands, made.content)
            self._tell(wanted, kept, place)
        if made.kept is None and kept is not None and note is not None:
            await notes.remove(kept.key, note)
            del self._kept[place]
        return True

    def _tell(self, wanted: Wanted | None, kept: Kept | None, place: Place) -> None:
        """What was done is written down: whose lever, and for whom; never what stands there."""
        out, before = set(wanted.keys if wanted is not None else ()), set(kept.out if kept is not None else ())
        said = [f"out: {few(sorted(out))}"] if out - before or not before - out else []
        said += [f"back: {few(sorted(before - out))}"] if before - out else []
        move, service = (wanted.move, wanted.service) if wanted is not None else (kept.move, kept.service)  # type: ignore[union-attr]
        reason = f"{move}: natives at {place[0]} {'; '.join(said)} ({place[1]})"
        log.warning("natives move=%s registry=%s reason=%r", move, place[0], reason)
        self._journal.append("migration", service=service, reason=reason)

    async def _decided(
        self, levers: Levers, place: Place, wanted: Wanted | None, kept: Kept | None
    ) -> tuple[Write | None, Lever]:
        stands = await levers.lever(place[1])
        if wanted is None:
            assert kept is not None
            without = kept.before if kept.is_ours(stands.content) else levers.set_to(stands, kept.service, ())
            return put_back(kept, stands.content, without), stands
        with_ours = levers.set_to(stands, wanted.service, wanted.keys)
        without = levers.set_to(stands, wanted.service, ())
        meant = Kept(wanted.move, place[0], place[1], wanted.service, wanted.keys)
        return write(kept, meant, stands.content, with_ours, without), stands

    # -- what is seen of them

    def lacking(self, intent: Intent) -> str:
        """What of a move's natives is not out yet, or not back yet; "" if all is as it should be."""
        if intent.out and self._turn < intent.turn:
            return "its natives are not looked at yet in this step"
        wanted = _wanted_of(intent)
        for place, one in wanted.items():
            held = self._held.get(place)
            if held is None or held.keys != one.keys:
                why = self._why.get(place, "")
                return f"natives at {place[0]} are not out of service yet{f': {why}' if why else ''}"
        for place, (kept, _) in self._kept.items():
            if kept.move == intent.name and place not in wanted:
                why = self._why.get(place, "")
                return f"natives at {place[0]} are not back in service yet{f': {why}' if why else ''}"
        return ""

    def _note_refused(self, place: Place, wanted: Wanted, why: str) -> None:
        """Somebody else says otherwise at a lever: it is left as it is, and its natives count as back."""
        if self._held.pop(place, None) is not None or wanted.move in self._returned:
            self._note_returned(wanted, why)

    def _note_returned(self, wanted: Wanted, text: str) -> None:
        self._returned[wanted.move] = time.time(), text

    def findings(self, record: Record) -> Iterator[Finding]:
        """Natives that were out, and were found back in service; and those that no batch took."""
        now = time.time()
        for move, (at, text) in self._returned.items():
            if move in record.moves and now - at < SAID:
                yield Finding("native-returned", move, f"back in service without us: {text}")
        for move, intent in record.moves.items():
            block = record.blocks[intent.migration]
            if block.natives == "steer" and intent.state.phase in (Phase.RETIRE, Phase.DONE):
                found = moves.spots(self._engine, block, move, intent.service)
                left = {one.place: moves.movable(self._engine, block, one) for one in found}
                for place, some in left.items():
                    if some:
                        text = f"{few([each.id for each in some])} at {place} serve, and no batch took them out"
                        yield Finding("native-returned", move, text, len(some))


def others(record: Record, intent: Intent, settles: Mapping[str, float]) -> list[Other]:
    """The newest batches of the other moves at the places of one. `settles`: seconds of the slowest reader of each."""
    return [
        Other(move, place, one.state.since, settles[place])
        for move, one in record.moves.items()
        if move != intent.name and one.state.batches and one.state.phase in (Phase.DRAIN, Phase.ROLLING_BACK)
        for place in one.out
        if place in settles
    ]


def waits(record: Record, intent: Intent, found: Sequence[moves.Spot], now: float) -> str:
    """Why no batch of natives may go at the places of a move now, "" if one may."""
    return crowded(others(record, intent, {one.place: one.settle for one in found}), now)


def _wanted(record: Record) -> dict[Place, Wanted]:
    found: dict[Place, Wanted] = {}
    for intent in record.moves.values():
        if intent.state.phase is not Phase.ABORTED:
            found.update(_wanted_of(intent))
    return found


def _wanted_of(intent: Intent) -> dict[Place, Wanted]:
    keys: dict[Place, list[str]] = {}
    for registry, out in intent.out.items():
        for key, place in out.levers.items():
            keys.setdefault((registry, place), []).append(key)
    return {place: Wanted(intent.name, intent.out[place[0]].name, tuple(sorted(some))) for place, some in keys.items()}


async def _read(notes: Notes) -> dict[Place, tuple[Kept, Note]]:
    """What is kept of every lever. Raises Unavailable or Denied."""
    found = {}
    for note in (await notes.below(KEPT)).values():
        with contextlib.suppress(msgspec.DecodeError):  # of a newer isthmus: nothing of it is touched
            kept = msgspec.json.decode(note.content, type=Kept)
            found[kept.registry, kept.place] = kept, note
    return found
