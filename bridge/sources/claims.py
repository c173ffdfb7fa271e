"""Which services are known at which address and port: what shows that an address serves elsewhere by now.

Only one process listens on an address and port. Where the source of a service is out of reach, and another service of
the same network turns up alive at its pair, what was known is over. A pair that was ever known under two services at
once is shared (a load balancer, a node port, an ingress, a process with several interfaces): it says nothing of either.

Nearly every address has one instance only, and every change of any instance passes here: pairs are told apart only
where there is a second one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from bridge.model import Instance, Mark, Service, ServiceName
from bridge.sources.networks import ONE, Networks

if TYPE_CHECKING:
    from bridge.sources.view import View

KEPT = 10_000  # pairs that were shared and no longer are; the oldest are forgotten first

Pair = tuple[str, str, int]  # network, address, port


class Claim(msgspec.Struct, frozen=True):
    """One instance that a scope has, or had by its last report."""

    view: View
    service: ServiceName
    id: str

    @property
    def mark(self) -> Mark | None:
        """Its mark; None: a native, or it is gone."""
        held = self.view.services.get(self.service)
        return held.marks.get(self.id) if held is not None else None

    @property
    def name(self) -> str:
        """The service's name; of a copy the name where it was copied from, for a link may rename it."""
        mark = self.mark
        return mark.service.name if mark is not None else self.service.name

    @property
    def is_alive(self) -> bool:
        """Whether a scope that is believed says now that this is a native and serves."""
        held, view = self.view.services.get(self.service), self.view
        one = held.instances.get(self.id) if held is not None else None
        return one is not None and one.serving and self.mark is None and view.up and not view.doubt


