"""The records of a stream: CloudEvents 1.0 in Kafka's binary mode, written by hand (its SDKs cannot write a tombstone).

A state topic holds one record an instance under a stable key, and `complete` records, which say when what precedes
them is all there is of a scope. docs/stream.md is the contract; `bridge.model` names the fields of an instance.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from bridge.errors import Rejected, Undecodable
from bridge.model import Instance, Mark, ServiceName, Traits
from mappings.common import hostport
from mappings.common.faults import unreadable

TRAITS = Traits(frozenset(Instance.__struct_fields__), namespaces=True, pictures=True, leases=False)

INSTANCE = "io.isthmus.state.instance.v1"
REMOVED = "io.isthmus.state.removed.v1"
COMPLETE = "io.isthmus.state.complete.v1"

LONGEST = 900_000  # bytes of a value: a broker refuses batches above 1,048,588 unless it was told otherwise
REDUCED = "kafka:reduced"  # key of `Instance.native`: why a record has not all that its instance says

Header = tuple[str, bytes]

_CONTENT: Header = ("content-type", b"application/json")
_NO_KEY = "its key is not picture/namespace/service/instance"
_COMPLETES = ".complete"  # no picture begins with a dot
_SAFE = ":@!$&'()*+,;= "  # what a part of a key may hold as it is, beside letters, digits and -._~


class MarkRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Who wrote a record, and the way that its instance came; the fields of `bridge.model.Mark`.

    `path` names the registries that it has been in, the origin first; `scope`, `service` (`namespace:name`) and
    `instance` name it in the last of them. `network`: of its address, "" where it is that of the stream's block.
    """

    owner: str
    link: str
    path: tuple[str, ...]
    scope: str
    service: str
    instance: str
    network: str = ""


