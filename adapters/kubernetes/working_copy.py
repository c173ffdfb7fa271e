"""What is known of the objects of one scope, and what they say of each service together; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from adapters.common.assembly import Ignored, differ
from bridge import model
from bridge.adapter import Observed
from bridge.model import ServiceName
from mappings import kubernetes as layout
from mappings.kubernetes import Entry
from mappings.kubernetes.fronts import Address, aggregate
from mappings.kubernetes.objects import Node, Pod, Service, Slice

Key = tuple[str, str]  # namespace and name


class View:
    """How a registry looks at a cluster: what names its namespaces have elsewhere, which addresses it takes."""

    def __init__(self, default: str, selected: bool, address: Address, pod_metadata: bool) -> None:
        self.default = default
        self.selected = selected
        self.address = address
        self.pod_metadata = pod_metadata

    def name(self, namespace: str, name: str) -> ServiceName:
        """A service's name in the model."""
        return ServiceName(name, "" if namespace == self.default else namespace)

    def namespace(self, name: ServiceName) -> str:
        """The namespace that a service's name means."""
        return name.namespace or self.default


class Copy:
    """The objects of one scope. Each method that takes some returns the services that they may have changed."""

    def __init__(self, view: View, ignored: Ignored) -> None:
        self._view = view
        self._ignored = ignored
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, Slice] = {}
        self._of_service: dict[ServiceName, dict[Key, Slice]] = defaultdict(dict)
        self._entries: dict[Key, list[Entry]] = {}  # of a slice, until it or what surrounds it changes
        self._pods: dict[str, dict[str, Pod]] = defaultdict(dict)
        self._users: dict[Key, set[Key]] = defaultdict(set)  # of a pod: the slices that it is in
        self._nodes: dict[str, Node] = {}
        self._told: dict[ServiceName, Observed] = {}

    def names(self) -> Iterator[ServiceName]:
        """Every service there is anything of."""
        yield from dict.fromkeys([*self._of_service, *(self._view.name(*key) for key in self._services)])

    def put(self, found: object, deleted: bool) -> Iterable[ServiceName]:
        """An object as it is now, or one that is gone."""
        if isinstance(found, Slice):
            return self._put_slice(found, deleted)
        if isinstance(found, Service):
            key = (found.metadata.namespace, found.metadata.name)
            _put(self._services, key, found, deleted)
            name = self._view.name(*key)
            self._forget(name)
            return (name,)
        if isinstance(found, Pod):
            return self._put_pod(found, deleted)
        if isinstance(found, Node):
            _put(self._nodes, found.metadata.name, found, deleted)
            return list(self.names())
        raise TypeError(type(found))

    def observe(self, name: ServiceName, revision: int) -> Observed | None:
        """A service as it is now; None: it says what it said before."""
        now, before = self.assemble(name, revision), self._told.get(name)
        is_empty = not (now.service.instances or now.unreadable)
        if is_empty if before is None else not differ(before, now):
            return None
        if is_empty:
            del self._told[name]
        else:
            self._told[name] = now
        return now

    def assemble(self, name: ServiceName, revision: int) -> Observed:
        """A service as its objects say."""
        key = (self._view.namespace(name), name.name)
        service = self._services.get(key)
        exported = service is not None and service.exported(self._view.selected)
        found = self.entries(name, service)
        # What a bridge wrote is told whether or not its Service is exported: also that it cannot be read.
        shown = found if exported else {id: entry for id, entry in found.items() if self._is_a_bridges(key[0], entry)}
        if exported and service is not None and self._view.address != "pod":
            endpoints = [entry for entry in shown.values() if entry.mark is None]
            shown = {id: entry for id, entry in shown.items() if entry.mark is not None}
            made = aggregate(service, endpoints, list(self._nodes.values()), self._view.address)
            shown |= {entry.id: entry for entry in made}
        instances: dict[str, model.Instance] = {}
        marks: dict[str, model.Mark] = {}
        for id, one in shown.items():
            if one.instance is None:
                continue
            instances[id] = one.instance
            if one.mark is not None:
                marks[id] = one.mark
        unread = (
            {id: one.why for id, one in shown.items() if one.instance is None} if len(instances) < len(shown) else {}
        )
        self._note(f"{key[0]}/{name.name}/", unread)
        return Observed(model.Service(name, instances, marks), frozenset(unread), revision)

    def _is_a_bridges(self, namespace: str, entry: Entry) -> bool:
        if entry.instance is not None:
            return entry.mark is not None
        found = self._slices.get((namespace, entry.slice))
        return found is not None and found.written

    def entries(self, name: ServiceName, service: Service | None) -> dict[str, Entry]:
        """What all slices of a service say, by id."""
        slices = self._of_service.get(name, {})
        if not slices:
            return {}
        if service is None:
            around = layout.surroundings()
        else:
            families = service.spec.ip_families or ()
            pods = self._pods[service.metadata.namespace] if self._view.pod_metadata else {}
            first = families[0] if families else ""
            around = layout.surroundings(layout.metadata_of(service.metadata), pods, first)
        decoded = []
        for key, each in slices.items():
            if (known := self._entries.get(key)) is None:
                known = self._entries[key] = layout.entries(each, around)
            decoded.append((each, known))
        return layout.merged(decoded, around.first_family)

    def _put_slice(self, found: Slice, deleted: bool) -> Iterable[ServiceName]:
        key = (found.metadata.namespace, found.metadata.name)
        touched: list[ServiceName] = []
        if (before := self._slices.get(key)) is not None:
            touched.append(self._detach(key, before))
        _put(self._slices, key, found, deleted)
        if not deleted and found.service:
            name = self._view.name(found.metadata.namespace, layout.service_name(found))
            self._of_service[name][key] = found
            for pod in self._pods_in(found):
                self._users[pod].add(key)
            touched.append(name)
        return dict.fromkeys(touched)

    def _detach(self, key: Key, before: Slice) -> ServiceName:
        name = self._view.name(before.metadata.namespace, layout.service_name(before))
        self._entries.pop(key, None)
        of_service = self._of_service.get(name, {})
        of_service.pop(key, None)
        if not of_service:
            self._of_service.pop(name, None)
        for pod in self._pods_in(before):
            users = self._users[pod]
            users.discard(key)
            if not users:
                del self._users[pod]
        return name

    def _pods_in(self, found: Slice) -> Iterator[Key]:
        if self._view.pod_metadata:
            targets = {each.target_ref.name for each in found.endpoints or () if each.target_ref is not None}
            yield from ((found.metadata.namespace, target) for target in targets)

    def _put_pod(self, found: Pod, deleted: bool) -> Iterable[ServiceName]:
        namespace, name = found.metadata.namespace, found.metadata.name
        before = self._pods[namespace].get(name)
        _put(self._pods[namespace], name, found, deleted)
        if not deleted and before is not None and _said(before) == _said(found):
            return ()
        touched = []
        for key in self._users.get((namespace, name), ()):
            self._entries.pop(key, None)
            touched.append(self._view.name(key[0], layout.service_name(self._slices[key])))
        return dict.fromkeys(touched)

    def _forget(self, name: ServiceName) -> None:
        for key in self._of_service.get(name, ()):
            self._entries.pop(key, None)

    def _note(self, prefix: str, unread: dict[str, str]) -> None:
        """What of a service cannot be read, by id, and why; `prefix`: of its places."""
        if not unread and not self._ignored:
            return
        places = {prefix + id: why for id, why in unread.items()}
        for place in [place for place in self._ignored if place.startswith(prefix) and place not in places]:
            self._ignored.drop(place)
        for place, why in places.items():
            self._ignored.put(place, why)


def _said(pod: Pod) -> object:
    return pod.metadata.labels, pod.metadata.annotations


def _put(objects: dict[Any, Any], key: object, found: object, deleted: bool) -> None:
    if deleted:
        objects.pop(key, None)
    else:
        objects[key] = found
