"""The command `migrate`: each verb is one transition of some moves, compared with what the record was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from bridge.admin.protocol import Command, Peer
from bridge.config.document import nearest
from bridge.daemon.migrating import Following, Seen, Steering
from bridge.engine import moves
from bridge.engine.engine import Engine
from bridge.engine.observing import observe
from bridge.errors import Conflict, Unavailable
from bridge.migration import reports
from bridge.migration.block import Migration, Named, Part
from bridge.migration.intent import Intent, Record
from bridge.migration.phases import REQUESTS, Phase, State, nothing_to_do, rolled_back
from bridge.model import ServiceName
from bridge.report import migrations as report
from bridge.report.readers import reader_rows
from bridge.report.targets import targets_of_side
from bridge.report.values import Row

UNASKED = (
    "its block has `natives: steer`: it would write beside the records of natives (a status override, or a rule of "
    "Dubbo's; docs/safety.md#rule-6). Say --yes-write-natives, once; or write `natives: untouched`"
)
FRESH = 100  # names of a place that one who stands by reads anew for `status`; of more it tells what it knows
READS = 2.0  # seconds that `status` waits for that at most, and `plan` for sides and places to be read
LOOK = 0.02  # seconds between two looks at whether that is done
TRIES = 10  # times that somebody else may change the record first


class Moving:
    """What operators ask of migrations, at any daemon of the bridge."""

    def __init__(self, engine: Engine, following: Following, steering: Steering) -> None:
        self._engine = engine
        self._following = following
        self._steering = steering

    def table(self) -> Mapping[str, Command]:
        """The commands, by their names."""
        return {
            "migrate": self.act,
            "migrate-plan": self.plan,
            "migrate-status": self.status,
            "migrate-readers": self.readers,
            "migrate-targets": self.targets,
        }

    # -- looking

    async def plan(self, arguments: dict[str, Any], _: Peer) -> list[Row]:
        """What each move of a migration would do. `reports`: of `isthmus probe`, for what parity says."""
        name = Named.parse(str(arguments["name"]))
        block = self._block(name.migration)
        given = reports.Reports.of(_reports(arguments)).reached
        probed = (*self._following.probed.known.reached, *given)
        rows = []
        await self._until(lambda: not moves.unread(self._engine, block))
        for service in self._services(block, name):
            for place in block.places if block.consumers else ():  # else every kind that can read it counts anyway
                if (there := moves.name_at(self._engine, block, service, place)) is not None:
                    await observe(self._engine, place, there)
            rows.append(
                report.plan_rows(self._engine, block, service, probed) | {"unread": moves.unread(self._engine, block)}
            )
            await asyncio.sleep(0)  # of a thousand services a plan takes a second, and others are not to wait for it
        return rows

    async def targets(self, arguments: dict[str, Any], _: Peer) -> Row:
        """The addresses of one side, for `isthmus probe --targets` at another host."""
        name, part = Named.parse(str(arguments["name"])), Part(str(arguments.get("side") or Part.OLD))
        block = self._block(name.migration)
        await self._until(lambda: not moves.unheard(self._engine, block))
        if why := moves.unknown(self._engine, block):
            raise Unavailable(f"not every address of the sides is known: {why}")
        return cast(Row, msgspec.to_builtins(targets_of_side(self._engine, block, self._services(block, name), part)))

    async def readers(self, arguments: dict[str, Any], _: Peer) -> list[Row]:
        """Who reads the services of a migration, at each place where they are."""
        name = Named.parse(str(arguments["name"]))
        block = self._block(name.migration)
        return [row for one in self._services(block, name) for row in await reader_rows(self._engine, one)]

    async def status(self, arguments: dict[str, Any], _: Peer) -> list[Row]:
        """Every move of a migration, or of all of them; those that were never started as well."""
        record = self._following.doses.record
        name = Named.parse(str(arguments.get("name") or ""))
        meant = [
            record.moves[move]
            for move in sorted(record.moves)
            if name.migration in ("", record.moves[move].migration)
            and name.service in ("", str(record.moves[move].service))
        ]
        await self._read_again(meant)
        rows = []
        for intent in meant:
            rows.append(self._status_row(record, intent))
            await asyncio.sleep(0)  # as in `plan`
        for block in self._engine.configuration.migrations:
            for service in moves.services(self._engine, block):
                move = f"{block.name}/{service}"
                if (
                    move not in record.moves
                    and name.migration in ("", block.name)
                    and name.service in ("", str(service))
                ):
                    rows.append(
                        {"move": move, "phase": "not started", "waits": "nothing", "why": "", "code": report.Exit.OK}
                    )
        if name.migration and not rows:
            self._block(name.migration)  # says which there are
        return rows

    def _status_row(self, record: Record, intent: Intent) -> Row:
        block = record.blocks[intent.migration]
        found = moves.spots(self._engine, block, intent.name, intent.service)
        seen = self._steering.seen(record, intent, found)
        stands = moves.measured(found, self._engine, block)
        row = report.status_row(block, intent, stands, seen.facts, seen.looked)
        return row | {"consumers": report.consumer_rows(self._engine, block, found)} | _requests(seen)

    async def _read_again(self, meant: Sequence[Intent]) -> None:
        """What another daemon of this bridge writes is no drift to one that stands by: it would tell old shares."""
        names: dict[str, set[ServiceName]] = {}
        for place, at in (one for intent in meant if not intent.state.ended for one in intent.places.items()):
            reconciler = self._engine.reconcilers.get(place)
            follows = (
                reconciler is not None and reconciler.role != "observing" and not reconciler.lead.writes_at(at.name)
            )
            if follows and len(names.get(place, ())) < FRESH:
                names.setdefault(place, set()).add(at.name)
        backlogs = []
        for place, some in names.items():
            self._engine.reconcilers[place].read_again(some)
            backlogs.append((self._engine.reconcilers[place].backlog, some))
        await self._until(lambda: not any(log.is_to_do(name) for log, some in backlogs for name in some))

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Until that is so, and at most a moment: a command that waits says in the end what is missing."""
        until = self._engine.clock() + READS
        while self._engine.clock() < until and not is_so():
            await asyncio.sleep(LOOK)

    # -- acting

    async def act(self, arguments: dict[str, Any], peer: Peer) -> list[Row]:
        """One verb for a migration or one move of it; a row for each move: what became of it, and the exit code."""
        verb, name = str(arguments["verb"]), Named.parse(str(arguments["name"]))
        notes = self._engine.notes
        if notes is None:
            raise Unavailable("bridge.seat names no registry that keeps the record of migrations")
        if given := _reports(arguments):
            why = await self._following.probed.keep(notes, given)
            if why or verb == "report":
                code = report.Exit.FAILED if why else report.Exit.OK
                return [
                    {"move": name.migration, "code": code, "text": why or f"{len(given)} reports are kept for a day"}
                ]
        for _ in range(TRIES):
            record, note = await self._following.newest(notes)
            rows, made = self._asked(record, verb, name, arguments, str(peer))
            if made is None:
                return rows
            try:
                await self._following.write(notes, made, note)
            except Conflict:
                continue
            for move, intent in made.moves.items():
                before = record.moves.get(move)
                if before != intent:
                    self._steering.tell(before.state if before is not None else None, intent)
            return rows
        raise Unavailable("others change the record of migrations all the time; try again")

    def _asked(
        self, record: Record, verb: str, name: Named, arguments: Mapping[str, Any], by: str
    ) -> tuple[list[Row], Record | None]:
        """What a verb comes to for each move, and the next record; None: it stays as it is."""
        if verb == "forget":
            return self._forgotten(record, name)
        rows: list[Row] = []
        made: dict[str, Intent] = {}
        blocks: dict[str, Migration] = {}
        for intent, block, service in self._meant(record, name, verb):
            move = f"{block.name}/{service}"
            state = intent.state if intent is not None else None
            if why := nothing_to_do(state, verb):
                rows.append({"move": move, "code": report.Exit.NOTHING, "text": why})
                continue
            changed = self._changed(verb, intent, block, service, arguments, by)
            if isinstance(changed, str):
                rows.append({"move": move, "code": report.Exit.FAILED, "text": changed})
                continue
            made[move], blocks[block.name] = changed, block
            text = f"{changed.state.phase}, {changed.state.share:g} %"
            if verb in ("back", "rollback") and (why := self._stopped(changed)):
                text += f"; {why}: nothing goes back until that ends"
            if verb == "abort" and (left := report.steered_texts(changed)):
                text += f"; it leaves natives out of service, and looks after them no more: {'; '.join(left)}"
            rows.append({"move": move, "code": report.Exit.OK, "text": text})
        return rows, record.with_moves(made, blocks) if made else None

    def _stopped(self, intent: Intent) -> str:
        """Why nothing of a move may change now, "" if it may."""
        return next((why for place in intent.places if (why := moves.frozen(self._engine, place))), "")

    def _meant(self, record: Record, name: Named, verb: str) -> list[tuple[Intent | None, Migration, ServiceName]]:
        """The moves that a name means: those that were started, and (to start) those that the file has."""
        started = [
            (one, record.blocks[one.migration], one.service)
            for one in record.of(name.migration).values()
            if name.service in ("", str(one.service))
        ]
        if verb in ("start", "apply"):
            block = self._block(name.migration)
            if verb == "start" and any(not one.state.ended for one in record.of(name.migration).values()):
                block = record.blocks[name.migration]  # what is under way runs by it; `apply` takes the file's over
            known = {service: one for one, _, service in started}
            services = [*known, *(one for one in self._services(block, name) if one not in known)]
            return [(known.get(service), block, service) for service in services]
        if not started:
            self._block(name.migration)
            raise LookupError(f"{name.migration} was not started; `isthmus migrate start {name.migration}`")
        return list(started)

    def _changed(
        self,
        verb: str,
        intent: Intent | None,
        block: Migration,
        service: ServiceName,
        arguments: Mapping[str, Any],
        by: str,
    ) -> Intent | str:
        """The move after a verb, or why that cannot be."""
        reason = str(arguments.get("reason") or "")
        steers = bool(arguments.get("natives")) or (intent is not None and intent.state.steers)
        if verb == "start":
            if why := self._unstarted(block, service) or _unsteered(block, intent, steers):
                return why
            return self._steering.begin(block, service, intent, by, reason, steers=steers)
        if intent is None:
            return "it was not started"
        state = intent.state
        if verb == "apply":
            asks = block.natives == "steer" and not steers
            return UNASKED if asks else replace(intent, state=replace(state, steers=steers, reason=reason, by=by))
        if verb == "finish" and not arguments.get("unmeasured"):
            left = self._steering.left(block, intent, time.time())
            if not left.quiet:
                return (
                    f"it ends once the old side had no request for `quiet_for`, and is not known to: {left.why}; "
                    "--unmeasured: a person says so"
                )
        fresh = _state(verb, state, block, {**arguments, "stopped": bool(self._stopped(intent))}, by, reason)
        if isinstance(fresh, str):
            return fresh
        return self._unmoved(verb, block, intent, fresh) or self._steering.at(block, intent, fresh)

    def _unmoved(self, verb: str, block: Migration, intent: Intent, fresh: State) -> str:
        """Why a move cannot come into that state now, "" if it can."""
        is_step = fresh.number != intent.state.number and fresh.share > 0 and fresh.phase is not Phase.ABORTED
        if is_step and (why := moves.unknown(self._engine, block)):
            return f"{why}: what a step comes to is not known here; `rollback --now` takes everything back"
        if verb in ("rollback", "back") and not moves.old_serves(self._engine, block, intent):
            return "the old side serves less than when the move began: nothing is moved to it; repair it first"
        return ""

    def _unstarted(self, block: Migration, service: ServiceName) -> str:
        """Why a move cannot begin, "" if it can."""
        if why := moves.unheard(self._engine, block):
            return why
        if found := moves.missing(self._engine, block, service):
            return found[0]
        nowhere = report.plan_rows(self._engine, block, service)["nowhere"]
        return str(nowhere[0]) if nowhere else ""

    def _forgotten(self, record: Record, name: Named) -> tuple[list[Row], Record | None]:
        rows, gone = [], []
        for move, intent in record.of(name.migration).items():
            if name.service not in ("", str(intent.service)):
                continue
            if why := nothing_to_do(intent.state, "forget"):
                rows.append({"move": move, "code": report.Exit.NOTHING, "text": why})
                continue
            if intent.state.share and name.migration in {one.name for one in self._engine.configuration.migrations}:
                text = "take its block out of the file first: as not begun it would have nothing of the new side"
                rows.append({"move": move, "code": report.Exit.FAILED, "text": text})
                continue
            gone.append(move)
            found = moves.spots(self._engine, record.blocks[name.migration], move, intent.service)
            text = f"forgotten; {report.forgotten_text(intent, moves.by_links(found))}{_left_out(intent)}"
            rows.append({"move": move, "code": report.Exit.OK, "text": text})
        if not rows:
            raise LookupError(f"nothing of {name.migration} was started")
        return rows, record.without(frozenset(gone)) if gone else None

    def _block(self, name: str) -> Migration:
        blocks = {one.name: one for one in self._engine.configuration.migrations}
        if name not in blocks:
            raise LookupError(f"{name!r} is no migration of the file that runs; {nearest(name, blocks)}")
        return blocks[name]

    def _services(self, block: Migration, name: Named) -> list[ServiceName]:
        # What is under way is a service of it where its machines are gone, and copies alone stand at `from`.
        begun = {one.service for one in self._following.doses.record.of(block.name).values()}
        found = sorted({*moves.services(self._engine, block), *begun})
        if name.service:
            found = [one for one in found if str(one) == name.service]
        if not found:
            why = moves.unheard(self._engine, block)
            text = f"{block.name} finds no service{' ' + name.service if name.service else ''} at `from`"
            raise LookupError(f"{text}, and may know too little: {why}" if why else text)
        return found


