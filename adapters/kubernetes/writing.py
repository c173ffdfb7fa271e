"""The requests that write: one apply or delete each, as the field manager of one term, and only while that lasts."""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from adapters.common.changes import LOOK_AGAIN
from adapters.common.http import Answer
from adapters.common.seat import in_force
from adapters.kubernetes import bodies
from adapters.kubernetes.bodies import ManagedMeta
from adapters.kubernetes.client import NAMESPACES, SERVICES, SLICES, Client, Resource
from adapters.kubernetes.lease import PATIENCE, Fence, Leases, holds
from adapters.kubernetes.packing import Slice as Pack
from adapters.kubernetes.place import Place, owner_of
from bridge.adapter import Term
from bridge.errors import Conflict, IsthmusError, Rejected, Superseded
from mappings.common.slice_entry import BRIDGE
from mappings.kubernetes.objects import Meta, Service, ServicePort, Slice

REMEMBERED = 10_000  # writes of which the watch has told nothing yet


class _Managed(msgspec.Struct, frozen=True):
    metadata: ManagedMeta


class Echoes:
    """What the watch tells of our own writes, which is no drift: known by the number that each write leaves."""

    def __init__(self) -> None:
        self._expected: OrderedDict[str, None] = OrderedDict()

    def expect(self, what: str) -> None:
        """This will be told once."""
        self._expected[what] = None
        while len(self._expected) > REMEMBERED:
            self._expected.popitem(last=False)

    def is_ours(self, what: str) -> bool:
        """Whether it was expected; from now on it is not."""
        return self._expected.pop(what, what) is None


class Pen:
    """Writes as one bridge under one term; raises Superseded once that is over."""

    def __init__(
        self, client: Client, leases: Leases, bridge: str, term: Term, echoes: Echoes, numbers: itertools.count[int]
    ) -> None:
        if not isinstance(term.fence, Fence):
            raise Superseded(f"the lock of {bridge} is not one of this cluster")
        self._client = client
        self._leases = leases
        self._bridge = bridge
        self._term = term
        self._echoes = echoes
        self._numbers = numbers
        self._manager = bodies.manager(bridge, term.fence)

    async def put_slice(self, place: Place, after: Pack) -> Slice:
        """Creates or replaces a slice; of another bridge's (an adoption) the owner stays."""
        before = place.slices.get(after.name)
        if before is not None and place.strays(after.name):
            raise Conflict(
                f"{place.namespace}/{after.name}: somebody edited the slice, and nothing is forced: delete it, "
                "and it is written anew"
            )
        owner = owner_of(before) if before is not None else self._bridge
        meta = before.metadata if before is not None else None

        def body(wrote: str) -> bytes:
            return bodies.slice_body(place.name, place.namespace, place.target, owner, wrote, after, meta)

        found: Slice = await self._apply(SLICES, place.namespace, after.name, meta, body, Slice, mends=True)
        return found

    async def put_service(self, place: Place, ports: tuple[ServicePort, ...]) -> Service:
        """Creates our Service, or gives it further ports."""
        meta = place.service.metadata if place.service is not None else None

        def body(wrote: str) -> bytes:
            return bodies.service_body(place.name, place.namespace, place.target, self._bridge, wrote, ports, meta)

        found: Service = await self._apply(SERVICES, place.namespace, place.target, meta, body, Service)
        return found

    async def put(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        before: Meta | None,
        body: Callable[[str], bytes],
        kind: Any,
    ) -> Any:
        """Creates or replaces an object that bridges alone write; `body` of the text that its WRITER says."""
        return await self._apply(resource, namespace, name, before, body, kind, mends=True)

    async def delete(self, resource: Resource, meta: Meta) -> None:
        """Deletes this very object, as it is."""
        in_force(self._term)
        echo = f"deleted {meta.uid}"
        self._echoes.expect(echo)
        preconditions = {"uid": meta.uid, "resourceVersion": meta.resource_version}
        path = resource.path(meta.namespace, meta.name)
        body = msgspec.json.encode({"preconditions": preconditions})
        try:
            await self._client.call("DELETE", path, body=body, accept=(404,), timeout=PATIENCE)
        except IsthmusError:
            self._echoes.is_ours(echo)  # who deletes it later is somebody else, which is drift
            raise

    async def create_namespace(self, name: str) -> None:
        """Another may have created it meanwhile."""
        in_force(self._term)
        meta = {"name": name, "annotations": {BRIDGE: self._bridge}}
        body = msgspec.json.encode({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        await self._client.call("POST", NAMESPACES.path(), body=body, accept=(409,), timeout=PATIENCE)

    async def _apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        before: Meta | None,
        body: Callable[[str], bytes],
        kind: type[Any],
        *,
        mends: bool = False,
    ) -> Any:
        """One apply. Forced where this epoch has not written the object yet, and what it replaces was a bridge's.

        Until then an earlier writer is kept off by its own deadline alone; from then on by the field manager, too.
        `mends`: what is as a bridge wrote it and yet somebody else's, as from a backup, is taken over likewise.
        """
        query = {"fieldManager": self._manager}
        takes_over = before is not None and bodies.writer(before)[0] != self._manager
        if takes_over:
            if not await holds(self._leases, self._term.fence):
                raise Superseded(f"the lock {self._term.fence.lease} is another's")
            query["force"] = "true"
        wrote = f"{self._manager} {next(self._numbers)}"
        self._echoes.expect(wrote)
        path, whole = resource.path(namespace, name), body(wrote)
        answer = await self._patch(path, query, whole)
        if answer.status == 409:
            refused: bodies.Refused = answer.json(bodies.Refused)
            if not mends or not bodies.of_no_bridge(refused):
                raise Conflict(f"{answer.url}: PATCH {path}: 409 {refused.message}")
            answer = await self._patch(path, {**query, "force": "true"}, whole)
        if answer.status == 404 and b"the server could not find" in answer.body:
            raise Rejected(
                f"the cluster has no {resource.plural}.{resource.api_group}: install Istio first", LOOK_AGAIN
            )
        if answer.status == 404:
            said = f"the namespace {namespace} is not there: create it, or say `create_namespaces: true`"
            raise NoNamespace(said, LOOK_AGAIN)
        if takes_over and (former := bodies.former_managers(answer.json(_Managed).metadata, self._manager)):
            answer = await self._tidy(path, answer.json(_Managed).metadata, former, answer)
        return answer.json(kind)

    async def _patch(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        """An apply, and what it came to: forced, a conflict is an error."""
        in_force(self._term)
        accept = (404,) if "force" in query else (404, 409)
        return await self._client.call(
            "PATCH", path, query=query, body=body, content=bodies.APPLY, accept=accept, timeout=PATIENCE
        )

    async def _tidy(self, path: str, meta: ManagedMeta, former: list[int], answer: Answer) -> Answer:
        """Takes former epochs out of the list of field managers, which would grow with each of them for ever."""
        in_force(self._term)
        with contextlib.suppress(Conflict, Rejected):  # it is a matter of size alone, and may wait
            body = msgspec.json.encode(bodies.without_managers(meta, former))
            return await self._client.call("PATCH", path, body=body, content=bodies.JSON_PATCH, timeout=PATIENCE)
        return answer


class NoNamespace(Rejected):
    """What is written belongs into a namespace that does not exist."""
