"""What differs between both sides of a move that its consumers would notice: rows, each with its severity; pure.

Each row is there for incidents that were told of elsewhere: a port that means something else, a pod that nobody outside
its cluster can dial, a filter that lets no pod pass at any weight, the same copy registered twice.
"""

from __future__ import annotations

import enum
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from bridge.model import Instance, Port
from bridge.sources.dialing import unroutable

PROBED = 86_400.0  # seconds that a report of `probe` counts: networks change
TIMES = 2.0  # the load of one `from` instance that one of `to` may have to bear
SCALE = 10.0  # weights that differ by so much are of different scales
CLOCK = 5.0  # seconds that a clock may be ahead
WARM_UP = 600.0  # seconds of Dubbo's, where a provider does not say another time
NAMED = 5  # values or addresses that a text names; the subjects have all

DUBBO = frozenset({"dubbo2", "dubbo3"})
INSIDE = (".cluster.local", ".svc", ".pod")  # ends of names that resolve inside a cluster alone

# By what routers and filters of consumers choose.
KEYS = ("version", "env", "group", "lane", "tag", "dubbo.tag", "gray", "region", "zone", "cluster")
# Of those what stock readers of a layout act on without any setting; of a layout that is not here, none.
ACTED: Mapping[str, frozenset[str]] = {
    "dubbo2": frozenset({"version", "dubbo.tag"}),
    "dubbo3": frozenset({"dubbo.tag"}),
    "eureka": frozenset({"zone"}),  # Ribbon prefers its own
    "kubernetes": frozenset({"zone"}),  # topology hints
    "xds": frozenset({"region", "zone"}),  # localities
}
# What a consumer cannot call without, or calls in another way.
CALLED: Mapping[str, tuple[str, ...]] = {
    "dubbo2": ("codec", "generic", "methods", "path", "prefer.serialization", "serialization", "ssl-enabled"),
    "dubbo3": ("dubbo.metadata.storage-type",),
}
LISTS = frozenset({"methods"})  # of which a provider may have more
TLS_MODE = "security.istio.io/tlsMode"
# Where gateways, dashboards and health checks look.
PATHS = ("configPath", "context-path", "contextPath", "health", "health.path", "management.context-path",
         "management.port", "secure")  # fmt: skip

UNTRIED = "nobody has shown within a day that consumers reach it: `isthmus probe LINK --report FILE` there"
# What no record says, for people.
CHECKLIST = (
    "host names, addresses and file paths that are written into the application, and its time zone",
    "address lists of firewalls and of those that the service calls: a pod comes from another network",
    "sticky sessions; schedulers and singletons that would run at both sides; Kafka groups that both would share",
    "the source address and X-Forwarded-For, where anything goes by them (a node may translate addresses)",
    "the time that a pod takes to start, and whether liveness, readiness and start-up share one health check",
)


class Severity(enum.StrEnum):
    """BLOCK: with `parity: block` the migration does not start."""

    BLOCK = "block"
    WARN = "warn"


class Row(msgspec.Struct, frozen=True):
    """One difference. `what`: its kind, a key of `CHECKS`. `subjects`: the instances that it is about, sorted."""

    what: str
    severity: Severity
    text: str
    subjects: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """What `isthmus probe --report` found at one host, as far as it is asked for here. `at`: seconds since the epoch.

    `answered`: `ADDRESS:PORT` of each that was reached.
    """

    link: str
    from_: str
    at: float
    answered: tuple[str, ...] = ()
    unreached: tuple[dict[str, str | int], ...] = ()


class Move(NamedTuple):
    """Both sides of one service as a place has them, or will.

    `from_`, `to`: instances by what people call them. `carried`: of those the ones that a link of ours brings to the
    place, and which link. `shares`: of the steps ahead, the next one first, 0 to 1. `now`: seconds since the epoch.
    """

    place: str
    layout: str
    from_: Mapping[str, Instance]
    to: Mapping[str, Instance]
    now: float
    shares: tuple[float, ...] = ()
    carried: Mapping[str, str] = {}
    reports: tuple[Report, ...] = ()


Found = tuple[Severity, str, str]  # with the text and the subject; the same text of several subjects is one row


def parity(move: Move) -> list[Row]:
    """Every difference, those that block first. Where one side has nothing there is nothing else to compare."""
    if not move.from_ or not move.to:
        side = "from" if not move.from_ else "to"
        return [Row("names", Severity.BLOCK, f"`{side}` has no instance under this name for {move.place}")]
    both = _Both.of(move)
    rows = [row for what, check in CHECKS.items() for row in _rows(what, check(both))]
    return sorted(rows, key=lambda row: row.severity is not Severity.BLOCK)


