"""Histories of migrations: services move from one registry to another at several places, forward and back.

Steps are asked for by random operators at random hosts, gates pass, fail or have no data, while processes die, freeze
and are cut from the record, sources are dark or come back empty, places refuse writes, and links are frozen.

The promises: nothing of `to` before a share says so, and never more than was asked; nothing of `from` goes before what
takes its place serves; nothing is weighed anew within a step; no name is left empty; one engine moves the steps, each
with its time to settle, never while anything of the sides is unknown; no data neither passes nor rolls back; a
rollback goes to a side that serves, and ends where the move began.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapters.memory.server import LENT
from bridge.adapter import Cause, Change, Lever, Sample
from bridge.errors import Expired, Unavailable
from bridge.guard.holds import Item
from bridge.migration import phases
from bridge.migration.block import Migration
from bridge.migration.gates import UNSEEN, Gates, Prometheus, Query, Sides
from bridge.migration.intent import DESTINATION, Intent, Record, decode
from bridge.migration.phases import Phase
from bridge.model import Instance, Mark, ServiceName
from tests.simulation import history, spells
from tests.simulation.client import Client
from tests.simulation.invariants import Oracle
from tests.simulation.levers import Rule
from tests.simulation.migrating import Laid
from tests.simulation.process import Process
from tests.simulation.run import Scenario, decide, healed
from tests.simulation.world import LATENCY, Server, World

if TYPE_CHECKING:
    from adapters.memory.server import Record as Stood

SERVICES = tuple(ServiceName(f"s{number}") for number in range(2))
OLD, NEW = "vms", "pods"
PLACES = {"weighed": "kratos", "counted": "grpc", "mesh": "xds"}  # by layout: what can be said there
LAG = 3.0  # seconds from reading a share to asking for a write by it
TOLD = 12.0  # seconds after which trouble is known to who looks, and a writer follows
SETTLE, HOLD = 2.0, 3.0
INTERVAL = 2.0  # seconds between two looks at a gate
FAILURES = 2
ENOUGH = 0.9
BOUND = 400.0  # seconds in which every move ends once all is well
STEPS = 40
KEY = "x:=migrations"  # of the record, in the store of the seat

Known = tuple[float, int, float]  # since when a process knows it, the number, the share


class Moves:
    """What is true of the moves in one world, and who has read what of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.mood = "good"
        self.moods: list[tuple[float, str]] = [(0.0, "good")]
        self.quiet = True
        self.forward = False  # in the end
        self.commanding: set[asyncio.Task[Any]] = set()  # whoever changes the record by a command
        self._known: dict[tuple[Client, str], deque[Known]] = {}
        self._led: dict[Client, float] = {}
        self._believed: dict[tuple[str, str], float] = {}  # by bridge and registry: when its life was believed
        self._changed: dict[str, float] = {}  # by move: when its number changed last
        self.counts: dict[
            tuple[str, ServiceName], deque[tuple[float, int]]
        ] = {}  # by side: how many served, since when

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._world.loop.time()

    @property
    def record(self) -> Record:
        """As it stands at the seat."""
        assert self._world.lender is not None
        return decode(self._world.lender.recall(KEY))

    # -- gates

    def turns(self, mood: str) -> None:
        """What gates say from now on: good, bad or none."""
        self._world.note(f"gates are {mood}")
        self.mood = mood
        self.moods.append((self.now, mood))

    def no_data(self, now: float) -> Sample:
        """One of the ways to say nothing."""
        ways = (Sample(None, now, "empty"), Sample(float("nan"), now), Sample(0.001, now - 3600.0), None)
        found = self._world.rng.choice(ways)
        if found is None:
            raise Unavailable("503")
        return found

    def were(self, mood: str, seconds: float) -> bool:
        """Whether gates have said so within the last seconds."""
        since = self.now - seconds
        ends = [at for at, _ in self.moods[1:]] + [float("inf")]
        return any(one == mood and end > since for (_, one), end in zip(self.moods, ends, strict=True))

    # -- who knows what

    def has_read(self, process: Client, record: Record) -> None:
        """A process goes by this from now on."""
        for intent in record.moves.values():
            known = self._known.setdefault((process, str(intent.service)), deque(maxlen=12))
            fresh = (intent.state.number, intent.state.share)
            if not known or known[-1][1:] != fresh:
                known.append((self.now, *fresh))

    def shares(self, process: Client, service: ServiceName) -> list[tuple[int, float]]:
        """The numbers and shares that a process may go by, as it asks for a write."""
        known = [(0.0, 0, 0.0), *self._known.get((process, str(service)), ())]
        since = min(self.now, process.slept if self.now - process.woke < TOLD else self.now) - LAG
        ends = [at for at, *_ in known[1:]] + [float("inf")]
        return [(number, share) for (_, number, share), end in zip(known, ends, strict=True) if end > since]

    def count(self) -> None:
        """How many of each side serve now at their source."""
        for side in (OLD, NEW):
            for service in SERVICES:
                server = self._world.server(side)
                some = server.rightful.get(service, {})
                found = sum(one.serving for id, one in some.items() if (service, id) in server.since)
                row = self.counts.setdefault((side, service), deque())
                if not row or row[-1][1] != found:
                    row.append((self.now, found))

    def served(self, side: str, service: ServiceName, seconds: float = float("inf")) -> list[int]:
        """How many of a side served at any moment of the last seconds."""
        self.count()
        row, since = self.counts[side, service], self.now - seconds
        ends = [at for at, _ in list(row)[1:]] + [float("inf")]
        return [count for (_, count), end in zip(row, ends, strict=True) if end > since]

    def has_believed(self, process: Client, registry: str) -> None:
        """A process believes the life of a registry, and tells the others: nothing was held for its doubt any more."""
        self._believed[process.owner, registry] = self.now

    def doubts(self, process: Client, server: Server) -> bool:
        """Whether a process cannot believe a life that it may have met by now."""
        believed = self._believed.get((process.owner, server.registry), float("-inf")) > server.well_since
        met = self.now - max(server.well_since, process.woke) > TOLD
        return server.another_life and met and not (believed or server.has_returned())

    # -- who moves the steps

    def lasted(self, service: ServiceName) -> float:
        """Seconds since the step of a move began."""
        return self.now - self._changed.get(f"m/{service}", 0.0)

    def leads(self, process: Client) -> bool:
        """Whether a process has the lock of the migrations, or had it a moment ago."""
        assert self._world.lender is not None
        if process.leads(self._world.lender, f"{process.owner}{LENT}{DESTINATION}"):
            self._led[process] = self.now
        return self.now - self._led.get(process, float("-inf")) < 1.0 or self.now - process.woke < 1.0

    def beside_pods(self) -> list[int]:
        """How many machines of each service serve beside its pods."""
        oracle, pods = self._world.oracle, self._world.server(NEW)
        assert isinstance(oracle, MovingOracle)
        return [oracle.there(pods, service, OLD) for service in SERVICES]

    def has_steered(self, process: Client, server: Server, before: Lever, content: bytes | None) -> None:
        """A process puts another rule in the place of what stands."""
        oracle = self._world.oracle
        assert isinstance(oracle, MovingOracle)
        oracle.steered(process, server, before, content)

    def has_written(self, process: Client, was: Record, fresh: Record, *, leads: bool) -> None:
        """A record is in the place of another one: judged as what the engine did, but for what a command changed."""
        self.has_read(process, fresh)
        oracle = self._world.oracle
        assert isinstance(oracle, MovingOracle)
        by_command = asyncio.current_task() in self.commanding
        if not (by_command or leads):
            oracle.breaks("one engine", f"{process} moves steps without the lock")
        for name, after in fresh.moves.items():
            before = was.moves.get(name)
            if before is None or before.state.number == after.state.number:
                if before is None:
                    self._changed[name] = self.now
                continue
            self._world.note(
                f"{process} {name}: {before.state.phase} {before.state.share:g} to {after.state.phase} "
                f"{after.state.share:g}, number {after.state.number} {after.state.reason}"
            )
            if not by_command:
                oracle.transition(process, before, after, self.lasted(after.service))
            self._changed[name] = self.now


