"""Objects of the Kubernetes API, as far as they are read or written: `v1` and `discovery.k8s.io/v1`."""

from __future__ import annotations

import msgspec

SERVICE_NAME = "kubernetes.io/service-name"  # the label that joins a slice to its Service
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "isthmus.io"  # no controller's name: theirs is taken over or deleted
EXPORT = "isthmus.io/export"  # on a Service: "true" opts in, "false" out of the file's selector


class _Object(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    pass


class Meta(_Object, frozen=True):
    """What every object has."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Target(_Object, frozen=True):
    """What an endpoint stands for."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Conditions(_Object, frozen=True):
    """None: unsaid, which readers take for ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


SAID_NOTHING = Conditions()


class Endpoint(_Object, frozen=True):
    """One endpoint of a slice."""

    addresses: tuple[str, ...] = ()
    conditions: Conditions = SAID_NOTHING
    hostname: str | None = None
    target_ref: Target | None = None
    node_name: str | None = None
    zone: str | None = None


class SlicePort(_Object, frozen=True):
    """One port of a slice; without a number it stands for all."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class Slice(_Object, frozen=True):
    """An EndpointSlice. Both lists may be null."""

    metadata: Meta
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None

    @property
    def service(self) -> str:
        """The Service's name, "" where nobody finds the slice."""
        return (self.metadata.labels or {}).get(SERVICE_NAME, "")

    @property
    def written(self) -> bool:
        """Whether a bridge wrote it; of each endpoint its annotation says so."""
        return (self.metadata.labels or {}).get(MANAGED_BY) == MANAGER


class ServicePort(_Object, frozen=True):
    """One port of a Service."""

    port: int
    name: str | None = None
    protocol: str | None = None
    app_protocol: str | None = None
    node_port: int | None = None


class ServiceSpec(_Object, frozen=True):
    """Of a Service, what is read of it."""

    ports: tuple[ServicePort, ...] | None = None
    selector: dict[str, str] | None = None
    type: str = ""
    cluster_i_p: str = msgspec.field(name="clusterIP", default="")
    ip_families: tuple[str, ...] | None = None
    external_traffic_policy: str = ""


class Ingress(_Object, frozen=True):
    """One address of a load balancer."""

    ip: str = ""
    hostname: str = ""


class LoadBalancer(_Object, frozen=True):
    """Its addresses."""

    ingress: tuple[Ingress, ...] | None = None


class ServiceStatus(_Object, frozen=True):
    """Of a Service, what is read of it."""

    load_balancer: LoadBalancer = LoadBalancer()


class Service(_Object, frozen=True):
    """A Service."""

    metadata: Meta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    def exported(self, selected: bool) -> bool:
        """Whether it may be copied. `selected`: the file's label selector chose it; an annotation may overrule that."""
        said = (self.metadata.annotations or {}).get(EXPORT, "")
        return said == "true" or (selected and said != "false")


class Pod(_Object, frozen=True):
    """Of a Pod, its labels and annotations."""

    metadata: Meta


class NodeAddress(_Object, frozen=True):
    """One address of a node."""

    type: str = ""
    address: str = ""


class NodeCondition(_Object, frozen=True):
    """One condition of a node."""

    type: str = ""
    status: str = ""


class NodeStatus(_Object, frozen=True):
    """Of a Node, what is read of it."""

    addresses: tuple[NodeAddress, ...] | None = None
    conditions: tuple[NodeCondition, ...] | None = None


class NodeSpec(_Object, frozen=True):
    """Of a Node, what is read of it."""

    unschedulable: bool = False


class Node(_Object, frozen=True):
    """A Node."""

    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def address(self) -> str:
        """Its internal address, else any that it has; "" where it has none."""
        found = self.status.addresses or ()
        return next((each.address for each in found if each.type == "InternalIP"), found[0].address if found else "")

    @property
    def ready(self) -> bool:
        """Whether its kubelet says so."""
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions or ())
