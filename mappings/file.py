"""The YAML form of the common model: one file a service, written by people and by bridges, read record by record.

A scalar is the text that stands there, whatever YAML 1.1 takes it for (`version: 1.10`, `canary: no`); the field's type
decides what it means. Aliases and tags are not read. What a bridge writes has one instance a line, in YAML that is
JSON too, with the mark of the bridge in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
import yaml

from bridge.errors import Rejected, Undecodable
from bridge.model import NOWHERE, Health, Instance, Locality, Mark, Port, ServiceName
from mappings.common import hostport

UNKNOWN_ID = "*"  # a record whose id cannot be told: any id of the service may be it

DEPTH = 12  # a well-formed file has 6 levels; beyond, it is an attack on the reader
LONGEST_KEY = 1000  # YAML finds the colon of a key within 1024 characters, or not at all (YAML 1.2.2, 8.2.2)
EMPTY = "says nothing: write `instances: []` where there are none"

# Characters that JSON lets stand as they are and YAML does not (YAML 1.2.2, 5.1), or takes for line breaks.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

CONTROL = re.compile("[\x00-\x1f\x7f]").search

_LOADER = yaml.CSafeLoader

Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]
MOST = 2**53  # beyond, a float skips whole numbers
Weight = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
Tree = Any  # str | None | list[Tree] | dict[str, Tree]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class PortRecord(_Strict, frozen=True):
    """One port."""

    number: Number
    name: str = ""
    protocol: str = ""
    tls: bool = False


class LocalityRecord(_Strict, frozen=True):
    """Where an instance runs."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


UNSAID = LocalityRecord()  # the very object, by which msgspec knows what to leave out


class MarkRecord(_Strict, frozen=True):
    """The proof of ownership in a bridge's record: the fields of `bridge.model.Mark`."""

    owner: str
    link: str
    path: tuple[str, ...]
    scope: str
    service: str
    instance: str
    network: str = ""


class Record(_Strict, frozen=True, kw_only=True):
    """One instance as it stands in a file. `port: 9000` is short for `ports: [{number: 9000}]`."""

    id: str = ""
    address: str
    port: Number | None = None
    ports: tuple[PortRecord, ...] = ()
    health: Health = Health.UNKNOWN
    weight: Weight = 1.0
    locality: LocalityRecord = UNSAID
    version: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    native: dict[str, str] = {}
    isthmus: MarkRecord | None = None


class Decoded(msgspec.Struct, frozen=True):
    """What a file says: readable instances and their marks; ids of the records that make no sense, and why.

    `strays` are those records as they stand, for a file that is written again. A fault begins with its line number.
    """

    instances: dict[str, Instance] = {}
    marks: dict[str, Mark] = {}
    unreadable: frozenset[str] = frozenset()
    strays: tuple[Tree, ...] = ()
    faults: tuple[str, ...] = ()


def decode(content: bytes, owner: str = "") -> Decoded:
    """What a file says; `owner`: the bridge that writes this file, "" for people's files, where no mark is believed.

    Raises Undecodable, beginning with the line number, where nothing of it can be trusted.
    """
    root = _Builder(content).root()
    listed = root.tree.get("instances") if isinstance(root.tree, dict) else root.tree
    if listed is None:
        raise Undecodable(f"1: {EMPTY}")
    if not isinstance(root.tree, dict) or not isinstance(listed, list):
        raise Undecodable("1: expected `instances:` and a list")
    if unknown := sorted(root.tree.keys() - {"instances"}):
        raise Undecodable(
            f"{root.line(f'$.{unknown[0]}')}: unknown key `{unknown[0]}`: beside `instances` there is none"
        )
    instances: dict[str, Instance] = {}
    marks: dict[str, Mark] = {}
    unreadable: set[str] = set()
    strays: list[Tree] = []
    faults: list[str] = []
    for index, tree in enumerate(listed):
        place = f"$.instances[{index}]"
        try:
            instance, mark = _instance(tree, owner)
            if instance.id in instances:
                raise Undecodable(f"$.id: `{instance.id}` is there twice; the first counts")
        except Undecodable as error:
            where, _, text = str(error).partition(": ")
            faults.append(f"{root.line(place + where[1:])}: {(place + where[1:])[2:]}: {text}")
            strays.append(tree)
            id = tree.get("id") if isinstance(tree, dict) else None
            if id not in instances:
                unreadable.add(id if isinstance(id, str) and id else UNKNOWN_ID)
            continue
        instances[instance.id] = instance
        unreadable.discard(instance.id)
        if mark:
            marks[instance.id] = mark
    return Decoded(instances, marks, frozenset(unreadable), tuple(strays), tuple(faults))


