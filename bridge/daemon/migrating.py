"""Migrations in a daemon: every one follows the newest record, and the one with the lock moves the steps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from bridge.adapter import Note, Notes, Term, Waking
from bridge.config import kinds
from bridge.daemon.measuring import NOTHING, Asking
from bridge.daemon.natives import Natives, waits
from bridge.daemon.reporting import Reporting
from bridge.destination.reconciler import Reconciler
from bridge.destination.roll import Roll
from bridge.engine import moves
from bridge.engine.engine import Engine
from bridge.engine.observing import observe
from bridge.errors import ConfigError, Conflict, Denied, Rejected, Superseded, Unavailable
from bridge.migration import parity, quiet
from bridge.migration.block import Migration, Part
from bridge.migration.gates import Gate, Result, Timing, verdict
from bridge.migration.intent import DESTINATION, Intent, Record, Requests, decode, encode
from bridge.migration.natives import Gone, Left
from bridge.migration.phases import BEFORE_TRAFFIC, Facts, Looked, Phase, State, Waits, look, started
from bridge.migration.quiet import Quiet
from bridge.model import ServiceName
from bridge.plan.doses import Doses
from bridge.report import moving
from bridge.report.attention import Finding
from bridge.report.values import Row
from bridge.retry import BUG, Reaction, forever, react
from bridge.shards import WHOLE
from bridge.state import files
from bridge.state.journal import Journal

log = logging.getLogger("isthmus.daemon")

EVERY = 1.0  # seconds between two looks at the record
SOON = 0.1  # seconds between two looks where this process has changed something meanwhile
OBSERVE = 30.0  # seconds between two looks at the kinds of clients
KEY = "migrations"
UNCOUNTED = "nobody counts requests at natives that are out: their settle time is all there is"
TOGETHER = f"{UNCOUNTED}, as others of their side serve; with {{{{instances}}}} `requests` tells them apart"
BUSY = "{} others of the migration are on their way first, or two went back within the hour"
FILE = "migrations.json"


class Following:
    """Follows the record: its shares are the ordering of this process. `roll` tells the other daemons of the bridge up
    to which turn it follows at each place that it writes.
    """

    def __init__(self, engine: Engine, doses: Doses, folder: Path | None, roll: Roll) -> None:
        self.doses = doses
        self.probed = Reporting()
        self.leads = False  # this process moves the steps
        self.reason = ""  # why the record is not read now
        self.news = asyncio.Event()  # there is another record here, or this process follows further
        self.said = asyncio.Event()  # there is another record here that is not of whoever moves the steps
        self.written: tuple[Record, Note] | None = None  # the record that this process has put there last, unread since
        self._engine = engine
        self._path = folder / FILE if folder is not None else None
        self._roll = roll
        self._note: Note | None = None  # the record as it is in the store, as far as is known here
        self._turn = asyncio.Lock()  # what is read is taken over before anything newer is written or read
        self._fresh = asyncio.Event()  # there is another record here that nobody was told of yet
        self._kept = doses.record  # what is on the disk, as far as that takes it
        self._waiting: set[tuple[str, ServiceName]] = set()  # names whose new share is not written yet
        self._heard: frozenset[tuple[str, bool, str]] = frozenset()
        doses.heard = lambda block: moves.is_heard(engine, block)
        doses.sides = lambda block, _: moves.sides_of(engine, block)
        self._terms: dict[Post, Term | None] = {}  # by which this process wrote when it looked last
        self._follows: dict[Post, int] = {}  # of what this process writes: the turn that its shares are of

    def restore(self) -> None:
        """What was followed before this process began: a share is kept where the record cannot be read."""
        self.doses.regard(self._engine.configuration.migrations)
        if self._path is not None:
            with contextlib.suppress(OSError, ValueError, ConfigError):
                self.doses.follow(decode(Note(self._path.read_bytes(), None)))
                self._kept = self.doses.record
        self._steer()

    def _steer(self) -> None:
        """What reads as out of service because of us is carried as it was."""
        steered = self.doses.record.steered(time.time())
        if steered != self._engine.store.steered:
            self._engine.store.steer(steered)

    def listen(self) -> None:
        """Plans anew where a side was heard meanwhile: before that it is not known whether there is anything to move,
        nor what a copy is of."""
        blocks = {one.name: one for one in self._engine.configuration.migrations} | self.doses.record.blocks
        heard = frozenset(
            (name, self.doses.heard(one), moves.unknown(self._engine, one)) for name, one in blocks.items()
        )
        if heard != self._heard:
            self._heard = heard
            self._poke()

    def _poke(self) -> None:
        for reconciler in self._engine.reconcilers.values():
            reconciler.poke()

    async def look(self) -> None:
        """Reads the record and takes it over; tells how far this process has followed. Raises what the notes do."""
        notes = self._engine.notes
        if notes is not None and (self._engine.configuration.migrations or self.doses.record.moves):
            await self._read(notes)
            self._steer()
            await self._follow_on()
            await self.probed.look(notes, leads=self.leads)
            self.reason = ""
        else:
            self._tell({})

    async def newest(self, notes: Notes) -> tuple[Record, Note | None]:
        """Reads the record, with its note, and goes by it from now on.

        Raises Unavailable, Denied, ConfigError (of a newer isthmus), ValueError (no record).
        """
        async with self._turn:
            self._note = note = await notes.read(KEY)
            record, self.written = decode(note), None
            self._take(record)
        return record, note

    async def write(self, notes: Notes, record: Record, before: Note | None) -> None:
        """Puts the record there, compared with what was read. Raises Conflict, and ValueError where it does not fit."""
        async with self._turn:
            self.written = None
            self._note = note = await notes.write(KEY, encode(record), before)
            self.written = record, note
            self._take(record)

    def _take(self, record: Record) -> None:
        """Goes by a record from now on. Nothing is waited for here: what it changes is on its way to consumers."""
        if record == self.doses.record:
            return
        for event in (self.news, self.said, self._fresh):
            event.set()
        changed = self.doses.follow(record)
        self._steer()
        for place, names in changed.items():
            if (reconciler := self._engine.reconcilers.get(place)) is not None:
                reconciler.poke(names)
                self._waiting.update((place, name) for name in names)

    async def _follow_on(self) -> None:
        """Tells how far this process follows, once that is on the disk: it must not go back where it ends now."""
        for place, reconciler in self._engine.reconcilers.items():
            reconciler.watch(frozenset(self._moving(place)))
        while (record := self.doses.record) is not self._kept:
            self._kept = record
            if self._path is not None:
                try:
                    await asyncio.to_thread(files.replace, self._path, encode(record))
                except OSError as error:  # what is wrong with the folder is said by who looks after it
                    log.warning("unkept what=migrations reason=%r", files.why(error))
        self._tell(self._written())

    async def heed(self) -> None:
        """Takes another record over as soon as the store tells of it, where it does; else a look each second does."""
        notes = self._engine.notes
        if not isinstance(notes, Waking) or not (self._engine.configuration.migrations or self.doses.record.moves):
            await asyncio.sleep(EVERY)
            return
        since = self._note
        await notes.changed(KEY, since)
        if self._note == since:  # else this process has written it, or read it meanwhile
            await self._read(notes)

    async def _read(self, notes: Notes) -> None:
        try:
            await self.newest(notes)
        except ValueError as error:  # no record of ours: it is not taken over
            raise Unavailable(f"the record of migrations cannot be read: {error}") from error

    async def observe(self) -> None:
        """Looks at who reads the places of the moves that are under way."""
        for intent in [one for one in self.doses.record.moves.values() if not one.state.ended]:
            for place, at in intent.places.items():
                await observe(self._engine, place, at.name)

    def reloaded(self) -> None:
        """The file changed."""
        self.doses.regard(self._engine.configuration.migrations)
        self._poke()

    def _written(self) -> dict[Post, int]:
        """What this process writes, with the turn that all shares that are written there are of.

        0 where removals of a service that moves are held: only who writes there knows of that.
        """
        writes = {name: one for name, one in self._engine.reconcilers.items() if one.lead.writes}
        mine = {post: names for at, one in writes.items() for post, names in self._spots(at, one).items()}
        terms = {post: writes[post.place].lead.term_in(post.shard) for post in mine}
        for post, term in terms.items():
            if post not in self._terms or self._terms[post] is not term:  # another process may have written until now
                self._waiting.update((post.place, name) for name in mine[post])
        self._terms = terms
        late: set[Post] = set()
        for at, name in list(self._waiting):
            where = Post(at, writes[at].lead.shard_of(name)) if at in writes else None
            if where is None or where not in mine or writes[at].has_written(name):
                self._waiting.discard((at, name))
            else:
                late.add(where)
        turn = self.doses.record.turn
        held = {post for post, names in mine.items() if any(moves.is_held(writes[post.place], one) for one in names)}
        return {post: 0 if post in held else self._follows.get(post, 0) if post in late else turn for post in mine}

    def _spots(self, place: str, reconciler: Reconciler) -> dict[Post, list[ServiceName]]:
        """What this process writes at a place, with the services there that move: all of it, or shards of a group."""
        names, lead = self._moving(place), reconciler.lead
        if lead.share is None:
            return {Post(place): names}
        found: dict[Post, list[ServiceName]] = {}
        for name in names:
            if lead.writes_in(shard := lead.shard_of(name)):
                found.setdefault(Post(place, shard), []).append(name)
        return found

    def _moving(self, place: str) -> list[ServiceName]:
        """The names at a place of services that move."""
        going = (one.places.get(place) for one in self.doses.record.moves.values() if not one.state.ended)
        return [at.name for at in going if at is not None]

    def _tell(self, follows: Mapping[Post, int]) -> None:
        for post in self._follows.keys() - follows.keys():
            self._roll.leave(post.key)
        for post, turn in follows.items():
            self._roll.follow(post.key, turn)
        if follows != self._follows:
            self.news.set()
        self._follows = dict(follows)

    async def rest(self) -> None:
        """The time until the next look at the record; what is taken over and written meanwhile is told at once."""
        clock = asyncio.get_running_loop().time
        until = clock() + EVERY
        while (left := until - clock()) > 0:
            is_fresh = await _is_set(self._fresh, min(left, SOON) if self._waiting else left)
            if is_fresh or self._waiting:
                self._fresh.clear()
                await self._follow_on()

    def is_followed(self, intent: Intent) -> bool:
        """Whether every daemon that writes or serves anything goes by a step: only then a native's view may change."""
        numbers = (one.follows for one in self._roll.others)
        return not any(
            number < intent.turn for one in numbers for key, number in one.items() if key.startswith(f"{KEY}/")
        )

    def lacking(self, intent: Intent) -> str:
        """Who does not follow a step yet, "" if every place and every daemon does."""
        late: set[str] = set()
        for place, at in intent.places.items():
            reconciler = self._engine.reconcilers.get(place)
            post = Post(place, reconciler.lead.shard_of(at.name) if reconciler is not None else WHOLE)
            others = [one for one in self._roll.others if post.key in one.follows]
            if post not in self._follows and not others:
                return f"nobody says that he writes {post}"
            late |= {one.process.host for one in self._roll.behind(post.key, intent.turn)}
            if self._follows.get(post, intent.turn) < intent.turn:
                late.add("this daemon")
        return f"{', '.join(sorted(late))} does not follow this step yet" if late else ""


