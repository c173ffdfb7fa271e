"""What a bridge writes into an EndpointSlice beside its endpoints: every instance whole, with its mark.

It is one annotation a slice and not one an entry: after a takeover by a forced apply the former field manager stays a
co-owner of each key that both wrote, and a key that has a co-owner cannot be removed (seen with Kubernetes 1.34).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from bridge.errors import Rejected
from bridge.model import LEDGER_FORMAT, Instance, Mark, Port, ServiceName
from mappings.common import hostport

BRIDGE = "isthmus.io/bridge"  # annotations of a slice or a Service: the bridge that writes it,
WRITER = "isthmus.io/writer"  # its field manager and the number of its last write,
ENTRIES = "isthmus.io/entries"  # and the entries of a slice

MOST_BYTES = 200 * 1024  # of the annotation; the server refuses 256 KiB of all annotations together
MOST_WEIGHT = 2**53  # beyond, a float skips whole numbers
LONGEST_ID = 1024  # characters
LONGEST_LABEL = 63

_DNS1035 = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?").fullmatch
_RESERVED = int(ipaddress.IPv4Address("240.0.0.0"))

_ENCODER = msgspec.json.Encoder()


class Written(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An instance and the mark of the bridge that wrote it; without a mark it was released, and is nobody's."""

    instance: Instance
    mark: Mark | None = None


class _Document(msgspec.Struct, frozen=True):
    v: int
    entries: dict[str, msgspec.Raw]


_DOCUMENT = msgspec.json.Decoder(_Document)
_WRITTEN = msgspec.json.Decoder(Written)


def encode_one(written: Written) -> bytes:
    """One entry, as it stands in the annotation."""
    return _ENCODER.encode(written)


def encode(entries: Mapping[str, bytes]) -> str:
    """The annotation of a slice with these entries, each from `encode_one`."""
    body = b",".join(_ENCODER.encode(id) + b":" + entries[id] for id in sorted(entries))
    return (b'{"v":%d,"entries":{%b}}' % (LEDGER_FORMAT, body)).decode()


def decode(text: str) -> dict[str, Written | str]:
    """The entries of an annotation by id, or why one cannot be read. Raises ValueError where none can."""
    document = _DOCUMENT.decode(text)
    if document.v != LEDGER_FORMAT:
        raise ValueError(f"its entries have format {document.v}, which this version cannot read")
    found: dict[str, Written | str] = {}
    for id, raw in document.entries.items():
        try:
            written = _WRITTEN.decode(raw)
        except ValueError as error:
            found[id] = str(error)
        else:
            found[id] = written if written.instance.id == id else f"it says that it is {written.instance.id!r}"
    return found


def canonical(name: ServiceName, instance: Instance) -> Instance:
    """What will be read of the instance once it is written; the very same object where nothing is lost.

    Raises Rejected where the server would refuse it, or (it checks neither ports nor multicast) would store what its
    readers cannot use.
    """
    if not name.name:
        raise Rejected("a service needs a name")
    if not instance.id or len(instance.id) > LONGEST_ID:
        raise Rejected(f"an id has 1 to {LONGEST_ID} characters")
    if not instance.ports:
        raise Rejected("no port: a slice without ports leads nowhere")
    for port in instance.ports:
        hostport.dialable(port)
    if not 0 <= instance.weight <= MOST_WEIGHT:  # which no NaN is
        raise Rejected(f"weight: {instance.weight} is not a number from 0 to {MOST_WEIGHT}")
    address = _ip(instance.address)
    ports = tuple([_lowered(port) for port in instance.ports])
    try:
        size = len(_ENCODER.encode(instance))
        _ENCODER.encode(name)
    except UnicodeEncodeError as error:
        raise Rejected(f"text that is not Unicode: {error.reason}") from None
    if size > MOST_BYTES // 2:
        raise Rejected(f"{size} bytes: a slice has room for {MOST_BYTES} bytes of annotations, and an entry for half")
    if address == instance.address and ports == instance.ports:
        return instance
    return msgspec.structs.replace(instance, address=address, ports=ports)


def is_dns_name(name: str) -> bool:
    """Whether a Service may have this name (RFC 1035, 63 characters)."""
    return _DNS1035(name) is not None


def dns_name(name: str, taken: bool = False) -> str:
    """The name of a service as Kubernetes can have it; its own where that is one.

    `taken`: another service has this name already, so it gets a hash.
    """
    if _DNS1035(name) and not taken:
        return name
    slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"s-{slug}".strip("-")
    if taken or len(slug) > LONGEST_LABEL or slug == "s":
        slug = f"{slug[: LONGEST_LABEL - 9].rstrip('-')}-{digest(name, 4)}"
    return slug


def digest(text: str, size: int) -> str:
    """A stable short name for a text: twice `size` hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


@lru_cache(maxsize=65536)
def _ip(text: str) -> str:
    """The canonical address; raises Rejected what the server refuses, or stores although nobody can dial it."""
    try:
        address = ipaddress.ip_address(hostport.host(text))
    except ValueError:
        raise Rejected(f"address: {text!r} is no IP address, and proxies ignore slices of host names") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
        raise Rejected(f"address: {text} is not one that a Pod could dial")
    if isinstance(address, ipaddress.IPv4Address) and int(address) >= _RESERVED:
        raise Rejected(f"address: {text} is reserved (RFC 1112, 4)")
    return str(address)


def _lowered(port: Port) -> Port:
    protocol = port.protocol.lower()
    return port if protocol == port.protocol else msgspec.structs.replace(port, protocol=protocol)
