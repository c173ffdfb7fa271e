"""Which services go where, under which name, merged how: pure, from links and what their sources hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from bridge.adapter import Cause
from bridge.echo import ECHO, Written
from bridge.errors import Rejected
from bridge.link import Link, Unhealthy, glob
from bridge.model import Instance, Mark, Port, Service, ServiceName, Traits
from bridge.secrets import without_tool, written_by

Canonical = Callable[[ServiceName, Instance], Instance]


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """One entry that a destination should hold: in its own canonical form, and what the ledger will say of it.

    `source` is the instance as its source has it: while it is the very same object, nothing need be worked out again.
    """

    source: Instance
    instance: Instance
    mark: Mark


class Refusal(NamedTuple):
    """Why an instance is not wanted at a destination. `parked`: an operator should look at it."""

    reason: str
    cause: Cause
    parked: bool = False


class Supply(NamedTuple):
    """One scope's word on one service, as it feeds a target name.

    `follows`: also what other synchronisers wrote. `written`: where this bridge carries on what the target holds.
    """

    link: Link
    registry: str
    scope: str
    identity: str
    service: Service
    follows: bool = False
    written: tuple[Written, ...] = ()


class Desired(NamedTuple):
    """What a destination should hold under one name: entries by their id there, and who was refused, and why.

    `refused` is keyed by (registry, scope, service, instance id). `parked`: why nothing may change, "" if it may.
    """

    wanted: dict[str, Wanted]
    refused: dict[tuple[str, str, ServiceName, str], Refusal]
    parked: str = ""


def rename(link: Link, registry: str, name: ServiceName) -> str:
    """The name at the target."""
    return link.rename.format(namespace=name.namespace, name=name.name, registry=registry)


def target_of(link: Link, registry: str, name: ServiceName, namespaces: bool) -> tuple[ServiceName | None, str]:
    """The name at the target, None where the link does not take that service; and the rule that decided."""
    goes, rule = link.services.rule(name)
    if not goes:
        return None, rule
    return ServiceName(rename(link, registry, name), name.namespace if namespaces else ""), rule


def desired(
    name: ServiceName,
    supplies: Sequence[Supply],
    owner: str,
    identity: str,
    traits: Traits,
    canonical: Canonical,
    known: dict[str, Wanted],
) -> Desired:
    """What the destination with that identity should hold under one name, from all that feeds it.

    `known` is the last answer for the same name: what has not changed since is taken from it.
    The supplies come in the order of each link's `from` list: the first named wins a merge.
    """
    clash = collision(supplies)
    if clash:
        return Desired({}, {}, clash)
    wanted: dict[str, Wanted] = {}
    refused: dict[tuple[str, str, ServiceName, str], Refusal] = {}
    merge = Merge() if len(supplies) > 1 else None
    remembered = {id(old.source): old for old in known.values()}
    for supply in supplies:
        service = supply.service
        # Where nothing but the instance and the link decides, the same instance has the same answer as before.
        settled = merge is None and not (service.marks or supply.written) and supply.identity != identity
        for key, instance in service.instances.items():
            old = known.get(key) if settled else None
            if old is not None and old.source is instance and _is_as_before(old.mark, supply, key, instance):
                wanted[key] = old
                continue
            at = (supply.registry, supply.scope, service.name, key)
            refusal = _refusal(supply, service, key, instance, identity, traits)
            if refusal is not None:
                refused[at] = refusal
                continue
            entry = instance
            if merge is not None:
                verdict = merge.take(supply.registry, instance)
                if isinstance(verdict, Refusal):
                    refused[at] = verdict
                    continue
                entry = verdict
            old = remembered.get(id(entry))
            if old is not None and old.mark.instance == key and old.mark.path[-1] == supply.identity:
                if service.marks or old.mark.link != supply.link.name or len(old.mark.path) > 1:
                    old = Wanted(old.source, old.instance, _mark(supply, owner, key))
                wanted[old.instance.id] = old
                continue
            try:
                form = canonical(name, without_tool(_one_port(supply.link, entry, traits)))
            except Rejected as error:
                refused[at] = Refusal(str(error), Cause.CONFIG, parked=True)
                continue
            if form.id in wanted:
                refused[at] = Refusal(f"another instance is written as {form.id} already", Cause.EVENT, parked=True)
                continue
            wanted[form.id] = Wanted(entry, form, _mark(supply, owner, key))
    return Desired(wanted, refused)


def collision(supplies: Iterable[Supply]) -> str:
    """Why these supplies must not meet under one target name, "" if they may."""
    links = {supply.link.name for supply in supplies}
    if len(links) > 1:
        return f"two links send this name: {', '.join(sorted(links))}; let one of them rename or exclude it"
    names = {supply.service.name for supply in supplies}
    if len(names) > 1:
        return (
            f"collision: {', '.join(sorted(map(str, names)))} meet under one name; "
            'tell them apart by rename, e.g. "{namespace}-{name}"'
        )
    return ""


class Merge:
    """Union of what several registries hold of one service: the registry named first wins an instance whole."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[str, int], str] = {}
        self._ids: dict[str, str] = {}
        self._protocols: dict[str, tuple[str, str]] = {}

    def take(self, registry: str, instance: Instance) -> Instance | Refusal:
        """The instance under its merged id, or why it is left out."""
        sockets = instance.sockets()
        for socket in sockets:
            winner = self._sockets.get(socket, registry)
            if winner != registry:
                return Refusal(f"merged: {winner} has {socket[0]}:{socket[1]} and is named first", Cause.REPLACED)
        for port in instance.ports:
            first, protocol = self._protocols.get(port.name, (registry, port.protocol))
            if protocol != port.protocol:
                return Refusal(
                    f"port {port.name!r} speaks {port.protocol or 'an unnamed protocol'} here, "
                    f"{protocol or 'an unnamed one'} in {first}",
                    Cause.CONFIG,
                    parked=True,
                )
        for port in instance.ports:
            self._protocols.setdefault(port.name, (registry, port.protocol))
        self._sockets.update(dict.fromkeys(sockets, registry))
        if self._ids.setdefault(instance.id, registry) != registry:
            return msgspec.structs.replace(instance, id=f"{instance.id}-{registry}")
        return instance