def encode(owner: str, entries: Mapping[str, tuple[Instance, Mark | None]], strays: tuple[Tree, ...] = ()) -> bytes:
    """The file of one bridge for one service: an instance a line, by id. The inverse of `decode`."""
    lines = [
        f"# Written by isthmus, bridge {_json(owner)}, again and again: what you add is better kept in another file.",
        "instances:",
        *(f"  - {_json(_record(*entries[id]))}" for id in sorted(entries)),
        *(f"  - {_json(stray)}" for stray in strays),
    ]
    return ("\n".join(lines) + ("\n" if entries or strays else " []\n")).encode()


def canonical(instance: Instance) -> Instance:
    """The instance as `decode` will give it back; the very same where nothing changes. Raises Rejected."""
    if instance.id in ("", UNKNOWN_ID):
        raise Rejected(f"no file can hold the id {instance.id!r}")
    for port in instance.ports:
        hostport.dialable(port)
    if not 0 <= instance.weight <= MOST:  # which no NaN is
        raise Rejected(f"weight: {instance.weight} is not a number from 0 to {MOST}")
    if any(len(key) > LONGEST_KEY for key in (*instance.metadata, *instance.native)):
        raise Rejected(f"a key of more than {LONGEST_KEY} characters cannot be read back from YAML")
    try:
        msgspec.json.encode(instance)
    except UnicodeEncodeError as error:
        raise Rejected(f"text that is not Unicode: {error.reason}") from None
    address = hostport.address_of(instance)
    ports = tuple(_lowered(port) for port in instance.ports)
    if address == instance.address and ports == instance.ports:
        return instance
    return msgspec.structs.replace(instance, address=address, ports=ports)


def _lowered(port: Port) -> Port:
    protocol = port.protocol.lower()
    return port if protocol == port.protocol else msgspec.structs.replace(port, protocol=protocol)


def _instance(tree: Tree, owner: str) -> tuple[Instance, Mark | None]:
    """Raises Undecodable, beginning with the place in the record."""
    if isinstance(tree, dict):  # `tags:` with nothing behind it is as good as no tags
        tree = {key: value for key, value in tree.items() if value is not None}
    try:
        record = msgspec.convert(tree, Record, strict=False)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at ")
        raise Undecodable(f"{where.strip('`') or '$'}: {_plain(text)}") from None
    try:
        address = hostport.host(record.address)
    except ValueError as error:
        raise Undecodable(f"$.address: {error}") from None
    if record.port is not None and record.ports:
        raise Undecodable("$.port: say either `port` or `ports`")
    if not math.isfinite(record.weight):
        raise Undecodable(f"$.weight: {record.weight} is not a finite number")
    for place, text in () if owner else _names(record):  # a bridge has to write the names that there are
        if found := CONTROL(text):
            raise Undecodable(f"{place}: has the character {found[0]!r}, which no name has")
    if record.id == UNKNOWN_ID:
        raise Undecodable("$.id: `*` is no id")
    if record.isthmus and record.isthmus.owner != owner:
        raise Undecodable("$.isthmus: only the bridge that it names writes this, in a file of its own: remove it")
    ports = tuple(hostport.port(p.number, p.protocol.lower(), p.tls, p.name) for p in record.ports)
    if record.port is not None:
        ports = (Port(record.port),)
    there = record.locality
    instance = Instance(
        id=record.id or (hostport.join(address, ports[0].number) if ports else address),
        address=address,
        ports=ports,
        health=record.health,
        weight=record.weight,
        locality=Locality(there.region, there.zone, there.sub_zone) if there != UNSAID else NOWHERE,
        version=record.version,
        tags=record.tags,
        metadata=record.metadata,
        native=record.native,
    )
    return instance, _mark(record.isthmus) if record.isthmus else None


def _names(record: Record) -> Iterator[tuple[str, str]]:
    """What stands in tables and keys, each with its place."""
    yield "$.id", record.id
    yield "$.version", record.version
    for index, port in enumerate(record.ports):
        yield f"$.ports[{index}].name", port.name
        yield f"$.ports[{index}].protocol", port.protocol
    for index, tag in enumerate(record.tags):
        yield f"$.tags[{index}]", tag