class MovingOracle(Oracle):
    """The promises of migrations, beside all others."""

    def __init__(self, world: World, places: Sequence[str]) -> None:
        super().__init__(world)
        self.moves = Moves(world)
        self.places = tuple(places)
        self._over: dict[tuple[str, ServiceName], int] = {}  # for how many seconds a place has too much
        self._numbers: dict[int, set[int]] = {}  # by id of a change: the numbers that it may be by
        self._heaviest: dict[tuple[str, ServiceName, str, int], float] = {}  # of a side at a place, in a step
        self._steered: dict[ServiceName, set[str]] = {}  # the natives that the engine has taken out
        self._batch: dict[ServiceName, float] = {}  # when the last of them went
        self._of: dict[tuple[str, ServiceName, int], int] = {}  # how many of a side there were as a step began

    def _side(self, mark: Mark) -> str:
        source = self._world.at(mark.path[0], "")  # a copy of a copy is of where it came from first
        return source.registry if source is not None else ""

    def there(self, target: Server, service: ServiceName, side: str) -> int:
        """How many of a side serve at a place; those that stand there by themselves are of `from`."""
        found = 0
        out = target.rules.of(service).everybody()
        for id, one in target.instances(service).items():
            mark = target.mark(service, id)
            is_out = mark is None and id in out
            own = NEW if target.registry == NEW else OLD
            found += one.serving and not is_out and (self._side(mark) if mark is not None else own) == side
        return found

    # -- levers on natives

    def steered(self, process: Client, target: Server, before: Lever, content: bytes | None) -> None:
        """A process moves one: the engine alone, one native more at a time, and only once others serve in its place."""
        service, was, made = ServiceName.parse(before.place), Rule.read(before.content), Rule.read(content)
        what = f"{process} steers {service} at {target!r}"
        ours, known = set(made.out.get(process.owner, ())), self._steered.setdefault(service, set())
        self._world.note(f"{what}: out are {sorted(ours)}, {made.theirs!r}")
        if not self.moves.leads(process):
            self.breaks("one engine", f"{what} without the lock")
        if made.theirs != was.theirs:
            self.breaks("levers", f"{what}: {made.theirs!r} in the place of {was.theirs!r}, which others wrote")
        if fresh := ours - known:
            now = self._world.loop.time()
            if len(fresh) > 1 or now - self._batch.get(service, float("-inf")) < SETTLE:
                self.breaks("levers", f"{what}: {sorted(fresh)} go at once, or too soon after another")
            self._batch[service] = now
            expected = ENOUGH * min(self.moves.served(NEW, service, TOLD))
            if (there := self.there(target, service, NEW)) < max(1.0, expected) and self._is_well(target):
                self.breaks("make before break", f"{what}: {there} of `to` serve there, {expected:g} should")
        known |= ours
        known -= {*was.out.get(process.owner, ())} - ours

    def second(self) -> None:
        """See `Oracle.second`."""
        self.moves.count()
        self._weigh_all()
        super().second()

    # -- before a write

    def asked(self, process: Client, target: Server, changes: Sequence[Change]) -> None:
        """See `Oracle.asked`."""
        super().asked(process, target, changes)
        for change in changes:
            mark = change.mark or (change.before.mark if change.before else None)
            if (
                mark is None
                or change.forget
                or change.cause is Cause.PURGE
                or self._is_approved(process, target, change)
            ):
                continue
            shares = self.moves.shares(process, change.service)
            most, what = max(share for _, share in shares), f"{process} at {target!r} {change.service}/{change.id}"
            if target.registry == NEW:
                self._attaches(what, target, change)
                continue
            self._numbers[id(change)] = {number for number, _ in shares}
            if change.after is not None and self._side(mark) == NEW:
                if not most:
                    self._must_not(change, "share", f"{what}: nothing of `to` is asked for, {shares}")
            elif change.cause is Cause.SHARE and self._side(mark) == OLD:
                self._old_goes(what, target, change, most)
            elif change.cause is Cause.SHARE and not most:
                self._back(what, target, change)

    def _attaches(self, what: str, target: Server, change: Change) -> None:
        """Machines stand beside the pods from the start of a move on, and none goes before a pod serves."""
        intent = self.moves.record.moves.get(f"m/{change.service}")
        if change.after is not None and change.before is None and intent is None:
            self._must_not(change, "attached", f"{what}: beside the pods, and nothing was started")
        if change.after is None and change.cause is Cause.SHARE and not self.there(target, change.service, NEW):
            self._must_not(change, "make before break", f"{what}: no pod serves there")

    def _is_approved(self, process: Client, target: Server, change: Change) -> bool:
        mark = change.before.mark if change.before else None
        item = (mark.link if mark is not None else "", str(change.service), change.id)
        return change.after is None and (process.owner, target.registry, item) in self._approved

    def _old_goes(self, what: str, target: Server, change: Change, most: float) -> None:
        """What is left of `from` at the last step, or where only counts say a share, goes once `to` stands there."""
        if not most or (most < 100 and PLACES.get(target.registry) != "grpc"):
            self._must_not(change, "share", f"{what}: taken from `from` at {most:g} %")
            return
        expected = ENOUGH * min(self.moves.served(NEW, change.service, TOLD))
        there = self.there(target, change.service, NEW) + self._left_now(target, change.service)
        if there < expected and self._is_well(target):
            self._must_not(change, "make before break", f"{what}: {there} of `to` serve there, {expected:g} should")

    def _back(self, what: str, target: Server, change: Change) -> None:
        """What a rollback takes away goes once `from` stands there."""
        expected = ENOUGH * min(self.moves.served(OLD, change.service, TOLD))
        there = self.there(target, change.service, OLD) + self._left_now(target, change.service)
        if there < expected and self._is_well(target):
            self._must_not(change, "make before break", f"{what}: {there} of `from` serve there, {expected:g} should")

    def _is_well(self, target: Server) -> bool:
        return target.trouble_since is None and self._world.loop.time() - target.well_since > TOLD

    # -- when it is made

    def made(
        self,
        process: Client,
        target: Server,
        change: Change,
        stood: Stood | None,
        whose: Mark | None,
        pending: list[Change],
        *,
        holds_lock: bool,
    ) -> None:
        """See `Oracle.made`."""
        approved = self._is_approved(process, target, change)
        super().made(process, target, change, stood, whose, pending, holds_lock=holds_lock)
        what = f"{process} at {target!r} {change.service}/{change.id}"
        numbers = self._numbers.pop(id(change), set())
        was = stood is not None and stood.instance is not None and stood.instance.serving
        left = approved or target.serving(change.service) or self._left_now(target, change.service)
        if change.cause is Cause.SHARE and was and not left:
            self.breaks("empty", f"{what}: it was the last one, by a share")
        if change.after is not None and change.mark is not None and change.after.serving and numbers:
            self._within_a_step(what, target, change, self._side(change.mark), numbers)

    def _weigh_all(self) -> None:
        """Never beyond what was asked for longer than it takes to make before what goes is broken."""
        now = self._world.loop.time()
        for place in self.places:
            target = self._world.servers[place, ""]
            writers = [one for one in self._world.alive() if one.holds_lock(target) and not one.stopped]
            frozen = self._world.pausing or any(one.disk.kept.in_force() for one in writers)
            calm = self._is_well(target) and target not in self._world.under_spell and not frozen
            for service in SERVICES:
                held = any(one.reconcilers[place].destination.holds.of(service) for one in writers)
                known = [share for one in writers for _, share in self.moves.shares(one, service)]
                steady = all(now - max(one.began, one.woke) > TOLD for one in writers)
                # The most that may stand there: pods go by the greatest share, machines beside pods by the least.
                share = min(known, default=0.0) if target.registry == NEW else max(known, default=100.0)
                over = self._weighs(target, service, share) if calm and steady and not held else ""
                count = self._over[place, service] = self._over.get((place, service), 0) + 1 if over else 0
                if count > TOLD:
                    self.breaks("share", f"{target!r} {service}: {over}")

    def _weighs(self, target: Server, service: ServiceName, share: float) -> str:
        """How `to` weighs more than was asked, beside the most that `from` ever had; "" where it does not."""
        new = old = 0.0
        for id, one in target.instances(service).items():
            mark = target.mark(service, id)
            if mark is not None and self._side(mark) == NEW and one.serving:
                new += one.weight if PLACES.get(target.registry) != "grpc" else 1.0
            elif mark is not None and self._side(mark) == OLD:
                old = max(old, one.weight)
        if target.registry == NEW:
            pods = self.moves.served(NEW, service, self.moves.lasted(service) + LAG)
            if pods[-1] < ENOUGH * max(pods):
                return ""  # what the pods lost within a step, the machines beside them stay for
            there = self.there(target, service, OLD)
            room = math.ceil((100 - share) / share * max(self.moves.served(NEW, service))) if share else there
            return f"{there} machines beside the pods, at {share:g} % {room} should be" if there > room else ""
        if share >= 100:
            return ""
        most = share / (100 - share) * max(self.moves.served(OLD, service)) * (old or 1.0)
        if PLACES.get(target.registry) == "xds" and not old:
            return ""  # both sides are raised together, and there is nothing to compare with
        return f"`to` weighs {new:g}, at {share:g} % it should {most:g} at most" if new > most * 1.01 + 0.011 else ""

    def _within_a_step(self, what: str, target: Server, change: Change, side: str, numbers: set[int]) -> None:
        """No weight is raised because a neighbour left."""
        assert change.after is not None
        number = max(numbers)
        count = self.moves.served(side, change.service, 0.0)[-1]
        of = self._of.setdefault((side, change.service, number), self._fitted_for(side, change.service))
        key = (target.registry, change.service, side, number)
        known = self._heaviest.get(key)
        if known is not None and len(numbers) == 1 and change.after.weight > known * 1.001 and count < of:
            self.breaks("refit", f"{what}: {change.after.weight:g} in the step in which {known:g} was most")
        self._heaviest[key] = max(known or 0.0, change.after.weight)

    def _fitted_for(self, side: str, service: ServiceName) -> int:
        """How many of a side there were at least as a step began that is written now; 0: nobody could know."""
        source = self._world.server(side)
        if not self._is_well(source) or source.another_life:
            return 0
        return min(self.moves.served(side, service, self.moves.lasted(service) + LAG))

    # -- when the engine moves a step

    def transition(self, process: Client, before: Intent, after: Intent, lasted: float) -> None:
        """The engine made one: `lasted` seconds after the one before."""
        what = f"{process} {after.name} to {after.state.phase} {after.state.share:g} %"
        back = after.state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        for server in self._world.servers.values():
            self._knows(what, process, server)
        for link in self._world.frozen:
            self.breaks("paused", f"{what}: the link {link} is frozen")
        if back:
            return self._goes_back(what, before, after, lasted)
        if after.state.step > before.state.step + 1 and before.state.phase is Phase.SHIFT:
            self.breaks("steps", f"{what}: a step is skipped")
        if before.state.phase is Phase.ROLLING_BACK:
            return None
        if before.state.phase in (Phase.SHIFT, Phase.DRAIN):
            if lasted < (max(SETTLE, HOLD) if before.state.phase is Phase.SHIFT else SETTLE):
                self.breaks("settle", f"{what}: after {lasted:.1f} s")
            if not self.moves.were("good", (UNSEEN + 1) * INTERVAL) and not before.state.without:
                self.breaks("no data", f"{what}: no gate has passed for long")
            serve = max(self.moves.served(NEW, after.service, TOLD))
            if serve < ENOUGH * before.state.serves:
                self.breaks("serves", f"{what}: {serve} of {before.state.serves} of `to` serve")
        self._follow(what, before)
        return None

    def _goes_back(self, what: str, before: Intent, after: Intent, lasted: float) -> None:
        began = after.state.phase is Phase.ROLLING_BACK and before.state.phase is not Phase.ROLLING_BACK
        if began and not self.moves.were("bad", lasted):  # trouble may have kept it from going back at once
            self.breaks("no data", f"{what}: no gate has failed in this step")
        serve = max(self.moves.served(OLD, after.service, TOLD))
        if after.state.share < before.state.share and serve < ENOUGH * before.state.stood:
            self.breaks("back", f"{what}: {serve} of {before.state.stood} of `from` serve")

    def _knows(self, what: str, process: Client, server: Server) -> None:
        """Nothing moves while anything of a side or a place is not known."""
        now = self._world.loop.time()
        if server.registry not in (OLD, NEW, *self.places):
            return
        if server.trouble_since is not None and now - max(server.trouble_since, process.woke) > TOLD:
            self.breaks("paused", f"{what}: {server!r} is in trouble")
        forgiven = self._forgiven.get((process, server), 0.0) > now
        if server.registry in (OLD, NEW) and self.moves.doubts(process, server) and not forgiven:
            self.breaks("paused", f"{what}: the life of {server!r} is doubted")

    def _follow(self, what: str, before: Intent) -> None:
        """Everybody who writes a place has read the step that ends."""
        now = self._world.loop.time()
        for place in before.places:
            target = self._world.servers[place, ""]
            for process in self._world.alive():
                if process.stopped or not process.holds_lock(target) or now - max(process.began, process.woke) < TOLD:
                    continue
                if (role := process.reconcilers.get(place)) is None or role.role != "writer":
                    continue
                if max(number for number, _ in self.moves.shares(process, before.service)) < before.state.number:
                    self.breaks("follow", f"{what}: {process} writes {place} by an older step")
            is_counted = PLACES.get(place) == "grpc"  # where a small share may come to nobody
            serves = not is_counted and before.state.share and min(self.moves.served(NEW, before.service, TOLD))
            if serves and not self.there(target, before.service, NEW):
                self.breaks("follow", f"{what}: nothing of `to` stands at {place}")

    # -- in the end

    def agrees(self, process: Process, target: Server, item: Item) -> bool:
        """See `Oracle.agrees`."""
        held = process.reconcilers[target.registry].destination.holds.of(ServiceName.parse(item[1])).get(item[2])
        if held is not None and held.removal.cause is Cause.SHARE:
            return False
        return super().agrees(process, target, item)

    def differences(self) -> list[str]:
        """What stands at each place, beside what should by how the move of each service ended."""
        found = []
        moves = {one.service: one.state for one in self.moves.record.moves.values()}
        for place in self.places:
            for service in SERVICES:
                state = moves.get(service)
                phase = state.phase if state is not None else Phase.ROLLED_BACK
                rule = self._world.servers[place, ""].rules.of(service)
                if phase is Phase.ROLLED_BACK and rule.out:
                    found.append(f"{place} {service}: {rule.out} are out by a rule, and nothing is asked for")
                if place == NEW:
                    there = self.there(self._world.servers[place, ""], service, OLD) if phase is Phase.DONE else 0
                    found += [f"{there} machines of {service} are beside the pods in the end"] if there else []
                elif phase in (Phase.ROLLED_BACK, Phase.DONE):
                    found += self._differs(place, service, OLD if phase is Phase.ROLLED_BACK else NEW)
        return found

    def _differs(self, place: str, service: ServiceName, side: str) -> list[str]:
        target, source = self._world.servers[place, ""], self._world.servers[side, ""]
        natives = {id: one for id, one in target.instances(service).items() if target.mark(service, id) is None}
        by_levers = place in self._world.levered and any(one.serving for one in natives.values())

        def weight(one: Instance) -> float:
            return 0.0 if by_levers else one.weight  # beside natives that are out it stays as it was fitted

        there = {
            id: (one.address, weight(one), one.health, one.locality.zone)
            for id, one in target.instances(service).items()
            if id not in natives
        }
        should = {
            id: (one.address, weight(one), one.health, one.locality.zone)
            for id, one in (source.instances(service).items() if place != side else ())
        }
        # Where nothing of a side serves what is held of the other is not the migration's.
        lacking = {id for id, one in should.items() if there.get(id) != one}
        extra = there.keys() - should.keys()
        texts = [f"{target!r} {service}/{id}: is {there.get(id)}, should be {should[id]}" for id in sorted(lacking)]
        return texts + [f"{target!r} {service}/{id}: is there, and should not" for id in sorted(extra)]