def _refusal(
    supply: Supply, service: Service, key: str, instance: Instance, identity: str, traits: Traits
) -> Refusal | None:
    link = supply.link
    mark = service.marks.get(key)
    if supply.identity == identity or (mark is not None and identity in mark.path):
        return Refusal("it has been in this registry: an echo", Cause.CONFIG)
    if instance.native and mark is None and not supply.follows and (tool := written_by(instance)):
        return Refusal(f"{tool} wrote it, and foreign_sync of {supply.registry} is ignore", Cause.CONFIG)
    if mark is None:
        for written in supply.written:
            if place := written.echo(instance, identity, supply.identity):
                return Refusal(f"{ECHO}{place}; {supply.registry} has it unmarked", Cause.CONFIG, parked=True)
    if link.where:
        for field, pattern in link.where.items():
            if not glob(pattern, instance.metadata.get(field, "")):
                return Refusal(f"where {field}: {pattern!r}, it is {instance.metadata.get(field)!r}", Cause.CONFIG)
    if not instance.serving and (not traits.has_health or link.unhealthy is Unhealthy.WITHDRAW):
        why = "the link withdraws" if traits.has_health else "the target has no health"
        return Refusal(f"{instance.health}, and {why}", Cause.HEALTH)
    if link.port is None and traits.ports and len(instance.ports) > traits.ports:
        names = ", ".join(port.name or str(port.number) for port in instance.ports)
        return Refusal(f"ambiguous port: {names}; name one by port:", Cause.CONFIG, parked=True)
    if link.port is not None and _chosen(link.port, instance.ports) is None:
        return Refusal(f"no port {link.port!r}", Cause.CONFIG, parked=True)
    return None


def _chosen(port: str | int, ports: tuple[Port, ...]) -> Port | None:
    return next((one for one in ports if port in (one.name, one.number)), None)


def _one_port(link: Link, instance: Instance, traits: Traits) -> Instance:
    if link.port is None or len(instance.ports) == 1:
        return instance
    chosen = _chosen(link.port, instance.ports)
    # The record as it was written speaks of all its ports, so it is no longer the record of this instance.
    return msgspec.structs.replace(instance, ports=(chosen,) if chosen else (), native={})


def _is_as_before(mark: Mark, supply: Supply, key: str, instance: Instance) -> bool:
    return (
        mark.instance == key
        and mark.link == supply.link.name
        and mark.path == (supply.identity,)
        and (not instance.native or supply.follows)
    )


def _mark(supply: Supply, owner: str, key: str) -> Mark:
    service = supply.service
    before = service.marks.get(key)
    path = _path(before.path if before else (), supply.identity)
    return Mark(owner, supply.link.name, path, supply.scope, service.name, key)


@lru_cache(maxsize=1024)
def _path(before: tuple[str, ...], identity: str) -> tuple[str, ...]:
    """One registry more; one object for all that came the same way."""
    return (*before, identity)
