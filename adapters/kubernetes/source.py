"""The source: Services and EndpointSlices (Pods, Nodes) of one scope, each followed in its own watch, told together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import msgspec

from adapters.common.assembly import Ignored
from adapters.kubernetes import identity
from adapters.kubernetes.client import NODES, PODS, SERVICES, SLICES, Client
from adapters.kubernetes.following import Kind, following
from adapters.kubernetes.watching import Changed, Everything
from adapters.kubernetes.working_copy import Copy, View
from bridge.adapter import Behind, Listing, Observed, Synced
from bridge.model import ServiceName
from mappings import kubernetes as layout
from mappings.kubernetes import objects
from mappings.kubernetes.objects import Node, Pod, Service, Slice

LOOK = 1_000  # services assembled at once


class KubernetesSource:
    """One scope: a namespace, or with `namespace` "" the whole cluster."""

    def __init__(
        self,
        client: Client,
        view: View,
        namespace: str,
        selector: str,
        rng: random.Random,
    ) -> None:
        self.scope = namespace
        self.ignored = Ignored()  # by namespace, service and id
        self._client = client
        self._view = view
        self._selector = selector
        self._rng = rng

    @property
    def behind(self) -> Behind | None:
        """See `Source.behind`: never known, for a watch is silent as long as it has nothing to tell."""
        return None

    def kinds(self) -> list[Kind]:
        """What is followed; nodes belong to no namespace."""
        found = [Kind(SERVICES, self.scope, Service, self._selector), Kind(SLICES, self.scope, Slice)]
        if self._view.pod_metadata:
            found.append(Kind(PODS, self.scope, Pod))
        if self._view.address == "node-port":
            found.append(Kind(NODES, "", Node))
        return found

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. Raises Unavailable, Expired (410, a restored store, another cluster) or Denied."""
        self.ignored.clear()
        copy = Copy(self._view, self.ignored)
        async with following(self._client, self.kinds(), self._rng) as watches:
            revision = 0
            while not watches.is_listed:
                revision = max(revision, _taken(copy, await watches.take())[0])
            yield Listing(watches.identity, revision=revision)
            for number, name in enumerate(list(copy.names())):
                if (told := copy.observe(name, revision)) is not None:
                    yield told
                if number % LOOK == LOOK - 1:
                    await asyncio.sleep(0)
            yield Synced(revision)
            while True:
                reached, touched = _taken(copy, await watches.take())
                revision = max(revision, reached)
                for name in touched:
                    if (told := copy.observe(name, revision)) is not None:
                        yield told

    async def read(self, name: ServiceName) -> Observed:
        """See `Source.read`: a consistent list of what there is of one service."""
        namespace = self._view.namespace(name)
        copy = Copy(self._view, Ignored())
        await identity.of(self._client)
        valid = layout.is_service_name(name.name)
        query = {"labelSelector": self._selector} if self._selector else {}
        if valid:
            named = query | {"fieldSelector": f"metadata.name={name.name}"}
            await self._into(copy, SERVICES.path(namespace), Service, named)
        label = f"{objects.SERVICE_NAME}={name.name}" if valid else f"{objects.MANAGED_BY}={objects.MANAGER}"
        await self._into(copy, SLICES.path(namespace), Slice, {"labelSelector": label})
        if self._view.pod_metadata and valid:
            await self._into(copy, PODS.path(namespace), Pod, {})
        if self._view.address == "node-port":
            await self._into(copy, NODES.path(), Node, {})
        return copy.assemble(name, 0)

    async def _into(self, copy: Copy, path: str, kind: type[msgspec.Struct], query: dict[str, str]) -> None:
        for each in await self._client.listed(path, kind, query):
            copy.put(each, False)


def _taken(copy: Copy, arrived: Sequence[Everything | Changed]) -> tuple[int, list[ServiceName]]:
    """Puts what arrived into the copy: the revision that was reached, and the services that it may have changed."""
    revision = 0
    touched: dict[ServiceName, None] = {}
    for each in arrived:
        revision = max(revision, layout.revision(each.revision))
        if isinstance(each, Everything):
            for found in each.objects:
                copy.put(found, False)
        elif each.object is not None:
            touched |= dict.fromkeys(copy.put(each.object, each.deleted))
    return revision, list(touched)
