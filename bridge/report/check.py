"""What a configuration meets in the world: who answers, what is lost in translation, which names meet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import msgspec

from bridge.adapter import Reach
from bridge.config import groups
from bridge.config.links import beyond, layout_of, pair_of
from bridge.config.schema import Configuration
from bridge.consumers import consumers_of
from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.errors import Denied, IsthmusError, Rejected
from bridge.link import Link
from bridge.model import Instance, Service, ServiceName
from bridge.plan.route import as_sent, target_of
from bridge.report.groups import ANSWERS
from bridge.report.plans import unwritten_rows
from bridge.report.status import withdrawn
from bridge.report.unreadable import unreadable_rows
from bridge.report.values import FIELDS, Row
from bridge.shards import Divided
from bridge.sources.scrub import lost, written_by
from bridge.sources.view import View


async def check(engine: Engine) -> dict[str, list[Row]]:
    """Who answers, what we may do there; what each link loses in translation, and which names meet at its target."""
    reached = await engine.reach()
    registries = [_registry(engine, name, answer) for name, answer in reached.items()]
    for row in registries:
        await _groups(engine, row)
    links: list[Row] = []
    names: list[Row] = []
    for reconciler in engine.reconcilers.values():
        for link in reconciler.destination.links:
            links.append(_losses(engine, reconciler, link))
            names += _meetings(engine, reconciler, link.name)
    parked = [row for row in unwritten_rows(engine) if row["state"] == "parked"]
    unreadable = await unreadable_rows(engine)
    return {"registries": registries, "links": links, "names": names, "parked": parked, "unreadable": unreadable}


def _registry(engine: Engine, name: str, answer: Reach | Exception) -> Row:
    """Who answers, what we may do there, and what is odd about what it holds."""
    views = list(engine.store.views(name))
    ignored = {key: why for source in engine.sources(name) for key, why in source.ignored.items()}
    row: Row = {
        "registry": name,
        "kind": engine.configuration.registries[name].kind,
        "services": sum(len(view.services) for view in views),
        "ignored": len(ignored),
        "unreadable": sum(view.unread for view in views),
        "left_out": sum(view.left_out for view in views),
        "foreign": dict(Counter(tool for view in views for tool in _tools(view))),
        "consumers": [one._asdict() for one in consumers_of(layout_of(engine.configuration.registries[name]))],
    }
    if isinstance(answer, Reach):
        row |= {
            "reached": True,
            "version": answer.version,
            "identity": answer.identity,
            "may_read": answer.may_read,
            "may_write": answer.may_write,
            "notes": list(answer.notes),
            "rights": [msgspec.to_builtins(one) for one in answer.rights],
            "limits": list(answer.limits),
            "unnamed": list(answer.unnamed),
        }
    else:
        row |= {"reached": False, "notes": [str(answer) or "no answer within 10 s"]}
    unroutable = [(at, why) for view in views for at, why in view.unroutable.items()]
    row["unroutable"] = len(unroutable)
    for (service, id), why in unroutable[:1]:
        count = f"{len(unroutable)} addresses" if len(unroutable) > 1 else "1 address"
        row["notes"].append(f"warning: {count} that no other host can dial, e.g. of {service}/{id}: {why}")
    row["notes"] += [f"unreadable {key}: {why}" for key, why in list(ignored.items())[:3]]
    return row


async def _groups(engine: Engine, row: Row) -> None:
    """Whether a daemon may be a member of the groups that are kept beside a stream, and what is odd about them."""
    configuration, stream = engine.configuration, engine.registries[row["registry"]]
    if configuration.bridge.group is None or not row["reached"] or not isinstance(stream, Divided):
        return
    for name in dict.fromkeys(link.to for link in configuration.links):
        if groups.stream_of(name, configuration.links, engine.registries) != row["registry"]:
            continue
        group = groups.group_of(configuration.bridge, name)
        may: bool | None = True
        try:
            async with asyncio.timeout(ANSWERS):
                row["notes"] += await stream.membership(group, "check").notes()
        except Denied as error:
            may = False
            row["notes"].append(f"warning: {error}")
        except (IsthmusError, TimeoutError) as error:
            may = None
            row["notes"].append(f"group {group}: {str(error) or 'no answer'}")
        row["rights"].append({"verb": f"be a member of {group}", "may": may})


def _tools(view: View) -> Iterator[str]:
    """The synchroniser of each instance that one wrote."""
    for service in view.services.values():
        for instance in service.instances.values():
            if tool := written_by(instance):
                yield tool


def _sent(engine: Engine, reconciler: Reconciler, link_name: str) -> list[tuple[ServiceName, Service, str]]:
    """Each service that a link sends, with its name at the target before it, and its registry after it."""
    link = next(link for link in reconciler.destination.links if link.name == link_name)
    found = []
    for view in engine.store.views():
        if link.item(view.registry, view.scope) is None:
            continue
        for name, service in view.services.items():
            target, _ = target_of(link, view.registry, name, reconciler.sink.traits)
            if target is not None:
                found.append((target, service, view.registry))
    return found


def _losses(engine: Engine, reconciler: Reconciler, link: Link) -> Row:
    """What the target cannot hold of what is there now, by field, and how many it refuses."""
    losses: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    instances = 0
    registries = engine.configuration.registries
    for target, service, source in _sent(engine, reconciler, link.name):
        for instance in service.instances.values():
            instances += 1
            sent = as_sent(link, instance, reconciler.sink.traits)
            if instance.ports and not sent.ports:
                refused[f"no port {link.port!r}"] += 1
                continue
            try:
                form = reconciler.sink.canonical(target, sent)
            except Rejected as error:
                refused[str(error)] += 1
                continue
            # The ports that the link does not choose are nobody's loss.
            losses.update(_lost(msgspec.structs.replace(instance, ports=sent.ports), form))
            losses.update(lost(instance, reconciler.sink.traits))
            if text := beyond(registries[source], registries[link.to], instance):
                losses[text] += 1
    return {
        "link": link.name,
        "to": reconciler.name,
        "pair": pair_verdicts(engine.configuration, link.name),
        "instances": instances,
        "lost": dict(losses),
        "refused": dict(refused),
        "withdrawn": withdrawn(reconciler, link.name),
    }


def pair_verdicts(configuration: Configuration, name: str) -> dict[str, str]:
    """What the table of pairs says of the layouts that a link joins, by source."""
    link = next(link for link in configuration.links if link.name == name)
    found = {}
    for source in sorted(link.registries):
        pair = pair_of(configuration.registries[source], configuration.registries[link.to])
        if pair is not None:
            found[source] = pair.verdict + (f": {', '.join(pair.lost)}" if pair.lost else "")
    return found


def _lost(instance: Instance, form: Instance) -> list[str]:
    return [field for field in FIELDS if getattr(instance, field) != getattr(form, field)]


def _meetings(engine: Engine, reconciler: Reconciler, link: str) -> list[Row]:
    """The names that natives hold at the target as well, and how the two sets of addresses lie."""
    rows = []
    for target, service, _ in _sent(engine, reconciler, link):
        entries = reconciler.destination.entries.get(target, {}).values()
        natives = [entry.instance for entry in entries if entry.mark is None]
        if not natives:
            continue
        ours = {socket for instance in service.instances.values() for socket in instance.sockets()}
        theirs = {socket for instance in natives for socket in instance.sockets()}
        protocols = [{p.protocol for i in group for p in i.ports} for group in (service.instances.values(), natives)]
        relation = "same addresses" if ours == theirs else "overlapping" if ours & theirs else "disjoint"
        if all(protocols) and not protocols[0] & protocols[1]:
            relation = "other protocol"
        rows.append({"link": link, "service": str(service.name), "at_target": str(target), "relation": relation})
    return rows
