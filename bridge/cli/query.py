"""The commands that look without a daemon: what is there, what would change, and why."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from bridge.adapter import Reach
from bridge.admin.client import call
from bridge.cli.file import folder, load
from bridge.cli.file import found as found_file
from bridge.cli.offline import known_holds, looking, unreached
from bridge.cli.output import (
    ATTENTION,
    FAILED,
    FILE,
    OK,
    OUTPUT,
    Row,
    brief,
    clock_time,
    command,
    gap,
    how_it_goes,
    print_json,
    print_plan,
    print_table,
    say,
    say_block,
)
from bridge.config import load as config
from bridge.config.schema import Configuration
from bridge.errors import ConfigError
from bridge.link import Link
from bridge.report import explain as explaining
from bridge.report.check import check as check_all
from bridge.report.check import pair_verdicts
from bridge.report.compare import LEFT_OUT, before_rows, diff_rows, link_diff_rows
from bridge.report.plans import advice_rows, pending
from bridge.report.services import service_rows, side_by_side
from bridge.report.unreadable import unreadable_rows
from bridge.state import before as stood_before
from bridge.state import folder as state
from bridge.state.before import Instances


@command(
    "check",
    "isthmus check -o json",
    "0 all answer, 3 something cannot be read, 1 a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.option("--offline", is_flag=True, help="Judge the file alone, e.g. in a pull request: no registry is reached.")
@OUTPUT
def check(file: Path | None, offline: bool, output: str) -> int:
    """Checks the file, and reaches every registry. Says what each link will lose, and which names meet."""
    if offline:
        return _judge(file, output)
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
            [{**row, "secrets": row["left_out"]} for row in found["registries"]],
            ("registry", "reached", "version", "may_read", "may_write", "services", "unreadable"),
            more=("kind", "ignored", "secrets", "foreign", "identity"),
        )
        gap()
        print_table([row for one in found["registries"] for row in _about(one)], ("registry", "about", "what"))
        gap()
        print_table(found["links"], ("link", "to", "pair", "instances", "lost", "refused", "withdrawn"))
        if found["names"]:
            gap()
            print_table(found["names"], ("link", "service", "at_target", "relation"))
        if found["parked"]:
            gap()
            print_table(found["parked"], ("to", "service", "instance", "reason"))
        _print_unreadable(found["unreadable"])
    if not whole:
        return FAILED
    return ATTENTION if found["unreadable"] else OK


def _about(registry: Row) -> Iterator[Row]:
    """What there is to know of one registry: our rights there, what is odd, its limits, and who reads it."""

    def row(about: str, what: str) -> Row:
        return {"registry": registry["registry"], "about": about, "what": what}

    for said, may in (("may", True), ("may not", False), ("not known", None)):
        if verbs := [right["verb"] for right in registry.get("rights", ()) if right["may"] is may]:
            yield row(said, ", ".join(verbs))
    for text in registry["notes"]:
        yield row("note", text)
    for text in registry.get("limits", ()):
        yield row("limit", text)
    for one in registry["consumers"]:
        yield row("read by", f"{one['name']}: {one['sees']}")
        time = "never follows by itself" if one["settles"] is None else f"follows within {one['settles']:g} s"
        last = "; the last instance is called on for ever" if one["keeps_last"] else ""
        yield row("settles", f"{one['name']}: {time}: {one['by']}{last}")


def _print_unreadable(rows: list[Row]) -> None:
    if rows:
        gap()
        say("what cannot be read; what was known of it before stays where it is")
        print_table(rows, ("registry", "service", "instance", "kept", "reason"), more=("place",))


class _AnyVariable(Mapping[str, str]):
    """An environment in which every variable is set: where a file is only judged, the values are elsewhere."""

    def __getitem__(self, name: str) -> str:
        return os.environ.get(name, f"value-of-{name}")

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def _judge(file: Path | None, output: str) -> int:
    """The verdict on a file alone; raises ConfigError with every fault of it."""
    configuration = config.load(found_file(file), _AnyVariable(), ephemeral=True)
    links = [
        {
            "link": link.name,
            "from": list(link.from_),
            "to": link.to,
            "policy": str(link.policy),
            "pair": pair_verdicts(configuration, link.name),
            "services": list(link.services.include),
        }
        for link in configuration.links
    ]
    if output == "json":
        registries = {name: one.kind for name, one in configuration.registries.items()}
        warnings = list(configuration.warnings)
        print_json({"hash": configuration.hash, "registries": registries, "links": links, "warnings": warnings})
        return OK
    for warning in configuration.warnings:
        say(f"warning: {warning}", err=True)
    print_table(links, ("link", "from", "to", "policy", "services", "pair"), "no links")
    say(f"no faults; configuration {configuration.hash}")
    return OK


@command(
    "plan",
    "isthmus plan",
    "0 nothing to change, 3 changes, or something cannot be read, 1 a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.option("--running", is_flag=True, help="What reloading this file into the running daemon would change.")
@OUTPUT
def plan(file: Path | None, running: bool, output: str) -> int:
    """Shows what `run` would change, and changes nothing. Also what would be held, and why."""
    configuration = load(file, ephemeral=True)
    edits = _edits(configuration) if running else []

    async def work() -> tuple[dict[str, Any], list[str]]:
        async with looking(configuration) as (engine, _):
            found = {
                **pending(engine),
                "advice": await advice_rows(engine),
                "unreadable": await unreadable_rows(engine),
            }
            return {**found, "freezes": freezes(configuration)}, unreached(engine)

    found, missing = asyncio.run(work())
    if output == "json":
        print_json({**found, "unreached": missing, **({"file": edits} if running else {})})
    else:
        if running:
            print_table(edits, ("what", "name", "change", "keys"), "the file says what already runs")
            gap()
        print_plan(found, "nothing to change, as far as can be seen" if missing else "nothing to change")
        _print_unreadable(found["unreadable"])
    for text in missing:
        say(f"out of reach: {text}", err=True)
    if missing:
        return FAILED
    return ATTENTION if found["changes"] or found["unreadable"] or edits else OK


def freezes(configuration: Configuration) -> dict[str, Row]:
    """What this host has frozen, by link."""
    place = None if configuration.bridge.state is None else Path(configuration.bridge.state)
    if place is None or not os.access(place, os.R_OK | os.X_OK):
        return {}
    decisions = state.State(place).decisions
    frozen = {"--all" if key == state.EVERY_LINK else key: one for key, one in decisions.of(state.Kind.FREEZE).items()}
    if (unreadable := decisions.unreadable) is not None:
        frozen["--all"] = unreadable
    return {key: {"reason": one.reason, "by": one.by, "until": one.until} for key, one in frozen.items()}


def _edits(configuration: Configuration) -> list[Row]:
    now = call(folder(configuration) / "admin.sock", "configuration")
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
    "isthmus diff inventory core",
    "0 equal, 3 different, 1 a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("a", required=False)
@click.argument("b", required=False)
@click.option("--link", help="What this link should have at its target, with its names, ports and rules, and what is.")
@click.option("--before", help="What stood at its target before this link first wrote, at this host, and what is now.")
@OUTPUT
def diff(file: Path | None, a: str | None, b: str | None, link: str | None, before: str | None, output: str) -> int:
    """Compares two registries, or the ends of a link, field by field. What the second cannot hold is left out."""
    if sum((a is not None, link is not None, before is not None)) != 1 or (a is None) != (b is None):
        raise ConfigError("name two registries, or a link by --link or --before")
    configuration = load(file, ephemeral=True)
    of_link = _link(configuration, link or before) if a is None else None
    stood = _stood(configuration, before) if before is not None else None
    names = _asked(of_link, stood, a, b)
    for name in names:
        if name not in configuration.registries:
            raise ConfigError(
                f"{name!r} is no registry of {configuration.path}; it has {', '.join(configuration.registries)}"
            )

    async def work() -> tuple[list[Row], list[str]]:
        async with looking(configuration) as (engine, _):
            if of_link is not None and stood is not None:
                found = await before_rows(engine, of_link, stood)
            elif of_link is not None:
                found = await link_diff_rows(engine, of_link)
            else:
                found = await diff_rows(engine, *names[:2])
            return found, [text for text in unreached(engine) if text.split(":")[0] in names]

    rows, missing = asyncio.run(work())
    for text in missing:
        say(f"out of reach: {text}", err=True)
    if missing:
        return FAILED
    if output == "json":
        print_json(rows)
    else:
        short = [row if row["field"] else {**row, **{s: brief(row[s]) for s in ("left", "right")}} for row in rows]
        print_table(short, ("service", "instance", "difference", "field", "left", "right"), "equal")
    return ATTENTION if any(row["difference"] != LEFT_OUT for row in rows) else OK


def _link(configuration: Configuration, name: str | None) -> Link:
    for one in configuration.links:
        if one.name == name:
            return one
    raise ConfigError(f"{name!r} is no link; there are {', '.join(one.name for one in configuration.links)}")


def _stood(configuration: Configuration, link: str) -> Instances:
    head, found = stood_before.read(folder(configuration), link)
    more = "" if head.complete else f"; the first {stood_before.MOST} instances alone were kept"
    say(f"before {link} first wrote to {head.to}, {clock_time(head.at)}{more}", err=True)
    return found


def _asked(link: Link | None, stood: Instances | None, a: str | None, b: str | None) -> tuple[str, ...]:
    """The registries that have to answer."""
    if link is None:
        return a or "", b or ""
    return (link.to,) if stood is not None else (*sorted(link.registries), link.to)


@command(
    "services",
    "isthmus services pay-api",
    "0, 3 NAME is nowhere, 1 it is not found while a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("name", required=False)
@OUTPUT
def services(file: Path | None, name: str | None, output: str) -> int:
    """Lists the services of every registry, or shows one side by side. Instances, serving, age, origin and owner.

    NAME is shown over all registries and scopes, also where a link gives it another name: one line a running copy.
    Without: SILENT names the owners for whom no daemon writes there now, and since when the daemon of this file has
    found it so.
    """
    configuration = load(file, ephemeral=True)
    if name is not None:
        return _side_by_side(configuration, name, output)

    async def work() -> tuple[list[Row], list[str]]:
        async with looking(configuration) as (engine, _):
            reached = await engine.reach()
            writers = {name: one.writers if isinstance(one, Reach) else None for name, one in reached.items()}
            silences = {} if (kept := configuration.bridge.state) is None else state.State(Path(kept)).silences()
            return service_rows(engine, writers, silences), unreached(engine)

    rows, missing = asyncio.run(work())
    if output == "json":
        print_json(rows)
    else:
        unreadable = ("unreadable",) if any(row["unreadable"] for row in rows) else ()
        print_table(
            [{**row, "silent": _silent(row)} for row in rows],
            ("registry", "service", "instances", "serving", *unreadable, "natives", "owners", "silent", "age"),
            "no services that can be seen" if missing else "no services",
            more=("scope", "origins"),
        )
    for text in missing:
        say(f"out of reach: {text}", err=True)
    return OK


def _side_by_side(configuration: Configuration, name: str, output: str) -> int:
    async def work() -> tuple[dict[str, list[Row]], list[str]]:
        async with looking(configuration) as (engine, _):
            return side_by_side(engine, name), unreached(engine)

    found, missing = asyncio.run(work())
    is_there = any(row["services"] or row["unreadable"] for row in found["places"])
    if output == "json":
        print_json(found)
    elif is_there:
        print_table(
            found["places"],
            ("place", "state", "services", "instances", "serving", "unreadable", "natives", "owners", "age"),
        )
        gap()
        print_table([_line(row, found["places"]) for row in found["instances"]], _heads(found["places"]))
    for text in missing:
        say(f"out of reach: {text}", err=True)
    if is_there:
        return OK
    say(f"not found: {name}; `isthmus services` lists what there is", err=True)
    return FAILED if missing else ATTENTION


def _heads(places: list[Row]) -> list[str]:
    """The columns of one service side by side: the places that have it, or of which nobody knows."""
    return ["instance", *(one["place"] for one in places if one["instances"] or one["state"] != "synced")]


def _line(row: Row, places: list[Row]) -> Row:
    """One running copy: in each place health and owner, "?" where the place does not answer."""

    def cell(place: Row) -> str | None:
        there = row["at"].get(place["place"], ())
        said = [f"{one['health']} {one['owner'] or 'native'}" for one in there]
        return ", ".join(said) or (None if place["state"] == "synced" else "?")

    return {"instance": row["instance"], **{one["place"]: cell(one) for one in places}}


def _silent(row: Row) -> list[str] | None:
    if row["silent"] is None:
        return None
    return [
        owner if (since := row["silent_since"][owner]) is None else f"{owner} since {clock_time(since)}"
        for owner in row["silent"]
    ]


def _with_holds(rows: list[Row], holds: list[Row]) -> list[Row]:
    """The rows of `explain`; what is held says the rule of its set, as `holds` does, and what lets the set go."""
    sets = {tuple(item): hold for hold in holds for item in hold["items"]}
    found = []
    for row in rows:
        hold = sets.get(tuple(row.get("item", ())))
        if row["what"] == "held" and hold is not None:
            row = {**row, "hold": hold["id"], "why": f"{hold['rule']}; the set {hold['id']} {how_it_goes(hold)}"}
        found.append(row)
    return found


def _print_records(rows: list[Row]) -> None:
    """Each record as it is in the store, with what is read of it: a file is shown once for all its instances."""
    shown: tuple[str, str, str] | None = None
    for row in rows:
        if (record := (row["at"], row["place"], row["raw"])) != shown:
            gap()
            say(f"{row['at']} {row['place']}")
            say_block(row["raw"].strip())
            shown = record
        said = json.dumps(row["decoded"], default=str)
        say_block(f"is read as {said}" if row["decoded"] else f"{row['instance']} cannot be read: {row['why']}")


@command(
    "explain",
    "isthmus explain pay-api/i1",
    "0, 3 not found or unreadable, 1 not found while a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("service", metavar="SERVICE[/INSTANCE]")
@OUTPUT
def explain(file: Path | None, service: str, output: str) -> int:
    """Explains the way of a service, or of one instance. What stands where, and each decision with its rule."""
    configuration = load(file, ephemeral=True)

    async def work() -> tuple[list[Row], list[str]]:
        async with looking(configuration) as (engine, _):
            rows = await explaining.explain(engine, *explaining.subject(engine, service))
            return _with_holds(rows, await asyncio.to_thread(known_holds, engine)), unreached(engine)

    rows, missing = asyncio.run(work())
    if output == "json":
        print_json(rows)
    else:
        print_table(rows, ("step", "at", "instance", "what", "why"), more=("service",))
        _print_records([row for row in rows if row.get("raw")])
    for text in missing:
        say(f"out of reach: {text}", err=True)
    if not any(row["step"] == "registry" or row["what"] in ("held", "another's") for row in rows):
        say(f"not found: {service}; `isthmus services` lists what there is", err=True)
        return FAILED if missing else ATTENTION
    return ATTENTION if any(row["what"] == "unreadable" for row in rows) else OK
