"""The commands with which an operator decides: what may go, what stands still, what is whose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from bridge import config, control, journal, state
from bridge.adapter import Change, Sink
from bridge.adopt import plan_adoption, plan_release
from bridge.blocks import Configuration
from bridge.errors import ConfigError
from bridge.inspect import looking
from bridge.link import Link
from bridge.purge import apply_under_lock, plan_purge
from bridge.terminal import (
    FAILED,
    FILE,
    OK,
    OUTPUT,
    Row,
    command,
    duration,
    fail,
    folder,
    load,
    print_holds,
    print_json,
    print_plan,
    print_table,
    who,
)


@command("holds", "isthmus holds isthmus.yaml", "0, 1 no daemon, 2 wrong usage or file")
@FILE
@OUTPUT
def holds(file: Path, output: str) -> int:
    """Lists what the guard holds back. With cause and rule, when it goes, and the id that `approve` takes."""
    rows = control.call(folder(load(file)) / "admin.sock", "holds")
    if output == "json":
        print_json(rows)
    else:
        print_holds(rows)
    return OK


@command(
    "approve",
    "isthmus approve isthmus.yaml 4f2a90c1d3e7 --reason 'decommissioned, CHG-1234'",
    "0, 1 no daemon, or nothing is held under that id (any more), 2 wrong usage or file",
)
@FILE
@click.argument("id")
@click.option("--reason", required=True, help="Kept in the journal.")
@OUTPUT
def approve(file: Path, id: str, reason: str, output: str) -> int:
    """Lets a held set go. Exactly the one that `holds` showed under that id; refused if it has grown."""
    items = control.call(folder(load(file)) / "admin.sock", "approve", id=id, reason=reason)
    if output == "json":
        print_json(items)
    else:
        click.echo(f"approved {len(items)} removals")
    return OK


@command(
    "freeze",
    "isthmus freeze isthmus.yaml inventory-to-core --reason 'maintenance' --for 2h",
    "0, 1 the state folder cannot be written, 2 wrong usage or file",
)
@FILE
@click.argument("link", required=False)
@click.option("--all", "everything", is_flag=True, help="Every link.")
@click.option("--reason", required=True, help="Kept in the journal, and shown by `status`.")
@click.option("--for", "lasting", help="So long, e.g. 2h; else until `unfreeze`.")
@OUTPUT
def freeze(file: Path, link: str | None, everything: bool, reason: str, lasting: str | None, output: str) -> int:
    """Stops the writes of a link. Leases go on. Works without the daemon, survives restart and reload."""
    configuration = load(file)
    key = _link(configuration, link, everything)
    place = folder(configuration)
    state.claim(place, configuration.bridge.id)
    kept = state.State(place)
    kept.freeze(key, reason, who(), None if lasting is None else duration(lasting))
    if kept.freezes.fault is not None:
        fail(f"not frozen: {kept.freezes.fault.reason}", FAILED)
    journal.note(place / "journal", "freeze", link=key, reason=reason, by=who())
    if output == "json":
        print_json({"frozen": key, **msgspec.to_builtins(kept.freezes.entries[key])})
    else:
        click.echo(f"frozen: {_named(key)}")
    return OK


@command(
    "unfreeze",
    "isthmus unfreeze isthmus.yaml inventory-to-core",
    "0, 1 not frozen, or the state folder cannot be written, 2 wrong usage or file",
)
@FILE
@click.argument("link", required=False)
@click.option("--all", "everything", is_flag=True, help="The freeze of every link.")
@OUTPUT
def unfreeze(file: Path, link: str | None, everything: bool, output: str) -> int:
    """Resumes the writes of a link. Shows what is pending: it is planned afresh, under the guard."""
    configuration = load(file)
    key = _link(configuration, link, everything)
    kept = state.State(folder(configuration))
    if key not in kept.freezes.entries:
        frozen = ", ".join(_named(one) for one in kept.freezes.entries) or "nothing"
        fail(f"{_named(key)} is not frozen; {frozen} is", FAILED)
    try:
        pending: Row | None = control.call(folder(configuration) / "admin.sock", "plan")
    except control.NoDaemonError:
        pending = None
    kept.unfreeze(key)
    if kept.freezes.fault is not None:
        fail(f"not unfrozen: {kept.freezes.fault.reason}", FAILED)
    journal.note(folder(configuration) / "journal", "unfreeze", link=key, by=who())
    if output == "json":
        print_json({"unfrozen": key, "pending": pending})
        return OK
    click.echo(f"unfrozen: {_named(key)}")
    if pending is None:
        click.echo(f"no daemon runs; `isthmus plan {file}` shows what is pending")
    else:
        print_plan(pending)
    return OK


def _named(key: str) -> str:
    return "--all" if key == state.EVERY_LINK else key


def _link(configuration: Configuration, link: str | None, everything: bool) -> str:
    if everything == (link is not None):
        raise click.UsageError("name a link, or --all")
    names = {one.name for one in configuration.links}
    if link is not None and link not in names:
        raise ConfigError(f"{link!r} is no link of {configuration.path}; it has {', '.join(sorted(names))}")
    return state.EVERY_LINK if link is None else link


@command(
    "purge",
    "isthmus purge isthmus.yaml core --orphans --yes",
    "0, 1 failed, refused, or all of it was spared, 2 wrong usage or file",
)
@FILE
@click.argument("registry")
@click.option("--link", help="Only what this link wrote.")
@click.option("--orphans", is_flag=True, help="Only what no link of the file leads to.")
@click.option("--owner", help="What another bridge id owns, e.g. one that is gone for good.")
@click.option("--including-last", is_flag=True, help="Also where ours are the only serving entries of a service.")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@OUTPUT
def purge(
    file: Path,
    registry: str,
    link: str | None,
    orphans: bool,
    owner: str | None,
    including_last: bool,
    yes: bool,
    output: str,
) -> int:
    """Removes what this bridge owns at a registry. Shows the plan first; refused while a daemon writes there."""
    configuration = load(file, ephemeral=True)
    if registry not in configuration.registries:
        raise ConfigError(f"{registry!r} is no registry of {file}; it has {', '.join(configuration.registries)}")
    if link is not None and orphans:
        raise click.UsageError("--link and --orphans exclude each other")
    block = configuration.registries[registry]
    whose = owner or configuration.bridge.id
    known = {one.name for one in configuration.links} if orphans else None

    async def work() -> int:
        async with config.adapter(block.kind).create(registry, block.options, None) as opened:
            sink = opened.sink(whose)
            held = await sink.held()
            purged = plan_purge(held, whose, link=link, known_links=known, including_last=including_last)
            rows = [
                {"service": str(one.service), "instance": one.id, "link": one.mark.link if one.mark else ""}
                for one in purged.changes
            ]
            spared = [{"service": str(name), "instances": count} for name, count in purged.spared.items()]
            if output == "table":
                print_table(rows, ("service", "instance", "link"), "nothing to remove")
                for row in spared:
                    click.echo(f"spared: {row['service']}: ours are its only serving entries (--including-last)")
            failed: list[str] = []
            if yes and purged.changes:
                outcomes = await apply_under_lock(sink, purged.changes)
                failed = [f"{one.change.service}/{one.change.id}: {one.error}" for one in outcomes if one.error]
                removed = f"{registry}: {len(outcomes) - len(failed)} entries of {whose} removed"
                _note(configuration, "purge", removed)
            if output == "json":
                print_json({"removes": rows, "spared": spared, "done": yes and not failed, "failed": failed})
            elif rows:
                click.echo("removed" if yes else "nothing was done; --yes does it")
            for text in failed:
                click.echo(f"failed: {text}", err=True)
            return FAILED if failed or (spared and not rows) else OK

    return asyncio.run(work())


def _note(configuration: Configuration, kind: str, what: str, link: str = "") -> None:
    """In the journal of the bridge whose file this is, where it has one."""
    if configuration.bridge.state is not None and (folder := Path(configuration.bridge.state) / "journal").is_dir():
        journal.note(folder, kind, link=link, by=who(), reason=what)


@command(
    "adopt",
    "isthmus adopt isthmus.yaml inventory-to-core --owner old-bridge --yes",
    "0, 1 failed, refused, or a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("link")
@click.option("--owner", help="What this bridge id copied from the link's sources; without: natives that are equal.")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@OUTPUT
def adopt(file: Path, link: str, owner: str | None, yes: bool, output: str) -> int:
    """Takes entries over in place. Nothing is removed; refused while a daemon of either owner writes there."""
    configuration = load(file, ephemeral=True)
    chosen = _lasting(configuration, link)
    if owner == configuration.bridge.id:
        raise click.UsageError(f"{owner} is this bridge itself")

    async def work() -> int:
        async with looking(configuration) as (engine, _):
            silent = {name: why for name, why in engine.unreached().items() if name in (chosen.to, *chosen.from_)}
            for name, why in silent.items():
                click.echo(f"out of reach: {name}: {why}", err=True)
            if silent:
                return FAILED
            sink, desk = engine.reconcilers[chosen.to].sink, engine.reconcilers[chosen.to].desk
            sources = [(name, view.identity) for name in chosen.from_ for view in engine.store.views(name)]
            found = plan_adoption(desk, chosen, owner, sources, namespaces=sink.traits.namespaces)
            left = [{"service": str(one.service), "instance": one.id, "left": one.why} for one in found.left]
            others = [engine.registries[chosen.to].sink(owner)] if owner is not None else []
            return await _hand_over(configuration, link, "adopt", sink, found.changes, others, yes, output, left)

    return asyncio.run(work())


@command(
    "release",
    "isthmus release isthmus.yaml inventory-to-core --yes",
    "0, 1 failed or refused, 2 wrong usage or file",
)
@FILE
@click.argument("link")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@OUTPUT
def release(file: Path, link: str, yes: bool, output: str) -> int:
    """Lets go of what a link wrote, and leaves it there. It is nobody's then, and nobody's to remove."""
    configuration = load(file, ephemeral=True)
    chosen = _lasting(configuration, link)
    block = configuration.registries[chosen.to]

    async def work() -> int:
        async with config.adapter(block.kind).create(chosen.to, block.options, None) as opened:
            sink = opened.sink(configuration.bridge.id)
            changes = plan_release(await sink.held(), configuration.bridge.id, link)
            return await _hand_over(configuration, link, "release", sink, changes, [], yes, output, [])

    return asyncio.run(work())


def _lasting(configuration: Configuration, name: str) -> Link:
    """The link; what dies with a daemon cannot be handed over while none runs."""
    _link(configuration, name, False)
    link = next(link for link in configuration.links if link.name == name)
    if link.ttl is not None:
        raise ConfigError(f"{name} is leased: its entries would end with this command; make it lasting for this")
    return link


async def _hand_over(
    configuration: Configuration,
    link: str,
    what: str,
    sink: Sink,
    changes: list[Change],
    others: Sequence[Sink],
    yes: bool,
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
        outcomes = await apply_under_lock(sink, changes, *others)
        failed = [f"{one.change.service}/{one.change.id}: {one.error}" for one in outcomes if one.error]
        _note(configuration, "handover", f"{what}: {len(outcomes) - len(failed)} entries", link)
    if output == "json":
        print_json({what: rows, "left": left, "done": yes and not failed, "failed": failed})
    elif rows:
        click.echo("done" if yes else "nothing was done; --yes does it")
    for text in failed:
        click.echo(f"failed: {text}", err=True)
    return FAILED if failed else OK
