"""What `check` says of a cluster: who answers, which rights are missing by verb, and what is odd."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from adapters.kubernetes import identity
from adapters.kubernetes.client import SERVICES, SLICES, Client, Resource
from adapters.kubernetes.lease import LEASES, Leases, writers
from adapters.kubernetes.packing import MOST_ENDPOINTS
from adapters.kubernetes.source import KubernetesSource
from bridge.adapter import Reach, Right
from bridge.errors import Denied
from mappings.common.slice_entry import MOST_BYTES

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
READING = ("list", "watch")
WRITING = ("create", "patch", "delete")
LOCKING = ("get", "create", "patch")
TIDYING = ("list", "delete")  # who else writes, and a bridge that leaves nothing behind: writing needs neither

LIMITS = (
    f"a slice has at most {MOST_ENDPOINTS} endpoints and {MOST_BYTES:,} bytes of annotations; a change writes it anew",
)


class Version(msgspec.Struct, frozen=True, rename="camel"):
    """Of the apiserver."""

    git_version: str = ""


class _Allowed(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Review(msgspec.Struct, frozen=True):
    status: _Allowed = _Allowed()


async def of(client: Client, sources: Sequence[KubernetesSource], leases: Leases) -> Reach:
    """See `Registry.reach`: asked by SelfSubjectAccessReview, which everyone may."""
    version: Any = (await client.call("GET", "/version")).json(Version)
    notes: list[str] = []
    try:
        uid = await identity.of(client)
    except Denied as error:
        uid = ""
        notes.append(str(error))
    reads = [
        Need(kind.resource, source.scope, verb) for source in sources for kind in source.kinds() for verb in READING
    ]
    scopes = [source.scope for source in sources]
    writes = _writes(scopes, leases.namespace)
    proofs = [Need(SLICES, source.scope, "get") for source in sources]  # see `Follower.prove`: reading needs none
    tidying = [Need(LEASES, leases.namespace, verb) for verb in TIDYING]
    wanted = [*reads, *proofs, *writes, *tidying]
    allowed = dict(zip(wanted, await asyncio.gather(*(may(client, *each) for each in wanted)), strict=True))
    missing = [each for each in reads if not allowed[each]]
    unwritable = [each for each in writes if not allowed[each]]
    notes += [rule_of(*each) for each in (*missing, *(each for each in proofs if not allowed[each]))]
    if len(unwritable) < len(WRITING) * len(scopes) * 2:  # whoever may write nothing at all is not meant to
        notes += [rule_of(*each) for each in (*unwritable, *(each for each in tidying if not allowed[each]))]
    return Reach(
        uid,
        f"Kubernetes {version.git_version}",
        may_read=bool(uid) and not missing,
        may_write=not unwritable,
        notes=tuple(notes),
        writers=await writers(leases, datetime.now(UTC)),
        rights=tuple(Right(str(each), yes) for each, yes in allowed.items()),
        limits=LIMITS,
    )


class Need(NamedTuple):
    """A verb on objects of a namespace, "" for all."""

    resource: Resource
    namespace: str
    verb: str

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource.plural}{where}"


def _writes(scopes: Sequence[str], lock: str) -> list[Need]:
    """Every right that a writer needs beside those of a reader; server-side apply creates what is not there."""
    objects = [Need(each, scope, verb) for scope in scopes for each in (SERVICES, SLICES) for verb in WRITING]
    return [*objects, *(Need(LEASES, lock, verb) for verb in LOCKING)]


async def may(client: Client, resource: Resource, namespace: str, verb: str) -> bool:
    """Whether we may do this in a namespace, "" for all of them."""
    attributes = {"verb": verb, "group": resource.api_group, "resource": resource.plural, "namespace": namespace}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    body = msgspec.json.encode(review | {"spec": {"resourceAttributes": attributes}})
    answer: Any = (await client.call("POST", REVIEWS, body=body)).json(_Review)
    return bool(answer.status.allowed)


def rule_of(resource: Resource, namespace: str, verb: str) -> str:
    """The rule that is missing, and where it goes."""
    where = f"a Role in namespace {namespace}" if namespace else "a ClusterRole"
    rule = f'{{apiGroups: ["{resource.api_group}"], resources: [{resource.plural}], verbs: [{verb}]}}'
    return f"may not {verb} {resource.plural}: add {rule} to {where}"
