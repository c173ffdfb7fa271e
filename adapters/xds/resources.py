"""All resources that are served, each encoded once, with what changed since any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from adapters.common.picture import Picture
from adapters.common.touched import Touched
from adapters.xds.encoding import Batch
from adapters.xds.health import Proofs
from adapters.xds.pace import Pace
from bridge.errors import Rejected
from bridge.model import Instance, ServiceName
from mappings import xds
from mappings import xds_resources as mapping
from mappings.common.naming import Naming
from mappings.xds import EGRESS
from mappings.xds_resources import Resource

BEGINNINGS = 16  # responses to clients that begin, which others get as well


class Alike(NamedTuple):
    """What several clients began with: ten thousand texts are kept once."""

    names: tuple[str, ...]
    every: frozenset[str]


class Kind:
    """The resources of one type."""

    def __init__(self) -> None:
        self.there: dict[str, Resource] = {}
        self._touched = Touched[str]()
        self._alike: dict[tuple[str, ...], Alike] = {}
        self._begun: dict[tuple[str, ...], Batch] = {}
        self._begun_at = -1

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self._touched.version

    def put(self, resource: Resource) -> None:
        """Another content under a name; nothing where it is the same."""
        known = self.there.get(resource.name)
        if known is None or known.version != resource.version:
            self.there[resource.name] = resource
            self._touched.touch(resource.name, self.there)

    def drop(self, name: str) -> None:
        """It is gone."""
        if self.there.pop(name, None) is not None:
            self._touched.touch(name, self.there)

    def alike(self, names: tuple[str, ...]) -> Alike:
        """These names as the first client said them that began with the same ones."""
        found = self._alike.get(names)
        if found is None:
            while len(self._alike) >= BEGINNINGS:
                del self._alike[next(iter(self._alike))]
            found = self._alike[names] = Alike(names, frozenset(names))
        return found

    def first_of(self, names: tuple[str, ...], size: int, lost: Callable[[str], Resource] | None) -> Batch:
        """The first of these names, as long as they fit: made once for all that begin alike.

        `lost`: what is said of one that is not there; None: then it ends.
        """
        if self._begun_at != self.version:
            self._begun_at = self.version
            self._begun.clear()
        found = self._begun.get(names)
        if found is None:
            while len(self._begun) >= BEGINNINGS:
                del self._begun[next(iter(self._begun))]
            found = self._begun[names] = Batch(tuple(self._fitting(names, size, lost)))
        return found

    def _fitting(self, names: tuple[str, ...], size: int, lost: Callable[[str], Resource] | None) -> Iterator[Resource]:
        for number, name in enumerate(names):
            resource = self.there.get(name)
            if resource is None and lost is not None:
                resource = lost(name)
            if resource is None:
                return
            size -= len(resource.body)
            if size < 0 and number:
                return
            yield resource

    def since(self, version: int) -> list[str]:
        """The names that changed after that version; see `Touched.since`."""
        return self._touched.since(version)


VIEWS = 64  # networks and localities of clients that are told other endpoints


class View(NamedTuple):
    """What tells apart clients that are told other endpoints. `network` "": that of the export, with all it reaches."""

    network: str = ""
    near: mapping.Near = mapping.ANYWHERE


EVERYBODY = View()


class Parts(NamedTuple):
    """What differs from view to view; clusters only where they have host names in them."""

    clusters: Kind
    endpoints: Kind


class Served:
    """The resources of a picture, by type. `egress`: host and port of the listener for Envoys that have one.

    Clients of other networks and localities have other endpoints (`view`), and all else in common.
    """

    def __init__(
        self,
        picture: Picture,
        names: Naming,
        upstream: mapping.Upstream,
        egress: tuple[str, int] | None,
        proofs: Proofs | None = None,
    ) -> None:
        self.kinds: Mapping[str, Kind] = {type: Kind() for type in mapping.TYPES}
        self.picture = picture
        self.pace = Pace(time.monotonic)
        self._names = names
        self._upstream = upstream
        self.proofs = proofs
        self._version = -1
        self._known: dict[ServiceName, frozenset[str]] = {}  # the names that each service has for data planes
        self._services: dict[str, ServiceName] = {}  # the service of each of those names
        self._second: dict[str, dict[ServiceName, None]] = {}  # who has a name that is another service's, and waits
        self._freed: dict[ServiceName, None] = {}  # of those, whose name is free now
        self._shapes: dict[str, tuple[mapping.Shape, mapping.Check | None] | None] = {}  # what each cluster was made of
        self.looked_up: set[str] = set()  # names with host names: clients of gRPC are told no address of them
        self._views: dict[View, Parts] = {}
        self._plain = Kind()  # the clusters for clients that look no host name up
        self._placed = picture.placed
        self._egress = egress
        if egress is not None:
            self.kinds[mapping.LISTENER].put(mapping.egress(*egress))
            self.kinds[mapping.ROUTES].put(mapping.routes(()))

    def names(self, service: ServiceName) -> frozenset[str]:
        """What data planes call a service; none while it has no instance here."""
        return self._known.get(service, frozenset())

    @property
    def ready(self) -> Callable[[str], bool] | None:
        """Whether all that there is of a name is here; None: it is of every name.

        Of what is about all services at once, a listener or routes for applications, it is of none before.
        """
        return None if self.picture.complete else self._is_ready

    def _is_ready(self, name: str) -> bool:
        service = self._services.get(name) or self._names.service(name)
        return service is not None and name != EGRESS and self.picture.ready(service)

    def view(self, view: View, *, looks_up: bool = True) -> Mapping[str, Kind]:
        """The resources of clients that are there; many share one. Raises Rejected where there are too many views.

        `looks_up`: they take host names.
        """
        parts = self._parts(view)
        clusters = parts.clusters if looks_up else self._plain
        return {**self.kinds, mapping.CLUSTER: clusters, mapping.ENDPOINTS: parts.endpoints}

    def _parts(self, view: View) -> Parts:
        if view == EVERYBODY:
            return Parts(self.kinds[mapping.CLUSTER], self.kinds[mapping.ENDPOINTS])
        if view not in self._views:
            if len(self._views) >= VIEWS:
                raise Rejected(f"there are {VIEWS} networks and localities of clients, and {view} is one more")
            self._views[view] = Parts(Kind(), Kind())
            for name in self._known:
                self._look(name, view)
        return self._views[view]

    def keep(self, views: Collection[View]) -> None:
        """Nobody has any other view now."""
        for view in self._views.keys() - set(views):
            del self._views[view]

    def refresh(self) -> None:
        """Takes up what changed in the picture: the work is that of the services that changed."""
        changed, self._version = self.picture.since(self._version), self.picture.version
        if self._placed != self.picture.placed:
            self._placed, changed = self.picture.placed, [*dict.fromkeys([*changed, *self.picture.services])]
        appeared = False
        for name in dict.fromkeys([*changed, *(self.pace.late if self.pace.due == 0.0 else ())]):
            instances = {id: entry.instance for id, entry in self.picture.services.get(name, {}).items()}
            if not self.pace.waits(name, instances):
                appeared |= self._take(name, instances)
        while self._freed:
            name, _ = self._freed.popitem()
            instances = {id: entry.instance for id, entry in self.picture.services.get(name, {}).items()}
            appeared |= self._take(name, instances)
        if appeared and self._egress is not None:
            clusters = self.kinds[mapping.CLUSTER].there
            self.kinds[mapping.ROUTES].put(mapping.routes(clusters))

    async def prove(self) -> None:
        """Looks whether health checks that are left out may be shipped now; the work is that of those alone."""
        if self.proofs is None:
            return
        passed = await self.proofs.prove()
        for name, known in list(self._known.items()) if passed else ():
            if known & passed:
                entries = self.picture.services.get(name, {})
                for each, some in xds.by_name(self._names, name, (one.instance for one in entries.values())).items():
                    self._put_cluster(each, some)
                for view in self._views:
                    self._look(name, view)

    def _put_cluster(self, name: str, instances: Sequence[Instance]) -> None:
        check = self.proofs.shipped(name, instances) if self.proofs is not None else None
        looks_up = xds.has_host_names(instances)
        like = (mapping.shape(instances), check) if not looks_up else None
        if like is not None and self._shapes.get(name) == like:  # most changes are of endpoints alone
            return
        self._shapes[name] = like
        plain = mapping.cluster(name, instances, self._upstream, check)
        self._plain.put(plain)
        if looks_up:
            self.looked_up.add(name)
            plain = mapping.cluster(name, instances, self._upstream, check, mapping.endpoints_of(name, instances))
        else:
            self.looked_up.discard(name)
        self.kinds[mapping.CLUSTER].put(plain)

    def _take(self, name: ServiceName, instances: Mapping[str, Instance]) -> bool:
        """One service anew; whether names came or went."""
        found = self._own(name, xds.by_name(self._names, name, instances.values()))
        for known, some in found.items():
            self._services[known] = name
            self._put_cluster(known, some)
            self.kinds[mapping.ENDPOINTS].put(self._assignment(known, some))
            if known not in self.kinds[mapping.LISTENER].there:  # it says the name alone
                self.kinds[mapping.LISTENER].put(mapping.listener(known))
        before = self._known.get(name, frozenset())
        for gone in before - found.keys():
            self._services.pop(gone, None)
            self._freed.update(self._second.pop(gone, {}))
            self._shapes.pop(gone, None)
            for type in (mapping.LISTENER, mapping.ENDPOINTS, mapping.CLUSTER):
                self.kinds[type].drop(gone)
            if self.proofs is not None:
                self.proofs.shipped(gone, ())
            self.looked_up.discard(gone)
            for kind in (self._plain, *(kind for parts in self._views.values() for kind in parts)):
                kind.drop(gone)
        if found:
            self._known[name] = frozenset(found)
        else:
            self._known.pop(name, None)
        for view in self._views:
            self._look(name, view)
        return before != found.keys()

    def _own(self, name: ServiceName, found: dict[str, list[Instance]]) -> dict[str, list[Instance]]:
        """Less what is another service's: of two with one name it is the lesser's, at every daemon, and of no mix."""
        for known in [known for known, waiting in self._second.items() if name in waiting]:
            del self._second[known][name]
            if not self._second[known]:
                del self._second[known]
        for known in found:
            owner = self._services.get(known, name)
            if owner != name:
                self._second.setdefault(known, {})[max(owner, name)] = None
            if name < owner:
                self._known[owner] -= {known}
                self._services[known] = name
        return {known: some for known, some in found.items() if self._services.get(known, name) == name}

    @property
    def clashes(self) -> list[str]:
        """Which services are not told by a name, for it is another one's; in words."""
        return [
            f"{', '.join(map(str, waiting))} is not told as {known}, the name of {self._services[known]}: see `cluster`"
            for known, waiting in sorted(self._second.items())
        ]

    def _look(self, name: ServiceName, view: View) -> None:
        """The endpoints of one service in a view; none where all are in other networks."""
        there, of = self.picture.services.get(name, {}), self.picture.network_of
        seen = [one.instance for one in there.values() if view.network in ("", of(one.instance, one.mark))]
        found = xds.by_name(self._names, name, seen)
        whole = xds.by_name(self._names, name, (one.instance for one in there.values()))
        parts = self._views[view]
        for known in self.names(name):
            some = found.get(known, [])
            parts.endpoints.put(self._assignment(known, some, view.near))
            shared = self.kinds[mapping.CLUSTER].there[known]
            if known in self.looked_up:
                check = self.proofs.shipped(known, whole.get(known, [])) if self.proofs is not None else None
                inside = mapping.endpoints_of(known, some, view.near)
                shared = mapping.cluster(known, whole.get(known, []), self._upstream, check, inside)
            parts.clusters.put(shared)

    def _assignment(self, name: str, instances: Sequence[Instance], near: mapping.Near = mapping.ANYWHERE) -> Resource:
        """None but an empty one where the addresses are in the cluster itself."""
        return mapping.nothing(name) if name in self.looked_up else mapping.assignment(name, instances, near)
