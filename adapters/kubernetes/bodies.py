"""The bodies of server-side apply, and who writes them; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from adapters.kubernetes.lease import Fence
from adapters.kubernetes.packing import SetKey, Slice
from bridge.model import ServiceName
from mappings import kubernetes as layout
from mappings.common import slice_entry
from mappings.common.slice_entry import BRIDGE, ENTRIES, WRITER
from mappings.kubernetes import objects
from mappings.kubernetes.objects import Meta, Service, ServicePort

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
MANAGERS = "isthmus-"  # what the names of bridges' field managers begin with
MOST_FORMER = 4  # epochs in an object's list of field managers: beyond, they are taken out

# The server reads the body as YAML: these are refused raw, or (U+0085) silently made a blank. Everything else stays
# raw, for YAML has no surrogate escapes (seen with Kubernetes 1.34).
_UNPRINTABLE = re.compile("[\x7f-\x9f\ufffe\uffff]")


class Manager(msgspec.Struct, frozen=True):
    """One entry of an object's list of field managers."""

    manager: str = ""
    fields_v1: dict[str, Any] = msgspec.field(name="fieldsV1", default={})


class ManagedMeta(msgspec.Struct, frozen=True, rename="camel"):
    """What is needed of an object to mend that list."""

    resource_version: str = ""
    managed_fields: list[Manager] = []


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: tuple[_Cause, ...] | None = None


class Refused(msgspec.Struct, frozen=True):
    """What the server says of a conflict."""

    message: str = ""
    details: _Details = _Details()


_CONFLICTING = re.compile(r'conflict with "([^"]*)"').search


def of_no_bridge(refused: Refused) -> bool:
    """Whether a conflict is one of field managers alone, none of which is a bridge's."""
    causes = refused.details.causes or ()
    managers = [_CONFLICTING(each.message) for each in causes if each.reason == "FieldManagerConflict"]
    return bool(managers) and all(each is not None and not each[1].startswith(MANAGERS) for each in managers)


def former_managers(meta: ManagedMeta, current: str) -> list[int]:
    """Where bridges that wrote it before stand in the list, mostly earlier epochs, if they have to go from it.

    One that still owns the endpoints has to: who took over what was equal is a co-owner, and a list with two owners
    refuses both. The others only fill the list.
    """
    found = {
        index: each
        for index, each in enumerate(meta.managed_fields)
        if each.manager.startswith(MANAGERS) and each.manager != current
    }
    owning = any(
        "f:endpoints" in each.fields_v1 or "f:endpoints" in each.fields_v1.get("f:spec", {}) for each in found.values()
    )
    return list(found) if owning or len(found) > MOST_FORMER else []


def without_managers(meta: ManagedMeta, indices: list[int]) -> list[dict[str, Any]]:
    """The JSON patch that takes them out of the object as it is."""
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version}
    return [test, *({"op": "remove", "path": f"/metadata/managedFields/{index}"} for index in reversed(indices))]


def encoded(body: Mapping[str, Any]) -> bytes:
    """JSON that the server's YAML reader reads as it was meant."""
    raw = msgspec.json.encode(body)
    if raw.isascii() and b"\x7f" not in raw:  # as nearly all are, and the search below costs as much as the rest
        return raw
    text = raw.decode()
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def manager(bridge: str, fence: Fence) -> str:
    """The field manager of one writer in one epoch, at most 128 bytes.

    The holder tells epochs apart whose number is the same because the Lease was deleted meanwhile.
    """
    name = slice_entry.dns_name(bridge)
    who = name if name == bridge else f"{name[:40]}-{slice_entry.digest(bridge, 4)}"
    return f"{MANAGERS}{who}-e{fence.transitions}-{slice_entry.digest('/'.join(map(str, fence)), 3)}"


def writer(meta: Meta) -> tuple[str, str]:
    """The field manager of the bridge that wrote an object last, and the number of that write; ("", "") where none."""
    who, _, number = (meta.annotations or {}).get(WRITER, "").partition(" ")
    return who, number


def slice_body(
    name: ServiceName, namespace: str, target: str, owner: str, wrote: str, after: Slice, before: Meta | None
) -> bytes:
    """A whole slice; `before`: replace this very object, as it is, or fail."""
    meta: dict[str, Any] = {"name": after.name, "namespace": namespace}
    if before is not None:
        # Together they say "this object, or fail": a missing one makes the uid a conflict, a changed one the revision.
        meta |= {"uid": before.uid, "resourceVersion": before.resource_version}
    entries = {id: each.text for id, each in after.entries.items()}
    meta["labels"] = {objects.SERVICE_NAME: target, objects.MANAGED_BY: objects.MANAGER}
    meta["annotations"] = {BRIDGE: owner, WRITER: wrote, ENTRIES: slice_entry.encode(entries)}
    if target != name.name:
        meta["annotations"][layout.ORIGINAL_NAME] = name.name
    return encoded(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta,
            "addressType": after.key.family,
            "ports": after.key.ports,
            "endpoints": [after.entries[id].endpoint for id in sorted(after.entries)],
        }
    )


def service_body(
    name: ServiceName,
    namespace: str,
    target: str,
    owner: str,
    wrote: str,
    ports: Iterable[ServicePort],
    before: Meta | None,
) -> bytes:
    """A Service without a selector; `before` likewise."""
    meta: dict[str, Any] = {"name": target, "namespace": namespace}
    if before is not None:
        meta |= {"uid": before.uid, "resourceVersion": before.resource_version}
    meta["annotations"] = {BRIDGE: owner, WRITER: wrote}
    if target != name.name:
        meta["annotations"][layout.ORIGINAL_NAME] = name.name
    return encoded(
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"type": "ClusterIP", "ports": list(ports)}}
    )


def service_ports(service: Service | None, keys: Iterable[SetKey]) -> tuple[ServicePort, ...]:
    """The ports that the Service needs for these slices: those that it has stay, for clients know their numbers."""
    standing = (service.spec.ports or ()) if service is not None else ()
    found = [ServicePort(each.port, each.name, each.protocol or "TCP", each.app_protocol) for each in standing]
    names = {each.name for each in found}
    taken = {(each.port, each.protocol) for each in found}
    wanted = {
        (each.name or "", each.port or 0, each.protocol or "TCP", each.app_protocol)
        for key in keys
        for each in key.ports
    }
    for name, number, transport, app_protocol in sorted(wanted, key=lambda one: (one[0], one[1], one[2], one[3] or "")):
        if name in names:
            continue
        while (number, transport) in taken:
            number = number % 65535 + 1
        names.add(name)
        taken.add((number, transport))
        found.append(ServicePort(number, name, transport, app_protocol or None))
    return tuple(found)
