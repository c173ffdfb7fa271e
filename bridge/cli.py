"""The command `isthmus`: one function a command, tables for people, JSON for runbooks, exit codes for both."""

from __future__ import annotations

import asyncio
import functools
import getpass
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from bridge import __version__, config, control, journal, show, state
from bridge.adapter import Change, Reach, Sink
from bridge.adopt import plan_adoption, plan_release
from bridge.blocks import Configuration
from bridge.document import seconds
from bridge.errors import ConfigError, IsthmusError
from bridge.inspect import check as check_all
from bridge.inspect import looking, pending, unreached
from bridge.link import Link
from bridge.log import configure
from bridge.model import LEDGER_FORMAT, ServiceName
from bridge.purge import apply_under_lock, plan_purge

OK, FAILED, WRONG, ATTENTION = 0, 1, 2, 3

Row = dict[str, Any]


class Group(click.Group):
    """Commands in the order of the work, and errors as exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are defined."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Every error that is no bug is one line on standard error and an exit code."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _fail("\n".join(error.faults), WRONG)
        except IsthmusError as error:
            _fail(str(error) or type(error).__name__, FAILED)


def _fail(text: str, code: int) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(code)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Joins service registries: keeps them in step, shows what it would do and why, and never deletes what is alive."""


def command(name: str, example: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command with an example in its help, whose return value is the exit code."""

    def wrap(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            sys.exit(function(*args, **kwargs) or OK)

        return main.command(name, epilog=f"Example:  {example}")(run)

    return wrap


FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
OUTPUT = click.option(
    "-o", "output", type=click.Choice(["table", "json"]), default="table", help="For people, or JSON."
)


def _load(file: Path, *, ephemeral: bool = False) -> Configuration:
    configuration = config.load(file, ephemeral=ephemeral)
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}", err=True)
    return configuration


def _folder(configuration: Configuration) -> Path:
    if configuration.bridge.state is None:
        raise ConfigError(f"{configuration.path}: bridge.state is missing; this command needs it")
    return Path(configuration.bridge.state)


def _json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def _table(rows: Sequence[Row], columns: Sequence[str], empty: str = "") -> None:
    """Columns as wide as their widest cell; the last one runs free."""
    if not rows:
        if empty:
            click.echo(empty)
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    heads = [column.upper().replace("_", " ") for column in columns]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(columns))]
    for line in [heads, *cells]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
    if isinstance(value, dict):
        return " ".join(f"{key}={one}" for key, one in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "-"
    return str(value)


# -- running and looking ---------------------------------------------------------------------------------------------


@command("run", "isthmus run /etc/isthmus/isthmus.yaml")
@FILE
@click.option(
    "--once", is_flag=True, help="Until every link is in step, then stop; exit 3 if anything is held or parked."
)
@click.option("--ephemeral", is_flag=True, help="Without a state folder: nothing is remembered over a restart.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info")
def run(file: Path, once: bool, ephemeral: bool, log_level: str) -> int:
    """The daemon."""
    from bridge import daemon  # the other commands start faster without it

    configure(log_level)
    return daemon.start(file, once=once, ephemeral=ephemeral)


@command("check", "isthmus check isthmus.yaml -o json")
@FILE
@OUTPUT
def check(file: Path, output: str) -> int:
    """Validates the file, reaches every registry, and says what each link will lose and which names meet."""
    configuration = _load(file, ephemeral=True)

    async def work() -> tuple[dict[str, list[Row]], bool]:
        async with looking(configuration) as (engine, _):
            found = await check_all(engine)
            return found, all(row["reached"] for row in found["registries"])

    found, whole = asyncio.run(work())
    if output == "json":
        _json(found)
    else:
        _table(
            [{**row, "notes": "; ".join(row["notes"])} for row in found["registries"]],
            (
                "registry",
                "kind",
                "reached",
                "version",
                "may_read",
                "may_write",
                "services",
                "ignored",
                "left_out",
                "foreign",
                "identity",
                "notes",
            ),
        )
        click.echo()
        _table(found["links"], ("link", "to", "pair", "instances", "lost", "refused"))
        if found["names"]:
            click.echo()
            _table(found["names"], ("link", "service", "at_target", "relation"))
        if found["parked"]:
            click.echo()
            _table(found["parked"], ("to", "service", "instance", "reason"))
    return OK if whole else FAILED


@command("plan", "isthmus plan isthmus.yaml")
@FILE
@click.option("--running", is_flag=True, help="What reloading this file into the running daemon would change.")
@OUTPUT
def plan(file: Path, running: bool, output: str) -> int:
    """What `run` would change, and what would be held and why; changes nothing."""
    configuration = _load(file, ephemeral=True)
    edits = _edits(configuration) if running else []

    async def work() -> tuple[dict[str, list[Row]], list[str]]:
        async with looking(configuration) as (engine, _):
            return pending(engine), unreached(engine)

    found, missing = asyncio.run(work())
    if output == "json":
        _json({**found, "unreached": missing, **({"file": edits} if running else {})})
    else:
        if running:
            _table(edits, ("what", "name", "change"), "the file says what already runs")
            click.echo()
        _print_plan(found)
    for text in missing:
        click.echo(f"out of reach: {text}", err=True)
    if missing:
        return FAILED
    return ATTENTION if found["changes"] or edits else OK


def _edits(configuration: Configuration) -> list[Row]:
    now = control.call(_folder(configuration) / "admin.sock", "configuration")
    links = {link.name: json.loads(msgspec.json.encode(link)) for link in configuration.links}  # as the daemon sends it
    registries = {name: one.digest for name, one in configuration.registries.items()}
    rows = []
    for what, new, old in (("link", links, now["links"]), ("registry", registries, now["registries"])):
        for name in sorted(new.keys() | old.keys()):
            if name not in old:
                rows.append({"what": what, "name": name, "change": "added"})
            elif name not in new:
                rows.append({"what": what, "name": name, "change": "gone; its entries become orphans"})
            elif new[name] != old[name]:
                rows.append({"what": what, "name": name, "change": "changed"})
    return rows


def _print_plan(found: dict[str, list[Row]]) -> None:
    rows = [{**row, "after": _brief(row["after"]), "before": _brief(row["before"])} for row in found["changes"]]
    _table(rows, ("action", "link", "service", "instance", "cause", "before", "after", "held"), "nothing to change")
    if found["holds"]:
        click.echo()
        _print_holds(found["holds"])
    if found["not_written"]:
        click.echo()
        _table(found["not_written"], ("state", "to", "service", "instance", "reason"))


def _brief(instance: Row | None) -> str:
    if not instance:
        return "-"
    ports = ",".join(str(port["number"]) for port in instance.get("ports", []))
    health = instance.get("health", "")
    return f"{instance['address']}:{ports}" + (f" {health}" if health else "")


@command("diff", "isthmus diff isthmus.yaml inventory core")
@FILE
@click.argument("a")
@click.argument("b")
@OUTPUT
def diff(file: Path, a: str, b: str, output: str) -> int:
    """Compares two registries in the common model, leaving out what the second cannot express; 0 equal, 3 different."""
    configuration = _load(file, ephemeral=True)
    for name in (a, b):
        if name not in configuration.registries:
            raise ConfigError(f"{name!r} is no registry of {file}; it has {', '.join(configuration.registries)}")

    async def work() -> tuple[list[Row], list[str]]:
        async with looking(configuration) as (engine, _):
            return show.diff_rows(engine, a, b), [text for text in unreached(engine) if text.split(":")[0] in (a, b)]

    rows, missing = asyncio.run(work())
    for text in missing:
        click.echo(f"out of reach: {text}", err=True)
    if missing:
        return FAILED
    if output == "json":
        _json(rows)
    else:
        _table(rows, ("service", "instance", "difference", "field", "left", "right"), "equal")
    return ATTENTION if rows else OK


@command("services", "isthmus services isthmus.yaml")
@FILE
@OUTPUT
def services(file: Path, output: str) -> int:
    """The services of every registry: instances, serving, age, origin, owner, and which owners write there no more."""
    configuration = _load(file, ephemeral=True)

    async def work() -> tuple[list[Row], list[str]]:
        async with looking(configuration) as (engine, _):
            reached = await engine.reach()
            writers = {name: one.writers if isinstance(one, Reach) else None for name, one in reached.items()}
            return show.service_rows(engine, writers), unreached(engine)

    rows, missing = asyncio.run(work())
    if output == "json":
        _json(rows)
    else:
        _table(
            rows,
            ("registry", "service", "instances", "serving", "natives", "owners", "silent", "age", "origins"),
            "no services",
        )
    for text in missing:
        click.echo(f"out of reach: {text}", err=True)
    return OK


@command("explain", "isthmus explain isthmus.yaml pay-api/i1")
@FILE
@click.argument("service")
@OUTPUT
def explain(file: Path, service: str, output: str) -> int:
    """The way of one service, or of one instance (SERVICE/INSTANCE), and the rules that decided; 3 not found."""
    configuration = _load(file, ephemeral=True)
    name, _, instance = service.partition("/")

    async def work() -> list[Row]:
        async with looking(configuration) as (engine, _):
            return await show.explain(engine, ServiceName.parse(name), instance)

    rows = asyncio.run(work())
    if output == "json":
        _json(rows)
    else:
        _table(rows, ("step", "at", "service", "instance", "what", "why"))
        for row in rows:
            if row.get("raw"):
                click.echo(f"\n{row['at']} {row['place']}\n  {row['raw']}\n  {json.dumps(row['decoded'], default=str)}")
    if not any(row["step"] == "held by" or row["what"] == "held" for row in rows):
        click.echo(f"not found: {service}", err=True)
        return ATTENTION
    return OK


@command("status", "isthmus status isthmus.yaml")
@FILE
@OUTPUT
def status(file: Path, output: str) -> int:
    """One screen of the running daemon; 0 all well, 3 look at it, 1 no daemon."""
    configuration = _load(file)
    now = control.call(_folder(configuration) / "admin.sock", "status")
    if output == "json":
        _json(now)
        return ATTENTION if now["attention"] else OK
    up = time.time() - now["started"]
    click.echo(
        f"{now['bridge']}  isthmus {now['version']} on {now['host']}, pid {now['pid']}, up {up:.0f} s, "
        f"configuration {now['configuration']}"
    )
    click.echo()
    _table(
        now["scopes"],
        ("registry", "scope", "state", "age", "services", "instances", "revision", "identity", "doubt", "reason"),
    )
    click.echo()
    _table(
        now["links"],
        ("link", "from", "to", "policy", "role", "lag", "waiting", "held", "parked", "shadowed", "frozen", "reason"),
    )
    for to, writer in {row["to"]: row["writer"] for row in now["links"] if row["role"] == "standby"}.items():
        click.echo(f"\n{to}: {_writer(writer)}")
    for link, freeze in now["freezes"].items():
        click.echo(f"\nfrozen {link}: {freeze['reason']} (by {freeze['by']})")
    if now["last_removals"]:
        click.echo("\nlast removals")
        _table(_timed(now["last_removals"]), ("at", "link", "service", "instance", "cause"))
    for text in now["attention"]:
        click.echo(f"attention: {text}")
    return ATTENTION if now["attention"] else OK


def _writer(writer: Row | None) -> str:
    if writer is None:
        return "this daemon stands by, and nobody has said yet who writes"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(writer["since"]))
    return f"{writer['host']} writes, pid {writer['pid']}, since {since}, configuration {writer['configuration']}"


@command("log", "isthmus log isthmus.yaml --service pay-api --since 2h")
@FILE
@click.option("--service", help="Of one service.")
@click.option("--link", help="Of one link.")
@click.option("--since", default="24h", show_default=True, help="So long ago, e.g. 90s, 2h, 7d.")
@OUTPUT
def log_(file: Path, service: str | None, link: str | None, since: str, output: str) -> int:
    """What was written or removed, when, by which cause, with before and after; who approved or froze what, and why."""
    configuration = _load(file)
    start = time.time() - _seconds(since)
    rows = [
        msgspec.to_builtins(record)
        for record in journal.read(_folder(configuration) / "journal", since=start, service=service, link=link)
    ]
    if output == "json":
        _json(rows)
    else:
        short = [{**row, "before": _brief(row.get("before")), "after": _brief(row.get("after"))} for row in rows]
        _table(
            _timed(short),
            ("at", "kind", "link", "service", "instance", "cause", "before", "after", "by", "reason"),
            "nothing",
        )
    return OK


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _timed(rows: Sequence[Row]) -> list[Row]:
    return [{**row, "at": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at"]))} for row in rows]


# -- the operator's word ---------------------------------------------------------------------------------------------


@command("holds", "isthmus holds isthmus.yaml")
@FILE
@OUTPUT
def holds(file: Path, output: str) -> int:
    """What the guard holds back, with cause and hash."""
    rows = control.call(_folder(_load(file)) / "admin.sock", "holds")
    if output == "json":
        _json(rows)
    else:
        _print_holds(rows)
    return OK


def _print_holds(rows: Sequence[Row]) -> None:
    shown = [
        {**row, "released": "by approve" if row["due_in"] is None else f"in {row['due_in']:.0f} s, if confirmed"}
        for row in rows
    ]
    _table(
        shown, ("id", "link", "scope", "cause", "services", "instances", "age", "released", "rule"), "nothing is held"
    )
    for row in rows:
        for link, service, instance in row["items"][:20]:
            click.echo(f"  {row['id']}  {link}  {service}/{instance}")
        if len(row["items"]) > 20:
            click.echo(f"  {row['id']}  and {len(row['items']) - 20} more; -o json has all")


@command("approve", "isthmus approve isthmus.yaml 4f2a90c1d3e7 --reason 'decommissioned, CHG-1234'")
@FILE
@click.argument("id")
@click.option("--reason", required=True, help="Kept in the journal.")
@OUTPUT
def approve(file: Path, id: str, reason: str, output: str) -> int:
    """Releases exactly the set that `holds` showed under that id; refused if it has grown."""
    items = control.call(_folder(_load(file)) / "admin.sock", "approve", id=id, reason=reason)
    if output == "json":
        _json(items)
    else:
        click.echo(f"approved {len(items)} removals")
    return OK


@command("freeze", "isthmus freeze isthmus.yaml inventory-to-core --reason 'maintenance' --for 2h")
@FILE
@click.argument("link", required=False)
@click.option("--all", "everything", is_flag=True, help="Every link.")
@click.option("--reason", required=True)
@click.option("--for", "lasting", help="So long, e.g. 2h; else until `unfreeze`.")
@OUTPUT
def freeze(file: Path, link: str | None, everything: bool, reason: str, lasting: str | None, output: str) -> int:
    """Stops the writes of a link; leases go on. Works without the daemon, survives restart and reload."""
    configuration = _load(file)
    key = _link(configuration, link, everything)
    folder = _folder(configuration)
    state.claim(folder, configuration.bridge.id)
    kept = state.State(folder)
    kept.freeze(key, reason, _who(), None if lasting is None else _seconds(lasting))
    if kept.freezes.fault is not None:
        _fail(f"not frozen: {kept.freezes.fault.reason}", FAILED)
    journal.note(folder / "journal", "freeze", link=key, reason=reason, by=_who())
    if output == "json":
        _json({"frozen": key, **msgspec.to_builtins(kept.freezes.entries[key])})
    else:
        click.echo(f"frozen: {key}")
    return OK


@command("unfreeze", "isthmus unfreeze isthmus.yaml inventory-to-core")
@FILE
@click.argument("link", required=False)
@click.option("--all", "everything", is_flag=True, help="The freeze of every link.")
@OUTPUT
def unfreeze(file: Path, link: str | None, everything: bool, output: str) -> int:
    """Resumes the writes of a link, and shows what is pending; it is planned afresh, under the guard."""
    configuration = _load(file)
    key = _link(configuration, link, everything)
    kept = state.State(_folder(configuration))
    if key not in kept.freezes.entries:
        _fail(f"{key} is not frozen", FAILED)
    try:
        pending: Row | None = control.call(_folder(configuration) / "admin.sock", "plan")
    except control.NoDaemonError:
        pending = None
    kept.unfreeze(key)
    if kept.freezes.fault is not None:
        _fail(f"not unfrozen: {kept.freezes.fault.reason}", FAILED)
    journal.note(_folder(configuration) / "journal", "unfreeze", link=key, by=_who())
    if output == "json":
        _json({"unfrozen": key, "pending": pending})
        return OK
    click.echo(f"unfrozen: {key}")
    if pending is None:
        click.echo(f"no daemon runs; `isthmus plan {file}` shows what is pending")
    else:
        _print_plan(pending)
    return OK


def _who() -> str:
    return f"uid={os.getuid()} user={getpass.getuser()}"


def _link(configuration: Configuration, link: str | None, everything: bool) -> str:
    if everything == (link is not None):
        raise click.UsageError("name a link, or --all")
    names = {one.name for one in configuration.links}
    if link is not None and link not in names:
        raise ConfigError(f"{link!r} is no link of {configuration.path}; it has {', '.join(sorted(names))}")
    return state.EVERY_LINK if link is None else link


@command("purge", "isthmus purge isthmus.yaml core --orphans --yes")
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
    """Removes what this bridge owns at a registry, after showing the plan; refused while a daemon writes there."""
    configuration = _load(file, ephemeral=True)
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
                _table(rows, ("service", "instance", "link"), "nothing to remove")
                for row in spared:
                    click.echo(f"spared: {row['service']}: ours are its only serving entries (--including-last)")
            failed: list[str] = []
            if yes and purged.changes:
                outcomes = await apply_under_lock(sink, purged.changes)
                failed = [f"{one.change.service}/{one.change.id}: {one.error}" for one in outcomes if one.error]
                removed = f"{registry}: {len(outcomes) - len(failed)} entries of {whose} removed"
                _note(configuration, "purge", removed)
            if output == "json":
                _json({"removes": rows, "spared": spared, "done": yes and not failed, "failed": failed})
            elif rows:
                click.echo("removed" if yes else "nothing was done; --yes does it")
            for text in failed:
                click.echo(f"failed: {text}", err=True)
            return FAILED if failed or (spared and not rows) else OK

    return asyncio.run(work())


def _note(configuration: Configuration, kind: str, what: str, link: str = "") -> None:
    """In the journal of the bridge whose file this is, where it has one."""
    if configuration.bridge.state is not None and (folder := Path(configuration.bridge.state) / "journal").is_dir():
        journal.note(folder, kind, link=link, by=_who(), reason=what)


@command("adopt", "isthmus adopt isthmus.yaml inventory-to-core --owner old-bridge --yes")
@FILE
@click.argument("link")
@click.option("--owner", help="What this bridge id copied from the link's sources; without: natives that are equal.")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@OUTPUT
def adopt(file: Path, link: str, owner: str | None, yes: bool, output: str) -> int:
    """Takes entries over in place, without a removal; refused while a daemon of either owner writes there."""
    configuration = _load(file, ephemeral=True)
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


@command("release", "isthmus release isthmus.yaml inventory-to-core --yes")
@FILE
@click.argument("link")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@OUTPUT
def release(file: Path, link: str, yes: bool, output: str) -> int:
    """Drops the ledger of what a link wrote, and leaves the entries: they are nobody's then, and nobody's to remove."""
    configuration = _load(file, ephemeral=True)
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
        _table([*rows, *left], ("service", "instance", "owner", "left"), f"nothing to {what}")
    failed: list[str] = []
    if yes and changes:
        outcomes = await apply_under_lock(sink, changes, *others)
        failed = [f"{one.change.service}/{one.change.id}: {one.error}" for one in outcomes if one.error]
        _note(configuration, "handover", f"{what}: {len(outcomes) - len(failed)} entries", link)
    if output == "json":
        _json({what: rows, "left": left, "done": yes and not failed, "failed": failed})
    elif rows:
        click.echo("done" if yes else "nothing was done; --yes does it")
    for text in failed:
        click.echo(f"failed: {text}", err=True)
    return FAILED if failed else OK


# -- about itself ------------------------------------------------------------------------------------------------------


@command("schema", "isthmus schema > isthmus.schema.json")
def schema() -> int:
    """The JSON Schema of the configuration, for editors."""
    _json(config.schema())
    return OK


@command("version", "isthmus version -o json")
@OUTPUT
def version(output: str) -> int:
    """The versions of the program, the state folder's format and the ledger's."""
    rows = {"program": __version__, "state": state.FORMAT, "ledger": LEDGER_FORMAT}
    if output == "json":
        _json(rows)
    else:
        click.echo(f"isthmus {__version__} (state format {rows['state']}, ledger format {rows['ledger']})")
    return OK


if __name__ == "__main__":
    main()
