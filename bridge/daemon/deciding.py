"""What an operator decides: that a held set may go, that a source's new life is the true one, and what may be lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from bridge.admin.protocol import Peer
from bridge.daemon.audit import Acts
from bridge.destination import adding
from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.engine.stopping import shared
from bridge.errors import Unavailable
from bridge.guard.expected import Expectation
from bridge.guard.holds import APPROVED, HeldRemoval, Item, set_hash
from bridge.guard.limits import Limit
from bridge.link import Link, Policy
from bridge.model import ServiceName
from bridge.report import plans, status
from bridge.shards import whole_of
from bridge.sources.view import View
from bridge.state.decisions import Decision, Kind, link_of
from bridge.state.folder import State

log = logging.getLogger("isthmus.daemon")


class Deciding:
    """The commands `approve`, `accept` and `expect`; `apply` brings what was decided on any host to the guard."""

    def __init__(self, engine: Engine, kept: State, acts: Acts) -> None:
        self._engine = engine
        self._kept = kept
        self._acts = acts

    # -- a set that is held ------------------------------------------------------------------------------------------

    async def approve(self, arguments: dict[str, Any], peer: Peer) -> Any:
        """Lets exactly the set go that was shown under an id, once and for a time, as far as it is still held.

        Raises LookupError where nothing is held under it, ValueError where the set has grown, Unavailable where another
        daemon writes.
        """
        hold, reason, by = str(arguments["id"]), str(arguments["reason"]), str(peer)
        now, lasting = self._engine.clock(), float(arguments.get("lasting") or APPROVED)
        for reconciler in self._engine.reconcilers.values():
            if reconciler.lead.share is not None:
                if (items := await _of_members(reconciler, hold, now, lasting)) is None:
                    continue
                return await self._approved(reconciler, hold, items, reason, by, lasting)
            if reconciler.role == "standby":
                if all(one.id != hold for one in reconciler.destination.holds.show(now)):
                    continue
                raise _stands_by(reconciler, "approve")
            try:
                items = reconciler.destination.holds.approve(hold, now, lasting)
            except KeyError:
                continue
            return await self._approved(reconciler, hold, items, reason, by, lasting)
        raise LookupError(f"nothing is held under {hold!r}; see `isthmus holds`")

    async def _approved(
        self, reconciler: Reconciler, hold: str, items: tuple[Item, ...], reason: str, by: str, lasting: float
    ) -> Any:
        """Writes down that these may go, and tells the other daemons before this one makes use of it."""
        self._kept.decisions.approve(hold, items, reason, by, lasting)
        await self._kept.flush()
        self._acts.note("approve", link=items[0][0] if items else "", reason=f"{hold}: {reason}", by=by, hold=hold)
        log.warning("approve id=%s removals=%d by=%r reason=%r", hold, len(items), by, reason)
        told = await shared(reconciler)  # what is made use of is no decision any more
        reconciler.poke()
        return {"items": list(items), "here_only": [] if told else [reconciler.name]}

    # -- a new life ------------------------------------------------------------------------------------------------

    async def accept(self, arguments: dict[str, Any], peer: Peer) -> Any:
        """Shows what a new life of a store takes away, and (`sure`: the `id` of what was shown) believes it.

        `empty`: the source is gone for good, and what was copied from it stays. Raises LookupError where nothing is
        doubted under that name, ValueError where it is not what was shown, Unavailable where other daemons write all
        that it feeds. What others write goes by the limits of the guard there, once they believe it, too.
        """
        empty, reason = bool(arguments.get("empty")), str(arguments["reason"])
        if empty and (unknown := self._unknown(str(arguments["subject"]))):
            return self._go_without(unknown, arguments.get("sure"), reason, peer)
        views = self._doubted(str(arguments["subject"]))
        held = [(one, ones) for one in self._engine.reconcilers.values() if (ones := _held(one, views))]
        elsewhere = [one for one, _ in held if one.role == "standby"]
        held = [(one, ones) for one, ones in held if one not in elsewhere]
        items = sorted(one.item for _, ones in held for one in ones)
        shown = {
            "id": set_hash(items),
            "scopes": [
                {"registry": view.registry, "scope": whole_of(view.scope), "doubt": view.doubt}
                for view in {view.whole: view for view in views}.values()
            ],
            "removes": [] if empty else [plans.removal_row(one, held_one) for one, ones in held for held_one in ones],
            "keeps": sum(len(ones) for _, ones in held) if empty else 0,
            "here_only": here_only(self._engine, lambda link: any(_reads(link, view) for view in views)),
        }
        if not arguments.get("sure"):
            return {**shown, "done": False}
        if arguments["sure"] != shown["id"]:
            raise ValueError("it would take away something else than was shown: do the same again, and look")
        if elsewhere and not held:
            raise _stands_by(elsewhere[0], "accept")
        for view in views:
            if empty:
                for identity in sorted(view.identities):
                    self._kept.decisions.decide(Kind.ENDED, f"{identity} {view.part}", by=str(peer), reason=reason)
            if view is next(one for one in views if one.whole == view.whole):  # once, however many shards there are
                log.warning("accept registry=%s doubt=%r empty=%s by=%r", view.whole, view.doubt, empty, str(peer))
                self._acts.note("accept", reason=f"{view.whole}: {view.doubt}: {reason}", by=str(peer))
            self._kept.decisions.decide(Kind.ACCEPTED, view.whole, by=str(peer), reason=reason, life=view.life)
            view.believe()
        if not empty:
            self._let_go(held, reason, str(peer))
        await self._kept.flush()
        self.apply()
        for reconciler in self._engine.reconcilers.values():
            reconciler.poke()
        return {**shown, "done": True}

    def _unknown(self, subject: str) -> list[View]:
        """The scopes of which nothing is known, neither from this process nor from one before it."""
        registry, _, scope = subject.partition("/")
        views = self._engine.store.views(registry)
        return [view for view in views if scope in ("", view.scope, whole_of(view.scope)) and not view.known]

    def _go_without(self, views: list[View], sure: object, reason: str, peer: Peer) -> Any:
        """Exports that waited for these go on without them: nothing that data planes have is taken away."""
        shown = {
            "id": set_hash([(view.registry, view.scope, "") for view in views]),
            "scopes": [
                {"registry": view.registry, "scope": view.scope, "doubt": f"nothing is known of it: {view.reason}"}
                for view in views
            ],
            "removes": [],
            "keeps": 0,
            "here_only": [],
        }
        if not sure:
            return {**shown, "done": False}
        if sure != shown["id"]:
            raise ValueError("it is known by now: do the same again, and look")
        for view in views:
            view.known = True
            log.warning("accept registry=%r empty=True by=%r", view, str(peer))
            self._acts.note("accept", reason=f"{view!r}: nothing is known of it: {reason}", by=str(peer))
        for reconciler in self._engine.reconcilers.values():
            reconciler.poke()
        return {**shown, "done": True}

    def _doubted(self, subject: str) -> list[View]:
        registry, _, scope = subject.partition("/")
        if registry not in self._engine.configuration.registries:
            known = ", ".join(self._engine.configuration.registries)
            raise LookupError(f"{registry!r} is no registry of the file that runs; it has {known}")
        mine = (view for view in self._engine.store.views(registry) if scope in ("", view.scope, whole_of(view.scope)))
        views = [view for view in mine if view.doubt]
        if not views:
            raise LookupError(f"nothing is doubted of {subject}; see `isthmus status`")
        if any(not view.up for view in views):
            raise LookupError(f"{subject} does not answer now; what it holds cannot be accepted unseen")
        return views

    def _let_go(self, held: list[tuple[Reconciler, list[HeldRemoval]]], reason: str, by: str) -> None:
        """What was shown may go, once, like any set that is approved."""
        now = self._engine.clock()
        for reconciler, ones in held:
            items = tuple(sorted(one.item for one in ones))
            hold = set_hash(items)
            reconciler.destination.holds.grant(hold, items, now + APPROVED)
            self._kept.decisions.approve(hold, items, reason, by, APPROVED)
            self._acts.note("approve", by=by, reason=f"{hold}: with the new life of its source: {reason}", hold=hold)

    # -- losses that are stated ------------------------------------------------------------------------------------

    async def expect(self, arguments: dict[str, Any], peer: Peer) -> Any:
        """States that so many serving instances of a link, a registry or a service will be lost within a time.

        Raises LookupError where nothing is called so, ValueError where the numbers make no sense.
        """
        subject, lose = str(arguments["subject"]), int(arguments["lose"])
        lasting, reason = float(arguments["lasting"]), str(arguments["reason"])
        if lose < 1 or lasting <= 0:
            raise ValueError("--lose must be 1 or more, and --for longer than nothing")
        if not any(self._expectations(subject, lose, 0.0)):
            raise LookupError(f"no link, registry or service is called {subject!r}")
        decisions = self._kept.decisions
        until = time.time() + lasting
        decision = decisions.decide(Kind.EXPECTED, subject, by=str(peer), reason=reason, until=until, count=lose)
        log.warning("expect subject=%s lose=%d by=%r reason=%r", subject, lose, str(peer), reason)
        self._acts.note("expect", reason=f"{subject} loses {lose}: {reason}", by=str(peer))
        await self._kept.flush()
        self.apply()
        for reconciler in self._engine.reconcilers.values():
            reconciler.poke(list(reconciler.destination.holds.names()))
        told = here_only(self._engine, lambda link: self._concerns(subject, link))
        return {"subject": subject, "lose": lose, "until": decision.until, "here_only": told}

    def _concerns(self, subject: str, link: Link) -> bool:
        """Whether something of this link may be lost by what was stated; of a service, of every link."""
        if any(one.name == subject for one in self._engine.configuration.links):
            return link.name == subject
        registry, _, _ = subject.partition("/")
        return registry not in self._engine.configuration.registries or registry in link.registries

    def _expectations(self, subject: str, lose: int, until: float) -> list[Expectation]:
        """What a subject means: a link, a registry or one of its scopes, or a service."""
        if any(link.name == subject for link in self._engine.configuration.links):
            return [Expectation(subject=subject, left=lose, of=lose, until=until, link=subject)]
        registry, slash, scope = subject.partition("/")
        if registry in self._engine.configuration.registries:
            identities = {one for view in self._engine.store.views(registry) for one in view.identities}
            origin = scope if slash else "*"
            return [
                Expectation(subject=subject, left=lose, of=lose, until=until, origin=(identity, origin))
                for identity in sorted(identities)
            ]
        name = ServiceName.parse(subject)
        known = any(name in view.services for view in self._engine.store.views()) or any(
            name in one.destination.entries for one in self._engine.reconcilers.values()
        )
        return [Expectation(subject=subject, left=lose, of=lose, until=until, service=name)] if known else []

    def rows(self) -> list[dict[str, Any]]:
        """The losses that are stated, as `status` shows them: `left` of each; `until` in seconds since the epoch."""
        return [
            {"subject": subject, "left": one.count, "until": one.until, "by": one.by, "reason": one.reason}
            for subject, one in self._kept.decisions.of(Kind.EXPECTED).items()
        ]

    # -- what was decided ------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """To be called once a second: what is decided counts at every destination, and what is used up is noted."""
        ended = frozenset(
            (identity, scope)
            for key in self._kept.decisions.of(Kind.ENDED)
            for identity, _, scope in [key.rpartition(" ")]
        )
        self._remember_additions()
        self._believe()
        stated = self._kept.decisions.of(Kind.EXPECTED)
        for reconciler in self._engine.reconcilers.values():
            if reconciler.destination.planner.ended != ended:
                reconciler.destination.planner.ended = ended
                reconciler.poke()
            for subject, decision in stated.items():
                self._state(reconciler, subject, decision)
            reconciler.destination.gate.expected.only(stated.keys())
        for subject, decision in stated.items():
            alone = (one for one in self._engine.reconcilers.values() if one.lead.share is None)
            expected = (one.destination.gate.expected for one in alone)
            left = min((each.left(subject, decision.count) for each in expected), default=decision.count)
            if left < decision.count:
                self._kept.decisions.put(replace(decision, count=left, turn=decision.turn + 1))

    def _believe(self) -> None:
        """A life that was accepted, on another host or before a crash, counts here as well."""
        ahead = time.time() - self._engine.clock()
        accepted = self._kept.decisions.of(Kind.ACCEPTED)
        for view in self._engine.store.views() if accepted else ():
            one = accepted.get(view.whole)
            if one is not None and view.up and view.synced and view.is_accepted(one.life, one.at - ahead):
                log.warning("accepted registry=%r doubt=%r by=%r reason=%r", view, view.doubt, one.by, one.reason)
                view.believe()

    def _remember_additions(self) -> None:
        """What the file added and still waits, also for the next process; of a link that is gone nothing does."""
        decisions, links = self._kept.decisions, {link.name for link in self._engine.configuration.links}
        for kind in (Kind.FRESH, Kind.ADDED):
            for key, one in decisions.of(kind).items():
                if link_of(key) not in links:
                    decisions.drop(one.name)
        for reconciler in self._engine.reconcilers.values():
            if reconciler.role == "writer":  # a standby takes over what the writer decides
                links = {one.name for one in reconciler.destination.links}
                adding.remember(reconciler.destination.additions, links, decisions)

    def _state(self, reconciler: Reconciler, subject: str, decision: Decision) -> None:
        until = self._engine.clock() + decision.left(time.time())
        expected, is_new = reconciler.destination.gate.expected, False
        for number, one in enumerate(self._expectations(subject, decision.count, until)):
            is_new |= expected.state(subject, f"{subject} {number}", decision.at, one)
        if is_new:  # it may have been stated on another host: what is held here may go by it
            reconciler.poke(list(reconciler.destination.holds.names()))


def _stands_by(reconciler: Reconciler, what: str) -> Unavailable:
    writer = status.writer(reconciler)
    where = f"{writer.host} (pid {writer.pid})" if writer is not None else "another host"
    return Unavailable(f"this daemon stands by, and {where} writes: {what} it there")


def here_only(engine: Engine, concerned: Callable[[Link], bool]) -> list[str]:
    """The destinations of these links of which no other host can be told: there is no note that it would read."""
    return sorted(
        {
            link.to
            for link in engine.configuration.links
            if engine.reconcilers[link.to].peers is None and link.policy is not Policy.OBSERVE and concerned(link)
        }
    )


def _reads(link: Link, view: View) -> bool:
    return link.item(view.registry, view.scope) is not None


def _held(reconciler: Reconciler, views: list[View]) -> list[HeldRemoval]:
    """What a destination holds because it does not believe these."""
    scopes = {(identity, view.part) for view in views for identity in view.identities}
    return [
        one
        for name in sorted(reconciler.destination.holds.names())
        for one in reconciler.destination.holds.of(name).values()
        if one.removal.scope in scopes and one.verdict.limit is Limit.INCARNATION
    ]


async def _of_members(reconciler: Reconciler, hold: str, now: float, lasting: float) -> tuple[Item, ...] | None:
    """Approves what is left of a set that was shown, of which each member of a group holds a part; None: none was.

    Each frees its own part. Raises ValueError where any part has grown, or nothing of it is held any more, Unavailable
    where it is another member's, and too large for its note.
    """
    await shared(reconciler)  # what the others hold is read now
    holds = reconciler.destination.holds
    current = plans.sets_of(reconciler, now)
    for one in current:
        if one.id == hold and not one.items:
            raise Unavailable(f"it cannot be approved here: {one.rule}")
    if (known := holds.shown(hold)) is None:
        return None
    for one in current:
        if frozenset(one.items) > known:
            raise ValueError(f"the set has grown since it was shown: it is {one.id} now; look again")
    left = tuple(sorted(known & {item for one in current for item in one.items}))
    if not left:
        raise ValueError(f"nothing of {hold} is held any more")
    holds.grant(hold, left, now + lasting)
    return left