class State(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The value of an instance's record. `mark` is missing where its writer released it.

    `reduced`: why metadata, tags and what belongs to one convention are left out; they are read at the origin.
    """

    picture: str
    service: str
    namespace: str = ""
    instance: Instance
    mark: MarkRecord | None = None
    reduced: str = ""


class Complete(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The value of a `complete` record: in this partition, the records before it are all there is of a scope.

    `scope`: its name for readers; `registry` and `part` say what it is for the writer. `generation`: one more whenever
    the writer has listed the scope anew. `count`, `digest`: of the scope's records in this partition; the digest is the
    sum, modulo 2**64, of the first 8 bytes of SHA-256(key, a zero byte, value) of each, as 16 hex digits.
    `sequence`: the highest that was given before it, in all partitions.
    """

    scope: str
    picture: str
    registry: str
    part: str
    identity: str
    incarnation: str
    generation: int
    partition: int
    partitions: int
    count: int
    digest: str
    sequence: int
    owner: str

    @property
    def audit(self) -> tuple[int, str]:
        """What a reader compares that followed the partition up to this record."""
        return self.count, self.digest


class Place(NamedTuple):
    """What a key of the state topic names: an instance, or (`complete`) a scope in one partition, which is `id`."""

    service: ServiceName
    id: str
    complete: bool = False


_STATE = msgspec.json.Decoder(State)
_COMPLETE = msgspec.json.Decoder(Complete)
_ENCODER = msgspec.json.Encoder()


# -- names


def picture_of(name: ServiceName) -> str:
    """The picture that a service of the stream is in; it stands before its namespace."""
    return name.namespace.partition("/")[0]


def own_name(name: ServiceName) -> ServiceName:
    """The name of a service within its picture."""
    return ServiceName(name.name, name.namespace.partition("/")[2])


def in_picture(picture: str, name: ServiceName) -> ServiceName:
    """The name of a picture's service in the stream."""
    return ServiceName(name.name, f"{picture}/{name.namespace}" if name.namespace else picture)


def scope_name(picture: str, registry: str, part: str) -> str:
    """By what name readers know a scope of a registry in a picture, e.g. `core`, `core/dc1`, `all/legacy`."""
    return "/".join(filter(None, (picture, registry if registry != picture else "", part)))


@lru_cache(maxsize=65536)
def partition_of(name: ServiceName, partitions: int) -> int:
    """Where all records of a service are: the CRC-32 of its name within its picture, so that pictures meet."""
    return shard_of(own_name(name), partitions)


def shard_of(own: ServiceName, partitions: int) -> int:
    """The partition of the records of a service that has this name in its picture."""
    return part_of(str(own).encode(), partitions)


def part_of(key: bytes, partitions: int) -> int:
    """The partition of a key."""
    return zlib.crc32(key) % partitions


@lru_cache(maxsize=65536)
def log_key(service: ServiceName | None) -> bytes:
    """The key of an event in the log: its service, or that it is about none."""
    return quote(str(service), safe=_SAFE).encode() if service is not None else b"-"


# -- keys


def key_of(name: ServiceName, id: str) -> bytes:
    """`picture/namespace/service/instance`, each part percent-encoded: printable, and the same for ever."""
    return b"%b%b" % (_prefix(name), quote(id, safe=_SAFE).encode())


@lru_cache(maxsize=65536)
def _prefix(name: ServiceName) -> bytes:
    own = own_name(name)
    parts = (picture_of(name), own.namespace, own.name)
    return ("/".join(quote(part, safe=_SAFE) for part in parts) + "/").encode()


def complete_key(scope: str, partition: int) -> bytes:
    """The key of a scope's `complete` in one partition."""
    return f"{_COMPLETES}/{quote(scope, safe=_SAFE)}/{partition}".encode()


def place_of(key: bytes) -> Place:
    """What a key names; raises Undecodable."""
    head, _, last = key.rpartition(b"/")
    try:
        service, complete = _head(head)
        id = last.decode("ascii")
    except UnicodeDecodeError:
        raise Undecodable("its key is no text that a bridge writes") from None
    if complete:
        return Place(service, id, complete=True)
    if not id:
        raise Undecodable(_NO_KEY)
    return Place(service, unquote(id) if "%" in id else id)


@lru_cache(maxsize=65536)
def _head(head: bytes) -> tuple[ServiceName, bool]:
    """What stands before the last part of a key, one object for all keys that begin so; True: of a `complete`."""
    parts = head.decode("ascii").split("/")
    if len(parts) == 2 and parts[0] == _COMPLETES:
        return ServiceName(unquote(parts[1])), True
    if len(parts) != 3 or not parts[2]:
        raise Undecodable(_NO_KEY)
    picture, namespace, service = map(unquote, parts)
    return in_picture(picture, ServiceName(service, namespace)), False


# -- values


def canonical(name: ServiceName, instance: Instance) -> Instance:
    """The instance as the state topic will show it; the very same where nothing changes. Raises Rejected.

    One that is too large for a record is written without what makes it so, and says why.
    """
    if not (name.name and instance.id and instance.address):
        raise Rejected("a record needs a service, an id and an address")
    for port in instance.ports:
        hostport.dialable(port)
    try:
        size = len(_ENCODER.encode(instance)) + len(key_of(name, instance.id))
    except UnicodeEncodeError as error:
        raise Rejected(f"text that is not Unicode: {error.reason}") from None
    if size <= LONGEST:
        return instance
    why = f"{size} bytes, and a record holds {LONGEST}"
    return msgspec.structs.replace(instance, metadata={}, tags=(), native={REDUCED: why})


def encode(name: ServiceName, instance: Instance, mark: Mark | None) -> bytes:
    """The value of an instance's record."""
    own = own_name(name)
    reduced = instance.native.get(REDUCED, "")
    record = None
    if mark is not None:
        record = MarkRecord(
            owner=mark.owner,
            link=mark.link,
            path=mark.path,
            scope=mark.scope,
            service=str(mark.service),
            instance=mark.instance,
            network=mark.network,
        )
    return _ENCODER.encode(
        State(
            picture=picture_of(name),
            service=own.name,
            namespace=own.namespace,
            instance=msgspec.structs.replace(instance, native={}) if reduced else instance,
            mark=record,
            reduced=reduced,
        )
    )


def decode(place: Place, value: bytes) -> tuple[Instance, Mark | None]:
    """What a record says of the instance that its key names; raises Undecodable."""
    try:
        said = _STATE.decode(value)
    except msgspec.MsgspecError as error:
        raise unreadable("not a record of this stream", error) from None
    if said.instance.id != place.id:
        raise Undecodable(f"its key names {place.id!r}, and its value {said.instance.id!r}")
    instance, mark = said.instance, None
    if said.reduced:
        instance = msgspec.structs.replace(instance, native={REDUCED: said.reduced})
    if said.mark is not None:
        one = said.mark
        service = _parsed(one.service)
        mark = Mark(one.owner, one.link, _shared(one.path), one.scope, service, one.instance, one.network)
    return instance, mark


@lru_cache(maxsize=1024)
def _shared(path: tuple[str, ...]) -> tuple[str, ...]:
    """One object for all that came the same way."""
    return path


_parsed = lru_cache(maxsize=65536)(ServiceName.parse)


def decode_complete(value: bytes) -> Complete:
    """The value of a `complete` record; raises Undecodable."""
    try:
        return _COMPLETE.decode(value)
    except msgspec.MsgspecError as error:
        raise unreadable("not a record of this stream", error) from None


def encode_complete(complete: Complete) -> bytes:
    """The value of a `complete` record."""
    return _ENCODER.encode(complete)


def weight(key: bytes, value: bytes) -> int:
    """What one record adds to the digest of its scope."""
    return int.from_bytes(hashlib.sha256(b"%b\0%b" % (key, value)).digest()[:8])


# -- CloudEvents


class About(NamedTuple):
    """What the headers of an event say. `seconds`: since the epoch; `more`: further extensions, by name."""

    type: str
    source: str
    subject: str
    key: bytes
    sequence: int
    seconds: float
    id: str
    more: tuple[tuple[str, str], ...] = ()


def headers(about: About) -> list[Header]:
    """The headers of an event in binary mode; names of extensions have neither dashes nor underscores (ce 1.0, 3.1)."""
    time = datetime.fromtimestamp(about.seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    said = (
        ("specversion", "1.0"),
        ("id", about.id),
        ("source", about.source),
        ("type", about.type),
        ("subject", about.subject),
        ("time", time),
        ("partitionkey", about.key.decode()),
        ("sequence", f"{about.sequence:020d}"),  # as text it sorts as the number does
        *about.more,
    )
    return [_CONTENT, *[(f"ce_{name}", _printable(text).encode()) for name, text in said if text]]


@lru_cache(maxsize=4096)
def source(bridge: str, picture: str) -> str:
    """The `source` of an event: the bridge, and the picture, which is named by its registry."""
    return f"/isthmus/{quote(bridge)}/{quote(picture)}"


def event_id(*parts: str | bytes) -> str:
    """The same for the same event, whoever sends it, and however often."""
    return hashlib.sha256(b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()[:32]


def sequence_of(headers: Iterable[Header]) -> int:
    """The number of a record, 0 where it has none."""
    for name, text in headers:
        if name == "ce_sequence":
            return int(text) if text.isdigit() else 0
    return 0


def _printable(text: str) -> str:
    """Control characters have no place in a header (ce-kafka 3.2.4.2)."""
    return text if text.isprintable() else "".join(c if c.isprintable() else quote(c) for c in text)