# -- a history ---------------------------------------------------------------------------------------------------------


def block(places: Sequence[str], **fields: Any) -> Migration:
    """All services, from one registry to the other."""
    query = Query(name="errors", query='errors{side="{{side}}"}', fail_above=0.01, interval=INTERVAL, failures=FAILURES)
    prometheus = Prometheus(
        url="http://127.0.0.1:9090",
        scrape=0.5,
        sides=Sides(from_="vm", to="k8s"),
        requests='requests{side="{{side}}"}',
        queries=(query,),
    )
    measured = prometheus if fields.pop("gated", True) else None
    gates = Gates(parity="warn", hold_for=HOLD, approve=fields.pop("approve", ()), prometheus=measured)
    common: dict[str, Any] = {"steps": (20.0, 50.0, 100.0), "settle": SETTLE, "quiet_for": 4.0, "keep": 4.0}
    return Migration(
        name="m", services=("s*",), from_=(OLD,), to=(NEW,), at=tuple(places), gates=gates, **common | fields
    )


def _begin(world: World, places: Sequence[str], **fields: Any) -> MovingOracle:
    """Both sides, the places, two hosts, and the file of a migration."""
    vms, pods = world.server(OLD), world.server(NEW)
    for place in places:
        world.server(place)
        if place != OLD:
            world.options[place] = Laid(layout=PLACES[place])
    world.options.setdefault(OLD, Laid(layout="kratos"))
    world.borrow(*places if fields.pop("borrows", True) else ())
    beside = tuple(fields.get("attach_at", ()))
    world.options.setdefault(NEW, Laid(layout="grpc"))
    world.oracle = oracle = MovingOracle(world, (*places, *beside))
    world.moves = oracle.moves
    world.levered = frozenset({OLD} if fields.get("natives") == "steer" else ())
    world.migrations["x"] = (block(places, **fields),)
    sides = {place: tuple(side for side in (OLD, NEW) if side != place) for place in (*places, *beside)}
    world.links["x"] = [history.link(place, *froms) for place, froms in sides.items()]
    for one in world.links["x"]:
        world.first["x", one.name] = one
    for service in SERVICES:
        for server, least in ((vms, 4), (pods, 3)):
            for _ in range(world.rng.randint(least, 6)):
                world.start(server, service)
    for _ in range(2):
        Process(world, "x")
    return oracle