def _plain(text: str) -> str:
    """msgspec's words in ours, with what would be right."""
    if text.startswith("Invalid enum value"):
        return f"{text}: one of {', '.join(Health)}"
    if unknown := re.match(r"Object contains unknown field `(.+)`", text):
        return f"unknown key `{unknown[1]}`: an instance has {', '.join(Record.__struct_fields__[:-1])}"
    text = re.sub(r"^Object missing required field `(.+)`", r"`\1` is missing", text)
    return re.sub(r"^Expected `(.+?)`, got `(\S+)`", r"is \2; should be \1", text)


def _mark(record: MarkRecord) -> Mark:
    service = ServiceName.parse(record.service)
    return Mark(record.owner, record.link, record.path, record.scope, service, record.instance, record.network)


def _proof(mark: Mark) -> MarkRecord:
    service = str(mark.service)
    return MarkRecord(mark.owner, mark.link, mark.path, mark.scope, service, mark.instance, mark.network)


def _record(instance: Instance, mark: Mark | None) -> Record:
    there = instance.locality
    proof = _proof(mark) if mark is not None else None
    return Record(
        id=instance.id,
        address=instance.address,
        ports=tuple(PortRecord(p.number, p.name, p.protocol, p.tls) for p in instance.ports),
        health=instance.health,
        weight=instance.weight,
        locality=LocalityRecord(there.region, there.zone, there.sub_zone) if there != NOWHERE else UNSAID,
        version=instance.version,
        tags=instance.tags,
        metadata=instance.metadata,
        native=instance.native,
        isthmus=proof,
    )


def _json(value: object) -> str:
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", msgspec.json.encode(value).decode())


class _Root(msgspec.Struct, frozen=True):
    tree: Tree
    lines: dict[str, int]

    def line(self, place: str) -> int:
        """The line of a place like `$.instances[2].port`, or of what encloses it."""
        while place not in self.lines and place != "$":
            place = re.sub(r"(\.[^.\[\]]*|\[[^\]]*\]|.)$", "", place) or "$"
        return self.lines.get(place, 1)


class _Builder:
    """Builds a tree of texts from YAML's events, and notes the line of each place in it.

    Not `yaml.compose`: it follows aliases (a few lines that stand for gigabytes) and nests as deep as the input says.
    """

    def __init__(self, content: bytes) -> None:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            wrong = f"byte {content[error.start]:#04x} is not UTF-8"
            raise Undecodable(f"{line}: {wrong}: save the file as UTF-8") from None
        self._content = content
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._lines: dict[str, int] = {}

    def root(self) -> _Root:
        """Raises Undecodable, beginning with the line number."""
        try:
            tree = self._document()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise Undecodable(f"{line}: {error.problem or 'is not YAML'}") from None
        except yaml.reader.ReaderError as error:
            line = self._content.count(b"\n", 0, error.position) + 1
            raise Undecodable(
                f"{line}: a character that YAML does not allow ({error.character:#x}): remove it"
            ) from None
        return _Root(tree, self._lines)

    def _next(self) -> Any:
        return next(self._events)

    def _document(self) -> Tree:
        tree: Tree = None
        documents = 0
        event: Any
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Undecodable(f"{_line(event)}: a second document: one service is one file")
            elif isinstance(event, yaml.NodeEvent):
                tree = self._node(event, "$", 0)
        return tree

    def _node(self, event: Any, place: str, depth: int) -> Tree:
        line = _line(event)
        self._lines[place] = line
        if depth > DEPTH:
            raise Undecodable(f"{line}: nested deeper than {DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            raise Undecodable(f"{line}: the alias *{event.anchor} is not followed: write out what it stands for")
        if event.tag not in (None, "!"):
            raise Undecodable(f"{line}: the tag {event.tag} is not read: remove it")
        if isinstance(event, yaml.ScalarEvent):
            return None if event.implicit[0] and event.value in ("", "~", "null") else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Tree] = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                items.append(self._node(item, f"{place}[{len(items)}]", depth + 1))
            return items
        mapping: dict[str, Tree] = {}
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise Undecodable(f"{_line(key)}: a key is a word")
            if key.value in mapping:
                raise Undecodable(f"{_line(key)}: the key `{key.value}` is there twice")
            mapping[key.value] = self._node(self._next(), f"{place}.{key.value}", depth + 1)
        return mapping


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
