"""The bindings: one laboratory for each kind of registry."""

from tests.conformance.lab import Kind
from tests.conformance.labs import consul, etcd, eureka, exports, file, istio, kafka, kubernetes, memory, zookeeper

KINDS: dict[str, Kind] = {
    **memory.KINDS,
    **file.KINDS,
    **etcd.KINDS,
    **zookeeper.KINDS,
    **consul.KINDS,
    **eureka.KINDS,
    **kubernetes.KINDS,
    **istio.KINDS,
    **kafka.KINDS,
    **exports.KINDS,
}
