"""What each daemon says of itself in its note, and what the others do with it: at an export, and in a group.

At an export every daemon serves a picture of its own: what one lets go all let go, and what they serve is compared. The
members of a group write one destination, each its own shards of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from bridge.adapter import Note
from bridge.destination import likeness
from bridge.destination.destination import Destination
from bridge.destination.handover import Handover
from bridge.destination.likeness import Comparison, Likeness
from bridge.destination.standby import LOSSES_EVERY
from bridge.destination.went import Gone
from bridge.destination.writer import Writer
from bridge.guard.holds import FOLLOWED, Hold
from bridge.guard.losses import Lost
from bridge.model import ServiceName
from bridge.state.decisions import Kind
from bridge.state.folder import State

log = logging.getLogger("isthmus.joint")

FORMAT = 1
SERVICES = 100  # of which one daemon says the digests, where it serves something else than another
PARTS = 2  # of a picture that are told by service at a time
LONGEST = 96 * 1024  # bytes of losses in one note: there is room for the rest


class Share(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The note of one daemon. `at`: seconds since the epoch. `process`: who it is.

    `losses`: as in a standby's note. `went`: what it let go. `digests`: of what it serves, as `likeness` has them;
    `services`: the digest of each service, of some parts in which it serves something else than another. `holds`: the
    sets that a member of a group holds, those for which there is no room without their items.
    """

    process: Writer
    at: float
    losses: tuple[Lost, ...] = ()
    went: tuple[Gone, ...] = ()
    digests: str = ""
    services: Mapping[str, Mapping[str, str]] = {}
    holds: tuple[Hold, ...] = ()
    format: int = FORMAT


class Here(NamedTuple):
    """What this process has at the destination. `again(names)` has these planned again; the clocks as in `Joint`."""

    destination: Destination
    kept: State
    handover: Handover
    clock: Callable[[], float]
    wall: Callable[[], float]
    again: Callable[[Iterable[ServiceName]], None]

    @property
    def ahead(self) -> float:
        """Seconds that the wall clock is ahead of the monotonic one."""
        return self.wall() - self.clock()


class Exchange(Protocol):
    """What daemons say to each other of one destination, beside the decisions of operators.

    `role`: what each of them is, for people. `running`: the notes of the other daemons that run, by key.
    """

    role: str

    def hear(self, first: Iterable[Share], others: Iterable[Share], running: Mapping[str, Share]) -> None:
        """Called at each look. `first`: all notes, at the first look alone. `others`: those that are not ours."""
        ...

    def say(self, process: Writer, known: Share | None) -> Share:
        """Our own note. `known`: as it is in the store."""
        ...

    def pictures(self, running: Mapping[str, Share]) -> dict[str, str]:
        """A digest of what each serves, by host, "": this one; the same where they serve the same."""
        ...

    def unlike(self, running: Mapping[str, Share]) -> dict[str, Sequence[str]]:
        """See `Peers.unlike`; no services where the other one has not said yet which they are."""
        ...


