"""What attaching does to a Service that has pods, for `plan`: the share that results, and autoscalers that see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from adapters.kubernetes.attach import Share
from adapters.kubernetes.client import Client, Resource
from bridge.adapter import Advice
from bridge.errors import Denied
from bridge.model import ServiceName
from mappings.kubernetes.objects import Meta, Service

WORKLOADS = {
    "Deployment": Resource("apis/apps/v1", "deployments"),
    "StatefulSet": Resource("apis/apps/v1", "statefulsets"),
}
AUTOSCALERS = Resource("apis/autoscaling/v2", "horizontalpodautoscalers")


class _Template(msgspec.Struct, frozen=True):
    metadata: Meta = Meta()


class _WorkloadSpec(msgspec.Struct, frozen=True):
    template: _Template = _Template()


class _Workload(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: _WorkloadSpec = _WorkloadSpec()


class _Target(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""


class _AutoscalerSpec(msgspec.Struct, frozen=True, rename="camel"):
    scale_target_ref: _Target = _Target()
    min_replicas: int = 1


class _Autoscaler(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: _AutoscalerSpec = _AutoscalerSpec()


class Scaled(NamedTuple):
    """A workload with an autoscaler. `labels`: those of its pods; `least`: to how many pods it may be scaled in."""

    workload: str
    labels: dict[str, str]
    autoscaler: str
    least: int


async def scaled_in(client: Client, namespace: str) -> list[Scaled]:
    """Every one of a namespace. Raises Unavailable, or Denied with the rule that is missing."""
    autoscalers = await client.listed(AUTOSCALERS.path(namespace), _Autoscaler)
    workloads = [await client.listed(kind.path(namespace), _Workload) for kind in WORKLOADS.values()]
    labels = {
        (kind, each.metadata.name): each.spec.template.metadata.labels or {}
        for kind, found in zip(WORKLOADS, workloads, strict=True)
        for each in found
    }
    targets = ((each, each.spec.scale_target_ref) for each in autoscalers)
    return [
        Scaled(f"{of.kind} {of.name}", labels[of.kind, of.name], each.metadata.name, each.spec.min_replicas)
        for each, of in targets
        if (of.kind, of.name) in labels
    ]


def advice(
    name: ServiceName, service: Service, share: Share, waiting: int, scaled: Sequence[Scaled] | Denied
) -> list[Advice]:
    """What is to be said of one Service. `share`: once the plan is carried out; `waiting`: what finds no room."""
    room = f"; {waiting} more wait for pods, see `max_attached_share`" if waiting else ""
    found = [Advice(name, f"{share.text}{room}")]
    if isinstance(scaled, Denied):
        return [
            *found,
            Advice(name, f"not known whether an autoscaler takes pods away for that: {scaled}", warning=True),
        ]
    selector = service.spec.selector or {}
    return found + [
        Advice(
            name,
            f"each pod of {each.workload} gets less load from then on, and its autoscaler {each.autoscaler} may take "
            f"all but {each.least} of the {share.pods} away: set its minReplicas to {share.pods} first",
            warning=True,
        )
        for each in scaled
        if share.attached and each.least < share.pods and selector.items() <= each.labels.items()
    ]
