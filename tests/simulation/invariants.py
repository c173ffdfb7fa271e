"""The promises, checked against the ground truth: when a bridge asks for a write, when it is made, and at the end."""

from __future__ import annotations

import fnmatch
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from bridge.adapter import Cause, Change
from bridge.guard.gate import UNSAID
from bridge.guard.holds import Item
from bridge.guard.limits import Limit
from bridge.link import Link, Policy, Unhealthy
from bridge.model import Health, Instance, Mark, Service, ServiceName
from bridge.plan.values import Kind, Reason
from bridge.sources.claims import Pair

if TYPE_CHECKING:
    from adapters.memory.server import Record
    from bridge.sources.view import View
    from tests.simulation.client import Client
    from tests.simulation.process import Process
    from tests.simulation.world import Server, World

WAKING = 5.0  # seconds
TOGETHER = 2.0  # seconds
ANSWERED = 0.02  # seconds in which an answer arrives, on a good day
GRACE = 12.0  # seconds in which a bridge may not know yet that a native took a place at its target
LISTS = 12  # of one source in a minute: not more, however it flaps
EXCUSED = 60.0  # seconds for which small lies of a source excuse small losses

UNCOUNTED = (Cause.SHADOWED, Cause.PURGE, Cause.OPERATOR, Cause.SHARE)
SAID = Reason(Kind.ORPHAN, "")  # any reason that nothing waits for

Key = tuple[str, str, ServiceName, str]  # identity, scope, service, instance: one instance at its source


def source_of(mark: Mark) -> Key:
    """The instance that an entry was copied from."""
    return mark.path[-1], mark.scope, mark.service, mark.instance


def takes(link: Link, target: Server, identity: str, service: ServiceName, one: Instance, mark: Mark | None) -> bool:
    """Whether a link takes an instance (with its mark, if it is a copy) of the registry with that identity."""
    text, (name, _) = str(service), service
    for patterns, wanted in ((link.services.exclude, False), (link.services.include, True)):
        found = any(fnmatch.fnmatchcase(text if ":" in pattern else name, pattern) for pattern in patterns)
        if found is not wanted:
            return False
    if target.identity == identity or (mark is not None and target.identity in mark.path):
        return False
    if not all(fnmatch.fnmatchcase(one.metadata.get(key, ""), glob) for key, glob in link.where.items()):
        return False
    if target.gives_out(one):
        return False
    return one.serving or (target.health and link.unhealthy is not Unhealthy.WITHDRAW)


def name_at(link: Link, registry: str, service: ServiceName) -> ServiceName:
    """The name of a service at the target of a link."""
    text = link.rename.format(name=service.name, namespace=service.namespace, registry=registry)
    return ServiceName(text, service.namespace)


