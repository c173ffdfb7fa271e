"""The commands that run the bridge and look at it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from textwrap import indent
from typing import Any

import click
import msgspec

from bridge import control, journal, show, state
from bridge.adapter import Reach
from bridge.blocks import Configuration
from bridge.errors import ConfigError
from bridge.inspect import check as check_all
from bridge.inspect import looking, pending, unreached
from bridge.log import configure
from bridge.model import ServiceName
from bridge.terminal import (
    ATTENTION,
    FAILED,
    FILE,
    OK,
    OUTPUT,
    Row,
    brief,
    clock_time,
    command,
    duration,
    folder,
    load,
    print_json,
    print_plan,
    print_table,
    timed,
)


@command(
    "run",
    "isthmus run /etc/isthmus/isthmus.yaml",
    "0 stopped in good order, 1 failed, 2 wrong usage or file; with --once also 3 something is held or parked",
)
@FILE
@click.option(
    "--once", is_flag=True, help="Until every link is in step, then stop; exit 3 if anything is held or parked."
)
@click.option("--ephemeral", is_flag=True, help="Without a state folder: nothing is remembered over a restart.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    show_default=True,
    help="Of the lines on standard error; debug has one for every change.",
)
def run(file: Path, once: bool, ephemeral: bool, log_level: str) -> int:
    """Runs the daemon. It keeps every link in step until SIGTERM; SIGHUP has it take a changed file over."""
    from bridge import daemon  # the other commands start faster without it

    configure(log_level)
    return daemon.start(file, once=once, ephemeral=ephemeral)


@command(
    "check", "isthmus check isthmus.yaml -o json", "0 all answer, 1 a registry is out of reach, 2 wrong usage or file"
)
@FILE
@OUTPUT
def check(file: Path, output: str) -> int:
    """Checks the file, and reaches every registry. Says what each link will lose, and which names meet."""
    configuration = load(file, ephemeral=True)

    async def work() -> tuple[dict[str, list[Row]], bool]:
        async with looking(configuration) as (engine, _):
            found = await check_all(engine)
            return found, all(row["reached"] for row in found["registries"])

    found, whole = asyncio.run(work())
    if output == "json":
        print_json(found)
    else:
        print_table(
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
        print_table(found["links"], ("link", "to", "pair", "instances", "lost", "refused"))
        if found["names"]:
            click.echo()
            print_table(found["names"], ("link", "service", "at_target", "relation"))
        if found["parked"]:
            click.echo()
            print_table(found["parked"], ("to", "service", "instance", "reason"))
    return OK if whole else FAILED


@command(
    "plan",
    "isthmus plan isthmus.yaml",
    "0 nothing to change, 3 changes, 1 a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.option("--running", is_flag=True, help="What reloading this file into the running daemon would change.")
@OUTPUT
def plan(file: Path, running: bool, output: str) -> int:
    """Shows what `run` would change, and changes nothing. Also what would be held, and why."""
    configuration = load(file, ephemeral=True)
    edits = _edits(configuration) if running else []

    async def work() -> tuple[dict[str, list[Row]], list[str]]:
        async with looking(configuration) as (engine, _):
            return pending(engine), unreached(engine)

    found, missing = asyncio.run(work())
    if output == "json":
        print_json({**found, "unreached": missing, **({"file": edits} if running else {})})
    else:
        if running:
            print_table(edits, ("what", "name", "change", "keys"), "the file says what already runs")
            click.echo()
        print_plan(found, "nothing to change, as far as can be seen" if missing else "nothing to change")
    for text in missing:
        click.echo(f"out of reach: {text}", err=True)
    if missing:
        return FAILED
    return ATTENTION if found["changes"] or edits else OK


def _edits(configuration: Configuration) -> list[Row]:
    now = control.call(folder(configuration) / "admin.sock", "configuration")
    links: dict[str, Any] = {
        link.name: json.loads(msgspec.json.encode(link)) for link in configuration.links
    }  # as the daemon sends it
    registries: dict[str, Any] = {name: one.digest for name, one in configuration.registries.items()}
    rows = []
    for what, new, old in (("link", links, now["links"]), ("registry", registries, now["registries"])):
        for name in sorted(new.keys() | old.keys()):
            if name not in old:
                rows.append({"what": what, "name": name, "change": "added"})
            elif name not in new:
                rows.append({"what": what, "name": name, "change": "gone; its entries become orphans"})
            elif new[name] != old[name]:
                keys = [key for key in new[name] if new[name][key] != old[name].get(key)] if what == "link" else []
                rows.append({"what": what, "name": name, "change": "changed", "keys": keys})
    return rows


@command(
    "diff",
    "isthmus diff isthmus.yaml inventory core",
    "0 equal, 3 different, 1 a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("a")
@click.argument("b")
@OUTPUT
def diff(file: Path, a: str, b: str, output: str) -> int:
    """Compares two registries, field by field. What the second cannot hold is left out."""
    configuration = load(file, ephemeral=True)
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
        print_json(rows)
    else:
        short = [row if row["field"] else {**row, **{s: brief(row[s]) for s in ("left", "right")}} for row in rows]
        print_table(short, ("service", "instance", "difference", "field", "left", "right"), "equal")
    return ATTENTION if rows else OK


@command("services", "isthmus services isthmus.yaml", "0, 2 wrong usage or file")
@FILE
@OUTPUT
def services(file: Path, output: str) -> int:
    """Lists the services of every registry. Instances, serving, age, origin and owner.

    SILENT names the owners for whom no daemon writes there now, and since when the daemon of this file has found it so.
    """
    configuration = load(file, ephemeral=True)

    async def work() -> tuple[list[Row], list[str]]:
        async with looking(configuration) as (engine, _):
            reached = await engine.reach()
            writers = {name: one.writers if isinstance(one, Reach) else None for name, one in reached.items()}
            silences = {} if (kept := configuration.bridge.state) is None else state.State(Path(kept)).silences()
            return show.service_rows(engine, writers, silences), unreached(engine)

    rows, missing = asyncio.run(work())
    if output == "json":
        print_json(rows)
    else:
        print_table(
            [{**row, "silent": _silent(row)} for row in rows],
            ("registry", "service", "instances", "serving", "natives", "owners", "silent", "age", "origins"),
            "no services that can be seen" if missing else "no services",
        )
    for text in missing:
        click.echo(f"out of reach: {text}", err=True)
    return OK


def _silent(row: Row) -> list[str] | None:
    if row["silent"] is None:
        return None
    return [
        owner if (since := row["silent_since"][owner]) is None else f"{owner} since {clock_time(since)}"
        for owner in row["silent"]
    ]


@command(
    "explain",
    "isthmus explain isthmus.yaml pay-api/i1",
    "0, 3 not found, 1 not found while a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("service", metavar="SERVICE[/INSTANCE]")
@OUTPUT
def explain(file: Path, service: str, output: str) -> int:
    """Explains the way of a service, or of one instance. What stands where, and each decision with its rule."""
    configuration = load(file, ephemeral=True)
    name, _, instance = service.partition("/")

    async def work() -> tuple[list[Row], list[str]]:
        async with looking(configuration) as (engine, _):
            return await show.explain(engine, ServiceName.parse(name), instance), unreached(engine)

    rows, missing = asyncio.run(work())
    if output == "json":
        print_json(rows)
    else:
        print_table(rows, ("step", "at", "service", "instance", "what", "why"))
        for row in rows:
            if row.get("raw"):
                raw, decoded = row["raw"].strip(), json.dumps(row["decoded"], default=str)
                click.echo(f"\n{row['at']} {row['place']}\n{indent(raw, '  ')}\n  is read as {decoded}")
    for text in missing:
        click.echo(f"out of reach: {text}", err=True)
    if not any(row["step"] == "held by" or row["what"] == "held" for row in rows):
        click.echo(f"not found: {service}", err=True)
        return FAILED if missing else ATTENTION
    return OK


@command("status", "isthmus status isthmus.yaml", "0 all well, 3 look at it, 1 no daemon, 2 wrong usage or file")
@FILE
@OUTPUT
def status(file: Path, output: str) -> int:
    """Shows the running daemon on one screen. Its last lines say what needs a look."""
    configuration = load(file)
    now = control.call(folder(configuration) / "admin.sock", "status")
    if output == "json":
        print_json(now)
        return ATTENTION if now["attention"] else OK
    up = time.time() - now["started"]
    click.echo(
        f"{now['bridge']}  isthmus {now['version']} on {now['host']}, pid {now['pid']}, up {up:.0f} s, "
        f"configuration {now['configuration']}"
    )
    click.echo()
    print_table(
        now["scopes"],
        ("registry", "scope", "state", "age", "services", "instances", "revision", "identity", "doubt", "reason"),
    )
    click.echo()
    print_table(
        now["links"],
        ("link", "from", "to", "policy", "role", "lag", "waiting", "held", "parked", "shadowed", "frozen", "reason"),
    )
    for to, writer in {row["to"]: row["writer"] for row in now["links"] if row["role"] == "standby"}.items():
        click.echo(f"\n{to}: {_writer(writer)}")
    for link, freeze in now["freezes"].items():
        until = "until `unfreeze`" if freeze["until"] is None else f"until {clock_time(freeze['until'])}"
        click.echo(
            f"\nfrozen {'--all' if link == state.EVERY_LINK else link}: {freeze['reason']} (by {freeze['by']}, {until})"
        )
    if now["last_removals"]:
        click.echo("\nlast removals")
        print_table(timed(now["last_removals"]), ("at", "link", "service", "instance", "cause"))
    for text in now["attention"]:
        click.echo(f"attention: {text}")
    return ATTENTION if now["attention"] else OK


def _writer(writer: Row | None) -> str:
    if writer is None:
        return "this daemon stands by, and nobody has said yet who writes"
    since = clock_time(writer["since"])
    return f"{writer['host']} writes, pid {writer['pid']}, since {since}, configuration {writer['configuration']}"


@command("log", "isthmus log isthmus.yaml --service pay-api --since 2h", "0, 2 wrong usage or file")
@FILE
@click.option("--service", help="Of one service.")
@click.option("--link", help="Of one link.")
@click.option("--since", default="24h", show_default=True, help="So long ago, e.g. 90s, 2h, 7d.")
@OUTPUT
def log_(file: Path, service: str | None, link: str | None, since: str, output: str) -> int:
    """Lists what was written or removed, and why. Also who approved or froze what, and for which reason."""
    configuration = load(file)
    start = time.time() - duration(since)
    rows = [
        msgspec.to_builtins(record)
        for record in journal.read(folder(configuration) / "journal", since=start, service=service, link=link)
    ]
    if output == "json":
        print_json(rows)
    else:
        short = [{**row, "before": brief(row.get("before")), "after": brief(row.get("after"))} for row in rows]
        print_table(
            timed(short),
            ("at", "kind", "link", "service", "instance", "cause", "before", "after", "by", "reason"),
            "nothing",
        )
    return OK
