"""The bindings: one laboratory for each kind of registry."""

from tests.conformance.lab import Kind
from tests.conformance.labs import etcd, file, memory, zookeeper

KINDS: dict[str, Kind] = {**memory.KINDS, **file.KINDS, **etcd.KINDS, **zookeeper.KINDS}