class Oracle:
    """Knows what is true, and writes down every promise that was broken."""

    def __init__(self, world: World) -> None:
        self.broken: list[str] = []
        self.values: dict[str, Instance] = {}  # every value that a native registered, by its version
        self.origins: dict[str, Key] = {}  # and who registered it
        self.written: dict[str, float] = {}  # and when
        self.writes = 0
        self.asks = 0
        self._world = world
        self._approved: dict[tuple[str, str, Item], None] = {}  # by bridge and target
        self._excused: dict[Key, float] = {}
        self._forgiven: dict[tuple[Client, Server], float] = {}
        self._lied: dict[Server, float] = {}
        self._expected: dict[str, float] = {}  # by bridge, until when an operator stated a loss
        # The newest value written, by owner (bridges know nothing of each other), target, name, whence, and origin.
        self._newest: dict[tuple[str, str, ServiceName, ServiceName, Key], int] = {}
        self._pardoned: set[Key] = set()
        self._wrong: dict[int, tuple[Change, str, str]] = {}  # changes that must not be made, by id
        self._small: dict[int, Change] = {}  # removals that only a small lie excuses, by id
        self._deltas: dict[
            tuple[object, str, object], list[tuple[float, int, Cause | None]]
        ] = {}  # by process, and by bridge
        # Of first copies, of which those count that are answered only after the copy is done.
        self._early: dict[tuple[object, str, object], list[tuple[float, int, Cause | None]]] = {}
        self._lists: dict[View, deque[int]] = {}
        self._removals: dict[tuple[Client, ServiceName, str], float] = {}  # since when one is asked for, to no avail
        self._stopped: set[tuple[Client, str, ServiceName, str]] = set()  # what serves no more for what operators say
        self._asked_lately: dict[tuple[Client, ServiceName, str], list[float]] = {}

    def breaks(self, promise: str, text: str) -> None:
        """A promise is broken."""
        self._world.note(f"BROKEN {promise}: {text}")
        self.broken.append(f"{promise}: {text}")

    # -- what the world says -----------------------------------------------------------------------------------------

    def approve(self, process: Client, destination: str, items: Iterable[Item]) -> None:
        """The operator approved exactly these."""
        self._approved.update(((process.owner, destination, item), None) for item in items)

    def withdraw(self, process: Client, destination: str, items: Iterable[Item]) -> None:
        """What the operator approved is over."""
        for item in items:
            self._approved.pop((process.owner, destination, item), None)

    def expects(self, process: Client, lasting: float) -> None:
        """The operator stated a loss: for so many seconds, and a window after, the limits let more go."""
        now = self._world.loop.time()
        longest = max((link.longest_window for link in process.links), default=0.0)
        self._expected[process.owner] = max(self._expected.get(process.owner, 0.0), now + lasting + longest)

    def lies(self, server: Server) -> None:
        """The source says, for a while, that it has next to nothing."""
        self._lied[server] = self._world.loop.time() + EXCUSED

    def excuse(self, server: Server, names: Iterable[ServiceName]) -> None:
        """The source tells, for a while, less than there is of these services: small losses are excused."""
        until = self._world.loop.time() + EXCUSED
        for name in names:
            for id in server.rightful.get(name, {}):
                self._excused[server.identity, server.scope, name, id] = until

    def settles(self, process: Client) -> None:
        """A first copy of that process is done: what was just made is answered, and counts as gained, from now on."""
        now = self._world.loop.time()
        for (who, registry, key), made in self._early.items():
            if who in (process, process.owner):
                late = [one for one in made if one[0] > now - ANSWERED]
                self._deltas.setdefault((who, registry, key), []).extend(late)
                made[:] = [one for one in made if one not in late]

    def forgive(self, process: Client, server: Server) -> None:
        """That process cannot know what a store lost before it began."""
        self._forgiven[process, server] = self._world.loop.time() + EXCUSED

    def pardon(self, server: Server) -> None:
        """A store went back to older values: they may be written again."""
        for name in server.rightful.keys() | server.contents().keys():
            for one in (*server.rightful.get(name, {}).values(), *server.instances(name).values()):
                self._pardoned.add(self.origins[one.version])

    # -- before a write ----------------------------------------------------------------------------------------------

    def asked(self, process: Client, target: Server, changes: Sequence[Change]) -> None:
        """A process sends these changes to a target: what it decided must be right by what it can know."""
        links = {link.name: link for link in process.links if link.to == target.registry}
        for change in changes:
            self.asks += 1
            self._count(process, change)
            what = f"{process} at {target!r} {change.service}/{change.id}"
            before = change.before.mark if change.before else None
            if change.forget or change.adopt:  # an adoption is judged as it is made
                continue
            if change.before and (before is None or before.owner != process.owner):
                self.breaks("I3", f"{what}: it would change what is not its own")
            if change.cause is Cause.PURGE:
                continue  # neither policy nor freeze stops an operator
            mark = change.mark or before
            link = links.get(mark.link) if mark else None
            if link is not None and (link.policy is Policy.OBSERVE or link.name in self._world.frozen):
                self._must_not(change, "policy", f"{what}: link {link.name} may not write")
            if change.after is not None and change.mark is not None:
                self._upsert(what, process, target, links, change, change.after, change.mark)
            if before is not None and (
                change.mark is None or change.after is None or source_of(before) != source_of(change.mark)
            ):
                self._removal(what, process, target, links.get(before.link), change, before)

    def _must_not(self, change: Change, promise: str, text: str) -> None:
        """If this change is made, a promise is broken; a fenced process may ask for what it likes."""
        self._wrong[id(change)] = (change, promise, text)

    def _count(self, process: Client, change: Change) -> None:
        now = self._world.loop.time()
        lately = self._asked_lately.setdefault((process, change.service, change.id), [])
        lately[:] = [at for at in lately if at > now - 10.0] + [now]
        if len(lately) > 60:
            self.breaks("I6", f"{process} asks more than 6 times a second for {change.service}/{change.id}")

    def _upsert(
        self,
        what: str,
        process: Client,
        target: Server,
        links: dict[str, Link],
        change: Change,
        after: Instance,
        mark: Mark,
    ) -> None:
        if mark.link not in links:
            self._must_not(change, "I2", f"{what}: written for a link that is not there: {mark.link}")
        if target.identity in mark.path:
            self._must_not(change, "I8", f"{what}: an echo, its path is {mark.path}")
        source = self._world.at(mark.path[-1], mark.scope)
        if source is None or not source.stood(mark.service, mark.instance):
            text = f"{what}: its mark names {mark.path[-1]}, which never had {mark.service}/{mark.instance}"
            self._must_not(change, "I2", text)
        true = self.values.get(after.version)
        ports = mark.link in links and links[mark.link].port is not None
        if (
            true is None
            or true.address != after.address
            or not self._world.said.may_be(process.owner, target, mark, true, after)
            or (true.ports != after.ports and not (ports and len(after.ports) == 1 and after.ports[0] in true.ports))
        ):
            self._must_not(change, "I2", f"{what}: nobody ever registered {after}")
        origin = self.origins.get(after.version)
        if origin is not None and origin not in self._pardoned:
            newest = self._newest.get((mark.owner, target.identity, change.service, mark.service, origin), 0)
            lost = self._excused.get(origin, 0.0) > self._world.loop.time()  # nobody said it to this process
            if int(after.version[1:]) < newest and not lost:
                self._must_not(change, "I4", f"{what}: back to {after.version}, v{newest} was written already")
        self._shadow(what, target, change, after, mark)

    def _shadow(self, what: str, target: Server, change: Change, after: Instance, mark: Mark) -> None:
        now = self._world.loop.time()
        if now - target.well_since < GRACE or target.trouble_since is not None:
            return
        for id, one in target.instances(change.service).items():
            since = target.since.get((change.service, id))
            if since is not None and now - since > GRACE and self._world.places(one) & self._world.places(after):
                self._must_not(change, "natives win", f"{what}: the native {id} holds {one.address}")

    def _removal(  # noqa: C901  excuses in the order in which they count, which parts would hide
        self, what: str, process: Client, target: Server, link: Link | None, change: Change, mark: Mark
    ) -> None:
        """What stood there must have ended by what the process was told, be approved, or stand elsewhere."""
        item = (mark.link, str(change.service), change.id)
        assert change.before is not None
        own = self._world.places(change.before.instance)
        others = {id: one for id, one in target.instances(change.service).items() if id != change.id}
        if change.after is not None:
            others[change.id] = change.after
        if link is not None and self._stands(target, change, mark, own, others):
            return
        if (process.owner, target.registry, item) in self._approved:
            return
        if link is None:
            return self._must_not(change, "I1", f"{what}: an orphan of {mark.link}")
        if link.policy is Policy.UPSERT_ONLY:
            return self._must_not(change, "policy", f"{what}: {link.name} removes nothing")
        if change.cause is Cause.REUSED:
            return self._stranger(what, change, own)
        if change.cause is Cause.OPERATOR:
            if not self._world.said.may_stop(process.owner, target, mark):
                self._must_not(change, "override", f"{what}: nothing that is in force takes it away")
            return None
        if change.cause is Cause.SHARE and self._world.moves is not None:
            return None  # judged by what is true of the moves
        source = self._world.at(mark.path[-1], mark.scope)
        told = process.told.get((mark.path[-1], mark.scope))
        if source is None or told is None or not told.listed:
            text = f"{what}: its source {mark.path[-1]} has not been heard in this process"
            return self._must_not(change, "safety rule 2", text)
        ends = []
        since = source.since.get((mark.service, mark.instance), float("inf"))
        # Who has not heard of it must not think it gone, unless it came just now, or is not in what is to be heard.
        excused = self._world.loop.time() - since < TOGETHER or source.another_life or process.missed(since)
        for known in (told.services, source.rightful):
            one = known.get(mark.service, {}).get(mark.instance)
            if one is None and known is told.services and not excused:
                one = source.rightful.get(mark.service, {}).get(mark.instance)
            standing = source.mark(mark.service, mark.instance)
            moved = one is not None and not self._world.places(one) & own
            takers = (link, *self._before(link, source, mark.service, one))
            ends.append(
                one is None
                or moved
                or not any(takes(each, target, source.identity, mark.service, one, standing) for each in takers)
            )
        first = self._removals.setdefault((process, change.service, change.id), self._world.loop.time())
        if any(ends):
            return self._last_of_the_ill(what, process, target, link, change, mark, source)
        now = self._world.loop.time()
        if self._forgiven.get((process, source), 0.0) > now:
            return None
        if source.has_returned():
            return None  # most of it is back: what is not is gone (ADR 17)
        if source.another_life and target.another_life:
            return None  # it went when the source's other life was believed, and the target's backup brought it back
        if source.another_life and first < source.well_since:
            return None  # it was decided before the source went back
        ill = not change.before.instance.serving  # the guard counts what serves
        if source.another_life and told.hidden:
            self._small[id(change)] = change
            return None
        if self._excused.get(source_of(mark), 0.0) > now or (ill and self._lied.get(source, 0.0) > now):
            self._small[id(change)] = change
            return None
        return self._must_not(change, "I1", f"{what}: it is alive at {source!r} as {mark.service}/{mark.instance}")

    def _stranger(self, what: str, change: Change, own: frozenset[Pair]) -> None:
        """What goes because its address serves elsewhere has ended, whatever its scope says of it."""
        assert change.before is not None
        identity, scope, service, id = self.origins[change.before.instance.version]
        origin = self._world.at(identity, scope)
        one = origin.rightful.get(service, {}).get(id) if origin is not None else None
        if one is not None and self._world.places(one) & own:
            self._must_not(change, "I1", f"{what}: it is alive at {origin!r} as {service}/{id}")

    def _before(self, link: Link, source: Server, service: ServiceName, one: Instance | None) -> list[Link]:
        """What the file said before of a link, for an instance that is as it was then: no change of its own ends it.

        A copy is as it is since its source has it so, whenever its original changed.
        """
        if one is None:
            return []
        written = source.arrived.get((service, one.version), self.written[one.version])
        # Withdrawing what may receive no traffic goes by health, also where the file asks for it only now.
        return [
            msgspec.structs.replace(before, unhealthy=link.unhealthy)
            for before, at in self._world.former.get(link.name, ())
            if written < at
        ]

    def _stands(
        self,
        target: Server,
        change: Change,
        mark: Mark,
        own: frozenset[Pair],
        others: dict[str, Instance],
    ) -> bool:
        """Whether its address, or the same instance, stands at the target under another entry."""
        now = self._world.loop.time()
        if any(now - target.left.get((change.service, socket), -GRACE) < GRACE for socket in own):
            return True  # it stood there a moment ago, and the bridge cannot know yet that it went
        for id, one in others.items():
            if own & self._world.places(one):
                return True
            whose = change.mark if id == change.id else target.mark(change.service, id)
            if whose is not None and source_of(whose) == source_of(mark):
                return True
        return False

    def _last_of_the_ill(
        self, what: str, process: Client, target: Server, link: Link, change: Change, mark: Mark, source: Server
    ) -> None:
        """The last serving instances are never withdrawn for their health."""
        told = process.told[source.identity, source.scope].services.get(mark.service, {}).get(mark.instance)
        now = source.rightful.get(mark.service, {}).get(mark.instance)
        if told is None or now is None or told.serving or now.serving:
            return
        if self._lied.get(source, 0.0) > self._world.loop.time() or source.another_life:
            return  # it was said to be gone
        well = msgspec.structs.replace(now, health=Health.HEALTHY)
        if not takes(link, target, source.identity, mark.service, well, source.mark(mark.service, mark.instance)):
            return  # it goes for another reason
        others = [one for id, one in target.instances(change.service).items() if id != change.id and one.serving]
        if not others and not self._left_now(target, change.service):
            self._must_not(change, "the last", f"{what}: withdrawn for its health, and nothing else serves")

    def _left_now(self, target: Server, service: ServiceName) -> int:
        """How many entries others deleted in this very moment, which stand there as far as a bridge can know."""
        now = self._world.loop.time()
        return sum(name == service and now - at < TOGETHER for (name, _), at in target.deleted.items())

    # -- when it is made ---------------------------------------------------------------------------------------------

    def made(
        self,
        process: Client,
        target: Server,
        change: Change,
        stood: Record | None,
        whose: Mark | None,
        pending: list[Change],
        *,
        holds_lock: bool,
    ) -> None:
        """A change was committed; `stood` is what it replaced, and `whose` that was."""
        self.writes += 1
        what = f"{process} at {target!r} {change.service}/{change.id}"
        if (wrong := self._wrong.pop(id(change), None)) is not None:
            self.breaks(*wrong[1:])
        verb = "forgets" if change.forget else "removes" if change.after is None else "writes"
        version = change.after.version if change.after is not None else ""
        self._world.note(f"{process} {verb} {target!r} {change.service}/{change.id} {version} {change.cause or ''}")
        if not holds_lock:
            self.breaks("one writer", f"{what}: written without the lock")
        if change.forget:
            return
        if change.adopt:
            self._adopted(what, process, target, change, stood, whose)
        elif stood is not None and (whose is None or whose.owner != process.owner):
            self.breaks("I3", f"{what}: it was not its own")
        if change.after is not None and change.mark is not None:
            origin = self.origins[change.after.version]
            key = (process.owner, target.identity, change.service, change.mark.service, origin)
            self._newest[key] = max(self._newest.get(key, 0), int(change.after.version[1:]))
        elif self._world.loop.time() - target.well_since > GRACE and any(
            other.service == change.service and other.before is None and other.after for other in pending
        ):
            self.breaks("add before remove", f"{what}: removed while its replacement waits")
        was = stood is not None and stood.instance is not None and stood.instance.serving
        delta = int(change.after is not None and change.after.serving) - int(was)
        serves = change.after is not None and change.after.serving and not change.adopt  # which leaves it as it stood
        if serves and change.mark is not None and self._world.said.must_stop(process.owner, target, change.mark):
            self.breaks("override", f"{what}: written as serving, and an operator says otherwise")
        if change.cause is Cause.SHARE and delta < 0:
            self._stopped.add((process, target.registry, change.service, change.id))
        if change.cause is Cause.OPERATOR and delta < 0:
            self._ordered(what, process, target, change)
        self._weigh(what, process, target, change, delta)
        self._removals.pop((process, change.service, change.id), None)
        if (mark := change.mark or whose) is not None:
            self._approved.pop((process.owner, target.registry, (mark.link, str(change.service), change.id)), None)

    def _adopted(
        self, what: str, process: Client, target: Server, change: Change, stood: Record | None, whose: Mark | None
    ) -> None:
        """A handover changes nothing that serves, and takes only what the link would have written itself."""
        if stood is None or stood.instance != change.after:
            self.breaks("adopt", f"{what}: it is {stood}, and became {change.after}")
        mark = change.mark
        link = next((one for one in process.links if mark is not None and one.name == mark.link), None)
        if mark is None or link is None:
            self.breaks("adopt", f"{what}: for a link that is not there")
            return
        names = {name_at(link, registry, mark.service) for registry in link.from_ if self._registry(mark) == registry}
        if change.service not in names:
            self.breaks("adopt", f"{what}: {link.name} would never have written it, it came from {source_of(mark)}")
        if whose is None and change.after != self._at_source(mark)[0]:
            self.breaks("adopt", f"{what}: the native is not what {source_of(mark)} is")

    def _ordered(self, what: str, process: Client, target: Server, change: Change) -> None:
        """What an operator says of instances leaves one of a service, unless he said that it may take the last one."""
        mark = change.mark or (change.before.mark if change.before else None)
        assert mark is not None
        self._stopped.add((process, target.registry, change.service, change.id))
        item = (mark.link, str(change.service), change.id)
        if (
            target.serving(change.service)
            or self._left_now(target, change.service)
            or self._world.said.takes_the_last(process.owner, target, mark)
            or (process.owner, target.registry, item) in self._approved
        ):
            return
        self.breaks("override", f"{what}: it was the last one, by {change.cause}")

    def _weigh(self, what: str, process: Client, target: Server, change: Change, delta: int) -> None:
        """Losses that only a small lie excuses must keep within the guard's limits."""
        now = self._world.loop.time()
        mark = change.mark or (change.before.mark if change.before else None)
        assert mark is not None
        counts_for = (self._successor(target, change, mark) or mark) if change.cause is Cause.REPLACED else mark
        scope = (counts_for.path[-1], counts_for.scope)
        growth = delta > 0 or change.cause is Cause.REPLACED
        first_copy = growth and (target.identity, *scope) not in process.settled
        came_or_went = change.before is None or change.after is None  # the guard counts health by itself
        counts = came_or_went and change.cause not in UNCOUNTED
        if delta > 0 and (stopped := (process, target.registry, change.service, change.id)) in self._stopped:
            self._stopped.discard(stopped)  # what an operator took away and gives back pays for nothing
            counts = False
        if delta and counts:
            deltas = self._early if first_copy else self._deltas
            for key in (change.service, scope):
                for who in (process, process.owner):
                    deltas.setdefault((who, target.registry, key), []).append((now, delta, change.cause))
        if change.cause is Cause.REUSED:
            self._small.pop(id(change), None)
            return self._taken(what, process, target, change, mark)
        if self._small.pop(id(change), None) is None or delta >= 0:
            return
        link = next((one for one in process.links if one.name == mark.link), None)
        if link is None or now - target.well_since < link.guard.window:
            return  # what a backup brought back is not counted
        limits = link.limits(change.service)
        serving = target.serving(change.service) + self._left_now(target, change.service)
        if self._expected.get(process.owner, 0.0) > now:
            if serving < 1 and now - process.woke > WAKING:
                self.breaks("guard", f"{what}: the last one went by a loss that was stated, and its source lied")
            return
        start = serving - self._net(process, target, change, change.service, limits.window)
        # Who was stopped and wakes does not know yet which natives left the target meanwhile.
        if now - process.woke > WAKING and (serving < 1 or (start > 1 and serving < limits.service_share * start)):
            self.breaks("guard", f"{what}: {serving} of {start} serve, and its source lied")
        lost = -self._net(process, target, change, scope, limits.window)
        gone = -self._net(process, target, change, scope, limits.window, every=True)
        began = self._owned(process, target, scope) + gone
        if (lost > limits.hard_count and lost > limits.hard_share * began) or (
            lost > limits.source_count and lost > limits.source_share * began
        ):
            self.breaks("guard", f"{what}: {lost} of {began} of {scope[0]} lost, and it lied")

    def _taken(self, what: str, process: Client, target: Server, change: Change, mark: Mark) -> None:
        """What goes because its address serves elsewhere goes by number."""
        link = next((one for one in process.links if one.name == mark.link), None)
        item = (mark.link, str(change.service), change.id)
        if link is None or (process.owner, target.registry, item) in self._approved:
            return
        now, limits = self._world.loop.time(), link.limits(change.service)
        scope = (mark.path[-1], mark.scope)
        deltas = self._deltas.get((process, target.registry, scope), ())
        gone = sum(at > now - limits.window + 1.5 and cause is Cause.REUSED for at, _, cause in deltas)
        if gone > limits.source_count:
            self.breaks("guard", f"{what}: {gone} of {scope[0]} taken because their addresses serve elsewhere")

    def _successor(self, target: Server, change: Change, mark: Mark) -> Mark | None:
        """The mark of what replaces an entry, perhaps from another scope: the one that is left has lost nothing."""
        assert change.before is not None
        places = self._world.places
        for id, one in target.instances(change.service).items():
            whose = target.mark(change.service, id)
            if whose is not None and id != change.id and places(one) & places(change.before.instance):
                return whose
        return None

    def _net(
        self, process: Client, target: Server, change: Change, key: object, window: float, *, every: bool = False
    ) -> int:
        now = self._world.loop.time()
        # The guard counts by the second, and what goes together by its cause: at the window's edge, what it may think.
        since = {True: now - window - 1.5, False: now - window + 1.5}
        # A process may know what others of its bridge wrote, or not: what either would allow is allowed.
        return max(
            sum(
                delta
                for at, delta, cause in self._deltas.get((who, target.registry, key), ())
                if at > since[delta > 0] and (every or delta > 0 or cause is change.cause or at < now - TOGETHER)
            )
            for who in (process, process.owner)
        )

    def _owned(self, process: Client, target: Server, scope: tuple[str, str]) -> int:
        found = 0
        for name in target.contents():
            for id, one in target.instances(name).items():
                mark = target.mark(name, id)
                if mark and one.serving and mark.owner == process.owner and (mark.path[-1], mark.scope) == scope:
                    found += 1
        return found

    # -- all the time ------------------------------------------------------------------------------------------------

    def second(self) -> None:
        """Once a second: views that are honest (I7), and internals that are bounded (I6)."""
        now = self._world.loop.time()
        self._end_approvals()
        for process in self._world.alive():
            if process.stopped:
                continue
            for view in process.engine.store.views():
                lists = self._lists.setdefault(view, deque(maxlen=60))
                lists.append(view.lists)
                if lists[-1] - lists[0] > LISTS:
                    self.breaks("I6", f"{process}: {view!r} was listed {lists[-1] - lists[0]} times in a minute")
                server = self._world.behind[view.registry, view.scope]
                trouble = server.trouble_since
                noticed = trouble is not None and now - max(trouble, process.began, process.woke) > 8.0
                if noticed and (view.up or not view.reason):
                    self.breaks("I7", f"{process}: {view!r} seems well, {server!r} has been in trouble since {trouble}")
            for one in process.reconcilers.values():
                if (busy := one.backlog.sizes()["busy"]) > 16 * 60:
                    self.breaks("I6", f"{process}: {busy} names are being written")

    def _end_approvals(self) -> None:
        """An approval is over when what it lets go is asked no more by who writes."""
        for owner, destination, item in list(self._approved):
            ours = [process for process in self._world.alive() if process.owner == owner]
            reconcilers = [one for process in ours if (one := process.reconcilers.get(destination)) is not None]
            if not any(one.role == "writer" and one.idle for one in reconcilers):
                continue
            name, id = ServiceName.parse(item[1]), item[2]
            plans = [one.destination.plans.get(name) for one in reconcilers]
            asked = any(removal.change.id == id for plan in plans if plan is not None for removal in plan.removals)
            unsaid = any(one.destination.kept.get(name, {}).get(id, SAID).kind in UNSAID for one in reconcilers)
            if not (asked or unsaid) and not any(id in one.destination.holds.of(name) for one in reconcilers):
                self._approved.pop((owner, destination, item), None)

    def resting(self) -> None:
        """When all is quiet: nothing is kept that is not there any more (I6)."""
        for process in self._world.alive():
            views = list(process.engine.store.views())
            live = {name for view in views for name in view.services}
            for to, one in process.reconcilers.items():
                observes = any(link.to == to and link.policy is Policy.OBSERVE for link in process.links)
                if one.role != "writer" or observes:
                    continue  # what it would do stays asked
                room = len(live) + len(one.destination.entries) + 8
                # What a link that observes asks for stays asked.
                observes = any(link.policy is Policy.OBSERVE for link in one.destination.links)
                held = one.destination.holds.sizes()
                sizes = {
                    **one.backlog.sizes(),
                    "_known": max(0, one.destination.sizes().known - room),
                    "_feeds": max(0, len(one.destination.routing.names()) - room),
                    "_causes": max(0, one.destination.sizes().causes - held.held),
                    "_loose": len(one.destination.loose),
                    "holds": held.held,
                    "agreed": held.agreed,
                    "granted": 0 if observes else held.granted,
                    "losses": 0 if observes else held.losses,
                    "windows": max(0, len(one.destination.losses.windows) - 2 * room),
                    "shown": max(0, held.shown - 64),
                }
                for what, size in sizes.items():
                    if size:
                        self.breaks("I6", f"{process} to {to}: {what} keeps {size} too many")

    # -- in the end --------------------------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        """Where targets differ from what their sources hold (I2, I3); holds and dark processes aside."""
        found: list[str] = []
        for target in self._world.servers.values():
            if target.scope != self._world.scopes(target.registry)[0]:
                continue
            for name, id in self._world.natives(target):
                if target.instances(name).get(id) != target.rightful[name][id]:
                    found.append(f"I3 {target!r} {name}/{id}: a native's entry is not what it wrote")
            for owner, link in self._world.links_to(target):
                if link.policy is not Policy.OBSERVE:
                    for registry in link.from_:
                        for scope in self._world.scopes(registry):
                            found += self._missing(target, owner, link, self._world.servers[registry, scope])
            found += self._left_over(target)
        return found

    def _missing(self, target: Server, owner: str, link: Link, source: Server) -> list[str]:
        """Instances that a link takes, and that the target does not have."""
        found = []
        for name, service in source.contents().items():
            there = target.observe(name_at(link, source.registry, name)).service
            copies = {source_of(mark) for mark in there.marks.values() if mark.owner == owner}
            sockets = {socket for one in there.instances.values() for socket in self._world.places(one)}
            foreign = {id for id in there.instances if id not in there.marks or there.marks[id].owner != owner}
            if link.policy is Policy.UPSERT_ONLY:  # what it leaves standing keeps its id
                foreign = set(there.instances)
            foreign |= self._stuck(there, foreign)
            # In a merge, another instance of the same registry may be written as what this one is called.
            foreign |= {id for id, mark in there.marks.items() if mark.owner == owner and mark.instance != id}
            sockets |= self._merged_away(link, name, foreign)
            for id, one in service.instances.items():
                origin = Mark(owner, link.name, (source.identity,), source.scope, name, id)
                said = self._world.said.as_said(owner, target, origin, one)
                if not takes(link, target, source.identity, name, said, service.marks.get(id)):
                    continue
                if (source.identity, source.scope, name, id) not in copies and not (
                    self._world.places(one) & sockets
                    or foreign & {id, f"{id}-{source.registry}"}
                    or self._looks_like_an_echo(owner, target, (source.identity, source.scope, name, id), one)
                ):
                    found.append(f"I2 {target!r} {name}/{id}: missing, {source!r} has it")
        return found

    def _looks_like_an_echo(self, owner: str, target: Server, origin: Key, one: Instance) -> bool:
        """Whether the bridge has a copy elsewhere of another one that lives at its address: a tool may carry it on."""
        return any(
            mark.owner == owner
            and source_of(mark) != origin
            and one.sockets() & there.instances[id].sockets()
            and self._at_source(mark)[0] is not None
            for server in self._world.servers.values()
            if server is not target
            for there in server.contents().values()
            for id, mark in there.marks.items()
        )

    def _stuck(self, there: Service, foreign: set[str]) -> set[str]:
        """Ids that entries of ours keep from the registry that is named first: others have what they should be called.

        They are alive, so they stand until they are written as that.
        """
        return {
            id
            for id, mark in there.marks.items()
            if id not in foreign
            for source in self._world.servers.values()
            if source.identity == mark.path[-1] and id == mark.instance and f"{id}-{source.registry}" in foreign
        }

    def _merged_away(self, link: Link, name: ServiceName, foreign: set[str]) -> set[Pair]:
        """Addresses of instances that a merge chooses, and that others' ids at the target leave no room for."""
        sources = [server for server in self._world.servers.values() if server.registry in link.from_]
        return {
            socket
            for source in (sources if len(sources) > 1 else ())
            for id, one in source.instances(name).items()
            if foreign & {id, f"{id}-{source.registry}"}
            for socket in self._world.places(one)
        }

    def _left_over(self, target: Server) -> list[str]:  # noqa: C901  one look at an entry, several promises
        """Entries of a bridge that no source accounts for."""
        found = []
        links = {(owner, link.name): link for owner, link in self._world.links_to(target)}
        for name, there in target.contents().items():
            natives = {
                s for id, one in there.instances.items() if id not in there.marks for s in self._world.places(one)
            }
            well = {id for id, one in there.instances.items() if one.serving}
            ill: list[str] = []
            for id, mark in there.marks.items():
                what, link, entry = f"{target!r} {name}/{id}", links.get((mark.owner, mark.link)), there.instances[id]
                if link is None or link.policy is Policy.OBSERVE:
                    continue  # an orphan, which stays
                one, ours = self._at_source(mark)
                one = self._world.said.as_said(mark.owner, target, mark, one) if one is not None else None
                if one is None or not takes(link, target, mark.path[-1], mark.service, one, ours):
                    if link.policy is Policy.UPSERT_ONLY:
                        continue
                    if one is not None and not one.serving:
                        ill.append(id)
                    else:
                        found.append(f"I2 {what}: stands, and {mark.path[-1]} does not have it")
                    continue
                upsert_only = link.policy is Policy.UPSERT_ONLY
                if upsert_only and name_at(link, self._registry(mark), mark.service) != name:
                    continue  # the name that the file gave it before
                if upsert_only and id != mark.instance and mark.instance in there.instances:
                    continue  # in a merge: it waits for the id that upsert-only leaves to what has ended
                health = one.health if target.health else entry.health
                said, stands = ((each.metadata, each.weight, each.locality) for each in (one, entry))
                if (entry.address, entry.version, entry.health, stands) != (one.address, one.version, health, said):
                    found.append(f"I2 {what}: is {entry}, at {mark.path[-1]} it is {one}")
                if self._world.places(entry) & natives:
                    found.append(f"natives win {what}: a native holds {entry.address}")
                if mark.path[:-1] != (ours.path if ours else ()):
                    found.append(f"I2 {what}: its path is {mark.path}, at its source it is {ours}")
            if ill and well - set(ill):
                found.append(f"I2 {target!r} {name}: {ill} should be withdrawn")
        return found

    def _registry(self, mark: Mark) -> str:
        source = self._world.at(mark.path[-1], mark.scope)
        return source.registry if source is not None else ""

    def _at_source(self, mark: Mark) -> tuple[Instance | None, Mark | None]:
        """What an entry was copied from, as it stands there, if that registry still answers by right."""
        source = self._world.at(mark.path[-1], mark.scope)
        if source is None or self._world.behind.get((source.registry, source.scope)) is not source:
            return None, None
        service = source.observe(mark.service).service
        return service.instances.get(mark.instance), service.marks.get(mark.instance)

    def agrees(self, process: Process, target: Server, item: Item) -> bool:
        """Whether an operator who knows the truth would approve this change."""
        link_name, service, id = item
        name = ServiceName.parse(service)
        held = process.reconcilers[target.registry].destination.holds.of(name).get(id)
        if held is not None and held.verdict.limit is Limit.ADDITIONS:
            return True
        mark = target.mark(name, id)
        if held is not None and held.removal.cause is Cause.OPERATOR and mark is not None:
            return self._world.said.may_stop(process.owner, target, mark)
        link = next((one for one in self._world.links[process.owner] if one.name == link_name), None)
        if mark is None or link is None:
            return False
        source = self._world.at(mark.path[-1], mark.scope)
        if source is None or self._world.behind.get((source.registry, source.scope)) is not source:
            return True
        if source.registry not in link.from_ or name_at(link, source.registry, mark.service) != name:
            return True
        one = source.rightful.get(mark.service, {}).get(mark.instance)
        ours = source.mark(mark.service, mark.instance)
        return one is None or not one.serving or not takes(link, target, source.identity, mark.service, one, ours)