def _host(world: World, process: Process | None = None) -> Process | None:
    hosts = [one for one in world.alive() if not one.stopped]
    return process or (world.rng.choice(hosts) if hosts else None)


async def act(world: World, verb: str, name: str = "m", host: Process | None = None, **more: Any) -> None:
    """The command `migrate` at some host."""
    more |= {"natives": True} if verb == "start" and world.levered else {}
    if (process := _host(world, host)) is not None:
        world.note(f"{process} operator: migrate {verb} {name} {more or ''}")
        world.note(f"{process} says: {await process.migrates(verb, name, **more)}")


def _join(world: World) -> None:
    side = world.rng.choice((OLD, NEW))
    world.start(world.server(side), world.rng.choice(SERVICES))
    assert world.moves is not None
    world.moves.count()


def _leave(world: World) -> None:
    side, service = world.rng.choice((OLD, NEW, NEW)), world.rng.choice(SERVICES)
    some = [id for name, id in world.natives(world.server(side)) if name == service]
    if len(some) > 2:
        world.stop(world.server(side), service, world.rng.choice(some))


def _mood(world: World) -> None:
    assert world.moves is not None
    world.moves.turns(world.rng.choice(("good", "good", "bad", "none")))


async def _command(world: World) -> None:
    rng = world.rng
    name = rng.choice(("m", *(f"m/{service}" for service in SERVICES)))
    verb = rng.choice(("start", "start", "next", "next", "pause", "resume", "resume", "back", "rollback", "abort"))
    if verb == "abort" and rng.random() < 0.7:
        return
    more: dict[str, Any] = {"to": rng.choice((0, 20, 50))} if verb == "back" else {}
    more |= {"now": True} if verb == "rollback" and rng.random() < 0.3 else {}
    more |= {"without": ["errors"]} if verb == "next" and rng.random() < 0.2 else {}
    await act(world, verb, name, **more)