async def _is_set(event: asyncio.Event, within: float, *ends: asyncio.Future[Any]) -> bool:
    """Waits for an event, at most so many seconds and until any of `ends` is done; whether it is set, or one is."""
    waiting: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
    try:
        done, _ = await asyncio.wait((waiting, *ends), timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return bool(done)


class Post(NamedTuple):
    """A place that is written, or one shard of it that a member of a group writes."""

    place: str
    shard: int = WHOLE

    def __str__(self) -> str:
        return self.place if self.shard == WHOLE else f"shard {self.shard} of {self.place}"

    @property
    def key(self) -> str:
        """What the record is called on the roll, as far as this is concerned."""
        return f"{KEY}/{self.place}" if self.shard == WHOLE else f"{KEY}/{self.place}/#{self.shard}"


class Seen(NamedTuple):
    """One move as it was looked at last."""

    intent: Intent
    facts: Facts
    looked: Looked
    requests: Requests = NOTHING


class Steering:
    """Moves the steps, in the one daemon that holds the lock of the bridge's migrations."""

    def __init__(self, engine: Engine, following: Following, journal: Journal) -> None:
        self.following = following
        self.last: dict[str, Seen] = {}  # of the moves that this process moves
        self._asking: dict[str, Asking] = {}
        self._engine = engine
        self._journal = journal
        self._natives = Natives(engine, journal, following.is_followed)

    @property
    def leads(self) -> bool:
        """Whether this process moves the steps."""
        return self.following.leads

    async def lead(self) -> None:
        """One term: waits for the lock, and returns when it is over. Raises what the seat does."""
        configuration = self._engine.configuration
        registry = self._engine.registries.get(configuration.bridge.seat or "")
        seat = kinds.seat(registry, configuration.bridge.id, DESTINATION) if registry is not None else None
        if seat is None or not (configuration.migrations or self.following.doses.record.moves):
            await asyncio.sleep(EVERY)
            return
        async with seat.writer() as term:
            self.following.leads = True
            ended = asyncio.ensure_future(term.ended())
            record = self.following.doses
            levers = asyncio.ensure_future(self._natives.keep(lambda: record.record, lambda: self._engine.notes, term))
            try:
                while not ended.done():
                    await self._step(term)
                    await self._rest(ended)
                    if levers.done():
                        await levers  # raises: it never returns
            finally:
                self.following.leads = False
                self.last = {}
                ended.cancel()
                levers.cancel()
                await asyncio.wait((levers,))
                for one in self._asking.values():
                    await one.close()

    async def _rest(self, ended: asyncio.Future[None]) -> None:
        """Until it is time to look again: at once where somebody has changed the record, soon where this process has,
        or follows further."""
        if not await _is_set(self.following.said, SOON, ended):
            await _is_set(self.following.news, EVERY - SOON, ended)

    async def _step(self, term: Term) -> None:
        notes = self._engine.notes
        if notes is None:
            return
        # What a command has just put there needs no reading: who was faster is found when the next is compared.
        record, note = self.following.written or await self.following.newest(notes)
        self.following.written = None
        self.following.news.clear()
        self.following.said.clear()
        made: dict[str, Intent] = {}
        self.last = {name: one for name, one in self.last.items() if name in record.moves}
        self.following.probed.forget(record.moves)
        first = {name: record.first(name, time.time()) for name in record.blocks}
        for name, intent in record.moves.items():
            waits = intent.state.phase is Phase.OBSERVE and name not in first[intent.migration]
            if not (intent.state.ended or waits):
                fresh = await self._looked(record, intent)
                if fresh != intent:
                    made[name] = fresh
                await asyncio.sleep(0)  # a look at a thousand moves takes a second, and others are not to wait for it
        if made and asyncio.get_running_loop().time() < term.until:
            try:
                await self.following.write(notes, record.with_moves(made, {}), note)
            except Conflict:  # somebody was faster: what he wrote is looked at next
                self.following.said.set()
                return
            self.following.said.clear()
            for name, fresh in made.items():
                self.tell(record.moves[name].state, fresh)

    async def _looked(self, record: Record, intent: Intent) -> Intent:
        block = record.blocks[intent.migration]
        now = time.time()
        found = moves.spots(self._engine, block, intent.name, intent.service)
        intent = replace(intent, gates=await self._asked(block, intent, found, now))
        if block.gates.queries:  # what was seen before the answer came is not what `trouble` is asked of
            found = moves.spots(self._engine, block, intent.name, intent.service)
        facts = self._facts(record, intent, found, now)
        looked = look(intent.state, block, facts)
        if looked.state.batches > intent.state.batches:
            try:
                intent = replace(intent, out=await self._natives.chosen(block, intent, found), stuck="")
            except (Rejected, Unavailable, Denied) as error:  # people stop them meanwhile, and it is tried again
                intent = replace(intent, stuck=str(error))
                looked = look(intent.state, block, facts._replace(batch=False, stuck=str(error)))
        fresh = self.at(block, intent, looked.state, found)
        self.last[intent.name] = Seen(fresh, facts, looked, self.requests(intent))
        return fresh

    def findings(self) -> Iterator[Finding]:
        """What an operator should know of the moves; from who moves them, and of nobody else."""
        record, now = self.following.doses.record, time.time()
        if self.leads:
            yield from moving.differing(record.blocks, self._engine.configuration.migrations)
        for name, intent in record.moves.items() if self.leads else ():
            block, seen, measured = record.blocks[intent.migration], self.last.get(name), None
            looked = Looked(intent.state, Waits.NOTHING, "")
            if seen is not None and not intent.state.ended:
                looked = seen.looked
                if seen.requests.settled and seen.requests.number == intent.state.number:
                    measured = seen.requests.share
            yield from moving.findings(name, block, intent.state, looked, measured, now)
        if self.leads:
            yield from self._natives.findings(record)

    def rows(self) -> tuple[list[Row], list[Row]]:
        """Each move that is moved here, and each value that its gates saw last, for metrics."""
        found: list[Row] = []
        values: list[Row] = []
        for name, one in self.last.items() if self.leads else ():
            state, requests = one.intent.state, one.requests.share
            found.append({"move": name, "step": state.step, "share": state.share, "requests": requests})
            for gate, known in one.intent.gates.items():
                if known.look is not None:
                    row = {"move": name, "gate": gate, "passes": known.look.result == Result.PASS}
                    values += [{**row, "side": side, "value": value} for side, value in known.look.values.items()]
        return found, values

    def requests(self, intent: Intent) -> Requests:
        """What was measured of a move's requests last, by whoever moves it."""
        return self.following.probed.measured.get(intent.name, NOTHING)

    def at(self, block: Migration, intent: Intent, state: State, found: Sequence[moves.Spot] | None = None) -> Intent:
        """The move in that state: fitted anew where the step is another one, and never within one.

        `found`: its places as they are now, where they were looked at.
        """
        if state.number == intent.state.number:
            return intent.within(state)
        found = moves.spots(self._engine, block, intent.name, intent.service) if found is None else found
        places = moves.placed(found, state, intent.places)
        gates = {name: gate.anew() for name, gate in intent.gates.items()}
        out = {place: one.less(state.batches, time.time()) for place, one in intent.out.items()}
        return replace(intent, state=state, places=places, gates=gates, out=out)

    async def _asked(
        self, block: Migration, intent: Intent, found: Sequence[moves.Spot], now: float
    ) -> dict[str, Gate]:
        """The gates after the looks that are due."""
        prometheus, known = block.gates.prometheus, self.requests(intent)
        if prometheus is None and not block.envoys:
            return dict(intent.gates)
        asking, timing = self._asking.setdefault(intent.migration, Asking()), _timing(block, intent, found)
        gone = moves.gone(found) if intent.state.phase is Phase.DRAIN and intent.state.batches else Gone()
        if prometheus is not None and prometheus.requests is not None:
            measured = await asking.measure(block, intent, known, timing, now, gone)
        else:
            measured = await asking.counted(self._engine, block, intent, timing, now, gone) if block.envoys else None
        if measured is not None:
            self.following.probed.measured = {**self.following.probed.measured, intent.name: measured}
        if intent.state.phase not in (Phase.SHIFT, Phase.DRAIN):
            return dict(intent.gates)
        return await asking.looks(block, intent, timing, now)

    def _facts(self, record: Record, intent: Intent, found: Sequence[moves.Spot], now: float) -> Facts:
        """What is seen of a move, whose places are `found`."""
        engine, block = self._engine, record.blocks[intent.migration]
        first = intent.state.phase in BEFORE_TRAFFIC
        reached = self.following.probed.known.reached
        left = self.left(block, intent, now)
        return Facts(
            now=now,
            trouble=moves.trouble(engine, block, intent),
            lacking=self.following.lacking(intent) or (self._natives.lacking(intent) if self.leads else ""),
            serves=moves.serving(engine, block, intent.service, Part.NEW),
            old_serves=moves.old_serves(engine, block, intent),
            natives=moves.natives(found),
            refused=tuple(moves.refused(engine, found)) if first else (),
            blocks=tuple(one.text for one in parity.blocks(moves.differences(engine, block, found, now, reached)))
            if first
            else (),
            gates=verdict(block.gates.queries, intent.gates, now, intent.state.without),
            settle=moves.settle(found),
            quiet=left.quiet,
            used=left.why,
            busy="" if intent.name in record.first(intent.migration, now) else BUSY.format(block.at_once),
            batch=self._has_batch(block, intent, found),
            stuck=intent.stuck,
            crowded=waits(record, intent, found, now) if block.natives == "steer" else "",
            left=self._called(block, intent, found),
        )

    def left(self, block: Migration, intent: Intent, now: float) -> Quiet:
        """Whether the old side is left: by what counts requests, and by the connection tables of its machines."""
        if intent.state.phase is not Phase.RETIRE:
            return Quiet(None)
        measured = self.requests(intent)
        since = intent.state.since if intent.state.settled is None else intent.state.settled
        seen = quiet.quiet(
            moves.addresses(self._engine, block, intent.service, Part.OLD),
            self.following.probed.known.listening,
            for_=block.quiet_for,
            since=since,
            now=now,
        )
        is_quiet = measured.quiet if measured.number == intent.state.number else None
        return quiet.both(Quiet(is_quiet, measured.why), seen)

    def _called(self, block: Migration, intent: Intent, found: Sequence[moves.Spot]) -> Left:
        """The requests at natives that this move has out, as they were counted since their last consumer followed."""
        gone, prometheus, measured = moves.gone(found), block.gates.prometheus, self.requests(intent)
        if prometheus is not None and prometheus.requests is not None:
            if not (prometheus.by_instance or gone.alone):
                return Left(counted=False, why=TOGETHER)
        elif not block.envoys:
            return Left(counted=False, why=UNCOUNTED)
        if not gone.addresses:
            return Left(counted=True, requests=0.0)
        if measured.number != intent.state.number:
            return Left(counted=True)
        over = _timing(block, intent, found).over
        if measured.left_why or over is None or measured.since < over:
            return Left(counted=True, why=measured.left_why)
        return Left(counted=True, requests=measured.left)

    def _has_batch(self, block: Migration, intent: Intent, found: Sequence[moves.Spot]) -> bool:
        """Whether there are natives that could be taken out of service now."""
        if not intent.state.steers or (intent.stuck and not (self.leads and self._natives.may_try(intent.name))):
            return False
        return any(moves.movable(self._engine, block, one) for one in found)

    def seen(self, record: Record, intent: Intent, found: Sequence[moves.Spot]) -> Seen:
        """One move, whose places are `found`, as this process sees it now, whoever moves it."""
        facts = self._facts(record, intent, found, time.time())
        looked = look(intent.state, record.blocks[intent.migration], facts)
        return Seen(intent, facts, looked, self.requests(intent))

    def tell(self, before: State | None, intent: Intent) -> None:
        """A transition is written down, with its reason."""
        state = intent.state
        if before is not None and _shown(before) == _shown(state):
            return
        said = f"{state.phase}, {state.share:g} %"
        said += f", batches of natives that are out: {state.batches}" if state.batches else ""
        said += f", paused: {state.paused}" if state.paused else ""
        reason = f"{intent.name}: {said}" + (f": {state.reason}" if state.reason else "")
        log.warning(
            "migration move=%s phase=%r share=%g reason=%r", intent.name, state.phase, state.share, state.reason
        )
        self._journal.append("migration", service=intent.service, by=state.by, reason=reason)

    def begin(
        self, block: Migration, service: ServiceName, before: Intent | None, by: str, reason: str, *, steers: bool
    ) -> Intent:
        """A move that begins now: nothing of the new side, until its first step. `steers`: natives may be steered."""
        now = time.time()
        state = started(block, now, before.state if before is not None else None, by, reason)
        stood = moves.serving(self._engine, block, service, Part.OLD)
        name = f"{block.name}/{service}"
        places = moves.placed(moves.spots(self._engine, block, name, service), state, {})
        state = replace(state, stood=stood, steers=steers)
        return Intent(migration=block.name, service=service, state=state, places=places)


def _timing(block: Migration, intent: Intent, found: Sequence[moves.Spot]) -> Timing:
    """Since when a step stands and is settled, and how long its consumers and its measures take."""
    scrape = block.gates.prometheus.scrape if block.gates.prometheus is not None else 0.0
    return Timing(intent.state.since, intent.state.settled, moves.settle(found), scrape)


def _shown(state: State) -> tuple[object, ...]:
    """What makes a state another one for people."""
    return state.phase, state.step, state.batches, state.paused


class Migrating:
    """The loops of a daemon, and what keeps them up."""

    def __init__(self, following: Following, steering: Steering, rng: random.Random | None = None) -> None:
        self.following = following
        self.steering = steering
        self._rng = rng or random.Random()

    async def run(self) -> None:
        """Never returns; trouble with the record ends here, and what was followed last is followed on."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._forever(self._follow))
            tasks.create_task(self._forever(self.following.heed))
            tasks.create_task(self._forever(self.steering.lead))
            tasks.create_task(self._forever(self._observe))

    async def _follow(self) -> None:
        while True:
            self.following.listen()
            await self.following.look()
            await self.following.rest()

    async def _observe(self) -> None:
        while True:
            await self.following.observe()
            await asyncio.sleep(OBSERVE)

    async def _forever(self, work: Callable[[], object]) -> None:
        def failed(error: Exception, reaction: Reaction) -> None:
            if isinstance(error, Conflict | Superseded):
                return
            if reaction is BUG:
                raise error  # the core's own: it ends the process
            if str(error) != self.following.reason:
                log.warning("%s what=migrations reason=%r", react(error).kind, str(error))
            self.following.reason = str(error)

        await forever(work, failed, rng=self._rng, clock=time.monotonic)  # type: ignore[arg-type]
