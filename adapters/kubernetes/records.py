"""The objects of one service as they are in the cluster, for `explain`."""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.kubernetes.client import SERVICES, SLICES, Client, slices_of
from adapters.kubernetes.working_copy import View
from bridge.adapter import Raw
from bridge.model import ServiceName
from mappings import kubernetes as layout
from mappings.kubernetes import objects
from mappings.kubernetes.objects import Slice


class _Lists(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw] | None = None


async def raw(client: Client, view: View, name: ServiceName) -> list[Raw]:
    """The Service, then each endpoint of its slices with its annotation. Raises Unavailable or Denied."""
    namespace = view.namespace(name)
    valid = layout.is_service_name(name.name)
    found: list[Raw] = []
    if valid:
        service = await client.call(
            "GET", SERVICES.path(namespace), query={"fieldSelector": f"metadata.name={name.name}"}
        )
        for item in service.json(_Lists).items or ():
            found.append(Raw(f"{namespace}/services/{name.name}", bytes(item).decode()))
    query = slices_of(name.name) if valid else {"labelSelector": f"{objects.MANAGED_BY}={objects.MANAGER}"}
    answer = await client.call("GET", SLICES.path(namespace), query=query)
    for item in answer.json(_Lists).items or ():
        each: Any = msgspec.json.decode(item, type=Slice)
        if layout.service_name(each) == name.name:
            found += _endpoints(each, msgspec.json.decode(item))
    return found


def _endpoints(found: Slice, tree: Any) -> list[Raw]:
    notes = layout.written_in(found) if found.written else {}
    place = f"{found.metadata.namespace}/endpointslices/{found.metadata.name}"
    rows = []
    for entry, endpoint in zip(layout.entries(found), tree.get("endpoints") or (), strict=True):
        said = {"ports": tree.get("ports"), **endpoint}
        if not isinstance(notes, str) and (note := notes.get(entry.id)) is not None:
            said["written"] = msgspec.to_builtins(note)
        text = msgspec.json.encode(said).decode()
        rows.append(Raw(f"{place}/{entry.id}", text, entry.id, entry.why))
    return rows