async def _parted(world: World) -> None:
    """One host cannot reach the record for a while."""
    process = _host(world)
    if process is not None and world.lender is not None:
        process.cut(world.lender)
        await asyncio.sleep(world.rng.uniform(1.0, 25.0))
        process.cut_off.discard(world.lender)


async def _spell(world: World) -> None:
    server = world.rng.choice(list(world.servers.values()))
    spell = world.rng.choice(
        (spells.silence, spells.errors, spells.emptied, spells.refused, spells.restarted, spells.slow)
    )
    if server not in world.under_spell:
        await spells.under(world, server, spell, spells.seconds(world, 20.0))


def _meddle(world: World) -> None:
    """Somebody else writes a rule, and keeps or drops what others have said there."""
    service, rules = world.rng.choice(SERVICES), world.server(OLD).rules
    out = rules.of(service).out if world.rng.random() < 0.5 else {}
    rules.put(str(service), Rule(f"t{world.number()}", out).written())
    world.note(f"somebody writes the rule of {service}: {rules.of(service)}")


async def _silence(world: World) -> None:
    assert world.lender is not None
    world.lender.silence()
    await asyncio.sleep(world.rng.uniform(1.0, 15.0))
    world.lender.heal()


ACTS: tuple[tuple[int, history.Act], ...] = (
    (3, _join),
    (4, _leave),
    (4, _mood),
    (10, _command),
    (2, history.crash),
    (2, history.stop_and_go),
    (2, _parted),
    (1, _silence),
    (1, history.pause),
    (2, history.approve),
    (4, _spell),
)