class ExportExchange:
    """At an export: every daemon serves a picture of its own."""

    role = "serving"

    def __init__(self, here: Here) -> None:
        self._here = here
        self._lost = float("-inf")  # when losses were said last
        self._likeness = Likeness()
        self._compared: dict[str, Comparison] = {}
        here.destination.inventory.touched = set(here.destination.entries)

    def hear(self, first: Iterable[Share], others: Iterable[Share], running: Mapping[str, Share]) -> None:
        """See `Exchange.hear`: what others lost before this process looked counts here as well."""
        self._here.handover.lose(lost for share in first for lost in share.losses)
        self._let_go(gone for share in others for gone in share.went)
        self._compare(running)

    def _let_go(self, went: Iterable[Gone]) -> None:
        there, ahead = self._here.destination, self._here.ahead
        newest: dict[tuple[str, str, str], Gone] = {}
        for gone in went:
            if gone.item not in newest or gone.at > newest[gone.item].at:
                newest[gone.item] = gone
        names: set[ServiceName] = set()
        for name in there.holds.names() if newest else ():
            for one in there.holds.of(name).values():
                gone_there = newest.get(one.item)
                if gone_there is not None and gone_there.lets_go(one, one.since + ahead):
                    there.holds.grant(FOLLOWED, [one.item], self._here.clock() + LOSSES_EVERY)
                    names.add(name)
        self._here.again(names)

    def _compare(self, running: Mapping[str, Share]) -> None:
        there = self._here.destination
        touched = there.inventory.touched or set()
        self._likeness.take(touched, there.entries)
        touched.clear()
        self._compared = {key: self._compared.get(key, Comparison()) for key in running}
        for key, share in running.items():
            self._compared[key].look(self._likeness.text, share.digests, self._here.clock())

    def say(self, process: Writer, known: Share | None) -> Share:
        """See `Exchange.say`."""
        here, now = self._here, self._here.clock()
        losses = known.losses if known is not None else ()
        if now - self._lost >= LOSSES_EVERY:
            losses, self._lost = _fitting(here.handover.losses()), now
        differ = {part for one in self._compared.values() for part in one.lasting(now)[:PARTS]}
        return Share(
            process=process,
            at=here.wall(),
            losses=losses,
            went=here.destination.went.since(now, here.ahead),
            digests=self._likeness.text,
            services={str(part): _few(self._likeness.services(part)) for part in sorted(differ)[:PARTS]},
        )

    def pictures(self, running: Mapping[str, Share]) -> dict[str, str]:
        """See `Exchange.pictures`."""
        theirs = {named(one.process): likeness.summary(one.digests) for one in running.values()}
        return {"": likeness.summary(self._likeness.text), **theirs}

    def unlike(self, running: Mapping[str, Share]) -> dict[str, Sequence[str]]:
        """See `Exchange.unlike`."""
        now, found = self._here.clock(), dict[str, Sequence[str]]()
        for key, share in running.items():
            if lasting := self._compared[key].lasting(now):
                told = [part for part in lasting if str(part) in share.services]
                pairs = [(self._likeness.services(part), share.services[str(part)]) for part in told]
                found[named(share.process)] = [name for pair in pairs for name in likeness.unlike(*pair, SERVICES)]
        return found


class GroupExchange:
    """In a group: what its members write is one picture, and their losses are in the notes of the shards."""

    role = "member"

    def __init__(self, here: Here) -> None:
        self._here = here

    def hear(self, first: Iterable[Share], others: Iterable[Share], running: Mapping[str, Share]) -> None:
        """See `Exchange.hear`. An approval is for once: what a member let go by it is not let go here.

        The shard may be this process's to write later.
        """
        holds, approvals = self._here.destination.holds, self._here.kept.decisions.of(Kind.APPROVAL)
        granted = holds.granted()
        for gone in (gone for share in running.values() for gone in share.went) if granted else ():
            grant = granted.get(gone.item)
            approval = approvals.get(grant.hold) if grant is not None else None
            if approval is not None and approval.at <= gone.at:
                holds.use(gone.item)

    def say(self, process: Writer, known: Share | None) -> Share:
        """See `Exchange.say`."""
        here, now = self._here, self._here.clock()
        return Share(
            process=process,
            at=here.wall(),
            went=here.destination.went.since(now, here.ahead),
            holds=_without_ages(here.destination.holds.show(now)),
        )

    def pictures(self, running: Mapping[str, Share]) -> dict[str, str]:
        """See `Exchange.pictures`: there is one."""
        return {}

    def unlike(self, running: Mapping[str, Share]) -> dict[str, Sequence[str]]:
        """See `Exchange.unlike`: there is one picture."""
        return {}


def decode(note: Note) -> Share | None:
    """None: it is of a format that this version does not know."""
    try:
        return msgspec.json.decode(note.content, type=Share)
    except msgspec.DecodeError:
        return None


def named(process: Writer) -> str:
    """How a daemon is named for people."""
    return f"{process.host} (pid {process.pid})"


def _fitting(losses: Sequence[Lost]) -> tuple[Lost, ...]:
    found, room = [], LONGEST
    for one in losses:
        room -= len(msgspec.json.encode(one))
        if room < 0:
            log.warning("the losses of a note are cut short count=%d", len(losses))
            break
        found.append(one)
    return tuple(found)


def _without_ages(holds: Sequence[Hold]) -> tuple[Hold, ...]:
    """What does not change while nothing happens; the smallest sets with their items, as far as there is room."""
    found, room = [], LONGEST
    for hold in sorted(holds, key=lambda one: one.instances):
        told = replace(hold, age=0.0, due_in=None)
        room -= len(msgspec.json.encode(told))
        found.append(told if room > 0 else replace(told, items=()))
    return tuple(found)


def _few(services: Mapping[str, str]) -> dict[str, str]:
    return dict(list(services.items())[:SERVICES])
