"""The commands by which a bridge ends: what it has left anywhere, and taking that away."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import click

from bridge.adapter import Held, Keeper, Notes, Registry, Trace, Tracer
from bridge.cli.file import known_registry, load
from bridge.cli.handover import remove
from bridge.cli.output import (
    ATTENTION,
    BY,
    FAILED,
    FILE,
    OK,
    OUTPUT,
    Row,
    command,
    gap,
    print_json,
    print_table,
    say,
)
from bridge.cli.permitted import permitted
from bridge.cli.steered import may_have, refusals, steered, steered_rows
from bridge.config import kinds
from bridge.config.schema import Configuration
from bridge.engine.opening import opened
from bridge.errors import ConfigError, Conflict, Denied, Unavailable
from bridge.link import Policy
from bridge.plan.purge import plan_purge
from bridge.report.footprint import footprint_rows

PATIENCE = 30.0  # seconds that a registry has to say all that is there
PICTURE = "it is served until its daemon ends, and goes with the state folder"
COLUMNS = ("registry", "kind", "count", "place", "needed")


@command(
    "footprint",
    "isthmus footprint",
    "0 nothing is left at any registry, 3 something is, 1 a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("registry", required=False)
@OUTPUT
def footprint(file: Path | None, registry: str | None, output: str) -> int:
    """Lists all that this bridge id has left anywhere. By kind and count, and what each of it is needed for."""
    configuration = load(file, ephemeral=True)
    names = [known_registry(configuration, registry)] if registry else list(configuration.registries)

    async def work() -> list[list[Row] | str]:
        return list(await asyncio.gather(*(_asked(configuration, name) for name in names)))

    found = dict(zip(names, asyncio.run(work()), strict=True))
    missing = {name: one for name, one in found.items() if isinstance(one, str)}
    rows = [row for one in found.values() if not isinstance(one, str) for row in one]
    folder = _state_rows(configuration, bool(rows or missing)) if registry is None else []
    if output == "json":
        print_json([*rows, *folder])
    else:
        none = "nothing is left" + (", as far as can be seen" if missing else "")
        _print([*rows, *folder], none)
    for name, why in missing.items():
        say(f"out of reach: {name}: {why}", err=True)
    return FAILED if missing else ATTENTION if rows else OK


async def _asked(configuration: Configuration, name: str) -> list[Row] | str:
    """The rows of one registry, or why there are none."""
    bridge = configuration.bridge.id
    try:
        async with asyncio.timeout(PATIENCE), opened(configuration, name, bridge) as (registry, *_):
            rows = footprint_rows(name, bridge, *await _left(registry, bridge))
            out = await steered(configuration, name) if may_have(configuration, name, registry) else []
            return [*rows, *steered_rows(name, out)]
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except (Unavailable, Denied) as error:
        return str(error)


async def _left(registry: Registry, bridge: str) -> tuple[Held | None, list[Trace]]:
    """All that stands at a registry, None where it is only read; and what the bridge keeps beside it."""
    try:
        held = await kinds.sink(registry, bridge).held()
    except ConfigError:
        held = None
    return held, list(await registry.traces(bridge)) if isinstance(registry, Tracer) else []


def _state_rows(configuration: Configuration, is_needed: bool) -> list[Row]:
    """The state folder of this host, and in it the pictures of exports, which their daemon serves data planes by."""
    if configuration.bridge.state is None or not (folder := Path(configuration.bridge.state)).exists():
        return []
    count = sum(path.is_file() for path in folder.rglob("*"))
    needed = "the journal, and what was decided, until the registries are left" if is_needed else ""
    found: list[Row] = [
        {"registry": name, "kind": "picture", "count": 1, "needed": PICTURE, "places": [str(path)]}
        for name in configuration.registries
        if (path := _picture(folder, name)).exists()
    ]
    return [*found, {"registry": "", "kind": "state folder", "count": count, "needed": needed, "places": [str(folder)]}]


def _picture(folder: Path, registry: str) -> Path:
    """Where an export of that name keeps what it serves."""
    return folder / "exports" / f"{registry}.sqlite"


def _print(rows: list[Row], none: str) -> None:
    def place(row: Row) -> str:
        more = f" and {len(row['places']) - 1} more" if len(row["places"]) > 1 else ""
        return f"{row['places'][0]}{more}"

    print_table([{**row, "place": place(row)} for row in rows], COLUMNS, none)


@command(
    "leave",
    "isthmus leave core --yes",
    "0 nothing of this bridge is there any more, 3 something stays and is named, 1 failed or refused, "
    "2 wrong usage or file",
)
@FILE
@click.argument("registry")
@click.option("--yes", is_flag=True, help="Do it; without, only what is there is shown.")
@BY
@OUTPUT
def leave(file: Path | None, registry: str, yes: bool, by: str | None, output: str) -> int:
    """Takes away all that this bridge has at a registry. What nobody else serves stays; locks and ledger go last.

    Refused while a daemon writes there. What stays is named, with what to do about it.
    """
    configuration = load(file, ephemeral=True)
    known_registry(configuration, registry)
    if yes:
        permitted(configuration, "leave", by)
    whose = configuration.bridge.id

    async def work() -> tuple[list[Row], list[Row], list[str]]:
        async with opened(configuration, registry, whose) as target:
            held, traces = await _left(target.registry, whose)
            before = footprint_rows(registry, whose, held, traces)
            if not yes or not before or held is None:
                return before, before, []
            purged = plan_purge(held, whose)
            if may_have(configuration, registry, target.registry) and (out := await steered(configuration, registry)):
                return before, before, refusals(out)
            if not purged.spared and isinstance(target.registry, Keeper):
                await _drop(target.registry.notes(whose))
            done = await remove(configuration, "leave", registry, whose, target, purged, by, leaves=not purged.spared)
            return before, footprint_rows(registry, whose, *await _left(target.registry, whose)), done

    before, after, failed = asyncio.run(work())
    _say_left(configuration, registry, before, after, failed, yes, output)
    return FAILED if failed else ATTENTION if after else OK


async def _drop(notes: Notes) -> None:
    """All that its daemons kept for each other there; a daemon that still runs writes it again."""
    for key, note in (await notes.below("")).items():
        with contextlib.suppress(Conflict):
            await notes.remove(key, note)


def _say_left(
    configuration: Configuration,
    registry: str,
    before: list[Row],
    after: list[Row],
    failed: list[str],
    yes: bool,
    output: str,
) -> None:
    links = [one.name for one in configuration.links if one.to == registry and one.policy is not Policy.OBSERVE]
    if output == "json":
        print_json({"before": before, "stays": after, "links": links, "done": yes and not failed, "failed": failed})
        return
    _print(after, f"nothing of {configuration.bridge.id} is at {registry}")
    if not yes and before:
        gap()
        say("nothing was done; --yes takes away what nothing is needed for")
    if any(row["kind"] == "entry" for row in after) and yes:
        gap()
        names = ", ".join(links) or "LINK"
        say(f"what nobody else serves: `isthmus release {names} --yes` leaves it there, as nobody's, or")
        say(f"`isthmus purge {registry} --including-last --yes` takes it away; then `isthmus leave` again")
    if (folder := configuration.bridge.state) and _picture(Path(folder), registry).exists():
        say(f"{_picture(Path(folder), registry)}: {PICTURE}")
    if links:
        say(f"the file still leads there ({', '.join(links)}): a daemon that starts writes it all again")
    for text in failed:
        say(f"failed: {text}", err=True)
