"""The records of go-zero in etcd: `service/<decimal number>`, and a bare `host:port` as the value.

Source: go-zero core/discov, seen with v1.9.2 and v1.10.3. Every value below a service's key is dialed, whatever it is,
and v1.9.2 keeps the old address of a key that is written again for ever: a key is never rewritten. So the number
is made of the instance's id and the value, and a changed address is a new key.
"""

from __future__ import annotations

from hashlib import blake2b

from bridge.errors import Stray
from bridge.model import Instance, ServiceName, Traits
from mappings.common import hostport, keys
from mappings.common.faults import said, unreadable

NAME = "go-zero"
PREFIX = ""
PROTOCOL = "grpc"
TRAITS = Traits(
    fields=frozenset({"address", "ports"}),
    ports=1,
    port_names=False,
    protocols=frozenset(),
    tls=False,
)


# Stock readers dial whatever is below a service's key, whether its last level is a number or not.
locate = keys.levels


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        address, number = hostport.split(value.decode())
    except ValueError as error:
        if id.isascii() and id.isdigit():
            raise unreadable("not a go-zero address", error) from None
        raise Stray(f"{id!r} is no number as go-zero makes them, and the value no address: {said(error)}") from None
    return Instance(id, address, (hostport.port(number, protocol),))


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    value = _value(instance)
    return keys.join(name, _number(instance.id, value), nested="name"), value.encode()


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    id = _number(instance.id, _value(instance))
    keys.join(name, id, nested="name")
    made = Instance(id, hostport.address_of(instance), (hostport.port(instance.ports[0].number, protocol),))
    return instance if made == instance else made


def _value(instance: Instance) -> str:
    return hostport.join(hostport.address_of(instance), hostport.one_port(instance).number)


def _number(id: str, value: str) -> str:
    """A positive 63-bit number: above 31 bits of id and value, below 32 bits of the value alone.

    The lower half is what tells an id that was made for this very value, which is then kept.
    """
    low = int.from_bytes(blake2b(value.encode(), digest_size=4).digest(), "big")
    if len(id) <= 19 and id.isascii() and id.isdigit() and id[0] != "0":
        number = int(id)
        if number < 2**63 and number & 0xFFFFFFFF == low:
            return id
    high = int.from_bytes(blake2b(f"{id}\n{value}".encode(), digest_size=4).digest(), "big") >> 1
    return str((high or 1) << 32 | low)