async def moved_anyhow(world: World) -> None:
    """Two services move, or do not, while everything happens."""
    rng = world.rng
    places = rng.choice((tuple(PLACES), ("weighed", "mesh"), ("weighed", "counted"), (OLD, "counted"), (OLD, "mesh")))
    approve = rng.choice(((), (), ("first",), ("last",)))
    steers = OLD in places and random.Random(world.seed).random() < 0.7
    natives: dict[str, Any] = {"natives": "steer"} if steers else {}
    if OLD not in places and random.Random(world.seed).random() < 0.5:
        natives = {"attach_at": (NEW,)}
    _begin(world, places, approve=approve, on_fail=rng.choice(("rollback", "rollback", "hold")), **natives)
    world.faulty = True
    await asyncio.sleep(6.0)
    await act(world, "start")
    acts = ACTS if not world.levered else (*ACTS, (3, _meddle))
    for _ in range(STEPS):
        (_, doing), *_ = rng.choices(acts, [weight for weight, _ in acts])
        if world.oracle.broken:
            return
        if (work := doing(world)) is not None:
            world.serve(_done(work), happening=True)
        await asyncio.sleep(rng.expovariate(1.0 / 3.0))
    assert world.moves is not None
    world.moves.forward = (steers or OLD not in places) and rng.random() < 0.4
    await concluded(world)


async def _done(work: Any) -> None:
    await work


async def concluded(world: World) -> None:
    """All faults end, and operators bring each move to its end: back to where it began, or to the other side."""
    moves = world.moves
    assert moves is not None and world.lender is not None
    world.lender.heal()
    await healed(world)
    for process in world.alive():
        process.cut_off.clear()
    moves.turns("good")
    for second in range(int(BOUND)):
        await asyncio.sleep(1.0)
        decide(world)
        for process in world.alive() if second % 20 == 19 else ():
            for view in [one for one in process.engine.store.views() if one.doubt and one.up]:
                process.accept(view)  # the natives have set it right
        for one in moves.record.moves.values() if second == 30 else ():
            _repaired(world, one)
        going = {name: one.state for name, one in moves.record.moves.items() if not one.state.ended}
        if not going or world.oracle.broken:
            return
        for name, state in going.items() if second % 3 == 0 else ():
            verb = _verb(state, forward=moves.forward and second < BOUND / 3)
            if verb:
                await act(world, verb, name)
    for name, one in moves.record.moves.items():
        if not one.state.ended:
            why = [seen.looked.why for each in world.alive() if (seen := each.seen(name)) is not None]
            why += [f"{hold.items} {hold.rule}" for each in world.alive() for _, hold in each.holds()]
            world.oracle.breaks("I5", f"{name} is {one.state.phase} at {one.state.share:g} %: {why}")


