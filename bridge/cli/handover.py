"""The commands that remove, take over or give up what a bridge owns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from bridge.adapter import Change, Held, Seat, Sink
from bridge.cli.file import known_registry, load
from bridge.cli.offline import looking
from bridge.cli.operate import link_key
from bridge.cli.output import (
    ATTENTION,
    BY,
    FAILED,
    FILE,
    OK,
    OUTPUT,
    Row,
    command,
    print_json,
    print_table,
    say,
    who,
)
from bridge.cli.permitted import permitted
from bridge.cli.steered import may_have, refusals, steered
from bridge.config.schema import Configuration
from bridge.engine.opening import Opened, opened
from bridge.errors import ConfigError
from bridge.link import Link
from bridge.plan.adopt import plan_adoption, plan_release
from bridge.plan.purge import Purge, apply_under_lock, plan_purge
from bridge.state import segments


@command(
    "purge",
    "isthmus purge core --orphans --yes",
    "0, 1 failed, refused, or all of it was spared, 3 some of it was spared, 2 wrong usage or file",
)
@FILE
@click.argument("registry")
@click.option("--link", help="Only what this link wrote.")
@click.option("--orphans", is_flag=True, help="Only what no link of the file leads to.")
@click.option("--owner", help="What another bridge id owns, e.g. one that is gone for good.")
@click.option("--including-last", is_flag=True, help="Also where ours are the only serving entries of a service.")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@BY
@OUTPUT
def purge(
    file: Path | None,
    registry: str,
    link: str | None,
    orphans: bool,
    owner: str | None,
    including_last: bool,
    yes: bool,
    by: str | None,
    output: str,
) -> int:
    """Removes what this bridge owns at a registry. Shows the plan first; refused while a daemon writes there."""
    configuration = load(file, ephemeral=True)
    if link is not None and orphans:
        raise click.UsageError("--link and --orphans exclude each other")
    known_registry(configuration, registry)
    if yes:
        permitted(configuration, "purge", by)
    whose = owner or configuration.bridge.id
    known = {one.name for one in configuration.links} if orphans else None

    async def work() -> int:
        async with opened(configuration, registry, whose) as target:
            held = await target.registry.sink(whose).held()
            purged = plan_purge(held, whose, link=link, known_links=known, including_last=including_last)
            if output == "table":
                _print_purge(purged)
            failed: list[str] = []
            leaves = link is None and not orphans and not purged.spared
            if yes and (purged.changes or leaves):
                failed = await remove(configuration, "purge", registry, whose, target, purged, by, leaves=leaves)
            stays = _stays(whose, held, purged, failed, leaves=leaves and yes)
            return _say_purged(registry, purged, failed, yes, output, stays)

    return asyncio.run(work())


async def remove(
    configuration: Configuration,
    kind: str,
    registry: str,
    whose: str,
    target: Opened,
    purged: Purge,
    by: str | None,
    *,
    leaves: bool,
) -> list[str]:
    """Removes what is planned as the one writer of that bridge, and (`leaves`) then all else that it keeps there.

    Journaled before and after as `kind`. Returns what failed. Raises Unavailable while a daemon holds the lock.
    """
    is_asked = whose == configuration.bridge.id and may_have(configuration, registry, target.registry)
    if is_asked and (out := await steered(configuration, registry)):
        return refusals(out)
    _note(configuration, kind, f"{registry}: {len(purged.changes)} entries of {whose} are to be removed", by, registry)
    outcomes = await apply_under_lock(target.registry.sink(whose), target.seat, purged.changes, leave=leaves)
    failed = [f"{one.change.service}/{one.change.id}: {one.error}" for one in outcomes if one.error]
    removed = len(outcomes) - len(failed)
    _note(configuration, kind, f"{registry}: {removed} entries of {whose} removed", by, registry)
    return failed


def _purge_rows(purged: Purge) -> tuple[list[Row], list[Row]]:
    """What goes, and what is spared."""
    goes: list[Row] = [
        {"service": str(one.service), "instance": one.id, "link": one.mark.link if one.mark else ""}
        for one in purged.changes
    ]
    return goes, [{"service": str(name), "instances": count} for name, count in purged.spared.items()]


def _print_purge(purged: Purge) -> None:
    goes, spared = _purge_rows(purged)
    print_table(goes, ("service", "instance", "link"), "nothing to remove")
    for row in spared:
        say(f"spared: {row['service']}: ours are its only serving entries (--including-last)")


def _stays(whose: str, held: Held, purged: Purge, failed: list[str], *, leaves: bool) -> list[Row]:
    """What is still there when all is done, and why."""
    gone = {(one.service, one.id) for one in purged.changes}
    left = [
        entry.mark.owner
        for name, entries in held.services.items()
        for id, entry in entries.items()
        if entry.mark is not None and (name, id) not in gone
    ]
    stays = []
    others = len(left) - left.count(whose)
    if others:
        stays.append({"what": f"{others} entries of other bridges", "why": f"only {whose} is purged"})
    spared = sum(purged.spared.values())
    if spared:
        why = "they are the only serving entries of their services (--including-last)"
        stays.append({"what": f"{spared} entries", "why": why})
    if more := left.count(whose) - spared:
        stays.append({"what": f"{more} entries", "why": "they are not what --link or --orphans means"})
    if failed or not leaves:
        stays.append({"what": f"note and lock of {whose}", "why": "it may own something here still"})
    return stays


def _say_purged(registry: str, purged: Purge, failed: list[str], yes: bool, output: str, stays: list[Row]) -> int:
    goes, spared = _purge_rows(purged)
    if output == "json":
        print_json({"removes": goes, "spared": spared, "done": yes and not failed, "failed": failed, "stays": stays})
    elif yes:
        say(f"{len(goes) - len(failed)} entries removed from {registry}")
        for row in stays:
            say(f"stays: {row['what']}: {row['why']}")
    elif goes:
        say("nothing was done; --yes does it")
    for text in failed:
        say(f"failed: {text}", err=True)
    if failed or (spared and not goes):
        return FAILED
    return ATTENTION if spared and yes else OK


def _note(configuration: Configuration, kind: str, what: str, by: str | None, to: str, link: str = "") -> None:
    """In the journal of the bridge whose file this is, where it has one; raises Unavailable where the disk refuses.

    Written before the command acts as well: what cannot be recorded is not done.
    """
    if configuration.bridge.state is not None and (folder := Path(configuration.bridge.state) / "journal").is_dir():
        segments.note(folder, kind, link=link, destination=to, by=who(by), reason=what)


@command(
    "adopt",
    "isthmus adopt inventory-to-core --owner old-bridge --yes",
    "0, 1 failed, refused, or a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("link")
@click.option("--owner", help="What this bridge id copied from the link's sources; without: natives that are equal.")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@BY
@OUTPUT
def adopt(file: Path | None, link: str, owner: str | None, yes: bool, by: str | None, output: str) -> int:
    """Takes entries over in place. Nothing is removed; refused while a daemon of either owner writes there."""
    configuration = load(file, ephemeral=True)
    chosen = _lasting(configuration, link)
    if owner == configuration.bridge.id:
        raise click.UsageError(f"{owner} is this bridge itself")
    if yes:
        permitted(configuration, "adopt", by)

    async def work() -> int:
        async with looking(configuration) as (engine, _):
            silent = {
                name: why
                for name, why in engine.unreached().items()
                if name in (chosen.to, *chosen.from_, *chosen.registries)
            }
            for name, why in silent.items():
                say(f"out of reach: {name}: {why}", err=True)
            if silent:
                return FAILED
            sink, destination = engine.reconcilers[chosen.to].sink, engine.reconcilers[chosen.to].destination
            sources = [
                (view.registry, view.identity)
                for view in engine.store.views()
                if chosen.item(view.registry, view.scope) is not None
            ]
            found = plan_adoption(
                destination.entries,
                lambda name: destination.plan(name)[0].wanted,
                destination.owner,
                chosen,
                owner,
                sources,
                traits=sink.traits,
            )
            left = [{"service": str(one.service), "instance": one.id, "left": one.why} for one in found.left]
            theirs = engine.seat(chosen.to, owner) if owner is not None else None
            seats = engine.reconcilers[chosen.to].seat, [theirs] if theirs is not None else []
            return await _hand_over(configuration, link, "adopt", sink, *seats, found.changes, yes, by, output, left)

    return asyncio.run(work())


@command(
    "release",
    "isthmus release inventory-to-core --yes",
    "0, 1 failed or refused, 2 wrong usage or file",
)
@FILE
@click.argument("link")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@BY
@OUTPUT
def release(file: Path | None, link: str, yes: bool, by: str | None, output: str) -> int:
    """Lets go of what a link wrote, and leaves it there. It is nobody's then, and nobody's to remove."""
    configuration = load(file, ephemeral=True)
    chosen = _lasting(configuration, link)
    if yes:
        permitted(configuration, "release", by)

    async def work() -> int:
        async with opened(configuration, chosen.to, configuration.bridge.id) as (target, seat, *_):
            sink = target.sink(configuration.bridge.id)
            changes = plan_release(await sink.held(), configuration.bridge.id, link)
            return await _hand_over(configuration, link, "release", sink, seat, [], changes, yes, by, output, [])

    return asyncio.run(work())


def _lasting(configuration: Configuration, name: str) -> Link:
    """The link; what dies with a daemon cannot be handed over while none runs."""
    link_key(configuration, name, False)
    link = next(link for link in configuration.links if link.name == name)
    if link.ttl is not None:
        raise ConfigError(f"{name} is leased: its entries would end with this command; make it lasting for this")
    return link


async def _hand_over(
    configuration: Configuration,
    link: str,
    what: str,
    sink: Sink,
    seat: Seat | None,
    others: Sequence[Seat],
    changes: list[Change],
    yes: bool,
    by: str | None,
    output: str,
    left: list[Row],
) -> int:
    """Shows the plan, and does it under the locks of all who might write there."""
    rows = [
        {
            "service": str(one.service),
            "instance": one.id,
            "owner": one.before.mark.owner if one.before and one.before.mark else "",
        }
        for one in changes
    ]
    if output == "table":
        columns = ("service", "instance", "owner", *(("left",) if left else ()))
        print_table([*rows, *left], columns, f"nothing to {what}")
    failed: list[str] = []
    if yes and changes:
        to = next(one.to for one in configuration.links if one.name == link)
        _note(configuration, "handover", f"{what}: {len(changes)} entries are to change hands", by, to, link)
        outcomes = await apply_under_lock(sink, seat, changes, *others)
        failed = [f"{one.change.service}/{one.change.id}: {one.error}" for one in outcomes if one.error]
        _note(configuration, "handover", f"{what}: {len(outcomes) - len(failed)} entries", by, to, link)
    if output == "json":
        print_json({what: rows, "left": left, "done": yes and not failed, "failed": failed})
    elif rows:
        say("done" if yes else "nothing was done; --yes does it")
    for text in failed:
        say(f"failed: {text}", err=True)
    return FAILED if failed else OK