def missing_names(from_: Iterable[str], to: Iterable[str]) -> list[Row]:
    """The services of `from` that `to` does not have: consumers of such a name (a Dubbo interface) would find none."""
    lost = tuple(sorted(set(from_) - set(to)))
    return [Row("names", Severity.BLOCK, "`to` has no service of this name", lost)] if lost else []


def blocks(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Those that keep a migration from its start where `gates.parity` is `block`."""
    return tuple(row for row in rows if row.severity is Severity.BLOCK)


def _rows(what: str, found: Iterable[Found]) -> Iterator[Row]:
    grouped: dict[tuple[Severity, str], set[str]] = defaultdict(set)
    for severity, text, subject in found:
        grouped[severity, text] |= {subject} if subject else set()
    for (severity, text), subjects in grouped.items():
        yield Row(what, severity, text, tuple(sorted(subjects)))


Shapes = Mapping[tuple[Port, ...], list[str]]


class _Both(NamedTuple):
    """Both sides, and what several checks ask of them: instances by their ports, which most have in common.

    `common`: a port of each kind that every instance of `from` has, as the first one has it.
    """

    move: Move
    old: Shapes
    new: Shapes
    common: tuple[Port, ...]

    @classmethod
    def of(cls, move: Move) -> _Both:
        old, new = _shapes(move.from_), _shapes(move.to)
        first = next(iter(old))
        return cls(move, old, new, tuple(port for port in first if all(_like(port, other) for other in old)))

    def pairs(self) -> Iterator[tuple[Port, Port | None, list[str]]]:
        """Each common port, the one like it at `to`, and who has that."""
        for port in self.common:
            for ports, subjects in self.new.items():
                yield port, _like(port, ports), subjects


def _shapes(side: Mapping[str, Instance]) -> Shapes:
    found: dict[tuple[Port, ...], list[str]] = {}
    for subject, instance in side.items():
        found.setdefault(instance.ports, []).append(subject)
    return found


def _like(port: Port, others: Sequence[Port]) -> Port | None:
    """The one of the same name; where one of them has none, of the same protocol; else the only one."""
    named = [one for one in others if port.name and one.name == port.name]
    unnamed = [one for one in others if not (port.name and one.name)]
    spoken = [one for one in unnamed if port.protocol and one.protocol == port.protocol]
    alone = unnamed if len(others) == 1 else []
    return next(iter([*named, *spoken, *alone]), None)


def _label(port: Port) -> str:
    return port.name or port.protocol or str(port.number)


def _ports(both: _Both) -> Iterator[Found]:
    """Consumers look a port up by its name, or take the only one."""
    numbers = {port.number: _label(port) for port in both.common}
    for port, other, subjects in both.pairs():
        label, text = _label(port), ""
        if other is None:
            text = f"`to` has no port like {label} of `from`"
        elif port.protocol and other.protocol and port.protocol != other.protocol:
            text = f"port {label} speaks {port.protocol} at `from` and {other.protocol} at `to`"
        elif numbers.get(other.number, label) != label:
            text = f"port {label} of `to` is {other.number}, which is {numbers[other.number]} at `from`"
        if text:
            yield from _each(Severity.BLOCK, text, subjects)


def _numbers(both: _Both) -> Iterator[Found]:
    """Readers of most records take the number from each; Dubbo 3 takes it from the revision's report."""
    severity = Severity.BLOCK if both.move.layout == "dubbo3" else Severity.WARN
    for port, other, subjects in both.pairs():
        there = {like.number for ports in both.old if (like := _like(port, ports))}
        if other is not None and len(there) == 1 and other.number not in there:
            text = f"port {_label(port)} is {port.number} at every `from`, and {other.number} at `to`"
            yield from _each(severity, text, subjects)


def _tls(both: _Both) -> Iterator[Found]:
    said = {True: "TLS", False: "plain text"}
    for port, other, subjects in both.pairs():
        if other is not None and other.tls != port.tls:
            text = f"port {_label(port)} is {said[port.tls]} at `from`, {said[other.tls]} at `to`"
            yield from _each(Severity.BLOCK, text, subjects)
    modes = {one.metadata.get(TLS_MODE) for one in both.move.from_.values()}
    for subject, instance in both.move.to.items():
        if (mode := instance.metadata.get(TLS_MODE)) and mode not in modes:
            text = f"`to` is in a mesh ({TLS_MODE}={mode}): let it be PERMISSIVE until no request is plain text"
            yield Severity.BLOCK, text, subject


def _each(severity: Severity, text: str, subjects: Iterable[str]) -> Iterator[Found]:
    return ((severity, text, subject) for subject in subjects)


FIELDS: Mapping[str, Callable[[Instance], str]] = {
    "version": attrgetter("version"),
    "region": attrgetter("locality.region"),
    "zone": attrgetter("locality.zone"),
}


def _value(instance: Instance, key: str) -> str:
    field = FIELDS.get(key)
    return (field(instance) if field else "") or instance.metadata.get(key, "")


def _said(keys: Iterable[str], *sides: Mapping[str, Instance]) -> list[str]:
    """Those of the keys that any instance says."""
    there = {key for side in sides for one in side.values() if one.metadata for key in one.metadata}
    there |= {key for key, field in FIELDS.items() if any(any(map(field, side.values())) for side in sides)}
    return [key for key in keys if key in there]


def _listed(values: Iterable[str]) -> str:
    names = sorted(value or "none" for value in values)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _routers(both: _Both) -> Iterator[Found]:
    """In use is what divides `from`, and what stock readers act on anyway; any other may be nobody's."""
    move = both.move
    for key in _said(KEYS, move.from_, move.to):
        there = {_value(one, key) for one in move.from_.values()}
        here = {_value(one, key) for one in move.to.values()}
        acted = key in ACTED.get(move.layout, frozenset())
        if here == there or (there == {""} and not acted):
            continue
        used = acted or len(there) > 1
        odd = [name for name, one in move.to.items() if _value(one, key) not in there]
        text = f"{key} is {_listed(there)} at `from` and {_listed(here)} at `to`: who chooses by it sees another set"
        for subject in odd or move.to:
            yield Severity.BLOCK if used else Severity.WARN, text, subject


def _calls(both: _Both) -> Iterator[Found]:
    """What a call is made of: a provider without a method, or with another serialization, is called in vain."""
    move = both.move
    for key in CALLED.get(move.layout, ()):
        there = {one.metadata.get(key, "") for one in move.from_.values()}
        for subject, instance in move.to.items():
            value = instance.metadata.get(key, "")
            if key in LISTS:
                lost = {part for one in there for part in one.split(",")} - set(value.split(",")) - {""}
                if lost:
                    yield Severity.BLOCK, f"{key} lack {_listed(lost)}", subject
            elif value not in there:
                yield Severity.BLOCK, f"{key} is {_listed(there)} at `from` and {value or 'none'} at `to`", subject
    if move.layout == "dubbo3":
        for subject, instance in move.to.items():
            if instance.metadata.get("dubbo.metadata.revision", "0") in ("", "0"):
                yield (
                    Severity.BLOCK,
                    "has no dubbo.metadata.revision, so consumers know none of its interfaces",
                    subject,
                )


def _weights(both: _Both) -> Iterator[Found]:
    move = both.move
    there, here = (statistics.median(one.weight for one in side.values()) for side in (move.from_, move.to))
    if there > 0 and here > 0 and not 1 / SCALE < here / there < SCALE:
        yield Severity.BLOCK, f"weights are about {here:g} at `to` and {there:g} at `from`: another scale", ""


def _warm_up(both: _Both) -> Iterator[Found]:
    """A provider that registers itself begins with next to nothing; what a link carries is written without that."""
    move = both.move
    if move.layout not in DUBBO:
        return
    left = {name: _warm(one, move.now) for name, one in move.to.items() if name not in move.carried}
    longest = max(left.values(), default=0.0)
    for subject in (name for name, seconds in left.items() if seconds > 0):
        text = f"warms up for {longest:.0f} s more, with less than its share; `warmup=0` ends that"
        yield Severity.BLOCK, text, subject


def _warm(instance: Instance, now: float) -> float:
    """Seconds that it still warms up; 0 where it does not, or has a clock that is ahead."""
    since, lasts = (_seconds(instance.metadata.get(key)) for key in ("timestamp", "warmup"))
    if since is None or since > now + CLOCK:
        return 0.0
    return since + (WARM_UP if lasts is None else lasts) - now


def _seconds(text: str | None) -> float | None:
    """Of a text with milliseconds."""
    return int(text) / 1000 if text and text.isascii() and text.isdigit() and len(text) < 16 else None


def _clock(both: _Both) -> Iterator[Found]:
    """Dubbo gives a provider that started in the future the weight 1."""
    move = both.move
    for subject, instance in {**move.from_, **move.to}.items() if move.layout in DUBBO else ():
        since = _seconds(instance.metadata.get("timestamp"))
        if since is not None and since - move.now > CLOCK:
            yield Severity.WARN, "started in the future by its own clock, so it gets next to nothing", subject


def _twice(both: _Both) -> Iterator[Found]:
    """The same running copy under two names gets twice its share, or the side that it is counted for changes."""
    move = both.move
    first: dict[tuple[str, int], str] = {}
    held: dict[tuple[str, int], set[str]] = {}
    for subject, instance in [*move.from_.items(), *move.to.items()]:
        for port in instance.ports:
            other = first.setdefault((instance.address, port.number), subject)
            if other != subject:
                held.setdefault((instance.address, port.number), {other}).add(subject)
    for subject in move.from_.keys() & move.to.keys():
        yield Severity.BLOCK, _remedy("both sides hold it", {subject}, move), subject
    for (address, number), subjects in held.items():
        text = _remedy(f"{address}:{number} is registered {len(subjects)} times", subjects, move)
        yield from _each(Severity.BLOCK, text, subjects)


def _remedy(text: str, subjects: Iterable[str], move: Move) -> str:
    links = sorted({move.carried[subject] for subject in subjects if subject in move.carried})
    rest = f"narrow the link {', '.join(links)}" if links else "have it register at one of them"
    return f"{text}: {rest}"


def _capacity(both: _Both) -> Iterator[Found]:
    """By numbers of instances; what one of them can bear nobody but its owner knows."""
    move = both.move
    old, new = (sum(one.serving for one in side.values()) for side in (move.from_, move.to))
    if not new:
        yield Severity.BLOCK, "no instance of `to` serves", ""
        return
    for index, share in enumerate(move.shares):
        if (load := share * old / new) > TIMES:
            text = f"at {share:.4g} one of {new} at `to` bears {load:.1f} times what one of {old} bears at `from` alone"
            yield Severity.WARN if index else Severity.BLOCK, text, ""
            return


def _reached(both: _Both) -> Iterator[Found]:
    """What cannot be dialled from anywhere else, and what a consumer's host has tried in vain within a day."""
    move = both.move
    recent = [report for report in move.reports if move.now - report.at <= PROBED]
    lost = {(row.get("address"), row.get("port")): one.from_ for one in recent for row in one.unreached}
    answered = {text for report in recent for text in report.answered}
    for ports, subjects in both.new.items():
        numbers = sorted({other.number for port in both.common if (other := _like(port, ports))})
        for subject in subjects:
            address = move.to[subject].address
            if why := _inside(address):
                yield Severity.BLOCK, why, subject
                continue
            for number in numbers:
                if (address, number) in lost:
                    yield Severity.BLOCK, f"could not be reached from {lost[address, number]}", subject
                elif not answered or f"{address}:{number}" not in answered:
                    yield Severity.WARN, UNTRIED, subject


def _inside(address: str) -> str:
    if address.rstrip(".").lower().endswith(INSIDE):
        return "its address is a name that resolves inside its cluster alone"
    return unroutable(address)


def _paths(both: _Both) -> Iterator[Found]:
    move = both.move
    for key in _said(PATHS, move.from_, move.to):
        there = {one.metadata.get(key, "") for one in move.from_.values()}
        for subject, instance in move.to.items():
            if (value := instance.metadata.get(key, "")) not in there:
                text = f"{key} is {_listed(there)} at `from` and {value or 'none'} at `to`: gateways go by it"
                yield Severity.WARN, text, subject


CHECKS: Mapping[str, Callable[[_Both], Iterator[Found]]] = {
    "ports": _ports,
    "port numbers": _numbers,
    "tls": _tls,
    "routers": _routers,
    "calls": _calls,
    "weights": _weights,
    "warm-up": _warm_up,
    "clock": _clock,
    "registered twice": _twice,
    "capacity": _capacity,
    "reachable": _reached,
    "paths": _paths,
}


def summary(rows: Sequence[Row]) -> str:
    """One line: how many block and how many warn."""
    stop = len(blocks(rows))
    return f"{stop} block, {len(rows) - stop} warn" if rows else "no difference is known"