def _repaired(world: World, one: Intent) -> None:
    """Both sides serve again what they did when the move, or its step, began."""
    assert world.moves is not None
    for side, least in ((OLD, one.state.stood), (NEW, one.state.serves)):
        for _ in range(least - world.moves.served(side, one.service, 0.0)[-1]):
            world.start(world.server(side), one.service)


def _verb(state: phases.State, *, forward: bool) -> str:
    """What an operator says to a move in the end."""
    if state.paused:
        return "resume"
    if state.phase is Phase.ROLLING_BACK:
        return ""
    if not forward:
        return "rollback"
    return "next" if state.phase not in (Phase.RETIRE, Phase.DONE) else ""


# -- written by hand ---------------------------------------------------------------------------------------------------


async def _moving(world: World, places: Sequence[str] = tuple(PLACES), share: float = 0.0, **fields: Any) -> Moves:
    """A migration that was started, of which one service has come to a share."""
    oracle = _begin(world, places, **fields)
    world.faulty = True
    await asyncio.sleep(6.0)
    await act(world, "start")
    await _until(world, share)
    return oracle.moves


async def _until(world: World, share: float) -> None:
    assert world.moves is not None
    for _ in range(120):
        if all(one.state.share >= share for one in world.moves.record.moves.values()) or world.oracle.broken:
            return
        await asyncio.sleep(0.5)
    world.oracle.breaks("I5", f"nothing comes to {share:g} %")


async def moved_forward(world: World) -> None:
    """A service moves in all steps, with nothing in its way."""
    moves = await _moving(world, share=100.0)
    moves.forward = True
    await concluded(world)


async def moved_by_hand(world: World) -> None:
    """Nothing is measured, and an operator says `next` again and again: each step has its time all the same."""
    await _moving(world, gated=False)
    for _ in range(60):
        await act(world, "next")
        await asyncio.sleep(0.5)
    await concluded(world)


async def moved_and_sick(world: World) -> None:
    """Gates fail at a step: it is rolled back by itself, to where it began."""
    moves = await _moving(world, share=50.0)
    moves.turns("bad")
    await asyncio.sleep(60.0)
    if any(one.state.share for one in moves.record.moves.values()):
        world.oracle.breaks("back", "the sick step was not rolled back")
    await concluded(world)


async def moved_without_data(world: World) -> None:
    """Gates that have had data say nothing for long: the step stays as it is."""
    moves = await _moving(world, share=50.0)
    moves.turns("none")
    await asyncio.sleep(60.0)
    await concluded(world)


async def moved_in_doubt(world: World) -> None:
    """A side comes back empty, and a link is frozen: nothing moves meanwhile."""
    await _moving(world, share=20.0)
    await spells.under(world, world.server(OLD), spells.emptied, 40.0)
    history.halt(world, world.links["x"][0].name)
    await asyncio.sleep(30.0)
    history.thaw(world, world.links["x"][0].name)
    await concluded(world)


async def moved_and_looked_at(world: World) -> None:
    """A step has settled: each host tells the shares that stand, whoever wrote them."""
    moves = await _moving(world, share=50.0)
    moves.turns("none")
    await asyncio.sleep(2 * TOLD)
    for process in world.alive():
        for what, (meant, stands) in (await process.shares()).items():
            if abs(meant - stands) > 1.0:
                world.oracle.breaks("told", f"{process}: {what}: {stands:g} %, and {meant:g} % is meant")
    await concluded(world)


async def moved_and_lost(world: World) -> None:
    """Within a step instances of the new side leave, and others come."""
    moves = await _moving(world, share=20.0)
    moves.turns("none")
    await asyncio.sleep(10.0)
    for service in SERVICES:
        ids = [id for name, id in world.natives(world.server(NEW)) if name == service]
        world.stop(world.server(NEW), service, ids[0])
        await asyncio.sleep(5.0)
        for _ in range(3):
            world.start(world.server(NEW), service)
        moves.count()
        await asyncio.sleep(5.0)
    await concluded(world)


async def moved_by_who_is_cut_off(world: World) -> None:
    """A writer of places cannot read the record any more: no step goes on without it."""
    moves = await _moving(world, share=20.0)
    moves.turns("none")
    assert world.lender is not None
    for process in world.alive():
        if any(one.lead.writes for one in process.reconcilers.values()) and not moves.leads(process):
            process.cut_off.add(world.lender)
    moves.turns("good")
    await asyncio.sleep(30.0)
    await concluded(world)


async def moved_and_steered(world: World) -> None:
    """Natives go by a rule that others write as well, and come back; what others wrote last stays."""
    moves = await _moving(world, (OLD, "counted"), share=100.0, natives="steer")
    for _ in range(40):
        await asyncio.sleep(1.0)
        if all(world.server(OLD).rules.of(service).out for service in SERVICES):
            break
    else:
        world.oracle.breaks("I5", "no native goes")
    moves.turns("none")
    for service in SERVICES:
        rules = world.server(OLD).rules
        rules.put(str(service), rules.of(service)._replace(theirs="theirs").written())
    await asyncio.sleep(TOLD)
    await concluded(world)
    left = [world.server(OLD).rules.of(service) for service in SERVICES]
    if left != [Rule("theirs")] * len(SERVICES):
        world.oracle.breaks("levers", f"{left} is left")