def _reports(arguments: Mapping[str, Any]) -> list[reports.One]:
    return [reports.converted(one) for one in arguments.get("reports") or ()]


def _left_out(intent: Intent) -> str:
    left = "; ".join(report.steered_texts(intent))
    return f"; natives stay out of service: {left}" if left else ""


def _unsteered(block: Migration, before: Intent | None, steers: bool) -> str:
    """Why a move may not begin as far as natives go, "" if it may."""
    if before is not None and any(out.levers for out in before.out.values()):
        said = "; ".join(report.steered_texts(before))
        return f"it was let go with natives out of service: {said}; put them back there, then `migrate forget` it"
    return UNASKED if block.natives == "steer" and not steers else ""


def _requests(seen: Seen) -> Row:
    """The share of requests, in percent, where this process measures it."""
    found = seen.requests
    if found.share is not None and found.number != seen.intent.state.number and not seen.intent.state.ended:
        return {"requests": None, "requests_why": f"not in this step yet; before it {found.share:.4g} %"}
    return {"requests": None if found.share is None else round(found.share, 2), "requests_why": found.why}


def _state(
    verb: str, state: State, block: Migration, arguments: Mapping[str, Any], by: str, reason: str
) -> State | str:
    """The state after a verb that needs nothing but the state; or why that cannot be."""
    now = time.time()
    if verb == "next":
        gates = tuple(arguments.get("without") or ())
        known = {query.name for query in block.gates.queries} | ({REQUESTS} if state.batches else set())
        if unknown := set(gates) - known:
            return f"{unknown.pop()!r} is no gate of it; {nearest('', known)}"
        return replace(state, approved=True, without=(*state.without, *gates), paused="", reason=reason, by=by)
    if verb == "pause":
        return replace(state, paused=reason or "by an operator", by=by)
    if verb == "resume":
        return replace(state, paused="", since=now, settled=None, by=by, reason=reason)
    if verb in ("back", "rollback"):
        return _backwards(verb, state, block, arguments, now, by, reason)
    if verb == "abort":
        return replace(state, phase=Phase.ABORTED, number=state.number + 1, since=now, paused="", by=by, reason=reason)
    if verb == "finish":
        return replace(state, phase=Phase.DONE, number=state.number + 1, since=now, by=by, reason=reason)
    assert verb == "reopen"
    if now - state.since > block.keep:
        return f"it has been done for longer than keep ({block.keep / 3600:.0f} h): start it anew"
    fresh = replace(state, phase=Phase.RETIRE, number=state.number + 1, since=now, settled=None, approved=False)
    return replace(fresh, by=by, reason=reason)


def _backwards(
    verb: str, state: State, block: Migration, arguments: Mapping[str, Any], now: float, by: str, reason: str
) -> State | str:
    target = 0
    if verb == "back":
        asked = arguments.get("to")
        target = state.step - 1 if asked is None else sum(1 for step in block.steps if step <= float(asked))
        if target >= state.step:
            return f"it is at {state.share:g} %: {asked} % is not back"
    return rolled_back(
        state,
        block,
        now,
        reason=reason or verb,
        by=by,
        target=max(0, target),
        at_once=bool(arguments.get("now")),
        stopped=bool(arguments.get("stopped")),
    )
