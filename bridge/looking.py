"""The commands that run the bridge and look at it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

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


@command("plan", "isthmus plan isthmus.yaml")
@FILE
@click.option("--running", is_flag=True, help="What reloading this file into the running daemon would change.")
@OUTPUT
def plan(file: Path, running: bool, output: str) -> int:
    """What `run` would change, and what would be held and why; changes nothing."""
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
            print_table(edits, ("what", "name", "change"), "the file says what already runs")
            click.echo()
        print_plan(found)
    for text in missing:
        click.echo(f"out of reach: {text}", err=True)
    if missing:
        return FAILED
    return ATTENTION if found["changes"] or edits else OK


def _edits(configuration: Configuration) -> list[Row]:
    now = control.call(folder(configuration) / "admin.sock", "configuration")
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


@command("diff", "isthmus diff isthmus.yaml inventory core")
@FILE
@click.argument("a")
@click.argument("b")
@OUTPUT
def diff(file: Path, a: str, b: str, output: str) -> int:
    """Compares two registries in the common model, leaving out what the second cannot express; 0 equal, 3 different."""
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
        print_table(rows, ("service", "instance", "difference", "field", "left", "right"), "equal")
    return ATTENTION if rows else OK


@command("services", "isthmus services isthmus.yaml")
@FILE
@OUTPUT
def services(file: Path, output: str) -> int:
    """The services of every registry: instances, serving, age, origin, owner, and which owners write there no more."""
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
            "no services",
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


@command("explain", "isthmus explain isthmus.yaml pay-api/i1")
@FILE
@click.argument("service")
@OUTPUT
def explain(file: Path, service: str, output: str) -> int:
    """The way of one service, or of one instance (SERVICE/INSTANCE), and the rules that decided; 3 not found."""
    configuration = load(file, ephemeral=True)
    name, _, instance = service.partition("/")

    async def work() -> list[Row]:
        async with looking(configuration) as (engine, _):
            return await show.explain(engine, ServiceName.parse(name), instance)

    rows = asyncio.run(work())
    if output == "json":
        print_json(rows)
    else:
        print_table(rows, ("step", "at", "service", "instance", "what", "why"))
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
        click.echo(f"\nfrozen {link}: {freeze['reason']} (by {freeze['by']})")
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


@command("log", "isthmus log isthmus.yaml --service pay-api --since 2h")
@FILE
@click.option("--service", help="Of one service.")
@click.option("--link", help="Of one link.")
@click.option("--since", default="24h", show_default=True, help="So long ago, e.g. 90s, 2h, 7d.")
@OUTPUT
def log_(file: Path, service: str | None, link: str | None, since: str, output: str) -> int:
    """What was written or removed, when, by which cause, with before and after; who approved or froze what, and why."""
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
