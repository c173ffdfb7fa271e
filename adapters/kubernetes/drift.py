"""What others change at a destination: Services and slices followed, without what we wrote ourselves."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator

from adapters.kubernetes.client import SERVICES, SLICES, Client
from adapters.kubernetes.following import Kind, following
from adapters.kubernetes.place import is_written, original_name
from adapters.kubernetes.watching import Changed
from adapters.kubernetes.working_copy import View
from adapters.kubernetes.writing import Echoes
from bridge.model import ServiceName
from mappings import kubernetes as layout
from mappings.common.slice_entry import WRITER
from mappings.kubernetes.objects import Service, Slice


async def drift(
    client: Client, view: View, namespaces: tuple[str, ...], echoes: Echoes
) -> AsyncGenerator[frozenset[ServiceName], None]:
    """The empty set as soon as everything is listed, then names; raises as a watch does."""
    kinds = [
        Kind(resource, namespace, kind)
        for namespace in namespaces or ("",)
        for resource, kind in ((SERVICES, Service), (SLICES, Slice))
    ]
    async with following(client, kinds, random.Random()) as watches:
        begun = False
        while True:
            changes = [each for each in await watches.take() if isinstance(each, Changed) and each.object is not None]
            others = [each.object for each in changes if not _is_echo(each, echoes)]
            if begun and others:
                yield frozenset(_name(view, each) for each in others)
            elif watches.is_listed and not begun:
                begun = True
                yield frozenset()


def _is_echo(change: Changed, echoes: Echoes) -> bool:
    """Whether this is what one of our own writes did. A later edit by hand keeps the number, and is told again."""
    meta = change.object.metadata
    if change.deleted:
        return echoes.is_ours(f"deleted {meta.uid}")
    if isinstance(change.object, Service) and is_written(change.object):
        return True  # any bridge's: it says nothing before there are slices, and is only missed when it is gone
    return echoes.is_ours((meta.annotations or {}).get(WRITER, ""))


def _name(view: View, found: Service | Slice) -> ServiceName:
    name = layout.service_name(found) if isinstance(found, Slice) else original_name(found)
    return view.name(found.metadata.namespace, name)