async def moved_beside_pods(world: World) -> None:
    """Machines stand beside the pods from the start on, and stay there on the way back."""
    moves = await _moving(world, ("weighed",), share=50.0, attach_at=(NEW,))
    moves.turns("none")
    await asyncio.sleep(5.0)
    before = moves.beside_pods()
    await act(world, "rollback", now=True)
    await asyncio.sleep(30.0)
    if not all(before) or any(one < had for one, had in zip(moves.beside_pods(), before, strict=True)):
        world.oracle.breaks("attached", f"{moves.beside_pods()} machines are beside the pods, {before} were")
    await concluded(world)


async def moved_where_history_is_lost(world: World) -> None:
    """A place loses the history of each watch and of each reading, for long: nothing is known of it then."""
    moves = await _moving(world, ("weighed", "mesh"), share=20.0)
    moves.turns("none")
    await asyncio.sleep(10.0)
    world.server("weighed").fail_with(Expired("410"))
    await asyncio.sleep(TOLD + 1.0)
    moves.turns("good")
    await asyncio.sleep(30.0)
    await concluded(world)


async def moved_by_who_begins_to_write(world: World) -> None:
    """A place answers slowly, and who writes it dies as a step begins: the next one has yet to read and write there."""
    _begin(world, ("weighed", "mesh"))
    world.faulty = True
    await asyncio.sleep(6.0)
    place = world.server("weighed")
    place.latency = 8.0
    await act(world, "start")
    await _until(world, 20.0)
    for process in [one for one in world.alive() if one.holds_lock(place)]:
        await process.kill()
    await asyncio.sleep(20.0)
    place.latency = LATENCY
    history.start(world, "x")
    await concluded(world)


async def moved_back_to_the_ill(world: World) -> None:
    """Gates fail while half of the old side is away: nothing is moved there."""
    moves = await _moving(world, share=50.0)
    moves.turns("none")
    for service in SERVICES:
        ids = [id for name, id in world.natives(world.server(OLD)) if name == service]
        for id in ids[: len(ids) // 2]:
            world.stop(world.server(OLD), service, id)
    moves.count()
    await asyncio.sleep(TOLD + LAG)
    moves.turns("bad")
    await asyncio.sleep(40.0)
    await concluded(world)


async def moved_before_it_began(world: World) -> None:
    """The old side's store, where consumers look as well, starts anew before a move begins: what it had is unknown."""
    _begin(world, (OLD, "counted"))
    world.faulty = True
    await asyncio.sleep(6.0)
    await spells.under(world, world.server(OLD), spells.restarted, 20.0)
    await act(world, "start")
    await concluded(world)


async def moved_and_vanished(world: World) -> None:
    """The new side's store comes back empty while its copies stand with the old side: they are no machines."""
    moves = await _moving(world, (OLD, "counted"), share=20.0)
    moves.turns("none")
    world.serve(_done(spells.under(world, world.server(NEW), spells.emptied, 40.0)), happening=True)
    await asyncio.sleep(5.0)
    for service in SERVICES:
        world.start(world.server(OLD), service)
    moves.count()
    await asyncio.sleep(2 * TOLD)
    await concluded(world)


async def _lost_one(world: World, places: Sequence[str]) -> None:
    """Who writes places need not move the steps; the old side's store starts anew, and one machine never comes back."""
    moves = await _moving(world, places, share=20.0, borrows=False)
    moves.turns("none")
    assert world.lender is not None
    for process in world.alive():
        if any(one.lead.writes for one in process.reconcilers.values()):
            process.cut_off.add(world.lender)
    await asyncio.sleep(TOLD)
    for process in world.alive():
        process.cut_off.clear()
    for service in SERVICES:
        ids = [id for name, id in world.natives(world.server(OLD)) if name == service]
        world.stop(world.server(OLD), service, ids[0])
    await spells.under(world, world.server(OLD), spells.restarted, 4.0)


async def moved_by_who_stands_by(world: World) -> None:
    """Who writes believes the new life once it has done what was approved; who stands by hears of that."""
    await _lost_one(world, ("weighed",))
    await healed(world)
    for _ in range(int(TOLD)):
        await asyncio.sleep(1.0)
        decide(world)
    doubts = [f"{process}: {view.doubt}" for process in world.alive() for view in process.engine.store.views()]
    if any(not text.endswith(": ") for text in doubts):
        world.oracle.breaks("I5", f"what the writer believes is doubted: {doubts}")
    await concluded(world)


async def moved_by_two_writers(world: World) -> None:
    """Each host writes a place, so none can believe by itself; what an operator accepts at one the other believes."""
    await _lost_one(world, tuple(PLACES))
    await concluded(world)


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        moved_forward,
        moved_by_hand,
        moved_and_sick,
        moved_without_data,
        moved_in_doubt,
        moved_and_lost,
        moved_and_looked_at,
        moved_by_who_is_cut_off,
        moved_and_steered,
        moved_beside_pods,
        moved_where_history_is_lost,
        moved_by_who_begins_to_write,
        moved_back_to_the_ill,
        moved_before_it_began,
        moved_and_vanished,
        moved_by_who_stands_by,
        moved_by_two_writers,
    )
}