class Claims:
    """All that is known, by pair. `touch(view, service)`: that service is to be planned again.

    `shared`: pairs that were known under two services at once. `taken`: by scope and service the instances that are out
    of reach and whose pair serves elsewhere, with a text for people, until their scope answers again.
    """

    def __init__(self, touch: Callable[[View, ServiceName], None]) -> None:
        self.networks: Networks = ONE
        self.shared: dict[Pair, None] = {}
        self.shares = 0  # how often these changed
        self.taken: dict[tuple[View, ServiceName], dict[str, str]] = {}
        self._touch = touch
        self._views: set[View] = set()  # that ever claimed something
        self._room = 2 * KEPT
        # By address: who is there alone, else who is at which pair, in order: behind one pair there may be a thousand.
        self._at: dict[str, Claim | dict[Pair, dict[Claim, None]]] = {}
        self._contested: dict[Pair, None] = {}  # known under several services, and not at once

    def change(self, view: View, old: Service, now: Service, ids: Iterable[str], *, restored: bool = False) -> None:
        """Instances of one service are there, have changed, or are gone. `restored`: from the disk, so no news."""
        self._views.add(view)
        name, at, known, there = now.name, self._at, old.instances, now.instances
        for id in ids:
            claim = Claim(view, name, id)
            was, one = known.get(id), there.get(id)
            if was is None and one is not None and one.ports and at.setdefault(one.address, claim) is claim:
                continue  # nobody else is known there
            before = self.pairs(view.registry, was, old.marks.get(id))
            after = self.pairs(view.registry, one, now.marks.get(id))
            for pair in before:
                if pair not in after:
                    self._drop(pair, claim, stays=one is not None and one.address == pair[1] and bool(after))
            for pair in after:
                self._add(pair, claim, restored=restored)

    def _add(self, pair: Pair, claim: Claim, *, restored: bool) -> None:
        there = self._at.setdefault(pair[1], claim)
        if isinstance(there, Claim):
            if there == claim:
                return
            there = self._at[pair[1]] = {one: {there: None} for one in self._of(there) if one[1] == pair[1]}
        known = there.setdefault(pair, {})
        known[claim] = None
        if len(known) > 1:
            self._look(pair, at_once=restored)

    def _drop(self, pair: Pair, claim: Claim, *, stays: bool) -> None:
        """`stays`: it is still at that address."""
        there = self._at.get(pair[1])
        if isinstance(there, dict):
            left = there.get(pair, {})
            left.pop(claim, None)
            if not left:
                there.pop(pair, None)
                if not there:
                    del self._at[pair[1]]
            elif pair in self._contested:
                self._look(pair)
        elif there == claim and not stays:
            del self._at[pair[1]]

    def _known(self, pair: Pair) -> Collection[Claim]:
        """Who is at a pair."""
        there = self._at.get(pair[1])
        if there is None or isinstance(there, dict):
            return there.get(pair, {}) if there is not None else ()
        return (there,) if pair in self._of(there) else ()

    def _of(self, claim: Claim) -> Sequence[Pair]:
        """The pairs that a claim is for now."""
        held = claim.view.services.get(claim.service)
        return self.pairs(claim.view.registry, held.instances.get(claim.id), claim.mark) if held is not None else ()

    def pairs(self, registry: str, instance: Instance | None, mark: Mark | None) -> Sequence[Pair]:
        """The pairs of an instance of a registry."""
        if instance is None:
            return ()
        network, address = self.networks.of(registry, instance, mark), instance.address
        return [(network, address, port.number) for port in instance.ports]

    def heard(self, view: View) -> None:
        """A scope has listed everything, or is out of reach: what it claims counts otherwise than before."""
        if view.up:
            for key in [key for key in self.taken if key[0] is view]:
                self._touch(*key)
                del self.taken[key]
        for pair in [pair for pair in self._contested if any(one.view is view for one in self._known(pair))]:
            self._look(pair)

    def elsewhere(self, pairs: Iterable[Pair], service: ServiceName, mark: Mark | None) -> str:
        """Where a pair of an instance serves another service, for people; "": nowhere, or it is shared.

        What a copy was called in registries that it passed before the last is not known: natives there may be it. So
        each of those must be known, and say so: one that was swapped is known by another identity.
        """
        names = {service.name} if mark is None else {service.name, mark.service.name}
        passed = () if mark is None else mark.path[:-1]
        for pair in pairs:
            if pair not in self.shared:
                for one in self._known(pair):
                    other = one.is_alive and one.name not in names and one.view.identity not in passed
                    if other and self._answered_by >= {*passed}:
                        return f"{pair[1]}:{pair[2]} serves {one.service} in {one.view!r} now"
        return ""

    def __len__(self) -> int:
        """At how many addresses anything is known."""
        return len(self._at)

    @property
    def _answered_by(self) -> set[str]:
        """The identities of the stores that answer now and are believed."""
        return {view.identity for view in self._views if view.up and not view.doubt}

    def start_over(self, networks: Networks) -> None:
        """Nothing is known; every instance is to be told anew, as restored."""
        self.networks = networks
        self._at.clear()
        self._contested.clear()
        self.taken.clear()

    def _look(self, pair: Pair, *, at_once: bool = False) -> None:
        claims = self._known(pair)
        if pair in self.shared or len({one.name for one in claims}) < 2:
            self._contested.pop(pair, None)
            return
        if at_once or len({one.name for one in claims if one.view.tells(one.service, one.id)}) > 1:
            self.share([pair])
            self._contested.pop(pair, None)
        else:
            self._contested[pair] = None
        for claim in claims:
            where = self.elsewhere([pair], claim.service, claim.mark) if claim.view.out_of_reach else ""
            if where:
                self.taken.setdefault((claim.view, claim.service), {})[claim.id] = where
                self._touch(claim.view, claim.service)

    def share(self, pairs: Iterable[Pair]) -> None:
        """These were known under two services at once: now, or by an earlier process."""
        self.shared.update(dict.fromkeys(pairs))
        self.shares += 1
        if len(self.shared) > self._room:
            self._forget()

    def _forget(self) -> None:
        """Forgets pairs that were shared once, but for the newest: addresses come and go for ever."""
        once = [pair for pair in self.shared if len(self._known(pair)) < 2]
        for pair in once[: max(0, len(once) - KEPT)]:
            del self.shared[pair]
        self._room = 2 * (len(self.shared) + KEPT)
