"""The lines of a file of last known good: each a checksum and a JSON value, in blocks that are quick to encode.

A torn or damaged line ends the file: what is before it counts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

import msgspec

from bridge.model import Service, ServiceName
from bridge.sources.scrub import disclosed

FORMAT = 1
BLOCK = 500  # instances in a line at most: one to two ms to encode, which is as long as the loop may be held up

Piece = tuple[ServiceName, list[str]]  # ids of one service


class KnownScope(msgspec.Struct):
    """What one scope held by its last report, at `at` (seconds since the epoch).

    `former`: what only another store has told, by service and id, as a view has it.
    """

    registry: str
    scope: str
    identity: str = ""
    incarnation: str = ""
    revision: int = 0
    at: float = 0.0
    part: str | None = None
    services: dict[ServiceName, Service] = {}
    former: dict[ServiceName, dict[str, str]] = {}


class About(msgspec.Struct, frozen=True, array_like=True):
    """Which store, which life of it, how far, and when it was heard; `part`: see `adapter.Listing`."""

    identity: str
    incarnation: str
    revision: int
    at: float
    part: str | None = None


class Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of a file: services with those instances that changed, and the ids that are gone.

    `told`: which of these another store has told than the one that is believed, by its identity. The first line of a
    file has its format and nothing else.
    """

    format: int = 0
    scope: str = ""
    about: About | None = None
    services: list[Service] = []
    gone: list[Piece] = []
    told: dict[str, list[Piece]] = {}


ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder(Line)


def framed(line: Line) -> bytes:
    """The line as it is on the disk."""
    text = ENCODER.encode(line)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def lines(content: bytes) -> Iterator[tuple[Line, int]]:
    """Every good line with the offset behind it, up to the first that is not."""
    start = 0
    view = memoryview(content)
    while (end := content.find(b"\n", start)) >= 0:
        text = view[start + 9 : end]
        if content[start : start + 9] != b"%08x " % zlib.crc32(text):
            return
        try:
            yield DECODER.decode(text), end + 1
        except msgspec.DecodeError:
            return
        start = end + 1


def read(registry: str, content: bytes) -> tuple[dict[str, KnownScope], int]:
    """The scopes in a file's content, and how much of it is good."""
    scopes: dict[str, KnownScope] = {}
    good = 0
    for line, end in lines(content):
        if good == 0 and line.format != FORMAT:
            break
        good = end
        if line.format:
            continue
        known = scopes.get(line.scope)
        if known is None:
            known = scopes[line.scope] = KnownScope(registry, line.scope, services={}, former={})
        if line.about is not None:
            about = line.about
            known.identity, known.incarnation = about.identity, about.incarnation
            known.revision, known.at, known.part = about.revision, about.at, about.part
        _merge(known.services, line)
        _attribute(known.former, line)
    for known in scopes.values():
        for name, told in [*known.former.items()]:
            known.former[name] = {key: identity for key, identity in told.items() if identity != known.identity}
            if not known.former[name]:
                del known.former[name]
    return scopes, good


def _merge(services: dict[ServiceName, Service], line: Line) -> None:
    for service in line.services:
        old = services.get(service.name)
        if old is None:
            services[service.name] = service
            continue
        for key, instance in service.instances.items():
            old.instances[key] = instance
            old.marks.pop(key, None)
        old.marks.update(service.marks)
    for name, ids in line.gone:
        if name not in services:
            continue
        for key in ids:
            services[name].instances.pop(key, None)
            services[name].marks.pop(key, None)
        if not services[name].instances:
            del services[name]


def _attribute(former: dict[ServiceName, dict[str, str]], line: Line) -> None:
    """Notes which store told what is in a line: the one that is believed in the end, where the line names none."""
    for name, ids in (*((one.name, [*one.instances]) for one in line.services), *line.gone) if former else ():
        for key in ids if name in former else ():
            former[name].pop(key, None)
    for identity, pieces in line.told.items():
        for name, ids in pieces:
            former.setdefault(name, {}).update(dict.fromkeys(ids, identity))


def blocks(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces in lots of at most BLOCK ids; a larger piece is cut."""
    block: list[Piece] = []
    size = 0
    for name, ids in pieces:
        for start in range(0, len(ids), BLOCK):
            part = ids[start : start + BLOCK]
            if size + len(part) > BLOCK:
                yield block
                block, size = [], 0
            block.append((name, part))
            size += len(part)
    if block:
        yield block


def as_it_is(
    scope: str,
    services: dict[ServiceName, Service],
    block: list[Piece],
    other: Callable[[ServiceName, str], str] | None = None,
) -> Line:
    """A line with these ids of a scope, each there or gone by now.

    `other(name, id)`: the store that told an instance, "" where that is the one that is believed; None: all are.
    """
    found: list[Service] = []
    gone: list[Piece] = []
    for name, ids in block:
        service = services.get(name, Service(name))
        instances = {key: disclosed(service.instances[key]) for key in ids if key in service.instances}
        marks = {key: service.marks[key] for key in instances if key in service.marks}
        if instances:
            found.append(Service(name, instances, marks))
        if len(instances) < len(ids):
            gone.append((name, [key for key in ids if key not in instances]))
    return Line(scope=scope, services=found, gone=gone, told=_told(found, other) if other is not None else {})


def _told(services: Iterable[Service], other: Callable[[ServiceName, str], str]) -> dict[str, list[Piece]]:
    found: dict[str, list[Piece]] = {}
    for service in services:
        ids: dict[str, list[str]] = {}
        for key in service.instances:
            ids.setdefault(other(service.name, key), []).append(key)
        for identity, some in ids.items():
            if identity:
                found.setdefault(identity, []).append((service.name, some))
    return found
