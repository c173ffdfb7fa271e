"""What operators say of instances by command: `set`, `unset`, `overrides` and `drain`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bridge.adapter import Cause, Entry, Export
from bridge.admin.protocol import Peer
from bridge.config.document import nearest
from bridge.config.links import layout_of
from bridge.consumers import CONSUMERS, LONGEST_REQUEST, Settled, consumers_of, settled
from bridge.daemon.audit import Acts
from bridge.destination.note import crowded
from bridge.engine.engine import Engine
from bridge.engine.stopping import observed, passed_on
from bridge.link import glob
from bridge.model import ServiceName
from bridge.override import Override
from bridge.plan.orders import Orders, Rank
from bridge.plan.overrides import Overrides, Said
from bridge.plan.route import Supply
from bridge.report.attention import Finding, few
from bridge.report.overrides import (
    Match,
    effects,
    file_row,
    is_away,
    matched,
    names_at,
    override_row,
    pending,
)
from bridge.report.values import Row
from bridge.state.decisions import Decision, Kind
from bridge.state.folder import State

log = logging.getLogger("isthmus.daemon")

MOST = 500  # overrides and drains by command
SOON = 3600.0  # seconds before its end that an override is pointed out
RANKS = {Kind.DRAIN: Rank.DRAIN, Kind.OVERRIDE: Rank.COMMAND}


class _Current:
    """Overrides of one rank, as they are decided when a plan asks: who takes over writes nothing by what it knew."""

    def __init__(self, said: Overrides, refresh: Callable[[], object]) -> None:
        self._said = said
        self._refresh = refresh

    def orders(
        self, destination: str, name: ServiceName, supplies: Sequence[Supply], entries: Mapping[str, Entry]
    ) -> Orders:
        """See `Ordering`."""
        self._refresh()
        return self._said.orders(destination, name, supplies, entries)


class Overriding:
    """The overrides by command of one daemon. `orderings`: where its engine gets them.

    `move_of(destination, name)`: the migration's move that says the share there, "" where none does. `most`: how many
    there may be.
    """

    def __init__(
        self,
        kept: State,
        acts: Acts,
        move_of: Callable[[str, ServiceName], str] = lambda *_: "",
        most: int = MOST,
    ) -> None:
        self._overrides = {rank: Overrides() for rank in RANKS.values()}
        self.orderings = {rank: _Current(said, self._refresh) for rank, said in self._overrides.items()}
        self._kept = kept
        self._acts = acts
        self._move_of = move_of
        self._most = most
        self._taken: dict[str, Decision] = {}  # what the orderings say, by name
        self._known: Mapping[str, Decision] = {}  # all decisions, when that was looked at
        self._unplanned: list[Override] = []  # changed, and not planned afresh for that

    def attach(self, engine: Engine) -> None:
        """The engine that goes by the orderings."""
        self._engine = engine
        self._take()

    # -- what is in force ------------------------------------------------------------------------------------------

    def _in_force(self) -> dict[str, Decision]:
        of = self._kept.decisions.of
        return {one.name: one for kind in RANKS for one in of(kind).values() if one.said is not None}

    def _refresh(self) -> None:
        """Has the orderings say what is decided, where anything was decided since the last look."""
        if self._kept.decisions.table.entries is not self._known:
            self._unplanned += self._take()

    def _take(self) -> list[Override]:
        """Has the orderings say what is decided; what has changed since the last time."""
        self._known = self._kept.decisions.table.entries
        now = self._in_force()
        changed = [
            one.said
            for name in {*now, *self._taken}
            if now.get(name) != self._taken.get(name)
            for one in (now.get(name), self._taken.get(name))
            if one is not None and one.said is not None
        ]
        if changed:
            self._taken = now
            for kind, rank in RANKS.items():
                self._overrides[rank].take(_said(one) for one in now.values() if one.kind is kind)
        return changed

    def apply(self) -> None:
        """To be called once a second: what was decided elsewhere counts, and what is over is planned afresh."""
        now = time.time()
        for one in self._in_force().values():
            if one.single and one.said is not None and is_away(self._engine, one.said):
                self._kept.decisions.drop(one.name)
                self._note("unset", one.said, "isthmus", "its instance has been away")
        for one in self._taken.values():
            if one.said is not None and not one.stands(now):
                self._note("unset", one.said, "isthmus", "its time is over")
        changed, self._unplanned = [*self._unplanned, *self._take()], []
        self._poke(changed)

    def _note(self, kind: str, said: Override, by: str, reason: str) -> None:
        services = {str(one.service) for one in matched(self._engine, said)}
        at = said.at and f" at {said.at}"
        text = f"{said.of}{at}: {said.says}: {reason}"
        log.warning("%s of=%s at=%s by=%r reason=%r", kind, said.of, said.at, by, reason)
        self._acts.note(kind, by=by, reason=text, service=min(services, default=""), destination=said.at)

    def is_of(self, registry: str, name: ServiceName) -> bool:
        """Whether something is said of a service of that registry by command."""
        return any(each.any_of(registry, name) for each in self._overrides.values())

    def _poke(self, changed: Sequence[Override]) -> None:
        if changed:
            self._engine.ask_again()
        for override in changed:
            for to, names in names_at(self._engine, override).items():
                self._engine.reconcilers[to].poke(names)

    # -- commands --------------------------------------------------------------------------------------------------

    async def set(self, arguments: dict[str, Any], peer: Peer) -> Any:
        """Says something of instances in the place of their source; what was said of the same before stays in force.

        Raises LookupError where it is of nothing, ValueError where it may not be said.
        """
        said = msgspec.convert(
            {"of": str(arguments["of"]), "at": str(arguments.get("at") or ""), **dict(arguments["says"])},
            Override,
            strict=False,
        )
        if not said.says:
            raise ValueError("it says nothing: give weight=, zone=, health= or metadata.KEY=")
        secret = [
            key for key in said.metadata if any(glob(one, key) for one in self._engine.configuration.bridge.secrets)
        ]
        if secret:
            raise ValueError(f"bridge.secrets leaves out metadata {', '.join(secret)}: it is written nowhere")
        said = msgspec.structs.replace(said, including_last=bool(arguments.get("including_last")))
        return await self._decide(Kind.OVERRIDE, said, arguments, peer)

    async def drain(self, arguments: dict[str, Any], peer: Peer) -> Any:
        """Instances are to receive no traffic: DRAINING where that can be shown, and withdrawn where it cannot."""
        said = Override(
            of=str(arguments["of"]),
            at=str(arguments.get("at") or ""),
            health="DRAINING",
            including_last=bool(arguments.get("including_last")),
        )
        longest = float(arguments.get("longest", LONGEST_REQUEST))
        declared = tuple(arguments.get("consumers") or ())
        known = {one.key for ones in CONSUMERS.values() for one in ones}
        if unknown := next((key for key in declared if key not in known), ""):
            raise ValueError(f"{unknown!r} is no kind of consumer; {nearest(unknown, known)}")
        made = await self._decide(Kind.DRAIN, said, arguments, peer)
        return {**made, "settles": self._settles(said, made["effects"], declared, longest)}

    def _settles(self, said: Override, rows: list[Row], declared: tuple[str, ...], longest: float) -> Row:
        """When the consumers follow that are declared, by their keys; without any, those that can read each place."""
        found = Settled(0.0, "", ())
        for to in names_at(self._engine, said):
            known = consumers_of(layout_of(self._engine.configuration.registries[to]))
            removed = any(row["to"] == to and row["what"] == "withdrawn" for row in rows)
            consumers = [one for one in known if not declared or one.key in declared]
            one = settled(consumers, removed=removed, last=said.including_last, longest=longest)
            slowest = max(found, one, key=lambda each: each.seconds)
            found = slowest._replace(restart=tuple(dict.fromkeys((*found.restart, *one.restart))))
        return found._asdict()

    async def _decide(self, kind: Kind, said: Override, arguments: dict[str, Any], peer: Peer) -> Any:
        reason, by = str(arguments["reason"]), str(peer)
        lasting = None if arguments.get("lasting") is None else float(arguments["lasting"])
        matches = self._matches(said)
        decisions, key = self._kept.decisions, _key(said)
        before = decisions.of(kind).get(key)
        if before is not None and before.said is not None:
            said = _joined(before.said, said)
        single = all(one.single for one in matches)
        until = None if lasting is None else time.time() + lasting
        made = decisions.decide(kind, key, by=by, reason=reason, until=until, said=said, single=single)
        changed = self._take()
        found = effects(self._engine, matches, said)
        why = self._refusal(said) or (
            f"nothing of {few(found.empties)} would serve: --including-last takes it all the same"
            if found.empties and not said.including_last
            else ""
        )
        if why:
            if before is not None:
                decisions.put(before)
            else:
                decisions.drop(made.name)
            self._unplanned += [*changed, *self._take()]  # among it what ended by itself at this moment
            raise ValueError(why)
        self._poke(changed)
        self._note(str(kind), said, by, reason)
        told = await self._told(said)
        return {**override_row(made, str(kind)), "matches": len(matches), "effects": found.rows, **told}

    def _refusal(self, said: Override) -> str:
        """Why an override may not be in force."""
        now = list(self._in_force().values())
        if len(now) > self._most:
            return f"there are {self._most} overrides by command: unset some, or write them into the file"
        for to in self._engine.reconcilers:
            if said.at not in ("", to):
                continue
            if why := crowded(one for one in now if one.said is not None and one.said.at in ("", to)):
                return f"{to}: {why}"
            if move := self._moved(said, to):
                return f"the migration {move} says weight and zone at {to}: `isthmus migrate status {move}`"
            exports = isinstance(self._engine.registries[to], Export)
            if exports and self._engine.configuration.bridge.seat is None and names_at(self._engine, said).get(to):
                return (
                    f"{to} is an export, which every daemon of this bridge serves, and bridge.seat names no registry "
                    "in which the others would read it; set that, or name a destination with --at"
                )
        return ""

    def _moved(self, said: Override, to: str) -> str:
        """The move that says at a destination what this override would, "" where none does."""
        if said.weight is None and said.zone is None:
            return ""
        moves = (self._move_of(to, name) for name in names_at(self._engine, said).get(to, ()))
        return next(filter(None, moves), "")

    def _matches(self, said: Override) -> list[Match]:
        destinations = self._engine.reconcilers
        if said.at and said.at not in destinations:
            raise LookupError(f"no link leads to {said.at!r}; {nearest(said.at, destinations)}")
        found = matched(self._engine, said)
        if not found:
            raise LookupError(f"{said.of} is of no instance that this bridge knows; see `isthmus services`")
        return found

    async def _told(self, said: Override) -> Row:
        """What became of it: on the disk, and at each destination."""
        await self._kept.flush()
        places, links = names_at(self._engine, said), self._engine.configuration.links
        quiet = {to: found for to in places if (found := observed(links, to)) is not None}
        written = [to for to in places if to not in quiet]
        told = await asyncio.gather(*(passed_on(self._engine.reconcilers[to], to) for to in written))
        rows = told or quiet.values()  # by the note at any destination that is written every host hears of it
        fault = self._kept.decisions.fault
        return {"unsaved": fault.reason if fault else "", "destinations": [one.row for one in rows]}

    async def unset(self, arguments: dict[str, Any], peer: Peer) -> Any:
        """Takes an override and a drain of the same back. Raises LookupError where there is none."""
        of, at, by = str(arguments["of"]), arguments.get("at"), str(peer)
        ones = [
            one
            for one in self._in_force().values()
            if one.said is not None and one.said.of == of and at in (None, "", one.said.at)
        ]
        if not ones:
            known = sorted({one.said.of for one in self._in_force().values() if one.said is not None})
            raise LookupError(f"nothing is said of {of!r} by command; {few(known) or 'nothing'} is")
        for one in ones:
            self._kept.decisions.drop(one.name)
        self._poke(self._take())
        reason = str(arguments.get("reason") or "")
        told: list[Row] = []
        for one in ones:
            assert one.said is not None
            self._note("unset", one.said, by, reason or f"the {one.kind} is taken back")
            told.append(await self._told(one.said))
        destinations = {row["destination"]: row for each in told for row in each["destinations"]}
        rows = [override_row(one, str(one.kind)) for one in ones]
        return {"ended": rows, "unsaved": told[0]["unsaved"], "destinations": [*destinations.values()]}

    def rows(self) -> list[Row]:
        """Every override in force, those of the file last, with how many instances each is of.

        `pending`: so many of these serve at a destination though they are not to; `held`: of them, by the guard.
        """
        decided = [(override_row(one, str(one.kind)), one.said) for one in self._in_force().values()]
        found = []
        for row, said in (*decided, *((file_row(one), one) for one in self._engine.configuration.overrides)):
            assert said is not None
            matches = matched(self._engine, said)
            serving, held = pending(self._engine, matches, said.at) if said.stops else (0, 0)
            found.append({**row, "matches": len(matches), "pending": serving, "held": held})
        return found

    def findings(self) -> Iterable[Finding]:
        """What somebody should know of overrides."""
        now = time.time()
        for one in self._in_force().values():
            assert one.said is not None
            if one.until is None:
                yield Finding("override-lasting", one.key, f"{one.said.says}, until somebody unsets it: {one.reason}")
            elif one.left(now) < min(SOON, (one.until - one.at) / 4):
                yield Finding("override-ends", one.key, f"{one.said.says} ends in {one.left(now) / 60:.0f} min")


def decided(kept: State) -> Mapping[Rank, Overrides]:
    """The overrides and drains that a state folder has, for who looks without a daemon."""
    return {rank: Overrides(map(_said, kept.decisions.of(kind).values())) for kind, rank in RANKS.items()}


def _said(one: Decision) -> Said:
    assert one.said is not None
    what = "drain" if one.kind is Kind.DRAIN else "override"
    return Said(one.said, Cause.OPERATOR, f"{what} {one.key}: {one.reason} (by {one.by})")


def _key(said: Override) -> str:
    return f"{said.of} at {said.at}" if said.at else said.of


def _joined(before: Override, said: Override) -> Override:
    """What was said before, and what is said now, which counts where both say something."""
    return msgspec.structs.replace(
        said,
        weight=before.weight if said.weight is None else said.weight,
        zone=before.zone if said.zone is None else said.zone,
        health=before.health if said.health is None else said.health,
        metadata={**before.metadata, **said.metadata},
    )
