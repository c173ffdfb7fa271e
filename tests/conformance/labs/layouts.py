"""What the labs of etcd and ZooKeeper know of a layout: the form of its instances, and the records of natives."""

from __future__ import annotations

from msgspec.structs import replace

from bridge.model import Instance, ServiceName
from mappings.pairs import LAYOUTS
from tests.conformance.lab import Can, Form
from tests.kit import stock
from tests.kit.stock import Native, Record

PROTOCOL = "grpc"  # of the registries in the labs, whatever the layout's own is
EVERYTHING: frozenset[Can] = frozenset(
    {"change", "write", "spoil", "cut", "erase", "steal", "lease", "adopt", "loose", "fence", "order"}
)
_LESS: dict[str, frozenset[Can]] = {
    "go-zero": frozenset({"change"}),  # the key says all: another record is another key
    # A cut takes ZooKeeper ten seconds to be believed, and is the same for every layout: curator's is enough.
    "spring": frozenset({"cut"}),
    "dubbo2": frozenset({"cut", "change", "spoil"}),
    "dubbo3": frozenset({"cut", "write"}),
}


def can(layout: str) -> frozenset[Can]:
    """See `Lab`."""
    return EVERYTHING - _LESS.get(layout, frozenset())


def form(layout: str) -> Form:
    """See `Lab`: what natives' records say, decoded."""
    module = LAYOUTS[layout]

    def made(service: ServiceName, instance: Instance) -> Instance:
        if layout in stock.UNCHANGING:
            (port,) = instance.ports
            spoken = "dubbo" if layout == "dubbo2" else port.protocol
            plain = replace(instance, ports=(replace(port, name=spoken, protocol=spoken),), metadata={})
            return module.canonical(service, plain, PROTOCOL)
        key, value = record(layout, service, instance)
        return module.decode(service, key.rpartition("/")[2], value, PROTOCOL)

    return made


def record(layout: str, service: ServiceName, instance: Instance) -> Record:
    """What a native writes for an instance of that form.

    Where the key says all, it is that of the bridge's own record: with any other it would be another instance.
    """
    if layout in stock.UNCHANGING:
        return Record(*LAYOUTS[layout].encode(service, instance))
    metadata = {key: text for key, text in instance.metadata.items() if not key.startswith("dubbo.")}
    native = Native(instance.id, instance.address, instance.ports[0].number, metadata, instance.version)
    return stock.record(layout, service.name, native)
