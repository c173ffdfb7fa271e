"""deploy/kubernetes/roles.yaml: just enough for a bridge, and what one verb less is called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import pytest_asyncio
import yaml

from bridge.adapter import Change, Synced
from bridge.errors import Denied, IsthmusError
from bridge.model import ServiceName
from tests.adapters.kubernetes.lab import BRIDGE, Cluster, cluster, create_of, instance
from tests.conformance.lab import watching
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.kubernetes import Kubernetes

ROLES = Path("deploy/kubernetes/roles.yaml")
RBAC = "apis/rbac.authorization.k8s.io/v1"
READER = ("isthmus-identity", "isthmus-reader")
WRITER = ("isthmus-identity", "isthmus-writer", "isthmus-lock")

_NUMBERS = count()


class Account(NamedTuple):
    """A service account of one namespace, and the kubeconfig of its token."""

    there: Cluster
    kubeconfig: Path

    def registry(self, **more: Any) -> Any:
        return self.there.registry(kubeconfig=str(self.kubeconfig), **more)


def rules(role: str, less: tuple[str, str] | None) -> list[dict[str, Any]]:
    """Those of a role of the file, without one verb on one resource where `less` names it."""
    found: list[Any] = list(yaml.safe_load_all(ROLES.read_text()))
    (wanted,) = [each for each in found if each["metadata"]["name"] == role]
    return [
        {**rule, "verbs": [verb for verb in rule["verbs"] if (rule["resources"][0], verb) != less]}
        for rule in cast(list[dict[str, Any]], wanted["rules"])
    ]


async def account(server: Kubernetes, roles: tuple[str, ...], less: tuple[str, str] | None = None) -> Account:
    """One that is bound to these roles alone."""
    there = await cluster(server)
    name = f"isthmus-{next(_NUMBERS)}"
    await server.call("POST", there.path("api/v1", "serviceaccounts"), {"metadata": {"name": name}})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": there.namespace}
    for role in roles:
        whole = role in ("isthmus-identity", "isthmus-namespaces")
        kind = "ClusterRole" if whole else "Role"
        meta = {"name": f"{role}-{name}"}
        place = f"/{RBAC}" if whole else f"/{RBAC}/namespaces/{there.namespace}"
        body = {"metadata": meta, "rules": [one for one in rules(role, less) if one["verbs"]]}
        await server.call("POST", f"{place}/{kind.lower()}s", body)
        bound = {"kind": kind, "name": meta["name"], "apiGroup": "rbac.authorization.k8s.io"}
        await server.call(
            "POST", f"{place}/{kind.lower()}bindings", {"metadata": meta, "roleRef": bound, "subjects": [subject]}
        )
    request = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}
    asked = await server.call("POST", there.path("api/v1", "serviceaccounts", f"{name}/token"), request)
    return Account(there, server.configure(asked["status"]["token"], name=name))


async def bound(account: Account, *rights: tuple[str, str]) -> None:
    """Waits until the server knows the rights."""

    async def known() -> bool:
        async with account.registry() as registry:
            try:
                reach = await registry.reach()
            except IsthmusError:
                return False
            return bool(reach.identity) and all(
                not any(f"resources: [{plural}], verbs: [{verb}]" in note for note in reach.notes)
                for plural, verb in rights
            )

    await until(known)


async def read_all(registry: Any) -> None:
    async with aclosing(registry.sources[0].watch()) as words:
        async for word in words:
            if isinstance(word, Synced):
                break
    await registry.sources[0].read(ServiceName("pay"))


async def write_all(registry: Any) -> None:
    """Lock, note, create, change, remove, and what drifts; raises what any of it fails with."""
    sink = Seated(registry, BRIDGE)
    async with sink.writer():
        await sink.note(b"note", await sink.recall(), writer=True)
        async with aclosing(cast(Any, sink.drift())) as drift:
            await anext(drift)
        held = await sink.held()
        (made,) = await sink.apply([create_of(instance(1))])
        if made.error:
            raise made.error
        pay = made.change.service
        held = await sink.held([pay])
        after = instance(1, turn="2")
        for change in (
            Change(pay, "i1", held.services[pay]["i1"], after, made.change.mark),
            None,
        ):
            before = (await sink.held([pay])).services[pay]["i1"]
            (outcome,) = await sink.apply([change or Change(pay, "i1", before, None)])
            if outcome.error:
                raise outcome.error
        await sink.leave()


async def test_what_reading_and_writing_can_do_without_is_named_by_check(
    make: Callable[..., Awaitable[Account]],
) -> None:
    for less in (("endpointslices", "get"), ("leases", "list")):
        writer = await make(WRITER, less)
        await bound(writer, *NEEDED)
        async with writer.registry() as registry:
            await write_all(registry)
            reach = await registry.reach()
            assert (reach.may_read, reach.may_write) == (True, True)
            (note,) = [each for each in reach.notes if "verbs:" in each]
            assert f"resources: [{less[0]}], verbs: [{less[1]}]" in note


@pytest_asyncio.fixture
async def make(kubernetes: Kubernetes) -> AsyncIterator[Callable[..., Awaitable[Account]]]:
    async def made(roles: tuple[str, ...], less: tuple[str, str] | None = None) -> Account:
        return await account(kubernetes, roles, less)

    yield made


async def test_the_roles_of_the_file_are_enough(make: Callable[..., Awaitable[Account]]) -> None:
    reader, writer = await make(READER), await make(WRITER)
    await bound(reader, ("services", "list"), ("endpointslices", "watch"))
    async with reader.registry() as registry:
        await read_all(registry)
        reach = await registry.reach()
        assert (reach.may_read, reach.may_write) == (True, False)
        assert not any("verbs:" in note for note in reach.notes)
    await bound(writer, ("endpointslices", "delete"), ("leases", "patch"))
    async with writer.registry() as registry:
        await write_all(registry)
        reach = await registry.reach()
        assert (reach.may_read, reach.may_write) == (True, True)
        assert not any("verbs:" in note for note in reach.notes)
        assert reach.writers == frozenset()


@pytest.mark.parametrize("plural", ["services", "endpointslices"])
@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_a_reader_with_one_verb_less_is_denied_by_name(
    make: Callable[..., Awaitable[Account]], plural: str, verb: str
) -> None:
    reader = await make(READER, (plural, verb))
    await bound(reader, *((each, word) for each in ("services", "endpointslices") for word in ("list", "watch")
                          if (each, word) != (plural, verb)))  # fmt: skip
    async with reader.registry() as registry:
        with pytest.raises(Denied, match=rf"resources: \[{plural}\], verbs: \[{verb}\]"):
            await read_all(registry)
        assert any(f"resources: [{plural}], verbs: [{verb}]" in note for note in (await registry.reach()).notes)


async def test_a_namespace_that_may_not_be_read_holds_up_no_other(
    make: Callable[..., Awaitable[Account]], kubernetes: Kubernetes
) -> None:
    reader, closed = await make(READER), await cluster(kubernetes)
    await bound(reader, ("services", "list"), ("endpointslices", "watch"))
    async with reader.registry(namespaces=[reader.there.namespace, closed.namespace]) as registry:
        of_ours, of_others = registry.sources
        async with watching(of_ours) as heard, watching(of_others) as refused:
            await refused.until(lambda: refused.error is not None)
            assert isinstance(refused.error, Denied) and not refused.said
            assert f"a Role in namespace {closed.namespace}" in str(refused.error)
            await heard.until(lambda: heard.synced)
            assert heard.error is None


NEEDED = [
    *((plural, verb) for plural in ("services", "endpointslices")
      for verb in ("list", "watch", "create", "patch", "delete")),
    *(("leases", verb) for verb in ("get", "create", "patch", "delete")),
]  # fmt: skip


@pytest.mark.parametrize("less", NEEDED, ids="-".join)
async def test_a_writer_with_one_verb_less_is_denied_by_name(
    make: Callable[..., Awaitable[Account]], less: tuple[str, str]
) -> None:
    plural, verb = less
    writer = await make(WRITER, less)
    await bound(writer, *(each for each in NEEDED if each != less))
    async with writer.registry() as registry:
        with pytest.raises(Denied) as denied:
            await write_all(registry)
        assert f"resources: [{plural}], verbs: [{verb}]" in str(denied.value)
        assert f"a Role in namespace {writer.there.namespace}" in str(denied.value)
        assert any(f"resources: [{plural}], verbs: [{verb}]" in note for note in (await registry.reach()).notes)


async def test_without_the_right_to_create_a_namespace_the_rule_is_named(
    make: Callable[..., Awaitable[Account]],
) -> None:
    writer = await make(WRITER)
    await bound(writer, *NEEDED)
    name = ServiceName("pay", f"{writer.there.namespace}-new")
    async with writer.registry(namespaces=[], create_namespaces=True) as registry:
        sink = Seated(registry, BRIDGE)
        async with sink.writer():
            with pytest.raises(Denied, match="list"):
                await sink.held()
            (outcome,) = await sink.apply([create_of(instance(1), name)])
            assert isinstance(outcome.error, Denied)


async def test_a_role_that_is_taken_away_ends_writing_and_removes_nothing(
    make: Callable[..., Awaitable[Account]],
) -> None:
    writer = await make(WRITER)
    await bound(writer, *NEEDED)
    there = writer.there
    async with writer.registry() as registry:
        sink = Seated(registry, BRIDGE)
        async with sink.writer():
            assert [one.error for one in await sink.apply([create_of(instance(1))])] == [None]
            (found,) = [
                each["metadata"]["name"]
                for each in (await there.server.call("GET", f"/{RBAC}/namespaces/{there.namespace}/rolebindings"))[
                    "items"
                ]
                if each["metadata"]["name"].startswith("isthmus-writer")
            ]
            await there.server.call("DELETE", f"/{RBAC}/namespaces/{there.namespace}/rolebindings/{found}")

            async def denied() -> bool:
                try:
                    await sink.held()
                except Denied:
                    return True
                return False

            await until(denied)
            (outcome,) = await sink.apply([create_of(instance(2))])
            assert isinstance(outcome.error, Denied)
    (found,) = await there.slices()
    assert [each["targetRef"]["name"] for each in found["endpoints"]] == ["i1"]


async def test_where_autoscalers_may_not_be_read_the_advice_names_the_rule(
    make: Callable[..., Awaitable[Account]],
) -> None:
    writer = await make(WRITER)
    await bound(writer, *NEEDED)
    await writer.there.put_service("pay", selector={"app": "pay"})
    async with writer.registry(attach=True) as registry:
        _, warning = await registry.sink(BRIDGE).advise({ServiceName("pay"): [create_of(instance(1))]})
        assert warning.warning
        assert 'apiGroups: ["autoscaling"], resources: [horizontalpodautoscalers], verbs: [list]' in warning.text
