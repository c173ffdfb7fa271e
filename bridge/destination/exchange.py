"""The note that each daemon writes about itself, and what the others do with it: at an export, and in a group.

At an export every daemon serves a picture of its own: a removal that one makes all make, and the pictures are compared.
The members of a group write one destination, each some shards of it.
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
SERVICES = 100  # whose digests are in a note, of each part in which two pictures differ
PARTS = 2  # of a picture whose services are in a note at a time
LONGEST = 96 * 1024  # bytes in one note of losses or held sets, and of removals; this leaves room for the rest
WENT = 32 * 1024  # of these at most for removals


class Share(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The note of one daemon. `process`: the daemon. `at`: when it was written, in seconds since the epoch.

    `losses`: as in the note for standbys. `went`: the removals that it made. `digests`: of the picture that it serves,
    as in `likeness`; `services`: for some parts that differ from another daemon's, the digest of each service.
    `holds`: the sets that a member of a group holds; those for which there is no room have no items.
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
    """This process at the destination. `again(names)` has these services planned again; clocks as in `Joint`."""

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
    """What the daemons tell each other about one destination, apart from operators' decisions.

    `role`: the role of each of them, for people. `running`: the notes of the other daemons that run, by key.
    """

    role: str

    def hear(self, first: Iterable[Share], others: Iterable[Share], running: Mapping[str, Share]) -> None:
        """Called at each look. `first`: at the first look all notes, else none. `others`: all notes but our own."""
        ...

    def say(self, process: Writer, known: Share | None) -> Share:
        """The content of our own note. `known`: what is in the store now."""
        ...

    def pictures(self, running: Mapping[str, Share]) -> dict[str, str]:
        """The digest of each daemon's picture, by host; "": our own. Equal pictures have equal digests."""
        ...

    def unlike(self, running: Mapping[str, Share]) -> dict[str, Sequence[str]]:
        """See `Peers.unlike`; without services until the other daemon's note has their digests."""
        ...


class ExportExchange:
    """At an export: every daemon serves a picture of its own."""

    role = "serving"

    def __init__(self, here: Here) -> None:
        self._here = here
        self._lost = float("-inf")  # when losses were put into the note last
        self._likeness = Likeness()
        self._compared: dict[str, Comparison] = {}
        here.destination.inventory.touched = set(here.destination.entries)

    def hear(self, first: Iterable[Share], others: Iterable[Share], running: Mapping[str, Share]) -> None:
        """See `Exchange.hear`. Losses of others from before this process began count here as well."""
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
            went=_newest(here.destination.went.since(now, here.ahead)),
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
        """See `Exchange.hear`. An approval is for once: a removal that a member made by it uses it up here as well.

        This process may be assigned that shard later.
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
            went=_newest(here.destination.went.since(now, here.ahead)),
            holds=told(here.destination.holds.show(now)),
        )

    def pictures(self, running: Mapping[str, Share]) -> dict[str, str]:
        """See `Exchange.pictures`: the members write one picture together."""
        return {}

    def unlike(self, running: Mapping[str, Share]) -> dict[str, Sequence[str]]:
        """See `Exchange.unlike`: the members write one picture together."""
        return {}


def decode(note: Note) -> Share | None:
    """None: this version does not know its format."""
    try:
        return msgspec.json.decode(note.content, type=Share)
    except msgspec.DecodeError:
        return None


def named(process: Writer) -> str:
    """The name of a daemon for people."""
    return f"{process.host} (pid {process.pid})"


def _fitting(losses: Sequence[Lost]) -> tuple[Lost, ...]:
    found, room = [], LONGEST - WENT
    for one in losses:
        room -= len(msgspec.json.encode(one))
        if room < 0:
            log.warning("the losses of a note are cut short count=%d", len(losses))
            break
        found.append(one)
    return tuple(found)


def _newest(went: Sequence[Gone]) -> tuple[Gone, ...]:
    """The newest removals, as far as there is room."""
    first, room = len(went), WENT
    while first and (room := room - len(msgspec.json.encode(went[first - 1]))) > 0:
        first -= 1
    return tuple(went[first:])


def told(holds: Sequence[Hold]) -> tuple[Hold, ...]:
    """The held sets as the note has them: without what changes by time alone, the smallest with their items.

    As far as there is room: a set without items can be approved at its own member alone.
    """
    found, room = [], LONGEST - WENT
    for hold in sorted(holds, key=lambda one: one.instances):
        one = replace(hold, age=0.0, due_in=None)
        room -= len(msgspec.json.encode(one))
        found.append(one if room > 0 else replace(one, items=()))
    return tuple(found)


def _few(services: Mapping[str, str]) -> dict[str, str]:
    return dict(list(services.items())[:SERVICES])
